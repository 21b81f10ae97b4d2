package store

import (
	"log/slog"
	"testing"

	"github.com/hanzoai/hanzod/store/internal/testhook"
)

// BenchmarkAuditOpen is what verifying the end of the log adds to a start, with a log that is much longer
// than what is verified.
func BenchmarkAuditOpen(b *testing.B) {
	dir := b.TempDir()
	s := open(b, dir)
	fillAudit(b, s, 20_000)
	mark := s.head.read()
	for b.Loop() {
		if r, _, err := s.verifyEnd(checkedRows, mark); err != nil || !r.OK() {
			b.Fatal(r, err)
		}
	}
}

// BenchmarkAuditAppend is a lone row without the sync of the disk.
func BenchmarkAuditAppend(b *testing.B) {
	l, err := linkOf(row("refusal", "a"))
	if err != nil {
		b.Fatal(err)
	}
	s, err := Open(testhook.WithoutSync(b.Context()), b.TempDir(), Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if err := s.w.do(b.Context(), func(t *txn) error { return t.appendAudit(l) }); err != nil {
			b.Fatal(err)
		}
	}
}
