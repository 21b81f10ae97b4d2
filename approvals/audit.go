package approvals

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The kinds of rows that this package writes. Those of devices are in identity, those of node pairings
// in nodes; AuditCheckpoint and AuditChained are the store's own.
const (
	AuditRequest  = "request"
	AuditDecision = "decision"
	// AuditUse is on disk before the command goes out, AuditResult says how it ended. A use without a
	// result is one whose outcome is not known.
	AuditUse    = "use"
	AuditResult = "result"
	// AuditRefusal is a run that was not let through, by the gateway or by the node.
	AuditRefusal = "refusal"
	AuditExpiry  = "expiry"
	AuditPolicy  = "policy"
	// AuditGrant is a grant that was made or revoked, AuditVote an answer that did not decide alone,
	// AuditEscalation that others were asked as well.
	AuditGrant      = "grant"
	AuditVote       = "vote"
	AuditEscalation = "escalation"
	// AuditCheckpoint stands for the rows that were removed before it.
	AuditCheckpoint = "checkpoint"
	// AuditAnomaly is what the store found at a start: rows that were lost or changed.
	AuditAnomaly = "anomaly"
	// AuditChained follows the rows from before the log was chained.
	AuditChained = "chained"
)

// Audit is one row of the log of what was asked, decided and done, whichever domain wrote it. What
// does not concern a row is empty. A row never holds a secret: no value of an environment variable,
// no token. Text past a bound is cut when the row is written.
type Audit struct {
	// Seq counts from 1 without gaps. The store sets it.
	Seq  uint64
	At   time.Time
	Kind string
	// Subject is who did it, as the daemon verified it.
	Subject    string
	ApprovalID string
	// RunID names the run that a use, a result or a refusal belongs to.
	RunID  string
	NodeID string
	// Command is text for people, Argv what ran or would have run, as far as it is known.
	Command string
	Argv    []string
	// Cwd, AgentID and SessionKey are those of the run.
	Cwd        string
	AgentID    string
	SessionKey string
	Decision   Decision
	// Rule is the name of the rule or grant that decided, Where the place it is written at
	// ("file:line"); empty when an approval decided, or the node alone.
	Rule  string
	Where string
	// Policy is the hash of the rules that were in force, in hex.
	Policy string
	// BindingHash is the SHA-256 over what the approval covers, in hex.
	BindingHash string
	// Reason is the code of a refusal, or what a change is about; Detail says more in plain words.
	Reason string
	Detail string
	// ExitCode is how a run ended, nil when it did not end by itself or never began; TimedOut that the
	// node ended it. OutputDigest and StderrDigest are the SHA-256 of what it wrote to stdout and to
	// stderr, as the node returned it, in hex; empty when that is nothing.
	ExitCode     *int
	TimedOut     bool
	OutputDigest string
	StderrDigest string

	// DeviceID, Role, Scopes and RequestID are those of a row about a device (identity.Audit). On a use,
	// a result or a refusal, RequestID is what the caller calls the run.
	DeviceID  string
	Role      identity.Role
	Scopes    []identity.Scope
	RequestID string

	// Checkpoint is set on a row of kind AuditCheckpoint.
	Checkpoint *Checkpoint
}

// Checkpoint stands for rows that were removed from the beginning of the log.
type Checkpoint struct {
	// Seq and Hash are of the last row that was removed.
	Seq  uint64
	Hash string
	// Count is how many rows were removed at once, From and To the times of the first and the last.
	Count    uint64
	From, To time.Time
	// Rule is the bound that they were past: rows, bytes or age.
	Rule string
}

// AuditEntry is a row as it stands in the chain.
type AuditEntry struct {
	Audit      Audit
	Prev, Hash audit.Hash
	// Open is set on a row of kind AuditUse whose run has no result: it is going on, or its outcome is
	// not known.
	Open bool
}

// AuditEnds is where the log begins and ends.
type AuditEnds struct {
	// Base is the last row that was removed, Head the newest.
	Base, Head audit.Mark
	// Anchor is the newest row as it is known outside of the database, nil when it is not.
	Anchor *audit.Mark
	// Bytes is the size of all records.
	Bytes uint64
}

// AuditLog reads the log. Each call sees one moment of it.
type AuditLog interface {
	AuditEnds() (AuditEnds, error)
	// AuditLinks returns at most n rows after a sequence number, in order, and the base of the log.
	AuditLinks(after uint64, n int) ([]audit.Row, audit.Mark, error)
	// AuditEntries returns at most n rows from a sequence number on, forwards or back.
	AuditEntries(from uint64, n int, back bool) ([]AuditEntry, error)
	// AuditChanged is closed when a row is added.
	AuditChanged() <-chan struct{}
}

const (
	// auditChunk bounds the rows of one read: a long one would keep old pages of the database alive.
	auditChunk = 256
	// DefaultAudit and MaxAudit bound a listing.
	DefaultAudit = 50
	MaxAudit     = 1000
	// maxMarks bounds the marks of one verification.
	maxMarks = 100
)

// The errors of the log.
var (
	ErrAuditUnknown = errs.Define(errs.NotFound, "approvals.audit_unknown", "the audit log has no such row")
	ErrAuditMark    = errs.Define(errs.Invalid, "approvals.audit_mark", "a mark is SEQUENCE:HASH, as audit head prints it")
	ErrAuditMarks   = errs.Define(errs.Invalid, "approvals.audit_marks", "at most 100 marks can be given")
	ErrAuditLimit   = errs.Define(errs.Invalid, "approvals.audit_limit", "at most 1000 rows can be listed at once")
	ErrAuditTenant  = errs.Define(errs.Denied, "approvals.audit_tenant", "the whole log is for the owner of the gateway: list the rows instead")
	ErrAuditRange   = errs.Define(errs.Invalid, "approvals.audit_range", "the time until which rows are asked for is before the time since")
)

// AuditFilter says which rows are meant; what is empty does not matter.
type AuditFilter struct {
	// Kinds are exact; one that ends in a dot stands for all that begin so ("device.").
	Kinds      []string
	NodeID     string
	ApprovalID string
	// RunID is the name of a run in the log, or what its caller calls it.
	RunID    string
	Subject  string
	DeviceID string
	// Since and Until are times, the first included.
	Since, Until time.Time
}

func (f AuditFilter) fits(a Audit) bool {
	fits := func(want, have string) bool { return want == "" || want == have }
	kind := len(f.Kinds) == 0
	for _, k := range f.Kinds {
		kind = kind || k == a.Kind || strings.HasSuffix(k, ".") && strings.HasPrefix(a.Kind, k)
	}
	return kind && fits(f.NodeID, a.NodeID) && fits(f.ApprovalID, a.ApprovalID) && (fits(f.RunID, a.RunID) || fits(f.RunID, a.RequestID)) &&
		fits(f.Subject, a.Subject) && fits(f.DeviceID, a.DeviceID) &&
		(f.Since.IsZero() || !a.At.Before(f.Since)) && (f.Until.IsZero() || a.At.Before(f.Until))
}

// auditSeen reports whether a row is for a caller: a tenant is shown what is of its own nodes, and of the rest,
// where others act too, what the caller did itself and what was done about its device.
func auditSeen(c identity.Caller, a Audit) bool {
	return c.Decides(identity.NodeTenant(a.NodeID)) ||
		c.SeesNode(a.NodeID) && (a.Subject == c.Subject() || a.DeviceID != "" && a.DeviceID == c.DeviceID)
}

// ListAuditIn is the argument of ListAudit.
type ListAuditIn struct {
	Filter AuditFilter
	// After and Before bound the sequence numbers, exclusive; 0 is no bound.
	After, Before uint64
	// Limit is DefaultAudit when 0.
	Limit int
}

// ListAuditOut is the result of ListAudit.
type ListAuditOut struct {
	Entries []AuditEntry
	// Before is what to ask for next; 0 when there is no more.
	Before uint64
}

// ListAudit lists rows, the newest first.
func (s *Service) ListAudit(ctx context.Context, c identity.Caller, in ListAuditIn) (ListAuditOut, error) {
	var out ListAuditOut
	switch {
	case in.Limit == 0:
		in.Limit = DefaultAudit
	case in.Limit < 0 || in.Limit > MaxAudit:
		return out, ErrAuditLimit
	}
	if f := in.Filter; !f.Until.IsZero() && f.Until.Before(f.Since) {
		return out, ErrAuditRange
	}
	from := ^uint64(0)
	if in.Before > 0 {
		from = in.Before - 1
	}
	for from > in.After {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		rows, err := s.store.AuditEntries(from, auditChunk, true)
		if err != nil || len(rows) == 0 {
			return out, err
		}
		for _, e := range rows {
			switch {
			case e.Audit.Seq <= in.After:
				return out, nil
			case !in.Filter.fits(e.Audit) || !auditSeen(c, e.Audit):
			case len(out.Entries) == in.Limit:
				out.Before = out.Entries[in.Limit-1].Audit.Seq
				return out, nil
			default:
				out.Entries = append(out.Entries, e)
			}
			from = e.Audit.Seq - 1
		}
	}
	return out, nil
}

// GetAudit returns one row.
func (s *Service) GetAudit(_ context.Context, c identity.Caller, seq uint64) (AuditEntry, error) {
	rows, err := s.store.AuditEntries(seq, 1, false)
	if err != nil {
		return AuditEntry{}, err
	}
	if len(rows) == 0 || rows[0].Audit.Seq != seq || !auditSeen(c, rows[0].Audit) {
		return AuditEntry{}, ErrAuditUnknown.With("seq", fmt.Sprint(seq))
	}
	return rows[0], nil
}

// AuditHead returns where the log begins and ends.
func (s *Service) AuditHead(context.Context, identity.Caller) (AuditEnds, error) {
	return s.store.AuditEnds()
}

// VerifyAuditIn is the argument of VerifyAudit.
type VerifyAuditIn struct {
	// After begins behind a row, which is taken as it is; 0 is the beginning of the log.
	After uint64
	// Marks are rows that have to be there.
	Marks []audit.Mark
}

// VerifyAudit reads the log and says whether it is as it was written. Progress is called now and then
// with the rows that were looked at and those that there are; its error ends the verification. Rows that
// come meanwhile are not looked at.
func (s *Service) VerifyAudit(ctx context.Context, _ identity.Caller, in VerifyAuditIn, progress func(done, all uint64) error) (audit.Report, error) {
	if len(in.Marks) > maxMarks {
		return audit.Report{}, ErrAuditMarks
	}
	ends, err := s.store.AuditEnds()
	if err != nil {
		return audit.Report{}, err
	}
	marks := in.Marks
	// The file is written after the commit: it may be ahead of what was read, and never ahead of the log.
	if ends.Anchor != nil {
		if again, err := s.store.AuditEnds(); err == nil {
			ends.Head = again.Head
		}
		marks = append(slices.Clip(marks), *ends.Anchor)
	}
	v := audit.NewVerifier(marks...)
	from, whole := ends.Base, true
	if in.After > ends.Base.Seq {
		row, _, err := s.store.AuditLinks(in.After-1, 1)
		if err != nil {
			return audit.Report{}, err
		}
		if len(row) == 0 || row[0].Seq != in.After {
			return audit.Report{}, ErrAuditUnknown.With("seq", fmt.Sprint(in.After))
		}
		from, whole = audit.Mark{Seq: in.After, Hash: row[0].Hash}, false
	}
	v.From(from, whole)
	all := ends.Head.Seq - min(from.Seq, ends.Head.Seq)
	for done := uint64(0); ; {
		if err := ctx.Err(); err != nil {
			return audit.Report{}, err
		}
		rows, base, err := s.store.AuditLinks(max(from.Seq, v.Last().Seq), auditChunk)
		if err != nil && errs.ClassOf(err) == errs.Internal {
			v.Unreadable(err)
			return v.Report(&ends.Head), nil
		}
		if err != nil {
			return audit.Report{}, err
		}
		v.Skip(base)
		for _, row := range rows {
			if row.Seq > ends.Head.Seq && v.Last().Seq >= ends.Head.Seq {
				return v.Report(&ends.Head), nil
			}
			if row.Seq <= base.Seq {
				continue
			}
			v.Add(row)
			done++
		}
		if len(rows) == 0 {
			return v.Report(&ends.Head), nil
		}
		if progress != nil {
			if err := progress(min(done, all), all); err != nil {
				return audit.Report{}, err
			}
		}
	}
}

// ExportAudit hands on the rows after a sequence number as they are stored, in order, those that are
// there when it begins. It returns the last of them and how many they are.
func (s *Service) ExportAudit(ctx context.Context, c identity.Caller, after uint64, row func(audit.Row) error) (audit.Mark, uint64, error) {
	if c.Tenant != "" {
		return audit.Mark{}, 0, ErrAuditTenant // a chain with rows left out is none
	}
	ends, err := s.store.AuditEnds()
	if err != nil {
		return audit.Mark{}, 0, err
	}
	last, n := ends.Base, uint64(0)
	if after >= ends.Head.Seq {
		return ends.Head, 0, nil
	}
	for at := max(after, ends.Base.Seq); at < ends.Head.Seq; {
		if err := ctx.Err(); err != nil {
			return last, n, err
		}
		rows, _, err := s.store.AuditLinks(at, auditChunk)
		if err != nil || len(rows) == 0 {
			return last, n, err
		}
		for _, r := range rows {
			if r.Seq > ends.Head.Seq {
				return last, n, nil
			}
			if err := row(r); err != nil {
				return last, n, err
			}
			at, last = r.Seq, audit.Mark{Seq: r.Seq, Hash: r.Hash}
			n++
		}
	}
	return last, n, nil
}

// WatchAudit hands on the rows that fit, from the one after a sequence number, or from now on when it is
// nil, as they come, until ctx ends. Rows wait in the store and nowhere else: a slow reader holds nobody
// up and loses nothing but what is removed as too old.
func (s *Service) WatchAudit(ctx context.Context, c identity.Caller, after *uint64, filter AuditFilter, ready func() error, row func(AuditEntry) error) error {
	var at uint64
	if after != nil {
		at = *after
	} else {
		ends, err := s.store.AuditEnds()
		if err != nil {
			return err
		}
		at = ends.Head.Seq
	}
	if err := ready(); err != nil {
		return err
	}
	for {
		changed := s.store.AuditChanged()
		for {
			rows, err := s.store.AuditEntries(at+1, auditChunk, false)
			if err != nil {
				return err
			}
			for _, e := range rows {
				at = e.Audit.Seq
				if filter.fits(e.Audit) && auditSeen(c, e.Audit) {
					if err := row(e); err != nil {
						return err
					}
				}
			}
			if len(rows) < auditChunk {
				break
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
