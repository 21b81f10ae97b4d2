package store

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/tunnel/links"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// The test binary started again does one job in a directory; see child.
const (
	childDir = "HANZOD_STORE_TEST_DIR"
	childJob = "HANZOD_STORE_TEST_JOB"
)

// child runs in the second process and returns its exit code.
func child(dir, job string) int {
	s, err := Open(context.Background(), dir, Options{})
	if err != nil {
		fmt.Println("open:", err)
		return 1
	}
	switch job {
	case "hold": // keep the store open until the input ends
		fmt.Println("open")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		return 0 // without Close: the kernel frees the lock
	case "fill": // write until the disk is full
		return fillUp(s)
	}
	return 2
}

// start2 starts the second process.
func start2(tb testing.TB, dir, job string) *exec.Cmd {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childDir+"="+dir, childJob+"="+job)
	return cmd
}

func TestFilesAndModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := open(t, dir)
	want := map[string]fs.FileMode{".": 0o700, fileName: 0o600, lockName: 0o600, headName: 0o600}
	for name, mode := range want {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("files: %v", entries)
	}
	if s.Dir() != dir {
		t.Errorf("dir %q", s.Dir())
	}
	s.Close()
	if runtime.GOOS != "windows" {
		if err := os.Chmod(filepath.Join(dir, fileName), 0o644); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
		if info, _ := os.Stat(filepath.Join(dir, fileName)); info.Mode().Perm() != 0o600 {
			t.Errorf("a database that others could read stays so: %o", info.Mode().Perm())
		}
	}
}

// wantLocked demands that the directory is locked by a process, that one hears of it in time, and
// what to do.
func wantLocked(t *testing.T, dir string, pid int) {
	t.Helper()
	began := time.Now()
	_, err := Open(t.Context(), dir, Options{})
	if took := time.Since(began); took > time.Second {
		t.Errorf("the refusal took %v", took)
	}
	wantClass(t, err, errs.Conflict)
	wantIs(t, err, ErrLocked)
	e, _ := errs.As(err)
	if e.Fields["pid"] != pid || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", pid)) ||
		!strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "stop it") {
		t.Errorf("%v, fields %v; want pid %d", err, e.Fields, pid)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	wantLocked(t, dir, os.Getpid())
	// What the file says decides nothing.
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte("pid -1 started never, \xff"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), dir, Options{})
	wantIs(t, err, ErrLocked)
	if !strings.Contains(err.Error(), "another hanzod") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("pid %d started 2026-01-01T00:00:00Z", os.Getpid())
	if err := os.WriteFile(filepath.Join(dir, lockName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestLockOfAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	cmd := start2(t, dir, "hold")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatal(line, err)
	}
	wantLocked(t, dir, cmd.Process.Pid)
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestParseHolder(t *testing.T) {
	good := "pid 42 started 2026-11-02T08:30:00Z"
	if h := parseHolder(good + strings.Repeat(" ", 50) + "\n"); h.pid != 42 || h.started != "2026-11-02T08:30:00Z" {
		t.Errorf("%+v", h)
	}
	for _, text := range []string{"", "pid", "pid 0 started 2026-11-02T08:30:00Z", "pid x started 2026-11-02T08:30:00Z",
		"pid 42 started today", good + " more", "\x00\x00\x00"} {
		if h := parseHolder(text); h != (holder{}) {
			t.Errorf("%q: %+v", text, h)
		}
	}
}

// wantRefused demands that a directory is refused and its database left as it is.
func wantRefused(t *testing.T, dir string, want *errs.Error, text string) {
	t.Helper()
	path := filepath.Join(dir, fileName)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), dir, Options{})
	wantIs(t, err, want)
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v; want %s and %q", err, path, text)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed (%v)", err)
	}
	// The refusal frees the lock.
	_, err = Open(t.Context(), dir, Options{})
	wantIs(t, err, want)
}

func TestForeignFiles(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty":  {},
		"text":   []byte("SQLite format 3\x00"),
		"noise":  bytes.Repeat([]byte("noise"), 9999),
		"zeroes": make([]byte, 65536),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, fileName), content, 0o600); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, dir, ErrForeign, "move it away")
		})
	}
	t.Run("another program's database", func(t *testing.T) {
		dir := t.TempDir()
		edit(t, dir, func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("theirs"))
			return err
		})
		wantRefused(t, dir, ErrForeign, "something else")
	})
	t.Run("no schema number", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir).Close()
		edit(t, dir, func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keySchema) })
		wantRefused(t, dir, ErrForeign, "something else")
	})
	t.Run("missing bucket", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir).Close()
		edit(t, dir, func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketAudit) })
		wantRefused(t, dir, ErrCorrupt, "bucket audit is missing")
	})
}

// copyOf puts a database from testdata into a directory of its own.
func copyOf(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, fileName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestMigrateTo1 starts from a database without buckets.
func TestMigrateTo1(t *testing.T) {
	dir := copyOf(t, "schema0.db")
	s := open(t, dir)
	create(t, s, pending("a", 0))
	check(t, s)
	s.Close()
	s = open(t, dir)
	wantLive(t, s, "a")
}

// TestFailedMigration leaves the database as it was.
func TestFailedMigration(t *testing.T) {
	dir := copyOf(t, "schema0.db")
	old := migrations
	defer func() { migrations = old }()
	migrations = []func(*bolt.Tx) error{migrateTo1, func(*bolt.Tx) error { return fmt.Errorf("no such luck") }}
	_, err := Open(t.Context(), dir, Options{})
	wantIs(t, err, ErrOpen)
	if !strings.Contains(err.Error(), "migration to schema 2: no such luck") {
		t.Error(err)
	}
	migrations = old
	check(t, open(t, dir))
}

// TestSchema1 reads a database that an earlier build of schema 1 wrote. The file is never written
// again: what it holds stays readable.
func TestSchema1(t *testing.T) {
	s := open(t, copyOf(t, "schema1.db"))
	check(t, s)
	a, err := s.Approval("first")
	if diff := cmp.Diff(schema1Approval(), a); err != nil || diff != "" {
		t.Error(err, diff)
	}
	d, ok, err := s.Device("device-1")
	if diff := cmp.Diff(schema1Device(), d); !ok || err != nil || diff != "" {
		t.Error(ok, err, diff)
	}
	if name, err := s.NodeName("node-1"); name != "Kitchen" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	rows, err := s.Audit(0, 9)
	want := row("request", "first")
	want.Seq = 1
	if err != nil || len(rows) != 2 || !cmp.Equal(rows[0], want) {
		t.Errorf("%+v, %v", rows, err)
	}
}

// TestSchema2 reads a database from before there were system events.
func TestSchema2(t *testing.T) {
	s := open(t, copyOf(t, "schema2.db"))
	check(t, s)
	if name, err := s.NodeName("node-1"); name != "Kitchen" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if d, ok, err := s.Device("device-1"); !ok || err != nil || d.DisplayName != "Laptop" {
		t.Errorf("%+v, %v, %v", d, ok, err)
	}
	if err := s.QueueEvent(t.Context(), "main", system.QueuedEvent{Text: "x", At: start}, 3); err != nil {
		t.Error(err)
	}
}

// TestSchema3 reads a database from before the audit log was chained, and chains it.
func TestSchema3(t *testing.T) {
	dir := copyOf(t, "schema3.db")
	s := open(t, dir)
	check(t, s)
	want := []AuditRow{row("request", "first"), row("refusal", "first"), {
		At: start, Kind: "device.approve", Subject: "local:1", DeviceID: "d1", Role: identity.RoleOperator,
		Scopes: []identity.Scope{identity.ScopeRead}, RequestID: "r1",
	}}
	rows, err := s.Audit(0, 9)
	if err != nil || len(rows) != 4 || rows[3].Kind != approvals.AuditChained || !strings.Contains(rows[3].Detail, "rows 1 to 3 ") {
		t.Fatalf("%+v, %v", rows, err)
	}
	for i := range want {
		want[i].Seq = uint64(i) + 1
	}
	if diff := cmp.Diff(want, rows[:3]); diff != "" {
		t.Error(diff)
	}
	if err := s.AppendAudit(t.Context(), row("policy", "")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, dir, func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketAudit)
		v := bytes.Clone(b.Get(seqKey(2)))
		return b.Put(seqKey(2), bytes.Replace(v, []byte("local:1000"), []byte("local:1001"), 1))
	})
	if err := open(t, dir).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "row 2 of the audit log") {
		t.Error(err)
	}
}

// schema1Approval and schema1Device are what schema1.db holds.
func schema1Approval() approvals.Approval {
	a := pending("first", 0)
	a.EnvKeys = []string{}
	a.Binding = &approvals.Binding{Argv: []string{"uname", "-a"}, Cwd: ptr("/tmp"), EnvHash: ptr("00")}
	a.Plan = &approvals.Plan{Argv: []string{"uname", "-a"}, RawCommand: ptr("uname -a")}
	a.NodeID, a.Host, a.Ask = ptr("node-1"), ptr("node"), ptr("always")
	a.TurnSource = approvals.TurnSource{Channel: ptr("telegram"), ThreadID: json.Number("42")}
	a.Requester = approvals.Requester{DeviceID: "device-1", ConnID: "c", Principal: "local:1000", ClientID: "cli"}
	return a
}

func schema1Device() identity.Device {
	return identity.Device{
		ID: "device-1", PublicKey: "key", DisplayName: "Laptop", Platform: "linux", ClientID: "cli",
		ClientMode: "cli", Role: identity.RoleOperator, Roles: []identity.Role{identity.RoleOperator},
		Scopes: []identity.Scope{identity.ScopeRead}, ApprovedScopes: []identity.Scope{identity.ScopeRead},
		Tokens: map[identity.Role]identity.DeviceToken{identity.RoleOperator: {
			Token: "not a secret", Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeRead},
			CreatedAt: start, LastUsedAt: start.Add(time.Minute),
		}},
		CreatedAt: start, ApprovedAt: start,
	}
}

// TestCrashWhileMaking: what a crash left of a new database is not taken for one.
func TestCrashWhileMaking(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, newName), []byte("half a datab"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, open(t, dir))
	if _, err := os.Stat(filepath.Join(dir, newName)); err == nil {
		t.Error("the old attempt is still there")
	}
}

// sample makes a closed store with some hundred records and returns its directory.
func sample(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	s := open(tb, dir)
	for i := range 200 {
		create(tb, s, pending(fmt.Sprintf("%08x", i*2654435761), i))
		if _, err := updateDevice(tb.Context(), s, fmt.Sprintf("d%d", i), func(d *identity.Device, _ bool) error {
			d.DisplayName = strings.Repeat("x", i)
			return nil
		}); err != nil {
			tb.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestTruncated(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join(sample(t), fileName))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for _, size := range []int{1, page - 1, page, 2 * page, 2*page + 7, 4 * page, 9*page + 1, len(whole) / 2} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), dir, Options{})
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, fileName)) {
			t.Errorf("cut to %d bytes: %v", size, err)
		}
	}
}

// TestDamagedPages flips bytes all over the file. Opening may succeed, as values are not summed,
// but it never ends the process, and a refused file is left as it is.
func TestDamagedPages(t *testing.T) {
	whole, err := os.ReadFile(filepath.Join(sample(t), fileName))
	if err != nil {
		t.Fatal(err)
	}
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	refused := 0
	for i := range rounds {
		dir := t.TempDir()
		path := filepath.Join(dir, fileName)
		r := rand.New(rand.NewPCG(7, uint64(i)))
		b := bytes.Clone(whole)
		for range 1 + r.IntN(4) {
			// Most hits go to the heads of pages, where they hurt.
			at := r.IntN(len(b)/4096)*4096 + r.IntN(64)
			if r.IntN(4) == 0 {
				at = r.IntN(len(b))
			}
			b[at] ^= byte(1 + r.IntN(255))
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), dir, Options{})
		if err == nil {
			if err := s.Close(); err != nil {
				t.Errorf("round %d: closing: %v", i, err)
			}
			continue
		}
		refused++
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrNewer) {
			t.Errorf("round %d: %v", i, err)
		}
		if e, ok := errs.As(err); !ok || e.Fields["path"] != path {
			t.Errorf("round %d: %v", i, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, b) {
			t.Errorf("round %d: a refused file was changed", i)
		}
	}
	if refused < rounds/10 {
		t.Errorf("only %d of %d damaged files were refused", refused, rounds)
	}
	t.Logf("%d of %d damaged files refused", refused, rounds)
}

// TestSchema4 reads a database from before there were sessions, which the last program of schema 4 wrote, and
// keeps sessions in it.
func TestSchema4(t *testing.T) {
	dir := copyOf(t, "schema4.db")
	s := open(t, dir)
	check(t, s)
	runs, err := s.Runs()
	if err != nil || len(runs) != 1 {
		t.Fatalf("%+v, %v", runs, err)
	}
	r, err := s.Run(runs[0].ID)
	if err != nil || r.Result == nil || r.Result.Stdout != "hello\n" || !r.State.Ended() {
		t.Errorf("%+v, %v", r, err)
	}
	if name, err := s.NodeName(r.NodeID); name != "Kitchen" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	grants, err := s.Grants()
	if err != nil || len(grants) != 1 || grants[0].Uses != 1 {
		t.Errorf("%+v, %v", grants, err)
	}
	rows, err := s.Audit(0, 9)
	if err != nil || len(rows) != 3 || rows[2].Kind != "result" {
		t.Errorf("%+v, %v", rows, err)
	}
	ref := sessions.Ref{AgentID: "main", Key: "agent:main:main"}
	if _, err := s.UpdateSession(t.Context(), ref, func(e *sessions.Entry, _ bool) (sessions.Change, error) {
		e.SessionID = "first"
		return sessions.Change{}, nil
	}); err != nil {
		t.Error(err)
	}
	// The program before this one opens it still.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	exam, err := Examine(t.Context(), dir)
	if err != nil || len(exam.Faults) > 0 || exam.Schema != 7 || exam.Readable != 4 {
		t.Errorf("%+v, %v", exam, err)
	}
}

// TestSchema5 reads a database from before there were links, which the last program of schema 5 wrote, and
// keeps link keys in it.
func TestSchema5(t *testing.T) {
	dir := copyOf(t, "schema5.db")
	s := open(t, dir)
	check(t, s)
	if d, ok, err := s.Device("d1"); !ok || err != nil || d.Tokens[identity.RoleNode].Token != "secret-d1" {
		t.Errorf("%+v, %v, %v", d, ok, err)
	}
	if name, err := s.NodeName("n1"); name != "Garage" || err != nil {
		t.Errorf("%q, %v", name, err)
	}
	if rows, err := s.Audit(0, 9); err != nil || len(rows) != 1 || rows[0].Kind != "device.invite" {
		t.Errorf("%+v, %v", rows, err)
	}
	k := identity.LinkKey{ID: "k1", Hash: "00", Name: "cloud", Tenant: "acme"}
	if err := s.ChangeDevices(t.Context(), func(tx identity.Tx) error { return tx.PutLinkKey(k) }); err != nil {
		t.Fatal(err)
	}
	l := links.Link{NodeID: "agent-a", Credential: "link-key:k1", Address: "192.0.2.1", Registration: []byte("{}")}
	if err := s.ChangeLinks(t.Context(), []links.Link{l, {NodeID: "agent-b"}}, []string{"agent-c"}); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeLinks(t.Context(), nil, []string{"agent-b"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if keys, err := s.LinkKeys(); err != nil || len(keys) != 1 || keys[0] != k {
		t.Errorf("%+v, %v", keys, err)
	}
	if all, err := s.Links(); err != nil || len(all) != 1 || !reflect.DeepEqual(all[0], l) {
		t.Errorf("%+v, %v", all, err)
	}
	// The program before this one opens it still.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	exam, err := Examine(t.Context(), dir)
	if err != nil || len(exam.Faults) > 0 || exam.Schema != 7 || exam.Readable != 4 {
		t.Errorf("%+v, %v", exam, err)
	}
}

// TestSchema6 reads a database from before there were technician sessions, which the last program of schema 6 wrote, and
// keeps one in it.
func TestSchema6(t *testing.T) {
	dir := copyOf(t, "schema6.db")
	s := open(t, dir)
	check(t, s)
	if keys, err := s.LinkKeys(); err != nil || len(keys) != 1 || keys[0].Name != "old key" {
		t.Errorf("%+v, %v", keys, err)
	}
	now := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	in := tech.Session{
		ID: "6f1c1c4e-5f0e-4c5e-9a0e-3f1f5b8d7a10", Owner: "device:d1", NodeID: "n1", Kinds: []message.Kind{message.File}, Status: tech.Active, OpenedAt: now, LastActivity: now,
	}
	row := tech.Audit{At: now, SessionID: in.ID, NodeID: "n1", Subject: in.Owner, Operation: "open", Outcome: "ok"}
	if err := s.OpenTechSession(t.Context(), in, row); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if got, err := s.TechSession(in.ID); err != nil || !reflect.DeepEqual(got, in) {
		t.Errorf("%+v, %v", got, err)
	}
	if rows, err := s.TechAudit(in.ID, 0, 9); err != nil || len(rows) != 1 || rows[0].Operation != "open" {
		t.Errorf("%+v, %v", rows, err)
	}
	// The program before this one opens it still.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	exam, err := Examine(t.Context(), dir)
	if err != nil || len(exam.Faults) > 0 || exam.Schema != 7 || exam.Readable != 4 {
		t.Errorf("%+v, %v", exam, err)
	}
}
