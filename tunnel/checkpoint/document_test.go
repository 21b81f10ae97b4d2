package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func recorded(t testing.TB) []byte {
	raw, err := os.ReadFile("../../fixtures/tunnel/checkpoint-agent-a.json")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimRight(raw, "\n")
}

// The recorded document is read and written byte by byte.
func TestRecordedDocument(t *testing.T) {
	raw := recorded(t)
	d, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, raw) {
		t.Errorf("wrote\n%s", out)
	}
	if d.Workspace.Branch != "main" || len(d.Session.Commands) != 6 || d.Session.Commands[5].ExitCode != -9 {
		t.Errorf("read %+v", d)
	}
}

// A log that is told what the recorded agent did holds what it stored.
func TestLogKeepsWhatTheBridgeKeeps(t *testing.T) {
	d, err := Parse(recorded(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "x", "session.log")
	now := func() time.Time { return time.Unix(1700000000, 0) }
	l, err := OpenLog(path, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range d.Session.Conversation {
		l.Said(m.Role, m.Content, m.CmdID)
	}
	for _, c := range d.Session.Commands {
		out, errOut := c.Stdout, c.Stderr
		if strings.HasPrefix(c.Cmd, "head ") {
			out, errOut = strings.Repeat("x", 5000), strings.Repeat("y", 5000)
		}
		l.Ran(c.Cmd, c.ExitCode, out, errOut)
	}
	check := func(l *Log) {
		t.Helper()
		got, _ := json.Marshal(l.Session("/workspace"))
		want, _ := json.Marshal(d.Session)
		if !bytes.Equal(got, want) {
			t.Errorf("the log holds\n%s\nnot\n%s", got, want)
		}
		if n := l.Counts(); n != (Counts{4, 6, 11}) || l.StartedAt() != 1700000000 {
			t.Errorf("counts %+v, started %d", n, l.StartedAt())
		}
	}
	check(l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	// A torn last line costs itself alone.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"m":{"role":"us`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for range 2 {
		if l, err = OpenLog(path, nil, time.Now); err != nil {
			t.Fatal(err)
		}
		check(l)
		l.Close()
	}
	// A whole session replaces it.
	if l, err = OpenLog(path, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	lines := make([]string, 600)
	for i := range lines {
		lines[i] = strings.Repeat("l", i%7)
	}
	if err := l.Replace(Session{StartedAt: 7, Conversation: []Message{{Role: "user"}}, Scrollback: lines}); err != nil {
		t.Fatal(err)
	}
	l.Ran("true", 0, strings.Repeat("a\n \n", 30), "")
	l.Close()
	if l, err = OpenLog(path, nil, time.Now); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if n := l.Counts(); n != (Counts{1, 1, 500}) || l.StartedAt() != 7 {
		t.Errorf("counts %+v, started %d", n, l.StartedAt())
	}
	// 20 pieces: the empty one after the last newline, ten blank ones and nine lines.
	if s := l.Session("").Scrollback; strings.Join(s[490:], ",") != "$ true,a,a,a,a,a,a,a,a,a" {
		t.Errorf("the scrollback ends in %q", s[485:])
	}
}

func TestLogIsBounded(t *testing.T) {
	l, err := OpenLog(filepath.Join(t.TempDir(), "log"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	big := strings.Repeat("é", MaxMessageText/2+10)
	for range 40 {
		l.Said("user", big, "")
		l.Ran(big, 0, big, big)
	}
	if l.bytes > MaxLogBytes || l.Counts().Conversation == 0 || l.Counts().Commands == 0 {
		t.Errorf("%d bytes, %+v", l.bytes, l.Counts())
	}
	if info, err := os.Stat(l.path); err != nil || info.Size() > 4*MaxLogBytes {
		t.Errorf("the file: %v, %v", info, err)
	}
}

func TestVersions(t *testing.T) {
	for raw, want := range map[string]string{
		`{"version":2}`: "2", `{}`: "None", `{"version":null}`: "None", `{"version":"1"}`: "1", `{"version":false}`: "False", `{"version":1.5}`: "1.5",
	} {
		_, err := Parse([]byte(raw))
		if v, ok := errors.AsType[*VersionError](err); !ok || v.Version != want || err.Error() != "unsupported checkpoint version: "+want+" (expected 1)" {
			t.Errorf("%s: %v", raw, err)
		}
	}
	d, err := Parse([]byte(`{"version":1.0,"session":{"scrollback":["x"]},"platform":null}`))
	if err != nil || d.CheckpointID != "?" || d.SourceInstanceID != "?" || d.Timestamp != "?" || d.Workspace.Repository || len(d.Session.Scrollback) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	for _, raw := range []string{``, `[]`, `null`, `{"version":1,"session":[]}`, `{"version":1,"workspace":3}`} {
		if _, err := Parse([]byte(raw)); err == nil {
			t.Errorf("%q was taken", raw)
		}
	}
}

func TestNames(t *testing.T) {
	at := time.Date(2025, 1, 1, 0, 0, 1, 5000, time.FixedZone("", 3600))
	if id := NewID(at); !strings.HasPrefix(id, "20241231T230001Z-") || len(id) != 25 {
		t.Error(id)
	}
	if got := Timestamp(at); got != "2024-12-31T23:00:01.000005+00:00" {
		t.Error(got)
	}
	for url, want := range map[string][2]string{"s3://b/k/l": {"b", "k/l"}, "k/l": {"d", "k/l"}, "https://x": {"d", "https://x"}} {
		if b, k, err := ParseURL(url, "d"); err != nil || b != want[0] || k != want[1] {
			t.Error(url, b, k, err)
		}
	}
	for _, url := range []string{"s3://onlybucket", "s3://onlybucket/"} {
		if _, _, err := ParseURL(url, "d"); err == nil || err.Error() != "invalid s3 URI (no key): "+url {
			t.Error(err)
		}
	}
	for _, name := range []string{"../x", "/x", "a//b", "a/./b", "", ".git/config", "a/.GIT/hooks/x", ".git./x", "GIT~1/x", ".g\u200cit/x", ".git::$INDEX/x", "x\x00y", workPrefix + "1/a"} {
		if checkPath(name) == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, name := range []string{"a", "a/b c", ".gitignore", ".github/x", "-x", "git", "a\xffb", "a\nb", "..a/b.."} {
		if err := checkPath(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "-x", "a..b", "a b", "a.lock", "x/.y", "@", "a@{1}", "HEAD", "a\x7f"} {
		if checkRef(name) == nil {
			t.Errorf("the branch %q is taken", name)
		}
	}
}
