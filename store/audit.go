package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/identity"
)

// AuditLimits bound the audit log: the oldest rows go, and a checkpoint stands for them. Refusals, which
// a caller can make at will, count like all others.
type AuditLimits struct {
	// MaxRows and MaxBytes bound the rows and the bytes of their records, DefaultAuditRows and
	// DefaultAuditBytes when 0.
	MaxRows, MaxBytes uint64
	// KeepFor is how long a row is kept, for ever when 0.
	KeepFor time.Duration
}

func (l AuditLimits) orDefault() AuditLimits {
	if l.MaxRows == 0 {
		l.MaxRows = DefaultAuditRows
	}
	if l.MaxBytes == 0 {
		l.MaxBytes = DefaultAuditBytes
	}
	return l
}

// SetAuditLimits changes the bounds of the audit log, from the next row on.
func (s *Store) SetAuditLimits(l AuditLimits) {
	l = l.orDefault()
	s.w.limits.Store(&l)
}

// The bounds of a log that nobody gave others. They hold a year or so of busy use, and a few times the
// approvals that are kept, each of which leaves four rows or so; reading every page when the daemon
// starts stays in tens of milliseconds.
const (
	DefaultAuditRows  = 100_000
	DefaultAuditBytes = 64 << 20
)

// The bounds that a row was past when it went.
const (
	pastRows  = "rows"
	pastBytes = "bytes"
	pastAge   = "age"
)

const (
	// pruneAudit bounds the rows that one transaction removes, so that other writes do not wait for
	// thousands of them, and is how many go at once when there are too many: each time leaves a
	// checkpoint.
	pruneAudit = 256
	// maxAuditText bounds each text of a row, and the words of an argv together: a caller chooses some
	// of them. What is longer is cut, and says so.
	maxAuditText = 64 << 10
)

// cut is the text as the log keeps it, n bytes at the most and a few for saying so.
func cut(text string, n int) string {
	if len(text) > n {
		n = max(n, 0)
		return strings.ToValidUTF8(text[:n], "") + fmt.Sprintf("... (cut, %d bytes)", len(text))
	}
	return text
}

// cutArgv is an argv as the log keeps it. Words past the bound are dropped, and their number said.
func cutArgv(argv []string) []string {
	left := maxAuditText
	for i, word := range argv {
		if len(word) <= left {
			left -= len(word) + 1 // an empty word takes room as well
			continue
		}
		out := append(slices.Clone(argv[:i]), cut(word, left))
		if more := len(argv) - i - 1; more > 0 {
			out = append(out, fmt.Sprintf("... (cut, %d more words)", more))
		}
		return out
	}
	return argv
}

// auditRecord is one row of the audit log.
type auditRecord struct {
	At           time.Time          `json:"at,omitzero"`
	Kind         string             `json:"kind,omitzero"`
	Subject      string             `json:"subject,omitzero"`
	ApprovalID   string             `json:"approval_id,omitzero"`
	RunID        string             `json:"run_id,omitzero"`
	NodeID       string             `json:"node_id,omitzero"`
	Command      string             `json:"command,omitzero"`
	Argv         []string           `json:"argv,omitzero"`
	Cwd          string             `json:"cwd,omitzero"`
	AgentID      string             `json:"agent_id,omitzero"`
	SessionKey   string             `json:"session_key,omitzero"`
	Decision     approvals.Decision `json:"decision,omitzero"`
	Rule         string             `json:"rule,omitzero"`
	Where        string             `json:"where,omitzero"`
	Policy       string             `json:"policy,omitzero"`
	BindingHash  string             `json:"binding_hash,omitzero"`
	Reason       string             `json:"reason,omitzero"`
	Detail       string             `json:"detail,omitzero"`
	ExitCode     *int               `json:"exit_code,omitzero"`
	TimedOut     bool               `json:"timed_out,omitzero"`
	OutputDigest string             `json:"output_digest,omitzero"`
	StderrDigest string             `json:"stderr_digest,omitzero"`
	DeviceID     string             `json:"device_id,omitzero"`
	Role         identity.Role      `json:"role,omitzero"`
	Scopes       []identity.Scope   `json:"scopes,omitzero"`
	RequestID    string             `json:"request_id,omitzero"`
	Checkpoint   *checkpointRecord  `json:"checkpoint,omitzero"`
}

type checkpointRecord struct {
	Seq   uint64    `json:"seq,omitzero"`
	Hash  string    `json:"hash,omitzero"`
	Count uint64    `json:"count,omitzero"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`
	Rule  string    `json:"rule,omitzero"`
}

// AuditRow is one row of the audit log.
type AuditRow = approvals.Audit

func encodeAudit(row AuditRow) ([]byte, error) {
	rec := auditRecord{
		At: utc(row.At), Kind: row.Kind, Subject: row.Subject, ApprovalID: row.ApprovalID, RunID: row.RunID,
		NodeID: row.NodeID, Command: row.Command, Argv: row.Argv, Cwd: row.Cwd, AgentID: row.AgentID,
		SessionKey: row.SessionKey, Decision: row.Decision, Rule: row.Rule, Where: row.Where, Policy: row.Policy,
		BindingHash: row.BindingHash, Reason: row.Reason, Detail: row.Detail, ExitCode: row.ExitCode,
		TimedOut: row.TimedOut, OutputDigest: row.OutputDigest, StderrDigest: row.StderrDigest,
		DeviceID: row.DeviceID, Role: row.Role, Scopes: row.Scopes, RequestID: row.RequestID,
	}
	if c := row.Checkpoint; c != nil {
		rec.Checkpoint = &checkpointRecord{Seq: c.Seq, Hash: c.Hash, Count: c.Count, From: utc(c.From), To: utc(c.To), Rule: c.Rule}
	}
	return encode(rec)
}

// decodeAudit reads a record of the log; the key is the sequence number.
func decodeAudit(key, record []byte) (AuditRow, error) {
	if len(key) != 8 {
		return AuditRow{}, recordError(bucketAudit, key, "its key is no sequence number")
	}
	var rec auditRecord
	if err := decode(bucketAudit, key, record, &rec); err != nil {
		return AuditRow{}, err
	}
	row := AuditRow{
		Seq: binary.BigEndian.Uint64(key), At: utc(rec.At), Kind: rec.Kind, Subject: rec.Subject,
		ApprovalID: rec.ApprovalID, RunID: rec.RunID, NodeID: rec.NodeID, Command: rec.Command, Argv: rec.Argv,
		Cwd: rec.Cwd, AgentID: rec.AgentID, SessionKey: rec.SessionKey, Decision: rec.Decision, Rule: rec.Rule,
		Where: rec.Where, Policy: rec.Policy, BindingHash: rec.BindingHash, Reason: rec.Reason, Detail: rec.Detail,
		ExitCode: rec.ExitCode, TimedOut: rec.TimedOut, OutputDigest: rec.OutputDigest, StderrDigest: rec.StderrDigest,
		DeviceID: rec.DeviceID, Role: rec.Role, Scopes: rec.Scopes, RequestID: rec.RequestID,
	}
	if c := rec.Checkpoint; c != nil {
		row.Checkpoint = &approvals.Checkpoint{Seq: c.Seq, Hash: c.Hash, Count: c.Count, From: utc(c.From), To: utc(c.To), Rule: c.Rule}
	}
	return row, nil
}

// splitAudit takes what is stored for a row apart: its hash and its record.
func splitAudit(key, value []byte) (audit.Hash, []byte, error) {
	if len(value) < len(audit.Hash{}) {
		return audit.Hash{}, nil, recordError(bucketAudit, key, "it is too short for its hash")
	}
	return audit.Hash(value[:len(audit.Hash{})]), value[len(audit.Hash{}):], nil
}

// storedAudit reads what is stored for a row.
func storedAudit(key, value []byte) (AuditRow, error) {
	_, record, err := splitAudit(key, value)
	if err != nil {
		return AuditRow{}, err
	}
	return decodeAudit(key, record)
}

// auditEnd is one end of the log: the newest row, or the last one that was removed before the oldest.
// Its zero value is that of an empty log.
type auditEnd struct {
	seq  uint64
	hash audit.Hash
	// size is the bytes of all records that are kept; the head alone has it.
	size uint64
}

const auditEndSize = 8 + len(audit.Hash{}) + 8

func (e auditEnd) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, auditEndSize), e.seq)
	b = append(b, e.hash[:]...)
	return binary.BigEndian.AppendUint64(b, e.size)
}

// auditEndAt reads an end of the log.
func auditEndAt(tx *bolt.Tx, key []byte) (auditEnd, error) {
	v := tx.Bucket(bucketAuditMeta).Get(key)
	if len(v) != auditEndSize {
		return auditEnd{}, recordError(bucketAuditMeta, key, "it is not in its format")
	}
	return auditEnd{
		seq: binary.BigEndian.Uint64(v), hash: audit.Hash(v[8 : 8+len(audit.Hash{})]),
		size: binary.BigEndian.Uint64(v[8+len(audit.Hash{}):]),
	}, nil
}

// migrateTo4 makes room for grants, runs and the chain of the audit log, and chains the rows that are
// there: from then on nobody changes them unseen.
func migrateTo4(tx *bolt.Tx) error {
	for _, name := range []string{"grants", "runs", "run_output", "audit_meta", "audit_open"} {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return fmt.Errorf("bucket %s: %w", name, err)
		}
	}
	rows := tx.Bucket([]byte("audit"))
	// Keys first: a cursor does not outlive a write.
	keys := make([]uint64, 0, 1024)
	if err := rows.ForEach(func(k, _ []byte) error {
		if len(k) != 8 {
			return recordError(bucketAudit, k, "its key is no sequence number")
		}
		keys = append(keys, binary.BigEndian.Uint64(k))
		return nil
	}); err != nil {
		return err
	}
	var base, head auditEnd
	if len(keys) > 0 {
		base.seq = keys[0] - 1
	}
	head.seq = base.seq
	add := func(seq uint64, record []byte) error {
		head.seq, head.hash = seq, audit.Link(seq, head.hash, record)
		head.size += uint64(len(record))
		return rows.Put(seqKey(seq), append(head.hash[:], record...))
	}
	for _, seq := range keys {
		if err := add(seq, bytes.Clone(rows.Get(seqKey(seq)))); err != nil {
			return err
		}
	}
	if len(keys) > 0 {
		record, err := json.Marshal(map[string]any{
			"at": time.Now().UTC(), "kind": "chained",
			"detail": fmt.Sprintf("rows %d to %d are from before the log was chained: they are chained as they were found", keys[0], head.seq),
		})
		if err != nil {
			return err
		}
		if err := add(head.seq+1, append([]byte{1}, record...)); err != nil {
			return err
		}
	}
	meta := tx.Bucket([]byte("audit_meta"))
	return errors.Join(meta.Put([]byte("base"), base.encode()), meta.Put([]byte("head"), head.encode()))
}

// AppendAudit implements approvals.Store.
func (s *Store) AppendAudit(ctx context.Context, rows ...approvals.Audit) error {
	links := make([]auditLink, len(rows))
	for i, row := range rows {
		var err error
		if links[i], err = linkOf(row); err != nil {
			return err
		}
	}
	return s.w.do(ctx, func(t *txn) error {
		for _, l := range links {
			if err := t.appendAudit(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// OpenUses implements approvals.Store.
func (s *Store) OpenUses() ([]approvals.Audit, error) {
	var rows []approvals.Audit
	err := s.view(func(tx *bolt.Tx) error {
		all := tx.Bucket(bucketAudit)
		return tx.Bucket(bucketAuditOpen).ForEach(func(run, seq []byte) error {
			row, err := storedAudit(seq, all.Get(seq))
			if err == nil && (row.Kind != approvals.AuditUse || row.RunID != string(run)) {
				err = recordError(bucketAuditOpen, run, "it names a row that is not its use")
			}
			rows = append(rows, row)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b approvals.Audit) int { return cmp.Compare(a.Seq, b.Seq) })
	return rows, nil
}

// auditLink is a row on its way into the log.
type auditLink struct {
	at     time.Time
	kind   string
	run    []byte // nil when it belongs to none
	record []byte
}

func linkOf(row AuditRow) (l auditLink, err error) {
	for _, text := range []*string{
		&row.Subject, &row.ApprovalID, &row.NodeID, &row.Command, &row.Cwd, &row.AgentID, &row.SessionKey, &row.Rule,
		&row.Where, &row.Reason, &row.Detail, &row.DeviceID, &row.RequestID,
	} {
		*text = cut(*text, maxAuditText)
	}
	row.Argv = cutArgv(row.Argv)
	if l.record, err = encodeAudit(row); err != nil {
		return auditLink{}, err
	}
	l.kind, l.at = row.Kind, row.At
	if row.RunID != "" {
		l.run, err = keyOf(row.RunID)
	}
	return l, err
}

// appendAudit adds a row to the end of the chain, in the transaction of what it speaks of. Several
// rows of one transaction hang together like those of several: each reads the head that the one
// before it wrote.
func (t *txn) appendAudit(l auditLink) error {
	head, err := auditEndAt(t.tx, keyAuditHead)
	if err != nil {
		return err
	}
	if head, err = t.chainAudit(head, l.record); err != nil {
		return err
	}
	switch {
	case l.run == nil:
	case l.kind == approvals.AuditUse:
		err = t.put(bucketAuditOpen, l.run, seqKey(head.seq))
	case (l.kind == approvals.AuditResult || l.kind == approvals.AuditRefusal) && t.get(bucketAuditOpen, l.run) != nil:
		err = t.delete(bucketAuditOpen, l.run)
	}
	if err != nil {
		return err
	}
	base, err := auditEndAt(t.tx, keyAuditBase)
	if err != nil {
		return err
	}
	switch limits := t.limits; {
	case head.seq-base.seq > limits.MaxRows:
		_, err = t.pruneAudit(base, head, l.at, pastRows, func(AuditRow, uint64) bool { return true })
	case head.size > limits.MaxBytes:
		// A sixteenth more than has to go, so that not every row does this.
		_, err = t.pruneAudit(base, head, l.at, pastBytes, func(_ AuditRow, size uint64) bool { return size > limits.MaxBytes/16*15 })
	}
	return err
}

// chainAudit writes a row and the head.
func (t *txn) chainAudit(head auditEnd, record []byte) (auditEnd, error) {
	head.seq++
	head.hash = audit.Link(head.seq, head.hash, record)
	head.size += uint64(len(record))
	value := append(append(make([]byte, 0, len(head.hash)+len(record)), head.hash[:]...), record...)
	if err := t.put(bucketAudit, seqKey(head.seq), value); err != nil {
		return head, err
	}
	*t.head = head
	return head, t.put(bucketAuditMeta, keyAuditHead, head.encode())
}

// PruneAudit implements approvals.Store.
func (s *Store) PruneAudit(ctx context.Context, now time.Time) (uint64, error) {
	var removed uint64
	keep := s.w.limits.Load().KeepFor
	if keep == 0 {
		return 0, nil
	}
	before := now.Add(-keep)
	for {
		var n uint64
		// A look first: a write takes the turn of others.
		if old, err := s.auditOlder(before); err != nil || !old {
			return removed, err
		}
		err := s.w.do(ctx, func(t *txn) error {
			base, err := auditEndAt(t.tx, keyAuditBase)
			if err != nil {
				return err
			}
			head, err := auditEndAt(t.tx, keyAuditHead)
			if err != nil {
				return err
			}
			n, err = t.pruneAudit(base, head, now, pastAge, func(row AuditRow, _ uint64) bool { return row.At.Before(before) })
			return err
		})
		if removed += n; err != nil || n == 0 {
			return removed, err
		}
	}
}

// auditOlder reports whether the oldest row is from before the time.
func (s *Store) auditOlder(before time.Time) (old bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketAudit).Cursor()
		k, v := c.First()
		if k == nil {
			return nil
		}
		row, err := storedAudit(k, v)
		old = err == nil && row.At.Before(before)
		return err
	})
	return old, err
}

// pruneAudit removes rows from the beginning of the log as long as they are to go, pruneAudit at the
// most, and chains a checkpoint of the given time that stands for them. Goes is given a row and the size of the log with
// it. It returns how many went.
func (t *txn) pruneAudit(base, head auditEnd, now time.Time, rule string, goes func(row AuditRow, size uint64) bool) (uint64, error) {
	c := checkpointRecord{Rule: rule}
	var at time.Time
	rows := t.tx.Bucket(bucketAudit)
	for c.Count < pruneAudit && base.seq < head.seq {
		key := seqKey(base.seq + 1)
		value := rows.Get(key)
		hash, record, err := splitAudit(key, value)
		if err != nil {
			return 0, err
		}
		row, err := decodeAudit(key, record)
		if err != nil {
			return 0, err
		}
		if !goes(row, head.size) {
			break
		}
		if c.Count == 0 {
			c.From = row.At
		}
		at = row.At
		base = auditEnd{seq: base.seq + 1, hash: hash}
		head.size -= min(head.size, uint64(len(record)))
		c.Count++
		if err := t.delete(bucketAudit, key); err != nil {
			return 0, err
		}
		if run := []byte(row.RunID); len(run) > 0 && bytes.Equal(t.get(bucketAuditOpen, run), key) {
			if err := t.delete(bucketAuditOpen, run); err != nil {
				return 0, err
			}
		}
	}
	if c.Count == 0 {
		return 0, nil
	}
	c.Seq, c.Hash, c.To = base.seq, base.hash.String(), at
	record, err := encode(auditRecord{At: utc(now), Kind: approvals.AuditCheckpoint, Subject: "store", Checkpoint: &c})
	if err != nil {
		return 0, err
	}
	if err := t.put(bucketAuditMeta, keyAuditBase, base.encode()); err != nil {
		return 0, err
	}
	_, err = t.chainAudit(head, record)
	return c.Count, err
}

// Audit returns at most n rows of the audit log with a sequence number above the given one, in
// order. Rows that were pruned are passed over: the first may be later than asked for.
func (s *Store) Audit(after uint64, n int) ([]AuditRow, error) {
	var rows []AuditRow
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketAudit).Cursor()
		for k, v := c.Seek(seqKey(after + 1)); k != nil && len(rows) < n; k, v = c.Next() {
			row, err := storedAudit(k, v)
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}
