package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// vars is an environment of its own, with a home below the test's directory.
type vars map[string]string

func (v vars) get(name string) string { return v[name] }

func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// load loads text as the config file of a new home, with env given as name, value pairs.
func load(t testing.TB, text string, env ...string) (*Config, error) {
	t.Helper()
	home := realDir(t)
	v := vars{"HOME": home}
	for i := 0; i+1 < len(env); i += 2 {
		v[env[i]] = env[i+1]
	}
	return Load(Options{Path: write(t, filepath.Join(home, "c", "config.json"), text), Env: v.get})
}

// realDir is a new directory without links in its path.
func realDir(t testing.TB) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustLoad(t testing.TB, text string, env ...string) *Config {
	t.Helper()
	c, err := load(t, text, env...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issues are the lines of the error that name what is wrong.
func issues(t testing.TB, err error) []string {
	t.Helper()
	var inv *Invalid
	if !errors.As(err, &inv) {
		t.Fatalf("got %v, want an *Invalid", err)
	}
	lines := strings.Split(err.Error(), "\n")
	if want := "Invalid config at " + inv.Path + ":"; lines[0] != want {
		t.Errorf("first line %q, want %q", lines[0], want)
	}
	if want := "Correct this and start again; the file was not changed."; lines[len(lines)-1] != want {
		t.Errorf("last line %q, want %q", lines[len(lines)-1], want)
	}
	return lines[1 : len(lines)-1]
}

func TestRecordedConfigsLoad(t *testing.T) {
	n := 0
	err := filepath.WalkDir("../fixtures/gateway", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var fixture struct {
			Gateway struct {
				Config json.RawMessage `json:"config"`
			} `json:"gateway"`
		}
		if json.Unmarshal(data, &fixture) != nil || fixture.Gateway.Config == nil {
			return nil
		}
		n++
		text := strings.ReplaceAll(string(fixture.Gateway.Config), `"$port"`, "18999")
		c, err := load(t, strings.ReplaceAll(text, "$home", "~"))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return nil
		}
		if err := c.CheckStart(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if b := c.Beat("main"); c.Gateway.Port != 18999 || !b.Enabled || b.Every != "0m" || b.EveryMs != nil {
			t.Errorf("%s: port %d, heartbeat %+v", path, c.Gateway.Port, b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 100 {
		t.Fatalf("only %d recordings with a config found", n)
	}
}

func TestDefaults(t *testing.T) {
	home := realDir(t)
	c, err := Load(Options{Env: vars{"HOME": home}.get})
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(home, ".hanzo", "hanzod")
	if c.Exists || c.StateDir != state || c.Path != filepath.Join(state, "config.json") || c.LegacyDir != "" {
		t.Errorf("places: %+v", []any{c.Exists, c.StateDir, c.Path, c.LegacyDir})
	}
	if want := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; c.Hash != want {
		t.Errorf("hash %s", c.Hash)
	}
	wantGateway := Gateway{
		Port: 18789, Bind: "loopback", TLS: TLS{AutoGenerate: true}, ControlUI: ControlUI{Enabled: true},
		Nodes: Nodes{BrowserMode: "off"}, Tailscale: Tailscale{Mode: "off"},
		Reload: Reload{Mode: "hybrid", DebounceMs: 300}, ChannelHealthCheckMinutes: 5,
	}
	if d := cmp.Diff(wantGateway, c.Gateway, cmp.AllowUnexported(Secret{})); d != "" {
		t.Error(d)
	}
	wantLog := Logging{
		Level: "info", File: filepath.Join(state, "logs", "hanzod.log"), MaxFileBytes: 500 << 20,
		ConsoleLevel: "info", ConsoleOutput: "stderr", RedactSensitive: "tools",
	}
	if d := cmp.Diff(wantLog, c.Logging); d != "" {
		t.Error(d)
	}
	wantCanvas := CanvasHost{Enabled: true, LiveReload: true, Port: 18793, Root: filepath.Join(state, "workspace", "canvas")}
	if d := cmp.Diff(wantCanvas, c.CanvasHost); d != "" {
		t.Error(d)
	}
	ms := int64(1_800_000)
	wantBeat := Beat{Enabled: true, Every: "30m", EveryMs: &ms, Prompt: defaultPrompt, Target: "none", AckMaxChars: 300}
	if d := cmp.Diff(wantBeat, c.Beat(c.DefaultAgentID())); d != "" {
		t.Error(d)
	}
	if c.AuthMode() != "token" || c.DefaultAgentID() != "main" || c.MainKey() != "main" || c.SessionScope() != "per-sender" ||
		!cmp.Equal(c.AgentIDs(), []string{"main"}) || c.Section("models") != nil || !c.Browser.Enabled || c.Discovery.MDNS != "off" {
		t.Error("effective values")
	}
}

func TestEverythingTyped(t *testing.T) {
	c := mustLoad(t, `// a whole one
{
  $schema: 'x', meta: {}, channels: {telegram: {botToken: 'b'}}, bindings: [],
  gateway: {
    port: 19001, mode: 'local', bind: '0.0.0.0',
    auth: {mode: 'token', token: 'T', allowTailscale: true, rateLimit: {maxAttempts: 3},
      trustedProxy: {userHeader: 'x-user', allowUsers: ['a']}, iam: {serverUrl: 'https://i', clientId: 'c', clientSecret: 'S'}},
    trustedProxies: ['10.0.0.1', '192.168.1.7/16', '::1'], allowRealIpFallback: true,
    tls: {enabled: true, certPath: '~/c.pem'}, controlUi: {basePath: 'ui/', allowedOrigins: ['https://a']},
    nodes: {allowCommands: ['x'], denyCommands: ['y'], browser: {mode: 'auto', node: 'n'}},
    http: {securityHeaders: {strictTransportSecurity: 'max-age=1'}, endpoints: {responses: {enabled: true}}},
    tailscale: {mode: 'off'}, remote: {url: 'wss://r', token: 'R'}, reload: {mode: 'off', debounceMs: 5},
    channelHealthCheckMinutes: 0, tools: {deny: ['d']}, marketplace: {}, requestRateLimit: {},
  },
  logging: {level: 'debug', file: '~/l.log', maxFileBytes: 10, consoleLevel: 'warn', consoleStyle: 'json', redactSensitive: 'off', redactPatterns: ['x']},
  audit: {keepDays: 30, maxRows: 5000, maxBytes: 2097152},
  checkpoints: {
    store: "s3", dir: "/var/ck", redact: ["sk-[a-z]+"], retention: {keepLast: 3, keepDays: 30},
    s3: {endpoint: "http://127.0.0.1:7070", bucket: "bucket", region: "eu", accessKey: "a", secretKey: "b", virtualHost: true, createBucket: true},
    encryption: {recipients: ["age1x"], identityFile: "/etc/key", tenants: {acme: ["age1y"]}},
  },
  session: {mainKey: 'other', scope: 'global'},
  agents: {defaults: {workspace: '~/w', heartbeat: {every: '1h30m', target: 'last', ackMaxChars: 5}},
    list: [{id: 'A b', name: ' Ann '}, {id: 'two', default: true, workspace: '/ws2', heartbeat: {every: 15, prompt: ' go '}}]},
  tools: {exec: {host: 'node', security: 'full', ask: 'always', node: 'n1', safeBins: ['ls']}},
  canvasHost: {enabled: false, port: 1}, nodeHost: {browserProxy: {enabled: false}},
  hooks: {enabled: true, token: 'H', path: 'in/'}, discovery: {wideArea: {enabled: true}, mdns: {mode: 'full'}},
  update: {checkOnStart: false, channel: 'beta', auto: {enabled: true}}, browser: {enabled: false},
}`)
	g := c.Gateway
	home := c.Home
	for _, v := range []struct {
		name      string
		got, want any
	}{
		{"port", g.Port, 19001}, {"bind", g.Bind, "lan"}, {"token", g.Auth.Token.Reveal(), "T"},
		{"rate", *g.Auth.RateLimit, RateLimit{3, 60000, 300000, true}},
		{"iam", g.Auth.IAM.ClientSecret.Reveal(), "S"}, {"user", g.Auth.TrustedProxy.UserHeader, "x-user"},
		{"proxies", fmt.Sprint(g.TrustedProxies), "[10.0.0.1/32 192.168.0.0/16 ::1/128]"},
		{"base path", g.ControlUI.BasePath, "/ui"}, {"cert", g.TLS.CertPath, filepath.Join(home, "c.pem")},
		{"hsts", g.HTTP, HTTP{StrictTransportSecurity: "max-age=1", Responses: true}},
		{"nodes", g.Nodes, Nodes{[]string{"x"}, []string{"y"}, "auto", "n", nil}},
		{"remote", g.Remote.Token.Reveal(), "R"}, {"reload", g.Reload, Reload{"off", 5}},
		{"health", g.ChannelHealthCheckMinutes, 0}, {"log", c.Logging.File, filepath.Join(home, "l.log")},
		{"checkpoints", c.Checkpoints, Checkpoints{
			Store: "s3", Dir: "/var/ck", Redact: []string{"sk-[a-z]+"}, KeepLast: 3, KeepDays: 30,
			S3:         CheckpointS3{"http://127.0.0.1:7070", "bucket", "eu", NewSecret("a"), NewSecret("b"), true, true},
			Encryption: CheckpointEncryption{[]string{"age1x"}, map[string][]string{"acme": {"age1y"}}, "/etc/key"},
		}},
		{"audit", c.Audit, Audit{KeepDays: 30, MaxRows: 5000, MaxBytes: 2 << 20}},
		{"scope", c.SessionScope(), "global"}, {"main key", c.MainKey(), "main"},
		{"ids", c.AgentIDs(), []string{"a-b", "two"}}, {"default", c.DefaultAgentID(), "two"}, {"name", c.AgentName("A B"), "Ann"},
		{"workspace", c.Workspace("two"), abs(t, "/ws2")}, {"other workspace", c.Workspace("a-b"), filepath.Join(c.StateDir, "workspace-a-b")},
		{"exec", c.Tools.Exec, Exec{Host: "node", Security: "full", Ask: "always", Node: "n1", SafeBins: SafeBins{Bins: []string{"ls"}}, TimeoutSec: 1800}},
		{"canvas", c.CanvasHost, CanvasHost{Port: 1, Root: filepath.Join(abs(t, "/ws2"), "canvas"), LiveReload: true}},
		{"hooks", []any{c.Hooks.Enabled, c.Hooks.Path, c.Hooks.Token.Reveal()}, []any{true, "/in", "H"}},
		{"discovery", c.Discovery, Discovery{true, "full", 22}}, {"update", c.Update, Update{"beta", false, true}},
		{"browser", c.Browser.Enabled, false}, {"node host", c.NodeHost.BrowserProxy, false},
		{"raw", c.Section("channels").At("telegram", "botToken").Str, "b"}, {"tailscale", c.AllowTailscale(), true},
		{"origins", c.AllowedOrigins(), []string{"https://a"}},
	} {
		if d := cmp.Diff(v.want, v.got, cmp.Comparer(func(a, b Secret) bool { return a.Reveal() == b.Reveal() })); d != "" {
			t.Errorf("%s: %s", v.name, d)
		}
	}
	ms := int64(900_000)
	if d := cmp.Diff(Beat{true, "15", &ms, "go", "last", "", 5}, c.Beat("two")); d != "" {
		t.Error(d)
	}
	if b := c.Beat("a-b"); b.Enabled || b.Every != "disabled" || b.EveryMs != nil || b.Target != "last" {
		t.Errorf("%+v", b)
	}
}

func abs(t testing.TB, path string) string {
	t.Helper()
	p, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWrong(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"port", "{\n gateway: {\n  port: 'abc'}}", []string{`- gateway.port: Invalid input: expected number, received string (line 3)`}},
		{"port 0", "{gateway:{port:0}}", []string{`- gateway.port: Too small: expected number to be >0 (line 1)`}},
		{"port fraction", "{gateway:{port:1.5}}", []string{`- gateway.port: Invalid input: expected int, received number (line 1)`}},
		{"port NaN", "{gateway:{port:NaN}}", []string{`- gateway.port: Invalid input: expected number, received NaN (line 1)`}},
		{"checkpoints without a directory", `{checkpoints:{store:"dir"}}`, []string{`- checkpoints.dir: checkpoints.store="dir" requires checkpoints.dir (line 1)`}},
		{"checkpoints with a wrong rule", `{checkpoints:{redact:["a","("]}}`, []string{`- checkpoints.redact.1: not a regular expression (line 1)`}},
		{"audit rows", "{audit:{maxRows:10}}", []string{`- audit.maxRows: Too small: expected number to be >=1000 (line 1)`}},
		{"audit days", "{audit:{keepDays:-1}}", []string{`- audit.keepDays: Too small: expected number to be >=0 (line 1)`}},
		{"unknown key", "{gateway:{prot:1}}", []string{`- gateway: Unrecognized key: "prot" (did you mean "port"?) (line 1)`}},
		{"unknown keys", "{gateway:{zzzzzz:1,\nauthh:{}}}", []string{`- gateway: Unrecognized keys: "zzzzzz", "authh" (did you mean "auth"?) (line 1)`}},
		{"unknown at the root", "{\ngatway:{}}", []string{`- Unrecognized key: "gatway" (did you mean "gateway"?) (line 2)`}},
		{"logging strict", "{logging:{levle:'x'}}", []string{`- logging: Unrecognized key: "levle" (did you mean "level"?) (line 1)`}},
		{"choice", "{gateway:{mode:'both'}}", []string{`- gateway.mode: Invalid input (allowed: "local", "remote"), got "both" (line 1)`}},
		{"bind", "{gateway:{bind:'10.0.0.1'}}", []string{`- gateway.bind: Invalid input (allowed: "auto", "lan", "loopback", "custom", "tailnet"), got "10.0.0.1" (line 1)`}},
		{"container", "{gateway:'hidden',agents:[],bindings:{},channels:1}", []string{
			`- agents: Invalid input: expected object, received array (line 1)`,
			`- bindings: Invalid input: expected array, received object (line 1)`,
			`- channels: Invalid input: expected object, received number (line 1)`,
			`- gateway: Invalid input: expected object, received string (line 1)`}},
		{"null", "{gateway:{auth:null,port:null}}", []string{
			`- gateway.port: Invalid input: expected number, received null (line 1)`,
			`- gateway.auth: Invalid input: expected object, received null (line 1)`}},
		{"secret", "{gateway:{auth:{token:12345}}}", []string{`- gateway.auth.token: Invalid input (line 1)`}},
		{"list", "{gateway:{nodes:{allowCommands:['a',\n1]}}}", []string{`- gateway.nodes.allowCommands.1: Invalid input: expected string, received number (line 2)`}},
		{"proxy", "{gateway:{trustedProxies:['nope']}}", []string{`- gateway.trustedProxies.0: Expected IP address or CIDR block (line 1)`}},
		{"required", "{gateway:{auth:{trustedProxy:{},iam:{serverUrl:' '}}}}", []string{
			`- gateway.auth.trustedProxy.userHeader: Invalid input: expected string, received undefined (line 1)`,
			`- gateway.auth.iam.serverUrl: Too small: expected string to have >=1 characters (line 1)`,
			`- gateway.auth.iam.clientId: Invalid input: expected string, received undefined (line 1)`}},
		{"hsts", "{gateway:{http:{securityHeaders:{strictTransportSecurity:true}}}}", []string{`- gateway.http.securityHeaders.strictTransportSecurity: Invalid input (line 1)`}},
		{"duration", "{agents:{defaults:{heartbeat:{every:'soon'}}}}", []string{`- agents.defaults.heartbeat.every: invalid duration (use ms, s, m, h, d) (line 1)`}},
		{"agent", "{agents:{list:[{},1]}}", []string{
			`- agents.list.0.id: Invalid input: expected string, received undefined (line 1)`,
			`- agents.list.1: Invalid input: expected object, received number (line 1)`}},
		{"hooks strict", "{hooks:{tokn:'x'}}", []string{`- hooks: Unrecognized key: "tokn" (did you mean "token"?) (line 1)`}},
		{"hook transform", "{hooks:{enabled:true,token:'t',mappings:[{},{transform:{module:'a.js'}}]}}", []string{`- hooks.mappings.1.transform: JavaScript modules cannot run here; describe the mapping with messageTemplate or textTemplate, or take it out (line 1)`}},
		{"hook mappings", "{hooks:{mappings:[1,{match:{pth:''},action:'run',channel:'sms',timeoutSeconds:0}],presets:['gmail','github',1],maxBodyBytes:1e9}}", []string{
			`- hooks.maxBodyBytes: Too big: expected number to be <=26214400 (line 1)`,
			`- hooks.presets.1: Invalid input: expected "gmail" (allowed: "gmail"), got "github" (line 1)`,
			`- hooks.presets.2: Invalid input: expected "gmail" (allowed: "gmail") (line 1)`,
			`- hooks.mappings.0: Invalid input: expected object, received number (line 1)`,
			`- hooks.mappings.1.match: Unrecognized key: "pth" (did you mean "path"?) (line 1)`,
			`- hooks.mappings.1.action: Invalid input (allowed: "wake", "agent"), got "run" (line 1)`,
			`- hooks.mappings.1.channel: Invalid input (allowed: "last", "whatsapp", "telegram", "discord", "irc", "slack", "signal", "imessage", "msteams"), got "sms" (line 1)`,
			`- hooks.mappings.1.timeoutSeconds: Too small: expected number to be >0 (line 1)`}},
		{"root", "[1]", []string{`- Expected object, got array (line 1)`}},
		{"syntax", "{\n  a: ]", []string{`- JSON5 parse failed: SyntaxError: JSON5: invalid character ']' at 2:6 (line 2)`}},
		{"empty file", "", []string{`- JSON5 parse failed: SyntaxError: JSON5: invalid end of input at 1:1 (line 1)`}},
		{"missing variables", "{env:{vars:{A:'x'}},gateway:{auth:{token:'${NOPE}',password:'${A}${B_2}'}}}", []string{
			`- gateway.auth.token: Missing env var "NOPE" referenced at config path: gateway.auth.token (line 1)`,
			`- gateway.auth.password: Missing env var "B_2" referenced at config path: gateway.auth.password (line 1)`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.in)
			if d := cmp.Diff(c.want, issues(t, err)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestHookMappings(t *testing.T) {
	c := mustLoad(t, `{hooks:{
		mappings: [
			{match:{path:'/github/'}, action:'wake', textTemplate:'{{action}}', wakeMode:'next-heartbeat'},
			{id:' x ', match:{source:' s '}, messageTemplate:'m', deliver:false, channel:'telegram', to:'t', model:'mo', thinking:'low',
			 timeoutSeconds:5, name:'n', agentId:'a', sessionKey:'k', allowUnsafeExternalContent:true},
			{transform:{module:'a.js'}}, // hooks are off
		],
		presets: ['gmail'], gmail: {allowUnsafeExternalContent: true, account: 'a'}, transformsDir: 'd', internal: {},
	}}`)
	want := []HookMapping{
		{ID: "mapping-1", MatchPath: "github", Action: "wake", WakeMode: "next-heartbeat", TextTemplate: "{{action}}", Deliver: true},
		{
			ID: "x", MatchSource: "s", Action: "agent", WakeMode: "now", MessageTemplate: "m", Channel: "telegram", To: "t", Model: "mo",
			Thinking: "low", TimeoutSeconds: 5, Name: "n", AgentID: "a", SessionKey: "k", AllowUnsafeExternalContent: true,
		},
		{ID: "mapping-3", Action: "agent", WakeMode: "now", Deliver: true},
		gmailPreset,
	}
	want[3].AllowUnsafeExternalContent = true
	if d := cmp.Diff(want, c.Hooks.Mappings); d != "" {
		t.Error(d)
	}
	if gmailPreset.AllowUnsafeExternalContent {
		t.Error("the preset itself was changed")
	}
	for _, path := range []string{"/", "v1", "/v1/x"} {
		if err := mustLoad(t, "{hooks:{enabled:true,token:'t',path:'"+path+"'},gateway:{auth:{mode:'none'}}}").CheckStart(); err == nil {
			t.Errorf("hooks at %s may start", path)
		}
	}
}

func TestOverridesWrong(t *testing.T) {
	port := 70000
	_, err := Load(Options{Env: vars{"HOME": t.TempDir(), "HANZOD_PORT": "x", "OPENCLAW_LOG_LEVEL": "loud"}.get, Port: &port, GRPCPort: &port, Bind: "all"})
	want := []string{
		`- HANZOD_PORT: Expected integer 1..65535, got "x"`,
		`- OPENCLAW_LOG_LEVEL: Invalid value "loud", expected one of "silent", "fatal", "error", "warn", "info", "debug", "trace"`,
		`- --port: Expected integer 0..65535, got 70000`,
		`- --grpc-port: Expected integer 0..65535, got 70000`,
		`- --bind: Invalid value "all", expected one of "auto", "lan", "loopback", "custom", "tailnet"`,
	}
	if d := cmp.Diff(want, issues(t, err)); d != "" {
		t.Fatal(d)
	}
}

func TestPlaces(t *testing.T) {
	home := realDir(t)
	j := func(parts ...string) string { return filepath.Join(append([]string{home}, parts...)...) }
	write(t, j(".clawdbot", "x"), "")
	write(t, j("old", "clawdbot.json"), "{}")
	write(t, j("both", "openclaw.json"), "{}")
	write(t, j("both", "config.json"), "{}")
	for _, c := range []struct {
		name              string
		opts              Options
		env               vars
		state, path, left string
	}{
		{"default", Options{}, vars{}, j(".hanzo", "hanzod"), j(".hanzo", "hanzod", "config.json"), j(".clawdbot")},
		{"flags", Options{StateDir: "~/s", Path: j("f.json")}, vars{"HANZOD_STATE_DIR": j("no"), "HANZOD_CONFIG_PATH": j("no")}, j("s"), j("f.json"), j(".clawdbot")},
		{"ours", Options{}, vars{"HANZOD_STATE_DIR": j("a"), "OPENCLAW_STATE_DIR": j("b")}, j("a"), j("a", "config.json"), j(".clawdbot")},
		{"legacy", Options{}, vars{"OPENCLAW_STATE_DIR": j("b"), "CLAWDBOT_STATE_DIR": j("c")}, j("b"), j("b", "config.json"), j(".clawdbot")},
		{"older", Options{}, vars{"CLAWDBOT_STATE_DIR": "~/c"}, j("c"), j("c", "config.json"), j(".clawdbot")},
		{"legacy directory named", Options{}, vars{"OPENCLAW_STATE_DIR": j(".clawdbot")}, j(".clawdbot"), j(".clawdbot", "config.json"), ""},
		{"legacy file name", Options{}, vars{"OPENCLAW_STATE_DIR": j("old")}, j("old"), j("old", "clawdbot.json"), j(".clawdbot")},
		{"our name first", Options{}, vars{"OPENCLAW_STATE_DIR": j("both")}, j("both"), j("both", "config.json"), j(".clawdbot")},
		{"our variable, our name", Options{}, vars{"HANZOD_STATE_DIR": j("old")}, j("old"), j("old", "config.json"), j(".clawdbot")},
		{"paths", Options{}, vars{"HANZOD_CONFIG_PATH": j("1"), "OPENCLAW_CONFIG_PATH": j("2")}, j(".hanzo", "hanzod"), j("1"), j(".clawdbot")},
		{"legacy path", Options{}, vars{"CLAWDBOT_CONFIG_PATH": j("3")}, j(".hanzo", "hanzod"), j("3"), j(".clawdbot")},
		{"home", Options{}, vars{"OPENCLAW_HOME": j("h")}, j("h", ".hanzo", "hanzod"), j("h", ".hanzo", "hanzod", "config.json"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := vars{"HOME": home}
			maps.Copy(env, c.env)
			c.opts.Env = env.get
			got, err := Load(c.opts)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff([]string{c.state, c.path, c.left}, []string{got.StateDir, got.Path, got.LegacyDir}); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestEnvironmentPrecedence(t *testing.T) {
	one := 1
	for _, c := range []struct {
		name, in string
		env      vars
		opts     Options
		check    func(*Config) any
		want     any
	}{
		{"port of the file", "{gateway:{port:5}}", nil, Options{}, func(c *Config) any { return c.Gateway.Port }, 5},
		{"port ours", "{gateway:{port:5}}", vars{"HANZOD_PORT": "6", "OPENCLAW_GATEWAY_PORT": "7"}, Options{}, func(c *Config) any { return c.Gateway.Port }, 6},
		{"port legacy", "{gateway:{port:5}}", vars{"CLAWDBOT_GATEWAY_PORT": "8", "OPENCLAW_GATEWAY_PORT": "7"}, Options{}, func(c *Config) any { return c.Gateway.Port }, 7},
		{"port flag", "{gateway:{port:5}}", vars{"HANZOD_PORT": "6"}, Options{Port: &one}, func(c *Config) any { return c.Gateway.Port }, 1},
		{"grpc port", "{gateway:{grpc:{port:5}}}", nil, Options{}, remoteDoor, "5 false"},
		{"grpc port follows", "{gateway:{port:5,bind:'lan'}}", nil, Options{}, remoteDoor, "6 true"},
		{"grpc port ours", "{gateway:{grpc:{port:5}}}", vars{"HANZOD_GRPC_PORT": "7"}, Options{}, remoteDoor, "7 false"},
		{"grpc port flag opens", "{gateway:{grpc:{port:5,enabled:false}}}", vars{"HANZOD_GRPC_PORT": "7"}, Options{GRPCPort: &one}, remoteDoor, "1 true"},
		{"any grpc port", "{gateway:{grpc:{port:5}}}", nil, Options{GRPCPort: new(0)}, remoteDoor, "0 true"},
		{"grpc port beside any port", "{gateway:{grpc:{enabled:true}}}", nil, Options{Port: new(0)}, remoteDoor, "0 true"},
		{"grpc closed", "{gateway:{bind:'lan',grpc:{enabled:false}}}", nil, Options{}, remoteDoor, "18790 false"},
		{"no canvas", "{}", vars{"OPENCLAW_SKIP_CANVAS_HOST": "1"}, Options{}, func(c *Config) any { return c.CanvasHost.Enabled }, false},
		{"canvas", "{}", vars{"OPENCLAW_SKIP_CANVAS_HOST": "0"}, Options{}, func(c *Config) any { return c.CanvasHost.Enabled }, true},
		{"no announcement", "{discovery:{mdns:{mode:'full'}}}", vars{"OPENCLAW_DISABLE_BONJOUR": "1"}, Options{}, func(c *Config) any { return c.Discovery.MDNS }, "off"},
		{"no announcement, ours first", "{discovery:{mdns:{mode:'full'}}}", vars{"HANZOD_DISABLE_MDNS": "0", "OPENCLAW_DISABLE_BONJOUR": "1"}, Options{}, func(c *Config) any { return c.Discovery.MDNS }, "full"},
		{"ssh port", "{}", vars{"HANZOD_SSH_PORT": "2222"}, Options{}, func(c *Config) any { return c.Discovery.SSHPort }, 2222},
		{"canvas port follows", "{}", vars{"HANZOD_PORT": "6"}, Options{}, func(c *Config) any { return c.CanvasHost.Port }, 10},
		{"bind flag", "{gateway:{bind:'lan'}}", nil, Options{Bind: "loopback"}, func(c *Config) any { return c.Gateway.Bind }, "loopback"},
		{"token of the file", "{gateway:{auth:{token:'f'}}}", vars{"HANZOD_TOKEN": "h"}, Options{}, token, "f"},
		{"token ours", "{}", vars{"HANZOD_TOKEN": " h ", "OPENCLAW_GATEWAY_TOKEN": "o"}, Options{}, token, "h"},
		{"token legacy", "{}", vars{"BOT_GATEWAY_TOKEN": "b", "OPENCLAW_GATEWAY_TOKEN": "o"}, Options{}, token, "o"},
		{"token last", "{}", vars{"BOT_GATEWAY_TOKEN": "b", "CLAWDBOT_GATEWAY_TOKEN": "c"}, Options{}, token, "b"},
		{"token not from there", "{}", vars{"CLAWDBOT_GATEWAY_TOKEN": "c"}, Options{}, token, ""},
		{"password", "{}", vars{"BOT_GATEWAY_PASSWORD": "b"}, Options{}, func(c *Config) any { return c.Gateway.Auth.Password.Reveal() }, "b"},
		{"password makes the mode", "{}", vars{"OPENCLAW_GATEWAY_PASSWORD": "b"}, Options{}, func(c *Config) any { return c.AuthMode() }, "password"},
		{"log level", "{logging:{level:'warn'}}", vars{"HANZOD_LOG_LEVEL": "trace"}, Options{}, func(c *Config) any { return c.Logging.Level + c.Logging.ConsoleLevel }, "tracetrace"},
		{"variable", "{gateway:{auth:{token:'a-${T}-$${T}-${t}-$T'}}}", vars{"T": "x"}, Options{}, token, "a-x-${T}-${t}-$T"},
		{"variable of the file", "{env:{T:'1',vars:{T:'2',U:'${V}'}},gateway:{auth:{token:'${T}${U}'}}}", vars{"V": "v"}, Options{}, token, "2v"},
		{"the environment first", "{env:{vars:{T:'2'}},gateway:{auth:{token:'${T}'}}}", vars{"T": "e"}, Options{}, token, "e"},
		{"variables handed out", "{env:{A:'1',shellEnv:{},vars:{PATH:'x',Ld_preload:'y',B:'2',DYLD_X:'z'}}}", nil, Options{}, func(c *Config) any { return []any{len(c.EnvVars), c.EnvVars["A"].Reveal(), c.EnvVars["B"].Reveal()} }, []any{2, "1", "2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := vars{"HOME": realDir(t)}
			maps.Copy(env, c.env)
			c.opts.Env = env.get
			c.opts.Path = write(t, filepath.Join(env["HOME"], "c.json"), c.in)
			got, err := Load(c.opts)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, c.check(got)); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func remoteDoor(c *Config) any {
	hosts, err := c.listenHosts(machine{nil, all})
	if err != nil {
		return err
	}
	port, open := c.RemoteGRPC(hosts)
	return fmt.Sprint(port, " ", open)
}

func token(c *Config) any { return c.Gateway.Auth.Token.Reveal() }

func TestUnreadable(t *testing.T) {
	dir := realDir(t)
	if _, err := Load(Options{Path: dir, Env: vars{"HOME": dir}.get}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if runtime.GOOS == "windows" || os.Getuid() == 0 {
		return
	}
	path := write(t, filepath.Join(dir, "c.json"), "{}")
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Options{Path: path, Env: vars{"HOME": dir}.get}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a closed file: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	for _, s := range []string{
		"{}", "{gateway:{port:1,auth:{token:'${A}'}}}", "{$include:'b.json',gateway:{}}", "{agents:{list:[{id:'a',heartbeat:{every:'1h'}}]}}",
		"{gateway:{auth:{token:{source:'env',id:'A'}}},secrets:{providers:{default:{source:'env'}}}}", "{hooks:{enabled:true,token:'x'}}",
	} {
		f.Add(s)
	}
	home := realDir(f)
	path := filepath.Join(home, "config.json")
	write(f, filepath.Join(home, "b.json"), "{gateway:{bind:'lan'},logging:{}}")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{Path: path, Env: vars{"HOME": home, "A": "value"}.get})
		if err != nil {
			_ = err.Error()
			return
		}
		_, _ = c.ListenHosts()
		_ = c.CheckStart()
		for _, id := range c.AgentIDs() {
			_, _ = c.Beat(id), c.Workspace(id)
		}
		if before := c.Gateway.Auth.Token.IsSet(); !before {
			generated, err := EnsureToken(c)
			if err == nil && generated {
				again, err := Load(Options{Path: path, Env: vars{"HOME": home, "A": "value"}.get})
				if err != nil || again.Gateway.Auth.Token.Reveal() != c.Gateway.Auth.Token.Reveal() {
					t.Fatalf("%q with a token: %v", text, err)
				}
			}
		}
	})
}
