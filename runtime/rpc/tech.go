package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

var (
	errTechJoin   = errs.Define(errs.Invalid, "rpc.tech_join", "the first message names the channel, and only the first")
	errTechStatus = errs.Define(errs.Invalid, "rpc.tech_status", "the status of a technician session is active or closed")
)

// Tech is what the door needs of tech.Service.
type Tech interface {
	Open(context.Context, identity.Caller, tech.OpenIn) (tech.Session, error)
	Close(ctx context.Context, c identity.Caller, id string) (tech.Session, error)
	Get(ctx context.Context, c identity.Caller, id string) (tech.Session, error)
	List(context.Context, identity.Caller, tech.ListIn) ([]tech.Session, error)
	Join(context.Context, identity.Caller, tech.JoinIn) (*tech.Joined, error)
	Run(ctx context.Context, c identity.Caller, in tech.RunIn, each func(channelID string, out message.Output) error) error
	Watch(ctx context.Context, c identity.Caller, id string) (*tech.Watcher, error)
	ListAudit(ctx context.Context, c identity.Caller, id string, after uint64, limit int) ([]tech.Audit, error)
	Export(ctx context.Context, c identity.Caller, session func(tech.Session) error, row func(tech.Audit) error) error
}

type techServer struct {
	tunnelv1.UnimplementedTechSessionServiceServer
	s *Server
}

// tech is the service, or the error that there is none.
func (t *techServer) tech() (Tech, error) {
	if t.s.d.Tech == nil {
		return nil, tech.ErrDisabled
	}
	return t.s.d.Tech, nil
}

func (t *techServer) Open(ctx context.Context, req *tunnelv1.TechSessionServiceOpenRequest) (*tunnelv1.TechSessionServiceOpenResponse, error) {
	d, err := t.tech()
	if err != nil {
		return nil, err
	}
	return call(ctx, req, openTechFromProto, lasting(t.s, d.Open), func(r tech.Session) (*tunnelv1.TechSessionServiceOpenResponse, error) {
		return &tunnelv1.TechSessionServiceOpenResponse{Session: techToProto(r)}, nil
	})
}

func (t *techServer) Close(ctx context.Context, req *tunnelv1.TechSessionServiceCloseRequest) (*tunnelv1.TechSessionServiceCloseResponse, error) {
	d, err := t.tech()
	if err != nil {
		return nil, err
	}
	return call(ctx, req, techID, lasting(t.s, d.Close), func(r tech.Session) (*tunnelv1.TechSessionServiceCloseResponse, error) {
		return &tunnelv1.TechSessionServiceCloseResponse{Session: techToProto(r)}, nil
	})
}

func (t *techServer) Get(ctx context.Context, req *tunnelv1.TechSessionServiceGetRequest) (*tunnelv1.TechSessionServiceGetResponse, error) {
	d, err := t.tech()
	if err != nil {
		return nil, err
	}
	return call(ctx, req, techID, d.Get, func(r tech.Session) (*tunnelv1.TechSessionServiceGetResponse, error) {
		return &tunnelv1.TechSessionServiceGetResponse{Session: techToProto(r)}, nil
	})
}

func (t *techServer) List(ctx context.Context, req *tunnelv1.TechSessionServiceListRequest) (*tunnelv1.TechSessionServiceListResponse, error) {
	d, err := t.tech()
	if err != nil {
		return nil, err
	}
	return call(ctx, req, listTechFromProto, d.List, func(all []tech.Session) (*tunnelv1.TechSessionServiceListResponse, error) {
		r := &tunnelv1.TechSessionServiceListResponse{Sessions: make([]*tunnelv1.TechSession, len(all))}
		for i, one := range all {
			r.Sessions[i] = techToProto(one)
		}
		if len(all) > 0 && len(all) == techLimit(req.GetLimit()) {
			r.Next = all[len(all)-1].ID
		}
		return r, nil
	})
}

func (t *techServer) ListAudit(ctx context.Context, req *tunnelv1.TechSessionServiceListAuditRequest) (*tunnelv1.TechSessionServiceListAuditResponse, error) {
	d, err := t.tech()
	if err != nil {
		return nil, err
	}
	list := func(ctx context.Context, c identity.Caller, r *tunnelv1.TechSessionServiceListAuditRequest) ([]tech.Audit, error) {
		return d.ListAudit(ctx, c, r.GetSessionId(), r.GetAfter(), techLimit(r.GetLimit()))
	}
	return call(ctx, req, same, list, func(rows []tech.Audit) (*tunnelv1.TechSessionServiceListAuditResponse, error) {
		r := &tunnelv1.TechSessionServiceListAuditResponse{Rows: make([]*tunnelv1.TechAuditRow, len(rows))}
		for i, row := range rows {
			var err error
			if r.Rows[i], err = techAuditToProto(row); err != nil {
				return nil, err
			}
		}
		if len(rows) > 0 && len(rows) == techLimit(req.GetLimit()) {
			r.Next = rows[len(rows)-1].ID
		}
		return r, nil
	})
}

func same[T any](v T) (T, error) { return v, nil }

// Channel carries the messages of one channel. One goroutine hands on what the operator sends, and one sends what the node
// says; HTTP/2 stops it when the operator does not read.
func (t *techServer) Channel(stream tunnelv1.TechSessionService_ChannelServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	d, err := t.tech()
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return recvEnd(err)
	}
	in := first.GetJoin()
	if in == nil {
		return errTechJoin
	}
	j, err := d.Join(ctx, c, tech.JoinIn{SessionID: in.GetSessionId(), ChannelID: in.GetChannelId(), Kind: techKindFromProto(in.GetKind())})
	if err != nil {
		return err
	}
	defer func() { _ = j.Close(nil) }() // below with the reason, where there is one
	if err := stream.Send(&tunnelv1.TechSessionServiceChannelResponse{Item: &tunnelv1.TechSessionServiceChannelResponse_Joined{
		Joined: &tunnelv1.TechChannel{ChannelId: j.ID, Kind: techKindToProto(j.Kind), OpenedAt: timeToProto(t.s.d.Now())},
	}}); err != nil {
		return err
	}
	x := &techStream{stream: stream, j: j, turn: make(chan struct{}, 1)}
	// Both end with the stream, which ends with this function: an operator that takes nothing holds up neither it nor the
	// end of the session.
	t.s.links.wg.Go(func() { cancel(x.asked(ctx)) })
	t.s.links.wg.Go(func() { cancel(x.told(ctx)) })
	<-ctx.Done()
	err = context.Cause(ctx)
	switch {
	case errors.Is(err, errGoodbye), errors.Is(err, io.EOF):
		return nil
	case stream.Context().Err() == nil:
		_ = j.Close(err) // the operator gets the reason as well
	}
	return err
}

// techStream is one channel at this door.
type techStream struct {
	stream tunnelv1.TechSessionService_ChannelServer
	j      *tech.Joined
	turn   chan struct{} // one message at a time
}

// asked takes what the operator sends, in order, until it leaves. What is refused it is told, and goes on.
func (x *techStream) asked(ctx context.Context) error {
	for {
		m, err := x.stream.Recv()
		if err != nil {
			return recvEnd(err)
		}
		in, ok := m.GetItem().(*tunnelv1.TechSessionServiceChannelRequest_Message)
		if !ok {
			return errTechJoin
		}
		ask, err := techMessageFromProto(in.Message)
		if err == nil {
			err = x.j.Send(ctx, ask)
		}
		if err == nil {
			continue
		}
		f, ok := techRefusal(err)
		if !ok {
			return err
		}
		if err := x.send(ctx, message.Of(message.TypeError, f, nil)); err != nil {
			return err
		}
	}
}

// techMessageFromProto refuses what the framing to the node does not carry.
func techMessageFromProto(m *tunnelv1.TechMessage) (message.Message, error) {
	out := message.Message{Type: m.GetType(), Payload: m.GetPayload(), Data: m.GetData()}
	switch {
	case len(out.Payload) > message.MaxPayload || len(out.Data) > message.MaxData:
		return out, tech.ErrMessage.WithText(message.ErrTooLarge.Error())
	case len(out.Payload) > 0 && !json.Valid(out.Payload):
		return out, tech.ErrMessage.WithText("the payload of a message is a JSON object")
	}
	return out, nil
}

// told sends what the node says, in order, until the channel has ended.
func (x *techStream) told(ctx context.Context) error {
	for {
		m, err := x.j.Receive(ctx)
		if err == nil {
			err = x.send(ctx, m)
		}
		if err != nil {
			return err
		}
	}
}

func (x *techStream) send(ctx context.Context, m message.Message) error {
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-x.turn }()
	return x.stream.Send(&tunnelv1.TechSessionServiceChannelResponse{Item: &tunnelv1.TechSessionServiceChannelResponse_Message{
		Message: &tunnelv1.TechMessage{Type: cleanText(m.Type), Payload: m.Payload, Data: m.Data},
	}})
}

// techRefusal is what an operator is told of a message that was refused; false for what ends the channel.
func techRefusal(err error) (message.Failure, bool) {
	e, ok := errs.As(err)
	if !ok {
		return message.Failure{}, false
	}
	for _, one := range []*errs.Error{tech.ErrMessage, tech.ErrNotAllowed, tech.ErrDirectory, tech.ErrRate} {
		if e.Code == one.Code {
			return message.Failure{Code: techFailures[e.Class], Error: e.Text}, true
		}
	}
	return message.Failure{}, false
}

// techFailures are the codes of message.Failure.
var techFailures = map[errs.Class]string{errs.Invalid: "invalid", errs.Denied: "denied", errs.Exhausted: "exhausted"}

// Run runs one command.
func (t *techServer) Run(req *tunnelv1.TechSessionServiceRunRequest, stream tunnelv1.TechSessionService_RunServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	d, err := t.tech()
	if err != nil {
		return err
	}
	opened := false
	return d.Run(ctx, c, tech.RunIn{
		SessionID: req.GetSessionId(), ChannelID: req.GetChannelId(),
		Command: message.Command{Command: req.GetCommand(), Cwd: req.GetCwd(), TimeoutMS: req.GetTimeoutMs()},
	}, func(channelID string, out message.Output) error {
		if !opened {
			opened = true
			if err := open(stream); err != nil {
				return err
			}
		}
		return stream.Send(techOutputToProto(channelID, out))
	})
}

func techOutputToProto(channelID string, out message.Output) *tunnelv1.TechSessionServiceRunResponse {
	m := &tunnelv1.TechSessionServiceRunResponse{
		ChannelId: channelID, Stdout: []byte(out.Stdout), Stderr: []byte(out.Stderr),
		Signal: cleanText(out.Signal), TimedOut: out.TimedOut, Truncated: out.Truncated, Done: out.ExitCode != nil || out.Signal != "" || out.TimedOut,
	}
	if len(out.StdoutB64) > 0 {
		m.Stdout = out.StdoutB64
	}
	if len(out.StderrB64) > 0 {
		m.Stderr = out.StderrB64
	}
	if out.ExitCode != nil {
		code := clampInt32(*out.ExitCode)
		m.ExitCode = &code
	}
	return m
}

// Watch sends what happens in a session.
func (t *techServer) Watch(req *tunnelv1.TechSessionServiceWatchRequest, stream tunnelv1.TechSessionService_WatchServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	d, err := t.tech()
	if err != nil {
		return err
	}
	w, err := d.Watch(ctx, c, req.GetSessionId())
	if err != nil {
		return err
	}
	defer w.Close()
	if err := open(stream); err != nil {
		return err
	}
	for {
		e, err := w.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := stream.Send(techEventToProto(e)); err != nil {
			return err
		}
	}
}

func techEventToProto(e tech.Event) *tunnelv1.TechSessionServiceWatchResponse {
	m := &tunnelv1.TechSessionServiceWatchResponse{
		Seq: e.Seq, At: timeToProto(e.At), Type: e.Type, SessionId: e.SessionID, ChannelId: e.ChannelID, Kind: techKindToProto(e.Kind),
		Subject: cleanText(e.Subject), Text: cleanText(e.Text), Stream: e.Stream, Data: e.Data, Skipped: uint64(max(e.Skipped, 0)), Watchers: uint32(max(e.Watchers, 0)),
	}
	if e.ExitCode != nil {
		code := clampInt32(*e.ExitCode)
		m.ExitCode = &code
	}
	return m
}

// Export sends all sessions and rows.
func (t *techServer) Export(_ *tunnelv1.TechSessionServiceExportRequest, stream tunnelv1.TechSessionService_ExportServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	d, err := t.tech()
	if err != nil {
		return err
	}
	if !c.Has(identity.ScopeAdmin) { // an error after the first message of the door reads as a stream that broke
		return tech.ErrScope
	}
	if err := open(stream); err != nil {
		return err
	}
	return d.Export(ctx, c, func(r tech.Session) error {
		return stream.Send(&tunnelv1.TechSessionServiceExportResponse{Item: &tunnelv1.TechSessionServiceExportResponse_Session{Session: techToProto(r)}})
	}, func(a tech.Audit) error {
		row, err := techAuditToProto(a)
		if err != nil {
			return err
		}
		return stream.Send(&tunnelv1.TechSessionServiceExportResponse{Item: &tunnelv1.TechSessionServiceExportResponse_Row{Row: row}})
	})
}

type withTechID interface{ GetSessionId() string }

func techID[R withTechID](r R) (string, error) { return r.GetSessionId(), nil }

// techKinds are the kinds by their numbers.
var techKinds = map[tunnelv1.TechKind]message.Kind{
	tunnelv1.TechKind_TECH_KIND_TERMINAL: message.Terminal, tunnelv1.TechKind_TECH_KIND_FILE: message.File,
	tunnelv1.TechKind_TECH_KIND_REGISTRY: message.Registry, tunnelv1.TechKind_TECH_KIND_SERVICE: message.Service,
}

// techKindFromProto leaves what is no kind empty, which the domain refuses.
func techKindFromProto(k tunnelv1.TechKind) message.Kind { return techKinds[k] }

func techKindToProto(k message.Kind) tunnelv1.TechKind {
	for n, one := range techKinds {
		if one == k {
			return n
		}
	}
	return tunnelv1.TechKind_TECH_KIND_UNSPECIFIED
}

func openTechFromProto(r *tunnelv1.TechSessionServiceOpenRequest) (tech.OpenIn, error) {
	in := tech.OpenIn{NodeID: r.GetNodeId(), ReadOnly: r.GetReadOnly(), Directories: r.GetDirectories(), Takeover: r.GetTakeover()}
	for _, k := range r.GetKinds() {
		in.Kinds = append(in.Kinds, techKindFromProto(k))
	}
	return in, nil
}

// techLimit is how many are listed.
func techLimit(n uint32) int {
	if n == 0 || n > tech.MaxList {
		return tech.MaxList
	}
	return int(n)
}

func listTechFromProto(r *tunnelv1.TechSessionServiceListRequest) (tech.ListIn, error) {
	in := tech.ListIn{NodeID: r.GetNodeId(), Owner: r.GetOwner(), After: r.GetAfter(), Limit: techLimit(r.GetLimit())}
	switch r.GetStatus() {
	case tunnelv1.TechStatus_TECH_STATUS_UNSPECIFIED:
	case tunnelv1.TechStatus_TECH_STATUS_ACTIVE:
		in.Status = tech.Active
	case tunnelv1.TechStatus_TECH_STATUS_CLOSED:
		in.Status = tech.Closed
	default:
		return in, errTechStatus
	}
	return in, nil
}

func techToProto(r tech.Session) *tunnelv1.TechSession {
	m := &tunnelv1.TechSession{
		SessionId: r.ID, NodeId: cleanText(r.NodeID), Owner: cleanText(r.Owner), OwnerName: cleanText(r.Name), Tenant: cleanText(r.Tenant),
		ReadOnly: r.ReadOnly, Directories: cleanTexts(r.Directories), Status: tunnelv1.TechStatus_TECH_STATUS_ACTIVE,
		Reason: string(r.Reason), ClosedBy: cleanText(r.ClosedBy), Emulated: r.Emulated,
		OpenedAt: timeToProto(r.OpenedAt), LastActivity: timeToProto(r.LastActivity), ClosedAt: timeToProto(r.ClosedAt),
		Watchers: uint32(max(r.Watchers, 0)),
		Commands: uint64(max(r.Commands, 0)), BytesIn: uint64(max(r.BytesIn, 0)), BytesOut: uint64(max(r.BytesOut, 0)),
	}
	if r.Status == tech.Closed {
		m.Status = tunnelv1.TechStatus_TECH_STATUS_CLOSED
	}
	for _, k := range r.Kinds {
		m.Kinds = append(m.Kinds, techKindToProto(k))
	}
	for _, ch := range r.Channels {
		m.Channels = append(m.Channels, &tunnelv1.TechChannel{
			ChannelId: ch.ID, Kind: techKindToProto(ch.Kind), OpenedAt: timeToProto(ch.OpenedAt), What: cleanText(ch.What),
		})
	}
	return m
}

func techAuditToProto(a tech.Audit) (*tunnelv1.TechAuditRow, error) {
	row := &tunnelv1.TechAuditRow{
		RowId: a.ID, At: timeToProto(a.At), SessionId: a.SessionID, ChannelId: cleanText(a.ChannelID), NodeId: cleanText(a.NodeID), Subject: cleanText(a.Subject),
		Tenant: cleanText(a.Tenant), Operation: a.Operation, Outcome: cleanText(a.Outcome),
	}
	if len(a.Detail) == 0 {
		return row, nil
	}
	text, err := json.Marshal(a.Detail)
	var v *structpb.Value
	if err == nil {
		v, err = valueFromJSON(text)
	}
	if err != nil {
		return nil, errValue.Wrap(err)
	}
	row.Detail = v.GetStructValue()
	return row, nil
}
