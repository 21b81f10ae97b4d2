package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// realDaemon is hanzod with a node host for this machine, and the name and id of that node.
func realDaemon(t testing.TB, o hanzodtest.Options) (d *hanzodtest.Daemon, name, id string) {
	t.Helper()
	o.Node = true
	d = hanzodtest.Start(t, o)
	c, err := client.Dial(context.Background(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := c.Nodes.ListNodes(context.Background(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if n := out.GetNodes(); len(n) == 1 {
			return d, n[0].GetDisplayName(), n[0].GetNodeId()
		}
		if time.Now().After(deadline) {
			t.Fatal("the node host did not come")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// TestRealScripts runs the stories in testdata/real, each against a daemon of its own with a node host, on
// which commands really run. NODE and NAME are those of the node.
func TestRealScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "real"),
		Setup: func(e *testscript.Env) error {
			// Devices of other machines come by the port for them.
			d, name, id := realDaemon(e.T().(testing.TB), hanzodtest.Options{GRPC: strings.HasSuffix(e.WorkDir, "tunnel-approval")})
			e.Setenv("HANZOD_STATE_DIR", d.StateDir)
			_, port, err := net.SplitHostPort(d.Addr())
			if err != nil {
				return err
			}
			e.Setenv("PORT", port)
			e.Setenv("NODE", id)
			e.Setenv("NAME", strings.ReplaceAll(name, ".", `\.`))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("GORACE", noWait)
			e.Setenv("PATH", os.Getenv("PATH"))
			work, err := filepath.EvalSymlinks(e.WorkDir) // an approval takes no links
			if err != nil {
				return err
			}
			e.Setenv("WORK", work)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "capture": capture, "until": until},
	})
}

// asked waits until the daemon has a question, and returns its id.
func asked(t testing.TB, socket string) string {
	t.Helper()
	c, err := client.Dial(context.Background(), client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		out, err := c.Approvals.ListApprovals(context.Background(), &approvalsv1.ListApprovalsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if a := out.GetApprovals(); len(a) == 1 {
			return a[0].GetId()
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
		<-time.After(10 * time.Millisecond)
	}
}

// On a terminal: a grant by the keys, the difference from the last time, somebody else who is quicker, and
// another size of the terminal.
func TestRealInteractive(t *testing.T) {
	d, _, node := realDaemon(t, hanzodtest.Options{})
	tm := onTerminal(t, d.Socket(), "approve")
	tm.until("nothing waits for an approval")

	first := start(t, d.Socket(), "nodes", "run", node, "--cwd", "/", "--", "uname", "-s")
	tm.until(`runs +/.*/uname -s(.|\n)*executable +/.*/uname sha256 [0-9a-f]{12}(.|\n)*always +keeps "/.*/uname" "-s" on`)
	pressUntil(tm, "g", "n number of runs")
	tm.press("n2\r")
	tm.until(`for +2 more runs`)
	tm.press("y")
	tm.until(`allowed, and 2 more runs: /.*/uname -s`)
	if out, code := first.end(); code != 0 || out != "Linux\n" {
		t.Errorf("%q, exit %d, %s", out, code, first.errOut.String())
	}
	again := start(t, d.Socket(), "nodes", "run", node, "--cwd", "/", "--", "uname", "-s")
	if out, code := again.end(); code != 0 || out != "Linux\n" || again.errOut.String() != "" {
		t.Errorf("under the grant: %q, exit %d, %s", out, code, again.errOut.String())
	}

	next := start(t, d.Socket(), "nodes", "run", node, "--cwd", "/", "--", "uname", "-s", "-n")
	tm.until(`earlier +\S+, allowed once by (.|\n)*words +/.*/uname -s \{\+-n\+\}`)
	if _, code := start(t, d.Socket(), "approve", asked(t, d.Socket()), "deny").end(); code != 0 {
		t.Errorf("deny exits with %d", code)
	}
	tm.until(`denied by local:\d+: /.*/uname -s -n`)
	if _, code := next.end(); code != exitDenied {
		t.Errorf("denied run exits with %d", code)
	}

	// A small terminal shows less, and what it does not show cannot be allowed.
	if err := pty.Setsize(tm.f, &pty.Winsize{Rows: 8, Cols: 40}); err != nil {
		t.Fatal(err)
	}
	last := start(t, d.Socket(), "nodes", "run", node, "--cwd", "/", "--", "uname", "-m")
	tm.until(`more lines: space`)
	pressUntil(tm, "o", "press space to see all of it")
	for range 20 {
		tm.press(" ")
	}
	tm.until(`\(end\)`)
	pressUntil(tm, "o", "allowed once")
	if _, code := last.end(); code != 0 {
		t.Errorf("exit %d, %s", code, last.errOut.String())
	}
	tm.press("/x\r?q")
	tm.until("nothing waits")
	tm.press("q")
	if code := tm.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
}

// The companion app of this machine: the node host asks it about what comes without an approval, and what
// it answers is in the log of the daemon.
func TestServeSocket(t *testing.T) {
	d, name, node := realDaemon(t, hanzodtest.Options{})
	file := filepath.Join(d.StateDir, "exec-approvals.json")
	if _, code := start(t, d.Socket(), "approvals", "get").end(); code != 0 { // makes the file
		t.Fatalf("exit %d", code)
	}
	tm := onTerminal(t, d.Socket(), "approve", "--serve-socket="+file)
	tm.until("nothing waits for an approval(.|\n)*answering the node host")
	if st, err := os.Stat(filepath.Join(d.StateDir, "exec-approvals.sock")); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("the socket: %v, %v", st, err)
	}
	invoke := func(argv string) *process {
		return start(t, d.Socket(), "nodes", "invoke", node, "system.run", "--params", `{"command":[`+argv+`],"cwd":"/"}`)
	}
	once := invoke(`"uname","-s"`)
	tm.until(`this machine: "/.*/uname -s"(.|\n)*directory +/(.|\n)*always +puts /.*/uname on the list of this machine: it runs with any arguments`)
	pressUntil(tm, "o", "allowed once")
	if out, code := once.end(); code != 0 || !strings.Contains(out, `Linux`) {
		t.Errorf("%q, exit %d, %s", out, code, once.errOut.String())
	}
	no := invoke(`"uname","-n"`)
	tm.until(`uname -n"`)
	pressUntil(tm, "d", "denied")
	if _, code := no.end(); code != exitLater || !strings.Contains(no.errOut.String(), "SYSTEM_RUN_DENIED: user denied") {
		t.Errorf("exit %d, %s", code, no.errOut.String())
	}
	always := invoke(`"uname","-m"`)
	tm.until(`uname -m"`)
	pressUntil(tm, "a", "allowed always")
	always.end()
	if out, code := invoke(`"uname","-m"`).end(); code != 0 || !strings.Contains(out, "success") {
		t.Errorf("listed: %q, exit %d", out, code)
	}
	// A run that comes with an approval asks nobody here, and neither does one that a grant covers.
	approved := start(t, d.Socket(), "nodes", "run", node, "--cwd", "/", "--", "id", "-u")
	tm.until(`id -u"`)
	pressUntil(tm, "d", "denied")
	if _, code := approved.end(); code != exitDenied {
		t.Errorf("exit %d, %s", code, approved.errOut.String())
	}
	if _, code := start(t, d.Socket(), "grants", "create", "--node", node, "--cwd", "/", "--uses", "1", "--", "id", "-u").end(); code != 0 {
		t.Errorf("exit %d", code)
	}
	granted := start(t, d.Socket(), "nodes", "run", node, "--cwd", "/", "--", "id", "-u")
	if _, code := granted.end(); code != 0 || granted.errOut.String() != "" {
		t.Errorf("under a grant: exit %d, %s", code, granted.errOut.String())
	}
	tm.press("q")
	if code := tm.exit(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if _, err := os.Stat(filepath.Join(d.StateDir, "exec-approvals.sock")); err == nil {
		t.Error("the socket is left behind")
	}
	// Without the app it is as before.
	alone := invoke(`"id","-g"`)
	if _, code := alone.end(); code != exitLater || !strings.Contains(alone.errOut.String(), "SYSTEM_RUN_DENIED: approval required") {
		t.Errorf("exit %d, %s", code, alone.errOut.String())
	}
	out, code := start(t, d.Socket(), "audit", "list", "-o", "jsonl").end()
	if code != 0 {
		t.Fatalf("audit exits with %d", code)
	}
	for _, want := range []string{"companion app on " + name + " answered", "allow-once", "deny"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log lacks %q:\n%s", want, out)
		}
	}
	none := start(t, d.Socket(), "approve", "--serve-socket=/no/such/file")
	if _, code := none.end(); code != exitUsage {
		t.Errorf("without a terminal: exit %d", code)
	}
	tm = onTerminal(t, d.Socket(), "approve", "--serve-socket=/no/such/file")
	if code := tm.exit(); code == 0 || strings.Contains(tm.all.String(), "\x1b[?1049h") {
		t.Errorf("no file: exit %d, %q", code, tm.all.String())
	}
}
