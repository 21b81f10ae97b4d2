package client_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/clienttest"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

func dialRemote(t testing.TB, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func health(t testing.TB, c *client.Client) error {
	t.Helper()
	_, err := c.System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
	// A stream says the same.
	s, serr := c.Nodes.WatchNodes(t.Context(), &nodesv1.WatchNodesRequest{})
	if serr == nil {
		_, serr = s.Recv()
	}
	if fmt.Sprint(err) != fmt.Sprint(serr) {
		t.Errorf("a call says %v, a stream %v", err, serr)
	}
	return err
}

func TestRemote(t *testing.T) {
	d := clienttest.New(t)
	r := d.Remote(t)
	roots, err := client.ReadRoots(r.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(r.Address)
	for name, o := range map[string]client.Options{
		"pinned":            {Host: "hanzod://" + r.Address, TLSFingerprint: r.Fingerprint},
		"pinned in capital": {Host: r.Address, TLSFingerprint: "SHA256:" + strings.ToUpper(r.Fingerprint[:2]) + ":" + r.Fingerprint[2:]},
		"roots":             {Host: "localhost:" + port, Roots: roots},
		"roots by address":  {Host: r.Address, Roots: roots},
	} {
		o.Token = clienttest.Secret
		if err := health(t, dialRemote(t, o)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := dialRemote(t, client.Options{Host: r.Address, TLSFingerprint: r.Fingerprint, Token: clienttest.Secret, AsNode: true})
	if err := health(t, c); err != nil {
		t.Error(err)
	}
	if roles := r.Roles(); slices.Contains(roles[:8], "node") || !slices.Equal(roles[8:], []string{"node", "node"}) {
		t.Errorf("roles asked for: %q", roles)
	}
	if c.Target() != "hanzod://"+r.Address || c.Socket() != "" {
		t.Errorf("target %q, socket %q", c.Target(), c.Socket())
	}
}

// silent is a listener that keeps what clients send after a TLS handshake and says nothing.
type silent struct {
	net.Listener
	mu  sync.Mutex
	got []byte
}

func (s *silent) serve(handshake func(net.Conn) (net.Conn, error)) {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if c, err := handshake(c); err == nil {
				text, _ := io.ReadAll(io.LimitReader(c, 1<<16))
				s.mu.Lock()
				s.got = append(s.got, text...)
				s.mu.Unlock()
			}
		}()
	}
}

// TestRemoteRefusals: what is wrong is said, with what to do, and no secret leaves.
func TestRemoteRefusals(t *testing.T) {
	d := clienttest.New(t)
	r := d.Remote(t)
	other := strings.Repeat("ab", 32)
	quiet := log.New(io.Discard, "", 0)
	web := httptest.NewUnstartedServer(http.NotFoundHandler())
	web.Config.ErrorLog = quiet
	web.StartTLS()
	defer web.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	old.Config.ErrorLog = quiet
	old.StartTLS()
	defer old.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	webPin := client.Fingerprint(web.Certificate().Raw)
	for name, tc := range map[string]struct {
		o    client.Options
		code string
		text []string
	}{
		"wrong pin": {client.Options{Host: r.Address, TLSFingerprint: other}, client.CodeWrongPin,
			[]string{"pinned " + other, "presented " + r.Fingerprint, "nothing was sent"}},
		"unknown": {client.Options{Host: r.Address}, client.CodeUnknownDaemon, []string{r.Fingerprint, "nothing was sent"}},
		"not TLS": {client.Options{Host: plain.Listener.Addr().String(), TLSFingerprint: other}, client.CodeNotTLS, []string{"does not speak TLS"}},
		"no gRPC": {client.Options{Host: web.Listener.Addr().String(), TLSFingerprint: webPin}, client.CodeNotDaemon, []string{"no gRPC"}},
		"old TLS": {client.Options{Host: old.Listener.Addr().String(), TLSFingerprint: webPin}, client.CodeNotDaemon, []string{"TLS 1.3"}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.o.Token = clienttest.Secret
			err := health(t, dialRemote(t, tc.o))
			e, ok := errors.AsType[*client.Error](err)
			if !ok || e.Code != tc.code || e.Class != client.Denied {
				t.Fatalf("got %#v", err)
			}
			for _, want := range tc.text {
				if !strings.Contains(e.Message, want) {
					t.Errorf("%q is not in %q", want, e.Message)
				}
			}
		})
	}
	if len(r.Roles()) != 0 {
		t.Error("a call was let in")
	}
	for name, token := range map[string]string{"wrong token": "not-it", "no token": ""} {
		err := health(t, dialRemote(t, client.Options{Host: r.Address, TLSFingerprint: r.Fingerprint, Token: token}))
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Class != client.Unauthenticated || e.Code != "identity.bearer" {
			t.Errorf("%s: %#v", name, err)
		}
	}
	err = health(t, dialRemote(t, client.Options{Host: gone, TLSFingerprint: other}))
	if nr, ok := errors.AsType[*client.NotRunning](err); !ok || !nr.Remote || nr.Socket != gone || !strings.Contains(nr.Error(), "refused") {
		t.Errorf("nobody there: %#v", err)
	}
}

// TestRemoteKeepsTheToken: not one byte goes to a daemon that is not the pinned one.
func TestRemoteKeepsTheToken(t *testing.T) {
	cert := clienttest.Certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &silent{Listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve(func(c net.Conn) (net.Conn, error) {
			tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
			// A server of TLS 1.3 is done before it knows what the client says of its certificate.
			return tc, tc.Handshake()
		})
	}()
	err = health(t, dialRemote(t, client.Options{Host: l.Addr().String(), TLSFingerprint: strings.Repeat("ab", 32), Token: clienttest.Secret}))
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != client.CodeWrongPin {
		t.Errorf("got %#v", err)
	}
	l.Close()
	<-done
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.got) != 0 {
		t.Errorf("%d bytes were sent", len(s.got))
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"box": "box:18790", "hanzod://box": "box:18790", "hanzod://box/": "box:18790", " box:1 ": "box:1",
		"hanzod://10.0.0.9:65535": "10.0.0.9:65535", "hanzod://[::1]": "[::1]:18790", "[fe80::1]:7": "[fe80::1]:7",
	} {
		if got, err := client.ParseHost(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", "hanzod://", "https://box", "box:0", "box:65536", "box:x", "box:", "hanzod://box/path", ":1",
		"hanzod://SECRET@box", "hanzod://u:SECRET@box", "hanzod://box?token=SECRET", "hanzod://box#SECRET",
		"\x00", "hanzod://bo x",
	} {
		got, err := client.ParseHost(in)
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != client.CodeBadHost || e.Class != client.Invalid {
			t.Errorf("%q: %q, %v", in, got, err)
		} else if strings.Contains(e.Error(), "SECRET") {
			t.Errorf("%q: the error repeats the secret: %v", in, err)
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, s := range []string{"box", "hanzod://box:1", "hanzod://[::1]", "a://b", "hanzod://u@h", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := client.ParseHost(s)
		if err != nil {
			return
		}
		if again, err := client.ParseHost(got); err != nil || again != got {
			t.Errorf("%q gives %q, which gives %q, %v", s, got, again, err)
		}
	})
}

func TestParseFingerprint(t *testing.T) {
	pin := strings.Repeat("0a", 32)
	for _, in := range []string{pin, strings.ToUpper(pin), "sha256:" + pin, " SHA256:" + strings.Repeat("0A:", 31) + "0A\n"} {
		if got, err := client.ParseFingerprint(in); err != nil || got != pin {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "0a", pin + "0a", strings.Repeat("zz", 32)} {
		if _, err := client.ParseFingerprint(in); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	env := func(k string) string { return map[string]string{"B": " tok-env \n"}[k] }
	if got, err := client.ReadToken(file("good", "tok-file\n"), env, "B"); err != nil || got != "tok-file" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := client.ReadToken("", env, "A", "B"); err != nil || got != "tok-env" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := client.ReadToken("", env, "A"); err != nil || got != "" {
		t.Errorf("%q, %v", got, err)
	}
	for _, path := range []string{
		filepath.Join(dir, "none"), file("empty", "\n"), file("two", "SECRET-a\nSECRET-b\n"), file("large", strings.Repeat("SECRET", 20_000)), dir,
	} {
		got, err := client.ReadToken(path, env, "B")
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != client.CodeNoToken || strings.Contains(e.Error(), "SECRET") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
	_, err := client.Dial(t.Context(), client.Options{Host: "box", Token: "SECRET\r\nx: y"})
	if err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("a token with a line feed: %v", err)
	}
}

func TestAskCertificate(t *testing.T) {
	d := clienttest.New(t)
	r := d.Remote(t)
	cert, err := client.AskCertificate(t.Context(), "hanzod://"+r.Address, nil)
	if err != nil || cert.Fingerprint != r.Fingerprint || cert.Address != r.Address || cert.Vouched || cert.Reason == "" || cert.Until.IsZero() {
		t.Errorf("got %+v, %v", cert, err)
	}
	roots, err := client.ReadRoots(r.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(r.Address)
	if cert, err := client.AskCertificate(t.Context(), "localhost:"+port, roots); err != nil || !cert.Vouched {
		t.Errorf("with roots: %+v, %v", cert, err)
	}
	if n := len(r.Roles()); n != 0 {
		t.Errorf("%d calls were made", n)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	for address, code := range map[string]string{web.Listener.Addr().String(): client.CodeNotTLS, "https://x": client.CodeBadHost} {
		_, err := client.AskCertificate(t.Context(), address, nil)
		if e, ok := errors.AsType[*client.Error](err); !ok || e.Code != code {
			t.Errorf("%s: %v", address, err)
		}
	}
	_, err = client.AskCertificate(t.Context(), "127.0.0.1:1", nil)
	if _, ok := errors.AsType[*client.NotRunning](err); !ok {
		t.Errorf("nobody there: %v", err)
	}
}
