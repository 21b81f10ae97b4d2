//go:build unix

package local

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/types/known/structpb"

	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// examplesDir names the directory where "make examples" put the packages of the examples.
const examplesDir = "HANZOD_EXAMPLES"

// language is an example client in another language.
type language struct {
	*testing.T
	u       user
	program []string
	env     []string
}

// javaScript skips where Node.js or the packages of the example are missing.
func javaScript(t *testing.T) *language {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("the example in JavaScript needs Node.js")
	}
	l := &language{T: t, program: []string{node, filepath.Join(proc.Root(t), "examples/nodejs/hanzod.js")}}
	if dir := os.Getenv(examplesDir); dir != "" {
		l.env = []string{"NODE_PATH=" + filepath.Join(dir, "nodejs", "node_modules")}
	}
	l.need("npm", node, "-e", "require('@grpc/grpc-js');require('@grpc/proto-loader');require('protobufjs')")
	return l
}

// python does the same for Python.
func python(t *testing.T) *language {
	program := "python3"
	if dir := os.Getenv(examplesDir); dir != "" {
		program = filepath.Join(dir, "python", "bin", "python3")
	}
	python, err := exec.LookPath(program)
	if err != nil {
		t.Skip("the example in Python needs Python 3")
	}
	l := &language{T: t, program: []string{python, filepath.Join(proc.Root(t), "examples/python/hanzod.py")}, env: []string{"PYTHONDONTWRITEBYTECODE=1"}}
	l.need("pip", python, "-c", "import grpc, grpc_tools, google.rpc.status_pb2")
	return l
}

// need skips, or fails under "make examples", where the packages of an example are missing.
func (l *language) need(by, program string, args ...string) {
	l.Helper()
	cmd := exec.CommandContext(l.Context(), program, args...)
	cmd.Env, cmd.Dir = append(os.Environ(), l.env...), filepath.Dir(l.program[1])
	if out, err := cmd.CombinedOutput(); err != nil && os.Getenv(examplesDir) != "" {
		l.Fatalf("%v\n%s", err, out)
	} else if err != nil {
		l.Skipf("the packages of this example are not installed (by %s); make examples installs them in a directory of their own and runs it", by)
	}
}

// start starts the example.
func (l *language) start(args ...string) *proc.Command {
	l.Helper()
	return proc.Run(l.T, l.u.home, l.program[0], append(l.env, l.u.env()...), append([]string{l.program[1]}, args...)...)
}

// run runs the example and returns what it printed.
func (l *language) run(code int, args ...string) string {
	l.Helper()
	c := l.start(args...).Wait(l.T, proc.Patience)
	if c.Code != code {
		l.Errorf("%q ends with %d, want %d\n%s%s", args, c.Code, code, c.Stdout, c.Stderr)
	}
	return c.Stdout.String() + c.Stderr.String()
}

// client tries everything that an example does. Its daemon has its state where only the shared discovery
// file tells of it, and the environment says nothing.
func (l *language) client() {
	l.u = newUser(l.T)
	if out := l.run(1, "nodes"); !strings.Contains(out, "hanzod service start") {
		l.Errorf("nothing runs: %s", out)
	}
	d := proc.Start(l.T, proc.Options{Form: proc.Tested, Env: l.u.env(), Args: []string{"--node"}})
	c := d.Client(l.T)
	var node string
	proc.Until(l.T, "the node of the daemon is there", func() bool {
		out, err := c.Nodes.ListNodes(l.Context(), &nodesv1.ListNodesRequest{ConnectedOnly: true})
		if err == nil && len(out.GetNodes()) == 1 {
			node = out.GetNodes()[0].GetNodeId()
		}
		return node != ""
	})
	if out := l.run(0, "nodes"); !strings.Contains(out, "is well") || !strings.Contains(out, "online  "+node) {
		l.Errorf("%s", out)
	}

	// It watches events.
	events := l.start("events", "2")
	notifier := l.start("notifier", "shower")
	proc.Until(l.T, "it is a node", func() bool { return strings.Contains(notifier.Stdout.String(), "attached as example-shower") })
	params, err := structpb.NewValue(map[string]any{"title": "good\x1b[31m", "body": "morning"})
	if err != nil {
		l.Fatal(err)
	}
	if _, err := c.Nodes.Invoke(l.Context(), &nodesv1.InvokeRequest{NodeId: "example-shower", Command: "system.notify", Params: params}); err != nil {
		l.Error(err)
	}
	if _, err := c.Nodes.Invoke(l.Context(), &nodesv1.InvokeRequest{NodeId: "example-shower", Command: "system.notify"}); err == nil {
		l.Error("a notification without anything was taken")
	}
	proc.Until(l.T, "it shows the notification", func() bool { return strings.Contains(notifier.Stdout.String(), "NOTIFICATION good") })
	if strings.Contains(notifier.Stdout.String(), "\x1b") {
		l.Errorf("others steer the terminal: %q", notifier.Stdout)
	}
	notifier.End(syscall.SIGINT)
	proc.Until(l.T, "it has seen two events", func() bool {
		if _, err := c.Nodes.SetVoiceWake(l.Context(), &nodesv1.SetVoiceWakeRequest{Triggers: []string{"hello"}}); err != nil {
			l.Fatal(err)
		}
		return events.Ended()
	})
	if events.Code != 0 || !strings.HasPrefix(events.Stdout.String(), "1 ") {
		l.Errorf("events: %d\n%s%s", events.Code, events.Stdout, events.Stderr)
	}

	// It runs a command, and answers the question that comes of it.
	question := regexp.MustCompile(`waiting for approval (\S+)`)
	asked := func(c *proc.Command) (id string) {
		proc.Until(l.T, "it asks", func() bool {
			if m := question.FindStringSubmatch(c.Stdout.String()); m != nil {
				id = m[1]
			}
			return id != "" || c.Ended()
		})
		return id
	}
	run := l.start("run", node, "uname", "-s")
	if out := l.run(0, "answer", asked(run), "once"); !strings.Contains(out, "uname") || !strings.Contains(out, "STATE_ALLOWED") {
		l.Errorf("%s", out)
	}
	if run.Wait(l.T, proc.Patience); run.Code != 0 || !regexp.MustCompile(`(?m)^(Linux|Darwin)$`).MatchString(run.Stdout.String()) {
		l.Errorf("run: %d\n%s%s", run.Code, run.Stdout, run.Stderr)
	}
	run = l.start("run", node, "uname", "-m")
	l.run(0, "answer", asked(run), "deny")
	if run.Wait(l.T, proc.Patience); run.Code != 1 {
		l.Errorf("denied: %d\n%s%s", run.Code, run.Stdout, run.Stderr)
	}

	// Failures have names.
	if out := l.run(1, "answer", "nobody-knows", "once"); !strings.Contains(out, "approvals.gone") {
		l.Errorf("%s", out)
	}
}

func TestExamplesInOtherLanguages(t *testing.T) {
	t.Run("JavaScript", func(t *testing.T) { t.Parallel(); javaScript(t).client() })
	t.Run("Python", func(t *testing.T) { t.Parallel(); python(t).client() })
}
