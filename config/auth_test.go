package config

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func addrs(t testing.TB, cidrs ...string) []net.Addr {
	t.Helper()
	var out []net.Addr
	for _, c := range cidrs {
		ip, n, err := net.ParseCIDR(c)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, &net.IPNet{IP: ip, Mask: n.Mask})
	}
	return out
}

func TestCheckStart(t *testing.T) {
	here := machine{addrs(t, "127.0.0.1/8", "192.168.1.5/24", "100.100.1.2/32"), all}
	for _, c := range []struct{ name, in, want string }{
		{"token", "{gateway:{auth:{token:'t'}}}", ""},
		{"remote", "{gateway:{mode:'remote'}}", "Gateway start blocked: set gateway.mode=local (current: remote)."},
		{"both", "{gateway:{auth:{token:'t',password:'p'}}}", "Invalid config: gateway.auth.token and gateway.auth.password are both configured, but gateway.auth.mode is unset. Set gateway.auth.mode to token or password."},
		{"both, with a mode", "{gateway:{auth:{token:'t',password:'p',mode:'token'}}}", ""},
		{"no token", "{}", "gateway auth mode is token, but no token was configured (set gateway.auth.token or HANZOD_TOKEN)"},
		{"no token, serve", "{gateway:{tailscale:{mode:'serve'}}}", ""},
		{"no password", "{gateway:{auth:{mode:'password'}}}", "gateway auth mode is password, but no password was configured (set gateway.auth.password or HANZOD_PASSWORD)"},
		{"none", "{gateway:{auth:{mode:'none'}}}", ""},
		{"none, open", "{gateway:{bind:'lan',auth:{mode:'none'}}}", "refusing to bind gateway to 0.0.0.0:18789 without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)"},
		{"open", "{gateway:{bind:'lan',auth:{token:'t'}}}", ""},
		{"tailnet", "{gateway:{bind:'tailnet',auth:{mode:'none'}}}", "refusing to bind gateway to 100.100.1.2:18789 without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)"},
		{"custom", "{gateway:{bind:'custom',auth:{token:'t'}}}", "gateway.bind=custom requires gateway.customBindHost"},
		{"custom, a name", "{gateway:{bind:'custom',customBindHost:'myhost',auth:{token:'t'}}}", `gateway.bind=custom requires a valid IPv4 customBindHost (got "myhost")`},
		{"custom, version 6", "{gateway:{bind:'custom',customBindHost:'::1',auth:{token:'t'}}}", `gateway.bind=custom requires a valid IPv4 customBindHost (got "::1")`},
		{"custom, right", "{gateway:{bind:'custom',customBindHost:'192.168.1.5',auth:{token:'t'}}}", ""},
		{"no port after the last", "{gateway:{bind:'lan',port:65535,auth:{token:'t'}}}", "the gRPC door for other machines needs a port of its own: set gateway.grpc.port, or gateway.grpc.enabled=false"},
		{"one port for two doors", "{gateway:{port:7,grpc:{port:7,enabled:true},auth:{token:'t'}}}", "the gRPC door for other machines needs a port of its own: set gateway.grpc.port, or gateway.grpc.enabled=false"},
		{"two ports", "{gateway:{bind:'lan',port:65535,grpc:{port:7},auth:{token:'t'}}}", ""},
		{"last port, this machine alone", "{gateway:{port:65535,auth:{token:'t'}}}", ""},
		{"funnel", "{gateway:{tailscale:{mode:'funnel'},auth:{token:'t'}}}", "tailscale funnel requires gateway auth mode=password (set gateway.auth.password or HANZOD_PASSWORD)"},
		{"serve, open", "{gateway:{bind:'lan',tailscale:{mode:'serve'},auth:{token:'t'}}}", "tailscale serve/funnel requires gateway bind=loopback (127.0.0.1)"},
		{"proxy", "{gateway:{auth:{mode:'trusted-proxy'}}}", "gateway auth mode is trusted-proxy, but gateway.auth.trustedProxy is missing (set gateway.auth.trustedProxy.userHeader)"},
		{"proxy, no addresses", "{gateway:{auth:{mode:'trusted-proxy',trustedProxy:{userHeader:'u'}}}}", "gateway auth mode=trusted-proxy requires gateway.trustedProxies to be configured with at least one proxy IP"},
		{"proxy, none local", "{gateway:{trustedProxies:['10.0.0.1'],auth:{mode:'trusted-proxy',trustedProxy:{userHeader:'u'}}}}", "gateway auth mode=trusted-proxy with bind=loopback requires gateway.trustedProxies to include 127.0.0.1, ::1, or a loopback CIDR"},
		{"proxy, local", "{gateway:{trustedProxies:['127.0.0.0/8'],auth:{mode:'trusted-proxy',trustedProxy:{userHeader:'u'}}}}", ""},
		{"proxy, open", "{gateway:{bind:'lan',trustedProxies:['10.0.0.1'],auth:{mode:'trusted-proxy',trustedProxy:{userHeader:'u'}}}}", ""},
		{"iam", "{gateway:{auth:{mode:'iam'}}}", "gateway auth mode is iam, but gateway.auth.iam is missing (set gateway.auth.iam.serverUrl and gateway.auth.iam.clientId)"},
		{"iam, open", "{gateway:{bind:'lan',auth:{mode:'iam',iam:{serverUrl:'u',clientId:'c'}}}}", ""},
		{"hooks", "{gateway:{auth:{token:'t'}},hooks:{enabled:true}}", "hooks.enabled requires hooks.token"},
		{"hooks, same token", "{gateway:{auth:{token:'t'}},hooks:{enabled:true,token:'t'}}", "Invalid config: hooks.token must not match gateway auth token. Set a distinct hooks.token for hook ingress."},
		{"hooks, path", "{gateway:{auth:{token:'t'}},hooks:{enabled:true,token:'h',path:'/'}}", "hooks.path may not be '/'"},
		{"hooks, default key", "{gateway:{auth:{token:'t'}},hooks:{enabled:true,token:'h',defaultSessionKey:'a:b',allowedSessionKeyPrefixes:['c:']}}", "hooks.defaultSessionKey must match hooks.allowedSessionKeyPrefixes"},
		{"hooks, prefixes", "{gateway:{auth:{token:'t'}},hooks:{enabled:true,token:'h',allowedSessionKeyPrefixes:['c:']}}", "hooks.allowedSessionKeyPrefixes must include 'hook:' when hooks.defaultSessionKey is unset"},
		{"hooks, off", "{gateway:{auth:{token:'t'}},hooks:{token:'t'}}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := mustLoad(t, c.in).checkStart(here)
			got := ""
			if err != nil {
				var r *Refused
				if got = err.Error(); !errors.As(err, &r) {
					t.Errorf("%T is no *Refused", err)
				}
			}
			if got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

// all and but are machines on which one can listen on all addresses, and on all but some.
func all(string) bool { return true }

func but(hosts ...string) func(string) bool {
	return func(h string) bool { return !slices.Contains(hosts, h) }
}

func TestListenHosts(t *testing.T) {
	const noLoopback = "gateway bind=loopback resolved to non-loopback host 0.0.0.0; refusing fallback to a network bind"
	for _, c := range []struct {
		in       string
		addrs    []string
		bindable func(string) bool
		want     string
	}{
		{"{}", []string{"127.0.0.1/8"}, all, "127.0.0.1"},
		{"{}", []string{"127.0.0.1/8", "::1/128"}, all, "127.0.0.1 ::1"},
		{"{}", []string{"::1/128"}, but("127.0.0.1"), noLoopback},
		{"{gateway:{bind:'auto'}}", []string{"::1/128"}, all, "127.0.0.1 ::1"},
		{"{gateway:{bind:'auto'}}", nil, but("127.0.0.1"), "0.0.0.0"},
		{"{gateway:{bind:'lan'}}", nil, but("127.0.0.1"), "0.0.0.0"},
		{"{gateway:{bind:'tailnet'}}", []string{"10.0.0.1/8"}, all, "127.0.0.1"},
		{"{gateway:{bind:'tailnet'}}", []string{"10.0.0.1/8"}, but("127.0.0.1"), "0.0.0.0"},
		{"{gateway:{bind:'tailnet'}}", []string{"100.63.0.1/8", "100.127.0.9/10"}, all, "100.127.0.9"},
		{"{gateway:{bind:'tailnet'}}", []string{"100.127.0.9/10"}, but("100.127.0.9"), "127.0.0.1"},
		{"{gateway:{bind:'custom',customBindHost:' 10.1.1.1 '}}", nil, all, "10.1.1.1"},
		{"{gateway:{bind:'custom',customBindHost:'10.1.1.1'}}", nil, but("10.1.1.1"), "gateway bind=custom requested 10.1.1.1 but resolved 0.0.0.0; refusing fallback"},
	} {
		hosts, err := mustLoad(t, c.in).listenHosts(machine{addrs(t, c.addrs...), c.bindable})
		got := strings.Join(hosts, " ")
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s", c.in, got)
		}
	}
	if _, err := mustLoad(t, "{}").ListenHosts(); err != nil {
		t.Error(err)
	}
	// Not even when nobody asked before.
	var r *Refused
	if hosts, err := mustLoad(t, "{gateway:{bind:'lan',auth:{mode:'none'}}}").ListenHosts(); !errors.As(err, &r) {
		t.Errorf("%v, %v", hosts, err)
	}
}

// A mode that falls back to all addresses falls back to what has to be proved there.
func TestFallbackIsChecked(t *testing.T) {
	without := machine{nil, but("127.0.0.1")}
	for in, want := range map[string]string{
		"{gateway:{bind:'auto',auth:{mode:'none'}}}":                                                         "refusing to bind gateway to 0.0.0.0:18789 without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)",
		"{gateway:{bind:'tailnet',auth:{mode:'none'}}}":                                                      "refusing to bind gateway to 0.0.0.0:18789 without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)",
		"{gateway:{bind:'auto',auth:{token:'t'}}}":                                                           "non-loopback Control UI requires gateway.controlUi.allowedOrigins (set explicit origins), or set gateway.controlUi.dangerouslyAllowHostHeaderOriginFallback=true to use Host-header origin fallback mode",
		"{gateway:{bind:'auto',auth:{token:'t'},controlUi:{enabled:false}}}":                                 "",
		"{gateway:{bind:'auto',auth:{token:'t'},controlUi:{allowedOrigins:['https://x']}}}":                  "",
		"{gateway:{bind:'auto',auth:{token:'t'},controlUi:{dangerouslyAllowHostHeaderOriginFallback:true}}}": "",
		"{gateway:{bind:'tailnet',auth:{token:'t'}}}":                                                        "",
		"{gateway:{bind:'lan',tailscale:{mode:'serve'},auth:{allowTailscale:true}}}":                         "tailscale serve/funnel requires gateway bind=loopback (127.0.0.1)",
		"{gateway:{bind:'lan',auth:{allowTailscale:true}}}":                                                  "refusing to bind gateway to 0.0.0.0:18789 without auth (set gateway.auth.token/password, or set HANZOD_TOKEN/HANZOD_PASSWORD)",
	} {
		got := ""
		if err := mustLoad(t, in).checkStart(without); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestAllowedOrigins(t *testing.T) {
	for in, want := range map[string][]string{
		"{}":                      nil,
		"{gateway:{bind:'auto'}}": nil,
		"{gateway:{bind:'lan'}}":  {"http://localhost:18789", "http://127.0.0.1:18789"},
		"{gateway:{bind:'tailnet',tls:{enabled:true}}}":                                    {"https://localhost:18789", "https://127.0.0.1:18789"},
		"{gateway:{bind:'custom',customBindHost:'10.1.1.1',port:5}}":                       {"http://localhost:5", "http://127.0.0.1:5", "http://10.1.1.1:5"},
		"{gateway:{bind:'lan',controlUi:{allowedOrigins:['https://x']}}}":                  {"https://x"},
		"{gateway:{bind:'lan',controlUi:{dangerouslyAllowHostHeaderOriginFallback:true}}}": nil,
	} {
		if d := cmp.Diff(want, mustLoad(t, in).AllowedOrigins()); d != "" {
			t.Errorf("%s: %s", in, d)
		}
	}
}

func TestEnsureToken(t *testing.T) {
	const before = "// my gateway\n{\n  gateway: {\n    port: 5, // the port\n    auth: {\n      // nothing yet\n    },\n  },\n}\n"
	c := mustLoad(t, before)
	generated, err := EnsureToken(c)
	if err != nil || !generated {
		t.Fatal(generated, err)
	}
	token := c.Gateway.Auth.Token.Reveal()
	if !regexp.MustCompile(`^[0-9a-f]{48}$`).MatchString(token) || c.AuthMode() != "token" {
		t.Fatal("token or mode")
	}
	text, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(before, "// nothing yet\n", "// nothing yet\n      mode: \"token\",\n      token: \""+token+"\"\n", 1)
	if d := cmp.Diff(want, string(text)); d != "" {
		t.Fatal(d)
	}
	again, err := Load(Options{Path: c.Path, Env: vars{"HOME": c.Home}.get})
	if err != nil || again.Gateway.Auth.Token.Reveal() != token || again.Hash != c.Hash {
		t.Fatal(err)
	}
	if generated, err := EnsureToken(again); generated || err != nil {
		t.Fatal("a second token", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(c.Path), "*tmp*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEnsureTokenMakesTheFile(t *testing.T) {
	home := realDir(t)
	c, err := Load(Options{Env: vars{"HOME": home}.get})
	if err != nil {
		t.Fatal(err)
	}
	if generated, err := EnsureToken(c); err != nil || !generated || !c.Exists {
		t.Fatal(generated, err)
	}
	if err := c.CheckStart(); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	for path, want := range map[string]os.FileMode{c.Path: 0o600, c.StateDir: 0o700, filepath.Join(home, ".hanzo"): 0o700} {
		st, err := os.Stat(path)
		if err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, st.Mode(), err)
		}
	}
}

func TestEnsureTokenLeavesAlone(t *testing.T) {
	for _, in := range []string{
		"{gateway:{auth:{token:'t'}}}", "{gateway:{auth:{mode:'none'}}}", "{gateway:{auth:{password:'p'}}}",
		"{gateway:{auth:{mode:'password'}}}", "{gateway:{mode:'remote'}}",
	} {
		c := mustLoad(t, in)
		generated, err := EnsureToken(c)
		text, _ := os.ReadFile(c.Path)
		if generated || err != nil || string(text) != in {
			t.Errorf("%s: %v %v %s", in, generated, err, text)
		}
	}
	if c := mustLoad(t, "{}", "OPENCLAW_GATEWAY_TOKEN", "e"); c.Gateway.Auth.Token.IsSet() {
		if generated, err := EnsureToken(c); generated || err != nil {
			t.Error("token of the environment", err)
		}
	}

	c := mustLoad(t, "{}")
	write(t, c.Path, "{gateway:{port:1}}")
	if generated, err := EnsureToken(c); generated || err == nil || !strings.Contains(err.Error(), "changed while the daemon was starting") {
		t.Error("a changed file:", generated, err)
	}
	if text, _ := os.ReadFile(c.Path); string(text) != "{gateway:{port:1}}" {
		t.Errorf("%s", text)
	}
}

func TestEnsureTokenFollowsALink(t *testing.T) {
	home := realDir(t)
	target := write(t, filepath.Join(home, "dotfiles", "real.json"), "{}")
	link := filepath.Join(home, "config.json")
	if err := os.Symlink(target, link); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	c, err := Load(Options{Path: link, Env: vars{"HOME": home}.get})
	if err != nil {
		t.Fatal(err)
	}
	if generated, err := EnsureToken(c); err != nil || !generated {
		t.Fatal(generated, err)
	}
	st, err := os.Lstat(link)
	if err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone", err)
	}
	if text, _ := os.ReadFile(target); !strings.Contains(string(text), c.Gateway.Auth.Token.Reveal()) {
		t.Error("the file does not hold the token")
	}
}

func TestWriteFileAtomic(t *testing.T) {
	dir := realDir(t)
	path := filepath.Join(dir, "f")
	for _, text := range []string{"one", "", "three"} {
		if err := WriteFileAtomic(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	// A write that fails at the last step leaves the old state and no temporary file.
	blocked := filepath.Join(dir, "d")
	write(t, filepath.Join(blocked, "x"), "")
	if err := WriteFileAtomic(blocked, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if err := WriteFileAtomic(filepath.Join(dir, "no", "f"), nil, 0o600); err == nil {
		t.Error("a missing directory was accepted")
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}
