//go:build unix

package promises

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

const (
	// The promise R14: a jump of the clock by jumpBy, as after a sleep of the machine, and every link is
	// looked at within wakeTime; wakeSlack is what a busy machine may add.
	jumpBy    = 10 * time.Minute
	wakeTime  = 5 * time.Second
	wakeSlack = 2 * time.Second
)

// TestR14Wake: after a jump of the clock the links of operators and nodes that are silent are given up
// within five seconds, on both sides of a node's link, and those that live stay.
func TestR14Wake(t *testing.T) {
	t.Parallel()
	var daemon, node atomic.Int64
	ahead := func(by *atomic.Int64) func() time.Time {
		return func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
	}
	d := hanzodtest.Start(t, hanzodtest.Options{Now: ahead(&daemon)})
	connect := func(role identity.Role, url string) *dial.Conn {
		o := dial.Options{
			URL: url, Role: role, Client: dial.Client{ID: "test", Mode: "test"}, Auth: dial.Auth{Token: d.Token}, Now: ahead(&node),
		}
		if role == identity.RoleNode {
			o.Client = dial.Client{ID: "node-host", Mode: "node", InstanceID: url}
		}
		return proc.Connect(t, o)
	}
	bad := proc.NewLink(t, d.Addr())
	var alive, silent []*dial.Conn
	for _, role := range []identity.Role{identity.RoleOperator, identity.RoleNode} {
		alive, silent = append(alive, connect(role, d.WS())), append(silent, connect(role, bad.URL()))
	}
	admin, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	present := func() int {
		st, err := admin.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return int(st.GetConnections())
	}
	daemon.Add(int64(jumpBy))
	node.Add(int64(jumpBy))
	time.Sleep(wakeTime)
	if n := present(); n != len(alive)+len(silent) {
		t.Fatalf("%d links are left; all of them are well", n)
	}

	bad.Hush()
	began := time.Now()
	daemon.Add(int64(jumpBy))
	proc.UntilFor(t, wakeTime+wakeSlack, "the silent links are given up", func() bool { return present() == len(alive) })
	t.Logf("the daemon gave them up after %v", time.Since(began))
	began = time.Now()
	node.Add(int64(jumpBy))
	for _, c := range silent {
		select {
		case <-c.Done():
		case <-time.After(wakeTime + wakeSlack):
			t.Fatal("a client did not notice that the daemon is gone")
		}
	}
	t.Logf("the clients gave it up after %v", time.Since(began))
	for _, c := range alive {
		select {
		case <-c.Done():
			t.Errorf("a link that lives has ended: %v", c.Err())
		default:
		}
		proc.Call(t, c, "health", map[string]any{})
	}
}

// TestR14WakeGRPC: the same for gRPC: the link of a node and a stream of an operator, over TLS, through a
// link that is silent after the sleep, and through one that is well. Both halves notice.
func TestR14WakeGRPC(t *testing.T) {
	t.Parallel()
	var daemon, far atomic.Int64
	ahead := func(by *atomic.Int64) func() time.Time {
		return func() time.Time { return time.Now().Add(time.Duration(by.Load())) }
	}
	d := hanzodtest.Start(t, hanzodtest.Options{Now: ahead(&daemon), GRPC: true})
	bad := proc.NewLink(t, d.GRPCAddress())
	dialled := func(addr string, asNode bool) *client.Client {
		c, err := client.Dial(t.Context(), client.Options{
			Host: "hanzod://" + addr, TLSFingerprint: d.TLSFingerprint(), Token: d.Token, Now: ahead(&far), AsNode: asNode,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	node := func(addr, id string) *client.NodeLink {
		l, err := dialled(addr, true).AttachNode(t.Context(), client.NodeOptions{
			Registration: &nodesv1.NodeRegistration{InstanceId: id, ClientId: "node-host", ClientMode: "node", Version: "1", Platform: "linux"},
			OnInvoke:     func(*client.NodeLink, *nodesv1.NodeInvoke) {}, Now: ahead(&far),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	watch := func(addr string) <-chan error {
		s, err := dialled(addr, false).Nodes.WatchNodes(t.Context(), &nodesv1.WatchNodesRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := s.Recv(); err != nil {
					ended <- err
					return
				}
			}
		}()
		return ended
	}
	well, silent := node(d.GRPCAddress(), "well"), node(bad.Addr(), "silent")
	wellStream, silentStream := watch(d.GRPCAddress()), watch(bad.Addr())
	far.Add(int64(jumpBy))
	daemon.Add(int64(jumpBy))
	time.Sleep(wakeTime)
	select {
	case <-silent.Done():
		t.Fatalf("a link that is well has ended: %v", silent.Err())
	case err := <-silentStream:
		t.Fatalf("a stream that is well has ended: %v", err)
	default:
	}

	bad.Hush()
	began := time.Now()
	daemon.Add(int64(jumpBy))
	admin, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	proc.UntilFor(t, wakeTime+wakeSlack, "the daemon gives the silent node up", func() bool {
		st, err := admin.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
		return err == nil && st.GetNodesConnected() == 1
	})
	t.Logf("the daemon gave the node up after %v", time.Since(began))
	began = time.Now()
	far.Add(int64(jumpBy))
	limit := time.After(wakeTime + wakeSlack)
	for what, ended := range map[string]<-chan struct{}{"node": silent.Done(), "stream": done(silentStream)} {
		select {
		case <-ended:
			t.Logf("the %s noticed after %v", what, time.Since(began))
		case <-limit:
			t.Fatalf("the %s did not notice that the daemon is gone", what)
		}
	}
	select {
	case <-well.Done():
		t.Errorf("a link that is well has ended: %v", well.Err())
	case err := <-wellStream:
		t.Errorf("a stream that is well has ended: %v", err)
	default:
	}
}

// done is closed when something has come.
func done(c <-chan error) <-chan struct{} {
	out := make(chan struct{})
	go func() {
		<-c
		close(out)
	}()
	return out
}
