package runtime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A node asks for the programs of skills every 90 seconds at most, and keeps what it had when there is no
// answer. Names that are not there do not count.
func TestSkillBins(t *testing.T) {
	dir, suffix := t.TempDir(), ""
	if os.PathSeparator == '\\' {
		suffix = ".exe"
	}
	for _, n := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, n+suffix), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	now, asked := time.Unix(1000, 0), 0
	s := newSkillBins(func() time.Time { return now })
	if got := s.list(); got != nil {
		t.Errorf("without a connection: %v", got)
	}
	answer, fail := []string{"one", "gone"}, error(nil)
	s.use(func(context.Context) ([]string, error) { asked++; return answer, fail })
	check := func(when string, questions int, names ...string) {
		t.Helper()
		got := s.list()
		if asked != questions || len(got) != len(names) {
			t.Fatalf("%s: asked %d times, got %v", when, asked, got)
		}
		for i, n := range names {
			if got[i].Name != n || filepath.Dir(got[i].Path) != dir {
				t.Errorf("%s: %v", when, got)
			}
		}
	}
	check("first", 1, "one")
	answer = []string{"one", "two"}
	now = now.Add(89 * time.Second)
	check("kept", 1, "one")
	now = now.Add(time.Second)
	check("asked again", 2, "one", "two")
	fail = errors.New("no")
	now = now.Add(time.Hour)
	check("no answer", 3, "one", "two")
	s.use(func(context.Context) ([]string, error) { asked++; return nil, nil })
	check("another gateway", 4)
}
