package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hanzoai/hanzod/client/clienttest"
)

// watched passes a daemon's TLS door on and counts what the client sends after its handshake, so that a test
// sees whether anything was sent before the certificate was trusted.
type watched struct {
	address string
	sent    atomic.Int64
}

// impostor is a door with a certificate of its own that reads what comes.
func impostor(t testing.TB, cert tls.Certificate) *watched {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &watched{address: l.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13})
			if s.HandshakeContext(context.Background()) == nil {
				n, _ := io.Copy(io.Discard, s)
				w.sent.Add(n)
			}
			s.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return w
}

func TestTrustOnFirstUse(t *testing.T) {
	t.Parallel()
	d := clienttest.New(t)
	r := d.Remote(t)
	home := t.TempDir()
	token := filepath.Join(home, "token")
	if err := os.WriteFile(token, []byte(clienttest.Secret), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "HOME="+home, "HANZOD_SOCKET=", "HANZOD_STATE_DIR=")
	known := filepath.Join(home, ".hanzo", "hanzoctl", "known-daemons.json")
	ask := func(address string, args ...string) *terminal {
		t.Helper()
		return onTerminalWith(t, env, append([]string{"--host", "hanzod://" + address, "--token-file", token, "health"}, args...)...)
	}
	const question = `Answer yes or no, or paste the fingerprint`

	// No, no answer, nonsense and another fingerprint trust nothing.
	for _, answer := range []string{"no\r", "\x04", "\x03", "perhaps\r\rno way\r", strings.Repeat("ab", 32) + "\r"} {
		tm := ask(r.Address)
		tm.until(r.Fingerprint + "(.|\n)*" + question)
		tm.press(answer)
		if code := tm.exit(); code != exitDenied {
			t.Errorf("%q: exit %d, %s", answer, code, tm.all.String())
		}
		if _, err := os.Stat(known); err == nil {
			t.Fatalf("%q is kept as trust", answer)
		}
	}
	if roles := r.Roles(); len(roles) > 0 {
		t.Fatalf("%d calls reached the daemon before it was trusted", len(roles))
	}
	// Nothing is sent while the question stands, nor after a no.
	cert := clienttest.Certificate(t)
	fake := impostor(t, cert)
	tm := ask(fake.address)
	tm.until(question)
	tm.press("no\r")
	tm.exit()
	if n := fake.sent.Load(); n != 0 {
		t.Errorf("%d bytes were sent to a daemon that is not trusted", n)
	}

	// Pasted with colons and in capitals it is the same; then it is known, also without a terminal.
	tm = ask(r.Address, "-o", "jsonl")
	tm.until(question)
	tm.press("SHA256:" + strings.ToUpper(r.Fingerprint[:2]) + ":" + r.Fingerprint[2:] + "\r")
	tm.until(`kept; from now on(.|\n)*"ok":true`)
	if code := tm.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if st, err := os.Stat(known); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	quiet := func(address string, args ...string) (string, int) {
		cmd := exec.Command("hanzoctl", append([]string{"--host", address, "--token-file", token, "health"}, args...)...)
		cmd.Env = env
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, code := quiet(r.Address); code != 0 {
		t.Errorf("exit %d, %s", code, out)
	}

	// Another certificate at the same address is refused, on a terminal too, and nothing is sent to it.
	text, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(text), r.Address, fake.address)
	if err := os.WriteFile(known, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	out, code := quiet(fake.address)
	if code != exitDenied || !strings.Contains(out, "ANOTHER CERTIFICATE") || !strings.Contains(out, "hanzoctl context untrust "+fake.address) {
		t.Errorf("exit %d, %s", code, out)
	}
	tm = ask(fake.address)
	if code := tm.exit(); code != exitDenied || strings.Contains(tm.all.String(), question) {
		t.Errorf("exit %d, %s", code, tm.all.String())
	}
	if n := fake.sent.Load(); n != 0 {
		t.Errorf("%d bytes were sent to an impostor", n)
	}
	// A flag wins.
	if err := os.WriteFile(known, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, code := quiet(r.Address, "--tls-fingerprint", strings.Repeat("cd", 32)); code != exitDenied || strings.Contains(out, "ANOTHER CERTIFICATE") {
		t.Errorf("exit %d, %s", code, out)
	}
	if out, code := quiet(r.Address, "--tls-ca", r.CertFile); code != 0 {
		t.Errorf("exit %d, %s", code, out)
	}

	// Forgotten, it is asked about again.
	cmd := exec.Command("hanzoctl", "context", "untrust", r.Address)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v, %s", err, out)
	}
	tm = ask(r.Address)
	tm.until(question)
	tm.press("yes\r")
	if code := tm.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	var k struct{ Daemons map[string]knownDaemon }
	if text, err := os.ReadFile(known); err != nil || json.Unmarshal(text, &k) != nil || k.Daemons[r.Address].Fingerprint != r.Fingerprint {
		t.Errorf("%v, %s", err, text)
	}
}

// The list of known daemons does not grow without end.
func TestKnownDaemonsAreBounded(t *testing.T) {
	home := t.TempDir()
	a := &app{getenv: func(name string) string {
		if name == "HOME" {
			return home
		}
		return ""
	}}
	k, err := a.loadKnown()
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxKnown {
		k.Daemons[hostPort("box", i+1)] = knownDaemon{Fingerprint: strings.Repeat("ab", 32)}
	}
	if err := k.trust("another:1", strings.Repeat("cd", 32)); err == nil || !strings.Contains(err.Error(), "untrust") {
		t.Errorf("got %v", err)
	}
	delete(k.Daemons, "box:1")
	if err := k.trust("another:1", strings.Repeat("cd", 32)); err != nil {
		t.Error(err)
	}
	again, err := a.loadKnown()
	if err != nil || len(again.Daemons) != maxKnown || again.Daemons["another:1"].Fingerprint != strings.Repeat("cd", 32) {
		t.Errorf("%v, %d daemons", err, len(again.Daemons))
	}
}
