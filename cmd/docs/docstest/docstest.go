// Package docstest checks what package docs writes for a program, by those who read it.
package docstest

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/cmd/docs"
)

// Check writes what belongs to a program twice and demands the same bytes; then man and mandoc read the
// pages, and bash, zsh and fish load the completions, where they are here. root makes the commands anew.
func Check(t *testing.T, root func() *cobra.Command) {
	t.Helper()
	date := time.Unix(1_700_000_000, 0).UTC()
	var dirs [2]string
	for i := range dirs {
		dirs[i] = t.TempDir()
		if err := docs.Write(root(), dirs[i], "1.2.3", date); err != nil {
			t.Fatal(err)
		}
	}
	files, other := read(t, dirs[0]), read(t, dirs[1])
	if len(files) < 10 || len(files) != len(other) {
		t.Fatalf("%d and %d files", len(files), len(other))
	}
	var pages []string
	for name, text := range files {
		if !bytes.Equal(text, other[name]) {
			t.Errorf("%s is another one the second time", name)
		}
		if strings.HasPrefix(name, "man/") {
			pages = append(pages, filepath.Join(dirs[0], name))
			for _, bad := range []string{`\\_`, `\\*`, "Auto generated"} {
				if bytes.Contains(text, []byte(bad)) {
					t.Errorf("%s holds %q", name, bad)
				}
			}
		}
	}
	name := root().Name()
	for _, c := range root().Commands() {
		section := ".1"
		if c.IsAdditionalHelpTopicCommand() {
			section = ".7"
		} else if !c.IsAvailableCommand() {
			continue
		}
		if text := files["man/"+name+"-"+c.Name()+section]; !bytes.Contains(text, []byte(`"2023-11-14" "`+name+` 1.2.3"`)) {
			t.Errorf("no page for %s, or not of that day and version: %.200s", c.Name(), text)
		}
	}
	t.Run("man", func(t *testing.T) {
		if _, err := exec.LookPath("groff"); err != nil {
			t.Skip("groff is not here")
		}
		// What man calls, with every warning; -mandoc knows pages of both kinds.
		quiet(t, nil, "groff", append([]string{"-mandoc", "-Tutf8", "-Kutf8", "-ww", "-z"}, pages...)...)
	})
	t.Run("mandoc", func(t *testing.T) {
		quiet(t, nil, "mandoc", append([]string{"-Tlint", "-Wwarning"}, pages...)...)
	})
	at := filepath.Join(dirs[0], "completions")
	t.Run("bash", func(t *testing.T) {
		out := quiet(t, []string{"FILE=" + filepath.Join(at, name+".bash")}, "bash", "--norc", "--noprofile", "-c", `. "$FILE" && complete -p `+name)
		if !strings.Contains(out, "-F __start_"+name) {
			t.Errorf("bash says %q", out)
		}
	})
	t.Run("zsh", func(t *testing.T) {
		out := quiet(t, []string{"DIR=" + at}, "zsh", "-f", "-c", `fpath=("$DIR" $fpath); autoload -Uz compinit && compinit -u -D && print $_comps[`+name+`] && autoload -Uz +X _`+name+` && whence -w _`+name)
		if !strings.Contains(out, "_"+name+"\n_"+name+": function") {
			t.Errorf("zsh says %q", out)
		}
	})
	t.Run("fish", func(t *testing.T) {
		out := quiet(t, []string{"FILE=" + filepath.Join(at, name+".fish")}, "fish", "--no-config", "-c", `source $FILE; and complete -c `+name)
		if !strings.Contains(out, "__"+name+"_perform_completion") && !strings.Contains(out, "__"+name+"_") {
			t.Errorf("fish says %q", out)
		}
	})
}

// quiet runs a program that must find no fault, and returns what it says.
func quiet(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not here", name)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = append(append(os.Environ(), "HOME="+t.TempDir(), "LC_ALL=C.UTF-8"), env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil || errOut.Len() > 0 {
		t.Errorf("%s: %v\n%s%s", name, err, out.String(), errOut.String())
	}
	return out.String()
}

// read returns the files below a directory.
func read(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err == nil {
			out[filepath.ToSlash(name)], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
