// Package auth holds the tests of who gets in, through whole daemons and real sockets: every auth
// mode, the way through proxies, web pages, guessing, floods of strangers, and credentials in places
// where they do not belong.
package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 15 * time.Second

// start runs a daemon whose section gateway has these keys.
func start(tb testing.TB, gateway map[string]any, change ...func(*hanzodtest.Options)) *hanzodtest.Daemon {
	tb.Helper()
	o := hanzodtest.Options{Config: map[string]any{
		"gateway": gateway, "logging": map[string]any{"level": "trace", "consoleLevel": "trace"},
	}}
	for _, f := range change {
		f(&o)
	}
	return hanzodtest.Start(tb, o)
}

// token is gateway.auth of mode token, with more keys.
func tokenMode(more ...any) map[string]any {
	auth := map[string]any{"mode": "token", "token": hanzodtest.Token}
	for i := 0; i+1 < len(more); i += 2 {
		auth[more[i].(string)] = more[i+1]
	}
	return auth
}

// hello is a client that wants to connect. The zero value is a command line without a device.
type hello struct {
	id, mode, role               string
	scopes                       []string
	token, deviceToken, password string
	device                       string // the name that its key is made of
	header                       []string
	path                         string
	client                       *http.Client // nil for one without TLS
}

var allScopes = []string{"operator.admin", "operator.read", "operator.write", "operator.approvals", "operator.pairing"}

// conn is a connected client, or one that was refused.
type conn struct {
	ws      *websocket.Conn
	payload json.RawMessage // hello-ok
	// refused is the error code of the details and the message, "" when let in.
	refused string
	closed  websocket.StatusCode
}

type frame struct {
	Type, ID, Event string
	OK              bool
	Payload         json.RawMessage
	Error           struct {
		Code, Message string
		Details       struct{ Code, AuthReason string }
	}
}

func (h hello) params(nonce string) map[string]any {
	p := map[string]any{
		"minProtocol": 3, "maxProtocol": 3, "role": h.role, "scopes": h.scopes,
		"client": map[string]any{"id": h.id, "version": "1", "platform": "linux", "mode": h.mode},
	}
	if h.scopes == nil {
		p["scopes"] = []string{}
	}
	auth := map[string]any{}
	for k, v := range map[string]string{"token": h.token, "deviceToken": h.deviceToken, "password": h.password} {
		if v != "" {
			auth[k] = v
		}
	}
	p["auth"] = auth
	if h.device != "" {
		seed := sha256.Sum256([]byte(h.device))
		key := ed25519.NewKeyFromSeed(seed[:])
		pub := key.Public().(ed25519.PublicKey)
		f := identity.Signed{
			DeviceID: identity.DeviceID(pub), ClientID: h.id, ClientMode: h.mode, Role: identity.Role(h.role),
			SignedAt: time.Now().UnixMilli(), Token: h.token, Nonce: nonce, Platform: "linux",
		}
		if f.Token == "" {
			f.Token = h.deviceToken
		}
		for _, s := range h.scopes {
			f.Scopes = append(f.Scopes, identity.Scope(s))
		}
		p["device"] = map[string]any{
			"id": f.DeviceID, "publicKey": identity.EncodeKey(pub), "signedAt": f.SignedAt, "nonce": nonce,
			"signature": base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(f.Payload("v3")))),
		}
	}
	return p
}

// try connects. It fails only for what is no answer of the gateway.
func (h hello) try(url string) (*conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if h.id == "" {
		h.id = "cli"
	}
	if h.mode == "" {
		h.mode = "cli"
	}
	if h.role == "" {
		h.role = "operator"
	}
	opts := &websocket.DialOptions{HTTPHeader: http.Header{}, HTTPClient: h.client}
	for _, line := range h.header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			opts.Host = value
			continue
		}
		opts.HTTPHeader.Add(name, value)
	}
	ws, _, err := websocket.Dial(ctx, url+h.path, opts)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(1 << 20)
	c := &conn{ws: ws}
	var f frame
	var nonce struct{ Nonce string }
	if err := c.read(ctx, &f); err != nil {
		return c, err
	}
	if err := json.Unmarshal(f.Payload, &nonce); err != nil {
		return c, err
	}
	text, err := json.Marshal(map[string]any{"type": "req", "id": "1", "method": "connect", "params": h.params(nonce.Nonce)})
	if err != nil {
		return c, err
	}
	if err := ws.Write(ctx, websocket.MessageText, text); err != nil {
		return c, err
	}
	f = frame{}
	if err := c.read(ctx, &f); err != nil {
		return c, err
	}
	if f.OK {
		c.payload = f.Payload
		return c, nil
	}
	c.refused = f.Error.Details.Code
	if c.refused == "" {
		c.refused = f.Error.Message
	}
	_, _, err = ws.Read(ctx)
	c.closed = websocket.CloseStatus(err)
	return c, nil
}

func (c *conn) read(ctx context.Context, f *frame) error {
	_, text, err := c.ws.Read(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, f)
}

// connect is try in a test that ends the connection.
func (h hello) connect(tb testing.TB, d *hanzodtest.Daemon) *conn {
	tb.Helper()
	c, err := h.try(d.WS())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.ws.CloseNow() })
	return c
}

// verdict is "in", or why not.
func (h hello) verdict(tb testing.TB, d *hanzodtest.Daemon) string {
	tb.Helper()
	c := h.connect(tb, d)
	if c.refused == "" {
		_ = c.ws.CloseNow()
		return "in"
	}
	if c.closed != websocket.StatusPolicyViolation {
		tb.Errorf("closed with %d", c.closed)
	}
	return c.refused
}

// call makes one call and returns the error message, "" for none.
func (c *conn) call(tb testing.TB, method string, params any) (json.RawMessage, string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	text, err := json.Marshal(map[string]any{"type": "req", "id": method, "method": method, "params": params})
	if err != nil {
		tb.Fatal(err)
	}
	if err := c.ws.Write(ctx, websocket.MessageText, text); err != nil {
		tb.Fatal(err)
	}
	for {
		var f frame
		if err := c.read(ctx, &f); err != nil {
			tb.Fatal(err)
		}
		if f.Type == "res" {
			return f.Payload, f.Error.Message
		}
	}
}

// get reads a field of hello-ok.
func (c *conn) get(tb testing.TB, path ...string) any {
	tb.Helper()
	var v any
	if err := json.Unmarshal(c.payload, &v); err != nil {
		tb.Fatal(err)
	}
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// ask sends an HTTP request; header lines are "Name: value".
func ask(tb testing.TB, d *hanzodtest.Daemon, method, path, body string, header ...string) (*http.Response, string) {
	tb.Helper()
	resp, text, err := request(d, method, path, body, header...)
	if err != nil {
		tb.Fatal(err)
	}
	return resp, text
}

var web = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func request(d *hanzodtest.Daemon, method, path, body string, header ...string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, d.URL()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, "", err
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		if name == "Host" {
			r.Host = value
			continue
		}
		r.Header.Add(name, value)
	}
	resp, err := web.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp, string(text), err
}

// nodes is what GET /v1/nodes answers.
func nodes(tb testing.TB, d *hanzodtest.Daemon, header ...string) int {
	tb.Helper()
	resp, _ := ask(tb, d, "GET", "/v1/nodes", "", header...)
	return resp.StatusCode
}

func bearer(token string) string { return "Authorization: Bearer " + token }

func origin(format string, args ...any) string { return "Origin: " + fmt.Sprintf(format, args...) }
