package web_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/store"
)

// A connection that the server closes lingers for half a second, so that its client sees the answer.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const hookToken = "hook-token-0123456789"

type object = map[string]any

// start runs a daemon with hooks and a canvas directory, its configuration changed.
func start(t testing.TB, change func(o *hanzodtest.Options, cfg object)) (d *hanzodtest.Daemon, canvas string) {
	t.Helper()
	canvas = filepath.Join(t.TempDir(), "canvas")
	o := hanzodtest.Options{Config: object{
		"hooks":      object{"enabled": true, "token": hookToken},
		"canvasHost": object{"root": canvas},
	}}
	if change != nil {
		change(&o, o.Config)
	}
	return hanzodtest.Start(t, o), canvas
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) json(t testing.TB) object {
	t.Helper()
	var out object
	if err := json.Unmarshal([]byte(a.body), &out); err != nil {
		t.Fatalf("%q: %v", a.body, err)
	}
	if got := a.header.Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	return out
}

// raw sends a request as it stands, so that no client tidies it, and reads the answer.
func raw(t testing.TB, addr, method, path, body string, header ...string) answer {
	t.Helper()
	c := dial(t, addr)
	defer c.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, path)
	host := "Host: " + addr
	for _, h := range header {
		if strings.HasPrefix(h, "Host:") {
			host = h
			continue
		}
		b.WriteString(h + "\r\n")
	}
	b.WriteString(host + "\r\n")
	if body != "" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n" + body)
	if _, err := io.WriteString(c, b.String()); err != nil {
		t.Fatal(err)
	}
	return read(t, c, method)
}

func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

func read(t testing.TB, c net.Conn, method string) answer {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return answer{res.StatusCode, res.Header, ""}
	}
	data, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(data)}
}

func bearer(token string) string { return "Authorization: Bearer " + token }

// upgrade is what a WebSocket client sends, with changes: "Name:" leaves a header out.
func upgrade(changes ...string) []string {
	h := []string{
		"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}
	for _, c := range changes {
		name, value, _ := strings.Cut(c, ":")
		var kept []string
		for _, old := range h {
			if !strings.HasPrefix(old, name+":") {
				kept = append(kept, old)
			}
		}
		if h = kept; value != "" {
			h = append(h, c)
		}
	}
	return h
}

// Every route, by every method, for everybody who may ask.
func TestRouteTable(t *testing.T) {
	d, canvas := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["gateway"] = object{
			"auth": object{"mode": "token", "token": hanzodtest.Token},
			"http": object{"endpoints": object{"responses": object{"enabled": true}}, "securityHeaders": object{"strictTransportSecurity": "max-age=9"}},
		}
	})
	write(t, filepath.Join(canvas, "a.txt"), "A")
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	callers := map[string][]string{
		"nobody":  nil,
		"far":     {"X-Forwarded-For: 203.0.113.7"}, // not this machine
		"wrong":   {"X-Forwarded-For: 203.0.113.7", bearer("wrong")},
		"gateway": {"X-Forwarded-For: 203.0.113.7", bearer(hanzodtest.Token)},
		"hook":    {"X-Forwarded-For: 203.0.113.7", bearer(hookToken)},
		"page":    {"Origin: https://evil.example", bearer(hanzodtest.Token)},
	}
	// want gives the status for a method and a caller.
	type verdict func(method, caller string) int
	reads := func(method string) bool { return method == "GET" || method == "HEAD" }
	always := func(status int) verdict { return func(string, string) int { return status } }
	hook := func(found int) verdict {
		return func(method, caller string) int {
			switch {
			case caller == "page":
				return 403
			case caller != "hook":
				return 401
			case method != "POST":
				return 405
			}
			return found
		}
	}
	gateway := func(done int) verdict {
		return func(method, caller string) int {
			switch {
			case method != "POST":
				return 405
			case caller == "page":
				return 403
			case caller != "gateway":
				return 401
			}
			return done
		}
	}
	canvasHost := func(found int) verdict {
		return func(method, caller string) int {
			switch {
			case caller != "nobody" && caller != "gateway" && caller != "page": // the page sends the right bearer
				return 401
			case !reads(method):
				return 405
			}
			return found
		}
	}
	probe := func(method, _ string) int {
		if reads(method) {
			return 200
		}
		return 405
	}
	// The Control UI has no directory here, and says so where people look for it.
	noUI := func(method, _ string) int {
		if reads(method) {
			return 503
		}
		return 404
	}
	channels := func(_, caller string) int {
		if caller == "gateway" || caller == "page" {
			return 404
		}
		return 401
	}
	// Screens and all that shows them take the gateway's credentials, from a page of this gateway too.
	screen := func(found int) verdict {
		return func(method, caller string) int {
			switch {
			case !reads(method):
				return 405
			case caller == "page":
				return 403
			case caller != "gateway":
				return 401
			}
			return found
		}
	}
	queryless := func(found int) verdict {
		return func(method, _ string) int {
			if reads(method) {
				return found
			}
			return 405
		}
	}
	for path, want := range map[string]verdict{
		"/vnc": screen(426), "/vnc-viewer?nodeId=x": screen(200), "/vnc-viewer/viewer.js": screen(200), "/vnc-viewer/novnc/core/rfb.js": screen(200),
		"/vnc-viewer/nope": screen(404), "/vnc-viewer/": screen(404), "/vnc-tunnel": always(404), "/vnc-tunnel?tunnelId=x": always(426),
		"/vnc-viewer?token=x": queryless(400),
		"/hooks":              hook(404), "/hooks/": hook(404), "/hooks/wake": hook(400), "/hooks/agent": hook(400), "/hooks/nope": hook(404),
		"/hooks/wake?token=x":           always(400),
		"/hooksx":                       always(404),
		"/tools/invoke":                 gateway(400),
		"/tools/invoke/":                always(404),
		"/v1/responses":                 gateway(501),
		"/v1/chat/completions":          always(404),
		"/__openclaw__/canvas/a.txt":    canvasHost(200),
		"/__bot__/canvas/a.txt":         canvasHost(200),
		"/__openclaw__/canvas/nope":     canvasHost(404),
		"/__openclaw__/canvas":          canvasHost(200),
		"/__openclaw__/a2ui/":           canvasHost(503),
		"/__openclaw__/canvasx":         always(404),
		"/__openclaw__/cap/x":           always(401),
		"/__openclaw__/cap//canvas/":    always(401),
		"/__openclaw__/cap/%20/canvas/": always(401),
		"/__openclaw__/cap/x/vnc":       always(403),
		"/api/channels/nostr/x":         channels,
		"/api/nope":                     always(404),
		"/plugins/nope":                 always(404),
		"/health":                       probe, "/readyz": probe,
		"/":     noUI,
		"/nope": always(404),
	} {
		for _, method := range methods {
			for caller, header := range callers {
				a := raw(t, d.Addr(), method, path, "", header...)
				if got := want(method, caller); a.status != got {
					t.Errorf("%s %s as %s: %d %q, want %d", method, path, caller, a.status, a.body, got)
				}
				for name, value := range map[string]string{
					"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
					"Permissions-Policy":        "camera=(), microphone=(), geolocation=()",
					"Strict-Transport-Security": "max-age=9",
				} {
					if a.header.Get(name) != value {
						t.Errorf("%s %s as %s: %s is %q", method, path, caller, name, a.header.Get(name))
					}
				}
				if method == "HEAD" && a.body != "" {
					t.Errorf("HEAD %s: %q", path, a.body)
				}
				if a.status == 405 && a.header.Get("Allow") == "" {
					t.Errorf("%s %s: no Allow", method, path)
				}
			}
		}
	}
	for _, secret := range []string{hookToken, hanzodtest.Token} {
		if strings.Contains(d.LogText(), secret) {
			t.Error("a token is in the log")
		}
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// No credential of the gateway or of hooks counts in a URL.
func TestNoCredentialsInURLs(t *testing.T) {
	d, canvas := start(t, nil)
	write(t, filepath.Join(canvas, "a.txt"), "A")
	for _, c := range []struct{ method, path string }{
		{"POST", "/tools/invoke"}, {"GET", "/__openclaw__/canvas/a.txt"}, {"GET", "/v1/nodes"}, {"GET", "/metrics"},
		{"POST", "/hooks/wake"}, {"GET", "/api/channels/x"},
	} {
		for _, name := range []string{"token", "access_token", "auth", "password", "oc_cap", "Authorization"} {
			for _, secret := range []string{hanzodtest.Token, hookToken} {
				a := raw(t, d.Addr(), c.method, c.path+"?"+name+"="+secret, `{"tool":"x","text":"x"}`, "X-Forwarded-For: 203.0.113.7")
				if a.status != 401 && a.status != 400 {
					t.Errorf("%s %s?%s: %d %q", c.method, c.path, name, a.status, a.body)
				}
			}
		}
	}
}

// Ways to spell a path that must not lead past the check of the one it looks like.
func TestPathTricks(t *testing.T) {
	d, canvas := start(t, nil)
	write(t, filepath.Join(canvas, "..", "secret.txt"), "S3CRET")
	write(t, filepath.Join(canvas, ".env"), "S3CRET")
	write(t, filepath.Join(canvas, ".git", "config"), "S3CRET")
	write(t, filepath.Join(canvas, "a.txt"), "A")
	write(t, filepath.Join(canvas, "sub", "b.txt"), "B")
	if err := os.Symlink(filepath.Join(canvas, "..", "secret.txt"), filepath.Join(canvas, "out.txt")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..", filepath.Join(canvas, "up")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.txt", filepath.Join(canvas, "in.txt")); err != nil {
		t.Fatal(err)
	}
	const far = "X-Forwarded-For: 203.0.113.7"
	for _, c := range []struct {
		path   string
		status int
		header []string
	}{
		// Hooks and tools: another spelling is another path, and none answers 200.
		{"/hooks/../hooks/wake", 401, nil}, {"/hooks/%2e%2e/v1/nodes", 401, nil}, {"/%68ooks/wake", 404, nil},
		{"/hooks%2Fwake", 404, nil}, {"//hooks/wake", 404, nil}, {"/hooks//wake", 401, nil}, {"/Hooks/wake", 404, nil},
		{"/tools/../tools/invoke", 404, nil}, {"/tools/%69nvoke", 404, nil}, {"/tools//invoke", 404, nil}, {"/tools%2finvoke", 404, nil},
		{"/x/../v1/nodes", 404, nil}, {"//v1/nodes", 404, nil}, {"/%76%31/nodes", 404, nil}, {"/v1/../v1/nodes", 404, nil}, {"/v1/%2e%2e/metrics", 404, nil},
		{"/metrics/", 404, nil}, {"/%6detrics", 404, nil},
		// Routes of channels: whatever anything behind us could read the path as.
		{"/api/channels", 401, nil}, {"/api/channels/x", 401, nil}, {"/api//channels/x", 401, nil}, {"/API/Channels/x", 401, nil},
		{"/api/%63hannels/x", 401, nil}, {"/api/%2563hannels/x", 401, nil}, {"/api/x/../channels/y", 401, nil}, {"/api%2fchannels", 401, nil},
		{"/%2525252561pi/channels", 401, nil}, {"/x%25zz", 401, nil}, {`/api\channels`, 401, nil}, {"/api/channelsx", 404, nil},
		// The canvas host.
		{"/__openclaw__/canvas/a.txt", 200, nil}, {"/__openclaw__/canvas/in.txt", 200, nil}, {"/__openclaw__/canvas/sub/b.txt", 200, nil},
		{"/__openclaw__/canvas/sub%2fb.txt", 200, nil},
		{"/__openclaw__/canvas/../secret.txt", 404, nil}, {"/__openclaw__/canvas/%2e%2e/secret.txt", 404, nil},
		{"/__openclaw__/canvas/..%2fsecret.txt", 404, nil}, {"/__openclaw__/canvas/%2e%2e%2fsecret.txt", 404, nil},
		{"/__openclaw__/canvas/sub/../../secret.txt", 404, nil}, {`/__openclaw__/canvas/..\secret.txt`, 404, nil},
		{"/__openclaw__/canvas/%252e%252e/secret.txt", 404, nil}, {"/__openclaw__/canvas/out.txt", 404, nil},
		{"/__openclaw__/canvas/up/secret.txt", 404, nil}, {"/__openclaw__/canvas/.env", 404, nil}, {"/__openclaw__/canvas/.git/config", 404, nil},
		{"/__openclaw__/canvas/a.txt%00.html", 404, nil}, {"/__openclaw__/canvas//etc/passwd", 404, nil}, {"/__openclaw__/canvas/C:/x", 404, nil},
		{"/__openclaw__/canvas/sub", 404, nil}, {"/__openclaw__/canvas/sub/", 404, nil}, {"/__openclaw__/canvas/a.txt/", 404, nil}, {"/__openclaw__/canvas//sub//b.txt", 200, nil},
		{"/__openclaw__/canvas/" + strings.Repeat("a/", 1000), 404, nil}, {"/__openclaw__/canvas/" + strings.Repeat("a", 5000), 404, nil},
		{"/__openclaw__/canvas/a.txt", 401, []string{far}}, {"/__openclaw__/%63anvas/a.txt", 404, []string{far}},
		{"//__openclaw__/canvas/a.txt", 404, []string{far}}, {"/x/../__openclaw__/canvas/a.txt", 404, []string{far}},
		{"/__openclaw__/cap/x/%2e%2e/canvas/a.txt", 404, []string{far}}, {"/__openclaw__/cap/x/canvas/a.txt", 404, []string{far}},
		{"/__openclaw__/cap/x/__openclaw__/canvas/a.txt", 401, []string{far}},
		{"/__openclaw__/cap/x/__openclaw__/cap/y/__openclaw__/canvas/a.txt", 404, []string{far}},
		{"/" + strings.Repeat("a", 20_000), 404, nil},
	} {
		a := raw(t, d.Addr(), "GET", c.path, "", c.header...)
		if a.status != c.status {
			t.Errorf("%.80s: %d %q, want %d", c.path, a.status, a.body, c.status)
		}
		if strings.Contains(a.body, "S3CRET") || strings.Contains(a.body, "root:") {
			t.Errorf("%.80s: %q", c.path, a.body)
		}
	}
	// What the server itself refuses.
	for path, status := range map[string]int{"/%zz": 400, "/a\x00b": 400, "/" + strings.Repeat("a", 64<<10): 431} {
		if a := raw(t, d.Addr(), "GET", path, ""); a.status != status {
			t.Errorf("%.20q: %d", path, a.status)
		}
	}
}

func TestUpgrades(t *testing.T) {
	d, _ := start(t, nil)
	for _, c := range []struct {
		name, method, path string
		header             []string
		status             int
		body               string
	}{
		{"plain", "GET", "/", upgrade(), 101, ""},
		{"any path and query", "GET", "/v1/nodes?token=x&a=b", upgrade(), 101, ""},
		{"path of hooks", "GET", "/hooks/wake?token=x", upgrade(), 101, ""},
		{"credentials are not looked at", "GET", "/x", append(upgrade(), bearer("wrong"), "Cookie: a=b"), 101, ""},
		{"version 8", "GET", "/", upgrade("Sec-WebSocket-Version: 8"), 101, ""},
		{"other Host", "GET", "/", append(upgrade(), "Host: gateway.tailnet.ts.net"), 101, ""},
		{"letters", "GET", "/", upgrade("Connection: keep-alive, upgrade", "Upgrade: WebSocket"), 101, ""},
		{"compression declined", "GET", "/", append(upgrade(), "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), 101, ""},
		{"capability", "GET", "/__openclaw__/cap/abc/", upgrade(), 101, ""},
		{"capability, other name", "GET", "/__bot__/cap/abc/x", upgrade(), 101, ""},

		{"method", "POST", "/", upgrade(), 405, "Invalid HTTP method"},
		{"method first", "PUT", "/", upgrade("Upgrade: x", "Sec-WebSocket-Key:"), 405, "Invalid HTTP method"},
		{"other protocol", "GET", "/", upgrade("Upgrade: tls/1.0"), 400, "Invalid Upgrade header"},
		{"no key", "GET", "/", upgrade("Sec-WebSocket-Key:"), 400, "Missing or invalid Sec-WebSocket-Key header"},
		{"short key", "GET", "/", upgrade("Sec-WebSocket-Key: AAAA"), 400, "Missing or invalid Sec-WebSocket-Key header"},
		{"key of other letters", "GET", "/", upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q=="), 400, "Missing or invalid Sec-WebSocket-Key header"},
		{"two keys", "GET", "/", append(upgrade(), "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "Missing or invalid Sec-WebSocket-Key header"},
		{"key before version", "GET", "/", upgrade("Sec-WebSocket-Key:", "Sec-WebSocket-Version: 7"), 400, "Missing or invalid Sec-WebSocket-Key header"},
		{"no version", "GET", "/", upgrade("Sec-WebSocket-Version:"), 400, "Missing or invalid Sec-WebSocket-Version header"},
		{"version 12", "GET", "/", upgrade("Sec-WebSocket-Version: 12"), 400, "Missing or invalid Sec-WebSocket-Version header"},
		{"empty protocol", "GET", "/", append(upgrade(), "Sec-WebSocket-Protocol:"), 400, "Invalid Sec-WebSocket-Protocol header"},
		{"protocol left out", "GET", "/", append(upgrade(), "Sec-WebSocket-Protocol: a,,b"), 400, "Invalid Sec-WebSocket-Protocol header"},
		{"protocol twice", "GET", "/", append(upgrade(), "Sec-WebSocket-Protocol: a, b", "Sec-WebSocket-Protocol: a"), 400, "Invalid Sec-WebSocket-Protocol header"},
		{"no protocol", "GET", "/", append(upgrade(), "Sec-WebSocket-Protocol: a/b"), 400, "Invalid Sec-WebSocket-Protocol header"},
		{"capability malformed", "GET", "/__openclaw__/cap/", upgrade(), 401, ""},
		{"capability without end", "GET", "/__openclaw__/cap/abc", upgrade(), 401, ""},
		{"capability blank", "GET", "/__bot__/cap/%20/x", upgrade(), 401, ""},
		{"VNC", "GET", "/vnc", upgrade(), 401, ""},
		{"VNC of a node", "GET", "/vnc?nodeId=n", upgrade(), 401, ""},
		{"VNC with a token in the address", "GET", "/vnc?token=" + hanzodtest.Token, upgrade(), 400, ""},
		{"VNC tunnel without a token", "GET", "/vnc-tunnel", upgrade(), 404, ""},
		{"VNC tunnel", "GET", "/vnc-tunnel?tunnelId=x", upgrade(), 403, ""},
		{"VNC under a capability", "GET", "/__openclaw__/cap/abc/vnc", upgrade(), 403, ""},
		{"VNC by another protocol", "POST", "/vnc", upgrade("Upgrade: x"), 405, ""},
		{"live reload from afar", "GET", "/__openclaw__/ws", append(upgrade(), "X-Forwarded-For: 203.0.113.7"), 401, ""},
		{"live reload, bad capability", "GET", "/__bot__/cap/abc/__bot__/ws", append(upgrade(), "X-Forwarded-For: 203.0.113.7"), 401, ""},
		{"live reload of a foreign page", "GET", "/__openclaw__/ws", append(upgrade(), "Origin: https://evil.example"), 401, ""},

		{"no upgrade", "GET", "/nope", upgrade("Connection: keep-alive"), 404, "Not Found"},
		{"HTTP/2 offered", "GET", "/health", []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"}, 200, `{"ok":true,"status":"live"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := raw(t, d.Addr(), c.method, c.path, "", c.header...)
			if a.status != c.status || (c.body != "" && a.body != c.body) {
				t.Fatalf("%d %q, want %d %q", a.status, a.body, c.status, c.body)
			}
			if a.status == 101 {
				if a.header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || a.header.Get("Sec-WebSocket-Extensions") != "" || a.header.Get("Sec-WebSocket-Protocol") != "" {
					t.Errorf("%v", a.header)
				}
				return
			}
			if a.status >= 400 && c.name != "no upgrade" && a.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%v", a.header)
			}
			if strings.Contains(a.body, "Version") && a.header.Get("Sec-WebSocket-Version") != "13, 8" {
				t.Errorf("versions %q", a.header.Get("Sec-WebSocket-Version"))
			}
			if strings.HasPrefix(c.name, "capability") && a.body != "" {
				t.Errorf("body %q", a.body)
			}
		})
	}
	// The first protocol that is offered is named.
	a := raw(t, d.Addr(), "GET", "/", "", append(upgrade(), "Sec-WebSocket-Protocol: one, two", "Sec-WebSocket-Protocol: three")...)
	if a.status != 101 || a.header.Get("Sec-WebSocket-Protocol") != "one" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// A web page that comes by a name of its own gets a connection, and is judged by its origin there.
func TestRebindingPageIsRefusedInTheHandshake(t *testing.T) {
	d, _ := start(t, nil)
	for _, version := range []string{"13", "8"} {
		name := "Origin"
		if version == "8" {
			name = "Sec-WebSocket-Origin"
		}
		c := dial(t, d.Addr())
		defer c.Close()
		text := "GET / HTTP/1.1\r\nHost: evil.example:18789\r\n" + name + ": http://evil.example:18789\r\n" +
			strings.Join(upgrade("Sec-WebSocket-Version: "+version), "\r\n") + "\r\n\r\n"
		frame := `{"type":"req","id":"1","method":"connect","params":{"minProtocol":3,"maxProtocol":3,"client":{"id":"cli","version":"1","platform":"linux","mode":"cli"},"auth":{"token":"` + hanzodtest.Token + `"}}}`
		if _, err := io.WriteString(c, text+masked(frame)); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for buf := make([]byte, 4096); !strings.Contains(got.String(), `"ok":`); {
			n, err := c.Read(buf)
			got.Write(buf[:n])
			if err != nil {
				break
			}
		}
		if !strings.Contains(got.String(), "origin not allowed") || strings.Contains(got.String(), "hello-ok") {
			t.Errorf("version %s: %q", version, got.String())
		}
	}
}

// masked is a text frame of a client.
func masked(s string) string {
	return "\x81\xfe" + string([]byte{byte(len(s) >> 8), byte(len(s))}) + "\x00\x00\x00\x00" + s
}

func TestForeignPages(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["gateway"] = object{
			"auth": object{"mode": "token", "token": hanzodtest.Token}, "controlUi": object{"allowedOrigins": []string{"https://ui.example"}},
		}
	})
	own := "Origin: http://" + d.Addr()
	for _, c := range []struct {
		name   string
		header []string
		may    bool
	}{
		{"no page", nil, true},
		{"this machine", []string{own}, true},
		{"allowed", []string{"Origin: https://ui.example"}, true},
		{"allowed, cross-site", []string{"Origin: https://ui.example", "Sec-Fetch-Site: cross-site"}, true},
		{"foreign", []string{"Origin: https://evil.example"}, false},
		{"null", []string{"Origin: null"}, false},
		{"two", []string{own, own}, false},
		{"own name", []string{"Origin: http://evil.example", "Host: evil.example"}, false},
		{"cross-site", []string{"Sec-Fetch-Site: cross-site"}, false},
		{"same site", []string{"Sec-Fetch-Site: same-site"}, false},
		{"typed in", []string{"Sec-Fetch-Site: none"}, true},
	} {
		for path, token := range map[string]string{"/hooks/wake": hookToken, "/tools/invoke": hanzodtest.Token} {
			a := raw(t, d.Addr(), "POST", path, "{}", append(c.header, bearer(token))...)
			if want := map[bool]int{true: 400, false: 403}[c.may]; a.status != want {
				t.Errorf("%s, %s: %d %q", c.name, path, a.status, a.body)
			}
		}
	}
	// A foreign page cannot use up the attempts of this machine.
	for range 30 {
		raw(t, d.Addr(), "POST", "/hooks/wake", "{}", "Origin: https://evil.example", bearer("wrong"))
	}
	if a := raw(t, d.Addr(), "POST", "/hooks/wake", "{}", bearer("wrong")); a.status != 401 {
		t.Errorf("%d %q", a.status, a.body)
	}
}

// In mode none everybody may, but no page from elsewhere.
func TestModeNone(t *testing.T) {
	d, canvas := start(t, func(_ *hanzodtest.Options, cfg object) { cfg["gateway"] = object{"auth": object{"mode": "none"}} })
	write(t, filepath.Join(canvas, "a.txt"), "A")
	for _, c := range []struct {
		method, path string
		header       []string
		status       int
	}{
		{"POST", "/tools/invoke", nil, 404},
		{"POST", "/tools/invoke", []string{bearer("anything")}, 404},
		{"POST", "/tools/invoke", []string{"Origin: http://evil.example", "Host: evil.example"}, 403},
		{"GET", "/__openclaw__/canvas/a.txt", nil, 200},
		{"GET", "/__openclaw__/canvas/a.txt", []string{"Host: evil.example"}, 401},
		{"GET", "/__openclaw__/canvas/a.txt", []string{"Host: evil.example", bearer("x")}, 401},
		{"GET", "/__openclaw__/canvas/a.txt", []string{"Sec-Fetch-Site: cross-site"}, 401},
		{"GET", "/__openclaw__/canvas/a.txt", []string{"X-Forwarded-For: 10.0.0.1", bearer("x")}, 401},
	} {
		if a := raw(t, d.Addr(), c.method, c.path, `{"tool":"x"}`, c.header...); a.status != c.status {
			t.Errorf("%s %s %v: %d %q", c.method, c.path, c.header, a.status, a.body)
		}
	}
}

func TestTools(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["gateway"] = object{"auth": object{"mode": "token", "token": hanzodtest.Token}, "tools": object{"allow": []string{"cron"}}}
	})
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"tool":" no_such "}`, 404, `{"ok":false,"error":{"type":"not_found","message":"Tool not available: no_such"}}`},
		{`{"tool":"cron","args":{}}`, 404, `{"ok":false,"error":{"type":"not_found","message":"Tool not available: cron"}}`},
		{`{"tool":"\u0022<b>"}`, 404, `{"ok":false,"error":{"type":"not_found","message":"Tool not available: \"<b>"}}`},
		{``, 400, `{"error":{"message":"tools.invoke requires body.tool","type":"invalid_request_error"}}`},
		{`{"tool":5}`, 400, `{"error":{"message":"tools.invoke requires body.tool","type":"invalid_request_error"}}`},
		{`[]`, 400, `{"error":{"message":"tools.invoke requires body.tool","type":"invalid_request_error"}}`},
		{` {"tool":`, 400, `{"error":{"message":"Unexpected end of JSON input","type":"invalid_request_error"}}`},
		{`{"tool":"x"`, 400, `{"error":{"message":"Expected ',' or '}' after property value in JSON at position 11 (line 1 column 12)","type":"invalid_request_error"}}`},
		{`{"tool":"` + strings.Repeat("x", 2<<20) + `"}`, 413, `{"error":{"message":"Payload too large","type":"invalid_request_error"}}`},
	} {
		a := raw(t, d.Addr(), "POST", "/tools/invoke", c.body, bearer(hanzodtest.Token))
		if a.status != c.status || a.body != c.want {
			t.Errorf("%.40q: %d %q", c.body, a.status, a.body)
		}
		a.json(t)
	}
	a := raw(t, d.Addr(), "POST", "/tools/invoke", `{"tool":"x"}`)
	if a.status != 401 || a.body != `{"error":{"message":"Unauthorized","type":"unauthorized"}}` {
		t.Errorf("%d %q", a.status, a.body)
	}
}

func hook(t testing.TB, d *hanzodtest.Daemon, path, body string, header ...string) answer {
	t.Helper()
	return raw(t, d.Addr(), "POST", "/hooks/"+path, body, append(header, bearer(hookToken))...)
}

func TestHookBodies(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["hooks"] = object{"enabled": true, "token": hookToken, "maxBodyBytes": 200}
	})
	big := `{"text":"` + strings.Repeat("x", 200) + `"}`
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"wake", `{"text":"hi"}`, 200, `{"ok":true,"mode":"now"}`},
		{"wake", "\ufeff \u00a0{\"text\":\"hi\",\"mode\":\"next-heartbeat\"}\u2003", 200, `{"ok":true,"mode":"next-heartbeat"}`},
		{"wake", `{"text":"hi","mode":5}`, 200, `{"ok":true,"mode":"now"}`},
		{"wake", `{"text":" "}`, 400, `{"ok":false,"error":"text required"}`},
		{"wake", `{"text":5}`, 400, `{"ok":false,"error":"text required"}`},
		{"wake", ``, 400, `{"ok":false,"error":"text required"}`},
		{"wake", `[{"text":"x"}]`, 400, `{"ok":false,"error":"text required"}`},
		{"wake", `"text"`, 400, `{"ok":false,"error":"text required"}`},
		{"wake", `{`, 400, `{"ok":false,"error":"Expected property name or '}' in JSON at position 1 (line 1 column 2)"}`},
		{"wake", "\n{\n\"text\":tru}", 400, `{"ok":false,"error":"Unexpected token '}', \"{\n\"text\":tru}\" is not valid JSON"}`},
		{"wake", `{"a":"` + "\xff" + `"}`, 400, `{"ok":false,"error":"text required"}`},
		{"wake", big, 413, `{"ok":false,"error":"payload too large"}`},
		{"agent", `{"message":"m"}`, 503, `{"ok":false,"error":"this version of hanzod runs no agents yet, so nothing was started; use wake, which is kept until one does"}`},
		{"agent", `{}`, 400, `{"ok":false,"error":"message required"}`},
		{"agent", `{"message":"m","model":""}`, 400, `{"ok":false,"error":"model required"}`},
		{"agent", `{"message":"m","model":null}`, 400, `{"ok":false,"error":"model required"}`},
		{"agent", `{"message":"m","channel":"telegram"}`, 400, `{"ok":false,"error":"channel must be last"}`},
		{"agent", `{"message":"m","channel":null}`, 400, `{"ok":false,"error":"channel must be last"}`},
		{"agent", `{"message":"m","sessionKey":"main"}`, 400, `{"ok":false,"error":"sessionKey is disabled for external /hooks/agent payloads; set hooks.allowRequestSessionKey=true to enable"}`},
	} {
		a := hook(t, d, c.path, c.body)
		var want, got bytes.Buffer
		if err := json.Compact(&want, []byte(strings.ReplaceAll(c.want, "\n", `\n`))); err != nil {
			t.Fatal(err)
		}
		got.WriteString(a.body)
		if a.status != c.status || got.String() != want.String() {
			t.Errorf("%s %.60q: %d %s", c.path, c.body, a.status, a.body)
		}
		a.json(t)
	}
	// A body of unknown length is measured while it comes.
	c := dial(t, d.Addr())
	defer c.Close()
	fmt.Fprintf(c, "POST /hooks/wake HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%s\r\n\r\nd3\r\n%s\r\n", bearer(hookToken), big[:0xd3])
	if a := read(t, c, "POST"); a.status != 413 {
		t.Errorf("%d %q", a.status, a.body)
	}
}

// A wake that is acknowledged is there after a restart; no more than the last ones are.
func TestWakeIsKept(t *testing.T) {
	d, _ := start(t, nil)
	for i := range 25 {
		if a := hook(t, d, "wake", fmt.Sprintf(`{"text":"event %d"}`, i)); a.status != 200 {
			t.Fatalf("%d %q", a.status, a.body)
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), d.StateDir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.QueuedEvents("agent:main:main")
	if err != nil || len(list) != 20 || list[0].Text != "event 5" || list[19].Text != "event 24" || list[0].Source != "hook" {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestHookTokens(t *testing.T) {
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	d, _ := start(t, func(o *hanzodtest.Options, _ object) { o.Now = clock })
	post := func(header ...string) answer {
		t.Helper()
		return raw(t, d.Addr(), "POST", "/hooks/nope", "{}", header...)
	}
	for _, header := range [][]string{
		{bearer(hookToken)}, {"authorization: bEARER   " + hookToken + "  "}, {"X-OpenClaw-Token: " + hookToken},
		{"Authorization: Basic abc", "X-OpenClaw-Token: " + hookToken}, {"Authorization: Bearer ", "x-openclaw-token: " + hookToken},
	} {
		if a := post(header...); a.status != 404 {
			t.Errorf("%v: %d %q", header, a.status, a.body)
		}
	}
	for _, header := range [][]string{
		nil, {bearer(hookToken + "x")}, {bearer(hanzodtest.Token)}, {bearer("")}, {"X-OpenClaw-Token: "}, {"Authorization: " + hookToken},
		{bearer("wrong"), "X-OpenClaw-Token: " + hookToken}, {bearer(hookToken), bearer(hookToken)}, {"Cookie: token=" + hookToken},
	} {
		if a := post(header...); a.status != 401 || a.body != "Unauthorized" {
			t.Errorf("%v: %d %q", header, a.status, a.body)
		}
	}
	post(bearer(hookToken)) // forgets the failures
	for i := range 20 {
		if a := post("X-Forwarded-For: 203.0.113." + fmt.Sprint(i)); a.status != 401 {
			t.Fatalf("failure %d: %d", i+1, a.status)
		}
	}
	// Locked, and loopback is not exempt; the address is that of the connection, whatever headers say.
	a := post("X-Forwarded-For: 203.0.113.99")
	if a.status != 429 || a.body != "Too Many Requests" || a.header.Get("Retry-After") != "60" || a.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%d %q %v", a.status, a.body, a.header)
	}
	// The query comes before the lock, a right token passes it, and ends it.
	if a := raw(t, d.Addr(), "POST", "/hooks/wake?x=1&%74oken=", "{}"); a.status != 400 || !strings.HasPrefix(a.body, "Hook token must be provided via") {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := post(bearer(hookToken)); a.status != 404 {
		t.Errorf("%d %q", a.status, a.body)
	}
	if a := post(); a.status != 401 {
		t.Errorf("%d %q", a.status, a.body)
	}
	for range 25 {
		post()
	}
	mu.Lock()
	now = now.Add(61 * time.Second)
	mu.Unlock()
	if a := post(); a.status != 401 {
		t.Errorf("after the lock: %d %q", a.status, a.body)
	}
}

func TestMappings(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["hooks"] = object{
			"enabled": true, "token": hookToken, "path": "/in", "presets": []string{"gmail"},
			"mappings": []object{
				{"match": object{"path": "ci/build"}, "action": "wake", "wakeMode": "next-heartbeat",
					"textTemplate": "{{repo.name}} {{ tags[1] }} {{headers.x-event}} {{query.q}} {{path}} [{{headers.authorization}}{{headers.x-openclaw-token}}]{{missing}}{{n}} {{o}}"},
				{"match": object{"path": "ci"}, "action": "wake", "textTemplate": "{{text}}"},
				{"match": object{"source": "bot"}, "messageTemplate": "{{message}}"},
				{"match": object{"path": "key"}, "messageTemplate": "m", "sessionKey": "{{key}}"},
			},
		}
	})
	post := func(path, body string, header ...string) answer {
		t.Helper()
		return raw(t, d.Addr(), "POST", path, body, append(header, bearer(hookToken), "X-Event: push")...)
	}
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/in/ci/build/?q=a%20b&q=c", `{"repo":{"name":"r"},"tags":["x","y"],"n":1.50,"o":{"b":[1,null]}}`, 200, `{"ok":true,"mode":"next-heartbeat"}`},
		{"/in/ci", `{"text":" "}`, 400, `{"ok":false,"error":"hook mapping requires text"}`},
		{"/in/ci", `{"text":"x"}`, 200, `{"ok":true,"mode":"now"}`},
		{"/in/other", `{"source":"bot"}`, 400, `{"ok":false,"error":"hook mapping requires message"}`},
		{"/in/other", `{"source":"bot","message":"m"}`, 503, ""},
		{"/in/other", `{"source":"bots","message":"m"}`, 404, "Not Found"},
		{"/in/key", `{"key":"agent:main:main"}`, 400, `{"ok":false,"error":"sessionKey must start with one of: hook:"}`},
		{"/in/key", `{"key":"hook:7"}`, 503, ""},
		{"/in/gmail", `{"messages":[{"id":"7","from":"a","subject":"s","snippet":"x","body":"b"}]}`, 503, ""},
		{"/hooks/wake", `{"text":"x"}`, 404, "Not Found"},
	} {
		a := post(c.path, c.body)
		if a.status != c.status || (c.want != "" && a.body != c.want) {
			t.Errorf("%s %s: %d %q", c.path, c.body, a.status, a.body)
		}
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), d.StateDir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	list, err := s.QueuedEvents("agent:main:main")
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	if want := `r y push c ci/build/ []1.5 {"b":[1,null]}`; list[0].Text != want || list[0].Source != "hook mapping-1" {
		t.Errorf("%+v, want %q", list[0], want)
	}
}

// Who sends a request slowly, or not to its end, gets an answer soon and holds nothing.
func TestSlowBodies(t *testing.T) {
	d, _ := start(t, nil)
	for _, c := range []struct {
		head   string
		status int
	}{
		{"POST /hooks/wake HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n" + bearer("wrong"), 401},
		{"GET /hooks/wake HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n" + bearer(hookToken), 405},
		{"POST /hooks/wake?token=x HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 400},
		{"POST /tools/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 401},
		{"GET /tools/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 405},
		{"POST /vnc HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 405},
		{"POST /__openclaw__/cap/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 401},
		{"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 404},
		{"POST /v1/nope HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 404},
		{"POST /v1/nodes/n:invoke HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100", 401},
		{"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 405},
		{"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 100", 200},
		{"GET /__openclaw__/canvas/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100", 200},
	} {
		t.Run(c.head[:strings.Index(c.head, " HTTP")], func(t *testing.T) {
			t.Parallel()
			conn := dial(t, d.Addr())
			defer conn.Close()
			began := time.Now()
			if _, err := io.WriteString(conn, c.head+"\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if a := read(t, conn, "POST"); a.status != c.status {
				t.Errorf("%d %q", a.status, a.body)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the connection is still open: %d, %v", n, err)
			}
			if took := time.Since(began); took > 6*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// Ten thousand webhooks, half of them at one time, all get an answer.
func TestManyHooks(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand requests")
	}
	d, _ := start(t, nil)
	const posts, clients = 10_000, 5_000
	transport := &http.Transport{MaxConnsPerHost: clients, MaxIdleConnsPerHost: clients}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	var mu sync.Mutex
	counts := map[int]int{}
	work := make(chan int)
	var wg sync.WaitGroup
	began := time.Now()
	for range clients {
		wg.Go(func() {
			for i := range work {
				req, err := http.NewRequestWithContext(t.Context(), "POST", d.URL()+"/hooks/wake", strings.NewReader(fmt.Sprintf(`{"text":"%d"}`, i)))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+hookToken)
				res, err := client.Do(req)
				if err != nil {
					t.Error(err)
					continue
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				mu.Lock()
				counts[res.StatusCode]++
				mu.Unlock()
			}
		})
	}
	for i := range posts {
		work <- i
	}
	close(work)
	wg.Wait()
	t.Logf("%d posts in %v: %v", posts, time.Since(began), counts)
	if counts[200] == 0 || counts[200]+counts[429]+counts[503] != posts {
		t.Errorf("answers %v", counts)
	}
}

// Bodies that are being sent hold no more than their bound, however many there are.
func TestBodyBudget(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["hooks"] = object{"enabled": true, "token": hookToken, "maxBodyBytes": 1 << 20}
	})
	half := strings.Repeat(" ", 600<<10)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 40 {
		c := dial(t, d.Addr())
		conns = append(conns, c)
		go func() { // the last ones are not read to the end
			_, _ = fmt.Fprintf(c, "POST /hooks/wake HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n%s\r\n\r\n%s", bearer(hookToken), half)
		}()
	}
	full := 0
	deadline := time.Now().Add(15 * time.Second)
	for full == 0 && time.Now().Before(deadline) {
		a := hook(t, d, "wake", strings.Repeat(" ", 900<<10)+`{"text":"x"}`)
		if a.status == 503 && strings.Contains(a.body, "too many request bodies") && a.header.Get("Retry-After") != "" {
			full++
		} else if a.status != 200 {
			t.Fatalf("%d %q", a.status, a.body)
		}
	}
	if full == 0 {
		t.Error("the bound was never reached")
	}
	for _, c := range conns {
		c.Close()
	}
	for {
		if a := hook(t, d, "wake", `{"text":"x"}`); a.status == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the bound is not given back")
		}
	}
}
