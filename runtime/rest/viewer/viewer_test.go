package viewer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// TestUnchanged: noVNC is what its pinned release holds, with nothing added.
func TestUnchanged(t *testing.T) {
	sums, err := os.ReadFile("novnc.sha256")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(sums)); lines.Scan(); {
		sum, name, _ := strings.Cut(lines.Text(), "  ")
		want[path.Join("novnc", name)] = sum
	}
	if len(want) < 50 || want["novnc/LICENSE.txt"] == "" || want["novnc/third_party/pako/LICENSE"] == "" {
		t.Fatalf("%d files are listed, or a license is not", len(want))
	}
	err = fs.WalkDir(files, "novnc", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := files.ReadFile(name)
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want[name] {
			t.Errorf("%s is not what update.sh put there", name)
		}
		delete(want, name)
		return err
	})
	if err != nil || len(want) > 0 {
		t.Error(err, want)
	}
}

var imports = regexp.MustCompile(`(?m)^(?:import|export) (?:[^"';]* from )?["']([^"']+)["']`)

// TestEverythingIsThere follows what the page loads.
func TestEverythingIsThere(t *testing.T) {
	todo, seen := []string{"viewer.js", "viewer.css"}, map[string]bool{}
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		data, kind, ok := File(name)
		if !ok || kind == "" {
			t.Errorf("%s is not there", name)
		}
		for _, m := range imports.FindAllSubmatch(data, -1) {
			todo = append(todo, path.Join(path.Dir(name), string(m[1])))
		}
	}
	if len(seen) < 45 {
		t.Errorf("%d files are loaded", len(seen))
	}
	for _, name := range []string{"viewer.html", "novnc/LICENSE.txt", "novnc/../viewer.js", "novnc/core/../core/rfb.js", "", "viewer.go", "/viewer.js", "novnc/vendor/../core/rfb.js"} {
		if _, _, ok := File(name); ok {
			t.Errorf("%q is served", name)
		}
	}
	if html := string(Page()); strings.Contains(html, "<script>") || strings.Contains(html, "onclick") || strings.Contains(html, "style=") {
		t.Error("the page holds a script or a style, which its policy forbids")
	}
}

func TestSignIn(t *testing.T) {
	page, policy := SignIn()
	if !bytes.Contains(page, []byte("vnc-viewer/session")) || strings.Count(policy, "'sha256-") != 2 || !strings.Contains(policy, "frame-ancestors 'self'") {
		t.Errorf("%s", policy)
	}
}
