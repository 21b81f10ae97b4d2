package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	gwruntime "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	agentsv1 "github.com/hanzoai/hanzod/gen/hanzo/agents/v1"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	channelsv1 "github.com/hanzoai/hanzod/gen/hanzo/channels/v1"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	cronv1 "github.com/hanzoai/hanzod/gen/hanzo/cron/v1"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
	secretsv1 "github.com/hanzoai/hanzod/gen/hanzo/secrets/v1"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	updatev1 "github.com/hanzoai/hanzod/gen/hanzo/update/v1"
	wizardv1 "github.com/hanzoai/hanzod/gen/hanzo/wizard/v1"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

const (
	eventStream = "text/event-stream"
	lineStream  = "application/x-ndjson"
)

// gateway builds the routes. Nothing is written for an operation beyond the HTTP rule in its proto.
func (s *server) gateway() (*gwruntime.ServeMux, error) {
	channel := new(inprocgrpc.Channel).
		WithServerUnaryInterceptor(s.d.RPC.UnaryInterceptor()).
		WithServerStreamInterceptor(s.d.RPC.StreamInterceptor())
	s.d.RPC.Register(channel)
	conn := opened{channel}
	s.files = tunnelv1.NewFileServiceClient(conn)
	s.terminals = tunnelv1.NewTerminalServiceClient(channel)
	s.screens = tunnelv1.NewScreenServiceClient(channel)
	s.techs = tunnelv1.NewTechSessionServiceClient(channel)

	none := func(string) (string, bool) { return "", false }
	mux := gwruntime.NewServeMux(
		gwruntime.WithMarshalerOption(gwruntime.MIMEWildcard, newMarshaler(false)),
		gwruntime.WithMarshalerOption(eventStream, newMarshaler(true)),
		gwruntime.WithMiddlewares(s.enter),
		gwruntime.WithErrorHandler(handleError),
		gwruntime.WithRoutingErrorHandler(s.noRoute),
		gwruntime.WithForwardResponseOption(beforeMessage),
		gwruntime.WithIncomingHeaderMatcher(none),
		gwruntime.WithOutgoingHeaderMatcher(none),
		gwruntime.WithOutgoingTrailerMatcher(none),
		gwruntime.WithUnescapingMode(gwruntime.UnescapingModeAllCharacters),
		gwruntime.WithDisablePathLengthFallback(),
		gwruntime.WithDisableHTTPMethodOverride(),
		gwruntime.WithDisableChunkedEncoding(),
	)
	ctx := context.Background()
	return mux, errors.Join(
		channelsv1.RegisterChannelServiceHandlerClient(ctx, mux, channelsv1.NewChannelServiceClient(conn)),
		talkv1.RegisterTalkServiceHandlerClient(ctx, mux, talkv1.NewTalkServiceClient(conn)),
		systemv1.RegisterSystemServiceHandlerClient(ctx, mux, systemv1.NewSystemServiceClient(conn)),
		nodesv1.RegisterNodeServiceHandlerClient(ctx, mux, nodesv1.NewNodeServiceClient(conn)),
		approvalsv1.RegisterApprovalServiceHandlerClient(ctx, mux, approvalsv1.NewApprovalServiceClient(conn)),
		approvalsv1.RegisterPolicyServiceHandlerClient(ctx, mux, approvalsv1.NewPolicyServiceClient(conn)),
		approvalsv1.RegisterGrantServiceHandlerClient(ctx, mux, approvalsv1.NewGrantServiceClient(conn)),
		devicesv1.RegisterDeviceServiceHandlerClient(ctx, mux, devicesv1.NewDeviceServiceClient(conn)),
		agentsv1.RegisterAgentServiceHandlerClient(ctx, mux, agentsv1.NewAgentServiceClient(conn)),
		agentsv1.RegisterSkillServiceHandlerClient(ctx, mux, agentsv1.NewSkillServiceClient(conn)),
		agentsv1.RegisterCatalogServiceHandlerClient(ctx, mux, agentsv1.NewCatalogServiceClient(conn)),
		tunnelv1.RegisterTerminalServiceHandlerClient(ctx, mux, tunnelv1.NewTerminalServiceClient(conn)),
		tunnelv1.RegisterScreenServiceHandlerClient(ctx, mux, tunnelv1.NewScreenServiceClient(conn)),
		updatev1.RegisterUpdateServiceHandlerClient(ctx, mux, updatev1.NewUpdateServiceClient(conn)),
		configv1.RegisterConfigServiceHandlerClient(ctx, mux, configv1.NewConfigServiceClient(conn)),
		runsv1.RegisterRunServiceHandlerClient(ctx, mux, runsv1.NewRunServiceClient(conn)),
		sessionsv1.RegisterSessionServiceHandlerClient(ctx, mux, sessionsv1.NewSessionServiceClient(conn)),
		sessionsv1.RegisterUsageServiceHandlerClient(ctx, mux, sessionsv1.NewUsageServiceClient(conn)),
		auditv1.RegisterAuditServiceHandlerClient(ctx, mux, auditv1.NewAuditServiceClient(conn)),
		secretsv1.RegisterSecretServiceHandlerClient(ctx, mux, secretsv1.NewSecretServiceClient(conn)),
		wizardv1.RegisterWizardServiceHandlerClient(ctx, mux, wizardv1.NewWizardServiceClient(conn)),
		cronv1.RegisterCronServiceHandlerClient(ctx, mux, cronv1.NewCronServiceClient(conn)),
		tunnelv1.RegisterFileServiceHandlerClient(ctx, mux, s.files),
		tunnelv1.RegisterCheckpointServiceHandlerClient(ctx, mux, tunnelv1.NewCheckpointServiceClient(conn)),
		tunnelv1.RegisterUplinkServiceHandlerClient(ctx, mux, tunnelv1.NewUplinkServiceClient(conn)),
		tunnelv1.RegisterTunnelServiceHandlerClient(ctx, mux, tunnelv1.NewTunnelServiceClient(conn)),
		tunnelv1.RegisterTechSessionServiceHandlerClient(ctx, mux, tunnelv1.NewTechSessionServiceClient(conn)),
		tunnelv1.RegisterDiscoveryServiceHandlerClient(ctx, mux, tunnelv1.NewDiscoveryServiceClient(conn)),
	)
}

// enter stands between route and handler: a request for which there is no route is answered 404
// whoever asks, every other one needs a caller.
func (s *server) enter(next gwruntime.HandlerFunc) gwruntime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, params map[string]string) {
		if found, ok := r.Context().Value(routeProbe{}).(*bool); ok {
			*found = true
			return
		}
		w.Header()["Cache-Control"] = noStore
		c, err := s.guard(r)
		if err != nil {
			refuse(w, err)
			return
		}
		if !readBody(w, r) {
			return
		}
		if sw, ok := w.(*writer); ok && acceptsEvents(r) {
			sw.sse = true
			r.Header["Accept"] = []string{eventStream}
		}
		next(w, r.WithContext(rpc.WithCaller(r.Context(), c)), params)
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // beforeMessage set one
	}
}

func acceptsEvents(r *http.Request) bool {
	for _, v := range r.Header["Accept"] {
		for part := range strings.SplitSeq(v, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), eventStream) {
				return true
			}
		}
	}
	return false
}

// readBody reads the whole body before a handler starts, within its limits, and checks that it is
// one JSON value: the decoder of the gateway would leave what follows unread.
func readBody(w http.ResponseWriter, r *http.Request) bool {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return true
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if err != nil {
		p := problem{Status: http.StatusBadRequest, Detail: "the request body could not be read", Code: "rest.body"}
		var tooLarge *http.MaxBytesError
		switch {
		case errors.As(err, &tooLarge):
			p.Status, p.Code = http.StatusRequestEntityTooLarge, "rest.body_too_large"
			p.Detail = fmt.Sprintf("the request body is larger than %d bytes", MaxBody)
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.Status, p.Code = http.StatusRequestTimeout, "rest.body_timeout"
			p.Detail = "the request body took longer than " + bodyTimeout.String()
		}
		w.Header().Set("Connection", "close") // the rest of the body may still be under way
		writeProblem(w, p)
		return false
	}
	_ = rc.SetReadDeadline(time.Time{})
	if len(bytes.TrimSpace(body)) == 0 {
		r.Body = http.NoBody
		return true
	}
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		writeProblem(w, problem{Status: http.StatusBadRequest, Detail: "the request body is no JSON: " + err.Error(), Code: "rest.body"})
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return true
}

// beforeMessage runs before each part of an answer. Without a message it is the beginning of a
// stream: its header goes out at once, so that the client knows that it misses nothing from here.
func beforeMessage(_ context.Context, rw http.ResponseWriter, m proto.Message) error {
	rc := http.NewResponseController(rw)
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if m != nil {
		return nil
	}
	contentType := lineStream
	if w, ok := rw.(*writer); ok && w.sse {
		contentType = eventStream
	}
	rw.Header().Set("Content-Type", contentType)
	rw.WriteHeader(http.StatusOK)
	return rc.Flush()
}

func handleError(_ context.Context, _ *gwruntime.ServeMux, _ gwruntime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	if routed, ok := errors.AsType[*gwruntime.HTTPStatusError](err); ok {
		writeProblem(w, problem{Status: routed.HTTPStatus, Detail: routed.Err.Error(), Code: "rest.path"})
		return
	}
	writeProblem(w, problemOf(status.Convert(err)))
}

// routeProbe marks a request that only asks whether a route exists.
type routeProbe struct{}

// noRoute answers requests without a route, as the legacy gateway does (protocol.md §1.6).
func (s *server) noRoute(ctx context.Context, _ *gwruntime.ServeMux, _ gwruntime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	if _, probing := ctx.Value(routeProbe{}).(*bool); probing {
		return
	}
	switch code {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", s.allowed(r))
		text(w, code, "Method Not Allowed")
	case http.StatusBadRequest:
		text(w, code, "Bad Request")
	default:
		text(w, http.StatusNotFound, "Not Found")
	}
}

// allowed finds the methods that the path has routes for.
func (s *server) allowed(r *http.Request) string {
	var methods []string
	for _, m := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		var found bool
		probe := r.Clone(context.WithValue(r.Context(), routeProbe{}, &found))
		probe.Method = m
		s.mux.ServeHTTP(discard{}, probe)
		if found {
			methods = append(methods, m)
		}
	}
	return strings.Join(methods, ", ")
}

// discard is the answer of a request that only asks whether a route exists.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}

// marshaler writes messages as JSON, and the parts of a stream without an envelope.
type marshaler struct {
	gwruntime.JSONPb
	sse bool
}

func newMarshaler(sse bool) *marshaler {
	m := &marshaler{sse: sse}
	m.EmitDefaultValues = true
	return m
}

// ContentType is that of unary answers; beforeMessage has sent the one of streams.
func (m *marshaler) ContentType(any) string { return jsonType[0] }

// Marshal writes a message. The gateway wraps the parts of a stream in a map with one entry.
func (m *marshaler) Marshal(v any) ([]byte, error) {
	switch part := v.(type) {
	case map[string]any:
		msg, ok := part["result"].(proto.Message)
		if !ok {
			return nil, fmt.Errorf("a stream of %T is not supported", part["result"])
		}
		v = msg
	case map[string]proto.Message:
		st, ok := part["error"].(*statuspb.Status)
		if !ok {
			return nil, fmt.Errorf("a stream error of %T is not supported", part["error"])
		}
		return m.failure(problemOf(status.FromProto(st)).filled())
	default:
		return m.JSONPb.Marshal(v)
	}
	b, err := m.JSONPb.Marshal(v)
	if err != nil || !m.sse {
		return b, err
	}
	return append([]byte("data: "), b...), nil
}

// failure is the last part of a stream that failed on the way.
func (m *marshaler) failure(p problem) ([]byte, error) {
	b, err := json.Marshal(struct {
		Error problem `json:"error"`
	}{p})
	if err != nil || !m.sse {
		return b, err
	}
	return append([]byte("event: error\ndata: "), b...), nil
}

// Delimiter ends a part of a stream.
func (m *marshaler) Delimiter() []byte {
	if m.sse {
		return []byte("\n\n")
	}
	return []byte("\n")
}

// NewDecoder reads requests.
func (m *marshaler) NewDecoder(r io.Reader) gwruntime.Decoder {
	return gwruntime.DecoderWrapper{Decoder: json.NewDecoder(r), UnmarshalOptions: protojson.UnmarshalOptions{}}
}

// opened is the in-process channel; its streams report a failure before their beginning as an
// error of Header, so that such a stream gets an HTTP status of its own.
type opened struct{ *inprocgrpc.Channel }

func (o opened) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs, err := o.Channel.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return openedStream{cs}, nil
}

type openedStream struct{ grpc.ClientStream }

// SendMsg says why a stream ended that was refused before its request was sent.
func (o openedStream) SendMsg(m any) error {
	err := o.ClientStream.SendMsg(m)
	if !errors.Is(err, io.EOF) {
		return err
	}
	if why := o.RecvMsg(new(emptypb.Empty)); why != nil {
		return why
	}
	return err
}

func (o openedStream) Header() (metadata.MD, error) {
	md, err := o.ClientStream.Header()
	if err != nil || len(md.Get(rpc.OpenHeader)) > 0 {
		return md, err
	}
	// No stream of ours sends a message before its header, so what comes next is why it failed.
	if err := o.RecvMsg(new(emptypb.Empty)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return md, nil
}
