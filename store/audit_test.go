package store

import (
	"bytes"
	"fmt"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// fillAudit writes rows of the audit log, many in a transaction.
func fillAudit(t *testing.T, s *Store, n int) {
	t.Helper()
	value, err := encodeAudit(approvalRow(row("refusal", "a")))
	if err != nil {
		t.Fatal(err)
	}
	const chunk = 1000
	for n > 0 {
		now := min(n, chunk)
		n -= now
		err := s.w.do(t.Context(), func(w *txn) error {
			for range now {
				if err := w.appendAudit(value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// wantAudit demands that the log holds exactly the rows from first to last.
func wantAudit(t *testing.T, s *Store, first, last uint64) {
	t.Helper()
	err := s.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketAudit)
		from, _ := b.Cursor().First()
		to, _ := b.Cursor().Last()
		n := b.Stats().KeyN
		if !bytes.Equal(from, seqKey(first)) || !bytes.Equal(to, seqKey(last)) || uint64(n) != last-first+1 {
			return fmt.Errorf("%d rows from %x to %x; want those from %d to %d", n, from, to, first, last)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAuditBound: past maxAudit rows every append removes the oldest, whoever appends; the newest
// stay.
func TestAuditBound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	fillAudit(t, s, maxAudit)
	wantAudit(t, s, 1, maxAudit)
	if err := s.AppendAudit(t.Context(), row("policy", "")); err != nil {
		t.Fatal(err)
	}
	wantAudit(t, s, 2, maxAudit+1)
	create(t, s, pending("b", 1))
	wantAudit(t, s, 3, maxAudit+2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	fillAudit(t, s, 2500)
	wantAudit(t, s, 2503, maxAudit+2502)
	check(t, s)
	rows, err := s.Audit(maxAudit, 2)
	if err != nil || len(rows) != 2 || rows[0].Kind != "policy" || rows[1].ApprovalID != "b" {
		t.Fatalf("%+v, %v", rows, err)
	}
}

// TestAuditShrinks: a log from before there was a bound comes down to it a few rows at a time.
func TestAuditShrinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir).Close()
	const old = maxAudit + 10
	value, err := encodeAudit(approvalRow(row("refusal", "a")))
	if err != nil {
		t.Fatal(err)
	}
	edit(t, dir, func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketAudit)
		for n := uint64(1); n <= old; n++ {
			if err := b.Put(seqKey(n), value); err != nil {
				return err
			}
		}
		return b.SetSequence(old)
	})
	s := open(t, dir)
	check(t, s)
	for i, first := range []uint64{5, 9, 13, 15, 16} {
		fillAudit(t, s, 1)
		wantAudit(t, s, first, old+1+uint64(i))
	}
	check(t, s)
}
