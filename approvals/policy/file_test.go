package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/shell"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("POLICY_TEST_ADD"); path != "" { // the second process of TestTwoProcesses
		f := Open(path, Options{})
		for i := range 40 {
			if err := f.AddAllow(nil, "/child/"+string(rune('a'+i%26))+strings.Repeat("x", i)); err != nil {
				panic(err)
			}
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func ptr[T any](v T) *T { return &v }

func open(tb testing.TB, content string) *File {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "state", "exec-approvals.json")
	if content != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return Open(path, Options{Now: func() time.Time { return time.UnixMilli(1760000016000) }, HomeDir: "/home/u"})
}

func content(tb testing.TB, f *File) string {
	tb.Helper()
	b, err := os.ReadFile(f.path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestFreshFile(t *testing.T) {
	f := open(t, "")
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	sock, _ := json.Marshal(filepath.Join(filepath.Dir(f.path), "exec-approvals.sock"))
	if want := `{"version":1,"socket":{"path":` + string(sock) + `},"defaults":{},"agents":{}}`; string(s.File) != want {
		t.Errorf("file %s, want %s", s.File, want)
	}
	text := content(t, f)
	if s.Hash != hashOf([]byte(text)) || !s.Exists || s.Path != f.path {
		t.Errorf("snapshot %+v", s)
	}
	if !strings.HasPrefix(text, "{\n  \"version\": 1,\n  \"socket\": {\n    \"path\": ") || !strings.HasSuffix(text, "}\n") {
		t.Errorf("text %q", text)
	}
	var parsed struct{ Socket struct{ Token string } }
	if err := json.Unmarshal([]byte(text), &parsed); err != nil || len(parsed.Socket.Token) != 32 {
		t.Errorf("token %q, %v", parsed.Socket.Token, err)
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{f.path: 0o600, filepath.Dir(f.path): 0o700} {
			if fi, _ := os.Stat(path); fi.Mode().Perm() != want {
				t.Errorf("%s has mode %v", path, fi.Mode())
			}
		}
	}
	again, err := f.Snapshot()
	if err != nil || again.Hash != s.Hash {
		t.Errorf("second read: %v, %v", again.Hash, err)
	}
}

func TestSet(t *testing.T) {
	f := open(t, "")
	first, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	secret := content(t, f)
	body := []byte(`{"version":1,"defaults":{"security":"allowlist","x":1},"agents":{"main":{"note":"kept","allowlist":[{"pattern":"/usr/bin/uname"},{"id":"7","pattern":"~/bin/*","mine":true}]}},"top":1}`)
	for _, base := range []*string{nil, ptr(" ")} {
		if _, err := f.Set(body, base); !errors.Is(err, ErrHashRequired) {
			t.Errorf("no hash: %v", err)
		}
	}
	if _, err := f.Set(body, ptr(strings.Repeat("0", 64))); !errors.Is(err, ErrChanged) {
		t.Errorf("wrong hash: %v", err)
	}
	for _, bad := range []string{``, `null`, `[]`, `{}`, `{"version":2}`, `{"version":1,"agents":[]}`, "{\"version\":1,\"x\":\"\xff\"}"} {
		if _, err := f.Set([]byte(bad), &first.Hash); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	s, err := f.Set(body, &first.Hash)
	if err != nil {
		t.Fatal(err)
	}
	got := string(s.File)
	id := got[strings.Index(got, `"id":"`)+6:][:36]
	sock := got[strings.Index(got, `"path":`):strings.Index(got, `},"defaults"`)]
	want := `{"version":1,"socket":{` + sock + `},"defaults":{"security":"allowlist"},"agents":{"main":{"note":"kept","allowlist":[` +
		`{"pattern":"/usr/bin/uname","id":"` + id + `"},{"id":"7","pattern":"~/bin/*","mine":true}]}}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	token := func(text string) string { return text[strings.Index(text, `"token"`):][:45] }
	if token(secret) != token(content(t, f)) {
		t.Error("the socket's secret was lost")
	}
	again, err := f.Snapshot()
	if err != nil || !bytes.Equal(again.File, s.File) || again.Hash != s.Hash {
		t.Errorf("read back %s, %v", again.File, err)
	}
}

func TestCorruptFailsClosed(t *testing.T) {
	for _, bad := range []string{`{`, `{"version":2,"defaults":{"security":"full"}}`, `[]`, " \n", `{"version":1,"agents":7}`, "\xef\xbb\xbf{\"version\":1}"} {
		f := open(t, bad)
		now := time.UnixMilli(1760000000000)
		f.now = func() time.Time { now = now.Add(time.Second); return now }
		f.defaults = Overrides{Security: SecurityFull, Ask: AskOff}
		for range 3 {
			if eff, err := f.Resolve(nil, Overrides{Security: SecurityFull}); !errors.Is(err, ErrCorrupt) || eff.Security != SecurityDeny {
				t.Errorf("%q: %+v, %v", bad, eff, err)
			}
		}
		if run, _, reason, _, err := f.Admit(nil, []string{"true"}, "", "/bin", true); run != nil || reason != "security=deny" || !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: admitted %v %v", bad, run, err)
		}
		_, err := f.Snapshot()
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), f.path) {
			t.Errorf("%q: snapshot %v", bad, err)
		}
		if _, err := f.Set([]byte(`{"version":1}`), ptr("x")); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: set %v", bad, err)
		}
		if err := f.AddAllow(nil, "/bin/true"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%q: add %v", bad, err)
		}
		if content(t, f) != bad {
			t.Errorf("%q: overwritten", bad)
		}
		copies, _ := filepath.Glob(f.path + ".corrupt-*")
		if len(copies) != 1 {
			t.Errorf("%q: %d copies", bad, len(copies))
		}
		for i := range 2 * MaxCorruptCopies { // every other damage is kept too, up to a bound
			os.WriteFile(f.path, bytes.Repeat([]byte("{"), i+2), 0o600)
			f.Snapshot()
		}
		if copies, _ = filepath.Glob(f.path + ".corrupt-*"); len(copies) != MaxCorruptCopies {
			t.Errorf("%q: %d copies", bad, len(copies))
		}
	}
}

func TestUnreadableFailsClosed(t *testing.T) {
	f := open(t, "")
	os.MkdirAll(f.path, 0o700) // a directory stands there
	if eff, err := f.Resolve(nil, Overrides{Security: SecurityFull}); !errors.Is(err, ErrRead) || eff.Security != SecurityDeny {
		t.Errorf("%+v, %v", eff, err)
	}
}

func TestAddAllowAndStamp(t *testing.T) {
	f := open(t, `{"version":1,"agents":{"*":{"allowlist":[{"id":"w","pattern":"/usr/bin/env"}]}}}`)
	for range 2 {
		if err := f.AddAllow(nil, "/usr/bin/uname"); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Stamp(nil, "/usr/bin/uname", "uname -a", "/usr/bin/uname"); err != nil {
		t.Fatal(err)
	}
	if err := f.Stamp(ptr("ops"), "/usr/bin/env", "x", ""); err != nil {
		t.Fatal(err)
	}
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	got := string(s.File)
	got = got[strings.Index(got, `"agents"`):]
	id := got[strings.LastIndex(got, `"id":"`)+6:][:36]
	want := `"agents":{"*":{"allowlist":[{"id":"w","pattern":"/usr/bin/env"}]},"main":{"allowlist":[{"id":"` + id +
		`","pattern":"/usr/bin/uname","lastUsedAt":1760000016000,"lastUsedCommand":"uname -a","lastResolvedPath":"/usr/bin/uname"}]}}}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := f.AddAllow(nil, "/tmp/*"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a pattern was stored: %v", err)
	}
	if err := f.Stamp(nil, "/usr/bin/uname", strings.Repeat("é", MaxStampedCommand), ""); err != nil {
		t.Fatal(err)
	}
	if text := content(t, f); len(text) > 2*MaxStampedCommand || strings.Contains(text, "lastResolvedPath") {
		t.Errorf("stamp of %d bytes", len(text))
	}
}

func TestConcurrentChanges(t *testing.T) {
	f := open(t, "")
	other := Open(f.path, Options{})
	var wg sync.WaitGroup
	for i := range 20 {
		for j, x := range []*File{f, other} {
			wg.Go(func() {
				if err := x.AddAllow(nil, "/"+strings.Repeat("a", i+1)+string(rune('0'+j))); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	eff, err := f.Resolve(nil, Overrides{})
	if err != nil || len(eff.Allowlist) != 40 {
		t.Errorf("%d entries, %v", len(eff.Allowlist), err)
	}
}

func TestTwoProcesses(t *testing.T) {
	f := open(t, "")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "POLICY_TEST_ADD="+f.path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := f.AddAllow(nil, "/parent/"+strings.Repeat("x", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if eff, err := f.Resolve(nil, Overrides{}); err != nil || len(eff.Allowlist) != 80 {
		t.Errorf("%d entries, %v", len(eff.Allowlist), err)
	}
}

func TestLinkStaysLink(t *testing.T) {
	f := open(t, "")
	target := filepath.Join(t.TempDir(), "real.json")
	os.MkdirAll(filepath.Dir(f.path), 0o700)
	os.WriteFile(target, []byte(`{"version":1}`), 0o600)
	if err := os.Symlink(target, f.path); err != nil {
		t.Skip(err)
	}
	if err := f.AddAllow(nil, "/bin/x"); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Lstat(f.path); fi.Mode()&os.ModeSymlink == 0 {
		t.Error("the link was replaced")
	}
	if b, _ := os.ReadFile(target); !bytes.Contains(b, []byte("/bin/x")) {
		t.Error("the target was not written")
	}
}

// TestCoverage is what the list can cover: one plain executable and nothing that runs others.
func TestCoverage(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bin, home := root+"/bin/", root+"/home"
	for _, p := range []string{
		"bin/echo", "bin/jq", "bin/sh", "bin/env", "bin/sudo", "bin/timeout", "bin/busybox", "bin/pwsh", "opt/bin/evil", "proj/sub/run", "home/bin/mytool", "bin/noexec",
	} {
		os.MkdirAll(filepath.Dir(root+"/"+p), 0o755)
		mode := os.FileMode(0o755)
		if p == "bin/noexec" {
			mode = 0o644
		}
		if err := os.WriteFile(root+"/"+p, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	os.MkdirAll(bin+"dirtool", 0o755)
	os.MkdirAll(root+"/links", 0o755)
	for link, to := range map[string]string{"ls": "bin/busybox", "tool": "bin/sh", "echo-link": "bin/echo", "dangling": "nowhere/x"} {
		if err := os.Symlink(root+"/"+to, root+"/links/"+link); err != nil {
			t.Fatal(err)
		}
	}
	f := Open(filepath.Join(root, "exec-approvals.json"), Options{HomeDir: home, SafeBins: func(string) SafeBins {
		return SafeBins{Bins: shell.DefaultSafeBins, TrustedDirs: []string{root + "/bin"}}
	}})
	for name, tc := range map[string]struct {
		argv    []string
		list    string
		pinned  string
		covered bool
	}{
		"plain":              {[]string{"echo", "", "hi"}, bin + "echo", bin + "echo", true},
		"shifted words":      {[]string{"jq", "", "secret"}, bin + "echo", "", false},
		"filter":             {[]string{"jq", "secret"}, bin + "echo", bin + "jq", true},
		"star":               {[]string{"echo"}, "*", bin + "echo", true},
		"padded":             {[]string{" echo "}, bin + "echo", bin + "echo", true},
		"home":               {[]string{"~/bin/mytool"}, "~/bin/*", home + "/bin/mytool", true},
		"link":               {[]string{root + "/links/echo-link"}, root + "/links/*", bin + "echo", true},
		"applet keeps name":  {[]string{root + "/links/ls"}, root + "/links/*", root + "/links/ls", true},
		"missing":            {[]string{root + "/gone/x"}, root + "/gone/x", "", false},
		"dangling":           {[]string{root + "/links/dangling"}, "*", "", false},
		"not executable":     {[]string{bin + "noexec"}, "*", "", false},
		"directory":          {[]string{bin + "dirtool"}, "*", "", false},
		"empty word":         {[]string{"", "echo"}, "*", "", false},
		"blank word":         {[]string{" ", "echo"}, "*", "", false},
		"no words":           {nil, "*", "", false},
		"inline shell":       {[]string{"sh", "-c", "echo"}, "*", "", false},
		"hidden shell":       {[]string{"env", "env", "env", "env", "sh", "-c", "echo"}, "*", "", false},
		"script":             {[]string{"sh", "x.sh"}, "*", "", false},
		"linked shell":       {[]string{root + "/links/tool", "-c", "echo"}, "*", "", false},
		"encoded":            {[]string{"pwsh", "-EncodedCommand", "AAA"}, "*", "", false},
		"env":                {[]string{"env", "-", "echo"}, "*", "", false},
		"sudo":               {[]string{"sudo", "echo"}, "*", "", false},
		"timeout":            {[]string{"timeout", "5", "echo"}, "*", "", false},
		"busybox":            {[]string{"busybox", "sh", "-c", "echo"}, "*", "", false},
		"not clean":          {[]string{root + "/bin/../opt/bin/evil"}, bin + "**", "", false},
		"Kelvin sign":        {[]string{bin + "e\u212aho"}, bin + "ekho", "", false},
		"bare name pattern":  {[]string{"echo"}, "echo", "", false},
		"relative PATH ends": {[]string{"run"}, "*", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			c := f.cover(nil, Effective{Allowlist: []Entry{{Pattern: tc.list}}}, tc.argv, root+"/proj", root+"/bin:"+root+"/opt/bin:sub:.")
			if c.covered != tc.covered || tc.covered && c.run[0] != tc.pinned {
				t.Errorf("%+v", c)
			}
			if c.inline && c.covered {
				t.Error("a covered shell")
			}
		})
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"version":1,"socket":{"path":"a"},"agents":{"default":{"allowlist":["x",{"pattern":"y"},3]},"main":{}}}`))
	f.Add([]byte(`{"version":1.0,"version":1,"agents":{"a":null,"a":{"allowlist":{}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		id := func() string { return "id" }
		d, why := parseDocument(raw, id)
		if why != "" {
			return
		}
		again, why := parseDocument(d.text(), id)
		if why != "" || !bytes.Equal(again.text(), d.text()) {
			t.Errorf("%q is not stable: %q then %q %s", raw, d.text(), again.text(), why)
		}
	})
}

func FuzzCommand(f *testing.F) {
	f.Add([]byte(`["env","A=1","sh","-lc","x",1,null,[1e-7,{}]]`), []byte(`"x"`))
	f.Fuzz(func(t *testing.T, command, raw []byte) {
		if !json.Valid(command) {
			return
		}
		c, err := ParseCommand(command, nil)
		if err != nil || c.Text == "" {
			return
		}
		if _, err := CommandText(c.Argv, &c.Text); err != nil && trim(c.Text) == c.Text {
			t.Errorf("%q does not agree with its own text %q: %v", c.Argv, c.Text, err)
		}
		ParseCommand(command, raw)
	})
}
