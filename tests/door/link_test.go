package door

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
)

// deviceKey is the key of a device.
type deviceKey struct {
	id  string
	key ed25519.PrivateKey
}

func newDeviceKey(name string) deviceKey {
	seed := sha256.Sum256([]byte(name))
	key := ed25519.NewKeyFromSeed(seed[:])
	return deviceKey{identity.DeviceID(key.Public().(ed25519.PublicKey)), key}
}

func (k deviceKey) PublicKey() string { return identity.EncodeKey(k.key.Public().(ed25519.PublicKey)) }

func (k deviceKey) Sign(text string) string {
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(k.key, []byte(text)))
}

// prove signs a registration with the token that the node presents.
func (k deviceKey) prove(reg *nodesv1.NodeRegistration, token string) func(string) (*nodesv1.DeviceProof, error) {
	return func(nonce string) (*nodesv1.DeviceProof, error) {
		at := time.Now().Truncate(time.Millisecond)
		f := identity.Signed{
			DeviceID: k.id, ClientID: reg.GetClientId(), ClientMode: reg.GetClientMode(), Role: identity.RoleNode,
			SignedAt: at.UnixMilli(), Token: token, Nonce: nonce, Platform: reg.GetPlatform(), DeviceFamily: reg.GetDeviceFamily(),
		}
		return &nodesv1.DeviceProof{
			DeviceId: k.id, PublicKey: k.PublicKey(), Signature: k.Sign(f.Payload("v3")), SignedAt: timestamppb.New(at), Nonce: nonce,
		}, nil
	}
}

func registration() *nodesv1.NodeRegistration {
	return &nodesv1.NodeRegistration{
		InstanceId: "box", ClientId: "node-host", ClientMode: "node", DisplayName: "Box", Version: "1", Platform: "linux",
		Caps: []string{"system"}, Commands: []string{"system.which", "system.notify", "sms.send"},
	}
}

// linkWorld is a daemon with all ways in.
type linkWorld struct {
	*hanzodtest.Daemon
	t  *testing.T
	op *client.Client
}

func newLinkWorld(t *testing.T) *linkWorld {
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true})
	w := &linkWorld{Daemon: d, t: t}
	w.op = w.client(client.Options{Socket: d.Socket()})
	return w
}

func (w *linkWorld) client(o client.Options) *client.Client {
	w.t.Helper()
	c, err := client.Dial(context.Background(), o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// here is a node at the local socket, away one on another machine that presents the token.
func (w *linkWorld) here() *client.Client {
	return w.client(client.Options{Socket: w.Socket(), AsNode: true})
}

func (w *linkWorld) away(token string) *client.Client {
	return w.client(client.Options{Host: w.Host(), TLSFingerprint: w.TLSFingerprint(), Token: token, AsNode: true})
}

// echo answers every invoke with its parameters.
func echo(l *client.NodeLink, i *nodesv1.NodeInvoke) {
	text := i.GetParamsJson()
	go func() { _ = l.Answer(&nodesv1.NodeResult{InvokeId: i.GetInvokeId(), Ok: true, PayloadJson: &text}) }()
}

func (w *linkWorld) attach(c *client.Client, o client.NodeOptions) (*client.NodeLink, error) {
	w.t.Helper()
	if o.Registration == nil {
		o.Registration = registration()
	}
	if o.OnInvoke == nil {
		o.OnInvoke = echo
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l, err := c.AttachNode(ctx, o)
	if err == nil {
		w.t.Cleanup(func() { _ = l.Close() })
	}
	return l, err
}

func (w *linkWorld) mustAttach(c *client.Client, o client.NodeOptions) *client.NodeLink {
	w.t.Helper()
	l, err := w.attach(c, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *linkWorld) invoke(node string, params string) (string, error) {
	v, err := structpb.NewValue(params)
	if err != nil {
		w.t.Fatal(err)
	}
	out, err := w.op.Nodes.Invoke(context.Background(), &nodesv1.InvokeRequest{NodeId: node, Command: "system.notify", Params: v})
	return out.GetPayload().GetStringValue(), err
}

func (w *linkWorld) node(id string) *nodesv1.Node {
	w.t.Helper()
	out, err := w.op.Nodes.GetNode(context.Background(), &nodesv1.GetNodeRequest{NodeId: id})
	if err != nil {
		return nil
	}
	return out.GetNode()
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e.Code
	}
	return fmt.Sprintf("%T", err)
}

// ends waits for the end of a link and returns its code.
func ends(t *testing.T, l *client.NodeLink, within time.Duration) string {
	t.Helper()
	select {
	case <-l.Done():
		return codeOf(l.Err())
	case <-time.After(within):
		t.Fatal("the link stands")
		return ""
	}
}

// enrolled is a device that is paired as a node.
func (w *linkWorld) enrolled(name string) (deviceKey, string) {
	w.t.Helper()
	inv, err := w.op.Devices.CreateInvite(context.Background(), &devicesv1.CreateInviteRequest{Role: "node"})
	if err != nil {
		w.t.Fatal(err)
	}
	code, err := client.ParseInvite(inv.GetCode())
	if err != nil {
		w.t.Fatal(err)
	}
	k := newDeviceKey(name)
	e, err := client.Enroll(context.Background(), code, k, client.Machine{Name: name, Platform: "linux"}, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	return k, e.Token
}

// TestLinkAdmission: who gets in over gRPC, and as which node, is what it would be at the legacy door.
func TestLinkAdmission(t *testing.T) {
	w := newLinkWorld(t)
	paired, token := w.enrolled("paired")
	other, otherToken := w.enrolled("other")
	fresh := newDeviceKey("fresh")
	reg := registration()
	plain := registration()
	plain.InstanceId = " "
	claims := registration()
	claims.InstanceId = paired.id
	for name, tc := range map[string]struct {
		c      *client.Client
		reg    *nodesv1.NodeRegistration
		prove  func(string) (*nodesv1.DeviceProof, error)
		node   string // who it is
		paired bool
		token  string // what it is given
		code   string // or why not
	}{
		"the owner without a device":        {c: w.here(), reg: reg, node: "box"},
		"the owner without an instance":     {c: w.here(), reg: plain, node: "node-host"},
		"the owner with a device":           {c: w.here(), reg: reg, prove: fresh.prove(reg, ""), node: fresh.id},
		"the owner with a paired device":    {c: w.here(), reg: reg, prove: paired.prove(reg, ""), node: paired.id, paired: true, token: token},
		"the secret without a device":       {c: w.away(w.Token), reg: reg, node: "box"},
		"the secret with a device":          {c: w.away(w.Token), reg: reg, prove: fresh.prove(reg, w.Token), node: fresh.id},
		"the secret with a paired device":   {c: w.away(w.Token), reg: reg, prove: paired.prove(reg, w.Token), node: paired.id, paired: true, token: token},
		"a paired device":                   {c: w.away(token), reg: reg, prove: paired.prove(reg, token), node: paired.id, paired: true, token: token},
		"a token without its device":        {c: w.away(token), reg: reg, code: "identity.device_required"},
		"a token of another device":         {c: w.away(otherToken), reg: reg, prove: paired.prove(reg, otherToken), code: "identity.auth"},
		"a signature over another token":    {c: w.away(token), reg: reg, prove: paired.prove(reg, otherToken), code: "identity.signature"},
		"a signature of another device":     {c: w.away(token), reg: reg, prove: other.prove(reg, token), code: "identity.auth"},
		"the id of a device":                {c: w.away(w.Token), reg: claims, code: "nodes.device_claimed"},
		"the id of a device, by the owner":  {c: w.here(), reg: claims, code: "nodes.device_claimed"},
		"a wrong token":                     {c: w.away("wrong"), reg: reg, code: "identity.bearer"},
		"an operator":                       {c: w.op, reg: reg, code: "gate.role"},
		"a signature for another challenge": {c: w.here(), reg: reg, code: "identity.nonce_mismatch", prove: func(string) (*nodesv1.DeviceProof, error) { return fresh.prove(reg, "")("other") }},
		"an old signature": {c: w.here(), reg: reg, code: "identity.signature_stale", prove: func(nonce string) (*nodesv1.DeviceProof, error) {
			p, err := fresh.prove(reg, "")(nonce)
			p.SignedAt = timestamppb.New(time.Now().Add(-time.Hour))
			return p, err
		}},
		"another platform than the paired": {c: w.away(token), code: "identity.pairing_required", reg: func() *nodesv1.NodeRegistration {
			r := registration()
			r.Platform = "darwin"
			return r
		}()},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.code == "identity.pairing_required" {
				tc.prove = paired.prove(tc.reg, token)
			}
			l, err := w.attach(tc.c, client.NodeOptions{Registration: tc.reg, Prove: tc.prove})
			if tc.code != "" {
				if codeOf(err) != tc.code {
					t.Fatalf("%v, want %s", err, tc.code)
				}
				if e, _ := errors.AsType[*client.Error](err); tc.code == "identity.pairing_required" && (e.Fields["reason"] != "metadata-upgrade" || e.Fields["requestId"] == "") {
					t.Errorf("fields %v", e.Fields)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			got := l.Welcome()
			if got.GetNodeId() != tc.node || got.GetDeviceToken() != tc.token || strings.Join(got.GetCommands(), " ") != "system.notify system.which" {
				t.Errorf("welcome %v", got)
			}
			n := w.node(tc.node)
			if !n.GetConnected() || n.GetPaired() != tc.paired || n.GetDisplayName() != "Box" {
				t.Errorf("node %v", n)
			}
			if out, err := w.invoke(tc.node, "hello"); out != "hello" || err != nil {
				t.Errorf("%q, %v", out, err)
			}
			_ = l.Close()
			await(t, "the node is offline", func() bool { return !w.node(tc.node).GetConnected() })
		})
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("never happened: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// TestLinkRegistrationFirst: a stream that does not begin with a registration, or goes on with
// another, is ended with the reason.
func TestLinkRegistrationFirst(t *testing.T) {
	w := newLinkWorld(t)
	c := w.here()
	large := registration()
	large.PathEnv = strings.Repeat("x", 65<<10)
	nameless := registration()
	nameless.ClientId = ""
	register := func(r *nodesv1.NodeRegistration) *nodesv1.AttachRequest {
		return &nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Register{Register: r}}
	}
	for name, tc := range map[string]struct {
		send []*nodesv1.AttachRequest
		code string
	}{
		"a result":       {[]*nodesv1.AttachRequest{{Message: &nodesv1.AttachRequest_Result{Result: &nodesv1.NodeResult{}}}}, "rpc.register"},
		"nothing in it":  {[]*nodesv1.AttachRequest{{}}, "rpc.register"},
		"too large":      {[]*nodesv1.AttachRequest{register(large)}, "rpc.register_size"},
		"without a name": {[]*nodesv1.AttachRequest{register(nameless)}, "rpc.register_text"},
		"twice":          {[]*nodesv1.AttachRequest{register(registration()), register(registration())}, "rpc.register"},
		"nothing later":  {[]*nodesv1.AttachRequest{register(registration()), {}}, "rpc.link_message"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			s, err := c.Nodes.Attach(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range tc.send {
				if err := s.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			for err == nil {
				_, err = s.Recv()
			}
			if codeOf(err) != tc.code {
				t.Errorf("%v, want %s", err, tc.code)
			}
		})
	}
	await(t, "no node is left", func() bool { return !w.node("box").GetConnected() })
}

// TestLinkReplaced: a newer link takes the place of an older one, whose end does not harm it.
func TestLinkReplaced(t *testing.T) {
	w := newLinkWorld(t)
	old := w.mustAttach(w.here(), client.NodeOptions{})
	for range 10 {
		l := w.mustAttach(w.away(w.Token), client.NodeOptions{})
		if got := ends(t, old, patience); got != "rpc.link_ended" || !strings.Contains(old.Err().Error(), "replaced by a newer connection") {
			t.Errorf("the older link ended with %v", old.Err())
		}
		if out, err := w.invoke("box", "x"); out != "x" || err != nil {
			t.Fatalf("%q, %v", out, err)
		}
		old = l
	}
}

// TestLinkEndsWithItsDevice: a device that is removed, or whose token is revoked, is gone within a
// second, its calls fail, and it does not come back.
func TestLinkEndsWithItsDevice(t *testing.T) {
	w := newLinkWorld(t)
	reg := registration()
	for _, tc := range []struct {
		name string
		with string // what the node presents
		end  func(id string) error
	}{
		{"remove", "token", func(id string) error {
			_, err := w.op.Devices.RemoveDevice(context.Background(), &devicesv1.RemoveDeviceRequest{DeviceId: id})
			return err
		}},
		{"revoke", "token", func(id string) error {
			_, err := w.op.Devices.RevokeToken(context.Background(), &devicesv1.RevokeTokenRequest{DeviceId: id, Role: "node"})
			return err
		}},
		{"revoke at the socket", "socket", func(id string) error {
			_, err := w.op.Devices.RevokeToken(context.Background(), &devicesv1.RevokeTokenRequest{DeviceId: id, Role: "node"})
			return err
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k, token := w.enrolled(tc.name)
			c, signed := w.away(token), token
			if tc.with == "socket" {
				c, signed = w.here(), ""
			}
			got := make(chan struct{}, 1)
			l := w.mustAttach(c, client.NodeOptions{Registration: reg, Prove: k.prove(reg, signed), OnInvoke: func(*client.NodeLink, *nodesv1.NodeInvoke) { got <- struct{}{} }})
			ended := make(chan error, 1)
			go func() {
				_, err := w.invoke(k.id, "x")
				ended <- err
			}()
			<-got
			began := time.Now()
			if err := tc.end(k.id); err != nil {
				t.Fatal(err)
			}
			if code := ends(t, l, time.Second); code != "rpc.revoked" {
				t.Errorf("the link ended with %v", l.Err())
			}
			if err := <-ended; codeOf(err) != "nodes.disconnected" {
				t.Errorf("the call ended with %v", err)
			}
			t.Logf("after %v", time.Since(began))
			if _, err := w.attach(c, client.NodeOptions{Registration: reg, Prove: k.prove(reg, signed)}); err == nil && tc.name != "remove" {
				t.Error("the device is back")
			}
		})
	}
}

// TestLinkCarries: concurrent invokes, large answers, errors and events.
func TestLinkCarries(t *testing.T) {
	w := newLinkWorld(t)
	for name, c := range map[string]*client.Client{"socket": w.here(), "TLS": w.away(w.Token)} {
		t.Run(name, func(t *testing.T) {
			refused := make(chan *nodesv1.NodeReportRefused, 1)
			notices := make(chan *nodesv1.NodeNotice, 10)
			l := w.mustAttach(c, client.NodeOptions{
				OnRefused: func(r *nodesv1.NodeReportRefused) { refused <- r },
				OnNotice:  func(n *nodesv1.NodeNotice) { notices <- n },
			})
			if n := <-notices; n.GetEvent() != "voicewake.changed" || !strings.HasPrefix(n.GetPayloadJson(), `{"triggers":[`) {
				t.Errorf("greeted with %v", n)
			}
			var wg sync.WaitGroup
			for i := range 200 {
				wg.Go(func() {
					text := fmt.Sprint("p", i)
					if out, err := w.invoke("box", text); out != text || err != nil {
						t.Errorf("%q, %v", out, err)
					}
				})
			}
			wg.Wait()
			big := strings.Repeat("a", 8<<20)
			if out, err := w.invoke("box", big); out != big || err != nil {
				t.Errorf("%d bytes, %v", len(out), err)
			}
			// A result that is too large is told to its sender, and the link stands.
			if err := l.Answer(&nodesv1.NodeResult{InvokeId: "x", PayloadJson: new(strings.Repeat("a", client.MaxMessage))}); codeOf(err) != client.CodeTooLarge {
				t.Errorf("%v", err)
			}
			// Late and foreign answers are ignored.
			if err := l.Answer(&nodesv1.NodeResult{InvokeId: "nobody", Ok: true}); err != nil {
				t.Error(err)
			}
			watch, err := w.op.System.WatchEvents(t.Context(), &systemv1.WatchEventsRequest{Names: []string{"node.event"}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := watch.Header(); err != nil {
				t.Fatal(err)
			}
			if err := l.Report("some.event", `{"a":1}`); err != nil {
				t.Fatal(err)
			}
			e, err := watch.Recv()
			if err != nil || e.GetPayload().GetStructValue().GetFields()["nodeId"].GetStringValue() != "box" {
				t.Errorf("%v, %v", e, err)
			}
			if err := l.Report("some.event", `"`+strings.Repeat("x", 300<<10)+`"`); err != nil {
				t.Fatal(err)
			}
			if r := <-refused; r.GetReason() != "nodes.event_payload" || r.GetEvent() != "some.event" {
				t.Errorf("%v", r)
			}
			if out, err := w.invoke("box", "still"); out != "still" || err != nil {
				t.Errorf("%q, %v", out, err)
			}
			_ = l.Close()
			await(t, "the node is offline", func() bool { return !w.node("box").GetConnected() })
			await(t, "presence says that it left", func() bool {
				p, err := w.op.System.ListPresence(t.Context(), &systemv1.ListPresenceRequest{})
				return err == nil && slices.ContainsFunc(p.GetEntries(), func(e *systemv1.PresenceEntry) bool {
					return e.GetInstanceId() == "box" && e.GetReason() == "disconnect" && e.GetHost() == "Box" && e.GetMode() == "node"
				})
			})
		})
	}
}

// TestLinkBehind: a node that takes nothing costs a bound and no more: further calls to it fail at
// once, other nodes are served, and the link ends in time.
func TestLinkBehind(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the time of a stalled write")
	}
	t.Parallel()
	w := newLinkWorld(t)
	c := w.away(w.Token)
	s, err := c.Nodes.Attach(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slow := registration()
	slow.InstanceId = "slow"
	if err := s.Send(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Register{Register: slow}}); err != nil {
		t.Fatal(err)
	}
	for range 3 { // challenge, welcome, greeting; then nothing is read any more
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	w.mustAttach(w.here(), client.NodeOptions{})
	big := strings.Repeat("a", 4<<20)
	ended := make(chan error, 24)
	for range cap(ended) {
		go func() {
			_, err := w.invoke("slow", big)
			ended <- err
		}()
	}
	began := time.Now()
	codes := map[string]int{}
	for range cap(ended) {
		codes[codeOf(<-ended)]++
		if out, err := w.invoke("box", "x"); out != "x" || err != nil {
			t.Errorf("another node: %q, %v", out, err)
		}
	}
	// Eleven fit into the bound.
	if codes["nodes.send"] < cap(ended)/4 || codes["nodes.send"]+codes["nodes.disconnected"] != cap(ended) || time.Since(began) > 25*time.Second {
		t.Errorf("after %v: %v", time.Since(began), codes)
	}
	await(t, "the slow node is offline", func() bool { return !w.node("slow").GetConnected() })
}

// TestLinkStops: a daemon that stops says so, and the calls under way fail.
func TestLinkStops(t *testing.T) {
	w := newLinkWorld(t)
	got := make(chan struct{}, 1)
	l := w.mustAttach(w.away(w.Token), client.NodeOptions{OnInvoke: func(*client.NodeLink, *nodesv1.NodeInvoke) { got <- struct{}{} }})
	ended := make(chan error, 1)
	go func() {
		_, err := w.invoke("box", "x")
		ended <- err
	}()
	<-got
	began := time.Now()
	if err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if code := ends(t, l, patience); code != client.CodeLost || !strings.Contains(l.Err().Error(), "stopping") {
		t.Errorf("the link ended with %v", l.Err())
	}
	if err := <-ended; err == nil {
		t.Error("the call ended well")
	}
	if err := l.Answer(&nodesv1.NodeResult{}); err == nil {
		t.Error("an answer on a link that has ended")
	}
}

// TestAttachWithoutCredentials: a stranger gets no challenge.
func TestAttachWithoutCredentials(t *testing.T) {
	h := newHouse(t)
	s, err := nodesv1.NewNodeServiceClient(h.remote.conn).Attach(context.Background())
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

// TestLinkWithPassword: where the gateway has a password, that is what a node presents.
func TestLinkWithPassword(t *testing.T) {
	const password = "a-password-123456"
	d := hanzodtest.Start(t, hanzodtest.Options{GRPC: true, Config: map[string]any{
		"gateway": map[string]any{"auth": map[string]any{"mode": "password", "password": password}},
	}})
	w := &linkWorld{Daemon: d, t: t}
	w.op = w.client(client.Options{Socket: d.Socket()})
	k, reg := newDeviceKey("with a password"), registration()
	l := w.mustAttach(w.away(password), client.NodeOptions{Registration: reg, Prove: k.prove(reg, password)})
	if l.Welcome().GetNodeId() != k.id {
		t.Errorf("%v", l.Welcome())
	}
	if out, err := w.invoke(k.id, "x"); out != "x" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := w.attach(w.away("wrong"), client.NodeOptions{}); codeOf(err) != "identity.bearer" {
		t.Errorf("%v", err)
	}
}
