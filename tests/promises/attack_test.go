package promises

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// attackTime bounds one step of an attack.
const attackTime = 20 * time.Second

// attacked is a daemon with all doors open, and ways to come at it.
type attacked struct {
	*hanzodtest.Daemon
	t testing.TB
	// tr keeps connections, as clients do: what a caller may do is decided for each request.
	tr *http.Transport
}

func attack(t testing.TB, config map[string]any) *attacked {
	t.Helper()
	return attackWith(t, hanzodtest.Options{GRPC: true, Config: config})
}

func attackWith(t testing.TB, o hanzodtest.Options) *attacked {
	t.Helper()
	a := &attacked{hanzodtest.Start(t, o), t, &http.Transport{}}
	t.Cleanup(a.tr.CloseIdleConnections)
	return a
}

func (a *attacked) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), attackTime)
	a.t.Cleanup(cancel)
	return ctx
}

func newDevice(t testing.TB) *dial.Identity {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return dial.NewIdentity(key)
}

// options connect an operator of this machine that has the shared token.
func (a *attacked) options(device *dial.Identity, scopes ...identity.Scope) dial.Options {
	return dial.Options{
		URL: a.WS(), Client: dial.Client{ID: "test", Mode: "test"}, Scopes: scopes, Auth: dial.Auth{Token: a.Token}, Device: device,
	}
}

func (a *attacked) dial(o dial.Options) (*dial.Conn, error) {
	c, err := dial.Dial(a.ctx(), o)
	if err == nil {
		a.t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func (a *attacked) connect(o dial.Options) *dial.Conn {
	a.t.Helper()
	c, err := a.dial(o)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// paired pairs a new device and returns its token.
func (a *attacked) paired(scopes ...identity.Scope) (*dial.Identity, string) {
	a.t.Helper()
	device := newDevice(a.t)
	c := a.connect(a.options(device, scopes...))
	token := c.Hello().DeviceToken
	if token == "" {
		a.t.Fatal("the device is not paired")
	}
	_ = c.Close()
	return device, token
}

// asks leaves a request of a device that comes from elsewhere, and returns its id.
func (a *attacked) asks(o dial.Options) string {
	a.t.Helper()
	o.Header = http.Header{"X-Forwarded-For": {"203.0.113.7"}}
	_, err := a.dial(o)
	refused, ok := errors.AsType[*dial.RefusedError](err)
	if !ok || refused.Detail("requestId") == "" {
		a.t.Fatalf("no request was left: %v", err)
	}
	return refused.Detail("requestId")
}

// local is a client at the local socket: the owner.
func (a *attacked) local() *client.Client {
	a.t.Helper()
	return a.client(client.Options{Socket: a.Socket()})
}

// remote is a client of gRPC over TLS that presents a token.
func (a *attacked) remote(token string) *client.Client {
	a.t.Helper()
	return a.client(client.Options{Host: a.Host(), TLSFingerprint: a.TLSFingerprint(), Token: token})
}

func (a *attacked) client(o client.Options) *client.Client {
	a.t.Helper()
	c, err := client.Dial(context.Background(), o)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = c.Close() })
	return c
}

// ask makes one HTTP request on a connection of its own. It returns the status and the body.
func (a *attacked) ask(method, path string, header http.Header, body string) (int, string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.ctx(), method, a.URL()+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for k, v := range header {
		if k == "Host" {
			req.Host = v[0]
			continue
		}
		req.Header[k] = v
	}
	res, err := a.tr.RoundTrip(req)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, string(text)
}

func bearerHeader(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
}

// powers is what one caller can try by one door. Each returns nil when it was done.
type powers struct {
	door    string
	rotate  func(device, role string, scopes ...string) (token string, err error)
	approve func(request string) error
	reject  func(request string) error
	remove  func(device string) error
	list    func() error
	close   func()
}

// doors are the powers of a device with its token, by each door.
func (a *attacked) doors(device *dial.Identity, token string, scopes ...identity.Scope) []powers {
	a.t.Helper()
	o := a.options(device, scopes...)
	o.Auth = dial.Auth{DeviceToken: token}
	c := a.connect(o)
	call := func(method string, params map[string]any) (json.RawMessage, error) {
		return c.Call(a.ctx(), method, params)
	}
	legacy := powers{
		door: "legacy", close: func() { _ = c.Close() },
		rotate: func(device, role string, scopes ...string) (string, error) {
			params := map[string]any{"deviceId": device, "role": role}
			if scopes != nil {
				params["scopes"] = scopes
			}
			out, err := call("device.token.rotate", params)
			var r struct{ Token string }
			if err == nil {
				err = json.Unmarshal(out, &r)
			}
			return r.Token, err
		},
		approve: func(id string) error {
			_, err := call("device.pair.approve", map[string]any{"requestId": id})
			return err
		},
		reject: func(id string) error {
			_, err := call("device.pair.reject", map[string]any{"requestId": id})
			return err
		},
		remove: func(id string) error {
			_, err := call("device.pair.remove", map[string]any{"deviceId": id})
			return err
		},
		list: func() error {
			_, err := call("node.list", map[string]any{})
			return err
		},
	}
	r := a.remote(token)
	grpc := powers{
		door: "grpc", close: func() { _ = r.Close() },
		rotate: func(device, role string, scopes ...string) (string, error) {
			out, err := r.Devices.RotateToken(a.ctx(), &devicesv1.RotateTokenRequest{DeviceId: device, Role: role, Scopes: scopes})
			return out.GetToken(), err
		},
		approve: func(id string) error {
			_, err := r.Devices.ApprovePairing(a.ctx(), &devicesv1.ApprovePairingRequest{RequestId: id})
			return err
		},
		reject: func(id string) error {
			_, err := r.Devices.RejectPairing(a.ctx(), &devicesv1.RejectPairingRequest{RequestId: id})
			return err
		},
		remove: func(id string) error {
			_, err := r.Devices.RemoveDevice(a.ctx(), &devicesv1.RemoveDeviceRequest{DeviceId: id})
			return err
		},
		list: func() error {
			_, err := r.Nodes.ListNodes(a.ctx(), &nodesv1.ListNodesRequest{})
			return err
		},
	}
	ask := func(method, path string, body any) (map[string]any, error) {
		text, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		code, answer := a.ask(method, path, bearerHeader(token), string(text))
		if code != http.StatusOK {
			return nil, fmt.Errorf("%d %s", code, answer)
		}
		var out map[string]any
		return out, json.Unmarshal([]byte(answer), &out)
	}
	rest := powers{
		door: "rest", close: func() {},
		rotate: func(device, role string, scopes ...string) (string, error) {
			out, err := ask(http.MethodPost, "/v1/devices/"+device+"/tokens/"+role+":rotate", map[string]any{"scopes": scopes})
			token, _ := out["token"].(string)
			return token, err
		},
		approve: func(id string) error {
			_, err := ask(http.MethodPost, "/v1/device-requests/"+id+":approve", map[string]any{})
			return err
		},
		reject: func(id string) error {
			_, err := ask(http.MethodPost, "/v1/device-requests/"+id+":reject", map[string]any{})
			return err
		},
		remove: func(id string) error {
			code, answer := a.ask(http.MethodDelete, "/v1/devices/"+id, bearerHeader(token), "")
			if code != http.StatusOK {
				return fmt.Errorf("%d %s", code, answer)
			}
			return nil
		},
		list: func() error {
			code, answer := a.ask(http.MethodGet, "/v1/nodes", bearerHeader(token), "")
			if code != http.StatusOK {
				return fmt.Errorf("%d %s", code, answer)
			}
			return nil
		},
	}
	return []powers{legacy, grpc, rest}
}

// frame is one message of the legacy protocol.
type frame struct {
	Type    string
	ID      any
	OK      bool
	Event   string
	Payload json.RawMessage
	Error   struct {
		Code, Message string
		Details       map[string]any
	}
}

// socket opens a WebSocket by hand and reads the challenge.
func (a *attacked) socket(path string, header http.Header) (*websocket.Conn, string, int) {
	a.t.Helper()
	ws, nonce, code := a.upgrade(path, header)
	if ws == nil {
		a.t.Fatalf("the upgrade is answered %d", code)
	}
	return ws, nonce, code
}

// upgrade is socket that returns nil with the status when it is refused.
func (a *attacked) upgrade(path string, header http.Header) (*websocket.Conn, string, int) {
	a.t.Helper()
	o := &websocket.DialOptions{HTTPHeader: header.Clone(), HTTPClient: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if host := header.Get("Host"); host != "" {
		o.Host = host
		o.HTTPHeader.Del("Host")
	}
	ws, res, err := websocket.Dial(a.ctx(), a.WS()+path, o)
	if err != nil {
		if res == nil {
			a.t.Fatalf("%s %v: %v", path, header, err)
		}
		return nil, "", res.StatusCode
	}
	a.t.Cleanup(func() { _ = ws.CloseNow() })
	ws.SetReadLimit(1 << 20)
	var f struct{ Payload struct{ Nonce string } }
	_, text, err := ws.Read(a.ctx())
	if err != nil || json.Unmarshal(text, &f) != nil {
		a.t.Fatalf("%s %v", text, err)
	}
	return ws, f.Payload.Nonce, http.StatusSwitchingProtocols
}

// say sends a message and reads frames until an answer or the end. answer is nil at the end.
func (a *attacked) say(ws *websocket.Conn, message []byte) (answer *frame, end websocket.StatusCode) {
	a.t.Helper()
	if err := ws.Write(a.ctx(), websocket.MessageText, message); err != nil {
		return nil, websocket.CloseStatus(err)
	}
	for {
		_, text, err := ws.Read(a.ctx())
		if err != nil {
			return nil, websocket.CloseStatus(err)
		}
		var f frame
		if err := json.Unmarshal(bytes.TrimSpace(text), &f); err != nil {
			a.t.Fatalf("%s: %v", text, err)
		}
		if f.Type == "res" {
			return &f, 0
		}
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func durationOf(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

func timeOf(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t.Truncate(time.Millisecond)) }

// oldTLS demands that versions before 1.3 are refused.
func oldTLS(t *testing.T, addr string) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, NextProtos: []string{"h2"}})
		if err == nil {
			_ = c.Close()
			t.Errorf("%s is spoken", tls.VersionName(version))
		}
	}
}

// plainGRPC calls without TLS.
func plainGRPC(t *testing.T, a *attacked, addr string) codes.Code {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx := metadata.AppendToOutgoingContext(a.ctx(), "authorization", "Bearer "+a.Token)
	_, err = nodesv1.NewNodeServiceClient(conn).ListNodes(ctx, &nodesv1.ListNodesRequest{})
	return status.Code(err)
}
