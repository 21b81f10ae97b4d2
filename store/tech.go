package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// maxTechSessions bounds the technician sessions that are kept, and maxTechRows the rows of their audit: the oldest closed
	// ones go. The chained log keeps its own rows longer, as its limits say.
	maxTechSessions = 100_000
	maxTechRows     = 1_000_000
	// pruneTech is how many of them go at once at the most.
	pruneTech = 16
)

// techRecord is a technician session.
type techRecord struct {
	Owner        string    `json:"owner,omitzero"`
	Name         string    `json:"name,omitzero"`
	Tenant       string    `json:"tenant,omitzero"`
	Node         string    `json:"node,omitzero"`
	Kinds        []string  `json:"kinds,omitempty"`
	ReadOnly     bool      `json:"read_only,omitzero"`
	Directories  []string  `json:"directories,omitempty"`
	Status       string    `json:"status,omitzero"`
	Reason       string    `json:"reason,omitzero"`
	ClosedBy     string    `json:"closed_by,omitzero"`
	Emulated     bool      `json:"emulated,omitzero"`
	OpenedAt     time.Time `json:"opened_at,omitzero"`
	LastActivity time.Time `json:"last_activity,omitzero"`
	ClosedAt     time.Time `json:"closed_at,omitzero"`
	Commands     int64     `json:"commands,omitzero"`
	BytesIn      int64     `json:"bytes_in,omitzero"`
	BytesOut     int64     `json:"bytes_out,omitzero"`
}

// techRow is a row of the audit of technician sessions.
type techRow struct {
	At        time.Time       `json:"at,omitzero"`
	Session   string          `json:"session,omitzero"`
	Channel   string          `json:"channel,omitzero"`
	Node      string          `json:"node,omitzero"`
	Subject   string          `json:"subject,omitzero"`
	Tenant    string          `json:"tenant,omitzero"`
	Operation string          `json:"operation,omitzero"`
	Outcome   string          `json:"outcome,omitzero"`
	Detail    json.RawMessage `json:"detail,omitempty"`
}

func encodeTech(r tech.Session) ([]byte, error) {
	kinds := make([]string, len(r.Kinds))
	for i, k := range r.Kinds {
		kinds[i] = string(k)
	}
	return encode(techRecord{
		Owner: r.Owner, Name: r.Name, Tenant: r.Tenant, Node: r.NodeID, Kinds: kinds, ReadOnly: r.ReadOnly, Directories: r.Directories, Status: string(r.Status),
		Reason: string(r.Reason), ClosedBy: r.ClosedBy, Emulated: r.Emulated, OpenedAt: utc(r.OpenedAt), LastActivity: utc(r.LastActivity),
		ClosedAt: utc(r.ClosedAt), Commands: r.Commands, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
	})
}

func decodeTech(key, value []byte) (tech.Session, error) {
	var r techRecord
	if err := decode(bucketTechSessions, key, value, &r); err != nil {
		return tech.Session{}, err
	}
	kinds := make([]message.Kind, len(r.Kinds))
	for i, k := range r.Kinds {
		kinds[i] = message.Kind(k)
	}
	return tech.Session{
		ID: string(key), Owner: r.Owner, Name: r.Name, Tenant: r.Tenant, NodeID: r.Node, Kinds: kinds, ReadOnly: r.ReadOnly, Directories: r.Directories,
		Status: tech.Status(r.Status), Reason: tech.Reason(r.Reason), ClosedBy: r.ClosedBy, Emulated: r.Emulated, OpenedAt: utc(r.OpenedAt),
		LastActivity: utc(r.LastActivity), ClosedAt: utc(r.ClosedAt), Commands: r.Commands, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
	}, nil
}

// techRows are rows on their way to the disk: one for the session, and one for the chained log.
type techRows struct {
	session []byte
	record  []byte
	link    auditLink
}

func techRowsOf(rows []tech.Audit) ([]techRows, error) {
	out := make([]techRows, len(rows))
	for i, a := range rows {
		detail, err := json.Marshal(a.Detail)
		if err != nil {
			return nil, err
		}
		if a.Detail == nil {
			detail = nil
		}
		if out[i].session, err = keyOf(a.SessionID); err != nil {
			return nil, err
		}
		if out[i].record, err = encode(techRow{
			At: utc(a.At), Session: a.SessionID, Channel: a.ChannelID, Node: a.NodeID, Subject: a.Subject, Tenant: a.Tenant, Operation: a.Operation,
			Outcome: a.Outcome, Detail: detail,
		}); err != nil {
			return nil, err
		}
		if out[i].link, err = linkOf(AuditRow{
			At: a.At, Kind: "tech." + a.Operation, Subject: a.Subject, RequestID: a.SessionID, NodeID: a.NodeID, Command: a.Operation, Reason: a.Outcome,
			Detail: string(detail),
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *txn) appendTech(rows []techRows) error {
	for _, r := range rows {
		seq, err := t.next(bucketTechAudit)
		if err == nil {
			err = t.put(bucketTechAudit, seqKey(seq), r.record)
		}
		if err == nil {
			err = t.put(bucketTechAuditOf, append(append(bytes.Clone(r.session), 0), seqKey(seq)...), nil)
		}
		if err == nil {
			err = t.appendAudit(r.link)
		}
		if err == nil && seq > maxTechRows {
			err = t.pruneTechRows(seq - maxTechRows)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pruneTechRows removes the oldest rows up to a number.
func (t *txn) pruneTechRows(upTo uint64) error {
	var keys, of [][]byte
	c := t.tx.Bucket(bucketTechAudit).Cursor()
	for k, v := c.First(); k != nil && len(keys) < pruneTech && binary.BigEndian.Uint64(k) <= upTo; k, v = c.Next() {
		var r techRow
		if err := decode(bucketTechAudit, k, v, &r); err != nil {
			return err
		}
		keys = append(keys, bytes.Clone(k))
		of = append(of, append(append([]byte(r.Session), 0), k...))
	}
	for i, k := range keys {
		if err := t.delete(bucketTechAudit, k); err != nil {
			return err
		}
		if err := t.delete(bucketTechAuditOf, of[i]); err != nil {
			return err
		}
	}
	return nil
}

// techAt finds a session; nil when there is none.
func (t *txn) techAt(id []byte) (*tech.Session, error) {
	value := t.get(bucketTechSessions, id)
	if value == nil {
		return nil, nil //nolint:nilnil // said above
	}
	r, err := decodeTech(id, value)
	return &r, err
}

// OpenTechSession implements tech.Store.
func (s *Store) OpenTechSession(ctx context.Context, in tech.Session, rows ...tech.Audit) error {
	id, err := keyOf(in.ID)
	if err != nil {
		return err
	}
	node, err := keyOf(in.NodeID)
	if err != nil {
		return err
	}
	value, err := encodeTech(in)
	if err != nil {
		return err
	}
	add, err := techRowsOf(rows)
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		if t.get(bucketTechHolds, node) != nil {
			return tech.ErrHeld
		}
		err := t.put(bucketTechHolds, node, id)
		if err == nil {
			err = t.put(bucketTechSessions, id, value)
		}
		if err == nil {
			err = t.put(bucketTechOrder, timeKey(nanos(in.OpenedAt), id), nil)
		}
		if err == nil {
			err = t.appendTech(add)
		}
		if err == nil {
			err = t.pruneTechSessions(maxTechSessions)
		}
		return err
	})
}

// pruneTechSessions removes some of the oldest closed sessions when there are more than most.
func (t *txn) pruneTechSessions(most int) error {
	order := t.tx.Bucket(bucketTechOrder)
	if order.Stats().KeyN <= most {
		return nil
	}
	var gone [][]byte
	c := order.Cursor()
	for k, _ := c.First(); k != nil && len(gone) < pruneTech; k, _ = c.Next() {
		r, err := t.techAt(idIn(k))
		if err != nil {
			return err
		}
		if r == nil || r.Status == tech.Closed {
			gone = append(gone, bytes.Clone(k))
		}
	}
	return t.forgetTech(gone)
}

func (t *txn) forgetTech(order [][]byte) error {
	for _, k := range order {
		if err := t.delete(bucketTechOrder, k); err != nil {
			return err
		}
		if err := t.delete(bucketTechSessions, idIn(k)); err != nil {
			return err
		}
	}
	return nil
}

// ChangeTechSession implements tech.Store.
func (s *Store) ChangeTechSession(ctx context.Context, in tech.Session, rows ...tech.Audit) error {
	id, err := keyOf(in.ID)
	if err != nil {
		return err
	}
	value, err := encodeTech(in)
	if err != nil {
		return err
	}
	add, err := techRowsOf(rows)
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		if t.get(bucketTechSessions, id) == nil {
			return tech.ErrUnknown
		}
		if err := t.put(bucketTechSessions, id, value); err != nil {
			return err
		}
		if node := []byte(in.NodeID); in.Status == tech.Closed && bytes.Equal(t.get(bucketTechHolds, node), id) {
			if err := t.delete(bucketTechHolds, node); err != nil {
				return err
			}
		}
		return t.appendTech(add)
	})
}

// AppendTechAudit implements tech.Store.
func (s *Store) AppendTechAudit(ctx context.Context, rows ...tech.Audit) error {
	add, err := techRowsOf(rows)
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error { return t.appendTech(add) })
}

// TechSession implements tech.Store.
func (s *Store) TechSession(id string) (r tech.Session, err error) {
	key, err := keyOf(id)
	if err != nil {
		return tech.Session{}, tech.ErrUnknown
	}
	err = s.view(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketTechSessions).Get(key)
		if value == nil {
			return tech.ErrUnknown
		}
		r, err = decodeTech(key, value)
		return err
	})
	return r, err
}

// TechSessions implements tech.Store.
func (s *Store) TechSessions(in tech.ListIn) ([]tech.Session, error) {
	var out []tech.Session
	err := s.view(func(tx *bolt.Tx) error {
		all, c := tx.Bucket(bucketTechSessions), tx.Bucket(bucketTechOrder).Cursor()
		k, _ := c.Last()
		if in.After != "" {
			value := all.Get([]byte(in.After))
			if value == nil {
				return nil
			}
			r, err := decodeTech([]byte(in.After), value)
			if err != nil {
				return err
			}
			if c.Seek(timeKey(nanos(r.OpenedAt), []byte(in.After))); true {
				k, _ = c.Prev()
			}
		}
		for ; k != nil && len(out) < in.Limit; k, _ = c.Prev() {
			r, err := decodeTech(idIn(k), all.Get(idIn(k)))
			switch {
			case err != nil:
				return err
			case in.Status != "" && r.Status != in.Status, in.NodeID != "" && r.NodeID != in.NodeID, in.Owner != "" && r.Owner != in.Owner,
				in.Tenant != "" && r.Tenant != in.Tenant:
			default:
				out = append(out, r)
			}
		}
		return nil
	})
	return out, err
}

// TechAudit implements tech.Store.
func (s *Store) TechAudit(session string, after uint64, limit int) ([]tech.Audit, error) {
	var out []tech.Audit
	err := s.view(func(tx *bolt.Tx) error {
		rows := tx.Bucket(bucketTechAudit)
		take := func(k []byte) error {
			var r techRow
			if err := decode(bucketTechAudit, k, rows.Get(k), &r); err != nil {
				return err
			}
			a := tech.Audit{
				ID: binary.BigEndian.Uint64(k), At: utc(r.At), SessionID: r.Session, ChannelID: r.Channel, NodeID: r.Node, Subject: r.Subject, Tenant: r.Tenant,
				Operation: r.Operation, Outcome: r.Outcome,
			}
			if len(r.Detail) > 0 {
				if err := json.Unmarshal(r.Detail, &a.Detail); err != nil {
					return recordError(bucketTechAudit, k, "its detail cannot be read")
				}
			}
			out = append(out, a)
			return nil
		}
		if session == "" {
			c := rows.Cursor()
			for k, _ := c.Seek(seqKey(after + 1)); k != nil && len(out) < limit; k, _ = c.Next() {
				if err := take(k); err != nil {
					return err
				}
			}
			return nil
		}
		prefix := append([]byte(session), 0)
		c := tx.Bucket(bucketTechAuditOf).Cursor()
		for k, _ := c.Seek(append(bytes.Clone(prefix), seqKey(after+1)...)); k != nil && bytes.HasPrefix(k, prefix) && len(out) < limit; k, _ = c.Next() {
			if err := take(k[len(prefix):]); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// RemoveTechSessions implements tech.Store.
func (s *Store) RemoveTechSessions(ctx context.Context, nodeID string, rows ...tech.Audit) error {
	add, err := techRowsOf(rows)
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		var gone [][]byte
		c := t.tx.Bucket(bucketTechOrder).Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			r, err := t.techAt(idIn(k))
			if err != nil {
				return err
			}
			if r == nil || r.NodeID == nodeID && r.Status == tech.Closed {
				gone = append(gone, bytes.Clone(k))
			}
		}
		if err := t.forgetTech(gone); err != nil {
			return err
		}
		return t.appendTech(add)
	})
}

var _ tech.Store = (*Store)(nil)
