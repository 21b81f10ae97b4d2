package store

import (
	"bytes"
	"fmt"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
)

// maxAudit is the bound that these tests work with.
const maxAudit = 5_000

// openBounded opens a store whose log has maxAudit rows at the most.
func openBounded(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir, Options{Audit: AuditLimits{MaxRows: maxAudit}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fillAudit writes rows of the audit log, many in a transaction.
func fillAudit(t testing.TB, s *Store, n int) {
	t.Helper()
	value, err := linkOf(row("refusal", "a"))
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

// TestAuditBound: past maxAudit rows the oldest go, many at once, and a checkpoint stands for them;
// the newest stay, whoever appends.
func TestAuditBound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openBounded(t, dir)
	fillAudit(t, s, maxAudit)
	wantAudit(t, s, 1, maxAudit)
	rows, err := s.Audit(pruneAudit-1, 1)
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	if err := s.AppendAudit(t.Context(), row("policy", "")); err != nil {
		t.Fatal(err)
	}
	wantAudit(t, s, pruneAudit+1, maxAudit+2)
	create(t, s, pending("b", 1))
	wantAudit(t, s, pruneAudit+1, maxAudit+3)
	check(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openBounded(t, dir)
	rows, err = s.Audit(maxAudit, 9)
	if err != nil || len(rows) != 3 || rows[0].Kind != "policy" || rows[2].ApprovalID != "b" {
		t.Fatalf("%+v, %v", rows, err)
	}
	c := rows[1].Checkpoint
	if rows[1].Kind != approvals.AuditCheckpoint || c == nil || c.Seq != pruneAudit || c.Count != pruneAudit ||
		len(c.Hash) != 64 || c.Rule != "rows" || !c.From.Equal(start) || !c.To.Equal(start) {
		t.Fatalf("%+v", c)
	}
	fillAudit(t, s, 2500)
	check(t, s)
}

// TestAuditShrinks: a log from before there was a bound or a chain is chained, and comes down to the
// bound some rows at a time.
func TestAuditShrinks(t *testing.T) {
	t.Parallel()
	dir := copyOf(t, "schema3.db")
	const old = maxAudit + 1000
	value, err := encodeAudit(row("refusal", "a"))
	if err != nil {
		t.Fatal(err)
	}
	edit(t, dir, func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketAudit)
		for n := uint64(4); n <= old; n++ {
			if err := b.Put(seqKey(n), value); err != nil {
				return err
			}
		}
		return b.SetSequence(old)
	})
	s := openBounded(t, dir)
	check(t, s)
	// Each append but the last leaves a checkpoint as well.
	for i, first := range []uint64{pruneAudit + 1, 2*pruneAudit + 1, 3*pruneAudit + 1, 4*pruneAudit + 1, 4*pruneAudit + 1} {
		fillAudit(t, s, 1)
		wantAudit(t, s, first, old+1+min(2*uint64(i+1), 9))
	}
	check(t, s)
}
