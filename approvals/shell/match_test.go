package shell

import (
	"path/filepath"
	"strings"
	"testing"
)

func FuzzGlob(f *testing.F) {
	f.Add("/usr/**/r?", "/usr/bin/rg")
	f.Add("~/*", "/home/u/x")
	f.Fuzz(func(t *testing.T, pattern, target string) {
		m := Machine{Home: "/home/u"}
		if m.Match(pattern, target) && (filepath.Clean(target) != target || trim(pattern) == "") {
			t.Errorf("%q matched %q", pattern, target)
		}
		if !strings.ContainsAny(target, "*?~\\ ") && filepath.IsAbs(target) && filepath.Clean(target) == target &&
			len(target) < maxPattern && trim(target) == target && !m.Match(target, target) {
			t.Errorf("%q does not match itself", target)
		}
	})
}
