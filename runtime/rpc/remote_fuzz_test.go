package rpc

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/hanzoai/hanzod/events"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runtime/listen"
)

// FuzzRemoteHeader: whatever the header of a call holds, only the one token as a bearer lets it in,
// and nobody gets a role that the credentials do not give.
func FuzzRemoteHeader(f *testing.F) {
	const secret = "the-secret"
	f.Add("Bearer the-secret", "", "node")
	f.Add("bearer  the-secret ", "", "operator")
	f.Add("Bearer the-secret", "Bearer the-secret", "")
	f.Add("Basic the-secret", "", "\x00")
	f.Add("Bearer", "the-secret", "admin")
	s := &Server{d: Deps{Log: slog.New(slog.DiscardHandler), Bearer: func(_ context.Context, token string, from identity.Peer) (identity.Caller, error) {
		if token != secret || from.Local {
			return identity.Caller{}, identity.ErrBearerNotAccepted
		}
		return identity.Caller{Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, Local: true}, nil
	}}}
	from := listen.RemoteInfo{Addr: netip.MustParseAddr("192.0.2.1")}
	f.Fuzz(func(t *testing.T, first, second, role string) {
		md := metadata.MD{"authorization": {first}, roleHeader: {role}}
		if second != "" {
			md["authorization"] = append(md["authorization"], second)
		}
		cred, err := s.authenticate(t.Context(), from, md)
		scheme, token, _ := strings.Cut(first, " ")
		want := second == "" && strings.EqualFold(scheme, "bearer") && strings.TrimSpace(token) == secret
		if (err == nil) != want {
			t.Fatalf("%q %q: %v", first, second, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error tells the secret: %v", err)
			}
			return
		}
		if cred.caller.Local || cred.caller.Door != identity.DoorGRPC || cred.caller.RemoteIP != "192.0.2.1" {
			t.Errorf("%+v", cred.caller)
		}
		c, err := inRole(metadata.NewIncomingContext(t.Context(), md), cred.caller)
		switch {
		case err != nil && (role == "node" || role == "operator"):
			t.Errorf("%q: %v", role, err)
		case err == nil && role != "node" && role != "operator":
			t.Errorf("%q is a role", role)
		case err == nil && (string(c.Role) != role || role == "node" && (c.Has(identity.ScopeRead) || c.NodeID != "")):
			t.Errorf("%q: %+v", role, c)
		}
	})
}

// linked is the domains of a link that take everything.
type linked struct{ Nodes }

func (linked) Result(_ context.Context, c identity.Caller, in nodes.ResultIn) (nodes.ResultOut, error) {
	if in.NodeID != c.NodeID {
		return nodes.ResultOut{}, nodes.ErrForeignNode
	}
	return nodes.ResultOut{}, nil
}

func (linked) Event(_ context.Context, c identity.Caller, in nodes.EventIn) (nodes.EventOut, error) {
	if in.NodeID != c.NodeID || len(in.Event) > 10 {
		return nodes.EventOut{}, nodes.ErrEventPayload
	}
	return nodes.EventOut{}, nil
}

type noCounts struct{}

func (noCounts) Observe(string, string, string, time.Duration) {}
func (noCounts) EventsDropped(string, uint64)                  {}

// FuzzLinkMessage: no message of a node makes the daemon panic, speak for another node, or keep more
// than one answer.
func FuzzLinkMessage(f *testing.F) {
	add := func(m *nodesv1.AttachRequest) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	text := `{"a":1}`
	add(&nodesv1.AttachRequest{})
	add(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Register{Register: &nodesv1.NodeRegistration{Device: &nodesv1.DeviceProof{}}}})
	add(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Result{Result: &nodesv1.NodeResult{InvokeId: "x", PayloadJson: &text, Error: &nodesv1.NodeError{Code: "C"}}}})
	add(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Event{Event: &nodesv1.NodeReport{Event: "a long event", PayloadJson: &text}}})
	add(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Ping{Ping: &nodesv1.NodePing{}}})
	add(&nodesv1.AttachRequest{Message: &nodesv1.AttachRequest_Pong{Pong: &nodesv1.NodePong{}}})
	s := &Server{d: Deps{Nodes: linked{}, Bus: events.New(time.Now), Metrics: noCounts{}}}
	s.streams.live, s.streams.each = map[*liveStream]struct{}{}, map[string]int{}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m nodesv1.AttachRequest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		live, err := s.streams.add(t.Context(), identity.Caller{}, aLink)
		if err != nil {
			t.Fatal(err)
		}
		defer s.streams.remove(live)
		l := newLink(s, nil, live)
		l.caller = identity.Caller{Role: identity.RoleNode, NodeID: "n"}
		err = l.take(t.Context(), &m)
		switch m.GetMessage().(type) {
		case nil, *nodesv1.AttachRequest_Register:
			if err == nil {
				t.Errorf("%v is taken", &m)
			}
		default:
			if err != nil {
				t.Errorf("%v: %v", &m, err)
			}
		}
		if len(l.queue) > 1 {
			t.Errorf("%d answers", len(l.queue))
		}
		// A registration is read without looking at it twice.
		if r := m.GetRegister(); r != nil {
			l.attempt(t.Context(), identity.Caller{}, r)
		}
		l.shut(nil)
		if held := s.budget().Held(); held != 0 {
			t.Errorf("%d bytes are held by nobody", held)
		}
	})
}
