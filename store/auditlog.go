package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
)

const (
	// headName is the file beside the database that says which row of the audit log is the newest. The
	// database could be put back to an older copy, or cut at its end, and would still hang together.
	headName = "audit.head"
	// headSize is the size of that file: it is written in place, and fits in one sector.
	headSize = 128
	// checkedRows bounds the rows that are verified when the store opens.
	checkedRows = 1000
)

// auditHead is the file of the newest row, and wakes those who wait for rows.
type auditHead struct {
	mu      sync.Mutex
	f       *os.File // nil when it cannot be written
	failed  func(error)
	seq     uint64
	changed chan struct{} // closed with the next row
}

func openHead(dir string, failed func(error)) (h *auditHead, found *audit.Mark, err error) {
	h = &auditHead{failed: failed, changed: make(chan struct{})}
	f, err := os.OpenFile(filepath.Join(dir, headName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return h, nil, err
	}
	h.f = f
	b := make([]byte, headSize)
	n, err := f.ReadAt(b, 0)
	if text := string(bytes.TrimSpace(b[:n])); text != "" {
		m, err := audit.ParseMark(text)
		if err != nil {
			return h, nil, err
		}
		return h, &m, nil
	}
	if n == headSize && err != nil {
		return h, nil, err
	}
	return h, nil, nil
}

// set tells of a row that is on disk. The file is not synced: what it is for is whoever changes the
// database, not a power cut, and an older mark is as true.
func (h *auditHead) set(e auditEnd) {
	b := make([]byte, 0, headSize)
	b = append(b, audit.Mark{Seq: e.seq, Hash: e.hash}.String()...)
	b = append(b, bytes.Repeat([]byte(" "), headSize-1-len(b))...)
	b = append(b, '\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq = e.seq
	close(h.changed)
	h.changed = make(chan struct{})
	if h.f == nil {
		return
	}
	if _, err := h.f.WriteAt(b, 0); err != nil {
		_ = h.f.Close()
		h.f = nil
		h.failed(err)
	}
}

func (h *auditHead) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.f == nil {
		return nil
	}
	err := h.f.Close()
	h.f = nil
	return err
}

// read is the mark in the file as it is now, nil when there is none.
func (h *auditHead) read() *audit.Mark {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.f == nil {
		return nil
	}
	b := make([]byte, headSize)
	n, _ := h.f.ReadAt(b, 0)
	m, err := audit.ParseMark(string(bytes.TrimSpace(b[:n])))
	if err != nil {
		return nil
	}
	return &m
}

// startAudit verifies the newest rows, compares the log with its head file, and begins to keep that. What
// is wrong is logged, and noted in the log itself: the daemon serves on, so that somebody can look.
func (s *Store) startAudit(ctx context.Context, opts Options) {
	head, mark, err := openHead(s.dir, func(err error) {
		opts.Log.Error("the head file of the audit log cannot be written any more; rows cut from its end are not found without it",
			"path", filepath.Join(s.dir, headName), "err", err)
	})
	s.head = head
	if err != nil {
		opts.Log.Warn("the head file of the audit log cannot be read, and is made anew", "path", filepath.Join(s.dir, headName), "err", err)
	}
	s.w.audited = head.set
	began := time.Now()
	report, end, err := s.verifyEnd(checkedRows, mark)
	if err != nil {
		opts.Log.Error("the audit log cannot be read", "err", err)
		return
	}
	for _, f := range report.Faults {
		if f.Kind == audit.Anomaly {
			continue // it was noted before
		}
		opts.Log.Error("the audit log is not as it was written; see hanzoctl audit verify", "row", f.Seq, "what", f.Kind, "why", f.Text)
		row := approvals.Audit{At: opts.Now(), Kind: approvals.AuditAnomaly, Subject: "store", Detail: f.Text}
		if noted(report.Faults, f) {
			continue
		}
		link, err := linkOf(row)
		if err == nil {
			err = s.w.do(ctx, func(t *txn) error { return t.appendAudit(link) })
		}
		if err != nil {
			opts.Log.Error("the audit log cannot be written", "err", err)
			break
		}
	}
	if len(report.Faults) == 0 && end.seq > 0 {
		opts.Log.Info("the end of the audit log is as it was written", "rows", report.Rows, "head", audit.Mark{Seq: end.seq, Hash: end.hash}.String(),
			"took", time.Since(began).Round(time.Microsecond).String(), "head_file", mark != nil)
	}
	if len(report.Faults) == 0 && end.seq > 0 && (mark == nil || mark.Seq != end.seq) {
		head.set(end)
	}
}

// noted reports whether an anomaly says already what a fault says.
func noted(all []audit.Fault, f audit.Fault) bool {
	for _, a := range all {
		if a.Kind == audit.Anomaly && len(a.Text) > len(f.Text) && a.Text[len(a.Text)-len(f.Text):] == f.Text {
			return true
		}
	}
	return false
}

// verifyEnd verifies the newest n rows.
func (s *Store) verifyEnd(n uint64, mark *audit.Mark) (report audit.Report, head auditEnd, err error) {
	err = withFaults(func() error {
		return s.db.View(func(tx *bolt.Tx) error {
			var marks []audit.Mark
			if mark != nil {
				marks = append(marks, *mark)
			}
			v := audit.NewVerifier(marks...)
			base, err := auditEndAt(tx, keyAuditBase)
			if err != nil {
				return err
			}
			if head, err = auditEndAt(tx, keyAuditHead); err != nil {
				return err
			}
			at, whole := base, true
			if head.seq > base.seq+n {
				at, whole = auditEnd{seq: head.seq - n}, false
				hash, _, err := splitAudit(seqKey(at.seq), tx.Bucket(bucketAudit).Get(seqKey(at.seq)))
				if err != nil {
					return err
				}
				at.hash = hash
			}
			v.From(at.mark(), whole)
			c := tx.Bucket(bucketAudit).Cursor()
			prev := at.hash
			for k, value := c.Seek(seqKey(at.seq + 1)); k != nil; k, value = c.Next() {
				row, err := linkAt(k, value, prev)
				if err != nil {
					return err
				}
				v.Add(row)
				prev = row.Hash
			}
			end := head.mark()
			report = v.Report(&end)
			return nil
		})
	})
	return report, head, err
}

func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key) }

func (e auditEnd) mark() audit.Mark { return audit.Mark{Seq: e.seq, Hash: e.hash} }

// linkAt is a row of the chain as it is stored; its record is the database's.
func linkAt(key, value []byte, prev audit.Hash) (audit.Row, error) {
	if len(key) != 8 {
		return audit.Row{}, recordError(bucketAudit, key, "its key is no sequence number")
	}
	hash, record, err := splitAudit(key, value)
	if err != nil {
		return audit.Row{}, err
	}
	return audit.Row{Seq: seqOf(key), Prev: prev, Hash: hash, Record: record}, nil
}

// hashBefore is the hash of the row before one, as it is stored.
func hashBefore(tx *bolt.Tx, seq uint64, base auditEnd) audit.Hash {
	if seq == base.seq+1 {
		return base.hash
	}
	hash, _, err := splitAudit(nil, tx.Bucket(bucketAudit).Get(seqKey(seq-1)))
	if err != nil {
		return audit.Hash{} // it is missing, which whoever verifies will say
	}
	return hash
}

// AuditEnds implements approvals.AuditLog.
func (s *Store) AuditEnds() (approvals.AuditEnds, error) {
	var out approvals.AuditEnds
	err := s.view(func(tx *bolt.Tx) error {
		base, err := auditEndAt(tx, keyAuditBase)
		if err != nil {
			return err
		}
		head, err := auditEndAt(tx, keyAuditHead)
		out.Base, out.Head, out.Bytes = base.mark(), head.mark(), head.size
		return err
	})
	out.Anchor = s.head.read()
	return out, err
}

// AuditLinks implements approvals.AuditLog.
func (s *Store) AuditLinks(after uint64, n int) (rows []audit.Row, base audit.Mark, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		b, err := auditEndAt(tx, keyAuditBase)
		if err != nil {
			return err
		}
		base = b.mark()
		c := tx.Bucket(bucketAudit).Cursor()
		k, v := c.Seek(seqKey(after + 1))
		if k == nil {
			return nil
		}
		prev := hashBefore(tx, seqOf(k), b)
		for ; k != nil && len(rows) < n; k, v = c.Next() {
			row, err := linkAt(k, v, prev)
			if err != nil {
				return err
			}
			prev = row.Hash
			row.Record = bytes.Clone(row.Record)
			rows = append(rows, row)
		}
		return nil
	})
	return rows, base, err
}

// AuditEntries implements approvals.AuditLog.
func (s *Store) AuditEntries(from uint64, n int, back bool) (entries []approvals.AuditEntry, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		base, err := auditEndAt(tx, keyAuditBase)
		if err != nil {
			return err
		}
		c, open := tx.Bucket(bucketAudit).Cursor(), tx.Bucket(bucketAuditOpen)
		k, v := c.Seek(seqKey(from))
		step := c.Next
		if back {
			step = c.Prev
			if k == nil {
				k, v = c.Last()
			} else if seqOf(k) > from {
				k, v = c.Prev()
			}
		}
		for ; k != nil && len(entries) < n; k, v = step() {
			hash, record, err := splitAudit(k, v)
			if err != nil {
				return err
			}
			row, err := decodeAudit(k, record)
			if err != nil {
				return err
			}
			e := approvals.AuditEntry{Audit: row, Hash: hash, Prev: hashBefore(tx, row.Seq, base)}
			if row.Kind == approvals.AuditUse && row.RunID != "" {
				e.Open = bytes.Equal(open.Get([]byte(row.RunID)), k)
			}
			entries = append(entries, e)
		}
		return nil
	})
	return entries, err
}

// AuditChanged implements approvals.AuditLog.
func (s *Store) AuditChanged() <-chan struct{} {
	s.head.mu.Lock()
	defer s.head.mu.Unlock()
	return s.head.changed
}
