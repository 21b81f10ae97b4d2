package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

// answered notes what the keys asked for.
type answered struct {
	whole map[string]*approvalsv1.Approval
	got   []string
	err   error
}

func (f *answered) approval(id string) (*approvalsv1.Approval, *approvalsv1.Approval, error) {
	return f.whole[id], nil, nil
}

func (f *answered) decide(id string, d approvalsv1.Decision) (*approvalsv1.Approval, error) {
	f.got = append(f.got, id+" "+answers[d])
	if f.err != nil {
		return nil, f.err
	}
	return &approvalsv1.Approval{Id: id, State: approvalsv1.State_STATE_ALLOWED}, nil
}

// screen is a model with a clock and without a terminal.
type screen struct {
	*testing.T
	*model
	asked *answered
	clock time.Time
}

func newScreen(t *testing.T, width, height int) *screen {
	s := &screen{T: t, asked: &answered{}, clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	s.model = newModel(s.asked, "/run/x/hanzod.sock", "desk")
	s.now = func() time.Time { return s.clock }
	s.do(tea.WindowSizeMsg{Width: width, Height: height})
	return s
}

// do sends messages, and what their commands return.
func (s *screen) do(msgs ...tea.Msg) {
	s.Helper()
	for _, msg := range msgs {
		_, cmd := s.Update(msg)
		s.finish(cmd)
	}
}

func (s *screen) finish(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case tea.BatchMsg:
		for _, c := range msg {
			s.finish(c)
		}
	case tickMsg, tea.QuitMsg:
	default:
		s.do(msg)
	}
}

func (s *screen) press(keys string) {
	s.Helper()
	for _, r := range keys {
		_, cmd := s.Update(tea.KeyPressMsg{Code: r, Text: string(r)})
		s.finish(cmd)
	}
}

func (s *screen) wait(d time.Duration) { s.clock = s.clock.Add(d) }

func (s *screen) text() string {
	s.Helper()
	text := s.View().Content
	lines := strings.Split(text, "\n")
	if len(lines) > s.height {
		s.Errorf("%d lines on a screen of %d", len(lines), s.height)
	}
	for _, l := range lines {
		if w := lipgloss.Width(l); w > s.width {
			s.Errorf("a line of %d on a screen of %d: %q", w, s.width, l)
		}
	}
	return text
}

func (s *screen) shows(want bool, parts ...string) {
	s.Helper()
	text := s.text()
	for _, p := range parts {
		if strings.Contains(text, p) != want {
			s.Errorf("shown is not %v: %q in\n%s", want, p, text)
		}
	}
}

func (s *screen) expect(got ...string) {
	s.Helper()
	if fmt.Sprint(s.asked.got) != fmt.Sprint(got) {
		s.Errorf("answered %q, want %q", s.asked.got, got)
	}
}

func ask(id string, argv ...string) *approvalsv1.Approval {
	return &approvalsv1.Approval{
		Id: id, State: approvalsv1.State_STATE_PENDING, Command: "what somebody wrote about it",
		Binding: &approvalsv1.Binding{Argv: argv}, ExpiresAt: timestamppb.New(time.Date(2026, 1, 2, 3, 6, 5, 0, time.UTC)),
	}
}

func began(all ...*approvalsv1.Approval) client.ApprovalsChange {
	return client.ApprovalsChange{Began: true, Pending: all}
}

func TestKeysAnswerTheApprovalThatIsShown(t *testing.T) {
	s := newScreen(t, 100, 40)
	s.do(began(ask("a1", "make", "it so"), ask("a2", "rm", "-rf", "/")))
	s.shows(true, "2 waiting for your approval", "LOCAL /run/x/hanzod.sock")
	s.wait(time.Second)
	s.press("oad")
	s.expect() // on another page
	s.press("2")
	s.shows(true, "make 'it so'", "a1", "LOCAL /run/x/hanzod.sock")
	s.press("o")
	s.expect("a1 allowed once")
	s.shows(true, "allowed once: make 'it so'", "rm -rf /")
	s.press("ao") // another one came under the cursor
	s.expect("a1 allowed once")
	s.shows(true, "look again")
	s.wait(time.Second)
	s.press("d")
	s.expect("a1 allowed once", "a2 denied")
	s.shows(true, "nothing waits")
	s.press("oad")
	s.expect("a1 allowed once", "a2 denied")

	s.do(began(ask("a3", "ls"), ask("a4", "ps")))
	s.wait(time.Second)
	s.press("ja")
	s.expect("a1 allowed once", "a2 denied", "a4 allowed always")
	s.asked.err = errors.New("somebody was \x1b[2Jquicker")
	s.press("k")
	s.wait(time.Second)
	s.press("o")
	s.shows(true, `not answered: somebody was \x1b[2Jquicker`, "ls")
}

func TestOnlyWhatWasSeenToItsEndIsAllowed(t *testing.T) {
	s := newScreen(t, 60, 14)
	s.press("2")
	s.do(began(ask("a1", strings.Split(strings.Repeat("word ", 300), " ")...)))
	s.wait(time.Second)
	s.press("oa")
	s.expect()
	s.shows(true, "more lines below", "press space to see all")
	for range 60 {
		s.press(" ")
	}
	s.shows(false, "more lines below")
	s.press("o")
	s.expect("a1 allowed once")

	// A list cuts long texts: all of it has to be there.
	cut, whole := ask("a2", "start"), ask("a2", "start", "and the end")
	cut.Cut = true
	s.do(began(cut))
	s.wait(time.Second)
	s.press("o")
	s.expect("a1 allowed once")
	s.asked.whole = map[string]*approvalsv1.Approval{"a2": whole}
	s.press("r")
	s.press("o") // it has just changed
	s.wait(time.Second)
	s.press("  ")
	s.shows(true, "and the end")
	s.press("o")
	s.expect("a1 allowed once", "a2 allowed once")

	// Denying needs no look.
	s.do(began(ask("a3", strings.Repeat("x", 3000))))
	s.wait(time.Second)
	s.press("d")
	s.expect("a1 allowed once", "a2 allowed once", "a3 denied")
}

func TestPromptShowsWhatRuns(t *testing.T) {
	s := newScreen(t, 100, 40)
	s.press("2")
	a := ask("a1", "/bin/sh", "/srv/x.sh", "\x1b[2J", "caf\u00e9")
	a.Binding.Cwd = new(string)
	*a.Binding.Cwd = "/srv/a b"
	a.Binding.Identity = &approvalsv1.Identity{
		Executable: &approvalsv1.FileIdentity{Path: "/bin/sh", Sha256: strings.Repeat("ab", 32)},
		Script:     &approvalsv1.FileIdentity{Path: "/srv/x.sh", Sha256: strings.Repeat("cd", 32)},
		Unbound:    []string{"what x.sh starts"},
	}
	a.EnvKeys, a.Signs, a.KeyRefused = []string{"LD_PRELOAD"}, []string{"base64"}, "it is a script"
	s.do(began(a))
	s.shows(true, `/bin/sh /srv/x.sh $'\x1b[2J' $'caf\u00e9'`, "'/srv/a b'", "abababababab", "cdcdcdcdcdcd", "what x.sh starts", "LD_PRELOAD", "base64", "cannot be kept")
	s.shows(false, "what somebody wrote")
	s.model.detail = detailMsg{id: "a1", before: ask("a0", "/bin/sh", "/srv/old.sh")}
	s.shows(true, "last time", "/srv/old.sh")
}

func TestHostileTextDoesNotReachTheTerminal(t *testing.T) {
	s := newScreen(t, 90, 30)
	evil := "\x1b]0;owned\x07\x1b[31m\r\n\u202e\u0085\xff" + strings.Repeat("\u0301", 5000)
	a := ask("a1", evil)
	a.NodeName, a.RequestedBy, a.Rule, a.AgentId = evil, evil, evil, &evil
	name := evil
	s.do(
		began(a), noticeMsg{evil, evil}, eventMsg{name: evil, payload: evil},
		nodeMsg{&nodesv1.WatchNodesResponse{Change: nodesv1.WatchNodesResponse_CHANGE_CONNECTED, Node: &nodesv1.Node{NodeId: "n", DisplayName: name, Platform: evil, Commands: []string{evil}, Connected: true}}},
		selfMsg{attached: true, as: evil},
	)
	for _, keys := range []string{"1", "2"} {
		s.press(keys)
		clean := s.text()
		for _, bad := range []string{"\x1b]", "\x07", "\r", "\u202e", "\u0085", "\xff"} {
			if strings.Contains(clean, bad) {
				t.Errorf("page %s shows %q", keys, bad)
			}
		}
		if len(clean) > 20_000 {
			t.Errorf("page %s has %d bytes", keys, len(clean))
		}
	}
	s.do(client.ApprovalsChange{Away: errors.New(evil)})
	s.shows(true, "AWAY")
	s.shows(false, "\x1b]", "\x07")
}

func TestDaemonGoesAndComesBack(t *testing.T) {
	s := newScreen(t, 100, 30)
	s.shows(true, "connecting")
	s.do(began(), selfMsg{attached: true, as: "desk"})
	s.shows(true, "connected", "node desk")
	s.do(client.ApprovalsChange{Away: errors.New("no daemon answers")}, selfMsg{err: errors.New("no daemon answers")})
	s.shows(true, "AWAY, trying again", "no daemon answers", "as last seen")
	s.do(began(ask("a1", "ls")), nodesBeganMsg{})
	s.shows(true, "the daemon is back")
	s.shows(false, "AWAY", "as last seen")
}

func TestListsAreBoundedAndScreensSmall(t *testing.T) {
	s := newScreen(t, 80, 24)
	var all []*approvalsv1.Approval
	for i := range 2 * maxNodes {
		id := fmt.Sprint("id", i)
		all = append(all, ask(id, "ls", id))
		s.Update(nodeMsg{&nodesv1.WatchNodesResponse{Change: nodesv1.WatchNodesResponse_CHANGE_PRESENT, Node: &nodesv1.Node{NodeId: id, Connected: true}}})
		s.Update(eventMsg{name: id})
		s.Update(noticeMsg{title: id})
	}
	s.do(began(all...))
	if len(s.nodes) > maxNodes || len(s.events) > maxEvents || len(s.notices) > maxShownNotices || len(s.pending) > maxPending {
		t.Errorf("%d nodes, %d events, %d notices, %d approvals", len(s.nodes), len(s.events), len(s.notices), len(s.pending))
	}
	for _, size := range [][2]int{{80, 24}, {40, 12}, {300, 100}, {41, 13}, {1, 1}, {0, 0}, {80, 24}} {
		s.do(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
		for _, k := range []string{"1", "2", "j", "n", "k", " ", "b"} {
			s.press(k)
			if size[0] >= minWidth && size[1] >= minHeight {
				s.text()
			} else {
				s.View()
			}
		}
	}
	s.do(began(ask("old", "ls")))
	s.wait(3 * time.Minute)
	s.do(tickMsg(s.clock))
	s.press("2")
	s.shows(true, "nothing waits")
}

func TestQuit(t *testing.T) {
	s := newScreen(t, 80, 24)
	for _, k := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: 'c', Mod: tea.ModCtrl}} {
		if _, cmd := s.Update(k); cmd == nil || cmd() != tea.Quit() {
			t.Errorf("%v does not quit", k)
		}
	}
}

func TestServeTakesNotificationsOnly(t *testing.T) {
	notices := make(chan noticeMsg, 1)
	invoke := func(command, params string) *nodesv1.NodeResult {
		return serve(&nodesv1.NodeInvoke{InvokeId: "i", Command: command, ParamsJson: &params}, notices)
	}
	if r := invoke("system.notify", `{"title":" T ","body":"B","sound":"x"}`); !r.GetOk() || r.GetInvokeId() != "i" {
		t.Errorf("%v", r)
	}
	if r := invoke("system.notify", `{"title":"T"}`); r.GetOk() || r.GetError().GetCode() != "UNAVAILABLE" {
		t.Errorf("too many: %v", r)
	}
	if n := <-notices; n != (noticeMsg{"T", "B"}) {
		t.Errorf("%+v", n)
	}
	for _, params := range []string{`{}`, `{"title":" "}`, `[]`, ``, `{"title":1}`, `{"body":"` + strings.Repeat("x", maxNotice+1) + `"}`} {
		if r := invoke("system.notify", params); r.GetOk() || r.GetError().GetCode() != "INVALID_REQUEST" {
			t.Errorf("%s: %v", params, r)
		}
	}
	if r := invoke("system.run", `{"command":["ls"]}`); r.GetOk() {
		t.Errorf("%v", r)
	}
	if len(notices) > 0 {
		t.Error("something was shown")
	}
}
