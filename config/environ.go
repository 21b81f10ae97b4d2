package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxSecretFileBytes bounds the file that a variable named …_FILE names; an invite code has some hundred
// bytes, a private key some thousand.
const maxSecretFileBytes = 64 << 10

// fileSuffix makes the name of the variable that names a file with the value of a secret one.
const fileSuffix = "_FILE"

// Variable is a variable of the environment that hanzod takes.
type Variable struct {
	Name string
	// Older are its names with the older gateway (config.md §1); they count where Name is not set.
	Older []string
	// Secret is one whose value may stand in a file that Name with "_FILE" at its end names, and that
	// no command of a node gets to see.
	Secret bool
	// Run and Node say which commands take it.
	Run, Node bool
	// About says what it holds, for people.
	About string
}

// variables are all of them, in the order in which help shows them. Whatever is read of them is read by
// Environ, which knows no other.
var variables = []Variable{
	{Name: "HANZOD_STATE_DIR", Older: []string{"OPENCLAW_STATE_DIR", "CLAWDBOT_STATE_DIR"}, Run: true, About: "state directory (~/.hanzo/hanzod)"},
	{Name: "HANZOD_CONFIG_PATH", Older: []string{"OPENCLAW_CONFIG_PATH", "CLAWDBOT_CONFIG_PATH"}, Run: true, About: "configuration file (config.json in the state directory)"},
	{Name: "HANZOD_BIND", Run: true, About: "loopback, lan, tailnet, auto or custom (loopback)"},
	{Name: "HANZOD_BIND_HOST", Run: true, About: "IPv4 address for the bind custom"},
	{Name: "HANZOD_PORT", Older: []string{"OPENCLAW_GATEWAY_PORT", "CLAWDBOT_GATEWAY_PORT"}, Run: true, About: "TCP port (18789)"},
	{Name: "HANZOD_GRPC_PORT", Run: true, About: "port of gRPC over TLS (the one after the TCP port)"},
	{Name: "HANZOD_AUTH_MODE", Run: true, About: "none, token, password, trusted-proxy or iam (token)"},
	{Name: "HANZOD_TOKEN", Older: []string{"OPENCLAW_GATEWAY_TOKEN", "BOT_GATEWAY_TOKEN"}, Secret: true, Run: true, Node: true, About: "shared token of the gateway"},
	{Name: "HANZOD_PASSWORD", Older: []string{"OPENCLAW_GATEWAY_PASSWORD", "BOT_GATEWAY_PASSWORD"}, Secret: true, Run: true, Node: true, About: "shared password of the gateway"},
	{Name: "HANZOD_TRUSTED_PROXIES", Run: true, About: "addresses and networks whose forwarded headers count, with commas between them"},
	{Name: "HANZOD_TRUSTED_PROXY_USER_HEADER", Run: true, About: "header in which such a proxy names the user, for the auth mode trusted-proxy"},
	{Name: "HANZOD_IAM_SERVER_URL", Run: true, About: "OpenID Connect server, for the auth mode iam"},
	{Name: "HANZOD_IAM_CLIENT_ID", Run: true, About: "client id there"},
	{Name: "HANZOD_ALLOWED_ORIGINS", Run: true, About: "origins that web pages may come from, with commas between them"},
	{Name: "HANZOD_TLS_CERT_PATH", Run: true, About: "certificate to show to other machines (one is made)"},
	{Name: "HANZOD_TLS_KEY_PATH", Run: true, About: "its private key"},
	{Name: "HANZOD_TAILNET", Run: true, About: "true makes the daemon a machine of a tailnet (gateway.tailnet)"},
	{Name: "HANZOD_TS_AUTHKEY", Older: []string{"TS_AUTHKEY", "TS_AUTH_KEY", "TS_CLIENT_SECRET"}, Secret: true, Run: true, About: "key that lets it into the tailnet"},
	{Name: "HANZOD_TS_HOSTNAME", Run: true, About: "name that it asks for there (hanzod- and the host name)"},
	{Name: "HANZOD_TS_CONTROL_URL", Older: []string{"TS_CONTROL_URL"}, Run: true, About: "control server of the tailnet (that of Tailscale)"},
	{Name: "HANZOD_SKIP_CANVAS_HOST", Older: []string{"OPENCLAW_SKIP_CANVAS_HOST"}, Run: true, About: "1 serves no canvas"},
	{Name: "HANZOD_TTS_PREFS", Older: []string{"OPENCLAW_TTS_PREFS"}, Run: true, About: "file with what was chosen about speech (settings/tts.json in the state directory)"},
	{Name: "HANZOD_SKIP_CRON", Older: []string{"OPENCLAW_SKIP_CRON"}, Run: true, About: "1 runs no scheduled jobs"},
	{Name: "HANZOD_DISABLE_MDNS", Older: []string{"OPENCLAW_DISABLE_BONJOUR"}, Run: true, About: "true announces nothing on the local network, whatever the configuration says"},
	{Name: "HANZOD_SSH_PORT", Older: []string{"OPENCLAW_SSH_PORT"}, Run: true, About: "port of this machine's SSH server, for the announcement (22)"},
	{Name: "HANZOD_APNS_TEAM_ID", Older: []string{"OPENCLAW_APNS_TEAM_ID"}, Run: true, About: "for pushes to phones: team"},
	{Name: "HANZOD_APNS_KEY_ID", Older: []string{"OPENCLAW_APNS_KEY_ID"}, Run: true, About: "for pushes to phones: id of the key"},
	{Name: "HANZOD_APNS_PRIVATE_KEY_P8", Older: []string{"HANZOD_APNS_PRIVATE_KEY", "OPENCLAW_APNS_PRIVATE_KEY_P8", "OPENCLAW_APNS_PRIVATE_KEY"}, Secret: true, Run: true, About: "for pushes to phones: the key, PEM text"},
	{Name: "HANZOD_APNS_PRIVATE_KEY_PATH", Older: []string{"OPENCLAW_APNS_PRIVATE_KEY_PATH"}, Run: true, About: "for pushes to phones: file of the key"},
	{Name: "HANZOD_UPDATE_DIR", Run: true, About: "directory of builds, as make dist makes it, for hanzoctl update run"},
	{Name: "HANZOD_NODE", Run: true, About: "true runs a node host inside the daemon"},

	{Name: "HANZOD_NODE_STATE_DIR", Node: true, About: "the node's own state directory (~/.hanzo/node)"},
	{Name: "HANZOD_GATEWAY", Older: []string{"BOT_NODE_GATEWAY_URL"}, Node: true, About: "the gateway: hanzod://host[:port], wss://host[:port], ws://host[:port] or host[:port]"},
	{Name: "HANZOD_SOCKET", Node: true, About: "socket of the daemon of this machine"},
	{Name: "HANZOD_TLS_FINGERPRINT", Node: true, About: "SHA-256 of the gateway's certificate"},
	{Name: "HANZOD_TLS_CA_PATH", Node: true, About: "file of certificates to know the gateway by, instead"},
	{Name: "HANZOD_ENROLL", Secret: true, Node: true, About: "invite code; one that enrolled this node is not used again"},
	{Name: "HANZOD_NODE_NAME", Node: true, About: "name of this node (the host name)"},
	{Name: "HANZOD_NODE_ID", Node: true, About: "instance id of this node (a random one, kept)"},
	{Name: "HANZOD_LINK", Node: true, About: "auto, grpc or websocket (auto)"},
	{Name: "HANZOD_CLOUD_NODE", Older: []string{"BOT_CLOUD_NODE"}, Node: true, About: "true has no device identity: the shared token alone lets the node in, under its instance id"},
	{Name: "HANZOD_ALLOW_INSECURE", Older: []string{"OPENCLAW_ALLOW_INSECURE_PRIVATE_WS"}, Node: true, About: "true sends secrets to another machine without TLS"},

	{Name: "HANZOD_TUNNEL_URL", Older: []string{"TUNNEL_URL"}, Secret: true, Node: true, About: "ws(s)://[name:token@]host/v1/tunnel of a relay or of a hanzod that takes links: this machine is an instance there, in place of a node of a gateway. It counts where no gateway is named"},
	{Name: "HANZOD_INSTANCE_ID", Older: []string{"INSTANCE_ID"}, Node: true, About: "for an instance: what it is called (host name and number of the process)"},
	{Name: "HANZOD_APP_KIND", Older: []string{"APP_KIND"}, Node: true, About: "for an instance: dev, node, desktop, bot, extension, cloud or any other (dev)"},
	{Name: "HANZOD_WORKSPACE_DIR", Older: []string{"WORKSPACE_DIR"}, Node: true, About: "where commands run that name no directory, and what checkpoints are of (the node's own; of an instance the working directory)"},
	{Name: "HANZOD_RECONNECT", Node: true, About: "for an instance: false ends with the link (true)"},
	{Name: "HANZOD_TUNNEL_ALLOW", Node: true, About: "what the gateway may reach through this node beside its loopback interface: host:port, host:*, *:port or *, with commas between them (nothing)"},
	{Name: "HANZOD_S3_ENDPOINT_URL", Older: []string{"S3_ENDPOINT_URL"}, Node: true, About: "where session.checkpoint keeps checkpoints (https://s3.hanzo.ai)"},
	{Name: "HANZOD_S3_ACCESS_KEY", Older: []string{"S3_ACCESS_KEY"}, Secret: true, Node: true, About: "access key there"},
	{Name: "HANZOD_S3_SECRET_KEY", Older: []string{"S3_SECRET_KEY"}, Secret: true, Node: true, About: "secret key there"},
	{Name: "HANZOD_S3_BUCKET", Older: []string{"S3_BUCKET"}, Node: true, About: "bucket there (hanzo-sessions)"},

	{Name: "HANZOD_EXEC_SECURITY", Older: []string{"BOT_EXEC_SECURITY"}, Run: true, Node: true, About: "deny, allowlist or full, where file and configuration say nothing (allowlist)"},
	{Name: "HANZOD_EXEC_ASK", Older: []string{"BOT_EXEC_ASK"}, Run: true, Node: true, About: "off, on-miss or always, likewise (on-miss)"},
	{Name: "HANZOD_VNC_HOST", Older: []string{"BOT_VNC_HOST"}, Run: true, Node: true, About: "host of the VNC server of this machine (127.0.0.1); a node shows its screen when this or the port is set"},
	{Name: "HANZOD_VNC_PORT", Older: []string{"BOT_VNC_PORT"}, Run: true, Node: true, About: "its port (5900)"},
	{Name: "HANZOD_COMPANION", Run: true, Node: true, About: "auto, off, or how long to wait for the companion app (auto)"},
	{Name: "HANZOD_LOG_LEVEL", Older: []string{"OPENCLAW_LOG_LEVEL"}, Run: true, Node: true, About: "silent, fatal, error, warn, info, debug or trace (info)"},
	{Name: "HANZOD_LOG_FORMAT", Run: true, Node: true, About: "pretty, compact or json (pretty on a terminal, else json)"},
	{Name: "HANZOD_LOG_OUTPUT", Run: true, Node: true, About: "stderr or stdout (stderr)"},
}

// Variables are the variables of the environment that hanzod takes.
func Variables() []Variable { return slices.Clone(variables) }

// Environ reads the variables that hanzod takes from an environment; absent and empty are the same. Nil
// is that of the process.
type Environ func(string) string

func (e Environ) get(name string) string {
	if e == nil {
		return os.Getenv(name)
	}
	return e(name)
}

// Lookup returns the value of a variable and the name that it stood under, "" when it is not set. The
// name has to be one of Variables.
func (e Environ) Lookup(name string) (from, value string) {
	i := slices.IndexFunc(variables, func(v Variable) bool { return v.Name == name })
	if i < 0 {
		panic("config: " + name + " is not in the table of variables") // a mistake that every test shows
	}
	for _, n := range append([]string{name}, variables[i].Older...) {
		v := strings.TrimSpace(e.get(n))
		if v == "" || isServiceLink(n, v) {
			continue
		}
		return n, v
	}
	return "", ""
}

// Value is Lookup without the name.
func (e Environ) Value(name string) string {
	_, v := e.Lookup(name)
	return v
}

// Bool reads a switch; one that is not set is off. One of the older gateway is on for the values that
// were on there.
func (e Environ) Bool(name string) (bool, error) {
	from, v := e.Lookup(name)
	if v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(strings.ToLower(v))
	if err != nil && from == name {
		return false, fmt.Errorf("%s: Expected true or false, got %s", from, quote(v))
	}
	return on && err == nil, nil
}

// Secret reads a secret from the file that name with _FILE at its end names, else from the variable. The
// error names variables and files, and holds nothing of the value. from is "" when there is none.
func (e Environ) Secret(name string) (from string, value Secret, err error) {
	file, path := name+fileSuffix, strings.TrimSpace(e.get(name+fileSuffix))
	if path == "" {
		from, v := e.Lookup(name)
		return from, NewSecret(v), nil
	}
	if strings.TrimSpace(e.get(name)) != "" {
		return "", Secret{}, fmt.Errorf("%s and %s are both set; leave one of them away", name, file)
	}
	text, err := readFile(path, maxSecretFileBytes)
	if err != nil {
		if where, ok := errors.AsType[*fs.PathError](err); ok {
			err = where.Err
		}
		return "", Secret{}, fmt.Errorf("%s: %s cannot be read: %w", file, path, err)
	}
	v := strings.TrimSpace(string(text))
	if v == "" {
		return "", Secret{}, fmt.Errorf("%s: %s is empty", file, path)
	}
	return file, NewSecret(v), nil
}

// SecretVariables are the names of the variables whose values no command may see.
func SecretVariables() []string {
	var out []string
	for _, v := range variables {
		if v.Secret {
			out = append(append(out, v.Name), v.Older...)
		}
	}
	return out
}

// Stray is a variable that looks as if it were for hanzod, and is not.
type Stray struct {
	Name string
	// Meant is the one that it most likely should be, or "".
	Meant string
}

// Strays are the variables of an environment, as os.Environ has it, that begin as those of hanzod do and
// that it does not take.
func Strays(environ []string) []Stray {
	var known []string
	for _, v := range variables {
		known = append(append(known, v.Name), v.Older...)
		if v.Secret {
			known = append(known, v.Name+fileSuffix)
		}
	}
	var out []Stray
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "HANZOD_") || slices.Contains(known, name) || isServiceLink(name, value) {
			continue
		}
		out = append(out, Stray{name, near(name, known)})
	}
	slices.SortFunc(out, func(a, b Stray) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// serviceLink are the names under which Kubernetes tells every container of a namespace of a service
// that is called hanzod, or hanzod-something.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

// isServiceLink reports whether a variable is one of Kubernetes, which nobody set for hanzod:
// HANZOD_PORT=tcp://10.0.0.7:18789 among them.
func isServiceLink(name, value string) bool {
	return serviceLink.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(value, "://")
}

// variable is Lookup in the environment of this loader.
func (l *loader) variable(name string) (from, value string) { return Environ(l.env).Lookup(name) }

// choose sets a text from a variable that has one of several values.
func (l *loader) choose(name string, into *string, allowed ...string) bool {
	from, v := l.variable(name)
	if v == "" {
		return false
	}
	if !contains(allowed, v) {
		l.fail(from, nil, wrongChoice(v, allowed))
		return false
	}
	*into = v
	return true
}

// port reads a port.
func (l *loader) port(name string) (int, bool) {
	from, v := l.variable(name)
	if v == "" {
		return 0, false
	}
	port, err := strconv.Atoi(v)
	if err != nil || port < 1 || port > 65535 {
		l.fail(from, nil, "Expected integer 1..65535, got "+quote(v))
	}
	return port, true
}

// list reads what stands between commas.
func (l *loader) list(name string) (from string, out []string) {
	from, v := l.variable(name)
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return from, out
}

// environment lays the variables over the file. Secrets are not among them: see credentials.
func (l *loader) environment() {
	c := l.config
	g := &c.Gateway
	if from, v := l.variable("HANZOD_BIND"); v != "" {
		bind, ok := bindMode(v)
		if !ok {
			l.fail(from, nil, wrongChoice(v, bindModes))
		}
		g.Bind = bind
	}
	if _, v := l.variable("HANZOD_BIND_HOST"); v != "" {
		g.CustomBindHost = v
	}
	if port, ok := l.port("HANZOD_PORT"); ok {
		g.Port = port
	}
	if port, ok := l.port("HANZOD_GRPC_PORT"); ok {
		g.GRPC.Port = &port
	}
	l.choose("HANZOD_AUTH_MODE", &g.Auth.Mode, authModes...)
	if from, list := l.list("HANZOD_TRUSTED_PROXIES"); len(list) > 0 {
		g.TrustedProxies = nil
		for _, s := range list {
			p, err := parsePrefix(s)
			if err != nil {
				l.fail(from, nil, "Expected IP address or CIDR block, got "+quote(s))
				continue
			}
			g.TrustedProxies = append(g.TrustedProxies, p)
		}
	}
	if _, v := l.variable("HANZOD_TRUSTED_PROXY_USER_HEADER"); v != "" {
		if g.Auth.TrustedProxy == nil {
			g.Auth.TrustedProxy = &TrustedProxy{}
		}
		g.Auth.TrustedProxy.UserHeader = v
	}
	l.iam(&g.Auth)
	if _, list := l.list("HANZOD_ALLOWED_ORIGINS"); len(list) > 0 {
		g.ControlUI.AllowedOrigins = list
	}
	if from, v := l.variable("HANZOD_TLS_CERT_PATH"); v != "" {
		l.path(from, v, &g.TLS.CertPath)
	}
	if from, v := l.variable("HANZOD_TLS_KEY_PATH"); v != "" {
		l.path(from, v, &g.TLS.KeyPath)
	}
	if l.choose("HANZOD_LOG_LEVEL", &c.Logging.Level, logLevels...) {
		c.Logging.ConsoleLevel = c.Logging.Level
	}
	l.choose("HANZOD_LOG_FORMAT", &c.Logging.ConsoleStyle, logStyles...)
	c.Logging.ConsoleOutput = "stderr"
	l.choose("HANZOD_LOG_OUTPUT", &c.Logging.ConsoleOutput, logOutputs...)
	if _, v := l.variable("HANZOD_SKIP_CANVAS_HOST"); v == "1" {
		c.CanvasHost.Enabled = false
	}
	if _, v := l.variable("HANZOD_SKIP_CRON"); v == "1" {
		c.Cron.Enabled = false
	}
	if port, ok := l.port("HANZOD_SSH_PORT"); ok {
		c.Discovery.SSHPort = port
	}
	if _, v := l.variable("HANZOD_VNC_HOST"); v != "" {
		c.Tunnel.Screen.Host = v
	}
	if port, ok := l.port("HANZOD_VNC_PORT"); ok {
		c.Tunnel.Screen.Port = port
	}
	if l.toggle("HANZOD_DISABLE_MDNS") {
		c.Discovery.MDNS = "off"
	}
	c.NodeHost.Embedded = l.toggle("HANZOD_NODE")
}

// toggle reads a variable that is true or false.
func (l *loader) toggle(name string) bool {
	on, err := Environ(l.env).Bool(name)
	if err != nil {
		from, text, _ := strings.Cut(err.Error(), ": ")
		l.fail(from, nil, text)
	}
	return on
}

// iam reads an identity service, which takes both of its variables when the file has none.
func (l *loader) iam(a *Auth) {
	server, url := l.variable("HANZOD_IAM_SERVER_URL")
	client, id := l.variable("HANZOD_IAM_CLIENT_ID")
	if url == "" && id == "" {
		return
	}
	if a.IAM == nil {
		a.IAM = &IAM{}
	}
	if url != "" {
		a.IAM.ServerURL = url
	}
	if id != "" {
		a.IAM.ClientID = id
	}
	switch {
	case a.IAM.ServerURL == "":
		l.fail(client, nil, "HANZOD_IAM_SERVER_URL has to be set too")
	case a.IAM.ClientID == "":
		l.fail(server, nil, "HANZOD_IAM_CLIENT_ID has to be set too")
	}
}

func (l *loader) path(from, value string, into *string) {
	abs, err := l.config.abs(value)
	if err != nil {
		l.fail(from, nil, err.Error())
		return
	}
	*into = abs
}

// parsePrefix reads an address or a network.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return p, err
		}
		addr = addr.Unmap().WithZone("")
		p = netip.PrefixFrom(addr, addr.BitLen())
	}
	return p.Masked(), nil
}
