package clienttest

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/approvals/audit"
	auditv1 "github.com/hanzoai/hanzod/gen/hanzo/audit/v1"
)

// auditService is the audit log: a handful of rows whose chain is real, and those that AddAudit adds.
type auditService struct {
	auditv1.UnimplementedAuditServiceServer
	d *Daemon
}

// auditLog is guarded by Daemon.mu.
type auditLog struct {
	rows    []*auditv1.Row
	links   []audit.Row
	changed chan struct{}
}

// AddAudit adds a row; its number and its hashes are set.
func (d *Daemon) AddAudit(r *auditv1.Row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := &d.audit
	r.Seq = uint64(len(l.rows)) + 1
	if r.At == nil {
		r.At = timestamppb.New(time.Now())
	}
	record, err := json.Marshal(map[string]any{"at": r.GetAt().AsTime(), "kind": r.GetKind(), "subject": r.GetSubject(), "argv": r.GetArgv()})
	if err != nil {
		panic(err) // of this package
	}
	link := audit.Row{Seq: r.GetSeq(), Record: append([]byte{1}, record...)}
	if n := len(l.links); n > 0 {
		link.Prev = l.links[n-1].Hash
	}
	link.Hash = audit.Link(link.Seq, link.Prev, link.Record)
	r.Hash, r.Prev = link.Hash.String(), link.Prev.String()
	l.rows, l.links = append(l.rows, r), append(l.links, link)
	if l.changed != nil {
		close(l.changed)
	}
	l.changed = make(chan struct{})
}

// Tamper changes a row of the log behind its back.
func (d *Daemon) Tamper(seq int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	record := d.audit.links[seq-1].Record
	record[bytes.Index(record, []byte(`"kind":"`))+8] ^= 1
}

// fillAudit writes the rows that every daemon has.
func (d *Daemon) fillAudit() {
	argv := []string{"/usr/bin/uname", "-a"}
	at := time.Now().Add(-3 * time.Hour)
	for i, r := range []*auditv1.Row{
		{Kind: "device.approve", Subject: "local:1000", DeviceId: LaptopID, Role: "operator", Scopes: []string{"operator.read"}},
		{Kind: "request", Subject: "local:1000", ApprovalId: "old", NodeId: NodeID, NodeName: NodeName, Command: "/usr/bin/uname -a"},
		{Kind: "decision", Subject: "local:1000", ApprovalId: "old", NodeId: NodeID, NodeName: NodeName, Command: "/usr/bin/uname -a", Decision: "allow-once"},
		{Kind: "use", Subject: "local:1000", ApprovalId: "old", RunId: "r1", NodeId: NodeID, NodeName: NodeName, Argv: argv, Cwd: "/srv", Decision: "allow-once"},
		{Kind: "result", Subject: "local:1000", ApprovalId: "old", RunId: "r1", NodeId: NodeID, NodeName: NodeName, Command: "/usr/bin/uname -a", ExitCode: proto.Int32(0), OutputDigest: strings.Repeat("ab", 32)},
		{Kind: "refusal", Subject: "local:1001", RunId: "r2", NodeId: NodeID, NodeName: NodeName, Command: "rm -rf /", Reason: "policy.denied", Detail: "no \x1b[31mred\x1b[0m"},
		{Kind: "use", Subject: "local:1000", RunId: "r3", NodeId: NodeID, NodeName: NodeName, Argv: []string{"sleep", "9"}, Rule: "night", Where: "policy.json:7", Open: true},
	} {
		r.At = timestamppb.New(at.Add(time.Duration(i) * 29 * time.Minute))
		d.AddAudit(r)
	}
}

func fitsAudit(f *auditv1.Filter, r *auditv1.Row) bool {
	fits := func(want, have string) bool { return want == "" || want == have }
	kind := len(f.GetKinds()) == 0 || slices.ContainsFunc(f.GetKinds(), func(k string) bool {
		return k == r.GetKind() || strings.HasSuffix(k, ".") && strings.HasPrefix(r.GetKind(), k)
	})
	at := r.GetAt().AsTime()
	return kind && fits(f.GetNodeId(), r.GetNodeId()) && fits(f.GetApprovalId(), r.GetApprovalId()) && fits(f.GetRunId(), r.GetRunId()) &&
		fits(f.GetSubject(), r.GetSubject()) && fits(f.GetDeviceId(), r.GetDeviceId()) &&
		(f.GetSince() == nil || !at.Before(f.GetSince().AsTime())) && (f.GetUntil() == nil || at.Before(f.GetUntil().AsTime()))
}

func (s auditService) ListAudit(_ context.Context, in *auditv1.ListAuditRequest) (*auditv1.ListAuditResponse, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	limit := int(in.GetLimit())
	if limit == 0 {
		limit = 50
	}
	out := &auditv1.ListAuditResponse{}
	for _, r := range slices.Backward(s.d.audit.rows) {
		if r.GetSeq() <= in.GetAfter() || (in.GetBefore() > 0 && r.GetSeq() >= in.GetBefore()) || !fitsAudit(in.GetFilter(), r) {
			continue
		}
		if len(out.Rows) == limit {
			out.Before = out.GetRows()[limit-1].GetSeq()
			break
		}
		out.Rows = append(out.Rows, clone(r))
	}
	return out, nil
}

func (s auditService) GetAudit(_ context.Context, in *auditv1.GetAuditRequest) (*auditv1.GetAuditResponse, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	if in.GetSeq() == 0 || in.GetSeq() > uint64(len(s.d.audit.rows)) {
		return nil, fail(codes.NotFound, "approvals.audit_unknown", "the audit log has no such row", nil)
	}
	return &auditv1.GetAuditResponse{Row: clone(s.d.audit.rows[in.GetSeq()-1])}, nil
}

func (s auditService) head() audit.Mark {
	last := s.d.audit.links[len(s.d.audit.links)-1]
	return audit.Mark{Seq: last.Seq, Hash: last.Hash}
}

func (s auditService) GetAuditHead(context.Context, *auditv1.GetAuditHeadRequest) (*auditv1.GetAuditHeadResponse, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	h := s.head()
	return &auditv1.GetAuditHeadResponse{Head: h.String(), Base: audit.Mark{}.String(), Anchor: h.String(), Rows: h.Seq, Bytes: 999}, nil
}

func (s auditService) WatchAudit(in *auditv1.WatchAuditRequest, stream grpc.ServerStreamingServer[auditv1.WatchAuditResponse]) error {
	s.d.mu.Lock()
	at := uint64(len(s.d.audit.rows))
	s.d.mu.Unlock()
	if in.After != nil {
		at = in.GetAfter()
	}
	for {
		s.d.mu.Lock()
		var rows []*auditv1.Row
		for _, r := range s.d.audit.rows[min(at, uint64(len(s.d.audit.rows))):] {
			rows = append(rows, clone(r))
		}
		changed, stopping := s.d.audit.changed, s.d.stopping
		s.d.mu.Unlock()
		for _, r := range rows {
			at = r.GetSeq()
			if fitsAudit(in.GetFilter(), r) {
				if err := stream.Send(&auditv1.WatchAuditResponse{Row: r}); err != nil {
					return err
				}
			}
		}
		select {
		case <-changed:
		case <-stopping:
			return fail(codes.Unavailable, "rpc.stopping", "the daemon is stopping", nil)
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s auditService) VerifyAudit(in *auditv1.VerifyAuditRequest, stream grpc.ServerStreamingServer[auditv1.VerifyAuditResponse]) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	var marks []audit.Mark
	for _, text := range in.GetMarks() {
		m, err := audit.ParseMark(text)
		if err != nil {
			return fail(codes.InvalidArgument, "approvals.audit_mark", "a mark is SEQUENCE:HASH, as audit head prints it", nil)
		}
		marks = append(marks, m)
	}
	v := audit.NewVerifier(marks...)
	if n := in.GetAfter(); n > 0 {
		v.From(audit.Mark{Seq: n, Hash: s.d.audit.links[n-1].Hash}, false)
	} else {
		v.From(audit.Mark{}, true)
	}
	all := uint64(len(s.d.audit.links)) - in.GetAfter()
	for i, l := range s.d.audit.links[in.GetAfter():] {
		v.Add(l)
		if err := stream.Send(&auditv1.VerifyAuditResponse{Done: uint64(i) + 1, All: all}); err != nil {
			return err
		}
	}
	head := s.head()
	r := v.Report(&head)
	p := &auditv1.Report{Ok: r.OK(), Rows: r.Rows, First: r.First, Last: r.Last, Base: r.Base.String(), Head: r.Head.String(), Notes: r.Notes}
	for _, f := range r.Faults {
		p.Faults = append(p.Faults, &auditv1.Fault{Seq: f.Seq, Kind: f.Kind, Text: f.Text})
	}
	return stream.Send(&auditv1.VerifyAuditResponse{Done: all, All: all, Report: p})
}

func (s auditService) ExportAudit(in *auditv1.ExportAuditRequest, stream grpc.ServerStreamingServer[auditv1.ExportAuditResponse]) error {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	n := uint64(0)
	for _, l := range s.d.audit.links[in.GetAfter():] {
		n++
		if err := stream.Send(&auditv1.ExportAuditResponse{Item: &auditv1.ExportAuditResponse_Row{Row: &auditv1.ExportedRow{
			Seq: l.Seq, Prev: l.Prev.String(), Hash: l.Hash.String(), Version: uint32(l.Record[0]), Record: string(l.Record[1:]),
		}}}); err != nil {
			return err
		}
	}
	return stream.Send(&auditv1.ExportAuditResponse{Item: &auditv1.ExportAuditResponse_End{End: &auditv1.ExportEnd{Rows: n, Head: s.head().String()}}})
}
