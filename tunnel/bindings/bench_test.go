package bindings

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// muxed is the other end of a session in memory that gives raw streams to a target.
type muxed struct{ s *mux.Session }

func (m muxed) Raw() bool { return true }

func (m muxed) Open(ctx context.Context, in OpenIn) (Stream, error) {
	return m.s.Open(ctx, wire.StreamOpenBody{Kind: in.Kind, BindID: in.BindID})
}

// joined returns the server's end of a session whose other end leads to a target.
func joined(t testing.TB, target string) muxed {
	t.Helper()
	server, far := mux.New(mux.Config{Hanzod1: true}), mux.New(mux.Config{Client: true, Hanzod1: true, Open: func(st *mux.Stream, _ wire.StreamOpenBody) error {
		go func() {
			c, err := net.Dial("tcp", target)
			if err != nil {
				_ = st.Reset(wire.CodeRefused, "local connect failed")
				return
			}
			join(c, st)
		}()
		return nil
	}})
	a, b := mux.Pipe()
	if err := server.Add(0, a, nil); err != nil {
		t.Fatal(err)
	}
	if err := far.Add(0, b, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = server.Close(1000, ""), far.Close(1000, "") })
	return muxed{server}
}

// BenchmarkVisitors measures requests with 64 in flight through an exposed port: visitor, port, tunnel in memory,
// target and back (performance P21).
func BenchmarkVisitors(b *testing.B) {
	at := listens(b, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	s := tunnels(b, nil)
	out, err := s.Bind(context.Background(), owner, BindIn{TunnelID: "S-1", BindID: 1, Kind: KindHTTP, Mode: ModeExpose, Upstream: joined(b, at)})
	if err != nil {
		b.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := c.Get(out.url("/"))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK {
				b.Error(res.Status)
				return
			}
		}
	})
	s.evict(s.share("S-1"))
}
