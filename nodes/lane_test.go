package nodes

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// attachLinked lets a linked instance in.
func (s *Service) attachLinked(tb testing.TB, id, version string, l *link, commands ...string) *Attachment {
	tb.Helper()
	l.svc, l.id = s, id
	a, _, err := s.Attach(Node{ID: id, InstanceID: id, Platform: "linux-x86_64", Version: version, Link: LinkTunnel}, commands, nil, l)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func (l *link) reply(r Request) ResultOut {
	out, _ := l.svc.Result(context.Background(), identity.Caller{Role: identity.RoleNode, NodeID: l.id}, ResultIn{NodeID: l.id, InvokeID: r.ID, OK: true, Payload: []byte("{}")})
	return out
}

// call is one invoke under way.
type pendingCall struct {
	err  chan error
	stop context.CancelFunc
}

func (s *Service) begin(in InvokeIn) pendingCall {
	ctx, stop := context.WithCancel(context.Background())
	p := pendingCall{make(chan error, 1), stop}
	go func() {
		_, err := s.Invoke(ctx, operator, in)
		p.err <- err
	}()
	synctest.Wait()
	return p
}

// A serial node has one command at a time, and the time of the next begins when it is sent.
func TestSerialNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		l := &link{}
		a := s.attachLinked(t, "bridge", "0.2.0", l, "exec.run", "status.get")
		status := InvokeIn{NodeID: "bridge", Command: "status.get"}
		first, second := s.begin(InvokeIn{NodeID: "bridge", Command: "exec.run"}), s.begin(status)
		if got := l.requests(); len(got) != 1 || got[0].Command != "exec.run" || string(got[0].Params) != "{}" {
			t.Fatalf("the node was sent %+v", got)
		}
		time.Sleep(40 * time.Second)
		l.reply(l.requests()[0])
		if err := <-first.err; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if len(l.requests()) != 2 {
			t.Fatal("the next command was not sent")
		}
		time.Sleep(14 * time.Second)
		l.reply(l.requests()[1])
		if err := <-second.err; err != nil {
			t.Errorf("after 14 s of its own: %v", err)
		}

		// What is given up still holds the place, until its answer comes late.
		short := time.Second
		late := s.begin(InvokeIn{NodeID: "bridge", Command: "exec.run", Timeout: &short})
		next := s.begin(status)
		if err := <-late.err; code(err) != "timeout" {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if n := len(l.requests()); n != 3 {
			t.Errorf("%d commands were sent while the node was busy", n)
		}
		if out := l.reply(l.requests()[2]); !out.Ignored {
			t.Error("a late answer was taken")
		}
		synctest.Wait()
		l.reply(l.requests()[3])
		if err := <-next.err; err != nil {
			t.Error(err)
		}

		// Who leaves the queue is never sent.
		busy, gone, after := s.begin(status), s.begin(InvokeIn{NodeID: "bridge", Command: "exec.run"}), s.begin(status)
		gone.stop()
		<-gone.err
		l.reply(l.requests()[4])
		<-busy.err
		synctest.Wait()
		if got := l.requests(); len(got) != 6 || got[5].Command != "status.get" {
			t.Errorf("%d commands, the last %q", len(got), got[len(got)-1].Command)
		}
		l.reply(l.requests()[5])
		<-after.err
		a.Detach()
		s.Stop()
	})
}

// A serial node takes 64 calls beside the one it works at. When it goes, all of them fail; other nodes
// notice nothing.
func TestSerialQueueBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService()
		silent, other := &link{}, &link{answer: says("{}")}
		a := s.attachLinked(t, "silent", "0.2.0", silent, "exec.run", "status.get")
		s.attachLinked(t, "other", "1.0", other, "status.get")
		var calls []pendingCall
		for range 65 {
			calls = append(calls, s.begin(InvokeIn{NodeID: "silent", Command: "exec.run"}))
		}
		_, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "silent", Command: "status.get"})
		if code(err) != "busy" || err.Error() != "node busy" {
			t.Errorf("the 66th call: %v", err)
		}
		if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "other", Command: "status.get"}); err != nil {
			t.Errorf("another node: %v", err)
		}
		// A node that never answers: each call gets its own time, one after the other.
		if err := <-calls[0].err; code(err) != "timeout" {
			t.Error(err)
		}
		synctest.Wait()
		if n := len(silent.requests()); n != 2 {
			t.Errorf("%d commands were sent", n)
		}
		a.Detach()
		for _, c := range calls[1:] {
			if err := <-c.err; code(err) != "disconnected" {
				t.Error(err)
			}
		}
		if n := len(silent.requests()); n != 2 {
			t.Errorf("%d commands were sent after the end", n)
		}
		if s.InFlight() != 0 {
			t.Error("calls are left")
		}
		s.Stop()
	})
}

// Calls of many callers to a serial node that answers them each get one answer.
func TestSerialUnderLoad(t *testing.T) {
	s := newService()
	l := &link{}
	var at sync.WaitGroup
	l.answer = func(r Request) *ResultIn {
		at.Go(func() { l.reply(r) })
		return nil
	}
	s.attachLinked(t, "bridge", "0.2.0", l, "exec.run")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "bridge", Command: "exec.run"}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	at.Wait()
	if n := len(l.requests()); n != 1600 {
		t.Errorf("%d commands were sent", n)
	}
	s.Stop()
}

// The usual deadlines of tunnel.md §5.2.
func TestDeadlines(t *testing.T) {
	for _, c := range []struct {
		link            LinkKind
		command, params string
		want            time.Duration
	}{
		{LinkTunnel, "status.get", "", 15 * time.Second},
		{LinkTunnel, "session.list", "", 15 * time.Second},
		{LinkGRPC, "terminal.resize", "", 15 * time.Second},
		{LinkTunnel, "system.info", "", 15 * time.Second},
		{LinkTunnel, "dev.launch", "", 15 * time.Second},
		{LinkTunnel, "exec.run", "", 45 * time.Second},
		{LinkTunnel, "system.run", `{"timeout_ms":500}`, 5500 * time.Millisecond},
		{LinkTunnel, "system.run", `{"cmd":"x"}`, 35 * time.Second},
		{LinkTunnel, "system.run", `{"timeout_ms":1e300}`, MaxTimeout},
		{LinkTunnel, "system.run", `{"timeout_ms":"5"}`, 35 * time.Second},
		{LinkTunnel, "chat.send", "", 130 * time.Second},
		{LinkTunnel, "session.checkpoint", "", 90 * time.Second},
		{LinkGRPC, "session.restore", "", 150 * time.Second},
		{LinkTunnel, "my.command", "", 30 * time.Second},
		{LinkWebSocket, "system.run", `{"command":["x"],"timeoutMs":90000}`, 30 * time.Second},
		{LinkGRPC, "system.run", `{"command":["x"]}`, 30 * time.Second},
		{LinkWebSocket, "system.which", "", 30 * time.Second},
	} {
		if got := limitOf(Node{Link: c.link}, InvokeIn{Command: c.command, Params: []byte(c.params)}); got != c.want {
			t.Errorf("%s %s %s: %v, want %v", c.link, c.command, c.params, got, c.want)
		}
	}
}

// What is no object never reaches a linked machine.
func TestParamsAreObjects(t *testing.T) {
	s := newService()
	l := &link{answer: says("{}")}
	s.attachLinked(t, "n", "1", l, "status.get")
	for _, p := range []string{`[]`, `"x"`, `1`, `true`, `{`, `{} {}`, "\x00"} {
		if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "status.get", Params: []byte(p)}); code(err) != "params" {
			t.Errorf("%s: %v", p, err)
		}
	}
	for _, p := range []string{``, `null`, ` null `, `{}`} {
		if _, err := s.Invoke(context.Background(), operator, InvokeIn{NodeID: "n", Command: "status.get", Params: []byte(p)}); err != nil {
			t.Errorf("%q: %v", p, err)
		}
	}
	for _, r := range l.requests() {
		if string(r.Params) != "{}" {
			t.Errorf("sent %q", r.Params)
		}
	}
}

// What links may offer: all they declare but what is taken away; phones and the gateway protocol as ever.
func TestOffered(t *testing.T) {
	declared := []string{"exec.run", "status.get", "my.command", "system.run", "system.run.kill", "system.execApprovals.get", "terminal.open"}
	for _, c := range []struct {
		n    Node
		p    *Policy
		want []string
	}{
		{Node{Link: LinkTunnel, Platform: "linux-x86_64"}, NewPolicy(nil, nil), []string{"exec.run", "my.command", "status.get", "system.run", "terminal.open"}},
		{Node{Link: LinkTunnel, Platform: "plan9"}, NewPolicy(nil, []string{"exec.run", "my.command"}), []string{"status.get", "system.run", "terminal.open"}},
		{Node{Link: LinkGRPC, Platform: "windows"}, NewPolicy(nil, nil), []string{"exec.run", "my.command", "status.get", "system.run", "terminal.open"}},
		{Node{Link: LinkGRPC, Platform: "iOS 18"}, NewPolicy(nil, nil), []string{}},
		{Node{Link: LinkWebSocket, Platform: "linux"}, NewPolicy(nil, nil), []string{"system.run"}},
		{Node{Link: LinkWebSocket, Platform: "linux"}, NewPolicy([]string{"my.command"}, []string{"terminal.open"}), []string{"my.command", "system.run"}},
		{Node{Link: LinkWebSocket, Platform: "android"}, NewPolicy(nil, nil), []string{}},
	} {
		if got := c.p.Offered(c.n, declared); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s %s: %v", c.n.Link, c.n.Platform, got)
		}
	}
}
