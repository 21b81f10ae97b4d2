package config

import (
	"math"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

var (
	bindModes = []string{"auto", "lan", "loopback", "custom", "tailnet"}
	logLevels = []string{"silent", "fatal", "error", "warn", "info", "debug", "trace"}
	logStyles = []string{"pretty", "compact", "json"}
	authModes = []string{"none", "token", "password", "trusted-proxy", "iam"}
	// logOutputs are where the console log goes.
	logOutputs = []string{"stderr", "stdout"}
)

// later are the top-level objects whose features read them from Section (config.md §3).
var later = []string{
	"meta", "env", "wizard", "diagnostics", "cli", "ui", "secrets", "auth", "acp", "models", "broadcast",
	"audio", "media", "messages", "commands", "approvals", "web", "channels", "talk", "memory",
	"skills", "plugins",
}

// read fills the typed sections from the tree, over their defaults.
func (l *loader) read(tree *json5.Node) {
	if l.validate(tree); len(l.issues) == 0 {
		l.fillTyped(tree)
	}
}

// fillTyped is read for a tree that was checked.
func (l *loader) fillTyped(tree *json5.Node) {
	c := l.config
	root := object{l: l, n: tree, known: new([]string)}
	root.typed("$schema", json5.String)
	root.raw(json5.Array, "bindings")
	root.raw(json5.Object, later...)
	l.gateway(root.object("gateway"), &c.Gateway)
	l.logging(root.object("logging"), &c.Logging)
	c.Audit = Audit{KeepDays: 365, MaxRows: 100_000, MaxBytes: 64 << 20}
	audit := root.object("audit")
	audit.int("keepDays", 0, 36_500, &c.Audit.KeepDays)
	audit.integer("maxRows", 1000, 10_000_000, &c.Audit.MaxRows)
	audit.integer("maxBytes", 1<<20, 4<<30, &c.Audit.MaxBytes)
	audit.strict()
	c.Tunnel = Tunnel{
		SessionURL: DefaultSessionURL, MaxPerTenant: 1000, MaxTunnels: 256, MaxTunnelsPerTenant: 32, MaxStreams: 256, Connections: 4, GraceSeconds: 60,
		IdleSeconds: 120, PermitsPerTunnel: 100, HelloCredentials: true,
	}
	tunnel := root.object("tunnel")
	tunnel.str("sessionUrl", &c.Tunnel.SessionURL)
	tunnel.int("maxPerTenant", 1, 10_000, &c.Tunnel.MaxPerTenant)
	tunnel.str("publicUrlPattern", &c.Tunnel.PublicURLPattern)
	tunnel.int("maxTunnels", 1, 10_000, &c.Tunnel.MaxTunnels)
	tunnel.int("maxTunnelsPerTenant", 1, 10_000, &c.Tunnel.MaxTunnelsPerTenant)
	tunnel.int("maxStreams", 1, 100_000, &c.Tunnel.MaxStreams)
	tunnel.int("connections", 1, 16, &c.Tunnel.Connections)
	tunnel.int("graceSeconds", 0, 3600, &c.Tunnel.GraceSeconds)
	tunnel.int("idleSeconds", 1, 86_400, &c.Tunnel.IdleSeconds)
	tunnel.str("exposeBind", &c.Tunnel.ExposeBind)
	tunnel.int("permits", 0, 1_000_000, &c.Tunnel.Permits)
	tunnel.int("permitsPerTunnel", 2, 1_000_000, &c.Tunnel.PermitsPerTunnel)
	privileged := tunnel.object("allowPrivilegedPorts")
	privileged.bool("expose", &c.Tunnel.PrivilegedExpose)
	privileged.bool("pull", &c.Tunnel.PrivilegedPull)
	privileged.strict()
	tunnel.bool("helloCredentials", &c.Tunnel.HelloCredentials)
	tunnel.bool("metricsPublic", &c.Tunnel.MetricsPublic)
	l.screen(tunnel.object("screen"), &c.Tunnel.Screen)
	c.Tunnel.Tech = Tech{Enabled: true, IdleMinutes: 240, CommandsPerMinute: 100}
	technicians := tunnel.object("tech")
	technicians.bool("enabled", &c.Tunnel.Tech.Enabled)
	technicians.int("idleMinutes", 1, 43_200, &c.Tunnel.Tech.IdleMinutes)
	technicians.int("commandsPerMinute", 1, 10_000, &c.Tunnel.Tech.CommandsPerMinute)
	technicians.strs("directories", &c.Tunnel.Tech.Directories)
	technicians.strict()
	tunnel.strict()
	l.checkpoints(root.object("checkpoints"), &c.Checkpoints)
	l.agents(root.object("agents"), &c.Agents)

	l.session(root.object("session"), &c.Session)
	l.cron(root.object("cron"), &c.Cron)

	l.exec(root.object("tools").object("exec"), &c.Tools.Exec)
	l.canvas(root.object("canvasHost"), &c.CanvasHost)
	l.hooks(root.object("hooks"), &c.Hooks)

	c.NodeHost.BrowserProxy = true
	proxy := root.object("nodeHost").object("browserProxy")
	proxy.bool("enabled", &c.NodeHost.BrowserProxy)
	proxy.strs("allowProfiles", &c.NodeHost.AllowProfiles)
	root.object("nodeHost").object("files").roots("roots", &c.NodeHost.FileRoots)
	l.nodeHost(root.object("nodeHost"), &c.NodeHost)
	l.uplinks(root.object("uplinks"), &c.Uplinks)

	c.Discovery.MDNS, c.Discovery.SSHPort = "off", 22
	discovery := root.object("discovery")
	discovery.object("mdns").choice("mode", &c.Discovery.MDNS, "off", "minimal", "full")
	discovery.object("wideArea").bool("enabled", &c.Discovery.WideArea)

	c.Update.CheckOnStart = true
	update := root.object("update")
	update.choice("channel", &c.Update.Channel, "stable", "beta", "dev")
	update.bool("checkOnStart", &c.Update.CheckOnStart)
	update.object("auto").bool("enabled", &c.Update.Auto)

	c.Browser.Enabled = true
	root.object("browser").bool("enabled", &c.Browser.Enabled)
	root.strict()
}

func (l *loader) gateway(o object, g *Gateway) {
	*g = Gateway{
		Port: DefaultPort, Bind: "loopback", TLS: TLS{AutoGenerate: true}, ControlUI: ControlUI{Enabled: true},
		Nodes: Nodes{BrowserMode: "off"}, Tailscale: Tailscale{Mode: "off"},
		Reload: Reload{Mode: "hybrid", DebounceMs: 300}, ChannelHealthCheckMinutes: 5,
	}
	o.int("port", 1, 65535, &g.Port)
	o.choice("mode", &g.Mode, "local", "remote")
	if n := o.typed("bind", json5.String); n != nil {
		if bind, ok := bindMode(n.Str); ok {
			g.Bind = bind
		} else {
			l.fail("gateway.bind", n, wrongChoice(n.Str, bindModes)).AllowedValues = bindModes
		}
	}
	o.str("customBindHost", &g.CustomBindHost)
	l.controlUI(o.object("controlUi"), &g.ControlUI)
	l.auth(o.object("auth"), &g.Auth)
	g.TrustedProxies = o.prefixes("trustedProxies")
	o.bool("allowRealIpFallback", &g.AllowRealIPFallback)

	tools := o.object("tools")
	tools.strs("deny", &g.Tools.Deny)
	tools.strs("allow", &g.Tools.Allow)
	tools.strict()

	o.int("channelHealthCheckMinutes", 0, maxInt, &g.ChannelHealthCheckMinutes)

	tailscale := o.object("tailscale")
	tailscale.choice("mode", &g.Tailscale.Mode, "off", "serve", "funnel")
	tailscale.bool("resetOnExit", &g.Tailscale.ResetOnExit)
	tailscale.strict()
	l.tailnet(o.object("tailnet"), &g.Tailnet)

	remote, isRemote := o.object("remote"), func() bool { return g.Mode == "remote" }
	remote.str("url", &g.Remote.URL)
	remote.choice("transport", &g.Remote.Transport, "ssh", "direct")
	remote.secret("token", &g.Remote.Token, isRemote)
	remote.secret("password", &g.Remote.Password, isRemote)
	remote.str("tlsFingerprint", &g.Remote.TLSFingerprint)
	remote.str("sshTarget", &g.Remote.SSHTarget)
	remote.str("sshIdentity", &g.Remote.SSHIdentity)
	remote.strict()

	reload := o.object("reload")
	reload.choice("mode", &g.Reload.Mode, "off", "restart", "hot", "hybrid")
	reload.integer("debounceMs", 0, noBound, &g.Reload.DebounceMs)
	reload.strict()

	tls := o.object("tls")
	tls.bool("enabled", &g.TLS.Enabled)
	tls.bool("autoGenerate", &g.TLS.AutoGenerate)
	tls.file("certPath", &g.TLS.CertPath)
	tls.file("keyPath", &g.TLS.KeyPath)
	tls.file("caPath", &g.TLS.CAPath)
	tls.strict()

	grpc := o.object("grpc")
	if n := grpc.typed("enabled", json5.Bool); n != nil {
		g.GRPC.Enabled = &n.Bool
	}
	port := 0
	if grpc.int("port", 1, 65535, &port); port != 0 {
		g.GRPC.Port = &port
	}
	grpc.strict()

	l.http(o.object("http"), &g.HTTP)

	nodes := o.object("nodes")
	nodes.strs("allowCommands", &g.Nodes.AllowCommands)
	nodes.strs("denyCommands", &g.Nodes.DenyCommands)
	nodes.strs("serial", &g.Nodes.Serial)
	browser := nodes.object("browser")
	browser.choice("mode", &g.Nodes.BrowserMode, "auto", "manual", "off")
	browser.str("node", &g.Nodes.BrowserNode)
	browser.strict()
	nodes.strict()

	o.raw(json5.Object, "marketplace", "requestRateLimit")
	o.strict()
}

// bindMode reads a bind mode; host names, as older files have them, mean a mode (config.md §13).
func bindMode(s string) (string, bool) {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "0.0.0.0", "::", "[::]", "*":
		return "lan", true
	case "127.0.0.1", "::1", "[::1]", "localhost":
		return "loopback", true
	}
	return s, contains(bindModes, s)
}

func (l *loader) controlUI(o object, u *ControlUI) {
	o.bool("enabled", &u.Enabled)
	o.str("basePath", &u.BasePath)
	if u.BasePath = strings.Trim(strings.TrimSpace(u.BasePath), "/"); u.BasePath != "" {
		u.BasePath = "/" + u.BasePath
	}
	o.file("root", &u.Root)
	o.strs("allowedOrigins", &u.AllowedOrigins)
	o.bool("allowInsecureAuth", &u.AllowInsecureAuth)
	o.bool("dangerouslyDisableDeviceAuth", &u.DangerouslyDisableDeviceAuth)
	o.bool("dangerouslyAllowHostHeaderOriginFallback", &u.DangerouslyAllowHostHeaderOriginFallback)
	o.strict()
}

func (l *loader) auth(o object, a *Auth) {
	o.choice("mode", &a.Mode, authModes...)
	// A mode that is set says which of them counts.
	o.secret("token", &a.Token, func() bool { return a.Mode == "" || a.Mode == "token" })
	o.secret("password", &a.Password, func() bool { return a.Mode == "" || a.Mode == "password" })
	if n := o.typed("allowTailscale", json5.Bool); n != nil {
		a.AllowTailscale = &n.Bool
	}
	if limit := o.object("rateLimit"); limit.n != nil {
		r := &RateLimit{MaxAttempts: 10, WindowMs: 60_000, LockoutMs: 300_000, ExemptLoopback: true}
		limit.int("maxAttempts", 1, maxInt, &r.MaxAttempts)
		limit.integer("windowMs", 1, noBound, &r.WindowMs)
		limit.integer("lockoutMs", 1, noBound, &r.LockoutMs)
		limit.bool("exemptLoopback", &r.ExemptLoopback)
		limit.strict()
		a.RateLimit = r
	}
	if proxy := o.object("trustedProxy"); proxy.n != nil {
		a.TrustedProxy = &TrustedProxy{}
		proxy.required("userHeader", &a.TrustedProxy.UserHeader)
		proxy.strs("requiredHeaders", &a.TrustedProxy.RequiredHeaders)
		proxy.strs("allowUsers", &a.TrustedProxy.AllowUsers)
		proxy.strict()
	}
	if iam := o.object("iam"); iam.n != nil {
		a.IAM = &IAM{}
		iam.required("serverUrl", &a.IAM.ServerURL)
		iam.required("clientId", &a.IAM.ClientID)
		iam.secret("clientSecret", &a.IAM.ClientSecret, func() bool { return a.Mode == "iam" })
		iam.str("orgName", &a.IAM.OrgName)
		iam.str("appName", &a.IAM.AppName)
		iam.strs("scopes", &a.IAM.Scopes)
		iam.str("jwksUrl", &a.IAM.JWKSURL)
		iam.strs("superAdmins", &a.IAM.SuperAdmins)
		iam.strict()
	}
	o.strict()
}

// required reads a string that must be there and must not be blank.
func (o object) required(key string, into *string) {
	o.str(key, into)
	n := o.n.Get(key)
	if n == nil {
		n = o.n
	} else if n.Kind != json5.String {
		return
	}
	if strings.TrimSpace(*into) == "" {
		o.l.fail(join(o.path, key), n, "Expected non-empty string")
	}
}

// roots reads a list of directories that are offered; ~ is the home directory.
func (o object) roots(key string, into *[]FileRoot) {
	var list []string
	o.strs(key, &list)
	for _, text := range list {
		r := FileRoot{Path: text}
		r.Path, r.ReadOnly = strings.CutSuffix(text, ":ro")
		var err error
		if r.Path, err = o.l.config.abs(r.Path); err != nil {
			o.l.fail(join(o.path, key), o.n.Get(key), err.Error())
			continue
		}
		*into = append(*into, r)
	}
}

// prefixes reads a list of addresses and CIDR blocks.
func (o object) prefixes(key string) []netip.Prefix {
	var list []string
	o.strs(key, &list)
	var out []netip.Prefix
	for i, s := range list {
		p, err := parsePrefix(strings.TrimSpace(s))
		if err != nil {
			o.l.fail(join(join(o.path, key), strconv.Itoa(i)), o.n.Get(key), "Expected IP address or CIDR block, got "+quote(s))
			continue
		}
		out = append(out, p)
	}
	return out
}

func (l *loader) http(o object, h *HTTP) {
	endpoints := o.object("endpoints")
	endpoints.object("chatCompletions").bool("enabled", &h.ChatCompletions)
	endpoints.object("responses").bool("enabled", &h.Responses)
	endpoints.strict()
	headers := o.object("securityHeaders")
	if n := headers.take("strictTransportSecurity"); n != nil {
		switch {
		case n.Kind == json5.String:
			h.StrictTransportSecurity = strings.TrimSpace(n.Str)
		case n.Kind != json5.Bool || n.Bool:
			headers.want("strictTransportSecurity", "string or false", n)
		}
		if strings.ContainsAny(h.StrictTransportSecurity, "\r\n\x00") {
			l.fail(join(headers.path, "strictTransportSecurity"), n, "Expected one line")
		}
	}
	headers.strict()
	o.strict()
}

func (l *loader) logging(o object, g *Logging) {
	*g = Logging{
		Level: "info", ConsoleLevel: "info", RedactSensitive: "tools", MaxFileBytes: 500 << 20,
		File: filepath.Join(l.config.StateDir, "logs", "hanzod.log"),
	}
	o.choice("level", &g.Level, logLevels...)
	o.file("file", &g.File)
	o.integer("maxFileBytes", 1, noBound, &g.MaxFileBytes)
	o.choice("consoleLevel", &g.ConsoleLevel, logLevels...)
	o.choice("consoleStyle", &g.ConsoleStyle, logStyles...)
	o.choice("redactSensitive", &g.RedactSensitive, "off", "tools")
	o.strs("redactPatterns", &g.RedactPatterns)
	o.strict()
}

func (l *loader) exec(o object, e *Exec) {
	e.TimeoutSec = 1800
	o.choice("host", &e.Host, "sandbox", "gateway", "node")
	o.choice("security", &e.Security, "deny", "allowlist", "full")
	o.choice("ask", &e.Ask, "off", "on-miss", "always")
	o.str("node", &e.Node)
	o.strs("pathPrepend", &e.PathPrepend)
	l.safeBins(o, &e.SafeBins)
	o.int("timeoutSec", 1, maxInt, &e.TimeoutSec)
}

func (l *loader) safeBins(o object, b *SafeBins) {
	if n := o.take("safeBins"); n != nil && n.Kind == json5.Null {
		b.Bins = []string{} // as an empty list: none
	} else {
		o.strs("safeBins", &b.Bins)
	}
	o.strs("safeBinTrustedDirs", &b.TrustedDirs)
	profiles := o.typed("safeBinProfiles", json5.Object)
	if profiles == nil {
		return
	}
	b.Profiles = map[string]SafeBinProfile{}
	for _, m := range profiles.Members {
		path := join(join(o.path, "safeBinProfiles"), m.Key)
		if m.Value.Kind != json5.Object {
			l.fail(path, m.Value, "Expected object, got "+m.Value.Kind.String())
			continue
		}
		one := object{l: l, n: m.Value, path: path, known: new([]string)}
		var p SafeBinProfile
		if n := one.typed("minPositional", json5.Number); n != nil && n.Num >= 0 {
			p.MinPositional = whole(n.Num)
		}
		if n := one.typed("maxPositional", json5.Number); n != nil && n.Num >= 0 {
			limit := max(whole(n.Num), p.MinPositional)
			p.MaxPositional = &limit
		}
		one.strs("allowedValueFlags", &p.AllowedValueFlags)
		one.strs("deniedFlags", &p.DeniedFlags)
		one.strict()
		b.Profiles[m.Key] = p
	}
}

// whole cuts a number that is not negative to an integer.
func whole(n float64) int { return int(min(n, math.MaxInt32)) }

func (l *loader) canvas(o object, h *CanvasHost) {
	*h = CanvasHost{Enabled: true, LiveReload: true}
	h.Root = filepath.Join(l.config.Workspace(l.config.DefaultAgentID()), "canvas")
	o.bool("enabled", &h.Enabled)
	o.file("root", &h.Root)
	o.int("port", 1, 65535, &h.Port) // 0 until override derives it
	o.bool("liveReload", &h.LiveReload)
}
