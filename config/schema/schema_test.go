package schema

import (
	"strings"
	"testing"
)

func TestEveryKeyIsExplained(t *testing.T) {
	n := 0
	Root().Walk(func(path []string, f *Field) bool {
		n++
		if f.Help == "" || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("%s: help %q", strings.Join(path, "."), f.Help)
		}
		if f.Shown && f.Default == nil {
			t.Errorf("%s: no default to show", strings.Join(path, "."))
		}
		if f.Default != nil {
			var issues []Issue
			f.Type.check(f.Default, "", &issues)
			if len(issues) > 0 {
				t.Errorf("%s: the default is refused: %v", strings.Join(path, "."), issues)
			}
		}
		return true
	})
	if n < 1000 {
		t.Errorf("only %d keys", n)
	}
	t.Log(n, "keys")
}
