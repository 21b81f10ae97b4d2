//go:build !windows

package tailnet

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"tailnet://box": "box 18790", "box": "box 18790", "tailnet://Box.Tail1.ts.net.": "box.tail1.ts.net 18790", "tailnet://box:7": "box 7",
		"100.64.0.2": "100.64.0.2 18790", "tailnet://[fd7a:115c:a1e0::1]:9": "fd7a:115c:a1e0::1 9", "fd7a:115c:a1e0::1": "fd7a:115c:a1e0::1 18790",
		"tailnet://": "", "": "", "ssh://box": "", "tailnet://box:0": "", "tailnet://box:65536": "", "tailnet://box:": "", "tailnet://a@box": "",
		"tailnet://box/x": "", "tailnet://box?x": "", "tailnet://box#x": "", "a b": "", "fe80::1%eth0": "", "tailnet://box:x": "", "..": "",
	} {
		host, port, err := ParseAddress(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q is %s %d", in, host, port)
			}
			continue
		}
		if got := host + " " + netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()[8:]; err != nil || got != want {
			t.Errorf("%q is %s, %v", in, got, err)
		}
	}
}

// tailscaled is a Tailscale service that connects 100.64.0.2 to a listener of ours.
func tailscaled(t *testing.T, state string, to net.Listener) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ts") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/status") {
			_, _ = io.WriteString(w, `{"BackendState":"`+state+`","MagicDNSSuffix":"x.ts.net","Peer":{"a":{"DNSName":"box.x.ts.net.","TailscaleIPs":["100.64.0.2"],"Online":true}}}`)
			return
		}
		out, err := net.Dial("tcp", to.Addr().String())
		if err != nil || r.Header.Get("Dial-Host") != "100.64.0.2" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer out.Close()
		in, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer in.Close()
		_, _ = io.WriteString(in, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: ts-dial\r\nConnection: upgrade\r\n\r\n")
		go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
		_, _ = io.Copy(in, out)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); _ = os.RemoveAll(dir) })
	return path
}

func listening(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// Through the service of the machine a client gets to a server of gRPC, and tells others apart.
func TestThroughTheService(t *testing.T) {
	l := listening(t)
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	h, err := Connect(t.Context(), Options{Address: "tailnet://box", Socket: tailscaled(t, "Running", l)})
	if err != nil {
		t.Fatal(err)
	}
	if h.Target() != "tailnet://box" || !strings.Contains(h.Route(), "Tailscale service") {
		t.Errorf("%s %s", h.Target(), h.Route())
	}
	c, err := client.Dial(t.Context(), client.Options{Via: h})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.System.GetHealth(t.Context(), &systemv1.GetHealthRequest{})
	if e, ok := errors.AsType[*client.Error](err); !ok || !strings.Contains(e.Message, "unknown service") {
		t.Errorf("%v", err) // it is answered by a server of gRPC that is no daemon
	}
	nowhere, err := h.Other("tailnet://else")
	if err != nil {
		t.Fatal(err)
	}
	fails(t, nowhere, CodeNoPeer, "else")
}

func fails(t *testing.T, h *Host, code, part string) {
	t.Helper()
	_, err := h.Dial(t.Context())
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != code || !strings.Contains(e.Message, part) {
		t.Errorf("%v", err)
	}
}

func TestWhatElseAnswers(t *testing.T) {
	for name, first := range map[string]string{"silent": "", "TLS only": "HTTP/1.0 400 Bad Request\r\n\r\n", "SSH": "SSH-2.0-OpenSSH_9\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := listening(t)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = io.WriteString(c, first)
				}
			}()
			h, err := Connect(t.Context(), Options{Address: "box:18790", Socket: tailscaled(t, "Running", l)})
			if err != nil {
				t.Fatal(err)
			}
			fails(t, h, CodeOther, "hanzod://box:18790")
		})
	}
}

// Without a service that is logged in, a build without the tag says what to do.
func TestNoService(t *testing.T) {
	for socket, part := range map[string]string{
		filepath.Join(t.TempDir(), "none"):        "no Tailscale service answers",
		tailscaled(t, "NeedsLogin", listening(t)): "tailscale up",
	} {
		_, err := Connect(t.Context(), Options{Address: "box", Socket: socket})
		e, ok := errors.AsType[*client.Error](err)
		if !ok || e.Code != CodeNoService || !strings.Contains(e.Message, part) {
			t.Errorf("%v", err)
		}
		if !Built && !strings.Contains(e.Message, "make dist") {
			t.Errorf("%v does not name the build", err)
		}
	}
}
