package listen

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shown connects to a certificate and returns what the client got.
func shown(t *testing.T, c *Certificate, cfg *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer func() { _, _ = a.Close(), b.Close() }()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, c.Config("h2"))
		err := s.Handshake()
		if err == nil {
			_, _ = io.WriteString(s, "x") // carries the ticket and ends the handshake of the client
		}
		_ = a.Close()
		done <- err
	}()
	s := tls.Client(b, cfg)
	err := s.Handshake()
	state := s.ConnectionState()
	_ = b.Close()
	<-done
	return state, err
}

func TestCertificateIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	f := TLSFiles{Generate: true, Names: []string{"192.0.2.7", "box.example", "bad\x00name"}}
	f.Cert, f.Key = DefaultTLSFiles(dir)
	c, err := LoadCertificate(f, time.Now, quiet())
	if err != nil || !c.Made {
		t.Fatalf("made %v, %v", c, err)
	}
	for p, want := range map[string]fs.FileMode{f.Key: 0o600, f.Cert: 0o600, filepath.Dir(f.Key): 0o700} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want && os.PathSeparator == '/' {
			t.Errorf("%s: %v, %v", p, st.Mode(), err)
		}
	}
	again, err := LoadCertificate(f, time.Now, quiet())
	if err != nil || again.Made || again.Fingerprint() != c.Fingerprint() {
		t.Errorf("the second start has another certificate: %v", err)
	}
	leaf := c.Leaf()
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "192.0.2.7", "box.example"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if left := time.Until(leaf.NotAfter); left < 9*365*24*time.Hour || leaf.IsCA {
		t.Errorf("valid for %v, CA %v", left, leaf.IsCA)
	}
	// Whoever holds the certificate can check it in the usual way.
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	if state, err := shown(t, c, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"h2"}}); err != nil || state.Version != tls.VersionTLS13 {
		t.Errorf("version %x, %v", state.Version, err)
	}
	if _, err := shown(t, c, &tls.Config{RootCAs: pool, ServerName: "localhost", MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 is spoken")
	}
}

// TestCertificateProblems: what cannot be used stops the start, says which file it is and is left as
// it was.
func TestCertificateProblems(t *testing.T) {
	good := TLSFiles{Generate: true}
	good.Cert, good.Key = DefaultTLSFiles(t.TempDir())
	other := TLSFiles{Generate: true}
	other.Cert, other.Key = DefaultTLSFiles(t.TempDir())
	for _, f := range []TLSFiles{good, other} {
		if _, err := LoadCertificate(f, time.Now, quiet()); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	junk, large := filepath.Join(dir, "junk"), filepath.Join(dir, "large")
	if err := os.WriteFile(junk, []byte("SECRET no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, make([]byte, maxCertificate+1), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	for name, tc := range map[string]struct {
		f    TLSFiles
		want string
	}{
		"nothing there":      {TLSFiles{Cert: none, Key: none}, "gateway.tls.autoGenerate"},
		"no key":             {TLSFiles{Cert: good.Cert, Key: none, Generate: true}, none},
		"no certificate":     {TLSFiles{Cert: none, Key: good.Key, Generate: true}, none},
		"key of another":     {TLSFiles{Cert: good.Cert, Key: other.Key}, "private key does not match"},
		"junk certificate":   {TLSFiles{Cert: junk, Key: good.Key}, junk},
		"junk key":           {TLSFiles{Cert: good.Cert, Key: junk}, junk},
		"large":              {TLSFiles{Cert: large, Key: good.Key}, "larger"},
		"junk authority":     {TLSFiles{Cert: good.Cert, Key: good.Key, CA: junk}, "gateway.tls.caPath"},
		"no authority":       {TLSFiles{Cert: good.Cert, Key: good.Key, CA: none}, none},
		"directory":          {TLSFiles{Cert: dir, Key: good.Key}, dir},
		"cannot be made":     {TLSFiles{Cert: filepath.Join(junk, "a", "c"), Key: filepath.Join(junk, "a", "k"), Generate: true}, junk},
		"key in certificate": {TLSFiles{Cert: good.Key, Key: good.Key}, good.Key},
	} {
		_, err := LoadCertificate(tc.f, time.Now, quiet())
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(none); err == nil {
		t.Error("a file was made")
	}
}

func TestCertificateWarnings(t *testing.T) {
	f := TLSFiles{Generate: true}
	f.Cert, f.Key = DefaultTLSFiles(t.TempDir())
	made := time.Now()
	var text strings.Builder
	log := slog.New(slog.NewTextHandler(&text, nil))
	if _, err := LoadCertificate(f, func() time.Time { return made }, log); err != nil || !strings.Contains(text.String(), "fingerprint=") {
		t.Errorf("%v, log %q", err, text.String())
	}
	if err := os.Chmod(f.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	for years, want := range map[int]string{0: "chmod 600", 10: "has expired"} {
		text.Reset()
		if _, err := LoadCertificate(f, func() time.Time { return made.AddDate(years, 0, years) }, log); err != nil || !strings.Contains(text.String(), want) {
			t.Errorf("after %d years: %v, log %q", years, err, text.String())
		}
	}
	text.Reset()
	if _, err := LoadCertificate(f, func() time.Time { return made.AddDate(10, 0, -20) }, log); err != nil || !strings.Contains(text.String(), "expires soon") {
		t.Errorf("%v, log %q", err, text.String())
	}
}

// TestCertificateReload: files that a tool has renewed are used without a restart, and files that
// cannot be used change nothing.
func TestCertificateReload(t *testing.T) {
	f := TLSFiles{Generate: true}
	f.Cert, f.Key = DefaultTLSFiles(t.TempDir())
	now := time.Now()
	var text strings.Builder
	c, err := LoadCertificate(f, func() time.Time { return now }, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	first := c.Fingerprint()
	if err := os.WriteFile(f.Cert, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c.current(); c.Fingerprint() != first {
		t.Error("the files were looked at too early")
	}
	now = now.Add(lookAgain)
	if c.current(); c.Fingerprint() != first || !strings.Contains(text.String(), "cannot be used") {
		t.Errorf("log %q", text.String())
	}
	if err := Generate(f, now); err != nil {
		t.Fatal(err)
	}
	now = now.Add(lookAgain)
	if c.current(); c.Fingerprint() == first || !strings.Contains(text.String(), c.Fingerprint()) {
		t.Errorf("the new certificate is not used; log %q", text.String())
	}
}

// TestCertificateChain: intermediates of caPath are shown, roots and strangers are not.
func TestCertificateChain(t *testing.T) {
	dir := t.TempDir()
	issue := func(name string, ca bool, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: ca, BasicConstraintsValid: true,
		}
		if parent == nil {
			parent, by = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	root, rootKey := issue("root", true, nil, nil)
	mid, midKey := issue("mid", true, root, rootKey)
	stranger, _ := issue("mid", true, nil, nil)
	leaf, leafKey := issue("box", false, mid, midKey)
	file := func(name, kind string, ders ...[]byte) string {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	private, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	c, err := LoadCertificate(TLSFiles{
		Cert: file("cert", "CERTIFICATE", leaf.Raw), Key: file("key", "PRIVATE KEY", private),
		CA: file("ca", "CERTIFICATE", stranger.Raw, root.Raw, mid.Raw),
	}, time.Now, quiet())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	state, err := shown(t, c, &tls.Config{RootCAs: pool, ServerName: "box", NextProtos: []string{"h2"}})
	if err != nil || len(state.PeerCertificates) != 2 {
		t.Errorf("%d certificates are shown, %v", len(state.PeerCertificates), err)
	}
}
