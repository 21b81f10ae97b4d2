package rpc

import (
	"context"
	"math"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/events"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/system/doctor"
)

type systemServer struct {
	systemv1.UnimplementedSystemServiceServer
	s *Server
}

func (y *systemServer) GetHealth(ctx context.Context, req *systemv1.GetHealthRequest) (*systemv1.GetHealthResponse, error) {
	return call(ctx, req, healthFromProto, y.s.d.System.Health, healthToProto)
}

func (y *systemServer) GetStatus(ctx context.Context, req *systemv1.GetStatusRequest) (*systemv1.GetStatusResponse, error) {
	return call(ctx, req, nothing, without(y.s.d.System.Status), statusToProto)
}

func (y *systemServer) ListPresence(ctx context.Context, req *systemv1.ListPresenceRequest) (*systemv1.ListPresenceResponse, error) {
	return call(ctx, req, nothing, without(y.s.d.System.Presence), presenceToProto)
}

func (y *systemServer) TailLogs(ctx context.Context, req *systemv1.TailLogsRequest) (*systemv1.TailLogsResponse, error) {
	return call(ctx, req, tailFromProto, y.s.d.System.TailLogs, tailToProto)
}

func (y *systemServer) GetSharedSecret(ctx context.Context, req *systemv1.GetSharedSecretRequest) (*systemv1.GetSharedSecretResponse, error) {
	return call(ctx, req, nothing, y.secret, secretToProto)
}

func (y *systemServer) Diagnose(ctx context.Context, req *systemv1.DiagnoseRequest) (*systemv1.DiagnoseResponse, error) {
	return call(ctx, req, nothing, without(y.s.d.System.Diagnose), diagnosisToProto)
}

// Backup sends the archive in pieces as it is made.
func (y *systemServer) Backup(_ *systemv1.BackupRequest, stream systemv1.SystemService_BackupServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	p := &pieces{send: stream.Send}
	err := y.s.d.Backup(ctx, c, p, func(done, all int64) { p.done, p.all = uint64(done), uint64(all) })
	if err != nil {
		return err
	}
	return p.flush()
}

// pieceSize is how much of a backup goes in one message, in bytes.
const pieceSize = 256 << 10

// pieces sends what is written to it in messages of one size. A reader that does not read holds up its own
// backup only: the state is copied by then.
type pieces struct {
	send      func(*systemv1.BackupResponse) error
	buf       []byte
	done, all uint64
}

func (p *pieces) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		k := min(len(b), pieceSize-len(p.buf))
		p.buf, b = append(p.buf, b[:k]...), b[k:]
		if len(p.buf) == pieceSize {
			if err := p.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (p *pieces) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	err := p.send(&systemv1.BackupResponse{Data: p.buf, Done: p.done, All: p.all})
	p.buf = nil // the message may still be read
	return err
}

type sharedSecret struct{ mode, secret string }

func (y *systemServer) secret(_ context.Context, c identity.Caller, _ struct{}) (sharedSecret, error) {
	mode, secret, err := y.s.d.SharedSecret(c)
	return sharedSecret{mode, secret}, err
}

// WatchEvents sends what the caller may see, from the moment the header of the stream is sent. A
// reader that is too slow loses events and is told how many.
func (y *systemServer) WatchEvents(req *systemv1.WatchEventsRequest, stream systemv1.SystemService_WatchEventsServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	names := req.GetNames()
	sub := y.s.d.Bus.Subscribe(func(e events.Event) bool {
		return (len(names) == 0 || slices.Contains(names, e.Name)) && events.Visible(c, e.Name) && events.Concerns(c, e.Payload)
	})
	defer sub.Close()
	if err := open(stream); err != nil {
		return err
	}
	var seq, dropped uint64
	lost := func(n uint64) error {
		y.s.d.Metrics.EventsDropped(c.Door.String(), n)
		dropped += n
		return nil
	}
	return forward(ctx, sub, lost, func(e events.Event) error {
		out := &systemv1.WatchEventsResponse{Seq: seq, Name: e.Name, At: timeToProto(e.At), Dropped: dropped}
		if e.Name != "" {
			text, ok := y.s.d.Render(e.For(c))
			if !ok {
				return nil
			}
			var err error
			if out.Payload, err = valueFromJSON(text); err != nil {
				return errRender.Wrap(err)
			}
			seq++
			out.Seq = seq
		}
		dropped = 0
		return stream.Send(out)
	})
}

// FollowLogs sends the end of the log and then each new line.
func (y *systemServer) FollowLogs(req *systemv1.FollowLogsRequest, stream systemv1.SystemService_FollowLogsServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	if req.GetLines() > math.MaxInt32 {
		return system.ErrLogRange
	}
	if err := open(stream); err != nil {
		return err
	}
	return y.s.d.System.FollowLogs(ctx, c, int(req.GetLines()), func(line string) error {
		return stream.Send(&systemv1.FollowLogsResponse{Line: cleanText(line)})
	})
}

func healthFromProto(r *systemv1.GetHealthRequest) (bool, error) { return r.GetProbe(), nil }

// healthToProto says ok whenever there is an answer: a daemon that cannot answer fails the call.
func healthToProto(h system.Health) (*systemv1.GetHealthResponse, error) {
	r := &systemv1.GetHealthResponse{
		Ok: true, At: timeToProto(h.At), Took: durationpb.New(h.Took), DefaultAgentId: h.DefaultAgentID,
		Agents: make([]*systemv1.AgentHealth, len(h.Agents)),
	}
	for i, a := range h.Agents {
		r.Agents[i] = &systemv1.AgentHealth{
			AgentId: a.ID, Name: a.Name, IsDefault: a.Default, Heartbeat: heartbeatToProto(a.Heartbeat),
			SessionsPath: a.SessionsPath, SessionCount: clampInt32(a.SessionCount),
		}
		for _, one := range a.Recent {
			r.Agents[i].Recent = append(r.Agents[i].Recent, &systemv1.RecentSession{Key: cleanText(one.Key), UpdatedAt: timeToProto(one.UpdatedAt)})
		}
	}
	return r, nil
}

func diagnosisToProto(d system.Diagnosis) (*systemv1.DiagnoseResponse, error) {
	r := &systemv1.DiagnoseResponse{At: timeToProto(d.At), Version: d.Version, Pid: int64(d.PID), Findings: make([]*systemv1.Finding, len(d.Findings))}
	for i, f := range d.Findings {
		r.Findings[i] = &systemv1.Finding{
			Check: f.Check, Severity: severities[f.Severity], What: cleanText(f.What), Next: cleanText(f.Next), Fixable: f.Fixable,
		}
	}
	return r, nil
}

var severities = map[doctor.Severity]systemv1.Severity{
	doctor.OK: systemv1.Severity_SEVERITY_OK, doctor.Note: systemv1.Severity_SEVERITY_NOTE,
	doctor.Warning: systemv1.Severity_SEVERITY_WARNING, doctor.Error: systemv1.Severity_SEVERITY_ERROR,
}

func heartbeatToProto(h system.Heartbeat) *systemv1.Heartbeat {
	p := &systemv1.Heartbeat{Enabled: h.Enabled, Every: h.Every, Target: h.Target}
	if h.Interval != 0 {
		p.Interval = durationpb.New(h.Interval)
	}
	return p
}

func statusToProto(st system.Status) (*systemv1.GetStatusResponse, error) {
	r := &systemv1.GetStatusResponse{
		Version:          st.Version,
		Pid:              int64(st.PID),
		Uptime:           durationpb.New(st.Uptime),
		StateDir:         st.StateDir,
		ConfigPath:       st.ConfigPath,
		Socket:           st.Socket,
		Listen:           st.Listen,
		GrpcListen:       st.GRPCListen,
		TlsFingerprint:   st.TLSFingerprint,
		AuthMode:         st.AuthMode,
		Connections:      clampInt32(st.Connections),
		NodesConnected:   clampInt32(st.NodesConnected),
		NodesKnown:       clampInt32(st.NodesKnown),
		ApprovalsPending: clampInt32(st.ApprovalsPending),
		PolicyFault:      cleanText(st.PolicyFault),
		ConfigFault:      cleanText(st.ConfigFault),
		ConfigPending:    timeToProto(st.ConfigPending),

		DefaultAgentId: st.DefaultAgentID, DefaultModel: st.Defaults.Model, QueuedSystemEvents: cleanTexts(st.QueuedEvents),
		HeartbeatsEnabled: st.HeartbeatsOn,

		Agents: make([]*systemv1.AgentStatus, len(st.Agents)),
	}
	for i, a := range st.Agents {
		r.Agents[i] = &systemv1.AgentStatus{
			AgentId: a.ID, Heartbeat: heartbeatToProto(a.Heartbeat), SessionCount: clampInt32(a.SessionCount), SessionsPath: a.SessionsPath,
		}
		r.SessionCount += clampInt32(a.SessionCount)
		for _, one := range a.Recent {
			r.Agents[i].Recent = append(r.Agents[i].Recent, sessionStatusToProto(one))
		}
	}
	if n := st.Defaults.Context; n != nil {
		r.DefaultContextTokens = *n
	}
	return r, nil
}

func sessionStatusToProto(s system.Session) *systemv1.SessionStatus {
	return &systemv1.SessionStatus{
		Key: cleanText(s.Key), Kind: s.Kind, SessionId: cleanText(s.ID), UpdatedAt: timeToProto(s.UpdatedAt),
		ThinkingLevel: cleanText(s.Thinking), VerboseLevel: cleanText(s.Verbose), ReasoningLevel: cleanText(s.Reasoning),
		ElevatedLevel: cleanText(s.Elevated), SystemSent: s.SystemSent, AbortedLastRun: s.Aborted, InputTokens: s.Input,
		OutputTokens: s.Output, CacheRead: s.CacheRead, CacheWrite: s.CacheWrite, TotalTokens: s.Total, TotalTokensFresh: s.Fresh(),
		Model: cleanText(s.Model), ContextTokens: s.Context,
	}
}

func presenceToProto(in []system.Presence) (*systemv1.ListPresenceResponse, error) {
	r := &systemv1.ListPresenceResponse{Entries: make([]*systemv1.PresenceEntry, len(in))}
	for i, p := range in {
		r.Entries[i] = &systemv1.PresenceEntry{
			Host:            cleanText(p.Host),
			Ip:              cleanText(p.IP),
			Version:         cleanText(p.Version),
			Platform:        cleanText(p.Platform),
			DeviceFamily:    cleanText(p.DeviceFamily),
			ModelIdentifier: cleanText(p.ModelIdentifier),
			Mode:            cleanText(p.Mode),
			Reason:          cleanText(p.Reason),
			DeviceId:        cleanText(p.DeviceID),
			Roles:           cleanTexts(p.Roles),
			Scopes:          cleanTexts(p.Scopes),
			InstanceId:      cleanText(p.InstanceID),
			Text:            cleanText(p.Text),
			At:              timeToProto(p.At),

			LastInputSeconds: p.LastInputSeconds,
		}
	}
	return r, nil
}

// tailFromProto refuses a zero that was said: the domain takes zero for absent.
func tailFromProto(r *systemv1.TailLogsRequest) (system.TailIn, error) {
	var in system.TailIn
	if r.Cursor != nil {
		if r.GetCursor() > math.MaxInt64 {
			return in, system.ErrLogRange
		}
		cursor := int64(r.GetCursor())
		in.Cursor = &cursor
	}
	for _, f := range []struct {
		from *uint32
		to   *int
	}{{r.Limit, &in.Limit}, {r.MaxBytes, &in.MaxBytes}} {
		if f.from == nil {
			continue
		}
		if *f.from == 0 || *f.from > math.MaxInt32 {
			return system.TailIn{}, system.ErrLogRange
		}
		*f.to = int(*f.from)
	}
	return in, nil
}

func tailToProto(out system.TailOut) (*systemv1.TailLogsResponse, error) {
	r := &systemv1.TailLogsResponse{
		File: out.File, Cursor: uint64(out.Cursor), Size: uint64(out.Size),
		Lines: make([]string, len(out.Lines)), Truncated: out.Truncated, Reset_: out.Reset,
	}
	for i, l := range out.Lines {
		r.Lines[i] = cleanText(l)
	}
	return r, nil
}

func secretToProto(out sharedSecret) (*systemv1.GetSharedSecretResponse, error) {
	return &systemv1.GetSharedSecretResponse{AuthMode: out.mode, Secret: out.secret}, nil
}
