//go:build unix

package robustness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	backupWriters = 4
	// backupsQuick is how many backups are made under load in the short form, restoresQuick how many
	// restores are killed.
	backupsQuick, restoresQuick = 3, 8
	// maxBackups and maxRestores bound the long form: each takes a second or so.
	maxBackups, maxRestores = 60, 300
	// backupLoad is how long the writers are at it before each backup.
	backupLoad = 150 * time.Millisecond
	// fillRows and fillSize make a database whose copying takes a while: 8 MiB.
	fillRows, fillSize = 512, 16 << 10
)

// ackedBook is what the daemon acknowledged, in order.
type ackedBook struct {
	mu  sync.Mutex
	ids []string
}

func (b *ackedBook) add(id string) {
	b.mu.Lock()
	b.ids = append(b.ids, id)
	b.mu.Unlock()
}

func (b *ackedBook) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clip(b.ids)
}

// denials asks and denies until ctx ends. What is in the book is on disk: it was denied, and that was
// acknowledged.
func denials(ctx context.Context, t *testing.T, d *proc.Daemon, book *ackedBook, worker int) {
	c := d.Client(t)
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("w%d-%d-%d", worker, n, rand.Uint64())
		if _, err := c.Approvals.RequestApproval(ctx, &approvalsv1.RequestApprovalRequest{Id: id, Command: "x"}); err != nil {
			if ctx.Err() == nil {
				t.Errorf("ask: %v", err)
			}
			return
		}
		if _, err := c.Approvals.ResolveApproval(ctx, &approvalsv1.ResolveApprovalRequest{Id: id, Decision: approvalsv1.Decision_DECISION_DENY}); err != nil {
			if ctx.Err() == nil {
				t.Errorf("deny: %v", err)
			}
			return
		}
		book.add(id)
	}
}

// TestBackupUnderLoad: a backup of a daemon that is written to holds every write that was acknowledged before it
// began, and nothing that does not hang together; kill -9 of the program that makes it leaves no file that looks
// like one, and the daemon none the worse.
func TestBackupUnderLoad(t *testing.T) {
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	bin := proc.Build(t, "hanzod", proc.Tested)
	ctx, cancel := context.WithCancel(context.Background())
	var writers sync.WaitGroup
	var book ackedBook
	for w := range backupWriters {
		writers.Go(func() { denials(ctx, t, d, &book, w) })
	}
	defer writers.Wait()
	defer cancel()
	out := proc.Dir(t)
	for n := range min(maxBackups, rounds(t, backupsQuick)) {
		time.Sleep(backupLoad)
		file := filepath.Join(out, fmt.Sprintf("%d.tar.gz", n))
		before := book.all()
		made := proc.Run(t, d.State, bin, nil, "backup", "--state-dir", d.State, file).Wait(t, proc.Patience)
		if made.Code != 0 {
			t.Fatalf("backup: %s", made.Stderr.String())
		}
		after := len(book.all())
		into := proc.Dir(t)
		got := proc.Run(t, into, bin, nil, "restore", "--yes", "--state-dir", into, file).Wait(t, proc.Patience)
		if got.Code != 0 {
			t.Fatalf("restore: %s", got.Stderr.String())
		}
		missing := missingDenials(t, into, before)
		_ = os.RemoveAll(into) // many of them would fill the disk
		t.Logf("backup %d: %d acknowledged before it, %d while it was made; %d are missing", n, len(before), after-len(before), len(missing))
		if len(missing) > 0 {
			t.Errorf("acknowledged before the backup and not in it: %v", missing[:min(5, len(missing))])
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}

		// The same, ended in the middle.
		k := proc.Run(t, d.State, bin, nil, "backup", "--state-dir", d.State, file)
		time.Sleep(time.Duration(rand.Int64N(int64(made.Took))))
		k.End(syscall.SIGKILL)
		if f, err := os.Open(file); err == nil {
			if _, err := backup.Read(ctx, f, nil, nil, nil); err != nil {
				t.Errorf("kill -9 left a file that is no backup: %v", err)
			}
			_ = f.Close()
			_ = os.Remove(file)
		}
	}
	cancel()
	writers.Wait()
	if left, _ := filepath.Glob(filepath.Join(d.State, ".backup-*")); len(left) > 0 {
		t.Errorf("copies of the database are left: %v", left)
	}
}

// missingDenials are those of the ids that a state does not hold as denied. It checks the state too.
func missingDenials(t *testing.T, dir string, ids []string) []string {
	t.Helper()
	st, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	var missing []string
	for _, id := range ids {
		if a, err := st.Approval(id); err != nil || a.State != approvals.Denied {
			missing = append(missing, id)
		}
	}
	return missing
}

// TestDaemonKilledInBackup: a daemon that is killed while it copies its database starts again, and removes
// nothing but the copy.
func TestDaemonKilledInBackup(t *testing.T) {
	d := proc.New(t, proc.Options{Form: proc.Tested})
	fill(t, d.State, "one")
	bin := proc.Build(t, "hanzod", proc.Tested)
	file := filepath.Join(proc.Dir(t), "x.tar.gz")
	for range min(maxRestores, rounds(t, 3)) {
		d.Start()
		b := proc.Run(t, d.State, bin, nil, "backup", "--state-dir", d.State, file)
		time.Sleep(time.Duration(rand.Int64N(int64(100 * time.Millisecond))))
		d.Kill()
		if b.Wait(t, proc.Patience); b.Code == 0 {
			_ = os.Remove(file) // it was quicker
		}
		if _, err := os.Stat(file); err == nil {
			t.Error("there is a file although the backup failed")
		}
	}
	d.Start()
	if b := proc.Run(t, d.State, bin, nil, "backup", "--force", "--state-dir", d.State, file).Wait(t, proc.Patience); b.Code != 0 {
		t.Fatal(b.Stderr.String())
	}
	if left, _ := filepath.Glob(filepath.Join(d.State, ".backup-*")); len(left) > 0 {
		t.Errorf("copies of the database are left: %v", left)
	}
	d.Stop()
	if got := filledWith(t, d.State); got != "one" {
		t.Errorf("the state is %q", got)
	}
}

// fill makes a database of some size that says a word.
func fill(t *testing.T, dir, word string) {
	t.Helper()
	st, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rows := make([]store.AuditRow, fillRows)
	for i := range rows {
		rows[i] = store.AuditRow{At: time.Now(), Kind: "test", Reason: word, Detail: strings.Repeat("x", fillSize)}
	}
	if err := errors.Join(st.AppendAudit(context.Background(), rows...), st.Close()); err != nil {
		t.Fatal(err)
	}
}

func filledWith(t *testing.T, dir string) string {
	t.Helper()
	st, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	rows, err := st.AuditEntries(fillRows, 1, false)
	if err != nil || len(rows) != 1 {
		t.Fatalf("%v %v", rows, err)
	}
	return rows[0].Audit.Reason
}

// TestRestoreKilled: kill -9 at any moment of a restore leaves the old state, or the new one once the daemon has
// started; the old one is kept.
func TestRestoreKilled(t *testing.T) {
	bin := proc.Build(t, "hanzod", proc.Tested)
	src := proc.Dir(t)
	fill(t, src, "new")
	config := func(dir, word string) {
		text := fmt.Sprintf(`{gateway: {auth: {mode: "token", token: "%s"}}} // %s`, proc.Token, word)
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config(src, "new")
	archive := filepath.Join(proc.Dir(t), "new.tar.gz")
	if b := proc.Run(t, src, bin, nil, "backup", "--state-dir", src, archive).Wait(t, proc.Patience); b.Code != 0 {
		t.Fatal(b.Stderr.String())
	}
	old := proc.Dir(t)
	fill(t, old, "old")
	config(old, "old")
	oldDB, err := os.ReadFile(filepath.Join(old, store.FileName))
	if err != nil {
		t.Fatal(err)
	}
	var whole time.Duration
	seen := map[string]int{}
	for n := range min(maxRestores, rounds(t, restoresQuick)) {
		dir := proc.Dir(t)
		if err := os.WriteFile(filepath.Join(dir, store.FileName), oldDB, 0o600); err != nil {
			t.Fatal(err)
		}
		config(dir, "old")
		r := proc.Run(t, dir, bin, nil, "restore", "--yes", "--state-dir", dir, archive)
		if n == 0 {
			if r.Wait(t, proc.Patience); r.Code != 0 {
				t.Fatal(r.Stderr.String())
			}
			whole = r.Took
		} else {
			// Most of it is reading and checking; the end is where things move.
			at := rand.Int64N(int64(whole))
			if n%2 == 0 {
				at = int64(whole)*8/10 + rand.Int64N(int64(whole)/4)
			}
			time.Sleep(time.Duration(at))
			r.End(syscall.SIGKILL)
		}
		pending := backup.Pending(dir)
		if pending {
			seen["pending"]++
			if _, err := backup.Finish(dir); err != nil {
				t.Fatal(err)
			}
		}
		got := filledWith(t, dir)
		seen[got]++
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil || !bytes.HasSuffix(text, []byte("// "+got)) {
			t.Errorf("the state is %q, its configuration %q (%v)", got, text, err)
		}
		if pending && got != "new" {
			t.Errorf("the state is %q after it was finished", got)
		}
		aside, _ := filepath.Glob(filepath.Join(dir, "replaced-*"))
		if got == "new" && (len(aside) != 1 || filledWith(t, aside[0]) != "old") {
			t.Errorf("the old state is not where it was put: %v", aside)
		}
		_ = os.RemoveAll(dir) // many of them would fill the disk
	}
	t.Logf("a whole restore takes %v; ended with %v", whole, seen)
}
