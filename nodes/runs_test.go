package nodes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// seenRuns is an Observer that writes down what it hears.
type seenRuns struct {
	mu    sync.Mutex
	seen  []string
	keeps error
}

func (s *seenRuns) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, fmt.Sprintf(format, args...))
}

func (s *seenRuns) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seen)
}

func (s *seenRuns) Leaving(l Leaving) error {
	s.note("leaving %s %s %s %v %s", l.NodeID, l.Run, l.Caller.Subject(), l.Streams, l.Params)
	return s.keeps
}

func (s *seenRuns) Wrote(_, stream string, offset int64, data []byte) {
	s.note("wrote %s %d %s", stream, offset, data)
}

func (s *seenRuns) Left(_ string, out InvokeOut, err error, sent bool) {
	s.note("left %s %v %v", out.Payload, err, sent)
}

func observed(t *testing.T) (*Service, *seenRuns) {
	w := &seenRuns{}
	s := newService()
	s.watch = w
	t.Cleanup(s.Stop)
	return s, w
}

// Only a node that says that it can is asked to stream, and only what it sends about its own commands is
// heard; nothing of it is shown to those who watch nodes.
func TestOutputOfRuns(t *testing.T) {
	for _, able := range []bool{false, true} {
		s, w := observed(t)
		sub := s.bus.Subscribe(func(e events.Event) bool { return e.Name == "node.event" })
		defer sub.Close()
		commands := []string{"system.run"}
		if able {
			commands = append(commands, killCommand)
		}
		var params string
		report := func(node, payload string) {
			if _, err := s.Event(t.Context(), identity.Caller{Role: identity.RoleNode, NodeID: node}, EventIn{NodeID: node, Event: outputEvent, Payload: []byte(payload)}); err != nil {
				t.Errorf("%s: %v", payload, err)
			}
		}
		s.attach(t, "box", &link{answer: func(r Request) *ResultIn {
			params = string(r.Params)
			piece := func(id, rest string) string { return `{"invokeId":"` + id + `",` + rest + `}` }
			report("box", piece(r.ID, `"stream":"stdout","offset":3,"data":"aGk="`))
			report("other", piece(r.ID, `"stream":"stdout","offset":5,"data":"aGk="`))
			for _, bad := range []string{piece("x", `"stream":"stdout","offset":5,"data":"aGk="`), piece(r.ID, `"offset":-1,"data":"aGk="`), piece(r.ID, `"data":"!"`), piece(r.ID, `"data":"`+strings.Repeat("AAAA", maxOutputPiece/3+1)+`"`), `[]`, `x`, ``} {
				report("box", bad)
			}
			return &ResultIn{OK: true, Payload: []byte(`{"exitCode":0}`)}
		}}, commands...)
		s.attach(t, "other", &link{})
		in := InvokeIn{NodeID: "box", Command: "system.run", Params: []byte(`{"command":["a"]}`), Run: "r1"}
		if _, err := s.Invoke(t.Context(), operator, in); err != nil {
			t.Fatal(err)
		}
		want := []string{`leaving box r1 local:1 false {"command":["a"]}`, "wrote stdout 3 hi", `left {"exitCode":0} <nil> true`}
		if able {
			want[0] = `leaving box r1 local:1 true {"command":["a"],"streamOutput":true}`
		}
		if got := w.all(); !slices.Equal(got, want) {
			t.Errorf("%q\nwant %q", got, want)
		}
		if able != strings.Contains(params, "streamOutput") {
			t.Errorf("the node was sent %s", params)
		}
		report("box", `{}`)
		if e, ok := sub.TryNext(); ok {
			t.Errorf("shown to all: %+v", e)
		}
	}
}

// An observer that keeps a command keeps it here, and a command that did not leave is told as such.
func TestObserverKeeps(t *testing.T) {
	s, w := observed(t)
	s.attach(t, "box", &link{answer: says(`{}`)}, "system.run", "system.which")
	w.keeps = errors.New("no")
	if _, err := s.Invoke(t.Context(), operator, InvokeIn{NodeID: "box", Command: "system.run", Params: []byte(`{}`)}); !errors.Is(err, w.keeps) {
		t.Errorf("%v", err)
	}
	w.keeps = nil
	if _, err := s.Invoke(t.Context(), operator, InvokeIn{NodeID: "box", Command: "system.which", Params: []byte(`{}`)}); err != nil {
		t.Error(err)
	}
	if got := w.all(); len(got) != 1 {
		t.Errorf("heard %q", got)
	}
}

// Nobody ends a command by an invoke, whatever the configuration allows and the node declares.
func TestKillIsTheDaemonsOwn(t *testing.T) {
	s, _ := observed(t)
	s.SetPolicy(NewPolicy([]string{killCommand}, nil))
	var got []string
	s.attach(t, "box", &link{answer: func(r Request) *ResultIn {
		got = append(got, r.Command+" "+string(r.Params))
		return &ResultIn{OK: true, Payload: []byte(`{"killed":true}`)}
	}}, "system.run", killCommand)
	s.attach(t, "old", &link{}, "system.run")
	if d, err := s.Describe(t.Context(), operator, DescribeIn{NodeID: "box"}); err != nil || slices.Contains(d.Node.Commands, killCommand) {
		t.Errorf("%+v, %v", d.Node.Commands, err)
	}
	if _, err := s.Invoke(t.Context(), operator, InvokeIn{NodeID: "box", Command: killCommand, Params: []byte(`{"invokeId":"x"}`)}); !errors.Is(err, ErrNotAllowed) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for node, want := range map[string]error{"old": ErrCannotKill, "nobody": ErrNotConnected, "box": nil} {
		if err := s.EndRun(ctx, node, "i", "r", `me "x"`); !errors.Is(err, want) {
			t.Errorf("%s: %v", node, err)
		}
	}
	if want := []string{`system.run.kill {"by":"me \"x\"","invokeId":"i","runId":"r"}`}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
