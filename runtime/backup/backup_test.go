package backup

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/runs"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

var now = time.Now().Truncate(time.Second)

func clock() time.Time { return now }

// makeState makes a state directory with a little of everything, and returns it.
func makeState(t testing.TB, mark string) string {
	t.Helper()
	dir := t.TempDir()
	st := storetest.OpenDir(t, dir)
	ctx := context.Background()
	row := approvals.Audit{At: now, Kind: "test", Detail: mark}
	if err := st.AppendAudit(ctx, row, row); err != nil {
		t.Fatal(err)
	}
	talk(t, st, "one", mark)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "config.json", `{"$include": "./parts/a.json"} // `+mark)
	write(t, dir, "parts/a.json", `{} // `+mark)
	write(t, dir, "gateway/tls/gateway-key.pem", "key "+mark)
	write(t, dir, "notes.txt", "of a person "+mark)
	return dir
}

// talk puts a line into the transcript of a session.
func talk(t testing.TB, st *store.Store, id, text string) {
	t.Helper()
	ctx := context.Background()
	_, err := st.UpdateSession(ctx, sessions.Ref{AgentID: "main", Key: "agent:main:" + id}, func(e *sessions.Entry, _ bool) (sessions.Change, error) {
		e.SessionID, e.Label = id, text
		return sessions.Change{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Transcripts().Append(ctx, sessions.File{AgentID: "main", Name: id + ".jsonl"}, fmt.Appendf(nil, "%q", text)); err != nil {
		t.Fatal(err)
	}
}

// said is what the sessions of a state hold: the lines of each, after its label.
func said(t testing.TB, dir string) map[string]string {
	t.Helper()
	st := storetest.OpenDir(t, dir)
	defer st.Close()
	out := map[string]string{}
	err := st.Sessions(func(r sessions.Ref, e sessions.Entry) {
		text, err := os.ReadFile(filepath.Join(dir, "agents", "main", "sessions", e.SessionID+".jsonl"))
		if err != nil {
			t.Error(err)
		}
		out[e.SessionID] = e.Label + " " + strings.ReplaceAll(string(text), "\n", "")
	})
	if err != nil {
		t.Error(err)
	}
	return out
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func sourceOf(dir string) Source {
	return Source{
		StateDir: dir, Config: filepath.Join(dir, "config.json"), Includes: []string{filepath.Join(dir, "parts", "a.json")},
		Hanzod: "1.2.3", Now: clock,
		Snapshot: func(ctx context.Context, w io.Writer, room func(int64) error) (store.Snapshot, error) {
			return store.SnapshotDir(ctx, dir, w, room)
		},
	}
}

func archiveOf(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(context.Background(), &b, sourceOf(dir), nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func restoreInto(dir string, archive []byte) (RestoreOut, error) {
	return Restore(context.Background(), RestoreIn{Archive: bytes.NewReader(archive), StateDir: dir, Now: clock})
}

// markOf is what the newest test row of a state says, and checks the whole of it.
func markOf(t testing.TB, dir string) string {
	t.Helper()
	st, err := store.Open(context.Background(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if err := st.Check(context.Background()); err != nil {
		t.Fatal(err)
	}
	rows, err := st.AuditEntries(1, 100, false)
	if err != nil {
		t.Fatal(err)
	}
	mark := ""
	for _, r := range rows {
		if r.Audit.Kind == "test" {
			mark = r.Audit.Detail
		}
	}
	return mark
}

func TestRoundTrip(t *testing.T) {
	dir := makeState(t, "one")
	var told int64
	var b bytes.Buffer
	m, err := Write(context.Background(), &b, sourceOf(dir), func(done, all int64) {
		if done > all || done < told {
			t.Errorf("%d of %d after %d", done, all, told)
		}
		told = done
	})
	if err != nil {
		t.Fatal(err)
	}
	if told != m.Total() {
		t.Errorf("told of %d bytes of %d", told, m.Total())
	}
	if left, _ := filepath.Glob(filepath.Join(dir, copyPattern)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	var names []string
	for _, f := range m.Files {
		names = append(names, f.Name)
	}
	if want := []string{"state/hanzod.db", "state/config.json", "state/parts/a.json", "state/gateway/tls/gateway-key.pem", "state/agents/main/sessions/one.jsonl"}; !slices.Equal(names, want) {
		t.Errorf("files: %v", names)
	}
	other := makeState(t, "two")
	write(t, other, "policy.json", "{}")
	out, err := restoreInto(other, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got := markOf(t, other); got != "one" {
		t.Errorf("the restored state is %q", got)
	}
	for name, want := range map[string]string{
		"config.json": `{"$include": "./parts/a.json"} // one`, "parts/a.json": `{} // one`, "gateway/tls/gateway-key.pem": "key one", "notes.txt": "of a person two",
	} {
		if got, err := os.ReadFile(filepath.Join(other, filepath.FromSlash(name))); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(other, "policy.json")); !os.IsNotExist(err) {
		t.Errorf("policy.json of the old state is still in force: %v", err)
	}
	if got := said(t, other); len(got) != 1 || got["one"] != `one "one"` {
		t.Errorf("the restored sessions are %q", got)
	}
	if got := said(t, out.Aside); len(got) != 1 || got["one"] != `two "two"` {
		t.Errorf("the old sessions are %q", got)
	}
	// The old state is whole where it was moved to.
	if got := markOf(t, out.Aside); got != "two" {
		t.Errorf("the old state is %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(out.Aside, "policy.json")); err != nil || string(got) != "{}" {
		t.Errorf("policy.json aside: %q %v", got, err)
	}
	if _, err := os.Lstat(filepath.Join(other, workDir)); !os.IsNotExist(err) {
		t.Errorf("the work directory is left: %v", err)
	}
	for _, name := range []string{store.FileName, "config.json", "parts/a.json"} {
		if fi, err := os.Stat(filepath.Join(other, filepath.FromSlash(name))); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
	}
}

// A backup goes into a directory that is not there yet, and into one that a daemon uses not at all.
func TestRestoreWhere(t *testing.T) {
	archive := archiveOf(t, makeState(t, "one"))
	dir := filepath.Join(t.TempDir(), "new", "state")
	out, err := restoreInto(dir, archive)
	if err != nil || out.Aside != "" || len(out.Moved) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if got := markOf(t, dir); got != "one" {
		t.Errorf("the state is %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, asidePrefix+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	st := storetest.OpenDir(t, dir)
	if _, err := restoreInto(dir, archive); !errors.Is(err, store.ErrLocked) {
		t.Errorf("beside a daemon: %v", err)
	}
	// Looking is free.
	before := tree(t, dir)
	dry, err := Restore(context.Background(), RestoreIn{Archive: bytes.NewReader(archive), StateDir: dir, Now: clock, DryRun: true})
	if err != nil || !slices.Contains(dry.Moved, store.FileName) {
		t.Errorf("%+v %v", dry, err)
	}
	if after := tree(t, dir); !maps.Equal(before, after) {
		t.Errorf("a dry run changed %v to %v", before, after)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
}

// tree is what lies in a directory, with sums.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "hanzod.lock" {
			return err
		}
		text, err := os.ReadFile(name)
		sum := sha256.Sum256(text)
		all[name] = hex.EncodeToString(sum[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

type cutOff struct{}

// TestCutOff ends a restore before each of its changes, as kill -9 would: what is left is the old state, or
// one that Finish makes the new one, never a mixture.
func TestCutOff(t *testing.T) {
	archive := archiveOf(t, makeState(t, "new"))
	defer func() { step = func() {} }()
	for n := 1; ; n++ {
		dir := makeState(t, "old")
		write(t, dir, "exec-approvals.json", "{}")
		ended := runUntil(n, func() {
			if _, err := restoreInto(dir, archive); err != nil {
				t.Fatal(err)
			}
		})
		if !ended {
			if n < 10 {
				t.Fatalf("a restore has %d changes only", n-1)
			}
			break
		}
		pending := Pending(dir)
		// The one that finishes is cut off too, further and further.
		for k := 1; pending; k++ {
			if !runUntil(k, func() {
				if _, err := Finish(dir); err != nil {
					t.Fatal(err)
				}
			}) {
				break
			}
		}
		want := "old"
		if pending {
			want = "new"
		}
		if Pending(dir) {
			t.Fatalf("cut off at %d: still pending", n)
		}
		got := markOf(t, dir)
		if got != want && (want != "old" || got != "new") {
			t.Errorf("cut off at %d: the state is %q, want %q", n, got, want)
		}
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil || !strings.HasSuffix(string(text), "// "+got) {
			t.Errorf("cut off at %d: the state is %q and its configuration %q (%v)", n, got, text, err)
		}
		if s := said(t, dir); s["one"] != fmt.Sprintf("%s %q", got, got) {
			t.Errorf("cut off at %d: the state is %q and its sessions %q", n, got, s)
		}
		_, err = os.Stat(filepath.Join(dir, "exec-approvals.json"))
		if (err == nil) != (got == "old") {
			t.Errorf("cut off at %d: the state is %q and the exec approvals file: %v", n, got, err)
		}
		if got == "new" {
			asides, _ := filepath.Glob(filepath.Join(dir, asidePrefix+"*"))
			if len(asides) != 1 || markOf(t, asides[0]) != "old" {
				t.Errorf("cut off at %d: the old state is gone: %v", n, asides)
			}
		}
		// And it can be restored again.
		step = func() {}
		if _, err := restoreInto(dir, archive); err != nil {
			t.Errorf("cut off at %d: again: %v", n, err)
		}
	}
}

// runUntil runs f and ends it at its nth step; false when it came to its end.
func runUntil(n int, f func()) (ended bool) {
	step = func() {
		if n--; n == 0 {
			panic(cutOff{})
		}
	}
	defer func() {
		step = func() {}
		if r := recover(); r != nil {
			if _, ok := r.(cutOff); !ok {
				panic(r)
			}
			ended = true
		}
	}()
	f()
	return false
}

// entry is one of an archive that a test makes.
type entry struct {
	tar.Header
	body string
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	tw := tar.NewWriter(gz)
	for _, e := range entries {
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if e.Typeflag == tar.TypeReg && e.Size == 0 {
			e.Size = int64(len(e.body))
		}
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func plain(name, body string) entry {
	return entry{Header: tar.Header{Name: name, Mode: 0o600}, body: body}
}

func fileOf(name, body string) File {
	sum := sha256.Sum256([]byte(body))
	return File{Name: name, Size: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}
}

func manifestOf(t testing.TB, files ...File) entry {
	t.Helper()
	text, err := json.Marshal(Manifest{Format: format, Version: version, Taken: now, Files: files})
	if err != nil {
		t.Fatal(err)
	}
	return plain(manifestName, string(text))
}

// TestHostile: nothing that is no whole backup is taken, and none of it reaches beyond the directory.
func TestHostile(t *testing.T) {
	dir := makeState(t, "one")
	good := archiveOf(t, dir)
	db := plain(database, "not a database")
	dbFile := fileOf(database, db.body)
	named := func(name string) []byte {
		// The manifest alone is enough to refuse it; a tar archive cannot hold some of them.
		return pack(t, manifestOf(t, dbFile, fileOf(name, "x")), db)
	}
	cases := map[string][]byte{
		"empty":                 {},
		"no gzip":               []byte("hello"),
		"not the first":         pack(t, db, manifestOf(t, dbFile)),
		"no manifest":           pack(t, db),
		"manifest too large":    pack(t, plain(manifestName, strings.Repeat(" ", maxManifest+1))),
		"manifest of another":   pack(t, plain(manifestName, `{"format":"x","version":1}`)),
		"manifest no JSON":      pack(t, plain(manifestName, `{`)),
		"no database named":     pack(t, manifestOf(t, fileOf("state/config.json", "x")), plain("state/config.json", "x")),
		"a file that is extra":  pack(t, manifestOf(t, dbFile), db, plain("state/config.json", "x")),
		"a file that is gone":   pack(t, manifestOf(t, dbFile, fileOf("state/config.json", "x")), db),
		"another order":         pack(t, manifestOf(t, dbFile, fileOf("state/a", "x"), fileOf("state/b", "y")), db, plain("state/b", "y"), plain("state/a", "x")),
		"another content":       pack(t, manifestOf(t, dbFile), plain(database, "not a dotabase")),
		"another size":          pack(t, manifestOf(t, File{Name: database, Size: 3, SHA256: dbFile.SHA256}), db),
		"a huge size":           pack(t, manifestOf(t, File{Name: database, Size: maxDatabase + 1, SHA256: dbFile.SHA256})),
		"a huge small file":     pack(t, manifestOf(t, dbFile, File{Name: "state/x", Size: maxFile + 1, SHA256: dbFile.SHA256}), db),
		"a negative size":       pack(t, manifestOf(t, File{Name: database, Size: -1, SHA256: dbFile.SHA256})),
		"a link":                pack(t, manifestOf(t, dbFile), entry{Header: tar.Header{Name: database, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}}),
		"a hard link":           pack(t, manifestOf(t, dbFile), entry{Header: tar.Header{Name: database, Typeflag: tar.TypeLink, Linkname: "state/x"}}),
		"a device":              pack(t, manifestOf(t, dbFile), entry{Header: tar.Header{Name: database, Typeflag: tar.TypeChar}}),
		"a directory":           pack(t, manifestOf(t, dbFile), entry{Header: tar.Header{Name: database, Typeflag: tar.TypeDir}}),
		"twice":                 pack(t, manifestOf(t, dbFile, fileOf("state/x", "x"), fileOf("state/x", "x")), db, plain("state/x", "x"), plain("state/x", "x")),
		"twice in another case": pack(t, manifestOf(t, dbFile, fileOf("state/x", "x"), fileOf("state/X", "x")), db, plain("state/x", "x"), plain("state/X", "x")),
		"a file below a file":   pack(t, manifestOf(t, dbFile, fileOf("state/x", "x"), fileOf("state/x/y", "x")), db, plain("state/x", "x"), plain("state/x/y", "x")),
		"no real database":      pack(t, manifestOf(t, dbFile), db),
		"bytes after its end":   append(bytes.Clone(good), 'x'),
		"two archives":          append(bytes.Clone(good), good...),
	}
	for _, name := range []string{
		"../x", "state/../x", "state/../../x", "/etc/x", "state//x", "state/./x", "state/", "state", "x", "State/x", `state\x`, `state/a\b`, "state/a:b", "state/a\x00b", "state/a\nb",
		"state/hanzod.lock", "state/HANZOD.LOCK", "state/.restore/plan.json", "state/replaced-1/x", "state/logs/x", "state/daemon.json", "state/hanzod.sock", "state/audit.head",
		"state/x.", "state/x ", "state/a./b", "outside/../x", "outside/", "manifest.json", "state/" + strings.Repeat("x", maxName),
	} {
		cases["named "+name] = named(name)
	}
	for _, n := range []int{1, 9, 20, 100, len(good) / 2, len(good) - 1} {
		cases[fmt.Sprintf("cut off after %d", n)] = good[:n]
	}
	for name, archive := range cases {
		t.Run(name, func(t *testing.T) {
			into := filepath.Join(t.TempDir(), "state")
			write(t, into, "config.json", "mine")
			_, err := restoreInto(into, archive)
			if !errors.Is(err, ErrArchive) {
				t.Errorf("%v", err)
			}
			left := tree(t, filepath.Dir(into))
			if len(left) != 1 {
				t.Errorf("left: %v", left)
			}
		})
	}
	// Each byte matters: with any of them changed it is refused, or is the same.
	for i := 0; i < len(good); i += max(1, len(good)/200) {
		bent := bytes.Clone(good)
		bent[i] ^= 0x10
		if _, err := Read(context.Background(), bytes.NewReader(bent), nil, nil, nil); err != nil && !errors.Is(err, ErrArchive) && !errors.Is(err, ErrNewer) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
	newer := pack(t, plain(manifestName, `{"format":"hanzod-backup","version":3}`))
	if _, err := restoreInto(t.TempDir(), newer); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer one: %v", err)
	}
}

// TestLogThatIsAnother: a database whose audit log does not end where the manifest says is refused.
func TestLogThatIsAnother(t *testing.T) {
	dir := makeState(t, "one")
	src := sourceOf(dir)
	inner := src.Snapshot
	src.Snapshot = func(ctx context.Context, w io.Writer, room func(int64) error) (store.Snapshot, error) {
		s, err := inner(ctx, w, room)
		s.AuditHead = "9" + s.AuditHead
		return s, err
	}
	var b bytes.Buffer
	if _, err := Write(context.Background(), &b, src, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := restoreInto(t.TempDir(), b.Bytes()); !errors.Is(err, ErrArchive) {
		t.Errorf("%v", err)
	}
}

// TestNothingTwice: what was open in the backup lets nothing happen after a restore.
func TestNothingTwice(t *testing.T) {
	dir := makeState(t, "one")
	ctx := context.Background()
	st := storetest.OpenDir(t, dir)
	node := "node"
	for _, a := range []approvals.Approval{
		{ID: "pending", State: approvals.Pending}, {ID: "allowed", State: approvals.Allowed, Decision: approvals.AllowOnce}, {ID: "used", State: approvals.Consumed},
	} {
		a.CreatedAt, a.ExpiresAt, a.NodeID, a.Command = now, now.Add(time.Hour), &node, "x"
		if err := st.CreateApproval(ctx, a, approvals.Audit{At: now, Kind: approvals.AuditRequest, ApprovalID: a.ID}); err != nil {
			t.Fatal(err)
		}
	}
	err := st.Transact(ctx, func(tx approvals.Tx) error {
		return errors.Join(
			tx.PutGrant(approvals.Grant{ID: "bounded", MaxUses: 3, Uses: 1, CreatedAt: now}),
			tx.PutGrant(approvals.Grant{ID: "always", CreatedAt: now}),
			tx.PutGrant(approvals.Grant{ID: "gone", MaxUses: 3, CreatedAt: now, RevokedAt: now, RevokedBy: "me"}),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, state := range map[string]runs.State{"waiting": runs.Waiting, "starting": runs.Starting, "done": runs.Done} {
		if err := st.CreateRun(ctx, runs.Run{ID: id, State: state, Env: map[string]string{"A": "secret"}, CreatedAt: now}); err != nil {
			t.Fatal(err)
		}
	}
	err = st.ChangeDevices(ctx, func(tx identity.Tx) error {
		return tx.PutInvite(identity.Invite{ID: strings.Repeat("a", 64), Role: identity.RoleNode, CreatedAt: now, ExpiresAt: now.Add(time.Minute)})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := restoreInto(dir, archiveOf(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Ended{Approvals: 2, Grants: 1, Runs: 2, Invites: 1}); out.Ended != want {
		t.Errorf("ended %+v", out.Ended)
	}
	st = storetest.OpenDir(t, dir)
	for id, want := range map[string]approvals.State{"pending": approvals.Expired, "allowed": approvals.Expired, "used": approvals.Consumed} {
		if a, err := st.Approval(id); err != nil || a.State != want {
			t.Errorf("approval %s is %s (%v)", id, a.State, err)
		}
	}
	for id, want := range map[string]approvals.GrantState{"bounded": approvals.GrantRevoked, "always": approvals.GrantLive, "gone": approvals.GrantRevoked} {
		if g, err := st.Grant(id); err != nil || g.State(now) != want {
			t.Errorf("grant %s is %s (%v)", id, g.State(now), err)
		}
	}
	for id, want := range map[string]runs.State{"waiting": runs.Lost, "starting": runs.Lost, "done": runs.Done} {
		if r, err := st.Run(id); err != nil || r.State != want || want == runs.Lost && (r.Env != nil || r.Failure == nil) {
			t.Errorf("run %s: %+v (%v)", id, r, err)
		}
	}
	if i, err := st.Invites(); err != nil || len(i) != 0 {
		t.Errorf("invites: %v %v", i, err)
	}
	ends, err := st.AuditEnds()
	if err != nil {
		t.Fatal(err)
	}
	rows, err := st.AuditEntries(ends.Head.Seq, 1, false)
	if err != nil || len(rows) != 1 || rows[0].Audit.Kind != approvals.AuditRestore || !strings.Contains(rows[0].Audit.Detail, "2 approvals expired, 1 grants were revoked, 2 runs were lost, 1 invites removed") {
		t.Errorf("the last row: %+v %v", rows, err)
	}
}

// TestOutside: configuration from elsewhere is kept for people, and nothing is written there.
func TestOutside(t *testing.T) {
	dir, etc := makeState(t, "one"), t.TempDir()
	write(t, etc, "hanzod.json", "{}")
	src := sourceOf(dir)
	src.Config, src.Includes = filepath.Join(etc, "hanzod.json"), nil
	var b bytes.Buffer
	if _, err := Write(context.Background(), &b, src, nil); err != nil {
		t.Fatal(err)
	}
	write(t, etc, "hanzod.json", "mine")
	out, err := restoreInto(dir, b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(etc, "hanzod.json")); err != nil || string(got) != "mine" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(out.Outside, "0-hanzod.json")); err != nil || string(got) != "{}" {
		t.Errorf("%q %v", got, err)
	}
}

// TestLinks: a link in the state directory leads a restore nowhere.
func TestLinks(t *testing.T) {
	archive := archiveOf(t, makeState(t, "one"))
	dir, elsewhere := makeState(t, "two"), t.TempDir()
	write(t, elsewhere, "gateway-key.pem", "precious")
	if err := os.RemoveAll(filepath.Join(dir, "gateway", "tls")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, "gateway", "tls")); err != nil {
		t.Skip(err)
	}
	if _, err := restoreInto(dir, archive); err == nil {
		t.Error("a directory that leads elsewhere was followed")
	}
	if got := markOf(t, dir); got != "two" || Pending(dir) {
		t.Errorf("the state is %q, pending %v", got, Pending(dir))
	}
	if got, err := os.ReadFile(filepath.Join(elsewhere, "gateway-key.pem")); err != nil || string(got) != "precious" {
		t.Errorf("%q %v", got, err)
	}
}

func TestNoRoom(t *testing.T) {
	if err := Room(t.TempDir(), 1<<62); !errors.Is(err, ErrSpace) || !strings.Contains(err.Error(), "MiB free") {
		t.Errorf("%v", err)
	}
	if err := Room(t.TempDir(), 1); err != nil {
		t.Skip("this disk is full: ", err)
	}
}

func FuzzRead(f *testing.F) {
	dir := makeState(f, "one")
	good := archiveOf(f, dir)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(pack(f, manifestOf(f, fileOf(database, "x")), plain(database, "x")))
	f.Add(pack(f, manifestOf(f, fileOf(database, "x"), fileOf("state/../x", "y")), plain(database, "x"), plain("state/../x", "y")))
	f.Fuzz(func(t *testing.T, archive []byte) {
		begun := false
		_, err := Read(context.Background(), bytes.NewReader(archive), nil, func(Manifest) error {
			begun = true
			return ErrSpace
		}, nil)
		if err == nil || !begun && !errors.Is(err, ErrArchive) && !errors.Is(err, ErrNewer) {
			t.Fatalf("%v", err)
		}
		if !begun {
			return // nothing is written before there is a manifest
		}
		base := t.TempDir()
		into := filepath.Join(base, "in")
		if err := os.Mkdir(into, 0o700); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(into)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		m, err := Read(context.Background(), bytes.NewReader(archive), root, func(m Manifest) error {
			if m.Total() > 1<<20 {
				return ErrSpace
			}
			return nil
		}, nil)
		if err != nil && !errors.Is(err, ErrArchive) && !errors.Is(err, ErrNewer) && !errors.Is(err, ErrSpace) {
			t.Fatalf("%v", err)
		}
		if left, _ := os.ReadDir(base); len(left) != 1 {
			t.Fatalf("it wrote beside its directory: %v", left)
		}
		if err == nil && len(tree(t, into)) != len(m.Files) {
			t.Fatalf("%d files of %d", len(tree(t, into)), len(m.Files))
		}
	})
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":"hanzod-backup","version":1,"files":[{"name":"state/hanzod.db","size":1,"sha256":"` + strings.Repeat("a", 64) + `"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			rel := strings.TrimPrefix(strings.TrimPrefix(file.Name, statePrefix), outPrefix)
			if !filepath.IsLocal(rel) || strings.Contains(file.Name, "..") && slices.Contains(strings.Split(file.Name, "/"), "..") {
				t.Fatalf("%q", file.Name)
			}
		}
	})
}

// TestOlder: a backup from before an upgrade is brought to the schema of this program.
func TestOlder(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("..", "..", "store", "testdata", "schema1.db"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, store.FileName, string(text))
	into := t.TempDir()
	out, err := restoreInto(into, archiveOf(t, dir))
	newest, _ := store.Schema()
	if err != nil || out.Manifest.Schema != 1 || out.Schema != newest {
		t.Errorf("%+v %v", out, err)
	}
	markOf(t, into)
}

// TestTranscriptsOfOneMoment backs up a store while sessions are talked in, reset and deleted: what comes back is
// of one moment, with every line that was acknowledged before the backup began.
func TestTranscriptsOfOneMoment(t *testing.T) {
	dir := t.TempDir()
	st := storetest.OpenDir(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	const talkers = 4
	var acked [talkers]atomic.Int64
	for w := range talkers {
		wg.Go(func() {
			ref := sessions.Ref{AgentID: "main", Key: fmt.Sprintf("agent:main:%d", w)}
			id := ""
			for n := 0; ctx.Err() == nil; n++ {
				old := id
				if n%50 == 0 {
					id = fmt.Sprintf("s%d-%d", w, n)
				}
				_, err := st.UpdateSession(context.Background(), ref, func(e *sessions.Entry, _ bool) (sessions.Change, error) {
					c := sessions.Change{}
					if e.SessionID != id && old != "" {
						c.Move = &sessions.Move{From: sessions.File{AgentID: "main", Name: old + ".jsonl"}, To: old + ".jsonl.reset.x"}
					}
					e.SessionID = id
					return c, nil
				})
				if err == nil {
					err = st.Transcripts().Append(context.Background(), sessions.File{AgentID: "main", Name: id + ".jsonl"}, fmt.Appendf(nil, `{"n":%d}`, n))
				}
				if err != nil {
					t.Error(err)
					return
				}
				acked[w].Store(int64(n))
			}
		})
	}
	for round := range 3 {
		time.Sleep(20 * time.Millisecond)
		var before [talkers]int64
		for w := range talkers {
			before[w] = acked[w].Load()
		}
		src := sourceOf(dir)
		src.Snapshot, src.Hold, src.Running = st.Snapshot, st.Transcripts().Hold, true
		var b bytes.Buffer
		if _, err := Write(t.Context(), &b, src, nil); err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(t.TempDir(), "state")
		if _, err := restoreInto(to, b.Bytes()); err != nil {
			t.Fatal(err)
		}
		got := storetest.OpenDir(t, to)
		if err := got.Check(t.Context()); err != nil {
			t.Error(err)
		}
		ids := map[string]bool{}
		if err := got.Sessions(func(_ sessions.Ref, e sessions.Entry) { ids[e.SessionID+".jsonl"] = true }); err != nil {
			t.Error(err)
		}
		files, err := os.ReadDir(filepath.Join(to, "agents", "main", "sessions"))
		if err != nil {
			t.Fatal(err)
		}
		lines := map[string]bool{}
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(to, "agents", "main", "sessions", f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if len(text) > 0 && text[len(text)-1] != '\n' {
				t.Errorf("round %d: %s is torn", round, f.Name())
			}
			for l := range strings.Lines(string(text)) {
				lines[f.Name()[:2]+l] = true
			}
			// A transcript is in its place only while its session says so.
			if strings.HasSuffix(f.Name(), ".jsonl") && !ids[f.Name()] {
				t.Errorf("round %d: %s is nobody's, sessions %v", round, f.Name(), ids)
			}
		}
		for w := range talkers {
			for n := range before[w] + 1 {
				if !lines[fmt.Sprintf("s%d{\"n\":%d}\n", w, n)] {
					t.Fatalf("round %d: line %d of %d is lost", round, n, w)
				}
			}
		}
		if err := got.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".backup-*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
	cancel()
	wg.Wait()
}

// A state whose daemon was killed is backed up with its journal, and what that holds comes back.
func TestJournalInBackup(t *testing.T) {
	dir := t.TempDir()
	st := storetest.OpenDir(t, dir)
	talk(t, st, "one", "kept")
	left := filepath.Join(t.TempDir(), "state")
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(left, "agents")); err != nil { // lost with the page cache
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "state")
	if _, err := restoreInto(to, archiveOf(t, left)); err != nil {
		t.Fatal(err)
	}
	if got := said(t, to); got["one"] != `kept "kept"` {
		t.Errorf("%q", got)
	}
}
