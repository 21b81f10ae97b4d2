package tunnels_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/nodes/host/tunnels"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// policy admits what is approved, or everything; the exec approvals file does the same in its modes.
type policy struct {
	host.Policy
	deny, free bool
}

func (p policy) Admit(_ *string, argv []string, _, _ string, approved bool) ([]string, bool, string, string, error) {
	if p.deny || !approved && !p.free {
		return nil, false, "approval-required", "SYSTEM_RUN_DENIED: approval required", nil
	}
	return argv, false, "", "", nil
}

// gateway is the other end of one link: it takes carriers.
type gateway struct {
	t     *testing.T
	ended chan struct{}
	auth  chan wire.HelloAuth
	srv   chan *mux.Session
}

func newGateway(t *testing.T) *gateway {
	return &gateway{t, make(chan struct{}), make(chan wire.HelloAuth, 8), make(chan *mux.Session, 8)}
}

func (g *gateway) carry(context.Context, string) (host.Carrier, error) {
	near, far := mux.Pipe()
	go func() {
		m, err := far.Read(context.Background())
		if err != nil {
			return
		}
		f, _, _ := wire.Next(m)
		var h wire.HelloBody
		if err := wire.Decode(f.Payload, &h); err != nil || h.Auth == nil {
			g.t.Errorf("HELLO %q, %v", f.Payload, err)
			_ = far.Close(1002, "")
			return
		}
		g.auth <- *h.Auth
		ok, _ := wire.AppendBody(nil, wire.HelloOK, 0, wire.HelloOKBody{SessionID: "S-1", StreamWindow: 1 << 20, SessionWindow: 4 << 20, Capabilities: []string{wire.Hanzod1}})
		_ = far.Write(net.Buffers{ok})
		srv := mux.New(mux.Config{StreamWindow: 1 << 20, SessionWindow: 4 << 20, Hanzod1: true})
		if err := srv.Add(0, far, nil); err != nil {
			g.t.Error(err)
		}
		g.srv <- srv
	}()
	return near, nil
}

func (g *gateway) ask(m *tunnels.Module, command, params string) host.Result {
	return m.Handle(context.Background(), host.Request{Command: command, ParamsJSON: &params, Ended: g.ended, Carry: g.carry})
}

func TestWhoIsAdmitted(t *testing.T) {
	for _, tc := range []struct {
		name   string
		p      policy
		allow  []string
		params string
		want   string // the code of the refusal
	}{
		{"loopback, approved", policy{}, nil, `{"id":1,"host":"127.0.0.1","port":80,"carrier":"x","approved":true}`, ""},
		{"by name", policy{}, nil, `{"id":1,"host":"localhost","port":80,"carrier":"x","approvalDecision":"allow-once"}`, ""},
		{"IPv6", policy{}, nil, `{"id":1,"host":"::1","port":80,"carrier":"x","approved":true}`, ""},
		{"free", policy{free: true}, nil, `{"id":1,"host":"127.0.0.1","port":80,"carrier":"x"}`, ""},
		{"what it exposes", policy{}, nil, `{"id":1,"host":"127.0.0.1","port":3000,"carrier":"x"}`, ""},
		{"not approved", policy{}, nil, `{"id":1,"host":"127.0.0.1","port":80,"carrier":"x"}`, "DENIED"},
		{"approved by another word", policy{}, nil, `{"id":1,"host":"127.0.0.1","port":80,"carrier":"x","Approved":true}`, "DENIED"},
		{"denied", policy{deny: true}, nil, `{"id":1,"host":"127.0.0.1","port":80,"carrier":"x","approved":true}`, "DENIED"},
		{"beyond loopback", policy{free: true}, nil, `{"id":1,"host":"192.0.2.1","port":80,"carrier":"x","approved":true}`, "DENIED"},
		{"any address", policy{free: true}, nil, `{"id":1,"host":"0.0.0.0","port":80,"carrier":"x","approved":true}`, "DENIED"},
		{"allowed target", policy{free: true}, []string{"192.0.2.1:80"}, `{"id":1,"host":"192.0.2.1","port":80,"carrier":"x"}`, ""},
		{"another port of it", policy{free: true}, []string{"192.0.2.1:80"}, `{"id":1,"host":"192.0.2.1","port":81,"carrier":"x"}`, "DENIED"},
		{"allowed host", policy{free: true}, []string{"DB.lan:*"}, `{"id":1,"host":"db.lan","port":81,"carrier":"x"}`, ""},
		{"allowed port", policy{free: true}, []string{"*:5432"}, `{"id":1,"host":"db.lan","port":5432,"carrier":"x"}`, ""},
		{"everything allowed, nothing approved", policy{}, []string{"*"}, `{"id":1,"host":"db.lan","port":5432,"carrier":"x"}`, "DENIED"},
		{"no id", policy{free: true}, nil, `{"host":"127.0.0.1","port":80}`, "INVALID_PARAMS"},
		{"no port", policy{free: true}, nil, `{"id":1,"host":"127.0.0.1"}`, "INVALID_PARAMS"},
		{"half a port", policy{free: true}, nil, `{"id":1,"host":"127.0.0.1","port":0.5}`, "INVALID_PARAMS"},
		{"no host", policy{free: true}, nil, `{"id":1,"port":80}`, "INVALID_PARAMS"},
		{"user info", policy{free: true}, []string{"*"}, `{"id":1,"host":"a@b","port":80}`, "INVALID_PARAMS"},
		{"no object", policy{free: true}, nil, `[1]`, "INVALID_PARAMS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := newGateway(t)
			m, err := tunnels.New(tunnels.Config{Policy: tc.p, Allow: tc.allow, Exposed: []tunnels.Exposure{{Name: "web", Address: "127.0.0.1:3000", Protocol: "http"}}})
			if err != nil {
				t.Fatal(err)
			}
			r := g.ask(m, "tunnel.open", tc.params)
			if got := r.Error; (tc.want == "") != r.OK || got != nil && got.Code != tc.want {
				t.Errorf("%+v, %+v", r, got)
			}
			if r.OK {
				if a := <-g.auth; a.Kind != "node" || a.Token != "x" {
					t.Errorf("%+v", a)
				}
				defer func(s *mux.Session) { _ = s.Close(1000, ""); s.Wait() }(<-g.srv)
			}
			close(g.ended)
			m.Close()
		})
	}
	for _, bad := range []string{"", "host", "host:", ":80", "*:x", "**:80", "a@b:80", "host:70000"} {
		if tunnels.ParseAllow(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for text, want := range map[string]string{"web=http:8080": "127.0.0.1:8080", "db=tcp:db.lan:5432": "db.lan:5432", "ws=web_socket:[::1]:1": "[::1]:1", "x=udp:1": "", "http:1": "", "=http:1": "", "x=http:": ""} {
		if x, err := tunnels.ParseExposure(text); x.Address != want || (want == "") != (err != nil) {
			t.Errorf("%q: %+v, %v", text, x, err)
		}
	}
}

// TestStreams: what was admitted is reached under its id until it is taken back; a new link begins with nothing, and
// may have again what was approved.
func TestStreams(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	m, err := tunnels.New(tunnels.Config{Policy: policy{}, Idle: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t)
	open := fmt.Sprintf(`{"id":5,"host":"127.0.0.1","port":%d,"carrier":"x","approved":true}`, port)
	if r := g.ask(m, "tunnel.open", open); !r.OK {
		t.Fatal(r.Error)
	}
	srv := <-g.srv
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reach := func(srv *mux.Session, id int, host string) error {
		st, err := srv.Open(ctx, wire.StreamOpenBody{Kind: "dial", BindID: id, Host: host, Port: port})
		if err != nil {
			return err
		}
		defer st.Close()
		if _, err := st.Accepted(ctx); err != nil {
			return err
		}
		_, _ = io.WriteString(st, "x")
		_ = st.CloseWrite()
		got, err := io.ReadAll(st)
		if err == nil && string(got) != "x" {
			err = errors.New("other bytes")
		}
		return err
	}
	refused := func(err error) bool {
		var reset *mux.ResetError
		return errors.As(err, &reset) && strings.Contains(reset.Reason, "tunnel.open")
	}
	if err := reach(srv, 5, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	if err := reach(srv, 6, "127.0.0.1"); !refused(err) {
		t.Errorf("another id: %v", err)
	}
	if err := reach(srv, 5, "localhost"); !refused(err) {
		t.Errorf("another host: %v", err)
	}
	if r := g.ask(m, "tunnel.list", "{}"); !r.OK || *r.PayloadJSON != fmt.Sprintf(`{"carrier":true,"tunnels":[{"id":5,"host":"127.0.0.1","port":%d}]}`, port) {
		t.Errorf("%+v", r)
	}
	// The link is lost: the next one has nothing, until the gateway asks again.
	close(g.ended)
	select {
	case <-srv.Done():
	case <-ctx.Done():
		t.Fatal("the carrier outlives the link")
	}
	srv.Wait()
	g = newGateway(t)
	if r := g.ask(m, "tunnel.list", "{}"); !r.OK || *r.PayloadJSON != `{"carrier":false,"tunnels":[]}` {
		t.Errorf("%+v", r)
	}
	unmarked := strings.Replace(open, `,"approved":true`, "", 1)
	if r := g.ask(m, "tunnel.open", strings.Replace(unmarked, `"id":5`, `"id":9`, 1)); r.OK {
		t.Error("another id has what was not approved under it")
	}
	if r := g.ask(m, "tunnel.open", unmarked); !r.OK {
		t.Fatal(r.Error)
	}
	srv = <-g.srv
	if err := reach(srv, 5, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	// Taken back, it is refused, and a carrier without targets ends.
	if r := g.ask(m, "tunnel.close", `{"id":5}`); !r.OK {
		t.Error(r.Error)
	}
	if err := reach(srv, 5, "127.0.0.1"); !refused(err) {
		t.Errorf("after tunnel.close: %v", err)
	}
	select {
	case <-srv.Done():
	case <-ctx.Done():
		t.Fatal("an idle carrier stays")
	}
	srv.Wait()
	if r := g.ask(m, "tunnel.open", unmarked); r.OK {
		t.Error("what was taken back is had again without an approval")
	}
	if r := g.ask(m, "tunnel.open", open); !r.OK {
		t.Error(r.Error)
	}
	select {
	case srv = <-g.srv:
	case <-ctx.Done():
		t.Fatal("no carrier was opened again")
	}
	close(g.ended)
	m.Close()
	<-srv.Done()
	srv.Wait()
}
