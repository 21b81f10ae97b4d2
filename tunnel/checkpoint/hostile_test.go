package checkpoint

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
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// forged makes a checkpoint of a directory or repository whose archive holds what it is given.
func forged(t testing.TB, d *Document, archive []byte) (*Document, Opener) {
	t.Helper()
	sum := sha256.Sum256(archive)
	kept := d.Hanzo.Attachments[:0:0]
	for _, a := range d.Hanzo.Attachments {
		if a.Name != AttachFiles {
			kept = append(kept, a)
		}
	}
	d.Hanzo.Attachments = append(kept, Attachment{Name: AttachFiles, Size: int64(len(archive)), SHA256: hex.EncodeToString(sum[:])})
	return d, func(_ context.Context, a Attachment) (io.ReadCloser, error) {
		if a.Name != AttachFiles {
			return nil, errors.New("not here")
		}
		return io.NopCloser(bytes.NewReader(archive)), nil
	}
}

func tarred(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		h.Format, h.Mode = tar.FormatPAX, 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(w, zeros{}, h.Size); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Nothing of a hostile archive reaches the disk outside of the workspace, nor git's own files, and nothing at all is
// left of it.
func TestHostileArchives(t *testing.T) {
	needGit(t)
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	outside := t.TempDir()
	for about, archive := range map[string][]byte{
		"parent":          tarred(t, tar.Header{Name: "../evil", Size: 1}),
		"absolute":        tarred(t, tar.Header{Name: outside + "/evil", Size: 1}),
		"dots inside":     tarred(t, tar.Header{Name: "a/../../evil", Size: 1}),
		"git":             tarred(t, tar.Header{Name: ".git/hooks/post-checkout", Size: 1}),
		"git by case":     tarred(t, tar.Header{Name: "sub/.GiT/config", Size: 1}),
		"git by NTFS":     tarred(t, tar.Header{Name: "git~1/config", Size: 1}),
		"through a link":  tarred(t, link("a", outside), tar.Header{Name: "a/evil", Size: 1}),
		"link last":       tarred(t, tar.Header{Name: "a/evil", Size: 1}, link("a", outside)),
		"link into git":   tarred(t, link("a", ".git/hooks"), tar.Header{Name: "a/post-checkout", Size: 1}),
		"twice":           tarred(t, tar.Header{Name: "a", Size: 1}, tar.Header{Name: "a", Size: 1}),
		"device":          tarred(t, tar.Header{Name: "a", Typeflag: tar.TypeChar}),
		"fifo":            tarred(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}),
		"hard link":       tarred(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}),
		"link to nothing": tarred(t, link("a", "")),
		"own name":        tarred(t, tar.Header{Name: workPrefix + "x/old/evil", Size: 1}),
		"bomb":            tarred(t, tar.Header{Name: "a", Size: 40 << 20}),
		"many":            tarred(t, many(2000)...),
		"no archive":      []byte("PK\x03\x04"),
		"cut":             tarred(t, tar.Header{Name: "a", Size: 10000})[:40],
	} {
		for _, kind := range []Kind{KindDirectory, KindGit} {
			t.Run(about+" "+string(kind), func(t *testing.T) {
				d, open := forged(t, &Document{Version: 1, Hanzo: &Extension{Format: 1, Kind: kind, ObjectFormat: "sha1", Branch: "main"}}, archive)
				dir := t.TempDir()
				report, err := Restore(context.Background(), RestoreOptions{
					Dir: dir, Document: d, Open: open, Temp: t.TempDir(), Limits: Limits{File: 32 << 20, Archive: 64 << 20, Files: 1000},
				})
				if err == nil {
					t.Fatalf("restored: %+v", report)
				}
				for _, dir := range []string{dir, outside} {
					if left, _ := os.ReadDir(dir); len(left) != 0 {
						t.Errorf("%s holds %v after %v", dir, left, err)
					}
				}
			})
		}
	}
}

func many(n int) []tar.Header {
	out := make([]tar.Header, n)
	for i := range out {
		out[i].Name = fmt.Sprint("f", i)
	}
	return out
}

// Members of a document that Capture does not write are refused before anything else.
func TestHostileExtensions(t *testing.T) {
	sum := strings.Repeat("0", 64)
	for _, x := range []string{
		`{"format":2,"kind":"git"}`, `{"format":1,"kind":"x"}`, `{"format":1,"kind":"git","head":"--upload-pack=x"}`,
		`{"format":1,"kind":"git","branch":"--orphan"}`, `{"format":1,"kind":"git","branch":"a..b"}`, `{"format":1,"kind":"git","upstream":"-x"}`,
		`{"format":1,"kind":"git","branches":[{"name":"../../config","commit":"` + sum + `"}]}`,
		`{"format":1,"kind":"git","branches":[{"name":"a","commit":"x"}]}`, `{"format":1,"kind":"git","stashes":[{"name":"a","commit":"-q"}]}`,
		`{"format":1,"kind":"git","settings":{"core.sshCommand":"evil"}}`, `{"format":1,"kind":"git","settings":{"core.autocrlf":"true\n[core]"}}`,
		`{"format":1,"kind":"git","settings":{"user.name":"a\nb"}}`, `{"format":1,"kind":"git","removed":["../x"]}`, `{"format":1,"kind":"git","removed":["a/.git/config"]}`,
		`{"format":1,"kind":"git","skipWorktree":["base64:Li4veA=="]}`, `{"format":1,"kind":"git","removed":["base64:%"]}`,
		`{"format":1,"kind":"git","needs":["x"]}`, `{"format":1,"kind":"git","shallow":["x"]}`, `{"format":1,"kind":"git","tree":"x"}`, `{"format":1,"kind":"git","files":-1}`,
		`{"format":1,"kind":"git","objectFormat":"md5"}`, `{"format":1,"kind":"git","encryption":"rot13"}`,
		`{"format":1,"kind":"git","attachments":[{"name":"../x","size":1,"sha256":"` + sum + `"}]}`,
		`{"format":1,"kind":"git","attachments":[{"name":"a","size":-1,"sha256":"` + sum + `"}]}`,
		`{"format":1,"kind":"git","attachments":[{"name":"a","size":9000000000000,"sha256":"` + sum + `"}]}`,
		`{"format":1,"kind":"git","attachments":[{"name":"a","size":1,"sha256":""}]}`,
		`{"format":1,"kind":"git","attachments":[{"name":"x.json","size":1,"sha256":"` + sum + `"}]}`,
		`{"format":1,"kind":"git","attachments":[{"name":"a","size":1,"sha256":"` + sum + `"},{"name":"a","size":1,"sha256":"` + sum + `"}]}`,
		`{"format":1,"kind":"git","exclude":"` + strings.Repeat("x", MaxExclude+1) + `"}`,
		`{"format":1,"kind":"git","submodules":[{"path":"/x","commit":"` + sum + `"}]}`,
	} {
		if _, err := Parse([]byte(`{"version":1,"hanzo":` + x + `}`)); !errors.Is(err, ErrDocument) {
			t.Errorf("%.100s: %v", x, err)
		}
	}
}

// What is damaged on the way is found before anything is changed.
func TestWrongChecksums(t *testing.T) {
	needGit(t)
	from := repo(t)
	write(t, from, "a", "1\n")
	in(t, from, "git", "add", "-A")
	in(t, from, "git", "commit", "-qm", "one")
	write(t, from, "a", "2\n")
	write(t, from, "b", "3\n")
	c, err := Capture(context.Background(), CaptureOptions{Dir: from, Temp: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, a := range c.Document.Hanzo.Attachments {
		for about, change := range map[string]func([]byte) []byte{
			"a bit":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"short":  func(b []byte) []byte { return b[:len(b)-1] },
			"long":   func(b []byte) []byte { return append(b, 'x') },
			"absent": nil,
		} {
			dir := t.TempDir()
			_, err := Restore(context.Background(), RestoreOptions{Dir: dir, Document: c.Document, Temp: t.TempDir(), Open: func(ctx context.Context, b Attachment) (io.ReadCloser, error) {
				f, err := c.Open(ctx, b)
				if err != nil || b.Name != a.Name {
					return f, err
				}
				defer f.Close()
				if change == nil {
					return nil, os.ErrNotExist
				}
				raw, err := io.ReadAll(f)
				return io.NopCloser(bytes.NewReader(change(raw))), err
			}})
			if err == nil || change != nil && !errors.Is(err, ErrChecksum) {
				t.Errorf("%s, %s: %v", a.Name, about, err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("%s, %s: left behind %v", a.Name, about, left)
			}
		}
	}
	// And a stream that is cut, or holds more.
	var b bytes.Buffer
	if err := c.WriteTo(context.Background(), &b, nil); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	temp := t.TempDir()
	for i := 0; i < len(whole)-1024-512; i += 1 + len(whole)/40 {
		if got, err := Unpack(bytes.NewReader(whole[:i]), temp); err == nil {
			got.Close()
			t.Errorf("cut at %d of %d it was taken", i, len(whole))
		}
	}
	if left, _ := os.ReadDir(temp); len(left) != 0 {
		t.Errorf("left behind %v", left)
	}
}

// A workspace with changes is left alone; a forced restore replaces it, and puts it back when it fails.
func TestPreflightAndRollback(t *testing.T) {
	needGit(t)
	from := repo(t)
	write(t, from, "a", "1\n")
	in(t, from, "git", "add", "-A")
	in(t, from, "git", "commit", "-qm", "one")
	write(t, from, "a", "2\n")
	write(t, from, "b", "3\n")
	c, err := Capture(context.Background(), CaptureOptions{Dir: from, Temp: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	o := RestoreOptions{Document: c.Document, Open: c.Open, Temp: t.TempDir()}
	run := func(dir string) (*Report, error) {
		o.Dir = dir
		return Restore(context.Background(), o)
	}

	plain := t.TempDir()
	write(t, plain, "mine/deep", "keep me\n")
	before := filesOf(t, plain)
	if _, err := run(plain); !errors.Is(err, ErrRefused) || filesOf(t, plain) != before {
		t.Errorf("into a directory with files: %v", err)
	}
	dirty := repo(t)
	write(t, dirty, "x", "1\n")
	in(t, dirty, "git", "add", "-A")
	in(t, dirty, "git", "commit", "-qm", "x")
	write(t, dirty, "x", "2\n")
	if _, err := run(dirty); !errors.Is(err, ErrRefused) {
		t.Errorf("into a repository with changes: %v", err)
	}
	// A dry run says that it would and does nothing.
	empty := t.TempDir()
	o.DryRun = true
	if report, err := run(empty); err != nil || stepNames(report) != "preflight:ok attachments:ok" {
		t.Errorf("dry run: %v, %+v", err, report)
	}
	if left, _ := os.ReadDir(empty); len(left) != 0 {
		t.Errorf("a dry run left %v", left)
	}
	o.DryRun = false
	// The policy of the machine decides.
	o.Allow = func(argv []string) error { return fmt.Errorf("not %s", strings.Join(argv, " ")) }
	if _, err := run(empty); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "not git init") {
		t.Errorf("without leave: %v", err)
	}
	o.Allow = nil

	// A checkpoint whose checksum of the tree is wrong fails at the end: everything is as before.
	bad := *c.Document
	x := *bad.Hanzo
	x.Tree = strings.Repeat("0", 64)
	bad.Hanzo = &x
	o.Document = &bad
	for name, dir := range map[string]string{"empty": empty, "forced": plain, "clean": ""} {
		if dir == "" {
			dir = t.TempDir()
			in(t, dir, "git", "clone", "-q", from, ".")
			write(t, dir, ".git/info/exclude", "*.log\n")
			write(t, dir, "kept.log", "ignored\n")
			in(t, dir, "git", "checkout", "-q", "-b", "elsewhere")
			in(t, dir, "git", "commit", "-q", "--allow-empty", "-m", "mine")
		}
		o.Force = name == "forced"
		before := filesOf(t, dir)
		state := ""
		if name == "clean" {
			state = status(t, dir) + in(t, dir, "git", "for-each-ref")
		}
		report, err := run(dir)
		if !errors.Is(err, ErrStep) || !report.RolledBack || report.Failed().Name != "verify" {
			t.Fatalf("%s: %v, %+v", name, err, report)
		}
		if now := filesOf(t, dir); now != before {
			t.Errorf("%s: the files are\n%s\nnot\n%s", name, now, before)
		}
		if name == "clean" && status(t, dir)+in(t, dir, "git", "for-each-ref") != state {
			t.Errorf("the repository is\n%s%s\nnot\n%s", status(t, dir), in(t, dir, "git", "for-each-ref"), state)
		}
	}
	// The right one does.
	o.Document, o.Force = c.Document, true
	if report, err := run(plain); err != nil {
		t.Fatalf("%v, %+v", err, report)
	}
	same(t, from, plain)

	// A restore that was cut off is undone by the next one.
	cut := t.TempDir()
	write(t, cut, "half", "of a checkpoint\n")
	write(t, cut, workPrefix+"1/old/mine", "keep me\n")
	write(t, cut, workPrefix+"1/moved", "")
	o.Force = false
	if _, err := run(cut); !errors.Is(err, ErrRefused) || filesOf(t, cut) != `"mine" false 8 "keep me\n"` {
		t.Errorf("after a cut: %v\n%s", err, filesOf(t, cut))
	}
	// One that is under way is left alone.
	write(t, cut, workPrefix+"2/old/theirs", "moved\n")
	unlock, err := lock(filepath.Join(cut, workPrefix+"2/lock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Recover(cut); runtime.GOOS != "windows" && err == nil {
		t.Error("a restore under way was undone")
	}
	unlock()
	if err := Recover(cut); err != nil || filesOf(t, cut) != "\"mine\" false 8 \"keep me\\n\"\n\"theirs\" false 6 \"moved\\n\"" {
		t.Errorf("once it has ended: %v\n%s", err, filesOf(t, cut))
	}
}

// What a repository configures does not run when it is captured, nor what a remote is called when it is restored.
func TestNothingRuns(t *testing.T) {
	needGit(t)
	mark := filepath.Join(t.TempDir(), "ran")
	evil := "touch " + mark + "; cat"
	from := repo(t)
	write(t, from, "a.txt", "1\n")
	write(t, from, ".gitattributes", "*.txt filter=evil diff=evil\n")
	in(t, from, "git", "add", "-A")
	in(t, from, "git", "commit", "-qm", "one")
	for _, name := range []string{"post-checkout", "post-index-change", "pre-commit", "reference-transaction"} {
		write(t, from, ".git/hooks/"+name, "#!/bin/sh\n"+evil+"\n")
		if err := os.Chmod(filepath.Join(from, ".git/hooks", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, kv := range [][2]string{
		{"filter.evil.clean", evil}, {"filter.evil.smudge", evil}, {"filter.evil.process", evil}, {"filter.evil.required", "true"}, {"diff.evil.textconv", evil}, {"diff.evil.command", evil},
		{"diff.external", evil}, {"core.fsmonitor", evil}, {"core.pager", evil}, {"core.sshCommand", evil}, {"core.alternateRefsCommand", evil}, {"core.hooksPath", filepath.Join(from, ".git/hooks")},
	} {
		in(t, from, "git", "config", kv[0], kv[1])
	}
	write(t, from, "a.txt", "2\n")
	to := t.TempDir()
	_, report, err := through(t, from, to, CaptureOptions{}, RestoreOptions{})
	if err != nil {
		t.Fatalf("%v, %+v", err, report)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("something of the repository ran")
	}
	for _, url := range []string{"ext::sh -c 'touch " + mark + "'", "--upload-pack=touch " + mark, "-x", "ssh://-oProxyCommand=touch", "x::y", "evil@-host:x", "ftp://x/y"} {
		d := &Document{Version: 1, Workspace: Workspace{Repository: true, Branch: "main", RemoteURL: url}}
		if _, err := Restore(context.Background(), RestoreOptions{Dir: t.TempDir(), Document: d}); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", url, err)
		}
		if g := RestoreLikeBridge(context.Background(), RestoreOptions{Dir: t.TempDir(), Document: d}); !strings.HasPrefix(g.Clone, "error: ") {
			t.Errorf("%s: %+v", url, g)
		}
	}
	d := &Document{Version: 1, Workspace: Workspace{Repository: true, Branch: "--upload-pack=x", RemoteURL: from}}
	if g := RestoreLikeBridge(context.Background(), RestoreOptions{Dir: t.TempDir(), Document: d}); !strings.HasPrefix(g.Clone, "error: ") {
		t.Errorf("%+v", g)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("something of the address ran")
	}
}

// Passwords in addresses stay here.
func TestAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@h/x": "https://u@h/x", "https://tok@h/x": "https://h/x", "ssh://git@h/x": "ssh://git@h/x", "git@h:x/y": "git@h:x/y", "/srv/x": "/srv/x", "https://h/x": "https://h/x",
		"https://u:%zz@h/x": "https://h/x",
	} {
		if got := bare(in); got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
}

// The recorded document restores, its diff too (§1.10).
func TestRecordedDocumentIsRestored(t *testing.T) {
	needGit(t)
	d, err := Parse(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	origin := repo(t)
	write(t, origin, "README.md", "hello\n")
	in(t, origin, "git", "add", "-A")
	in(t, origin, "git", "commit", "-qm", "first")
	d.Workspace.RemoteURL = "file://" + filepath.ToSlash(origin)
	o := RestoreOptions{Dir: t.TempDir(), Document: d}
	g := RestoreLikeBridge(context.Background(), o)
	raw, _ := json.Marshal(g)
	if string(raw) != `{"attempted":true,"clone":"ok","apply_diff":"ok"}` {
		t.Fatalf("%s", raw)
	}
	if got := filesOf(t, o.Dir); got != `"README.md" false 14 "hello\nchanged\n"` {
		t.Errorf("the workspace holds %s", got)
	}
	// Again, in place: it is there already.
	raw, _ = json.Marshal(RestoreLikeBridge(context.Background(), o))
	if string(raw) != `{"attempted":true,"clone":"skipped (existing .git)","apply_diff":"ok"}` {
		t.Errorf("%s", raw)
	}
	// A workspace with other changes is left alone.
	write(t, o.Dir, "README.md", "other\n")
	if g := RestoreLikeBridge(context.Background(), o); !strings.HasPrefix(*g.ApplyDiff, "error: ") || !strings.Contains(filesOf(t, o.Dir), "other") {
		t.Errorf("%+v", g)
	}
	// Our own operation reports steps, and puts back what it found when one fails.
	o.Dir = t.TempDir()
	report, err := Restore(context.Background(), o)
	if err != nil || stepNames(report) != "preflight:ok clone:ok diff:ok" {
		t.Fatalf("%v, %+v", err, report)
	}
	d.Workspace.Diff = strings.Replace(d.Workspace.Diff, " hello", " hullo", 1)
	o.Dir = t.TempDir()
	report, err = Restore(context.Background(), o)
	if !errors.Is(err, ErrStep) || stepNames(report) != "preflight:ok clone:ok diff:failed rollback:ok" {
		t.Errorf("%v, %+v", err, report)
	}
	if left, _ := os.ReadDir(o.Dir); len(left) != 0 {
		t.Errorf("left behind %v", left)
	}
}

// What trimming took from the end of a diff is given back.
func TestTrimmedDiffs(t *testing.T) {
	needGit(t)
	for _, end := range []string{"", "\n", "\n\n", "\n\n\n", "last\n", "no newline"} {
		dir := repo(t)
		write(t, dir, "a", "1\n2\n3\n"+end)
		in(t, dir, "git", "add", "-A")
		in(t, dir, "git", "commit", "-qm", "one")
		write(t, dir, "a", "1\nx\n3\n"+end)
		diff := in(t, dir, "git", "diff", "HEAD")
		want := filesOf(t, dir)
		in(t, dir, "git", "checkout", "-q", "a")
		cmd := mend(strings.TrimSpace(diff))
		write(t, dir, ".git/patch", cmd)
		in(t, dir, "git", "apply", "--whitespace=nowarn", ".git/patch")
		if got := filesOf(t, dir); got != want {
			t.Errorf("%q: %s, not %s", end, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(recorded(f))
	f.Add([]byte(`{"version":1,"hanzo":{"format":1,"kind":"git","removed":["a/b","base64:/w=="],"attachments":[]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := Parse(raw)
		if err != nil {
			return
		}
		out, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		more, err := again.Marshal()
		if err != nil || !bytes.Equal(out, more) {
			t.Fatalf("%v\n%s\n%s", err, out, more)
		}
	})
}

func FuzzArchive(f *testing.F) {
	f.Add(tarred(f, tar.Header{Name: "a/b", Size: 3}, tar.Header{Name: "c", Typeflag: tar.TypeSymlink, Linkname: "a"}))
	f.Add(tarred(f, tar.Header{Name: "../x", Size: 3}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		p := &place{root: root, dirs: map[string]bool{}}
		_ = walkArchive(context.Background(), bytes.NewReader(raw), Limits{File: 1 << 20, Archive: 1 << 20, Files: 50}, func(e entry, r io.Reader) error { return p.put(e, r) })
		if list, _ := os.ReadDir(top); len(list) != 1 {
			t.Fatalf("outside of the workspace there is %v", list)
		}
	})
}

func FuzzPack(f *testing.F) {
	var b bytes.Buffer
	d := &Document{Version: 1}
	raw, _ := d.Marshal()
	if err := WritePack(context.Background(), &b, raw, d, nil, nil); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Unpack(bytes.NewReader(raw), t.TempDir())
		if err == nil {
			c.Close()
		}
	})
}
