package auth

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// may tells what a connection may do: read, decide on approvals, administer.
func may(t *testing.T, c *conn) string {
	t.Helper()
	out := ""
	for name, ask := range map[string]func() string{
		"reads": func() string { _, e := c.call(t, "node.list", map[string]any{}); return e },
		"approves": func() string {
			_, e := c.call(t, "exec.approval.resolve", map[string]any{"id": "x", "decision": "deny"})
			return e
		},
		"administers": func() string { _, e := c.call(t, "set-heartbeats", map[string]any{}); return e },
	} {
		if e := ask(); !strings.Contains(e, "missing scope") && !strings.Contains(e, "unauthorized role") {
			out += name + " "
		}
	}
	return out
}

func has(t *testing.T, what, got string, want ...string) {
	t.Helper()
	for _, w := range []string{"reads", "approves", "administers"} {
		wanted := false
		for _, x := range want {
			wanted = wanted || x == w
		}
		if strings.Contains(got, w) != wanted {
			t.Errorf("%s: %q, want %v", what, got, want)
		}
	}
}

// The modes that need nobody else, as hello-ok and each door tell them.
func TestPlainModes(t *testing.T) {
	for _, c := range []struct {
		mode, secret string
		auth         map[string]any
	}{
		{"token", hanzodtest.Token, tokenMode()},
		{"password", "a-password-0123456789", map[string]any{"mode": "password", "password": "a-password-0123456789"}},
		{"none", "", map[string]any{"mode": "none"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			d := start(t, map[string]any{"auth": c.auth})
			in := hello{scopes: allScopes, device: "d", token: c.secret, password: c.secret}.connect(t, d)
			if in.refused != "" || in.get(t, "snapshot", "authMode") != c.mode {
				t.Errorf("with a device: %s, authMode %v", in.refused, in.get(t, "snapshot", "authMode"))
			}
			has(t, "the device", may(t, in), "reads", "approves", "administers")
			alone := hello{scopes: allScopes, token: c.secret, password: c.secret}
			want, status := "in", http.StatusOK
			if c.mode == "none" {
				want, status = "DEVICE_IDENTITY_REQUIRED", http.StatusUnauthorized
			}
			if got := alone.verdict(t, d); got != want {
				t.Errorf("without a device: %s", got)
			}
			if got := nodes(t, d, bearer(c.secret+"x")); got != http.StatusUnauthorized {
				t.Errorf("REST with another secret: %d", got)
			}
			if c.secret != "" {
				if got := nodes(t, d, bearer(c.secret)); got != status {
					t.Errorf("REST: %d", got)
				}
			}
			if got := nodes(t, d); got != http.StatusUnauthorized {
				t.Errorf("REST with nothing: %d", got)
			}
			token, _ := in.get(t, "auth", "deviceToken").(string)
			if got := nodes(t, d, bearer(token)); got != http.StatusOK {
				t.Errorf("REST with the device token: %d", got)
			}
		})
	}
}

// A proxy that says who its user is: over the WebSocket, over REST, and not for who is no proxy.
func TestTrustedProxy(t *testing.T) {
	d := start(t, map[string]any{
		"trustedProxies": []string{"127.0.0.1"},
		"controlUi":      map[string]any{"allowedOrigins": []string{"https://gw.example"}},
		"auth": map[string]any{"mode": "trusted-proxy", "trustedProxy": map[string]any{
			"userHeader": "X-User", "requiredHeaders": []string{"X-Verified"}, "allowUsers": []string{"ann"},
		}},
	})
	via := []string{"X-Forwarded-For: 203.0.113.7", "X-Forwarded-Host: gw.example"}
	ann := append([]string{"X-User: ann", "X-Verified: yes"}, via...)
	in := hello{scopes: allScopes, header: ann}.connect(t, d)
	if in.refused != "" || in.get(t, "snapshot", "authMode") != "trusted-proxy" {
		t.Fatalf("%s, %s", in.refused, in.payload)
	}
	has(t, "ann", may(t, in), "reads", "approves", "administers")
	for name, c := range map[string]struct {
		header []string
		ui     bool
		want   string
	}{
		"another user":       {append([]string{"X-User: eve", "X-Verified: yes"}, via...), false, "AUTH_UNAUTHORIZED"},
		"no user":            {append([]string{"X-Verified: yes"}, via...), false, "AUTH_UNAUTHORIZED"},
		"two users":          {append([]string{"X-User: ann", "X-User: eve", "X-Verified: yes"}, via...), false, "AUTH_UNAUTHORIZED"},
		"not verified":       {append([]string{"X-User: ann"}, via...), false, "AUTH_UNAUTHORIZED"},
		"control ui":         {append(slices.Clip(ann), "Origin: https://gw.example"), true, "in"},
		"control ui, page":   {append(slices.Clip(ann), "Origin: https://evil.example"), true, originText},
		"control ui, eve":    {append([]string{"X-User: eve", "X-Verified: yes", "Origin: https://gw.example"}, via...), true, "CONTROL_UI_DEVICE_IDENTITY_REQUIRED"},
		"page through proxy": {append(slices.Clip(ann), "Origin: https://evil.example"), false, originText},
		"hidden page":        {append(slices.Clip(ann), "Origin: null"), false, originText},
		"app through proxy":  {append(slices.Clip(ann), "Origin: https://gw.example"), false, "in"},
	} {
		h := hello{scopes: allScopes, token: "x", header: c.header}
		if c.ui {
			h.id, h.mode = "openclaw-control-ui", "webchat"
		}
		if got := h.verdict(t, d); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	for name, c := range map[string]struct {
		header []string
		want   int
	}{
		"ann":           {append([]string{"Host: gw.example"}, ann...), 200},
		"own token":     {append([]string{"Host: gw.example", bearer("of-the-proxy")}, ann...), 200},
		"nothing":       {append([]string{"Host: gw.example"}, via...), 401},
		"own page":      {append([]string{"Host: gw.example", "Origin: https://gw.example"}, ann...), 200},
		"foreign page":  {append([]string{"Host: gw.example", "Origin: https://evil.example"}, ann...), 403},
		"foreign image": {append([]string{"Host: gw.example", "Sec-Fetch-Site: cross-site"}, ann...), 403},
		// A page whose own name leads to this machine can send any header.
		"rebound name":   {append([]string{"Host: evil.example"}, ann...), 421},
		"rebound origin": {append([]string{"Host: evil.example", "Origin: http://evil.example"}, ann...), 421},
	} {
		if got := nodes(t, d, c.header...); got != c.want {
			t.Errorf("REST, %s: %d", name, got)
		}
	}

	stranger := start(t, map[string]any{
		"trustedProxies": []string{"127.0.0.9"},
		"auth":           map[string]any{"mode": "trusted-proxy", "trustedProxy": map[string]any{"userHeader": "X-User"}},
	})
	if got := (hello{scopes: allScopes, token: "x", header: []string{"X-User: ann"}}).verdict(t, stranger); got != "AUTH_UNAUTHORIZED" {
		t.Errorf("who is no proxy: %s", got)
	}
	if got := nodes(t, stranger, "X-User: ann"); got != 401 {
		t.Errorf("REST, who is no proxy: %d", got)
	}
}

const originText = "origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)"

// The identity service of Tailscale, on a socket: who owns the address that the proxy of the tailnet
// names may ask to be paired.
func TestTailscale(t *testing.T) {
	dir, err := os.MkdirTemp("", "ts")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Skip("no such sockets here:", err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/localapi/v0/whois" && strings.HasPrefix(r.URL.Query().Get("addr"), "100.64.0.9:") {
			fmt.Fprint(w, `{"UserProfile":{"LoginName":"ann@example.com"}}`)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	})}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	defer func() { _ = srv.Close(); <-served }()

	d := start(t, map[string]any{"auth": tokenMode("allowTailscale", true)}, func(o *hanzodtest.Options) {
		o.TailscaleSocket = filepath.Join(dir, "s")
	})
	via := func(addr, login string) []string {
		return []string{
			"Host: box.tail1.ts.net", "X-Forwarded-For: " + addr, "X-Forwarded-Proto: https", "X-Forwarded-Host: box.tail1.ts.net",
			"Tailscale-User-Login: " + login, "Tailscale-User-Name: Ann",
		}
	}
	for name, c := range map[string]struct {
		h    hello
		want string
	}{
		"ann":                {hello{device: "laptop", scopes: allScopes, header: via("100.64.0.9", "ann@example.com")}, "PAIRING_REQUIRED"},
		"ann, a wrong token": {hello{device: "laptop", scopes: allScopes, token: "x", header: via("100.64.0.9", "ann@example.com")}, "PAIRING_REQUIRED"},
		"without a device":   {hello{scopes: allScopes, header: via("100.64.0.9", "ann@example.com")}, "DEVICE_IDENTITY_REQUIRED"},
		"somebody else's":    {hello{device: "laptop", scopes: allScopes, header: via("100.64.0.8", "ann@example.com")}, "AUTH_TOKEN_MISSING"},
		"says to be ann":     {hello{device: "laptop", scopes: allScopes, header: via("100.64.0.9", "eve@example.com")}, "AUTH_TOKEN_MISSING"},
		"no tailnet":         {hello{device: "laptop", scopes: allScopes, header: via("203.0.113.7", "ann@example.com")}, "AUTH_TOKEN_MISSING"},
		"the secret":         {hello{scopes: allScopes, token: d.Token, header: via("203.0.113.7", "ann@example.com")}, "in"},
	} {
		if got := c.h.verdict(t, d); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := nodes(t, d, append(via("100.64.0.9", "ann@example.com"), bearer("x"))...); got != 401 {
		t.Errorf("a request: %d", got)
	}
}

// What gateway.controlUi opens, and that the log says so.
func TestControlUIFlags(t *testing.T) {
	ui := func(token string, header ...string) hello {
		return hello{id: "openclaw-control-ui", mode: "webchat", scopes: allScopes, token: token, header: header}
	}
	for _, c := range []struct {
		flags          map[string]any
		near, far, log string
	}{
		{map[string]any{}, "CONTROL_UI_DEVICE_IDENTITY_REQUIRED", "CONTROL_UI_DEVICE_IDENTITY_REQUIRED", ""},
		{map[string]any{"allowInsecureAuth": true}, "in", "CONTROL_UI_DEVICE_IDENTITY_REQUIRED", "allowInsecureAuth is on"},
		{map[string]any{"dangerouslyDisableDeviceAuth": true}, "in", "in", "dangerouslyDisableDeviceAuth is on"},
	} {
		c.flags["allowedOrigins"] = []string{"https://ui.example"}
		d := start(t, map[string]any{"trustedProxies": []string{"127.0.0.9"}, "controlUi": c.flags, "auth": tokenMode()})
		own := origin("http://%s", d.Addr())
		far := []string{"X-Forwarded-For: 203.0.113.7", "Origin: https://ui.example"}
		if got := ui(d.Token, own).verdict(t, d); got != c.near {
			t.Errorf("%v, near: %s", c.flags, got)
		}
		if got := ui(d.Token, far...).verdict(t, d); got != c.far {
			t.Errorf("%v, far: %s", c.flags, got)
		}
		if got := ui("x", own).verdict(t, d); got == "in" {
			t.Errorf("%v, a wrong token", c.flags)
		}
		if got := ui("", own).verdict(t, d); got == "in" {
			t.Errorf("%v, no token", c.flags)
		}
		if got := ui(d.Token, "Origin: https://evil.example").verdict(t, d); got != originText {
			t.Errorf("%v, a foreign page: %s", c.flags, got)
		}
		// A device that is sent is checked unless devices are not asked for at all.
		h := ui(d.Token, own)
		h.device = "browser"
		in := h.connect(t, d)
		if paired := in.get(t, "auth", "deviceToken") != nil; in.refused != "" || paired != (c.flags["dangerouslyDisableDeviceAuth"] == nil) {
			t.Errorf("%v, with a device: %s, paired %t", c.flags, in.refused, paired)
		}
		log := d.LogText()
		if c.log != "" && !strings.Contains(log, "DANGEROUS: gateway.controlUi."+c.log) || (c.log == "") == strings.Contains(log, "DANGEROUS") {
			t.Errorf("%v: the log says %q", c.flags, log)
		}
		if c.near == "in" != strings.Contains(log, "without a device") {
			t.Errorf("%v: the log does not tell of who was let in", c.flags)
		}
	}
}

// Mode none and web pages: no page of another origin gets in, whatever it says it is.
func TestModeNoneAndPages(t *testing.T) {
	d := start(t, map[string]any{"auth": map[string]any{"mode": "none"}})
	for _, id := range []string{"cli", "openclaw-control-ui", "webchat", "gateway-client", "test"} {
		for _, o := range []string{"https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost.evil.example"} {
			h := hello{id: id, mode: "webchat", scopes: allScopes, device: "page", header: []string{"Origin: " + o}}
			if got := h.verdict(t, d); got != originText {
				t.Errorf("%s from %s: %s", id, o, got)
			}
		}
		// A page whose own name leads to this machine.
		h := hello{id: id, mode: "webchat", scopes: allScopes, device: "page", header: []string{"Origin: http://evil.example", "Host: evil.example"}}
		if got := h.verdict(t, d); got != originText {
			t.Errorf("%s from a rebound name: %s", id, got)
		}
	}
}
