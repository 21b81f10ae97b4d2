package rpc_test

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

func TestLocalCallerIsOperator(t *testing.T) {
	d := newDomain()
	client := systemv1.NewSystemServiceClient(dial(t, newServer(t, d, &observed{})))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-hanzo-client", "hanzoctl")
	if _, err := client.GetHealth(ctx, &systemv1.GetHealthRequest{}); err != nil {
		t.Fatal(err)
	}
	c := d.caller
	if want := "local:" + strconv.Itoa(os.Geteuid()); c.Principal != want {
		t.Errorf("principal %q, want %q", c.Principal, want)
	}
	if c.Door != identity.DoorGRPC || c.Role != identity.RoleOperator || !c.Local || c.ClientID != "hanzoctl" || !c.Has(identity.ScopeAdmin) {
		t.Errorf("caller %+v", c)
	}
}

func TestUnfitClientNameIsLeftOut(t *testing.T) {
	d := newDomain()
	client := systemv1.NewSystemServiceClient(dial(t, newServer(t, d, &observed{})))
	for name, want := range map[string]string{"a\tb": "", strings.Repeat("x", 200): strings.Repeat("x", 64)} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-hanzo-client", name)
		if _, err := client.GetHealth(ctx, &systemv1.GetHealthRequest{}); err != nil {
			// gRPC itself refuses some; then nothing was shown either.
			continue
		}
		if d.caller.ClientID != want {
			t.Errorf("%q is shown as %q, want %q", name, d.caller.ClientID, want)
		}
	}
}

// intercept calls the interceptor with a handler that reports whether it ran.
func intercept(s *rpc.Server, ctx context.Context, method string) (ran bool, err error) {
	_, err = s.UnaryInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: method}, func(context.Context, any) (any, error) {
		ran = true
		return nil, nil
	})
	return ran, err
}

func TestAdmission(t *testing.T) {
	own := listen.PeerInfo{User: "1", Own: true, Principal: "local:1"}
	const health = "/hanzo.system.v1.SystemService/GetHealth"
	for _, tt := range []struct {
		name   string
		peer   *peer.Peer
		method string
		code   codes.Code
		reason string
	}{
		{"own user", &peer.Peer{AuthInfo: own}, health, codes.OK, ""},
		{"another user", &peer.Peer{AuthInfo: listen.PeerInfo{User: "2", Principal: "local:2"}}, health, codes.Unauthenticated, "rpc.foreign_user"},
		{"no credentials", &peer.Peer{}, health, codes.Unauthenticated, "rpc.no_caller"},
		{"no peer", nil, health, codes.Unauthenticated, "rpc.no_caller"},
		{"undeclared method", &peer.Peer{AuthInfo: own}, "/hanzo.system.v1.SystemService/Nope", codes.PermissionDenied, "rpc.method"},
		{"undeclared service", &peer.Peer{AuthInfo: own}, "/other.Service/Call", codes.PermissionDenied, "rpc.method"},
		{"standard health", &peer.Peer{AuthInfo: own}, "/grpc.health.v1.Health/Check", codes.OK, ""},
		{"standard health, another user", &peer.Peer{AuthInfo: listen.PeerInfo{User: "2"}}, "/grpc.health.v1.Health/Check", codes.Unauthenticated, "rpc.foreign_user"},
		{"name without slash", &peer.Peer{AuthInfo: own}, "nope", codes.PermissionDenied, "rpc.method"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			if tt.peer != nil {
				ctx = peer.NewContext(ctx, tt.peer)
			}
			m := &observed{}
			ran, err := intercept(newServer(t, newDomain(), m), ctx, tt.method)
			if ran != (tt.code == codes.OK) || status.Code(err) != tt.code || reason(err) != tt.reason {
				t.Errorf("ran %v, error %v (%s)", ran, err, reason(err))
			}
			if m.last() == "" {
				t.Error("the call was not counted")
			}
		})
	}
}

// A caller that a context carries counts only on the in-process channel.
func TestWithCallerIsNotTakenFromATransport(t *testing.T) {
	ctx := rpc.WithCaller(t.Context(), identity.Internal())
	ran, err := intercept(newServer(t, newDomain(), &observed{}), ctx, "/hanzo.system.v1.SystemService/GetHealth")
	if ran || status.Code(err) != codes.Unauthenticated {
		t.Errorf("ran %v, error %v", ran, err)
	}
}

func reason(err error) string {
	if info := info(err); info != nil {
		return info.GetReason()
	}
	return ""
}

func info(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i
		}
	}
	return nil
}

func TestErrorsOverTheSocket(t *testing.T) {
	d := newDomain()
	m := &observed{}
	client := nodesv1.NewNodeServiceClient(dial(t, newServer(t, d, m)))
	code := "E_NODE"
	for _, tt := range []struct {
		err    error
		code   codes.Code
		reason string
		text   string
		class  string
	}{
		{errs.New(errs.Invalid, "bad"), codes.InvalidArgument, "invalid", "bad", "invalid"},
		{errs.Wrap(errs.Invalid, "bad", io.ErrUnexpectedEOF), codes.InvalidArgument, "invalid", "bad: unexpected EOF", "invalid"},
		{nodes.ErrUnknown, codes.NotFound, "nodes.unknown", nodes.ErrUnknown.Text, "not found"},
		{approvals.ErrTaken, codes.AlreadyExists, "approvals.taken", approvals.ErrTaken.Text, "exists"},
		{nodes.ErrKeyReused, codes.FailedPrecondition, "nodes.key_reused", nodes.ErrKeyReused.Text, "conflict"},
		{errs.New(errs.Unauthenticated, "who"), codes.Unauthenticated, "unauthenticated", "who", "unauthenticated"},
		{nodes.ErrNotAllowed, codes.PermissionDenied, "nodes.not_allowed", nodes.ErrNotAllowed.Text, "denied"},
		{nodes.ErrTooManyInvokes, codes.ResourceExhausted, "nodes.too_many_invokes", nodes.ErrTooManyInvokes.Text, "exhausted"},
		{nodes.ErrNodeFailed.With("nodeCode", &code, "nodeMessage", "no camera"), codes.Unavailable, "nodes.failed", nodes.ErrNodeFailed.Text, "unavailable"},
		{nodes.ErrTimeout, codes.DeadlineExceeded, "nodes.timeout", nodes.ErrTimeout.Text, "deadline"},
		{errs.Wrap(errs.Unknown, "keep the name", errors.New("disk /secret")), codes.Unknown, "outcome_unknown",
			"keep the name; the outcome is unknown: look at the current state before you try again", "outcome unknown"},
		{errs.Wrap(errs.Internal, "s3cret path", errors.New("x")), codes.Internal, "internal", "internal error; the log of the daemon says more", "internal"},
		{errors.New("s3cret"), codes.Internal, "internal", "internal error; the log of the daemon says more", "internal"},
		{errs.New(errs.Invalid, "bad \xff text"), codes.InvalidArgument, "invalid", "bad \uFFFD text", "invalid"},
		{context.Canceled, codes.Canceled, "", "the caller went away", "canceled"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "", "the deadline of the call passed", "deadline"},
	} {
		d.err = tt.err
		_, err := client.ListNodes(t.Context(), &nodesv1.ListNodesRequest{})
		st := status.Convert(err)
		if st.Code() != tt.code || reason(err) != tt.reason || st.Message() != tt.text {
			t.Errorf("%v: got %v %q %q", tt.err, st.Code(), reason(err), st.Message())
		}
		if want := "grpc /hanzo.nodes.v1.NodeService/ListNodes " + tt.class; m.last() != want {
			t.Errorf("counted %q, want %q", m.last(), want)
		}
	}
	d.err = nodes.ErrNodeFailed.With("nodeCode", &code, "nodeMessage", "no camera", "n", 3)
	_, err := client.ListNodes(t.Context(), &nodesv1.ListNodesRequest{})
	if got := info(err).GetMetadata(); got["nodeCode"] != "E_NODE" || got["nodeMessage"] != "no camera" || got["n"] != "3" {
		t.Errorf("fields %v", got)
	}
}

func TestPanicBecomesInternal(t *testing.T) {
	d := newDomain()
	client := nodesv1.NewNodeServiceClient(dial(t, newServer(t, d, &observed{})))
	d.invoke = func(context.Context, identity.Caller, nodes.InvokeIn) (nodes.InvokeOut, error) { panic("s3cret") }
	_, err := client.Invoke(t.Context(), &nodesv1.InvokeRequest{})
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("error %v", err)
	}
}

func TestInvokeCarriesJSON(t *testing.T) {
	d := newDomain()
	client := nodesv1.NewNodeServiceClient(dial(t, newServer(t, d, &observed{})))
	text := `{"n":9007199254740993}`
	answer := nodes.InvokeOut{NodeID: "n", Command: "c", Payload: []byte(text), PayloadJSON: &text}
	var got nodes.InvokeIn
	d.invoke = func(_ context.Context, _ identity.Caller, in nodes.InvokeIn) (nodes.InvokeOut, error) {
		got = in
		return answer, nil
	}
	for _, tt := range []struct {
		params *structpb.Value
		want   string
		none   bool
	}{
		{nil, "", true},
		{structpb.NewNullValue(), "null", false},
		{structpb.NewStringValue("<&>"), `"<&>"`, false},
		{structpb.NewStructValue(&structpb.Struct{}), `{}`, false},
		{structpb.NewListValue(&structpb.ListValue{}), `[]`, false},
	} {
		out, err := client.Invoke(t.Context(), &nodesv1.InvokeRequest{Params: tt.params})
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Params) != tt.want || (got.Params == nil) != tt.none {
			t.Errorf("params %q, want %q", got.Params, tt.want)
		}
		if out.GetPayloadJson() != text { // the value lost a digit, the text none
			t.Errorf("payload text %q", out.GetPayloadJson())
		}
	}
	if _, err := client.Invoke(t.Context(), &nodesv1.InvokeRequest{Params: &structpb.Value{}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a value without a kind: %v", err)
	}
	// The command ran: what the value cannot carry, the text does.
	big := `1e999`
	answer = nodes.InvokeOut{Payload: []byte(big), PayloadJSON: &big}
	out, err := client.Invoke(t.Context(), &nodesv1.InvokeRequest{})
	if err != nil || out.GetPayload() != nil || out.GetPayloadJson() != big {
		t.Errorf("got %v, %v", out, err)
	}
	answer = nodes.InvokeOut{Payload: []byte("\"\xff\"")}
	if _, err = client.Invoke(t.Context(), &nodesv1.InvokeRequest{}); reason(err) != "rpc.answer" {
		t.Errorf("an answer that is not UTF-8: %v", err)
	}
}

func TestPolicyFile(t *testing.T) {
	d := newDomain()
	client := approvalsv1.NewApprovalServiceClient(dial(t, newServer(t, d, &observed{})))
	d.file = policy.Snapshot{Path: "/p", Exists: true, Hash: "h", File: []byte(`{"version":1}`)}
	out, err := client.GetPolicyFile(t.Context(), &approvalsv1.GetPolicyFileRequest{})
	if err != nil || out.GetPolicy().GetFile().GetFields()["version"].GetNumberValue() != 1 {
		t.Fatalf("got %v, %v", out, err)
	}
	file := out.GetPolicy().GetFile()
	if _, err := client.SetPolicyFile(t.Context(), &approvalsv1.SetPolicyFileRequest{File: file, BaseHash: "h"}); err != nil {
		t.Fatal(err)
	}
	if string(d.set.File) != `{"version":1}` || d.set.BaseHash != "h" {
		t.Errorf("set %+v", d.set)
	}
	d.file.File = []byte(`{"path":"/n","exists":true,"hash":"x","file":{"a":1}}`)
	nf, err := client.GetNodePolicyFile(t.Context(), &approvalsv1.GetNodePolicyFileRequest{NodeId: "n"})
	if p := nf.GetPolicy(); err != nil || p.GetPath() != "/n" || !p.GetExists() || p.GetHash() != "x" || p.GetFile().GetFields()["a"].GetNumberValue() != 1 {
		t.Errorf("got %v, %v", nf, err)
	}
	d.file.File = []byte(`[]`)
	if _, err := client.GetNodePolicyFile(t.Context(), &approvalsv1.GetNodePolicyFileRequest{NodeId: "n"}); reason(err) != "rpc.node_policy_file" {
		t.Errorf("an answer of another shape: %v", err)
	}
}

func TestSharedSecret(t *testing.T) {
	client := systemv1.NewSystemServiceClient(dial(t, newServer(t, newDomain(), &observed{})))
	out, err := client.GetSharedSecret(t.Context(), &systemv1.GetSharedSecretRequest{})
	if err != nil || out.GetAuthMode() != "token" || out.GetSecret() != "s3cret" {
		t.Errorf("got %v, %v", out, err)
	}
}

func TestStandardServices(t *testing.T) {
	s := newServer(t, newDomain(), &observed{})
	conn := dial(t, s)
	check := healthpb.NewHealthClient(conn)
	out, err := check.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || out.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("got %v, %v", out, err)
	}
	ref, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ref.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	answer, err := ref.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(answer.GetListServicesResponse().GetService(), func(s *reflectionpb.ServiceResponse) bool {
		return s.GetName() == "hanzo.nodes.v1.NodeService"
	}) {
		t.Errorf("services %v", answer)
	}
	if err := ref.CloseSend(); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	out, err = check.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || out.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("after Stop: %v, %v", out, err)
	}
}

func TestWatchNodesLosesNothingAtTheStart(t *testing.T) {
	d := newDomain()
	d.list.Nodes = []nodes.Node{{ID: "a"}, {ID: "b"}}
	d.listed = func() { d.bus.Publish("node.connected", nodes.Changed{Node: nodes.Node{ID: "c"}}) }
	client := nodesv1.NewNodeServiceClient(dial(t, newServer(t, d, &observed{})))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := client.WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 3 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m.GetChange().String()+" "+m.GetNode().GetNodeId())
	}
	d.bus.Publish("node.disconnected", nodes.Changed{Node: nodes.Node{ID: "a"}})
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, m.GetChange().String()+" "+m.GetNode().GetNodeId())
	want := []string{"CHANGE_PRESENT a", "CHANGE_PRESENT b", "CHANGE_CONNECTED c", "CHANGE_DISCONNECTED a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWatchApprovals(t *testing.T) {
	d := newDomain()
	node := "n1"
	d.asked = []approvals.Approval{{ID: "1", State: approvals.Pending, NodeID: &node}}
	client := approvalsv1.NewApprovalServiceClient(dial(t, newServer(t, d, &observed{})))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := client.WatchApprovals(ctx, &approvalsv1.WatchApprovalsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.GetApproval().GetId() != "1" || first.GetApproval().GetNodeName() != "name of n1" {
		t.Fatalf("got %v, %v", first, err)
	}
	d.bus.Publish("exec.approval.resolved", approvals.Resolved{Approval: approvals.Approval{ID: "1", State: approvals.Denied, Decision: approvals.Deny}})
	second, err := stream.Recv()
	if err != nil || second.GetApproval().GetState() != approvalsv1.State_STATE_DENIED || second.GetApproval().GetDecision() != approvalsv1.Decision_DECISION_DENY {
		t.Fatalf("got %v, %v", second, err)
	}
}

func TestWatchEvents(t *testing.T) {
	d := newDomain()
	client := systemv1.NewSystemServiceClient(dial(t, newServer(t, d, &observed{})))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stream, err := client.WatchEvents(ctx, &systemv1.WatchEventsRequest{Names: []string{"tick", "unheard.of"}})
	if err != nil {
		t.Fatal(err)
	}
	if md, err := stream.Header(); err != nil || len(md.Get(rpc.OpenHeader)) != 1 {
		t.Fatalf("header %v, %v", md, err)
	}
	d.bus.Publish("presence", []byte(`{}`))      // not asked for
	d.bus.Publish("unheard.of", []byte(`{}`))    // seen by nobody
	d.bus.Publish("tick", "has no legacy shape") // not rendered
	d.bus.Publish("tick", []byte(`{"ts":1768435200123}`))
	d.bus.Publish("tick", []byte(`null`))
	for i := range 2 {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetSeq() != uint64(i+1) || m.GetName() != "tick" || m.GetDropped() != 0 || m.GetAt() == nil {
			t.Errorf("event %v", m)
		}
	}
}

func TestSlowReaders(t *testing.T) {
	d := newDomain()
	m := &observed{}
	conn := dial(t, newServer(t, d, m))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	evs, err := systemv1.NewSystemServiceClient(conn).WatchEvents(ctx, &systemv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	states, err := nodesv1.NewNodeServiceClient(conn).WatchNodes(ctx, &nodesv1.WatchNodesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []grpc.ClientStream{evs, states} {
		if _, err := s.Header(); err != nil {
			t.Fatal(err)
		}
	}
	// Far more than the queues, the windows and the buffers hold, and nobody reads.
	big := []byte(`"` + strings.Repeat("x", 64<<10) + `"`)
	node := nodes.Changed{Node: nodes.Node{ID: "n", PathEnv: string(big)}}
	for range 4 * events.QueueSize {
		d.bus.Publish("tick", big)
		d.bus.Publish("node.renamed", node)
	}
	var seq, dropped uint64
	for dropped == 0 {
		e, err := evs.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if seq++; e.GetSeq() != seq {
			t.Fatalf("seq %d after %d", e.GetSeq(), seq-1)
		}
		dropped = e.GetDropped()
	}
	for {
		if _, err = states.Recv(); err != nil {
			break
		}
	}
	if reason(err) != "rpc.slow_reader" || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the stream of states ended with %v", err)
	}
	if m.lost() == 0 {
		t.Error("nothing was counted")
	}
}

func TestStreamsEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*rpc.Server)
		code codes.Code
		text string
	}{
		"stop":   {(*rpc.Server).Stop, codes.Unavailable, "the daemon is stopping"},
		"revoke": {func(s *rpc.Server) { s.EndStreams(func(c identity.Caller) bool { return c.Local }) }, codes.Unauthenticated, "the credentials of this stream were revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDomain()
			d.follow = func(ctx context.Context, send func(string) error) error {
				if err := send("line"); err != nil {
					return err
				}
				<-ctx.Done()
				return ctx.Err()
			}
			s := newServer(t, d, &observed{})
			conn := dial(t, s)
			evs, err := systemv1.NewSystemServiceClient(conn).WatchEvents(t.Context(), &systemv1.WatchEventsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			logs, err := systemv1.NewSystemServiceClient(conn).FollowLogs(t.Context(), &systemv1.FollowLogsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if l, err := logs.Recv(); err != nil || l.GetLine() != "line" {
				t.Fatalf("got %v, %v", l, err)
			}
			if _, err := evs.Header(); err != nil {
				t.Fatal(err)
			}
			s.EndStreams(func(c identity.Caller) bool { return !c.Local }) // somebody else's
			tt.end(s)
			_, err = evs.Recv()
			_, err2 := logs.Recv()
			for _, err := range []error{err, err2} {
				if st := status.Convert(err); st.Code() != tt.code || st.Message() != tt.text {
					t.Errorf("ended with %v", err)
				}
			}
		})
	}
}

// A reader whose queue was given up for want of memory is told at once, though no event follows.
func TestEvictedReaderIsTold(t *testing.T) {
	d := newDomain()
	d.bus = events.NewBounded(time.Now, 1<<20)
	m := &observed{}
	conn := dial(t, newServer(t, d, m))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	evs, err := systemv1.NewSystemServiceClient(conn).WatchEvents(ctx, &systemv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := evs.Header(); err != nil {
		t.Fatal(err)
	}
	big := []byte(`"` + strings.Repeat("x", 64<<10) + `"`)
	const all = events.QueueSize / 2 // the queue does not overflow
	for range all {
		d.bus.Publish("tick", big)
	}
	if n := d.bus.Budget().Held(); n > 1<<20 {
		t.Errorf("%d bytes are held", n)
	}
	for seq, told := uint64(0), uint64(0); told < all; {
		e, err := evs.Recv()
		if err != nil {
			t.Fatalf("after %d of %d: %v", told, all, err)
		}
		told += e.GetDropped()
		if e.GetName() != "" {
			seq++
			told++
		}
		if e.GetSeq() != seq || (e.GetName() == "" && e.GetDropped() == 0) {
			t.Fatalf("seq %d after %d, %d dropped", e.GetSeq(), seq, e.GetDropped())
		}
	}
	if m.lost() == 0 {
		t.Error("nothing was dropped")
	}
}

func TestStreamsAreRefusedAfterStop(t *testing.T) {
	s := newServer(t, newDomain(), &observed{})
	client := systemv1.NewSystemServiceClient(dial(t, s))
	s.Stop()
	stream, err := client.WatchEvents(t.Context(), &systemv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestStopEndsAWaitForAnApproval(t *testing.T) {
	d := newDomain()
	d.waiting = make(chan struct{})
	s := newServer(t, d, &observed{})
	client := approvalsv1.NewApprovalServiceClient(dial(t, s))
	done := make(chan error, 1)
	go func() {
		_, err := client.WaitApproval(t.Context(), &approvalsv1.WaitApprovalRequest{Id: "x"})
		done <- err
	}()
	<-d.waiting
	s.Stop()
	if err := <-done; reason(err) != "rpc.stopping" {
		t.Errorf("ended with %v", err)
	}
}

// One stream more than the limit is refused, and a place is free again when one ends.
func TestTooManyStreams(t *testing.T) {
	s := newServer(t, newDomain(), &observed{})
	own := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: listen.PeerInfo{Own: true}})
	var open func(n int) error
	open = func(n int) error {
		return s.StreamInterceptor()(nil, &localStream{ctx: own}, &grpc.StreamServerInfo{FullMethod: "/hanzo.nodes.v1.NodeService/WatchNodes"},
			func(any, grpc.ServerStream) error {
				if n == 0 {
					return nil
				}
				return open(n - 1)
			})
	}
	if err := open(rpc.MaxStreams - 1); err != nil {
		t.Error(err)
	}
	if err := open(rpc.MaxStreams); reason(err) != "rpc.too_many_streams" {
		t.Errorf("got %v", err)
	}
}

type localStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *localStream) Context() context.Context { return s.ctx }

// One device does not take all the places, and gives its own back.
func TestStreamsOfOneDevice(t *testing.T) {
	s := newServer(t, newDomain(), &observed{})
	as := func(device string) context.Context {
		return rpc.WithCaller(t.Context(), identity.Caller{
			Door: identity.DoorREST, Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, DeviceID: device,
		})
	}
	ch := new(inprocgrpc.Channel).WithServerUnaryInterceptor(s.UnaryInterceptor()).WithServerStreamInterceptor(s.StreamInterceptor())
	s.Register(ch)
	var kept []any // a stream that is forgotten ends with the next collection of garbage
	watch := func(device string) error {
		stream, err := nodesv1.NewNodeServiceClient(ch).WatchNodes(as(device), &nodesv1.WatchNodesRequest{})
		if err != nil {
			return err
		}
		kept = append(kept, stream)
		if md, err := stream.Header(); err == nil && len(md.Get(rpc.OpenHeader)) > 0 {
			return nil
		}
		_, err = stream.Recv()
		return err
	}
	open := 0
	var err error
	for ; open < rpc.MaxStreams; open++ {
		if err = watch("a"); err != nil {
			break
		}
	}
	if open != 128 || reason(err) != "rpc.too_many_streams" {
		t.Errorf("%d streams, then %v", open, err)
	}
	if err := watch("b"); err != nil {
		t.Errorf("another device: %v", err)
	}
	s.EndStreams(func(c identity.Caller) bool { return c.DeviceID == "a" })
	for end := time.Now().Add(5 * time.Second); watch("a") != nil; {
		if time.Now().After(end) {
			t.Fatal("places are not given back")
		}
	}
	runtime.KeepAlive(kept)
	s.Stop()
}

// What a device asked for ends with the device: a call that waits for a node is not made later.
func TestRevokedCallEnds(t *testing.T) {
	d := newDomain()
	began, ended := make(chan struct{}), make(chan error, 1)
	d.invoke = func(ctx context.Context, _ identity.Caller, _ nodes.InvokeIn) (nodes.InvokeOut, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return nodes.InvokeOut{}, ctx.Err()
	}
	s := newServer(t, d, &observed{})
	ch := new(inprocgrpc.Channel).WithServerUnaryInterceptor(s.UnaryInterceptor())
	s.Register(ch)
	answer := make(chan error, 1)
	ctx := rpc.WithCaller(t.Context(), identity.Caller{
		Door: identity.DoorREST, Role: identity.RoleOperator, Scopes: identity.AllOperatorScopes, DeviceID: "a",
	})
	go func() {
		_, err := nodesv1.NewNodeServiceClient(ch).Invoke(ctx, &nodesv1.InvokeRequest{NodeId: "n", Command: "c"})
		answer <- err
	}()
	<-began
	d.bus.Publish("device.ended", identity.Ended{DeviceID: "a"})
	select {
	case err := <-answer:
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the call of a revoked device goes on")
	}
	if err := <-ended; err == nil {
		t.Error("the domain was not told")
	}
}
