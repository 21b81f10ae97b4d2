package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func question(c *clock, id string, argv ...string) *approvalsv1.Approval {
	return &approvalsv1.Approval{Id: id, State: approvalsv1.State_STATE_PENDING, Command: strings.Join(argv, " "),
		Binding: &approvalsv1.Binding{Argv: argv}, NodeId: new("n1"), NodeName: "box",
		CreatedAt: timestamppb.New(c.t), ExpiresAt: timestamppb.New(c.t.Add(2 * time.Minute))}
}

func newBoard(ids ...string) (*board, *clock) {
	c := &clock{t: time.Unix(1_760_000_000, 0)}
	b := &board{w: 60, h: 24, now: c.now}
	for _, id := range ids {
		b.update(question(c, id, "run", id))
	}
	c.t = c.t.Add(time.Second)
	b.render()
	return b, c
}

func TestBoardDecides(t *testing.T) {
	b, _ := newBoard("a", "b")
	if act := b.key("o"); act.kind != actDecide || act.id != "a" || act.decision != approvalsv1.Decision_DECISION_ALLOW_ONCE {
		t.Errorf("o: %+v", act)
	}
	b.key("n")
	b.render()
	if act := b.key("a"); act.id != "b" || act.decision != approvalsv1.Decision_DECISION_ALLOW_ONCE || !act.grant.onlyAlways() {
		t.Errorf("a: %+v", act)
	}
	b.key("n") // already at the end
	b.key("1")
	b.render()
	if act := b.key("d"); act.id != "a" || act.decision != approvalsv1.Decision_DECISION_DENY {
		t.Errorf("d: %+v", act)
	}
	if b.key("q").kind != actQuit || b.key("r").kind != actRefresh || b.key("x").kind != actNone {
		t.Error("q, r or x")
	}
	empty, _ := newBoard()
	if act := empty.key("o"); act.kind != actNone {
		t.Errorf("nothing to decide: %+v", act)
	}
}

// A question that comes under the cursor by itself cannot be answered by a key meant for another.
func TestBoardSettles(t *testing.T) {
	b, c := newBoard("a", "b")
	b.update(&approvalsv1.Approval{Id: "a", State: approvalsv1.State_STATE_DENIED})
	b.render()
	for _, k := range []string{"o", "a", "d"} {
		if act := b.key(k); act.kind != actNone {
			t.Errorf("%s at once: %+v", k, act)
		}
	}
	c.t = c.t.Add(settle)
	if act := b.key("o"); act.id != "b" {
		t.Errorf("later: %+v", act)
	}
	// A new question elsewhere changes nothing.
	b.update(question(c, "c", "run", "c"))
	b.render()
	if act := b.key("o"); act.id != "b" {
		t.Errorf("after a new one: %+v", act)
	}
}

// What does not fit the screen has to be looked at before it can be allowed.
func TestBoardLong(t *testing.T) {
	b, c := newBoard()
	b.w, b.h = 63, 12
	b.update(question(c, "long", "echo", strings.Repeat("x", 600), "; rm -rf /"))
	c.t = c.t.Add(time.Second)
	if s := b.render(); strings.Contains(s, "rm -rf") || !strings.Contains(s, "more lines") {
		t.Errorf("the first screen:\n%s", s)
	}
	if act := b.key("o"); act.kind != actNone || b.note == "" {
		t.Errorf("allowed unseen: %+v", act)
	}
	if act := b.key("d"); act.kind != actDecide {
		t.Error("deny needs no look")
	}
	shown := ""
	for range 20 {
		b.key(" ")
		shown += b.render()
	}
	if !strings.Contains(shown, "rm -rf /") {
		t.Errorf("never shown:\n%s", shown)
	}
	if act := b.key("o"); act.kind != actDecide {
		t.Errorf("after the end: %+v", act)
	}
}

func TestBoardExpires(t *testing.T) {
	b, c := newBoard("a")
	b.update(question(c, "b", "run", "b"))
	c.t = c.t.Add(2*time.Minute - time.Second)
	b.tick()
	if len(b.items) != 1 || b.current().GetId() != "b" {
		t.Errorf("items %v", b.items)
	}
}

// No screen is taller or wider than the terminal, and none lets through what others wrote.
func TestBoardFits(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {5, 3}, {20, 8}, {80, 24}, {200, 60}} {
		b, c := newBoard("a", "b", "c")
		b.w, b.h = size[0], size[1]
		p := question(c, "evil\x1b[2J", "rm", "\x1b[31m\u202e\n")
		p.NodeName, p.AgentId, p.Command, p.SessionKey = "\x1b]0;x\x07", new("\r\n"), "\u2066", new("\x9b")
		b.update(p)
		b.key("4")
		s := b.render()
		lines := strings.Split(strings.NewReplacer("\x1b[H", "", "\x1b[K", "", "\x1b[J", "").Replace(s), "\r\n")
		if len(lines) > max(size[1], 3) {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, l := range lines {
			if strings.ContainsFunc(l, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%v: %q", size, l)
			}
			if len(l) > max(size[0], 13) {
				t.Errorf("%v: %q is wider than the screen", size, l)
			}
		}
	}
}

func TestParseKeys(t *testing.T) {
	got := parseKeys([]byte("oN\x1b[A\x1b[B\x1bOA\x1b[6~\x1b[1;5C\x03\x04 \r\xc3\xa9q\x1b"))
	want := []string{"o", "N", "up", "down", "up", "pgdn", "ctrl-c", "ctrl-d", " ", "enter", "q", "esc"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("\x1b["))
	f.Add([]byte("\x1b\x1b[A"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if n := len(parseKeys(in)); n > len(in) {
			t.Errorf("%d keys from %d bytes", n, len(in))
		}
	})
}
