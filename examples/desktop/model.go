package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/client/show"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

const (
	// maxEvents, maxShownNotices, maxNodes and maxPending bound what is kept: the newest events and
	// notifications, the first nodes, the oldest approvals.
	maxEvents       = 200
	maxShownNotices = 20
	maxNodes        = 1000
	maxPending      = 500
	// settle is how long decisions are ignored after another approval came under the cursor by itself, so
	// that nobody decides on what they have not seen.
	settle = 700 * time.Millisecond
	// listRows is how many of the waiting approvals are listed above the chosen one.
	listRows = 5
	// maxSigns is how many characters a line may have for each column of the screen.
	maxSigns = 3
	// minWidth and minHeight are the smallest screen that shows anything.
	minWidth, minHeight = 40, 12
)

var (
	barStyle   = lipgloss.NewStyle().Reverse(true).Bold(true)
	headStyle  = lipgloss.NewStyle().Bold(true)
	faintStyle = lipgloss.NewStyle().Faint(true)
	warnStyle  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Yellow)
	goodStyle  = lipgloss.NewStyle().Foreground(lipgloss.Green)
)

// asker is what the keys need of the daemon.
type asker interface {
	approval(id string) (whole, before *approvalsv1.Approval, err error)
	decide(id string, decision approvalsv1.Decision) (*approvalsv1.Approval, error)
}

type (
	tickMsg   time.Time
	detailMsg struct { // all of an approval
		id            string
		whole, before *approvalsv1.Approval
		err           error
	}
	decidedMsg struct { // what became of an answer
		decision approvalsv1.Decision
		command  string
		approval *approvalsv1.Approval
		err      error
	}
)

var answers = map[approvalsv1.Decision]string{
	approvalsv1.Decision_DECISION_ALLOW_ONCE:   "allowed once",
	approvalsv1.Decision_DECISION_ALLOW_ALWAYS: "allowed always",
	approvalsv1.Decision_DECISION_DENY:         "denied",
}

// page is what the screen shows.
type page int

const (
	overview page = iota
	prompts
)

// model is the screen: what it holds, how it is drawn, what keys do. It does no input or output.
type model struct {
	ask          asker
	target, name string
	now          func() time.Time

	width, height int
	page          page
	note          string

	connected bool   // the daemon is heard
	away      string // why it is not
	status    *systemv1.GetStatusResponse
	self      selfMsg
	nodes     map[string]*nodesv1.Node
	events    []eventMsg
	notices   []noticeMsg

	pending []*approvalsv1.Approval // oldest first
	chosen  string                  // id of the one under the cursor
	detail  detailMsg               // of the chosen one
	scroll  int
	seen    string // id of the one whose last line was shown
	settled time.Time
}

func newModel(ask asker, target, name string) *model {
	return &model{ask: ask, target: target, name: name, now: time.Now, nodes: map[string]*nodesv1.Node{}}
}

func tick() tea.Cmd { return tea.Tick(time.Second, func(t time.Time) tea.Msg { return tickMsg(t) }) }

func (m *model) Init() tea.Cmd { return tick() }

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	was := m.chosen
	var cmd tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height, m.seen = msg.Width, msg.Height, ""
	case tea.KeyPressMsg:
		cmd = m.key(msg.String())
	case tickMsg:
		now := m.now()
		m.keep(slices.DeleteFunc(m.pending, func(a *approvalsv1.Approval) bool {
			return a.GetExpiresAt() != nil && now.After(a.GetExpiresAt().AsTime())
		}))
		cmd = tick()
	case client.ApprovalsChange:
		m.approvals(msg)
	case detailMsg:
		if msg.id == m.chosen {
			if m.detail, m.seen = msg, ""; m.pending[m.index(msg.id)].GetCut() {
				m.settled = m.now().Add(settle) // it is longer now
			}
			if msg.err != nil {
				m.note = "the approval cannot be read: " + show.Text(msg.err.Error())
			}
		}
	case decidedMsg:
		if m.note = answers[msg.decision] + ": " + msg.command; msg.err != nil {
			m.note = "not answered: " + show.Text(msg.err.Error())
		}
		if msg.approval != nil {
			m.change(msg.approval)
		}
	case statusMsg:
		if msg.err == nil {
			m.status = msg.status
		}
	case nodesBeganMsg:
		clear(m.nodes)
	case nodeMsg:
		m.node(msg.change)
	case eventMsg:
		m.events = last(append(m.events, msg), maxEvents)
	case noticeMsg:
		m.notices = last(append(m.notices, msg), maxShownNotices)
	case selfMsg:
		m.self = msg
	}
	m.look()
	if m.chosen != was && m.chosen != "" {
		m.detail = detailMsg{}
		cmd = tea.Batch(cmd, m.fetch(m.chosen))
	}
	return m, cmd
}

func last[T any](list []T, limit int) []T {
	if n := len(list) - limit; n > 0 {
		list = slices.Clone(list[n:])
	}
	return list
}

func (m *model) node(ch *nodesv1.WatchNodesResponse) {
	n := ch.GetNode()
	switch {
	case ch.GetChange() == nodesv1.WatchNodesResponse_CHANGE_DISCONNECTED && !n.GetPaired():
		delete(m.nodes, n.GetNodeId())
	case m.nodes[n.GetNodeId()] != nil || len(m.nodes) < maxNodes:
		m.nodes[n.GetNodeId()] = n
	}
}

func (m *model) approvals(ch client.ApprovalsChange) {
	switch {
	case ch.Began:
		if !m.connected && m.away != "" {
			m.note = "the daemon is back"
		}
		m.connected, m.away = true, ""
		m.keep(ch.Pending)
	case ch.Away != nil:
		m.connected, m.away = false, show.Text(ch.Away.Error())
	default:
		m.change(ch.Approval)
	}
}

// change takes in one approval; what waits no more disappears.
func (m *model) change(a *approvalsv1.Approval) {
	if a.GetId() == m.chosen {
		m.seen = "" // it may be longer now
	}
	pending := slices.Clone(m.pending)
	i := slices.IndexFunc(pending, func(b *approvalsv1.Approval) bool { return b.GetId() == a.GetId() })
	switch waits := a.GetState() == approvalsv1.State_STATE_PENDING; {
	case i >= 0 && waits:
		pending[i] = a
	case i >= 0:
		pending = slices.Delete(pending, i, i+1)
	case waits:
		pending = append(pending, a)
	}
	m.keep(pending)
}

// keep takes in what waits. When the chosen one is gone, the one in its place is chosen, and decisions
// are ignored for a moment.
func (m *model) keep(pending []*approvalsv1.Approval) {
	at := max(0, m.index(m.chosen))
	m.pending = pending[:min(len(pending), maxPending)]
	if m.index(m.chosen) >= 0 {
		return
	}
	m.choose(min(at, len(m.pending)-1))
	m.settled = m.now().Add(settle)
}

func (m *model) index(id string) int {
	return slices.IndexFunc(m.pending, func(a *approvalsv1.Approval) bool { return a.GetId() == id })
}

func (m *model) choose(i int) {
	m.chosen, m.scroll, m.seen = "", 0, ""
	if i >= 0 && i < len(m.pending) {
		m.chosen = m.pending[i].GetId()
	}
}

// current is the chosen approval, with all of its text once that is there.
func (m *model) current() *approvalsv1.Approval {
	i := m.index(m.chosen)
	if i < 0 {
		return nil
	}
	if a := m.pending[i]; !a.GetCut() || m.detail.whole == nil {
		return a
	}
	return m.detail.whole
}

func (m *model) fetch(id string) tea.Cmd {
	return func() tea.Msg {
		whole, before, err := m.ask.approval(id)
		return detailMsg{id, whole, before, err}
	}
}

func (m *model) key(k string) tea.Cmd {
	switch k {
	case "q", "ctrl+c", "ctrl+d":
		return tea.Quit
	case "tab", "1", "2":
		if m.page = 1 - m.page; k != "tab" {
			m.page = page(k[0] - '1')
		}
		m.note = ""
	}
	if m.page != prompts {
		return nil
	}
	switch k {
	case "j", "down", "n":
		m.choose(min(m.index(m.chosen)+1, len(m.pending)-1))
	case "k", "up", "p":
		m.choose(max(m.index(m.chosen)-1, 0))
	case "space", "pgdown":
		m.scroll += max(1, m.detailRows()-1)
	case "b", "pgup":
		m.scroll = max(0, m.scroll-max(1, m.detailRows()-1))
	case "r":
		if m.chosen != "" {
			return m.fetch(m.chosen)
		}
	case "o":
		return m.decide(approvalsv1.Decision_DECISION_ALLOW_ONCE)
	case "a":
		return m.decide(approvalsv1.Decision_DECISION_ALLOW_ALWAYS)
	case "d":
		return m.decide(approvalsv1.Decision_DECISION_DENY)
	}
	return nil
}

// decide answers the chosen approval. Only what was shown to its end is allowed; anything may be denied.
func (m *model) decide(decision approvalsv1.Decision) tea.Cmd {
	a := m.current()
	deny := decision == approvalsv1.Decision_DECISION_DENY
	switch {
	case a == nil:
		return nil
	case m.now().Before(m.settled):
		m.note = "the list has just changed: look again"
		return nil
	case !deny && a.GetCut():
		m.note = "not all of it is here yet: wait, or press r"
		return nil
	case !deny && m.seen != a.GetId():
		m.note = "press space to see all of it before you allow it"
		return nil
	}
	m.note = ""
	return func() tea.Msg {
		answered, err := m.ask.decide(a.GetId(), decision)
		return decidedMsg{decision, command(a), answered, err}
	}
}

// detailRows is how many lines of the chosen approval fit.
func (m *model) detailRows() int {
	return max(1, m.height-6-min(listRows, len(m.pending)))
}

// detailLines is all that is shown of the chosen approval, folded to the width of the screen.
func (m *model) detailLines() []string {
	a := m.current()
	if a == nil {
		return nil
	}
	var lines []string
	for _, f := range facts(a, m.detail.before, m.now()) {
		for i, part := range fold(f.text, m.width-13) {
			name := ""
			if i == 0 {
				name = f.name
			}
			line := faintStyle.Render(fmt.Sprintf("%-12s", cut(name, 12))) + " "
			if f.warning {
				part = warnStyle.Render(part)
			}
			lines = append(lines, line+part)
		}
	}
	return lines
}

// look notes what the screen shows: an approval that was shown to its last line may be allowed.
func (m *model) look() {
	if m.page != prompts || !m.fits() {
		return
	}
	lines := len(m.detailLines())
	if m.scroll = max(0, min(m.scroll, lines-m.detailRows())); m.scroll+m.detailRows() >= lines {
		m.seen = m.chosen
	}
}

func (m *model) fits() bool { return m.width >= minWidth && m.height >= minHeight }

func (m *model) View() tea.View {
	text := "the window is too small"
	if m.fits() {
		text = m.draw()
	}
	v := tea.NewView(text)
	v.AltScreen = true
	v.WindowTitle = "hanzod"
	return v
}

func (m *model) draw() string {
	state := "connecting"
	switch {
	case m.connected:
		state = "connected"
	case m.away != "":
		state = "AWAY, trying again"
	}
	self := "not a node: " + show.Text(errText(m.self.err))
	if m.self.attached {
		self = "node " + show.Text(m.self.as)
	}
	// What is talked to stands in the first line, on every page.
	top := []string{
		barStyle.Render(pad(fmt.Sprintf(" LOCAL %s · %s", show.Text(m.target), state), m.width)),
		cut(m.summary()+" · "+self, m.width),
	}
	rows := m.height - len(top) - 2
	var body []string
	if m.page == prompts {
		body = m.drawPrompts()
	} else {
		body = m.drawOverview(rows)
	}
	for len(body) < rows {
		body = append(body, "")
	}
	help := "1 overview  2 approvals  q quit"
	if m.page == prompts {
		help = "o allow once  a allow always  d deny  j/k next/previous  space more  1 overview  q quit"
	}
	bottom := []string{warnStyle.Render(cut(m.line(), m.width)), faintStyle.Render(cut(help, m.width))}
	return strings.Join(slices.Concat(top, body[:rows], bottom), "\n")
}

// line is what there is to say at the bottom.
func (m *model) line() string {
	switch {
	case m.note != "":
		return m.note
	case m.away != "":
		return m.away
	case m.page != prompts && len(m.pending) > 0:
		return fmt.Sprintf("%d waiting for your approval: press 2", len(m.pending))
	}
	return ""
}

func errText(err error) string {
	if err == nil {
		return "attaching"
	}
	return err.Error()
}

func (m *model) summary() string {
	s := m.status
	if s == nil {
		return "no status yet"
	}
	return fmt.Sprintf("hanzod %s, up %v · %d of %d nodes · %d clients · %d approvals",
		show.Text(s.GetVersion()), s.GetUptime().AsDuration().Round(time.Second), s.GetNodesConnected(), s.GetNodesKnown(), s.GetConnections(), s.GetApprovalsPending())
}

func (m *model) drawOverview(rows int) []string {
	var out []string
	section := func(name string, lines []string, limit int) {
		out = append(out, headStyle.Render(name))
		if more := len(lines) - limit; more > 0 {
			lines = append(lines[:max(0, limit-1)], faintStyle.Render(fmt.Sprintf("  … and %d more", more+1)))
		}
		for _, l := range lines {
			out = append(out, cut(l, m.width))
		}
	}
	var notices []string
	for _, n := range slices.Backward(m.notices) {
		notices = append(notices, "  "+show.Text(n.title)+"  "+show.Text(n.body))
	}
	section("Notifications", notices, max(1, rows/4))
	var nodes []string
	for _, n := range slices.SortedFunc(maps.Values(m.nodes), byName) {
		state := "offline"
		if n.GetConnected() {
			state = "online"
		}
		nodes = append(nodes, fmt.Sprintf("  %-8s %s  %s  %s", state, pad(show.Text(n.GetDisplayName()), 24), pad(show.Text(n.GetPlatform()), 8), show.Text(strings.Join(n.GetCommands(), " "))))
	}
	name := "Nodes"
	if !m.connected {
		name += " as last seen"
	}
	section(name, nodes, max(1, rows/3))
	out = append(out, headStyle.Render("Events"))
	for _, e := range slices.Backward(m.events) {
		if len(out) >= rows {
			break
		}
		text := "  " + e.at.Local().Format(time.TimeOnly) + " " + show.Text(e.name) + " " + show.Text(e.payload)
		if e.dropped > 0 {
			text = fmt.Sprintf("  (%d missed)", e.dropped) + text
		}
		out = append(out, faintStyle.Render(cut(text, m.width)))
	}
	return out
}

func byName(a, b *nodesv1.Node) int {
	return cmp.Or(strings.Compare(a.GetDisplayName(), b.GetDisplayName()), strings.Compare(a.GetNodeId(), b.GetNodeId()))
}

func (m *model) drawPrompts() []string {
	if len(m.pending) == 0 {
		return []string{goodStyle.Render("nothing waits for an approval")}
	}
	var out []string
	at := m.index(m.chosen)
	from := max(0, min(at-listRows/2, len(m.pending)-listRows))
	for i := from; i < min(len(m.pending), from+listRows); i++ {
		line := cut(fmt.Sprintf("%s %d of %d  %s", map[bool]string{true: ">"}[i == at], i+1, len(m.pending), command(m.pending[i])), m.width)
		if i == at {
			line = headStyle.Render(line)
		}
		out = append(out, line)
	}
	lines := m.detailLines()
	end := min(len(lines), m.scroll+m.detailRows())
	rule := "──"
	if end < len(lines) {
		rule = fmt.Sprintf("── %d more lines below: press space ──", len(lines)-end)
	}
	return slices.Concat(out, lines[min(m.scroll, end):end], []string{faintStyle.Render(rule)})
}

// fold breaks text that was made safe into lines of a width. Nothing of it is left out.
func fold(s string, width int) []string {
	var lines []string
	var line strings.Builder
	used, signs := 0, 0
	for _, r := range s {
		w := lipgloss.Width(string(r))
		// Signs without a width, such as accents, could be piled up without end.
		if used+w > width || signs >= maxSigns*max(1, width) {
			lines = append(lines, line.String())
			line.Reset()
			used, signs = 0, 0
		}
		line.WriteRune(r)
		used += w
		signs++
	}
	return append(lines, line.String())
}

// cut shortens text that was made safe to a width and says so; pad fills it up, too.
func cut(s string, width int) string {
	if lines := fold(s, width); len(lines) > 1 {
		return fold(s, width-1)[0] + "…"
	}
	return s
}

func pad(s string, width int) string {
	s = cut(s, width)
	return s + strings.Repeat(" ", max(0, width-lipgloss.Width(s)))
}
