//go:build !windows

package tailnet

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"testing"
	"time"
)

const twoMachines = `{"BackendState":"Running","MagicDNSSuffix":"old.ts.net","CurrentTailnet":{"MagicDNSSuffix":"tail1.ts.net"},
 "Self":{"DNSName":"laptop.tail1.ts.net.","HostName":"laptop","TailscaleIPs":["100.64.0.1","fd7a:115c:a1e0::1"]},
 "Peer":{"nodekey:a":{"DNSName":"Box.tail1.ts.net.","HostName":"something","TailscaleIPs":["100.64.0.2"],"Online":true},
         "nodekey:b":{"DNSName":"box.other.ts.net.","HostName":"box","TailscaleIPs":["100.64.0.3"]},
         "nodekey:c":{"DNSName":"evil.tail1.ts.net.","HostName":"box","TailscaleIPs":["100.64.0.4","192.0.2.7"]},
         "nodekey:d":null}}`

// A machine is found by what the tailnet calls it, never by what it calls itself.
func TestFind(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/localapi/v0/status" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, twoMachines)
	})
	st, err := New(s.path, time.Now).Status(t.Context())
	if err != nil || !st.Running() || st.Suffix != "tail1.ts.net" {
		t.Fatalf("%+v, %v", st, err)
	}
	for host, want := range map[string]string{
		"box": "100.64.0.2", "BOX.": "100.64.0.2", "box.tail1.ts.net": "100.64.0.2", "box.other.ts.net": "100.64.0.3",
		"100.64.0.3": "100.64.0.3", "::ffff:100.64.0.3": "100.64.0.3", "laptop": "100.64.0.1", "fd7a:115c:a1e0::1": "100.64.0.1",
		"something": "", "": "", "192.0.2.7": "", "100.64.0.99": "", "box.tail1": "", "127.0.0.1": "",
	} {
		p, err := st.Find(host)
		if want == "" {
			if !errors.Is(err, ErrNoPeer) {
				t.Errorf("%q is %+v", host, p)
			}
			continue
		}
		if err != nil || p.Addrs[0].String() != want {
			t.Errorf("%q is %+v, %v", host, p, err)
		}
	}
	for _, p := range st.Peers {
		for _, a := range p.Addrs {
			if !Contains(a) {
				t.Errorf("%s is none of the tailnet", a)
			}
		}
	}
}

func TestStatusFails(t *testing.T) {
	for name, reply := range map[string]http.HandlerFunc{
		"no JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"denied":  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) },
	} {
		if _, err := New(newService(t, reply).path, time.Now).Status(t.Context()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The service connects where it can, and only within the tailnet.
func TestDial(t *testing.T) {
	s := newService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Dial-Host") != "100.64.0.2" || r.Header.Get("Dial-Port") != "18790" || r.Header.Get("Upgrade") != "ts-dial" {
			http.Error(w, "dial failure: nobody there", http.StatusBadGateway)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: ts-dial\r\nConnection: upgrade\r\n\r\nhello "))
		line, _ := rw.ReadString('\n')
		_, _ = conn.Write([]byte(line))
	})
	c := New(s.path, time.Now)
	conn, err := c.Dial(t.Context(), netip.MustParseAddrPort("100.64.0.2:18790"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "you\n"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello you\n" {
		t.Errorf("%q, %v", got, err)
	}
	before := s.asked.Load()
	if _, err := c.Dial(t.Context(), netip.MustParseAddrPort("192.0.2.1:18790")); err == nil || s.asked.Load() != before {
		t.Error("the service is asked for what is outside the tailnet")
	}
	if _, err := c.Dial(t.Context(), netip.MustParseAddrPort("100.64.0.3:18790")); err == nil {
		t.Error("a connection to nobody")
	}
	stuck := newService(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := New(stuck.path, time.Now).Dial(ctx, netip.MustParseAddrPort("100.64.0.2:1")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
