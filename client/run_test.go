package client_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/clienttest"
	"github.com/hanzoai/hanzod/errs"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	runsv1 "github.com/hanzoai/hanzod/gen/hanzo/runs/v1"
)

// answer decides the next question with a client of its own.
func answer(t *testing.T, socket string, decision approvalsv1.Decision) func(client.Step) {
	return func(s client.Step) {
		if s.Kind != client.StepWaiting {
			return
		}
		_, err := dial(t, socket).Approvals.ResolveApproval(t.Context(),
			&approvalsv1.ResolveApprovalRequest{Id: s.Run.GetApprovalId(), Decision: decision})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRunAtOnce(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	out, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: []string{"echo", "a"}}, nil)
	if err != nil || out.Stdout != "a\n" || out.ExitCode == nil || *out.ExitCode != 0 || out.ApprovalID != "" {
		t.Errorf("got %+v, %v", out, err)
	}
	if len(d.Pending()) != 0 || len(d.Runs()) != 1 {
		t.Errorf("pending %v, runs %v", d.Pending(), d.Runs())
	}
	for argv, want := range map[string]client.RunOut{
		"crash":  {Signal: "SIGSEGV"},
		"nosuch": {Failure: "spawn nosuch ENOENT"},
		"sleep":  {TimedOut: true},
	} {
		out, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: []string{argv}, Timeout: time.Second}, nil)
		want.NodeID, want.NodeName, want.RunID = clienttest.NodeID, clienttest.NodeName, out.RunID
		if err != nil || out != want {
			t.Errorf("%s: got %+v, %v", argv, out, err)
		}
	}
}

func TestRunApproved(t *testing.T) {
	for _, argv := range [][]string{{"uname", "-a"}, {"deploy"}} {
		d := clienttest.New(t)
		c := dial(t, d.Socket)
		in := client.RunIn{Node: clienttest.NodeID, Argv: argv, Cwd: "/srv", Env: map[string]string{"A": "1", "B": "2"}, AgentID: "main"}
		out, err := c.RunCommand(t.Context(), in, answer(t, d.Socket, approvalsv1.Decision_DECISION_ALLOW_ONCE))
		if err != nil || out.Stdout == "" || out.ApprovalID == "" {
			t.Errorf("got %+v, %v", out, err)
		}
		got, err := c.Approvals.GetApproval(t.Context(), &approvalsv1.GetApprovalRequest{Id: out.ApprovalID})
		if err != nil {
			t.Fatal(err)
		}
		a := got.GetApproval()
		want := slices.Concat([]string{"/usr/bin/" + argv[0]}, argv[1:])
		if !slices.Equal(a.GetBinding().GetArgv(), want) || a.GetBinding().GetCwd() != "/srv" || a.GetHost() != "node" ||
			a.GetNodeId() != clienttest.NodeID || a.GetResolvedPath() != want[0] || !slices.Equal(a.GetEnvKeys(), []string{"A", "B"}) ||
			a.GetAgentId() != "main" || a.GetState() != approvalsv1.State_STATE_CONSUMED {
			t.Errorf("approval %v", a)
		}
		if len(d.Runs()) != 1 {
			t.Errorf("runs %v", d.Runs())
		}
	}
}

func TestRunRefused(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	in := client.RunIn{Node: "build box", Argv: []string{"uname"}}
	for name, tc := range map[string]struct {
		change func(*client.RunIn)
		steps  func(client.Step)
		code   string
		class  errs.Class
	}{
		"denied":       {steps: answer(t, d.Socket, approvalsv1.Decision_DECISION_DENY), code: client.CodeApprovalDenied, class: errs.Denied},
		"expired":      {change: func(in *client.RunIn) { in.ApprovalTimeout = time.Millisecond }, code: client.CodeApprovalExpired, class: errs.Unavailable},
		"no node":      {change: func(in *client.RunIn) { in.Node = "nobody" }, code: client.CodeNodeUnknown, class: errs.NotFound},
		"offline node": {change: func(in *client.RunIn) { in.Node = "phone" }, code: "nodes.not_connected", class: errs.Unavailable},
		"no command":   {change: func(in *client.RunIn) { in.Argv = nil }, class: errs.Invalid},
		"not text":     {change: func(in *client.RunIn) { in.Argv = []string{"a\xff"} }, class: errs.Invalid},
	} {
		in := in
		if tc.change != nil {
			tc.change(&in)
		}
		_, err := c.RunCommand(t.Context(), in, tc.steps)
		e, ok := errors.AsType[*client.Error](err)
		if !ok || e.Code != tc.code || e.Class != tc.class {
			t.Errorf("%s: got %#v", name, err)
		}
	}
	if len(d.Runs()) != 0 {
		t.Errorf("ran %v", d.Runs())
	}
}

// The daemon is killed while the question stands, and comes back; the answer is given to its
// successor and the command runs once (promises.md R7).
func TestRunOutlivesRestart(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	var kinds []client.StepKind
	var id string
	out, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: []string{"uname"}}, func(s client.Step) {
		kinds = append(kinds, s.Kind)
		switch s.Kind {
		case client.StepWaiting:
			id = s.Run.GetApprovalId()
			d.Stop()
		case client.StepReconnecting:
			d.SetConnected(clienttest.NodeID, false) // the node has to come back too
			d.Start(t)
			answer(t, d.Socket, approvalsv1.Decision_DECISION_ALLOW_ONCE)(client.Step{Kind: client.StepWaiting, Run: &runsv1.Run{ApprovalId: id}})
		case client.StepDecided:
			d.SetConnected(clienttest.NodeID, true)
		}
	})
	if err != nil || out.Stdout != "Linux box\n" || out.ApprovalID != id {
		t.Errorf("got %+v, %v", out, err)
	}
	if want := []client.StepKind{client.StepNode, client.StepStarted, client.StepWaiting, client.StepReconnecting, client.StepDecided}; !slices.Equal(kinds, want) {
		t.Errorf("steps %v, want %v", kinds, want)
	}
	if len(d.Runs()) != 1 {
		t.Errorf("runs %v", d.Runs())
	}
}

// The connection is cut while a run is under way: it goes on, is not repeated, and its result comes when
// the daemon is back.
func TestRunNeverTwice(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	d.BeforeRun = func() {
		arrived <- struct{}{}
		<-release
	}
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		<-arrived
		d.Stop()
		d.Start(t)
		close(release)
	}()
	out, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: []string{"echo", "a"}}, nil)
	<-restarted
	if err != nil || out.Stdout != "a\n" {
		t.Errorf("got %+v, %v", out, err)
	}
	if len(arrived) != 0 || len(d.Runs()) != 1 {
		t.Errorf("repeated: runs %v", d.Runs())
	}
}

// What streams is handed on as it comes, with what is missing, and not again at the end; what does not is
// handed on at the end. A run that has ended is followed all the same.
func TestRunOutput(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	for argv, want := range map[string]string{"echo --live": "1:one\n 1:two\n 2 missing 100 2:late\n ", "echo a": "1:a\n ", "false": "2:false says no\n "} {
		got := ""
		collect := func(o client.Output) {
			stream := "1"
			if o.Stderr {
				stream = "2"
			}
			if o.Missing > 0 {
				got += fmt.Sprint(stream, " missing ", o.Missing, " ")
				return
			}
			got += stream + ":" + string(o.Data) + " "
		}
		out, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: strings.Fields(argv), Output: collect}, nil)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", argv, got, err)
		}
		first := got
		got = ""
		again, err := c.FollowRun(t.Context(), out.RunID, nil, collect)
		if err != nil || again.Stdout != out.Stdout || got != first {
			t.Errorf("%s again: %q, %+v, %v", argv, got, again, err)
		}
	}
}

// A run that is ended says by whom.
func TestRunKilled(t *testing.T) {
	d := clienttest.New(t)
	c := dial(t, d.Socket)
	out, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: []string{"echo", "--live", "--forever"}, Output: func(client.Output) {
		runs, err := c.Runs.ListRuns(t.Context(), &runsv1.ListRunsRequest{Live: true})
		if err != nil || len(runs.GetRuns()) != 1 {
			t.Errorf("%v, %v", runs, err)
			return
		}
		if _, err := c.Runs.KillRun(t.Context(), &runsv1.KillRunRequest{Id: runs.GetRuns()[0].GetId()}); err != nil {
			t.Error(err)
		}
	}}, nil)
	if err != nil || out.KilledBy != "local user" || out.ExitCode != nil {
		t.Errorf("got %+v, %v", out, err)
	}
}
