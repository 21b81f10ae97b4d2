package client_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/clienttest"
	"github.com/hanzoai/hanzod/errs"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// answer decides the next question with a client of its own.
func answer(t *testing.T, socket string, decision approvalsv1.Decision) func(client.Step) {
	return func(s client.Step) {
		if s.Kind != client.StepWaiting {
			return
		}
		_, err := dial(t, socket).Approvals.ResolveApproval(t.Context(),
			&approvalsv1.ResolveApprovalRequest{Id: s.Approval.GetId(), Decision: decision})
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
		want.NodeID, want.NodeName = clienttest.NodeID, clienttest.NodeName
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
			id = s.Approval.GetId()
			d.Stop()
		case client.StepReconnecting:
			d.SetConnected(clienttest.NodeID, false) // the node has to come back too
			d.Start(t)
			answer(t, d.Socket, approvalsv1.Decision_DECISION_ALLOW_ONCE)(client.Step{Kind: client.StepWaiting, Approval: &approvalsv1.Approval{Id: id}})
		case client.StepDecided:
			d.SetConnected(clienttest.NodeID, true)
		}
	})
	if err != nil || out.Stdout != "Linux box\n" || out.ApprovalID != id {
		t.Errorf("got %+v, %v", out, err)
	}
	if want := []client.StepKind{client.StepNode, client.StepWaiting, client.StepReconnecting, client.StepDecided}; !slices.Equal(kinds, want) {
		t.Errorf("steps %v, want %v", kinds, want)
	}
	if len(d.Runs()) != 1 {
		t.Errorf("runs %v", d.Runs())
	}
}

// The connection is cut while a run is under way: it is not repeated.
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
		d.Stop() // cuts the connection; the call goes on
		d.Start(t)
		close(release)
	}()
	_, err := c.RunCommand(t.Context(), client.RunIn{Node: "build box", Argv: []string{"echo"}}, nil)
	<-restarted
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Code != client.CodeOutcomeUnknown || e.Class != errs.Unknown {
		t.Errorf("got %v", err)
	}
	if len(arrived) != 0 || len(d.Runs()) > 1 {
		t.Errorf("repeated: runs %v", d.Runs())
	}
}
