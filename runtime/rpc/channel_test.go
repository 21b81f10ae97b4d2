package rpc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/gate"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/system"
)

// open lets every node in.
type openDevices struct{ devicesOf }

func (openDevices) Admit(_ context.Context, a identity.Attempt) (identity.Admission, error) {
	return identity.Admission{Platform: a.Platform, DeviceFamily: a.DeviceFamily}, nil
}

func (openDevices) Confirm(identity.Caller, identity.Admission) error { return nil }

type noPresence struct{}

func (noPresence) Join(system.Party) string { return "" }
func (noPresence) Leave(string)             {}

type noStore struct{ nodes.Store }

func (noStore) NodeName(string) (string, error)                             { return "", nil }
func (noStore) VoiceWake() ([]string, error)                                { return nil, nil }
func (noStore) Registration(string) (r nodes.Registration, _ bool, _ error) { return r, false, nil }

func (noStore) Pairings() ([]nodes.PairingRequest, []nodes.Pairing, error) { return nil, nil, nil }
func (noStore) Pairing(string) (p nodes.Pairing, _ bool, _ error)          { return p, false, nil }

func (noStore) UpdatePairings(context.Context, func(nodes.PairingTx) error) error { return nil }

type nobody struct{}

func (nobody) PairedNodes() []nodes.Node { return nil }

// gateway is a daemon's node service behind a real local socket.
type gateway struct {
	svc    *nodes.Service
	socket string
	server *rpc.Server
}

func newGateway(tb testing.TB) *gateway {
	tb.Helper()
	d := newDomain()
	catalogue, err := ops.Load()
	if err != nil {
		tb.Fatal(err)
	}
	svc := nodes.New(nodes.Config{
		Policy: nodes.NewPolicy([]string{"test.channel"}, nil), Guard: openGuard{}, Store: noStore{}, Bus: d.bus, Paired: nobody{}, Now: time.Now,
	})
	d.Nodes = svc
	s := rpc.New(rpc.Deps{
		Catalogue: catalogue, Gate: gate.New(), Nodes: svc, System: systemOf{domain: d}, Devices: openDevices{devicesOf{domain: d}},
		Presence: noPresence{}, Bus: d.bus, Render: func(events.Event) ([]byte, bool) { return nil, false },
		Now: time.Now, Log: slog.New(slog.DiscardHandler), Metrics: &observed{},
	})
	path := filepath.Join(shortDir(tb), "s")
	l, err := listen.Unix(tb.Context(), path)
	if err != nil {
		tb.Fatal(err)
	}
	g := s.GRPC(listen.PeerCredentials())
	served := make(chan error, 1)
	go func() { served <- g.Serve(listen.Watch(l)) }()
	tb.Cleanup(func() {
		s.Stop()
		g.Stop()
		<-served
		s.Wait()
		svc.Stop()
	})
	return &gateway{svc: svc, socket: path, server: s}
}

// shortDir is a directory whose path fits into a socket address.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "hz")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// attach links a node that serves test.channel with serve, in a goroutine for each request.
func (g *gateway) attach(tb testing.TB, id string, serve func(l *client.NodeLink, name string) (string, error)) *client.NodeLink {
	tb.Helper()
	c, err := client.Dial(tb.Context(), client.Options{Socket: g.socket, AsNode: true, ClientName: "test"})
	if err != nil {
		tb.Fatal(err)
	}
	l, err := c.AttachNode(tb.Context(), client.NodeOptions{
		Registration: &nodesv1.NodeRegistration{InstanceId: id, ClientId: "node-host", Version: "1", Platform: "linux", Commands: []string{"test.channel"}},
		OnInvoke: func(l *client.NodeLink, i *nodesv1.NodeInvoke) {
			go func() {
				var p struct{ Channel string }
				_ = json.Unmarshal([]byte(i.GetParamsJson()), &p)
				answer, err := serve(l, p.Channel)
				r := &nodesv1.NodeResult{InvokeId: i.GetInvokeId(), Ok: err == nil, PayloadJson: &answer}
				if err != nil {
					r.Error = &nodesv1.NodeError{Code: "UNAVAILABLE", Message: err.Error()}
				}
				_ = l.Answer(r) // the link may be gone
			}()
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = l.Close(), c.Close() })
	return l
}

func (g *gateway) open(tb testing.TB, id string) (nodes.Channel, func(context.Context) (nodes.InvokeOut, error), error) {
	tb.Helper()
	return g.svc.OpenChannel(tb.Context(), identity.Internal(), nodes.InvokeIn{NodeID: id, Command: "test.channel", Params: []byte(`{"a":1}`)})
}

func TestChannelCarriesBothWays(t *testing.T) {
	g := newGateway(t)
	sum := make(chan [32]byte, 1)
	sent := make([]byte, 3<<20+17)
	rand.New(rand.NewSource(1)).Read(sent)
	g.attach(t, "n1", func(l *client.NodeLink, name string) (string, error) {
		ch, err := l.Channel(context.Background(), name)
		if err != nil {
			return "", err
		}
		if _, err := l.Channel(context.Background(), name); err == nil {
			t.Error("a name was taken twice")
		}
		h := sha256.New()
		if _, err := io.Copy(h, ch); err != nil {
			return "", err
		}
		sum <- [32]byte(h.Sum(nil))
		if _, err := io.Copy(ch, bytes.NewReader(sent)); err != nil {
			return "", err
		}
		if err := ch.CloseWrite(); err != nil {
			return "", err
		}
		return `{"done":true}`, ch.Close(nil) // what was written arrives all the same
	})
	ch, answer, err := g.open(t, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ch.Write(sent); n != len(sent) || err != nil {
		t.Fatal(n, err)
	}
	if err := ch.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := <-sum; got != sha256.Sum256(sent) {
		t.Error("the node got other bytes")
	}
	time.Sleep(20 * time.Millisecond) // the node has closed its side
	got, err := io.ReadAll(ch)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	out, err := answer(t.Context())
	if err != nil || string(out.Payload) != `{"done":true}` {
		t.Errorf("%s, %v", out.Payload, err)
	}
	if err := ch.Close(nil); err != nil {
		t.Error(err)
	}
	eventually(t, func() bool { return g.svc.Channels() == 0 })
}

func eventually(tb testing.TB, ok func() bool) {
	tb.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Fatal("it did not become true in time")
}

func TestChannelReasons(t *testing.T) {
	g := newGateway(t)
	ends := make(chan error, 1)
	g.attach(t, "n1", func(l *client.NodeLink, name string) (string, error) {
		ch, err := l.Channel(context.Background(), name)
		if err != nil {
			ends <- err // the daemon can have closed it before it was open
			return "", err
		}
		_, err = io.ReadAll(ch)
		ends <- err
		return "", ch.Close(errors.New("the disk is full"))
	})
	t.Run("of the node", func(t *testing.T) {
		ch, answer, err := g.open(t, "n1")
		if err != nil {
			t.Fatal(err)
		}
		if err := ch.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := <-ends; err != nil {
			t.Error(err)
		}
		if _, err := io.ReadAll(ch); !errors.Is(err, nodes.ErrChannelFailed) || !strings.Contains(err.Error(), "the disk is full") {
			t.Error(err)
		}
		if _, err := answer(t.Context()); err != nil {
			t.Error(err)
		}
	})
	t.Run("of the daemon", func(t *testing.T) {
		ch, _, err := g.open(t, "n1")
		if err != nil {
			t.Fatal(err)
		}
		_ = ch.Close(errs.New(errs.Denied, "the caller went away"))
		if err := <-ends; err == nil || !strings.Contains(err.Error(), "the caller went away") {
			t.Error(err)
		}
		if _, err := ch.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "the caller went away") {
			t.Error(err)
		}
	})
	eventually(t, func() bool { return g.svc.Channels() == 0 })
}

func TestChannelOfHostileNodes(t *testing.T) {
	g := newGateway(t)
	names := make(chan string, 1)
	goOn := make(chan struct{})
	g.attach(t, "asked", func(_ *client.NodeLink, name string) (string, error) {
		names <- name
		<-goOn
		return `{}`, nil
	})
	other := g.attach(t, "other", nil)
	done := make(chan error, 1)
	go func() {
		_, _, err := g.open(t, "asked")
		done <- err
	}()
	if _, err := other.Channel(t.Context(), <-names); err == nil || !strings.Contains(err.Error(), "no channel of this name") {
		t.Errorf("another node took the name: %v", err)
	}
	close(goOn)
	if err := <-done; !errors.Is(err, nodes.ErrChannelNotOpened) {
		t.Error(err)
	}
	if _, err := other.Channel(t.Context(), "nothing"); err == nil {
		t.Error("an unknown name was taken")
	}
	// Nobody without a link has channels.
	c, err := client.Dial(t.Context(), client.Options{Socket: g.socket, AsNode: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Nodes.Channel(t.Context())
	if err == nil {
		_, err = s.Recv()
	}
	if err == nil || !strings.Contains(err.Error(), "on the connection of its link") {
		t.Error(err)
	}
	if n := g.svc.Channels(); n != 0 {
		t.Error(n, "channels are left")
	}
}

// TestChannelFlood: a node that writes what nobody reads stops, and its other channels go on.
func TestChannelFlood(t *testing.T) {
	g := newGateway(t)
	wrote := make(chan int, 1)
	first := true
	g.attach(t, "n1", func(l *client.NodeLink, name string) (string, error) {
		ch, err := l.Channel(context.Background(), name)
		if err != nil {
			return "", err
		}
		if !first {
			_, err := io.Copy(ch, strings.NewReader("hello"))
			_ = ch.CloseWrite()
			return `{}`, err
		}
		first = false
		go func() {
			all, piece := 0, make([]byte, client.MaxPiece)
			for {
				n, err := ch.Write(piece)
				if all += n; err != nil {
					break
				}
				select {
				case wrote <- all:
				case <-wrote:
					wrote <- all
				}
			}
		}()
		return `{}`, nil
	})
	ch, _, err := g.open(t, "n1")
	if err != nil {
		t.Fatal(err)
	}
	last := -1
	eventually(t, func() bool {
		time.Sleep(100 * time.Millisecond)
		select {
		case n := <-wrote:
			last = n
			return false
		default:
			return last > 0
		}
	})
	if last > 4<<20 {
		t.Errorf("%d bytes went into a channel that nobody reads", last)
	}
	second, _, err := g.open(t, "n1")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(second); string(got) != "hello" || err != nil {
		t.Error(string(got), err)
	}
	_, _ = second.Close(nil), ch.Close(nil)
	eventually(t, func() bool { return g.svc.Channels() == 0 })
}

func TestChannelEndsWithItsLink(t *testing.T) {
	g := newGateway(t)
	l := g.attach(t, "n1", func(l *client.NodeLink, name string) (string, error) {
		_, err := l.Channel(context.Background(), name)
		return `{}`, err
	})
	ch, _, err := g.open(t, "n1")
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = l.Close() })
	if _, err := ch.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Error(err)
	}
	eventually(t, func() bool { return g.svc.Channels() == 0 })
}

func TestChannelEndsWithTheDaemon(t *testing.T) {
	g := newGateway(t)
	ended := make(chan error, 1)
	g.attach(t, "n1", func(l *client.NodeLink, name string) (string, error) {
		ch, err := l.Channel(context.Background(), name)
		if err == nil {
			_, err = io.ReadAll(ch)
		}
		ended <- err
		return `{}`, err
	})
	ch, _, err := g.open(t, "n1")
	if err != nil {
		t.Fatal(err)
	}
	g.server.Stop()
	if err := <-ended; err == nil {
		t.Error("the node saw no end")
	}
	if _, err := ch.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func BenchmarkChannel(b *testing.B) {
	g := newGateway(b)
	piece := make([]byte, client.MaxPiece)
	stop := make(chan struct{})
	g.attach(b, "n1", func(l *client.NodeLink, name string) (string, error) {
		ch, err := l.Channel(context.Background(), name)
		if err != nil {
			return "", err
		}
		go func() {
			<-stop
			_ = ch.Close(nil)
		}()
		for {
			if _, err := ch.Write(piece); err != nil {
				return "{}", nil
			}
		}
	})
	ch, _, err := g.open(b, "n1")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(client.MaxPiece)
	b.ResetTimer()
	count := &counting{left: b.N * client.MaxPiece}
	_, _ = ch.(io.WriterTo).WriteTo(count)
	b.StopTimer()
	close(stop)
	_ = ch.Close(nil)
}

type counting struct{ left int }

func (c *counting) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left <= 0 {
		return len(p), io.ErrShortWrite
	}
	return len(p), nil
}

// openGuard lets every call go as it is.
type openGuard struct{}

func (openGuard) GuardRun(_ context.Context, _ identity.Caller, _ string, params []byte) ([]byte, func(bool, []byte, error), error) {
	return params, func(bool, []byte, error) {}, nil
}

func (openGuard) AskCall(context.Context, identity.Caller, string, string, []byte, time.Duration, func(string, []string, string, []string, time.Time) error) error {
	return nil
}

func (openGuard) GuardCall(_ context.Context, _ identity.Caller, _, _ string, params []byte, _, _ bool) ([]byte, func(bool, []byte, error), error) {
	return params, func(bool, []byte, error) {}, nil
}
