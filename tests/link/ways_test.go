//go:build unix

package link

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/runtime"
)

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// nowhere is a port on which nobody listens.
func nowhere(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return portOf(t, l.Addr().String())
}

// stored is the file node.json.
func (n *nodeHost) stored() string {
	text, _ := os.ReadFile(filepath.Join(n.dir, "node.json")) // there may be none
	return string(text)
}

func operator(t *testing.T, d *hanzodtest.Daemon) *client.Client {
	t.Helper()
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func connected(n *nodeHost, times int) {
	n.t.Helper()
	n.until("it is connected", func() bool { return n.connects() == times })
}

// TestPrefers: gRPC comes first, and the legacy WebSocket where there is none.
func TestPrefers(t *testing.T) {
	plain := hanzodtest.Start(t, hanzodtest.Options{})
	secure := hanzodtest.Start(t, hanzodtest.Options{TLS: true, GRPC: true})
	old := hanzodtest.Start(t, hanzodtest.Options{TLS: true}) // as a gateway without gRPC
	other := hanzodtest.Start(t, hanzodtest.Options{})
	pin := secure.TLSFingerprint()
	for name, tc := range map[string]struct {
		o    runtime.NodeOptions
		d    *hanzodtest.Daemon
		want string
	}{
		"nobody is named":       {runtime.NodeOptions{Socket: plain.Socket()}, plain, local},
		"this machine":          {runtime.NodeOptions{Socket: plain.Socket(), Host: "localhost", Port: portOf(t, plain.Addr())}, plain, local},
		"another gateway here":  {runtime.NodeOptions{Socket: plain.Socket(), Port: portOf(t, other.Addr())}, other, webSocket},
		"no daemon of the user": {runtime.NodeOptions{Socket: filepath.Join(t.TempDir(), "none"), Port: portOf(t, other.Addr())}, other, webSocket},
		"told to":               {runtime.NodeOptions{Socket: plain.Socket(), Port: portOf(t, plain.Addr()), Link: "websocket"}, plain, webSocket},
		"TLS":                   {runtime.NodeOptions{Host: "127.0.0.1", Port: portOf(t, secure.Addr()), GRPCPort: portOf(t, secure.GRPCAddress()), Fingerprint: pin}, secure, overTLS},
		"TLS, gRPC alone":       {runtime.NodeOptions{Host: secure.Host(), Fingerprint: pin}, secure, overTLS},
		"TLS, told to":          {runtime.NodeOptions{Host: "127.0.0.1", Port: portOf(t, secure.Addr()), GRPCPort: portOf(t, secure.GRPCAddress()), Fingerprint: pin, Link: "websocket"}, secure, webSocket},
		"TLS without gRPC":      {runtime.NodeOptions{Host: "127.0.0.1", Port: portOf(t, old.Addr()), GRPCPort: nowhere(t), Fingerprint: old.TLSFingerprint()}, old, webSocket},
		"gRPC port of the web":  {runtime.NodeOptions{Host: "127.0.0.1", Port: portOf(t, old.Addr()), GRPCPort: portOf(t, old.Addr()), Fingerprint: old.TLSFingerprint()}, old, webSocket},
		"TLS by authority":      {runtime.NodeOptions{Host: "localhost", Port: portOf(t, secure.Addr()), GRPCPort: portOf(t, secure.GRPCAddress()), CAFile: filepath.Join(secure.StateDir, "gateway", "tls", "gateway-cert.pem")}, secure, overTLS},
		"WebSocket, authority":  {runtime.NodeOptions{Host: "localhost", Port: portOf(t, secure.Addr()), CAFile: filepath.Join(secure.StateDir, "gateway", "tls", "gateway-cert.pem"), Link: "websocket"}, secure, webSocket},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.o.StateDir, tc.o.Token, tc.o.DisplayName = t.TempDir(), tc.d.Token, name
			n := runNode(t, tc.o)
			connected(n, 1)
			if n.via() != tc.want {
				t.Errorf("reached by %s, want %s", n.via(), tc.want)
			}
			until(t, patience, "the way is stored", func() bool { return strings.Contains(n.stored(), `"link": "`+tc.want+`"`) })
			out, err := operator(t, tc.d).ResolveNode(context.Background(), n.id())
			if err != nil || !out.GetConnected() {
				t.Errorf("%v, %v", out, err)
			}
			if strings.Contains(n.log.String()+n.stored(), tc.d.Token) {
				t.Error("the token is told or stored")
			}
		})
	}
}

// TestNeverWeaker: a gateway that cannot be trusted, or refuses, is not tried in another way, and
// hears no secret.
func TestNeverWeaker(t *testing.T) {
	good := hanzodtest.Start(t, hanzodtest.Options{TLS: true, GRPC: true})
	bad := hanzodtest.Start(t, hanzodtest.Options{TLS: true, GRPC: true})
	for name, tc := range map[string]struct {
		o    runtime.NodeOptions
		says string
	}{
		"another certificate": {runtime.NodeOptions{Port: portOf(t, good.Addr()), GRPCPort: portOf(t, bad.GRPCAddress()), Fingerprint: good.TLSFingerprint(), Token: good.Token}, "not the pinned one"},
		"nobody vouches":      {runtime.NodeOptions{Port: portOf(t, good.Addr()), GRPCPort: portOf(t, good.GRPCAddress()), TLS: true, Token: good.Token}, "it is not known who answers"},
		"a wrong token":       {runtime.NodeOptions{Port: portOf(t, good.Addr()), GRPCPort: portOf(t, good.GRPCAddress()), Fingerprint: good.TLSFingerprint(), Token: "wrong-token-123456"}, "current token or password"},
		"no token":            {runtime.NodeOptions{Port: portOf(t, good.Addr()), GRPCPort: portOf(t, good.GRPCAddress()), Fingerprint: good.TLSFingerprint()}, "hanzod node --enroll"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.o.StateDir, tc.o.Host = t.TempDir(), "127.0.0.1"
			n := runNode(t, tc.o)
			n.until("it is tried again", func() bool { return strings.Count(n.log.String(), "retryIn") >= 2 })
			n.stop()
			if log := n.log.String(); n.connects() != 0 || !strings.Contains(log, tc.says) || strings.Contains(log, tc.o.Token) && tc.o.Token != "" {
				t.Errorf("connected %d times; log:\n%s", n.connects(), log)
			}
			if strings.Contains(good.LogText()+bad.LogText(), `"client":"node-host"`) || strings.Contains(good.LogText(), "a client was not let in") {
				t.Error("it was tried by WebSocket")
			}
		})
	}
}

// TestLocalStaysLocal: a daemon that was reached by the socket is reached by nothing else, in this
// start of the node host and in the next: who takes its port meanwhile hears nothing.
func TestLocalStaysLocal(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	dir := t.TempDir()
	addr := d.Addr()
	o := runtime.NodeOptions{StateDir: dir, Socket: d.Socket(), Token: d.Token}
	n := runNode(t, o)
	connected(n, 1)
	if n.via() != local {
		t.Fatalf("reached by %s", n.via())
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("the port is taken: %v", err)
	}
	calls := make(chan struct{}, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
			calls <- struct{}{}
		}
	}()
	tries := func(n *nodeHost) int { return strings.Count(n.log.String(), "no connection to the gateway") }
	n.until("it is tried again", func() bool { return tries(n) >= 2 })
	n.stop()
	n = runNode(t, o)
	n.until("it is tried by the next start", func() bool { return tries(n) >= 2 })
	n.stop()
	_ = l.Close()
	<-done
	if len(calls) != 0 {
		t.Errorf("the port was called %d times", len(calls))
	}
}

// TestEnroll: an invite makes a node that needs nothing else, from then on.
func TestEnroll(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	op := operator(t, d)
	invite := func(role string, scopes ...string) string {
		out, err := op.Devices.CreateInvite(context.Background(), &devicesv1.CreateInviteRequest{Role: role, Scopes: scopes})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetCode()
	}
	dir := t.TempDir()
	code := invite("node")
	n := runNode(t, runtime.NodeOptions{StateDir: dir, DisplayName: "annex", Enroll: code})
	connected(n, 1)
	if n.via() != overTLS {
		t.Errorf("reached by %s", n.via())
	}
	node, err := op.ResolveNode(context.Background(), "annex")
	if err != nil || !node.GetPaired() || node.GetNodeId() != n.id() {
		t.Errorf("%v, %v", node, err)
	}
	i, err := client.ParseInvite(code)
	if err != nil {
		t.Fatal(err)
	}
	token := tokenIn(t, dir)
	if text := n.log.String() + n.stored(); strings.Contains(text, i.Secret) || strings.Contains(text, token) {
		t.Error("a secret is told or stored in node.json")
	}
	for _, file := range []string{"identity/device.json", "identity/device-auth.json"} {
		if st, err := os.Stat(filepath.Join(dir, file)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, st, err)
		}
	}
	n.stop()
	// The next start needs nothing.
	n = runNode(t, runtime.NodeOptions{StateDir: dir})
	connected(n, 1)
	n.stop()
	// Nor does it mind the invite that enrolled it, as a container is started with again and again.
	n = runNode(t, runtime.NodeOptions{StateDir: dir, Enroll: code})
	connected(n, 1)
	n.stop()
	// What cannot be used is said, and ends the node host with nothing changed.
	before := n.stored()
	for name, tc := range map[string]struct {
		o    runtime.NodeOptions
		want string
	}{
		"a used invite":          {runtime.NodeOptions{Enroll: code, StateDir: t.TempDir()}, "was used or has expired"},
		"one for an operator":    {runtime.NodeOptions{Enroll: invite("operator", "operator.read")}, "hanzoctl enroll"},
		"no invite":              {runtime.NodeOptions{Enroll: "xyz"}, "no invite code"},
		"with another gateway":   {runtime.NodeOptions{Enroll: invite("node"), Host: "box"}, "the invite says which gateway"},
		"of a closed daemon":     {runtime.NodeOptions{Enroll: client.Invite{Secret: "hzi_x", Role: "node"}.Code()}, "listens on its own machine only"},
		"of one that is not on":  {runtime.NodeOptions{Enroll: client.Invite{Secret: "hzi_x", Role: "node", Addresses: []string{"127.0.0.1:" + strconv.Itoa(nowhere(t))}}.Code()}, "no daemon answers"},
		"with another's pin":     {runtime.NodeOptions{Enroll: client.Invite{Secret: i.Secret, Role: "node", Addresses: i.Addresses, Pin: strings.Repeat("ab", 32)}.Code()}, "not the pinned one"},
		"an unknown way to link": {runtime.NodeOptions{Link: "carrier-pigeon"}, "auto, grpc or websocket"},
	} {
		if tc.o.StateDir == "" {
			tc.o.StateDir = dir
		}
		err := runNode(t, tc.o).refused()
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hzi_") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := n.stored(); after != before || tokenIn(t, dir) != token {
		t.Errorf("node.json was changed from %s to %s", before, after)
	}
	// A device that was removed is told so, and an invite makes it known again.
	if _, err := op.Devices.RemoveDevice(context.Background(), &devicesv1.RemoveDeviceRequest{DeviceId: n.id()}); err != nil {
		t.Fatal(err)
	}
	n = runNode(t, runtime.NodeOptions{StateDir: dir})
	n.until("it is told", func() bool { return n.log.has("pair this machine again") })
	n.stop()
	n = runNode(t, runtime.NodeOptions{StateDir: dir, Enroll: invite("node")})
	connected(n, 1)
}

func tokenIn(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "identity", "device-auth.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Tokens map[string]struct{ Token string }
	}
	if err := json.Unmarshal(text, &f); err != nil || f.Tokens["node"].Token == "" {
		t.Fatalf("%v: %v", err, f)
	}
	return f.Tokens["node"].Token
}

// TestSecretChanges: a paired node outlives a change of the shared secret that it is given.
func TestSecretChanges(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	out, err := operator(t, d).Devices.CreateInvite(context.Background(), &devicesv1.CreateInviteRequest{Role: "node"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	n := runNode(t, runtime.NodeOptions{StateDir: dir, Enroll: out.GetCode()})
	connected(n, 1)
	n.stop()
	n = runNode(t, runtime.NodeOptions{StateDir: dir, Token: "the-old-secret-1234"})
	connected(n, 1)
	n.stop()
}

// TestEmbedded: the node host inside the daemon comes by the socket, also where the port speaks TLS,
// and comes back after its link was lost.
func TestEmbedded(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{Node: true, TLS: true})
	op := operator(t, d)
	var id string
	until(t, patience, "the node is there", func() bool {
		n, err := op.ResolveNode(context.Background(), d.NodeName())
		id = n.GetNodeId()
		return err == nil && n.GetConnected() && n.GetPathEnv() != ""
	})
	// The daemon lists a node before the node has heard that it is in.
	until(t, patience, "it came by the socket", func() bool { return strings.Contains(d.LogText(), `"via":"local"`) })
	out, err := op.RunCommand(t.Context(), client.RunIn{Node: id, Argv: []string{"/bin/true"}, ApprovalTimeout: time.Millisecond}, nil)
	if codeOf(err) != client.CodeApprovalExpired {
		t.Errorf("%+v, %v", out, err)
	}
}
