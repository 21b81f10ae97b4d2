package live

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNewer orders versions as semantic versions do.
func TestNewer(t *testing.T) {
	order := []string{"", "nonsense", "0.1.0-dev.2", "0.1.0-dev.10", "0.1.0-rc.1", "0.1.0", "0.1.10", "0.2.0", "1.0.0-alpha", "1.0.0"}
	for i, a := range order {
		for j, b := range order {
			want := i > j && i > 1
			if got := newer(a, b); got != want {
				t.Errorf("newer(%q, %q) = %v", a, b, got)
			}
		}
	}
}

// TestBuilds: the newest build of the channel and platform is found, and taken only as its checksum says.
func TestBuilds(t *testing.T) {
	dir := t.TempDir()
	var archive bytes.Buffer
	z := gzip.NewWriter(&archive)
	w := tar.NewWriter(z)
	for name, text := range map[string]string{"hanzod_2.0.0_linux_amd64/hanzod": "two", "hanzod_2.0.0_linux_amd64/deep/er/hanzod": "no"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	var sums strings.Builder
	put := func(name string, text []byte) {
		sum := sha256.Sum256(text)
		sums.WriteString(hex.EncodeToString(sum[:]) + "  " + name + "\n")
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("hanzod_1.0.0_linux_amd64", []byte("one"))
	put("hanzod_2.0.0_linux_amd64.tar.gz", archive.Bytes())
	put("hanzod_3.0.0_darwin_arm64.tar.gz", []byte("other"))
	put("hanzod_3.0.0-rc.1_linux_amd64", []byte("rc"))
	put("hanzod-tailnet_4.0.0_linux_amd64", []byte("other variant"))
	put("9.0.0_linux_amd64", []byte("no name"))
	if err := os.WriteFile(filepath.Join(dir, sumsName), []byte(sums.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ channel, current, want string }{
		{"stable", "0.1.0", "2.0.0"}, {"stable", "2.0.0", ""}, {"beta", "0.1.0", "3.0.0-rc.1"}, {"dev", "3.0.0", ""},
	} {
		b, ok, err := newest(dir, "hanzod", "linux", "amd64", c.channel, c.current)
		if err != nil || ok != (c.want != "") || b.version != c.want {
			t.Errorf("%+v: %+v %v %v", c, b, ok, err)
		}
	}
	b, _, err := newest(dir, "hanzod", "linux", "amd64", "stable", "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	file, err := b.take(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "two" {
		t.Errorf("the program is %q, %v", got, err)
	}
	if err := os.WriteFile(b.file, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.take(t.TempDir()); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a build that was changed is taken: %v", err)
	}
	if _, _, err := newest(t.TempDir(), "hanzod", "linux", "amd64", "stable", "0.1.0"); err == nil || !strings.Contains(err.Error(), sumsName) {
		t.Errorf("a directory without checksums: %v", err)
	}
}
