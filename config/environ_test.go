package config

import (
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestEnvironment: a daemon can be told everything that a container needs to say.
func TestEnvironment(t *testing.T) {
	c := mustLoad(t, "{gateway:{port:5,bind:'auto',trustedProxies:['10.0.0.1'],auth:{mode:'token'}}}",
		"HANZOD_BIND", "custom", "HANZOD_BIND_HOST", "10.1.2.3", "HANZOD_PORT", "3000", "HANZOD_GRPC_PORT", "3001",
		"HANZOD_AUTH_MODE", "trusted-proxy", "HANZOD_TRUSTED_PROXIES", "10.0.0.7, fd00::/8,", "HANZOD_TRUSTED_PROXY_USER_HEADER", "X-User",
		"HANZOD_IAM_SERVER_URL", "https://iam", "HANZOD_IAM_CLIENT_ID", "me", "HANZOD_ALLOWED_ORIGINS", "https://a,https://b",
		"HANZOD_TLS_CERT_PATH", "/tls/tls.crt", "HANZOD_TLS_KEY_PATH", "/tls/tls.key", "HANZOD_LOG_LEVEL", "debug", "HANZOD_LOG_FORMAT", "json",
		"HANZOD_LOG_OUTPUT", "stdout", "HANZOD_NODE", "True", "HANZOD_SKIP_CANVAS_HOST", "1")
	g := c.Gateway
	if g.Bind != "custom" || g.CustomBindHost != "10.1.2.3" || g.Port != 3000 || *g.GRPC.Port != 3001 || g.TLS.CertPath != "/tls/tls.crt" || g.TLS.KeyPath != "/tls/tls.key" {
		t.Errorf("gateway is %+v", g)
	}
	if c.AuthMode() != "trusted-proxy" || g.Auth.TrustedProxy.UserHeader != "X-User" || g.Auth.IAM.ServerURL != "https://iam" || g.Auth.IAM.ClientID != "me" {
		t.Errorf("auth is %+v", g.Auth)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32"), netip.MustParsePrefix("fd00::/8")}; !slices.Equal(g.TrustedProxies, want) {
		t.Errorf("proxies are %v, want %v", g.TrustedProxies, want)
	}
	if want := []string{"https://a", "https://b"}; !slices.Equal(g.ControlUI.AllowedOrigins, want) {
		t.Errorf("origins are %v, want %v", g.ControlUI.AllowedOrigins, want)
	}
	if l := c.Logging; l.Level != "debug" || l.ConsoleLevel != "debug" || l.ConsoleStyle != "json" || l.ConsoleOutput != "stdout" {
		t.Errorf("logging is %+v", l)
	}
	if !c.NodeHost.Embedded || c.CanvasHost.Enabled {
		t.Errorf("node %+v, canvas %+v", c.NodeHost, c.CanvasHost)
	}
	plain := mustLoad(t, "{}")
	if plain.Logging.ConsoleOutput != "stderr" || plain.NodeHost.Embedded {
		t.Errorf("without variables: %+v %+v", plain.Logging, plain.NodeHost)
	}
}

// TestEnvironmentWrong: each wrong value is named with its variable.
func TestEnvironmentWrong(t *testing.T) {
	dir := realDir(t)
	_, err := load(t, "{}", "HANZOD_BIND", "everywhere", "HANZOD_AUTH_MODE", "x", "HANZOD_TRUSTED_PROXIES", "10.0.0.1,proxy", "HANZOD_LOG_FORMAT", "xml",
		"HANZOD_LOG_OUTPUT", "file", "HANZOD_NODE", "maybe", "HANZOD_IAM_CLIENT_ID", "me", "HANZOD_GRPC_PORT", "0",
		"HANZOD_TOKEN", "t", "HANZOD_TOKEN_FILE", filepath.Join(dir, "t"), "HANZOD_PASSWORD_FILE", filepath.Join(dir, "p"))
	want := []string{
		`- HANZOD_BIND: Invalid value "everywhere", expected one of "auto", "lan", "loopback", "custom", "tailnet"`,
		`- HANZOD_GRPC_PORT: Expected integer 1..65535, got "0"`,
		`- HANZOD_AUTH_MODE: Invalid value "x", expected one of "none", "token", "password", "trusted-proxy", "iam"`,
		`- HANZOD_TRUSTED_PROXIES: Expected IP address or CIDR block, got "proxy"`,
		`- HANZOD_IAM_CLIENT_ID: HANZOD_IAM_SERVER_URL has to be set too`,
		`- HANZOD_LOG_FORMAT: Invalid value "xml", expected one of "pretty", "compact", "json"`,
		`- HANZOD_LOG_OUTPUT: Invalid value "file", expected one of "stderr", "stdout"`,
		`- HANZOD_NODE: Expected true or false, got "maybe"`,
		`- HANZOD_TOKEN and HANZOD_TOKEN_FILE are both set; leave one of them away`,
		`- HANZOD_PASSWORD_FILE: ` + filepath.Join(dir, "p") + ` cannot be read: no such file or directory`,
	}
	if diff := cmp.Diff(want, issues(t, err)); diff != "" && os.PathSeparator == '/' {
		t.Error(diff)
	}
}

// TestSecretFiles: a secret stands in a file as well as in the environment.
func TestSecretFiles(t *testing.T) {
	dir := realDir(t)
	real := write(t, filepath.Join(dir, "data", "token"), "  s3cret\n")
	linked := filepath.Join(dir, "token")
	if err := os.Symlink(real, linked); err != nil { // as Kubernetes mounts secrets
		t.Skip(err)
	}
	c := mustLoad(t, "{}", "HANZOD_TOKEN_FILE", linked, "OPENCLAW_GATEWAY_TOKEN", "older")
	if c.Gateway.Auth.Token.Reveal() != "s3cret" || len(c.Warnings) != 0 {
		t.Errorf("the token is %q, warnings %q", c.Gateway.Auth.Token.Reveal(), c.Warnings)
	}
	// The file of the configuration counts first, as with the older gateway; whoever set the other is told.
	c = mustLoad(t, "{gateway:{auth:{token:'in the file'}}}", "HANZOD_TOKEN_FILE", linked)
	if c.Gateway.Auth.Token.Reveal() != "in the file" || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "HANZOD_TOKEN_FILE is set, but gateway.auth.token") {
		t.Errorf("the token is %q, warnings %q", c.Gateway.Auth.Token.Reveal(), c.Warnings)
	}
	if c = mustLoad(t, "{gateway:{auth:{token:'s3cret'}}}", "HANZOD_TOKEN_FILE", linked); len(c.Warnings) != 0 {
		t.Errorf("the same token twice: %q", c.Warnings)
	}
	env := Environ(vars{"HANZOD_TOKEN_FILE": write(t, filepath.Join(dir, "empty"), " \n"), "HANZOD_PASSWORD_FILE": dir, "HANZOD_ENROLL_FILE": write(t, filepath.Join(dir, "large"), strings.Repeat("x", maxSecretFileBytes+1))}.get)
	for name, want := range map[string]string{"HANZOD_TOKEN": "is empty", "HANZOD_PASSWORD": "is not a regular file", "HANZOD_ENROLL": "larger than"} {
		if _, v, err := env.Secret(name); err == nil || v.IsSet() || !strings.Contains(err.Error(), name+"_FILE") || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestServiceLinks: what Kubernetes says of a service called hanzod is not meant for hanzod.
func TestServiceLinks(t *testing.T) {
	link := vars{
		"HOME": realDir(t), "HANZOD_PORT": "tcp://10.0.0.7:18789", "HANZOD_SERVICE_HOST": "10.0.0.7", "HANZOD_SERVICE_PORT": "18789",
		"HANZOD_SERVICE_PORT_GRPC": "18790", "HANZOD_PORT_18789_TCP": "tcp://10.0.0.7:18789", "HANZOD_PORT_18789_TCP_ADDR": "10.0.0.7",
		"HANZOD_NODE_PORT": "tcp://10.0.0.8:1", "HANZOD_NODE_SERVICE_HOST": "10.0.0.8",
	}
	c, err := Load(Options{Env: link.get})
	if err != nil || c.Gateway.Port != DefaultPort {
		t.Fatalf("%v, %v", c, err)
	}
	environ := []string{"HANZOD_TOKN=s3cret", "HANZOD_TOKEN=x", "HANZOD_PASSWORD_FILE=x", "HANZOD_PORT_FILE=x", "HANZODX=1", "PATH=/bin", "HANZOD_QUITE_OTHER=1"}
	for k, v := range link {
		environ = append(environ, k+"="+v)
	}
	want := []Stray{{"HANZOD_PORT_FILE", ""}, {"HANZOD_QUITE_OTHER", ""}, {"HANZOD_TOKN", "HANZOD_TOKEN"}}
	if diff := cmp.Diff(want, Strays(environ), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// TestNoHome: an account without a name needs a state directory and nothing else.
func TestNoHome(t *testing.T) {
	dir := realDir(t)
	for _, opts := range []Options{{StateDir: dir, Env: vars{}.get}, {Env: vars{"HANZOD_STATE_DIR": dir}.get}} {
		c, err := Load(opts)
		if err != nil || c.StateDir != dir || c.Path != filepath.Join(dir, "config.json") {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

// TestEveryVariableIsInTheTable: no variable is read past the table, so that none of ours is taken for a
// mistake.
func TestEveryVariableIsInTheTable(t *testing.T) {
	known := map[string]bool{}
	for _, v := range Variables() {
		known[v.Name] = true
		for _, o := range v.Older {
			known[o] = true
		}
		if v.Secret {
			known[v.Name+fileSuffix] = true
		}
		if v.About == "" || !v.Run && !v.Node {
			t.Errorf("%s says nothing of itself", v.Name)
		}
	}
	name := regexp.MustCompile(`\bHANZOD_[A-Z0-9_]+\b`)
	read := 0
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"tests", "fixtures", ".git", "dist", "bin"}, d.Name()) {
			return filepath.SkipDir
		}
		if filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		read++
		for _, n := range name.FindAllString(string(text), -1) {
			if !known[n] {
				t.Errorf("%s has %s, which is not in the table of variables", file, n)
			}
		}
		return nil
	})
	if err != nil || read < 100 {
		t.Errorf("%v, %d files", err, read)
	}
}
