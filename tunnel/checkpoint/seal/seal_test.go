package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"
)

func keyFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sealed(t *testing.T, content string, to ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Seal(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(raw []byte, file string) (string, error) {
	r, err := Open(bytes.NewReader(raw), file)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(r)
	return string(b), err
}

func TestSeal(t *testing.T) {
	one, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	content := strings.Repeat("a secret conversation ", 10_000)
	raw := sealed(t, content, "# who may", "", one.Recipient().String(), string(ssh.MarshalAuthorizedKey(sshPub)))
	if bytes.Contains(raw, []byte("conversation")) {
		t.Error("the content is in clear")
	}
	for name, text := range map[string]string{"age": "# made today\n" + one.String() + "\n", "ssh": string(pem.EncodeToMemory(block))} {
		if got, err := read(raw, keyFile(t, text)); err != nil || got != content {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := read(raw, keyFile(t, other.String())); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another key: %v", err)
	}
	if _, err := read(raw, ""); !errors.Is(err, ErrNoKey) {
		t.Errorf("no key: %v", err)
	}
	mine := keyFile(t, one.String())
	for i := 0; i < len(raw); i += max(len(raw)/97, 1) {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if got, err := read(bad, mine); err == nil {
			t.Fatalf("byte %d is changed and %d bytes were read", i, len(got))
		}
		if got, err := read(raw[:i], mine); err == nil {
			t.Fatalf("cut at byte %d and %d bytes were read", i, len(got))
		}
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(mine, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := read(raw, mine); !errors.Is(err, ErrIdentity) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("a file that others may read: %v", err)
		}
	}
	for _, bad := range [][]string{{}, {"# nobody"}, {"age1nonsense"}, {one.String()}, {"ssh-ed25519 nonsense"}} {
		err := Check(bad)
		if !errors.Is(err, ErrRecipient) {
			t.Errorf("%q: %v", bad, err)
		} else if strings.Contains(err.Error(), one.String()) {
			t.Error("the error shows a secret key")
		}
	}
	for _, bad := range []string{"", "nonsense " + one.String(), "-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense"} {
		if _, err := read(raw, keyFile(t, bad)); !errors.Is(err, ErrIdentity) || strings.Contains(err.Error(), one.String()) {
			t.Errorf("identity file %.10q: %v", bad, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	h := Header{CheckpointID: "20250101T000001Z-00000001", SourceInstanceID: "a", Timestamp: "2025-01-01T00:00:00.000000+00:00", Sealed: Sealed{
		Size: 1, SHA256: strings.Repeat("a", 64), StoredSize: 2, StoredSHA256: strings.Repeat("b", 64), Owner: "local:0",
	}}
	raw, err := h.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":"1+age","sealed":{"size":-1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := Parse(raw)
		if err != nil {
			return
		}
		if !IsHeader(raw) || h.CheckpointID == "" || h.Sealed.Size < 0 {
			t.Fatalf("%+v", h)
		}
		again, err := h.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Parse(again); err == nil && back != h {
			t.Fatalf("%+v, then %+v", h, back)
		}
		_ = h.Time()
	})
}

func TestOthersRefuseAHeader(t *testing.T) {
	raw, err := Header{CheckpointID: "x", Sealed: Sealed{SHA256: strings.Repeat("a", 64), StoredSHA256: strings.Repeat("b", 64)}}.Marshal()
	if err != nil || !IsHeader(raw) || IsHeader([]byte(`{"version":1}`)) {
		t.Errorf("%s %v", raw, err)
	}
	if _, err := Parse([]byte(strings.Replace(string(raw), "1+age", "2+age", 1))); !errors.Is(err, ErrHeader) || !strings.Contains(err.Error(), "update") {
		t.Errorf("%v", err)
	}
}
