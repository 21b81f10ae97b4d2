package rpc

import (
	"context"
	"math"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Audit is what the door needs of approvals.Service for the audit log.
type Audit interface {
	ListAudit(context.Context, identity.Caller, approvals.ListAuditIn) (approvals.ListAuditOut, error)
	GetAudit(ctx context.Context, c identity.Caller, seq uint64) (approvals.AuditEntry, error)
	AuditHead(context.Context, identity.Caller) (approvals.AuditEnds, error)
	WatchAudit(ctx context.Context, c identity.Caller, after *uint64, f approvals.AuditFilter, ready func() error, row func(approvals.AuditEntry) error) error
	VerifyAudit(ctx context.Context, c identity.Caller, in approvals.VerifyAuditIn, progress func(done, all uint64) error) (audit.Report, error)
	ExportAudit(ctx context.Context, c identity.Caller, after uint64, row func(audit.Row) error) (audit.Mark, uint64, error)
}

type auditServer struct {
	auditv1.UnimplementedAuditServiceServer
	s *Server
}

func (a *auditServer) ListAudit(ctx context.Context, req *auditv1.ListAuditRequest) (*auditv1.ListAuditResponse, error) {
	return call(ctx, req, listAuditFromProto, a.s.d.Approvals.ListAudit, func(out approvals.ListAuditOut) (*auditv1.ListAuditResponse, error) {
		r := &auditv1.ListAuditResponse{Rows: make([]*auditv1.Row, len(out.Entries)), Before: out.Before}
		for i, e := range out.Entries {
			r.Rows[i] = a.s.auditToProto(e)
		}
		return r, nil
	})
}

func (a *auditServer) GetAudit(ctx context.Context, req *auditv1.GetAuditRequest) (*auditv1.GetAuditResponse, error) {
	return call(ctx, req, seqFromProto, a.s.d.Approvals.GetAudit, func(e approvals.AuditEntry) (*auditv1.GetAuditResponse, error) {
		return &auditv1.GetAuditResponse{Row: a.s.auditToProto(e)}, nil
	})
}

func (a *auditServer) GetAuditHead(ctx context.Context, req *auditv1.GetAuditHeadRequest) (*auditv1.GetAuditHeadResponse, error) {
	return call(ctx, req, nothing, without(a.s.d.Approvals.AuditHead), auditHeadToProto)
}

// WatchAudit sends rows as they come.
func (a *auditServer) WatchAudit(req *auditv1.WatchAuditRequest, stream auditv1.AuditService_WatchAuditServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	return a.s.d.Approvals.WatchAudit(ctx, c, req.After, auditFilterFromProto(req.GetFilter()), func() error { return open(stream) },
		func(e approvals.AuditEntry) error {
			return stream.Send(&auditv1.WatchAuditResponse{Row: a.s.auditToProto(e)})
		})
}

// VerifyAudit sends how far it is, and the report.
func (a *auditServer) VerifyAudit(req *auditv1.VerifyAuditRequest, stream auditv1.AuditService_VerifyAuditServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in, err := verifyAuditFromProto(req)
	if err != nil {
		return err
	}
	if err := open(stream); err != nil {
		return err
	}
	last := new(auditv1.VerifyAuditResponse)
	report, err := a.s.d.Approvals.VerifyAudit(ctx, c, in, func(done, all uint64) error {
		last.Done, last.All = done, all
		return stream.Send(last)
	})
	if err != nil {
		return err
	}
	last.Report = reportToProto(report)
	return stream.Send(last)
}

// ExportAudit sends the rows as they are stored, and the end.
func (a *auditServer) ExportAudit(req *auditv1.ExportAuditRequest, stream auditv1.AuditService_ExportAuditServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	if err := open(stream); err != nil {
		return err
	}
	head, n, err := a.s.d.Approvals.ExportAudit(ctx, c, req.GetAfter(), func(r audit.Row) error {
		p, err := exportedToProto(r)
		if err != nil {
			return err
		}
		return stream.Send(&auditv1.ExportAuditResponse{Item: &auditv1.ExportAuditResponse_Row{Row: p}})
	})
	if err != nil {
		return err
	}
	return stream.Send(&auditv1.ExportAuditResponse{Item: &auditv1.ExportAuditResponse_End{End: &auditv1.ExportEnd{Rows: n, Head: head.String()}}})
}

func exportedToProto(r audit.Row) (*auditv1.ExportedRow, error) {
	p := &auditv1.ExportedRow{Seq: r.Seq, Prev: r.Prev.String(), Hash: r.Hash.String()}
	if len(r.Record) > 0 {
		p.Version, p.Record = uint32(r.Record[0]), cleanText(string(r.Record[1:]))
	}
	return p, nil
}

func seqFromProto(r *auditv1.GetAuditRequest) (uint64, error) { return r.GetSeq(), nil }

func auditFilterFromProto(f *auditv1.Filter) approvals.AuditFilter {
	out := approvals.AuditFilter{
		Kinds: f.GetKinds(), NodeID: f.GetNodeId(), ApprovalID: f.GetApprovalId(), RunID: f.GetRunId(), Subject: f.GetSubject(), DeviceID: f.GetDeviceId(),
	}
	if t := f.GetSince(); t != nil {
		out.Since = t.AsTime()
	}
	if t := f.GetUntil(); t != nil {
		out.Until = t.AsTime()
	}
	return out
}

func listAuditFromProto(r *auditv1.ListAuditRequest) (approvals.ListAuditIn, error) {
	if r.GetLimit() > math.MaxInt32 {
		return approvals.ListAuditIn{}, approvals.ErrAuditLimit
	}
	return approvals.ListAuditIn{
		Filter: auditFilterFromProto(r.GetFilter()), After: r.GetAfter(), Before: r.GetBefore(), Limit: int(r.GetLimit()),
	}, nil
}

func verifyAuditFromProto(r *auditv1.VerifyAuditRequest) (approvals.VerifyAuditIn, error) {
	in := approvals.VerifyAuditIn{After: r.GetAfter()}
	for _, text := range r.GetMarks() {
		m, err := audit.ParseMark(text)
		if err != nil {
			return in, approvals.ErrAuditMark.Wrap(err)
		}
		in.Marks = append(in.Marks, m)
	}
	return in, nil
}

func (s *Server) auditToProto(e approvals.AuditEntry) *auditv1.Row {
	a := e.Audit
	p := &auditv1.Row{
		Seq: a.Seq, At: timeToProto(a.At), Kind: a.Kind, Subject: a.Subject, ApprovalId: a.ApprovalID, RunId: a.RunID,
		NodeId: a.NodeID, Command: a.Command, Argv: a.Argv, Cwd: a.Cwd, AgentId: a.AgentID, SessionKey: a.SessionKey,
		Decision: string(a.Decision), Rule: a.Rule, Where: a.Where, Policy: a.Policy, BindingHash: a.BindingHash,
		Reason: a.Reason, Detail: a.Detail, TimedOut: a.TimedOut, OutputDigest: a.OutputDigest, StderrDigest: a.StderrDigest,
		DeviceId: a.DeviceID, Role: string(a.Role), RequestId: a.RequestID,
		Hash: e.Hash.String(), Prev: e.Prev.String(), Open: e.Open,
	}
	if a.NodeID != "" {
		p.NodeName = s.d.NodeName(a.NodeID)
	}
	if a.ExitCode != nil {
		code := clampInt32(*a.ExitCode)
		p.ExitCode = &code
	}
	for _, scope := range a.Scopes {
		p.Scopes = append(p.Scopes, string(scope))
	}
	if c := a.Checkpoint; c != nil {
		p.Checkpoint = &auditv1.Checkpoint{
			Seq: c.Seq, Hash: c.Hash, Count: c.Count, From: timeToProto(c.From), To: timeToProto(c.To), Rule: c.Rule,
		}
	}
	return p
}

func auditHeadToProto(e approvals.AuditEnds) (*auditv1.GetAuditHeadResponse, error) {
	p := &auditv1.GetAuditHeadResponse{
		Head: e.Head.String(), Base: e.Base.String(), Rows: e.Head.Seq - min(e.Base.Seq, e.Head.Seq), Bytes: e.Bytes,
	}
	if e.Anchor != nil {
		p.Anchor = e.Anchor.String()
	}
	return p, nil
}

func reportToProto(r audit.Report) *auditv1.Report {
	p := &auditv1.Report{
		Ok: r.OK(), Rows: r.Rows, First: r.First, Last: r.Last, Base: r.Base.String(), Head: r.Head.String(),
		Checkpoints: r.Checkpoints, More: r.More, Notes: r.Notes,
	}
	for _, f := range r.Faults {
		p.Faults = append(p.Faults, &auditv1.Fault{Seq: f.Seq, Kind: f.Kind, Text: cleanText(f.Text)})
	}
	if c := r.Pruned; c != nil {
		p.Pruned = &auditv1.Checkpoint{
			Seq: c.Seq, Hash: c.Hash, Count: c.Count, From: timeToProto(c.From), To: timeToProto(c.To), Rule: c.Rule,
		}
	}
	return p
}
