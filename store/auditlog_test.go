package store

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store/internal/testhook"
)

// verify is what an admin gets who verifies the log.
func verify(t testing.TB, s *Store, in approvals.VerifyAuditIn) audit.Report {
	t.Helper()
	dir := t.TempDir()
	svc, err := approvals.New(approvals.Config{
		Store: s, Bus: events.New(time.Now), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		File: policy.Open(filepath.Join(dir, "f.json"), policy.Options{HomeDir: dir}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	r, err := svc.VerifyAudit(t.Context(), identity.Internal(), in, func(done, all uint64) error {
		if done < last || done > all {
			t.Errorf("progress: %d of %d after %d", done, all, last)
		}
		last = done
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantOK(t testing.TB, s *Store, marks ...audit.Mark) audit.Report {
	t.Helper()
	r := verify(t, s, approvals.VerifyAuditIn{Marks: marks})
	if !r.OK() {
		t.Fatalf("%+v", r.Faults)
	}
	return r
}

// TestVerify: a log that nobody touched holds, before and after pruning, from the beginning and from a
// row in it.
func TestVerify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openBounded(t, dir)
	if r := wantOK(t, s); r.Rows != 0 || r.Head != (audit.Mark{}) || r.Pruned != nil {
		t.Errorf("an empty log: %+v", r)
	}
	fillAudit(t, s, 1000)
	ends, err := s.AuditEnds()
	if err != nil || ends.Anchor == nil || *ends.Anchor != ends.Head || ends.Head.Seq != 1000 || ends.Base != (audit.Mark{}) {
		t.Fatalf("%+v, %v", ends, err)
	}
	early := ends.Head
	if r := wantOK(t, s, early); r.Rows != 1000 || r.First != 1 || r.Last != 1000 || r.Head != early || len(r.Notes) != 0 {
		t.Errorf("%+v", r)
	}
	fillAudit(t, s, maxAudit)
	r := wantOK(t, s, early)
	if r.Pruned == nil || r.Pruned.Seq != r.Base.Seq || r.First != r.Base.Seq+1 || r.Checkpoints == 0 || len(r.Notes) != 1 {
		t.Errorf("%+v", r)
	}
	if r := verify(t, s, approvals.VerifyAuditIn{After: r.Last - 10}); !r.OK() || r.Rows != 10 || len(r.Notes) != 1 {
		t.Errorf("%+v", r)
	}
	wrong := r.Head
	wrong.Hash[3] ^= 1
	if r := verify(t, s, approvals.VerifyAuditIn{Marks: []audit.Mark{wrong}}); r.OK() || r.Faults[0].Kind != audit.Rewritten {
		t.Errorf("%+v", r)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantOK(t, openBounded(t, dir), r.Head)
}

// TestPruneByAge, by bytes: a checkpoint says which bound a row was past.
func TestAuditLimits(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), t.TempDir(), Options{Audit: AuditLimits{KeepFor: time.Hour, MaxBytes: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fillAudit(t, s, 700)
	if n, err := s.PruneAudit(t.Context(), start.Add(time.Hour)); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	young := row("policy", "")
	young.At = start.Add(time.Minute)
	if err := s.AppendAudit(t.Context(), young); err != nil {
		t.Fatal(err)
	}
	if n, err := s.PruneAudit(t.Context(), start.Add(time.Hour+time.Second)); n != 700 || err != nil {
		t.Fatal(n, err)
	}
	r := wantOK(t, s)
	// The checkpoints have the time of the row before them.
	if r.Pruned == nil || r.Pruned.Rule != "age" || r.First != 701 || r.Rows != 4 {
		t.Fatalf("%+v", r)
	}
	// What stands for the rest is not old.
	if n, err := s.PruneAudit(t.Context(), start.Add(1000*time.Hour)); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	if r := wantOK(t, s); r.Rows != 1 || r.Pruned.Count != 4 {
		t.Fatalf("%+v", r)
	}
	big := row("refusal", "")
	big.Detail = strings.Repeat("x", 50_000)
	for range 100 {
		if err := s.AppendAudit(t.Context(), big); err != nil {
			t.Fatal(err)
		}
	}
	ends, err := s.AuditEnds()
	if r := wantOK(t, s); err != nil || ends.Bytes > 1<<20 || ends.Bytes < 1<<19 || r.Pruned.Rule != "bytes" {
		t.Errorf("%d bytes, %+v, %v", ends.Bytes, r.Pruned, err)
	}
	check(t, s)
}

// TestCutText: what a caller makes long does not fill the log.
func TestCutText(t *testing.T) {
	s := open(t, t.TempDir())
	long := row("use", "")
	long.Command = strings.Repeat("é", 100_000)
	long.Argv = []string{"sh", "-c", strings.Repeat("y", 200_000), "more", "and more"}
	if err := s.AppendAudit(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Audit(0, 1)
	if err != nil || len(rows) != 1 {
		t.Fatal(err)
	}
	got := rows[0]
	if len(got.Command) > maxAuditText+40 || !strings.HasSuffix(got.Command, "é... (cut, 200000 bytes)") {
		t.Errorf("%d bytes, %q", len(got.Command), got.Command[len(got.Command)-40:])
	}
	if len(got.Argv) != 4 || !strings.HasSuffix(got.Argv[2], "(cut, 200000 bytes)") || got.Argv[3] != "... (cut, 2 more words)" {
		t.Errorf("%d words, %q", len(got.Argv), got.Argv[len(got.Argv)-1])
	}
}

// tampers are what somebody does who can write to the file and does not make the chain anew. Each is
// given the first and the last row.
var tampers = map[string]func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error{
	"change": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		key := seqKey(first + r.Uint64N(last-first+1))
		v := bytes.Clone(b.Get(key))
		v[r.IntN(len(v))] ^= byte(1 + r.IntN(255))
		return b.Put(key, v)
	},
	"remove": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		at := first + r.Uint64N(last-first+1)
		for i := range min(1+r.Uint64N(5), last-at+1) {
			if err := b.Delete(seqKey(at + i)); err != nil {
				return err
			}
		}
		return nil
	},
	"swap": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		i := first + r.Uint64N(last-first)
		j := i + 1 + r.Uint64N(last-i)
		x, y := bytes.Clone(b.Get(seqKey(i))), bytes.Clone(b.Get(seqKey(j)))
		if err := b.Put(seqKey(i), y); err != nil {
			return err
		}
		return b.Put(seqKey(j), x)
	},
	"insert": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		at := first + r.Uint64N(last-first+1)
		forged, err := encodeAudit(row("use", fmt.Sprint(r.Uint64())))
		if err != nil {
			return err
		}
		var prev audit.Hash
		if at > 1 && at > first {
			prev = audit.Hash(b.Get(seqKey(at - 1))[:32])
		}
		for i := last; i >= at; i-- {
			if err := b.Put(seqKey(i+1), bytes.Clone(b.Get(seqKey(i)))); err != nil {
				return err
			}
		}
		// Its own hash is right.
		h := audit.Link(at, prev, forged)
		return b.Put(seqKey(at), append(h[:], forged...))
	},
	"truncate": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		for i := range min(1+r.Uint64N(5), last-first+1) {
			if err := b.Delete(seqKey(last - i)); err != nil {
				return err
			}
		}
		return nil
	},
	"shorten": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		return b.Put(seqKey(first+r.Uint64N(last-first+1)), []byte("short"))
	},
	"odd key": func(r *rand.Rand, b *bolt.Bucket, first, last uint64) error {
		return b.Put(append(seqKey(first+r.Uint64N(last-first)), 'x'), []byte("x"))
	},
}

// TestTampering changes rows in the file itself, in every way and in many places, with and without a
// pruned beginning; verify finds each, and finds it again after the daemon has written on.
func TestTampering(t *testing.T) {
	t.Parallel()
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for name, tamper := range tampers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for round := range rounds {
				r := rand.New(rand.NewPCG(11, uint64(round)))
				dir := t.TempDir()
				s, err := Open(testhook.WithoutSync(t.Context()), dir, Options{Audit: AuditLimits{MaxRows: 400}})
				if err != nil {
					t.Fatal(err)
				}
				fillAudit(t, s, 20+r.IntN(1500))
				before := wantOK(t, s)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				edit(t, dir, func(tx *bolt.Tx) error {
					return tamper(r, tx.Bucket(bucketAudit), before.First, before.Last)
				})
				s = open(t, dir)
				for range 2 {
					if r := verify(t, s, approvals.VerifyAuditIn{}); r.OK() {
						t.Fatalf("round %d: not found; the log had rows %d to %d", round, before.First, before.Last)
					}
					if err := s.AppendAudit(t.Context(), row("policy", "")); err != nil {
						t.Fatal(err)
					}
				}
				s.Close()
			}
		})
	}
}

// TestPutBack: a database that is put back to an older copy hangs together, and is found by the head
// file; with that put back as well, by a mark that somebody kept.
func TestPutBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	fillAudit(t, s, 20)
	s.Close()
	old := map[string][]byte{}
	for _, name := range []string{fileName, headName} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		old[name] = b
	}
	s = open(t, dir)
	fillAudit(t, s, 5)
	kept := wantOK(t, s).Head
	s.Close()
	put := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), old[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(fileName)
	put(headName)
	s = open(t, dir)
	wantOK(t, s)
	if r := verify(t, s, approvals.VerifyAuditIn{Marks: []audit.Mark{kept}}); r.OK() || r.Faults[0].Kind != audit.Truncated {
		t.Errorf("%+v", r)
	}
	fillAudit(t, s, 7)
	if r := verify(t, s, approvals.VerifyAuditIn{Marks: []audit.Mark{kept}}); !r.OK() {
		// The rows are the same ones: fillAudit writes no other.
		t.Errorf("%+v", r)
	}
	s.Close()
	put(fileName)
	s = open(t, dir)
	rows, err := s.Audit(20, 9)
	if err != nil || len(rows) != 1 || rows[0].Kind != approvals.AuditAnomaly || !strings.Contains(rows[0].Detail, "the log ends at row 20; row 27 was there") {
		t.Fatalf("%+v, %v", rows, err)
	}
	if r := verify(t, s, approvals.VerifyAuditIn{}); r.OK() || r.Faults[0].Kind != audit.Anomaly {
		t.Errorf("%+v", r)
	}
	// Who knows why begins behind it.
	if r := verify(t, s, approvals.VerifyAuditIn{After: 21}); !r.OK() {
		t.Errorf("%+v", r)
	}
	s.Close()
	s = open(t, dir)
	if rows, err := s.Audit(0, 99); err != nil || len(rows) != 21 {
		t.Errorf("the next start noted it again: %d rows, %v", len(rows), err)
	}
}
