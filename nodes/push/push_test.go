package push_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/nodes/push"
	"github.com/hanzoai/hanzod/nodes/push/pushtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "00aa11bb22cc33dd44ee55ff66aa77bb88cc99dd00ee11ff22aa33bb44cc55dd"

func client(t *testing.T, cfg push.Config) *push.Client {
	t.Helper()
	c := push.New(cfg)
	t.Cleanup(c.Close)
	return c
}

func message() push.Message {
	return push.Message{
		Token: token, Topic: "ai.hanzo.app", Environment: push.Sandbox, Kind: "node.wake", NodeID: "n<1>", At: time.UnixMilli(1234), Reason: "node.invoke",
	}
}

// What goes over the wire (nodes-approvals.md §1.6).
func TestSend(t *testing.T) {
	s := pushtest.Start(t)
	c := client(t, s.Config())
	res, err := c.Send(context.Background(), message())
	if err != nil || !res.OK() || res.ID == "" || res.Reason != "" {
		t.Fatalf("%+v %v", res, err)
	}
	m := message()
	m.Alert, m.Environment, m.Kind, m.Reason = &push.Alert{Title: "T", Body: "B"}, push.Production, "push.test", ""
	if res, err := c.Send(context.Background(), m); err != nil || !res.OK() {
		t.Fatalf("%+v %v", res, err)
	}
	got := s.Got()
	bearer := got[0].Bearer
	for i, want := range []pushtest.Push{
		{Token: token, Kind: "background", Topic: "ai.hanzo.app", Priority: "5", Expires: "0",
			Body: `{"aps":{"content-available":1},"openclaw":{"kind":"node.wake","nodeId":"n\u003c1\u003e","ts":1234,"reason":"node.invoke"}}`},
		{Token: token, Kind: "alert", Topic: "ai.hanzo.app", Priority: "10", Expires: "0",
			Body: `{"aps":{"alert":{"title":"T","body":"B"},"sound":"default"},"openclaw":{"kind":"push.test","nodeId":"n\u003c1\u003e","ts":1234}}`},
	} {
		if bearer == "" || got[i].Bearer != bearer {
			t.Errorf("%d: the provider token is not used again", i)
		}
		got[i].Bearer, got[i].At = "", time.Time{}
		if got[i] != want {
			t.Errorf("%d: %+v\nwant %+v", i, got[i], want)
		}
	}
	m.Environment = "elsewhere"
	if _, err := c.Send(context.Background(), m); !errors.Is(err, push.ErrEnvironment) {
		t.Error(err)
	}
}

// A provider token is used for 50 minutes, and not when the clock was set back behind it.
func TestProviderToken(t *testing.T) {
	s := pushtest.Start(t)
	now := time.Now()
	cfg := s.Config()
	cfg.Now = func() time.Time { return now }
	c := client(t, cfg)
	for _, step := range []struct {
		by  time.Duration
		new bool
	}{{0, true}, {0, false}, {50*time.Minute - time.Second, false}, {time.Second, true}, {-time.Minute, true}} {
		now = now.Add(step.by)
		before := ""
		if got := s.Got(); len(got) > 0 {
			before = got[len(got)-1].Bearer
		}
		if res, err := c.Send(context.Background(), message()); err != nil || !res.OK() {
			t.Fatalf("%+v %v", res, err)
		}
		got := s.Got()
		if fresh := got[len(got)-1].Bearer != before; fresh != step.new {
			t.Errorf("%+v: a new token %v", step, fresh)
		}
	}
}

// What the service says to a push that it does not take.
func TestRefusals(t *testing.T) {
	s := pushtest.Start(t)
	c := client(t, s.Config())
	for _, a := range []struct {
		pushtest.Answer
		gone, hopeless bool
	}{
		{pushtest.Answer{Status: 410, Reason: "Unregistered"}, true, true},
		{pushtest.Answer{Status: 400, Reason: "BadDeviceToken"}, false, true},
		{pushtest.Answer{Status: 403, Reason: "ExpiredProviderToken"}, false, true},
		{pushtest.Answer{Status: 429, Reason: "TooManyRequests"}, false, false},
		{pushtest.Answer{Status: 503, Reason: "ServiceUnavailable"}, false, false},
	} {
		s.Say(func(pushtest.Push) pushtest.Answer { return a.Answer })
		res, err := c.Send(context.Background(), message())
		if err != nil || res.OK() || res.Status != a.Status || res.Reason != a.Reason || res.Gone() != a.gone || res.Hopeless() != a.hopeless {
			t.Errorf("%+v: %+v %v", a, res, err)
		}
	}
	// Another team's credentials.
	cfg := s.Config()
	cfg.TeamID = "OTHER"
	if res, err := client(t, cfg).Send(context.Background(), message()); err != nil || res.Status != 403 || res.Reason != "InvalidProviderToken" {
		t.Errorf("%+v %v", res, err)
	}
	other := pushtest.Start(t)
	cfg = s.Config()
	cfg.Key = other.Key
	if res, err := client(t, cfg).Send(context.Background(), message()); err != nil || res.Status != 403 {
		t.Errorf("another key: %+v %v", res, err)
	}
}

// Nothing that cannot work is sent, and no error shows a key or a phone's token.
func TestSecretsStayInside(t *testing.T) {
	s := pushtest.Start(t)
	key := func(v any) string {
		der, err := x509.MarshalPKCS8PrivateKey(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*push.Config)
		want   error
	}{
		"no team":      {func(c *push.Config) { c.TeamID = "" }, push.ErrNoCredentials},
		"no key id":    {func(c *push.Config) { c.KeyID = "" }, push.ErrNoCredentials},
		"no key":       {func(c *push.Config) { c.Key = "" }, push.ErrNoKey},
		"no file":      {func(c *push.Config) { c.Key, c.KeyErr = "", errors.New("no such file") }, push.ErrKey},
		"no PEM":       {func(c *push.Config) { c.Key = "sesame" }, push.ErrKey},
		"damaged":      {func(c *push.Config) { c.Key = strings.Replace(c.Key, "M", "N", 1) }, push.ErrKey},
		"RSA":          {func(c *push.Config) { c.Key = key(rsaKey) }, push.ErrKey},
		"another bend": {func(c *push.Config) { c.Key = key(p384) }, push.ErrKey},
		"on one line":  {func(c *push.Config) { c.Key = strings.ReplaceAll(c.Key, "\n", `\n`) }, nil},
	} {
		cfg := s.Config()
		c.change(&cfg)
		cl := client(t, cfg)
		_, err := cl.Send(context.Background(), message())
		if !errors.Is(cl.Ready(), c.want) || !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v", name, cl.Ready(), err)
		}
		if err != nil && cfg.Key != "" && strings.Contains(err.Error(), strings.Split(cfg.Key, "\n")[0]) {
			t.Errorf("%s shows the key: %v", name, err)
		}
		if text := fmt.Sprintf("%v %+v", cl, err); strings.Contains(text, "PRIVATE KEY") {
			t.Errorf("%s shows the key", name)
		}
	}
	// A host that is not there, one that is not trusted, one that speaks HTTP/1.1 only.
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	old.StartTLS()
	defer old.Close()
	untrusted := s.Config()
	untrusted.Roots = x509.NewCertPool()
	closed := s.Config()
	closed.Hosts = map[push.Environment]string{push.Sandbox: "https://" + gone.Addr().String()}
	http1 := s.Config()
	http1.Hosts = map[push.Environment]string{push.Sandbox: old.URL}
	http1.Roots = x509.NewCertPool()
	http1.Roots.AddCert(old.Certificate())
	for name, cfg := range map[string]push.Config{"untrusted": untrusted, "closed": closed, "HTTP/1.1": http1} {
		_, err := client(t, cfg).Send(context.Background(), message())
		if !errors.Is(err, push.ErrUnreachable) || strings.Contains(fmt.Sprintf("%v %+v", err, errors.Unwrap(err)), token) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A slow service holds up nobody longer than the caller wishes, and other pushes not at all; many go
// over one connection.
func TestSlowService(t *testing.T) {
	s := pushtest.Start(t)
	c := client(t, s.Config())
	slow := strings.Repeat("ab", 32)
	s.Say(func(p pushtest.Push) pushtest.Answer {
		if p.Token == slow {
			return pushtest.Answer{After: time.Hour}
		}
		return pushtest.Answer{}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		m := message()
		m.Token = slow
		_, err := c.Send(ctx, m)
		done <- err
	}()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if res, err := c.Send(context.Background(), message()); err != nil || !res.OK() {
				t.Errorf("%+v %v", res, err)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-done:
		t.Errorf("the slow one ended: %v", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, push.ErrUnreachable) {
		t.Error(err)
	}
}

// What is no answer is none of a push: large bodies, odd bodies, redirects.
func TestOddAnswers(t *testing.T) {
	s := pushtest.Start(t)
	for name, c := range map[string]struct {
		serve  http.HandlerFunc
		status int
		reason string
	}{
		"no JSON": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); fmt.Fprint(w, "<html>") }, 500, ""},
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			fmt.Fprint(w, strings.Repeat("x", 1<<20))
		}, 500, ""},
		"redirected": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, s.Hosts()[push.Sandbox], http.StatusTemporaryRedirect)
		}, 307, ""},
	} {
		srv := httptest.NewUnstartedServer(c.serve)
		srv.EnableHTTP2 = true
		srv.StartTLS()
		cfg := s.Config()
		cfg.Hosts = map[push.Environment]string{push.Sandbox: srv.URL}
		cfg.Roots = x509.NewCertPool()
		cfg.Roots.AddCert(srv.Certificate())
		cl := client(t, cfg)
		if res, err := cl.Send(context.Background(), message()); err != nil || res.Status != c.status || res.Reason != c.reason || res.OK() {
			t.Errorf("%s: %+v %v", name, res, err)
		}
		cl.Close()
		srv.Close()
	}
	if len(s.Got()) != 0 {
		t.Error("a redirect was followed")
	}
}
