//go:build !windows

package tailnet

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is a Tailscale service on a socket.
type service struct {
	path  string
	asked atomic.Int64
	reply func(w http.ResponseWriter, r *http.Request)
}

func newService(t *testing.T, reply func(w http.ResponseWriter, r *http.Request)) *service {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	s := &service{path: filepath.Join(dir, "s"), reply: reply}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.reply(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
		_ = os.RemoveAll(dir)
	})
	return s
}

func whois(login string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "local-tailscaled.sock" || r.URL.Path != "/localapi/v0/whois" || r.Method != http.MethodGet {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if _, err := netip.ParseAddrPort(r.URL.Query().Get("addr")); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, `{"Node":{"Name":"laptop.tail1.ts.net."},"UserProfile":{"ID":1,"LoginName":%q,"DisplayName":"Ann"}}`, login)
	}
}

func TestLogin(t *testing.T) {
	for _, c := range []struct {
		name, addr string
		reply      func(http.ResponseWriter, *http.Request)
		want       string // "" for an error
	}{
		{"user", "100.64.0.9", whois("ann@example.com"), "ann@example.com"},
		{"version 6", "fd7a:115c:a1e0::9", whois("ann@example.com"), "ann@example.com"},
		{"mapped", "::ffff:100.64.0.9", whois("ann@example.com"), "ann@example.com"},
		{"machine without a user", "100.64.0.9", whois("tagged-devices"), ""},
		{"nobody", "100.64.0.9", whois(""), ""},
		{"outside the tailnet", "192.0.2.1", whois("ann@example.com"), ""},
		{"this machine", "127.0.0.1", whois("ann@example.com"), ""},
		{"not found", "100.64.0.9", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, ""},
		{"elsewhere", "100.64.0.9", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, ""},
		{"no JSON", "100.64.0.9", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, ""},
		{"too long", "100.64.0.9", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"UserProfile":{"LoginName":"ann"},"x":"` + strings.Repeat("x", maxAnswer) + `"}`))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newService(t, c.reply)
			got, err := New(s.path, time.Now).Login(t.Context(), netip.MustParseAddr(c.addr))
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	if _, err := New(filepath.Join(t.TempDir(), "none"), time.Now).Login(t.Context(), netip.MustParseAddr("100.64.0.9")); err == nil {
		t.Error("without a service somebody is known")
	}
}

// Answers are kept for a while, failures for a moment, and never many of them.
func TestCache(t *testing.T) {
	s := newService(t, whois("ann@example.com"))
	now := time.Now()
	c := New(s.path, func() time.Time { return now })
	a := netip.MustParseAddr("100.64.0.9")
	ask := func() { _, _ = c.Login(t.Context(), a) }
	ask()
	now = now.Add(cacheLife - 1)
	ask()
	if s.asked.Load() != 1 {
		t.Errorf("asked %d times", s.asked.Load())
	}
	s.reply = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }
	now = now.Add(1)
	ask()
	ask()
	if s.asked.Load() != 2 {
		t.Errorf("a failure is not kept: asked %d times", s.asked.Load())
	}
	s.reply = whois("bob@example.com")
	now = now.Add(failLife)
	if got, err := c.Login(t.Context(), a); got != "bob@example.com" {
		t.Errorf("%q, %v", got, err)
	}
	now = now.Add(-time.Hour) // the clock went back
	ask()
	if s.asked.Load() != 4 {
		t.Errorf("asked %d times", s.asked.Load())
	}
	for range 2 * maxCached {
		a = a.Next()
		ask()
	}
	if len(c.cache) > maxCached {
		t.Errorf("%d answers are kept", len(c.cache))
	}
}

// A service that hangs costs a bounded time, and who gives up leaves no answer behind.
func TestServiceHangs(t *testing.T) {
	release := make(chan struct{})
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		<-release
		whois("ann@example.com")(w, r)
	})
	c := New(s.path, time.Now)
	a := netip.MustParseAddr("100.64.0.9")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			if _, err := c.Login(ctx, a); err == nil {
				t.Error("an answer")
			}
		})
	}
	wg.Wait()
	close(release)
	if got, err := c.Login(t.Context(), a); got != "ann@example.com" {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	began := time.Now()
	stuck := newService(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	if _, err := New(stuck.path, time.Now).Login(t.Context(), a); err == nil || time.Since(began) > 2*askTimeout {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}
