package hoody_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/compat/socket"
	"github.com/hanzoai/hanzod/errs"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

const bound = 20 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	t.Cleanup(cancel)
	return ctx
}

// open opens a carrier.
func open(t *testing.T, d *hanzodtest.Daemon, credential, version string) mux.Carrier {
	t.Helper()
	c, err := hoody.Dial(within(t), d.WS(), credential, version, hoody.DialOptions{Fingerprint: d.TLSFingerprint()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(0, "") })
	return c
}

func hello(version, token string) []byte {
	body := map[string]any{"version": version, "capabilities": []string{}}
	if token != "" {
		body["auth"] = map[string]any{"kind": "bearer", "token": token}
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return wire.Append(nil, wire.Hello, 0, text)
}

// welcomed says HELLO and wants HELLO_OK.
func welcomed(t *testing.T, c mux.Carrier, version, token string) {
	t.Helper()
	if err := c.Write(net.Buffers{hello(version, token)}); err != nil {
		t.Fatal(err)
	}
	m, err := c.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := wire.Next(m)
	var ok struct {
		SessionID string `json:"sessionId"`
	}
	if err != nil || f.Type != wire.HelloOK || json.Unmarshal(f.Payload, &ok) != nil || !strings.HasPrefix(ok.SessionID, "S-") {
		t.Fatalf("the answer to HELLO is %v %q, %v", f.Type, f.Payload, err)
	}
}

// turnedAway wants GOAWAY 11 and a close.
func turnedAway(t *testing.T, c mux.Carrier) {
	t.Helper()
	m, err := c.Read(within(t))
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := wire.Next(m)
	var body struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	if err != nil || f.Type != wire.GoAway || json.Unmarshal(f.Payload, &body) != nil || body.Code != 11 || body.Message != "unauthorized" {
		t.Fatalf("got %v %q, %v", f.Type, f.Payload, err)
	}
	closes(t, c, 1008)
}

func closes(t *testing.T, c mux.Carrier, code int) {
	t.Helper()
	m, err := c.Read(within(t))
	var closed *mux.CloseError
	if !errors.As(err, &closed) || closed.Code != code {
		t.Fatalf("got %q, %v; want a close with %d", m, err, code)
	}
}

// linkKey makes a link key.
func linkKey(t *testing.T, d *hanzodtest.Daemon) string {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out, err := c.Devices.CreateLinkKey(t.Context(), &devicesv1.CreateLinkKeyRequest{Name: fmt.Sprint("key-", time.Now().UnixNano())})
	if err != nil {
		t.Fatal(err)
	}
	return out.GetSecret()
}

func TestWelcome(t *testing.T) {
	t.Parallel()
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			d := hanzodtest.Start(t, hanzodtest.Options{TLS: secure})
			for _, version := range hoody.Versions {
				welcomed(t, open(t, d, d.Token, version), version, "")
				welcomed(t, open(t, d, "", version), version, d.Token)
				welcomed(t, open(t, d, linkKey(t, d), version), version, "")
			}
			// The newest is chosen, and other ways to show a token are known.
			header := http.Header{"Authorization": {"Basic OnRlc3QtdG9rZW4tMDEyMzQ1Njc4OQ=="}}
			tr, err := socket.Transport(nil, d.TLSFingerprint())
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range []socket.Options{{Header: header}, {}} {
				o.Subprotocols, o.Client = []string{"x", wire.V1, wire.V2}, &http.Client{Transport: tr}
				query := ""
				if o.Header == nil {
					query = "?token=" + d.Token
				}
				c, _, err := socket.Dial(within(t), d.WS()+hoody.Path+query, o)
				if err != nil {
					t.Fatal(err)
				}
				if c.Subprotocol() != wire.V2 {
					t.Errorf("chosen is %q", c.Subprotocol())
				}
				welcomed(t, c, wire.V2, "")
				c.Close(0, "")
			}
			if strings.Contains(d.LogText(), d.Token) {
				t.Error("the log holds the token")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	// A credential that is wrong, in the upgrade or in HELLO, and none.
	turnedAway(t, open(t, d, "wrong", wire.V2))
	turnedAway(t, open(t, d, "hk-wrong", wire.V1))
	for _, token := range []string{"wrong", ""} {
		c := open(t, d, "", wire.V1)
		if err := c.Write(net.Buffers{hello(wire.V1, token)}); err != nil {
			t.Fatal(err)
		}
		turnedAway(t, c)
	}
	// A HELLO of another version than the subprotocol, and another frame first.
	c := open(t, d, d.Token, wire.V1)
	if err := c.Write(net.Buffers{hello(wire.V2, "")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(within(t)); err != nil { // GOAWAY
		t.Fatal(err)
	}
	closes(t, c, 1002)
	c = open(t, d, d.Token, wire.V2)
	if err := c.Write(net.Buffers{wire.Append(nil, wire.Ping, 0, make([]byte, 8))}); err != nil {
		t.Fatal(err)
	}
	closes(t, c, 1002)
	// Text, and too much.
	ws, _, err := websocket.Dial(within(t), d.WS()+hoody.Path, &websocket.DialOptions{Subprotocols: []string{wire.V2}, HTTPHeader: http.Header{"Authorization": {"Bearer " + d.Token}}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(within(t), websocket.MessageText, hello(wire.V2, "")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.Read(within(t)); websocket.CloseStatus(err) != websocket.StatusUnsupportedData {
		t.Errorf("text: %v", err)
	}
	big, _, err := socket.Dial(within(t), d.WS()+hoody.Path, socket.Options{
		Subprotocols: []string{wire.V2}, MaxMessage: 1 << 20, Header: http.Header{"Authorization": {"Bearer " + d.Token}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close(0, "")
	if err := big.Write(net.Buffers{make([]byte, wire.MaxMessage+1)}); err != nil {
		t.Fatal(err)
	}
	closes(t, big, 1009)
	// What is no upgrade of a carrier.
	for name, tc := range map[string]struct {
		header http.Header
		status int
		text   string
	}{
		"no upgrade":     {http.Header{"Connection": {"close"}}, http.StatusUpgradeRequired, "hoody-tunnel.v2"},
		"no subprotocol": {http.Header{}, http.StatusBadRequest, `{"error":"offer the subprotocol`},
		"another one":    {http.Header{"Sec-Websocket-Protocol": {"hoody-tunnel.v3"}}, http.StatusBadRequest, `{"error":`},
		"a web page":     {http.Header{"Sec-Websocket-Protocol": {wire.V2}, "Origin": {"https://stranger.example"}}, http.StatusForbidden, `{"error":`},
	} {
		r, err := http.NewRequestWithContext(within(t), http.MethodGet, d.URL()+hoody.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = http.Header{
			"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
			"Authorization": {"Bearer " + d.Token},
		}
		maps.Copy(r.Header, tc.header)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		answer.Body.Close()
		if answer.StatusCode != tc.status || !bytes.Contains(text, []byte(tc.text)) {
			t.Errorf("%s: %d %s", name, answer.StatusCode, text)
		}
	}
	if log := d.LogText(); strings.Contains(log, d.Token) || strings.Contains(log, "hk-wrong") {
		t.Error("the log holds a credential")
	}
}

// TestUpgradeCredential wants the credential when the carrier is opened.
func TestUpgradeCredential(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{"tunnel": map[string]any{"helloCredentials": false}}})
	for _, credential := range []string{"", "wrong"} {
		_, err := hoody.Dial(within(t), d.WS(), credential, wire.V2, hoody.DialOptions{})
		var refused *hoody.RefusedError
		if !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized {
			t.Errorf("%q: %v", credential, err)
		}
	}
	welcomed(t, open(t, d, d.Token, wire.V2), wire.V2, "")
}

// TestLockout turns an address away that tries too many credentials.
func TestLockout(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{
		"gateway": map[string]any{"auth": map[string]any{
			"mode": "token", "token": hanzodtest.Token,
			"rateLimit": map[string]any{"maxAttempts": 3, "windowMs": 60_000, "lockoutMs": 60_000, "exemptLoopback": false},
		}},
	}})
	for range 2 {
		turnedAway(t, open(t, d, "wrong", wire.V2))
	}
	c := open(t, d, "", wire.V2)
	if err := c.Write(net.Buffers{hello(wire.V2, "wrong")}); err != nil {
		t.Fatal(err)
	}
	turnedAway(t, c)
	turnedAway(t, open(t, d, d.Token, wire.V2))
}

// TestSilence bounds those that say nothing, and those that take long to.
func TestSilence(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	begin := time.Now()
	var silent []mux.Carrier
	for range tunnels.MaxSilent {
		silent = append(silent, open(t, d, d.Token, wire.V2))
	}
	// The door counts them when it has judged their credential. The first that finds no place is told so.
	over := false
	for time.Since(begin) < tunnels.HelloTime && !over {
		c := open(t, d, d.Token, wire.V2)
		ctx, cancel := context.WithTimeout(within(t), 100*time.Millisecond)
		_, err := c.Read(ctx)
		cancel()
		var closed *mux.CloseError
		if over = errors.As(err, &closed); over && closed.Code != 1005 {
			t.Errorf("the carrier over the limit was closed with %v", err)
		}
		if !over { // it may have taken the place of one of those above, which was judged later
			silent = append(silent, c)
		}
	}
	if !over {
		t.Error("no carrier was over the limit")
	}
	// One that goes makes room.
	welcomed(t, silent[0], wire.V2, "")
	for welcome := false; !welcome; {
		if time.Since(begin) > bound {
			t.Fatal("there is no room again")
		}
		c := open(t, d, d.Token, wire.V2)
		if c.Write(net.Buffers{hello(wire.V2, "")}) == nil {
			m, err := c.Read(within(t))
			welcome = err == nil && len(m) > 0 && wire.Type(m[0]) == wire.HelloOK
		}
	}
	if os.Getenv("ROBUST") == "" {
		return // tunnels has a test of the time
	}
	// A handshake, and a HELLO, byte by byte.
	slow, err := net.Dial("tcp", d.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	request := "GET " + hoody.Path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: hoody-tunnel.v2\r\nX: " + strings.Repeat("x", 1000)
	slowly(t, slow, []byte(request), 15*time.Second)
	late, _, err := socket.Dial(within(t), d.WS()+hoody.Path, socket.Options{Subprotocols: []string{wire.V2}})
	if err != nil {
		t.Fatal(err)
	}
	late.Close(0, "")
	for _, c := range silent[1:] {
		if _, err := c.Read(within(t)); err == nil {
			t.Error("a silent carrier stays")
		}
	}
	if took := time.Since(begin); took < tunnels.HelloTime {
		t.Errorf("silent carriers ended after %v", took)
	}
}

// slowly sends a byte every 20 ms until the other end has had enough, which is to be before limit.
func slowly(t *testing.T, nc net.Conn, data []byte, limit time.Duration) {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, b := range data {
		<-tick.C
		if _, err := nc.Write([]byte{b}); err != nil {
			return
		}
		if time.Since(begin) > limit {
			t.Error("a handshake may take for ever")
			return
		}
	}
	_ = nc.SetReadDeadline(begin.Add(limit))
	if _, err := nc.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a handshake may take for ever")
	}
}

func TestDialOptions(t *testing.T) {
	for name, tc := range map[string]struct{ server, credential, pin string }{
		"no address":             {"", "", ""},
		"no WebSocket":           {"http://127.0.0.1", "", ""},
		"a secret without TLS":   {"ws://example.com", "secret-token", ""},
		"user information":       {"ws://user:secret-token@example.com", "", ""},
		"a secret in the query":  {"ws://example.com?token=secret-token", "", ""},
		"half a fingerprint":     {"wss://127.0.0.1", "", "abc"},
		"not a URL, and a token": {"ws://%", "secret-token", ""},
	} {
		_, err := hoody.Dial(t.Context(), tc.server, tc.credential, wire.V2, hoody.DialOptions{Fingerprint: tc.pin})
		if errs.ClassOf(err) != errs.Invalid || strings.Contains(err.Error(), "secret-token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// No error names what may be a secret.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = hoody.Dial(t.Context(), "ws://user:secret-token@"+l.Addr().String()+"?token=secret-token", "", wire.V2, hoody.DialOptions{})
	if err == nil || strings.Contains(err.Error(), "secret-token") {
		t.Errorf("nobody there: %v", err)
	}
}

// TestStop tells carriers that the daemon stops.
func TestStop(t *testing.T) {
	t.Parallel()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	c := open(t, d, d.Token, wire.V2)
	welcomed(t, c, wire.V2, "")
	if err := c.Write(net.Buffers{wire.Append(nil, wire.Ping, 0, make([]byte, 8))}); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Read(within(t)); err != nil || wire.Type(m[0]) != wire.Pong {
		t.Fatalf("the answer to PING is %x, %v", m, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop() }()
	for {
		m, err := c.Read(within(t))
		if err == nil {
			if f, _, _ := wire.Next(m); f.Type != wire.GoAway && f.Type != wire.Ping {
				t.Errorf("got %v", f.Type)
			}
			continue
		}
		if _, ok := errors.AsType[*mux.CloseError](err); !ok {
			t.Errorf("the carrier ended with %v", err)
		}
		break
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
