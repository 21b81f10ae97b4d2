//go:build unix

package promises

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/dial"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// oldState is what testdata/states/schemaN.json says of schemaN.db: the clients that were let in by the
// hanzod of that schema, with the tokens that it gave them.
type oldState struct {
	Clients []oldClient `json:"clients"`
	// Nodes are tokens of node.pair.approve by node id.
	Nodes map[string]string `json:"nodes,omitempty"`
}

type oldClient struct {
	Name      string           `json:"name"` // its key is made of it
	Client    dial.Client      `json:"client"`
	Role      identity.Role    `json:"role"`
	Scopes    []identity.Scope `json:"scopes,omitempty"`
	Signature string           `json:"signature"`
	Token     string           `json:"token"`
}

func (c oldClient) options(url string, auth dial.Auth) dial.Options {
	seed := sha256.Sum256([]byte("old state " + c.Name))
	o := dial.Options{
		URL: url, Client: c.Client, Role: c.Role, Scopes: c.Scopes, SignatureVersion: c.Signature, Auth: auth,
		Device: dial.NewIdentity(ed25519.NewKeyFromSeed(seed[:])),
	}
	if strings.HasSuffix(c.Client.ID, "control-ui") || c.Client.Mode == "webchat" {
		o.Header = map[string][]string{"Origin": {"http://localhost:18789"}}
	}
	return o
}

// TestMakeOldState made the files in testdata/states: HANZOD_OLD names a hanzod that was built from the last
// commit before the next schema, HANZOD_OLD_OUT the files without their ending. They are never written
// again.
func TestMakeOldState(t *testing.T) {
	bin, out := os.Getenv("HANZOD_OLD"), os.Getenv("HANZOD_OLD_OUT")
	if bin == "" || out == "" {
		t.Skip("it runs when a schema ends: HANZOD_OLD names a program of it, HANZOD_OLD_OUT the files to make")
	}
	d := proc.New(t, proc.Options{})
	args := []string{"run", "--config", filepath.Join(d.State, "config.json"), "--state-dir", d.State, "--port", strconv.Itoa(d.Port)}
	if help, err := exec.Command(bin, "run", "--help").Output(); err == nil && strings.Contains(string(help), "--grpc-port") {
		args = append(args, "--grpc-port", "0") // older ones have no such door, and no invites
	}
	cmd := exec.Command(bin, args...)
	cmd.Env, cmd.Stderr = proc.Env(d.State), &proc.Buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	var state oldState
	var admin *dial.Conn
	proc.Until(t, "it answers", func() bool {
		c, err := dial.Dial(t.Context(), d.Operator(nil))
		admin = c
		return err == nil
	})
	for i, o := range recorded(t) {
		c := oldClient{Name: fmt.Sprint("client ", i), Client: o.Client, Role: o.Role, Scopes: o.Scopes, Signature: o.SignatureVersion}
		in, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		conn, err := dial.Dial(in, c.options(d.WS(), dial.Auth{Token: proc.Token}))
		if err == nil {
			c.Token = conn.Hello().DeviceToken
			_ = conn.Close()
		}
		if c.Token == "" && c.Role == identity.RoleNode {
			c.Token, err = enrol(in, d, c)
		}
		cancel()
		if c.Token == "" {
			t.Logf("%+v has no token there: %v", c.Client, err)
			continue
		}
		state.Clients = append(state.Clients, c)
	}
	for _, id := range []string{"old-kitchen", "old-phone"} {
		in, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var asked struct{ Request struct{ RequestID string } }
		var answer struct{ Node struct{ Token string } }
		text, err := admin.Call(in, "node.pair.request", map[string]any{"nodeId": id, "displayName": id})
		if err == nil && json.Unmarshal(text, &asked) == nil {
			text, err = admin.Call(in, "node.pair.approve", map[string]any{"requestId": asked.Request.RequestID})
		}
		if err == nil && json.Unmarshal(text, &answer) == nil && answer.Node.Token != "" {
			if state.Nodes == nil {
				state.Nodes = map[string]string{}
			}
			state.Nodes[id] = answer.Node.Token
		} else {
			t.Logf("%s has no token there: %v %s", id, err, text)
		}
		cancel()
	}
	_ = admin.Close()
	_ = cmd.Process.Signal(syscall.SIGTERM)
	<-ended
	text, err := json.MarshalIndent(state, "", "  ")
	if err == nil {
		err = os.WriteFile(out+".json", append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(d.State, "hanzod.db"), out+".db")
	t.Logf("%d clients, %d nodes", len(state.Clients), len(state.Nodes))
}

// enrol invites a device over the daemon's door for other machines.
func enrol(ctx context.Context, d *proc.Daemon, c oldClient) (string, error) {
	local, err := client.Dial(ctx, client.Options{Socket: d.Socket()})
	if err != nil {
		return "", err
	}
	defer local.Close()
	st, err := local.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	if err != nil {
		return "", err
	}
	invite, err := local.Devices.CreateInvite(ctx, &devicesv1.CreateInviteRequest{Role: string(c.Role)})
	if err != nil {
		return "", err
	}
	far, err := client.Dial(ctx, client.Options{Host: "hanzod://" + st.GetGrpcListen(), TLSFingerprint: st.GetTlsFingerprint(), Token: invite.GetSecret()})
	if err != nil {
		return "", err
	}
	defer far.Close()
	device := c.options("", dial.Auth{}).Device
	text := identity.EnrollText(invite.GetSecret(), device.ID, c.Client.Platform, c.Client.DeviceFamily)
	out, err := far.Devices.Enroll(ctx, &devicesv1.EnrollRequest{
		PublicKey: device.PublicKey(), Signature: device.Sign(text), Platform: c.Client.Platform, DeviceFamily: c.Client.DeviceFamily,
	})
	return out.GetToken(), err
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestR12TokensOutliveSchemas: databases of every schema that there was, opened by the hanzod of today: each
// device token, each node token and the shared secret are let in, by handshakes of the recorded clients.
// So they are by the hanzod of the next schema, and by that of today after the next one was there.
func TestR12TokensOutliveSchemas(t *testing.T) {
	t.Parallel()
	dbs, err := filepath.Glob("testdata/states/schema*.db")
	if err != nil || len(dbs) < 4 {
		t.Fatalf("%d states: %v", len(dbs), err)
	}
	next := filepath.Join(proc.Dir(t), "next")
	proc.Variant(t, next, "-tags", "hanzod_nextschema")
	slices.Sort(dbs)
	for _, db := range dbs {
		t.Run(strings.TrimSuffix(filepath.Base(db), ".db"), func(t *testing.T) {
			t.Parallel()
			var state oldState
			text, err := os.ReadFile(strings.TrimSuffix(db, ".db") + ".json")
			if err == nil {
				err = json.Unmarshal(text, &state)
			}
			if err != nil || len(state.Clients) == 0 {
				t.Fatalf("%d clients, %v", len(state.Clients), err)
			}
			d := proc.New(t, proc.Options{Form: proc.Tested})
			copyFile(t, db, filepath.Join(d.State, "hanzod.db"))
			d.Start()
			state.try(t, d, "upgraded to today's")
			d.Stop()
			for range 2 { // up, and back down, twice
				n := proc.Run(t, d.State, next, nil, "run", "--config", filepath.Join(d.State, "config.json"), "--state-dir", d.State, "--port", strconv.Itoa(d.Port))
				proc.Until(t, "the next one answers", func() bool {
					c, err := dial.Dial(t.Context(), d.Operator(nil))
					if err == nil {
						_ = c.Close()
					}
					return err == nil || n.Ended()
				})
				state.try(t, d, "upgraded to the next")
				if n.End(syscall.SIGTERM); n.Code != 0 {
					t.Fatalf("the next one ended with %d: %s", n.Code, n.Stderr)
				}
				d.Start()
				state.try(t, d, "downgraded again")
				d.Stop()
			}
		})
	}
}

// try lets every client in with its device token alone, in both places where clients show one, and with the
// shared secret, and shows every node token.
func (s oldState) try(t *testing.T, d *proc.Daemon, when string) {
	t.Helper()
	for _, c := range s.Clients {
		for how, auth := range map[string]dial.Auth{
			"its token": {DeviceToken: c.Token}, "its token in the older place": {Token: c.Token}, "the shared secret": {Token: proc.Token},
		} {
			for _, version := range []string{"v2", "v3"} {
				o := c.options(d.WS(), auth)
				o.SignatureVersion = version
				conn, err := dial.Dial(t.Context(), o)
				if err != nil {
					t.Errorf("%s: %+v with %s (%s): %v", when, c.Client, how, version, err)
					continue
				}
				if got := conn.Hello().DeviceToken; got != c.Token && (got != "" || how != "the shared secret") {
					t.Errorf("%s: %+v with %s is told another token", when, c.Client, how)
				}
				_ = conn.Close()
			}
		}
	}
	admin := proc.Connect(t, d.Operator(nil))
	for id, token := range s.Nodes {
		if out := proc.Call(t, admin, "node.pair.verify", map[string]any{"nodeId": id, "token": token}); !strings.Contains(string(out), `"ok":true`) {
			t.Errorf("%s: the token of %s: %s", when, id, out)
		}
	}
	local := d.Client(t)
	if _, err := local.Nodes.ListPairings(t.Context(), &nodesv1.ListPairingsRequest{}); err != nil {
		t.Errorf("%s: %v", when, err)
	}
	list, err := local.Devices.ListDevices(t.Context(), &devicesv1.ListDevicesRequest{})
	if err != nil || len(list.GetPending()) > 0 {
		t.Errorf("%s: somebody is asked to pair again: %v, %v", when, list.GetPending(), err)
	}
}
