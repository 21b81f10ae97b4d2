//go:build unix

package promises

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// revokeBites is promise 8: how long a removed or revoked device may still be connected.
const revokeBites = time.Second

// far starts a daemon that other machines may reach by gRPC over TLS, and returns its address and
// fingerprint.
func far(t *testing.T) (d *proc.Daemon, address, pin string) {
	t.Helper()
	port := proc.FreePort(t)
	d = proc.Start(t, proc.Options{Form: proc.Tested, Args: []string{"--grpc-port", fmt.Sprint(port)}})
	out := proc.Run(t, d.State, proc.Build(t, "hanzod", proc.Tested), nil,
		"tls", "fingerprint", "--state-dir", d.State, "--config", filepath.Join(d.State, "config.json")).Wait(t, proc.Patience)
	if out.Code != 0 {
		t.Fatalf("%s", out.Stderr)
	}
	return d, fmt.Sprintf("127.0.0.1:%d", port), strings.TrimSpace(out.Stdout.String())
}

// paired lets a device of this machine in and returns its token.
func paired(t *testing.T, d *proc.Daemon, device *dial.Identity) string {
	t.Helper()
	c := proc.Connect(t, d.Operator(device))
	token := c.Hello().DeviceToken
	if token == "" {
		t.Fatal("a device of this machine is not paired")
	}
	_ = c.Close()
	return token
}

// byToken is how a device connects with its token alone.
func byToken(d *proc.Daemon, device *dial.Identity, token string) dial.Options {
	o := d.Operator(device)
	o.Auth = dial.Auth{DeviceToken: token}
	return o
}

// open is a connection of a device: ended is closed when the daemon has ended it.
type open struct {
	name  string
	ended chan struct{}
}

// everywhere connects a device at every door.
func everywhere(t *testing.T, d *proc.Daemon, address, pin string, device *dial.Identity, token string) []open {
	t.Helper()
	var all []open
	add := func(name string) chan struct{} {
		o := open{name, make(chan struct{})}
		all = append(all, o)
		return o.ended
	}
	follow := func(name string, wait func()) {
		ended := add(name)
		go func() {
			defer close(ended)
			wait()
		}()
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)

	legacy := proc.Connect(t, byToken(d, device, token))
	follow("legacy by its token", func() { <-legacy.Done() })
	bySecret := proc.Connect(t, d.Operator(device))
	follow("legacy by the shared secret", func() { <-bySecret.Done() })

	c, err := client.Dial(ctx, client.Options{Host: address, TLSFingerprint: pin, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	stream, err := c.Nodes.WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	follow("a stream of gRPC", func() {
		for {
			if _, err := stream.Recv(); err != nil {
				return
			}
		}
	})

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.URL()+"/v1/nodes:watch", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%v %v", res, err)
	}
	follow("a stream of REST", func() {
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, bufio.NewReader(res.Body))
	})
	return all
}

// allEnd demands that connections end within the promise and returns how long the last one took.
func allEnd(t *testing.T, what string, all []open, since time.Time) {
	t.Helper()
	for _, o := range all {
		select {
		case <-o.ended:
		case <-time.After(proc.Patience):
			t.Fatalf("%s: %s is still open", what, o.name)
		}
		if took := time.Since(since); took > revokeBites {
			t.Errorf("%s: %s ended after %v; %v are promised", what, o.name, took, revokeBites)
		} else {
			t.Logf("%s: %s ended after %v", what, o.name, took)
		}
	}
}

// standsStill demands that connections are still there.
func standsStill(t *testing.T, what string, all []open) {
	t.Helper()
	for _, o := range all {
		select {
		case <-o.ended:
			t.Errorf("%s: %s of another device ended too", what, o.name)
		default:
		}
	}
}

func refusalOf(err error) string {
	if e, ok := errors.AsType[*dial.RefusedError](err); ok {
		return e.Detail("code") + " " + e.Detail("reason")
	}
	return fmt.Sprint(err)
}

// TestRevocationBites: removing a device or revoking its token ends what it has open at every door
// within a second, and nothing of anybody else; it stays so through connects by every means and a
// restart; and one approval mends it (promise 8, R12).
func TestRevocationBites(t *testing.T) {
	t.Parallel()
	d, address, pin := far(t)
	local := d.Client(t)
	phone, other := proc.Device(t), proc.Device(t)
	token, otherToken := paired(t, d, phone), paired(t, d, other)
	bystander := everywhere(t, d, address, pin, other, otherToken)
	connect := func(o dial.Options) string {
		c, err := dial.Dial(t.Context(), o)
		if err != nil {
			return refusalOf(err)
		}
		_ = c.Close()
		return "in"
	}
	node := d.Node(phone, func(proc.Invocation) any { return nil })
	asNode := func() open {
		c := proc.Connect(t, node)
		o := open{"as a node", make(chan struct{})}
		go func() {
			<-c.Done()
			close(o.ended)
		}()
		return o
	}
	sharedEnds := asNode()

	// Revoked.
	all := everywhere(t, d, address, pin, phone, token)
	began := time.Now()
	if _, err := local.Devices.RevokeToken(t.Context(), &devicesv1.RevokeTokenRequest{DeviceId: phone.ID, Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	allEnd(t, "revoked", all, began)
	standsStill(t, "revoked", append(bystander, sharedEnds))
	for range 2 {
		for name, got := range map[string]string{
			"by its token":         connect(byToken(d, phone, token)),
			"by the shared secret": connect(d.Operator(phone)),
		} {
			want := "PAIRING_REQUIRED role-upgrade"
			if name == "by its token" {
				want = "AUTH_DEVICE_TOKEN_MISMATCH "
			}
			if got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		d.Kill() // what was answered is on disk
		d.Start()
	}
	bystander = everywhere(t, d, address, pin, other, otherToken)

	// status names what is to be done, and doing it once is enough.
	status := d.Ctl("status").Wait(t, proc.Patience)
	_, advice, found := strings.Cut(status.Stdout.String(), "asks to be let in again: hanzoctl ")
	if !found {
		t.Fatalf("status says nothing of the repair:\n%s", status.Stdout)
	}
	advice, _, _ = strings.Cut(advice, "\n")
	if run := d.Ctl(strings.Fields(advice)...).Wait(t, proc.Patience); run.Code != 0 {
		t.Fatalf("hanzoctl %s: %s", advice, run.Stderr)
	}
	token = paired(t, d, phone)
	if got := connect(byToken(d, phone, token)); got != "in" {
		t.Errorf("repaired: %s", got)
	}

	// Rotated: what the old token let in ends, what the secret let in does not.
	all = everywhere(t, d, address, pin, phone, token)
	began = time.Now()
	out, err := local.Devices.RotateToken(t.Context(), &devicesv1.RotateTokenRequest{DeviceId: phone.ID, Role: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	allEnd(t, "rotated", []open{all[0], all[2], all[3]}, began)
	standsStill(t, "rotated", append(bystander, all[1]))
	token = out.GetToken()

	// Removed, in every role, and by a client that leaves the closing handshake unanswered.
	all = append(everywhere(t, d, address, pin, phone, token), all[1])
	sharedEnds = asNode()
	before := connections(t, local)
	began = time.Now()
	if _, err := local.Devices.RemoveDevice(t.Context(), &devicesv1.RemoveDeviceRequest{DeviceId: phone.ID}); err != nil {
		t.Fatal(err)
	}
	allEnd(t, "removed", append(all, sharedEnds), began)
	standsStill(t, "removed", bystander)
	proc.UntilFor(t, revokeBites, "the daemon has forgotten the connections", func() bool { return connections(t, local) == before-4 })
	if got := connect(byToken(d, phone, token)); got != "AUTH_DEVICE_TOKEN_MISMATCH " {
		t.Errorf("removed, by its token: %s", got)
	}
}

func connections(t *testing.T, c *client.Client) int {
	t.Helper()
	s, err := c.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return int(s.GetConnections())
}

// TestRevocationBitesTheSilent: a client that reads nothing and answers nothing is gone as soon, and
// what it still sends is not served.
func TestRevocationBitesTheSilent(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	local := d.Client(t)
	device := proc.Device(t)
	ws := handshake(t, d, device)
	proc.Until(t, "the device is connected", func() bool { return connections(t, local) == 1 })
	began := time.Now()
	if _, err := local.Devices.RevokeToken(t.Context(), &devicesv1.RevokeTokenRequest{DeviceId: device.ID, Role: "operator"}); err != nil {
		t.Fatal(err)
	}
	// It goes on writing while the daemon waits for its goodbye.
	name := `{"type":"req","id":"x","method":"node.rename","params":{"nodeId":"` + device.ID + `","displayName":"after the end"}}`
	for range 20 {
		_ = ws.Write(t.Context(), websocket.MessageText, []byte(name)) // it may be gone already
	}
	proc.UntilFor(t, proc.Patience, "the connection is gone", func() bool { return connections(t, local) == 0 })
	if took := time.Since(began); took > revokeBites {
		t.Errorf("it took %v; %v are promised", took, revokeBites)
	}
	_ = ws.CloseNow()
}

// handshake connects a device by hand, and reads nothing more.
func handshake(t *testing.T, d *proc.Daemon, device *dial.Identity) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, d.WS(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	_, first, err := ws.Read(ctx)
	var f struct{ Payload struct{ Nonce string } }
	if err != nil || json.Unmarshal(first, &f) != nil {
		t.Fatalf("%s %v", first, err)
	}
	now := time.Now().UnixMilli()
	text := identity.Signed{
		DeviceID: device.ID, ClientID: "test", ClientMode: "test", Role: "operator", Scopes: identity.AllOperatorScopes,
		SignedAt: now, Token: proc.Token, Nonce: f.Payload.Nonce, Platform: "linux",
	}.Payload("v3")
	frame, err := json.Marshal(map[string]any{"type": "req", "id": "1", "method": "connect", "params": map[string]any{
		"minProtocol": 3, "maxProtocol": 3, "role": "operator", "scopes": identity.AllOperatorScopes,
		"client": map[string]any{"id": "test", "version": "1", "platform": "linux", "mode": "test"},
		"auth":   map[string]any{"token": proc.Token},
		"device": map[string]any{"id": device.ID, "publicKey": device.PublicKey(), "signature": device.Sign(text), "signedAt": now, "nonce": f.Payload.Nonce},
	}})
	if err == nil {
		err = ws.Write(ctx, websocket.MessageText, frame)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// TestConnectAgainstRevocation: of connects that fall together with a revocation none survives.
func TestConnectAgainstRevocation(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	local := d.Client(t)
	for round := range 10 {
		device := proc.Device(t)
		o := byToken(d, device, paired(t, d, device))
		proc.Until(t, "nobody is connected", func() bool { return connections(t, local) == 0 })
		var wg sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c, err := dial.Dial(context.Background(), o)
					if err == nil {
						t.Cleanup(func() { _ = c.Close() }) // it stays until the daemon ends it
					}
				}
			})
		}
		time.Sleep(time.Duration(round*3) * time.Millisecond)
		if _, err := local.Devices.RevokeToken(t.Context(), &devicesv1.RevokeTokenRequest{DeviceId: device.ID, Role: "operator"}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		time.Sleep(20 * time.Millisecond)
		close(stop)
		wg.Wait()
		proc.UntilFor(t, proc.Patience, "every connection has ended", func() bool { return connections(t, local) == 0 })
		if took := time.Since(began); took > revokeBites {
			t.Errorf("round %d: the last connection ended after %v", round, took)
		}
	}
}

// TestSelfRemoval: a device that removes itself gets its answer, and is gone then.
func TestSelfRemoval(t *testing.T) {
	t.Parallel()
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	device := proc.Device(t)
	c := proc.Connect(t, byToken(d, device, paired(t, d, device)))
	rotated := proc.Call(t, c, "device.token.rotate", map[string]any{"deviceId": device.ID, "role": "operator"})
	if !strings.Contains(string(rotated), `"token"`) {
		t.Errorf("%s", rotated)
	}
	proc.Call(t, c, "health", nil) // who rotates its own token stays
	began := time.Now()
	proc.Call(t, c, "device.pair.remove", map[string]any{"deviceId": device.ID})
	select {
	case <-c.Done():
	case <-time.After(proc.Patience):
		t.Fatal("it is still connected")
	}
	if took := time.Since(began); took > revokeBites {
		t.Errorf("it took %v", took)
	}
	if e, ok := c.Err().(*dial.ClosedError); !ok || e.Code != int(websocket.StatusPolicyViolation) || e.Reason != "device removed" {
		t.Errorf("%v", c.Err())
	}
}

// TestEnrolment: one printed line makes another machine an operator, and another one a node. The line
// works once, its secret shows in no list of processes and in no log, and what was enrolled is kept
// out like any other device.
func TestEnrolment(t *testing.T) {
	t.Parallel()
	d, address, _ := far(t)
	ctl, hanzod := proc.Build(t, "hanzoctl", proc.Tested), proc.Build(t, "hanzod", proc.Tested)
	bin := proc.Dir(t)
	for name, path := range map[string]string{"hanzoctl": ctl, "hanzod": hanzod} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	invite := func(args ...string) string {
		t.Helper()
		out := d.Ctl(append([]string{"devices", "invite"}, args...)...).Wait(t, proc.Patience)
		if out.Code != 0 || strings.Count(out.Stdout.String(), "\n") != 1 {
			t.Fatalf("code %d: %s%s", out.Code, out.Stdout, out.Stderr)
		}
		return strings.TrimSpace(out.Stdout.String())
	}
	// sh is another machine: a home of its own and a shell.
	sh := func(home, line string) *proc.Command {
		t.Helper()
		return proc.RunGroup(t, home, "/bin/sh", []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, nil, "-c", line)
	}

	laptop := proc.Dir(t)
	line := invite("--scopes", "read,pairing")
	if out := sh(laptop, line).Wait(t, proc.Patience); out.Code != 0 || !strings.Contains(out.Stdout.String(), "enrolled at ") {
		t.Fatalf("%s\ncode %d: %s%s", line, out.Code, out.Stdout, out.Stderr)
	}
	hosts := sh(laptop, "hanzoctl hosts list -q").Wait(t, proc.Patience)
	name := strings.TrimSpace(hosts.Stdout.String())
	if out := sh(laptop, "hanzoctl --host "+name+" status").Wait(t, proc.Patience); out.Code != 0 || !strings.Contains(out.Stdout.String(), "1 paired, 0 waiting") {
		t.Fatalf("code %d: %s%s", out.Code, out.Stdout, out.Stderr)
	}
	if out := sh(proc.Dir(t), line).Wait(t, proc.Patience); out.Code != 77 || !strings.Contains(out.Stderr.String(), "used or has expired") {
		t.Errorf("a second machine: code %d: %s%s", out.Code, out.Stdout, out.Stderr)
	}
	// It may do what it was invited to, and give nobody more.
	for args, want := range map[string]string{
		"token":                           "lacks the scope operator.admin",
		"devices invite --scopes admin":   "lacks the scope operator.admin",
		"devices invite --role node":      "lacks the scope operator.admin",
		"devices invite --scopes read -q": "",
		"nodes rename nobody anybody":     "",
	} {
		out := sh(laptop, "hanzoctl --host "+name+" "+args).Wait(t, proc.Patience)
		if want != "" && !strings.Contains(out.Stderr.String(), want) || want == "" && strings.HasPrefix(args, "devices") != (out.Code == 0) {
			t.Errorf("%s: code %d: %s%s", args, out.Code, out.Stdout, out.Stderr)
		}
	}

	box := proc.Dir(t)
	line = invite("--role", "node", "--address", address)
	node := sh(box, line+" --display-name box")
	local := d.Client(t)
	var found *nodesv1.Node
	proc.Until(t, "the node is connected", func() bool {
		if node.Ended() {
			t.Fatalf("the node ended with %d: %s", node.Code, node.Stderr)
		}
		out, err := local.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil || len(out.GetNodes()) != 1 {
			return false
		}
		found = out.GetNodes()[0]
		return true
	})
	if found.GetDisplayName() != "box" || !found.GetPaired() {
		t.Errorf("%v", found)
	}
	began := time.Now()
	if out := d.Ctl("devices", "revoke", found.GetNodeId(), "node").Wait(t, proc.Patience); out.Code != 0 {
		t.Fatalf("%s", out.Stderr)
	}
	proc.Until(t, "the node is gone", func() bool {
		out, err := local.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		return err == nil && len(out.GetNodes()) == 0
	})
	if took := time.Since(began); took > revokeBites+d.Ctl("version").Wait(t, proc.Patience).Took {
		t.Errorf("the node was gone after %v", took)
	}
	node.End(syscall.SIGTERM)

	code := strings.Fields(line)[1]
	i, err := client.ParseInvite(code)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range append(d.Outputs(), node.Stderr.String()) {
		if strings.Contains(text, i.Secret) || strings.Contains(text, code) {
			t.Error("an invite is in a log")
		}
	}
}
