//go:build unix

package promises

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
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
