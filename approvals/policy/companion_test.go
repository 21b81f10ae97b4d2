package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// appFile is a file as the companion app of macOS leaves it: stamps with fractions, keys of its own.
const appFile = `{
  "version" : 1,
  "socket" : { "path" : "/Users/u/.openclaw/exec-approvals.sock", "token" : "app-secret" },
  "defaults" : { "security" : "allowlist", "ask" : "on-miss" },
  "agents" : {
    "main" : {
      "appSetting" : { "a" : [ 1, 2.50, "ü\/" ] },
      "allowlist" : [
        { "id" : "0B8D3C52-5C56-4B0E-9B2E-0F6E5A7B1C11", "pattern" : "/bin/one", "lastUsedAt" : 1760000000000.2473, "note" : "mine", "lastResolvedPath" : "/bin/one" },
        { "id" : "0B8D3C52-5C56-4B0E-9B2E-0F6E5A7B1C12", "pattern" : "/bin/two", "lastUsedAt" : 1.76e12 }
      ]
    },
    "default" : { "allowlist" : [ "/bin/three", { "pattern" : "/BIN/ONE" } ], "ask" : "off" }
  }
}`

var uuidForm = regexp.MustCompile(`^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$`)

// What the app wrote survives being read, changed and stamped by us, and what we add it can read: every id
// is a UUID, every pattern a text (nodes-approvals.md §5.1).
func TestCompanionAppFile(t *testing.T) {
	f := open(t, "")
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.path, []byte(appFile), 0o600); err != nil {
		t.Fatal(err)
	}
	main := "main"
	eff, err := f.Resolve(&main, Overrides{})
	if err != nil || eff.Security != SecurityAllowlist || eff.Ask != AskOff || len(eff.Allowlist) != 3 {
		t.Fatalf("%+v %v", eff, err)
	}
	if err := f.AddAllow(&main, "/bin/four"); err != nil {
		t.Fatal(err)
	}
	if err := f.Stamp(&main, "/bin/two", "two x", "/bin/two"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`1760000000000.2473`, `"note": "mine"`, `"appSetting": {`, `2.50`, `"ü\/"`, `"token": "app-secret"`, `"lastUsedCommand": "two x"`} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("%s is lost:\n%s", want, text)
		}
	}
	if bytes.Contains(text, []byte("1.76e12")) || bytes.Contains(text, []byte(`"default"`)) {
		t.Errorf("the stamp or the old name stayed:\n%s", text)
	}
	// The app sends its file back, with the hash that it read.
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(s.File), "app-secret") {
		t.Error("the snapshot holds the secret")
	}
	if _, err := f.Set([]byte(strings.Replace(string(s.File), "/bin/four", "/bin/five", 1)), &s.Hash); err != nil {
		t.Fatal(err)
	}
	text, err = os.ReadFile(f.path)
	if err != nil || !bytes.Contains(text, []byte("app-secret")) || !bytes.Contains(text, []byte("1760000000000.2473")) {
		t.Errorf("after sending it back: %v\n%s", err, text)
	}
	appReads(t, text)
}

// appReads reads a file as strictly as the app does: one bad entry would make the whole of it empty.
func appReads(t *testing.T, text []byte) {
	t.Helper()
	var file struct {
		Version int
		Agents  map[string]struct {
			Allowlist []struct {
				ID         *string
				Pattern    *string
				LastUsedAt *float64
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil || file.Version != 1 {
		t.Fatalf("the app cannot read it: %v", err)
	}
	for name, a := range file.Agents {
		for _, e := range a.Allowlist {
			if e.ID == nil || !uuidForm.MatchString(*e.ID) || e.Pattern == nil {
				t.Errorf("agent %s: the app cannot read %v", name, e)
			}
		}
	}
}

// A program that does not know our lock loses nothing, and neither do we: a change that it was quicker
// with is made again on what it wrote.
func TestWriterWithoutOurLock(t *testing.T) {
	f := open(t, "")
	if err := f.AddAllow(nil, "/ours/first"); err != nil {
		t.Fatal(err)
	}
	theirs := 0
	app := func() { // as the app: a new file renamed over the old one
		text, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		entry := fmt.Sprintf(`"allowlist": [{"id": "0B8D3C52-5C56-4B0E-9B2E-%012d", "pattern": "/theirs/%d"},`, theirs, theirs)
		theirs++
		tmp := f.path + ".app"
		if err := os.WriteFile(tmp, []byte(strings.Replace(string(text), `"allowlist": [`, entry, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, f.path); err != nil {
			t.Fatal(err)
		}
	}
	// The clock is asked between reading and writing.
	f.now = func() time.Time {
		if theirs < 5 {
			app()
		}
		return time.Unix(1, 0)
	}
	if err := f.AddAllow(nil, "/ours/second"); err != nil {
		t.Fatal(err)
	}
	eff, err := f.Resolve(nil, Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range eff.Allowlist {
		got = append(got, e.Pattern)
	}
	for _, want := range []string{"/ours/first", "/ours/second", "/theirs/0", "/theirs/4"} {
		if !strings.Contains(strings.Join(got, " "), want) {
			t.Errorf("%s is lost: %v", want, got)
		}
	}
	// One that never stops is told of, and not overwritten.
	theirs = 0
	f.now = func() time.Time {
		app()
		return time.Unix(1, 0)
	}
	if err := f.AddAllow(nil, "/ours/third"); err == nil || !strings.Contains(err.Error(), "keeps changing") {
		t.Errorf("%v", err)
	}
	if text, err := os.ReadFile(f.path); err != nil || bytes.Contains(text, []byte("third")) {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(f.path + ".tmp"); !os.IsNotExist(err) {
		t.Error("a temporary file is left")
	}
}

// The file may be a link to one that is not there yet, by a relative path too.
func TestLinkToNowhere(t *testing.T) {
	f := open(t, "")
	dir := filepath.Dir(f.path)
	if err := os.MkdirAll(filepath.Join(dir, "dotfiles"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("dotfiles", "approvals.json"), f.path); err != nil {
		t.Skip(err)
	}
	if err := f.AddAllow(nil, "/bin/x"); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "dotfiles", "approvals.json")); err != nil || !bytes.Contains(text, []byte("/bin/x")) {
		t.Errorf("%v", err)
	}
	if info, err := os.Lstat(f.path); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Error("the link is gone")
	}
}

// A file of the largest size that is all keys is read in time.
func TestManyKeys(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"version":1,"agents":{`)
	for i := 0; b.Len() < MaxFile-64; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%x":{}`, i)
	}
	b.WriteString(`}}`)
	start := time.Now()
	if _, why := parseDocument([]byte(b.String()), func() string { return "id" }); why != "" {
		t.Fatal(why)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// FuzzFile reads what anything may have left in the place of the file: nothing panics, a file that cannot be
// read denies and stays as it is, and one that can is stable and readable by the app.
func FuzzFile(f *testing.F) {
	for _, s := range []string{appFile, `{"version":1}`, `{"version":2}`, `{`, ``, "\x00", `{"version":1,"agents":{"*":{"allowlist":[{"id":"x","pattern":"y","lastUsedAt":1.5}]}}}`} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "f.json")
		for _, old := range []string{path, path + ".lock"} {
			_ = os.Remove(old)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		file := Open(path, Options{SocketPath: "/s", HomeDir: "/home/u"})
		eff, err := file.Resolve(nil, Overrides{Security: SecurityFull})
		now, readErr := os.ReadFile(path)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil {
			if eff.Security != SecurityDeny || !bytes.Equal(now, text) {
				t.Fatalf("%q: %+v, and the file is %q", text, eff, now)
			}
			return
		}
		s, err := file.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := file.Snapshot(); err != nil || again.Hash != s.Hash {
			t.Fatalf("%q is not stable: %v", text, err)
		}
		if _, err := file.Set(s.File, &s.Hash); err != nil {
			t.Fatalf("%q: its own text is refused: %v", text, err)
		}
	})
}
