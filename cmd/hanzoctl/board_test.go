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

func keys(b *board, all string) (last action) {
	for _, k := range parseKeys([]byte(all)) {
		last = b.key(k)
	}
	return last
}

// Who was quicker is named.
func TestBoardSaysWho(t *testing.T) {
	b, _ := newBoard("a", "b")
	b.update(&approvalsv1.Approval{Id: "a", State: approvalsv1.State_STATE_DENIED, Decision: approvalsv1.Decision_DECISION_DENY, ResolvedBy: "Anna\x1b[2J"})
	if s := b.render(); !strings.Contains(s, `denied by Anna\x1b[2J: run a`) {
		t.Errorf("screen:\n%s", s)
	}
	b.note = ""
	b.update(&approvalsv1.Approval{Id: "unknown", State: approvalsv1.State_STATE_DENIED, ResolvedBy: "x"})
	if b.note != "" {
		t.Errorf("a note about what was never shown: %q", b.note)
	}
}

// Keys typed into a line decide nothing.
func TestBoardFilter(t *testing.T) {
	b, _ := newBoard("apple", "banana", "cherry")
	if act := keys(b, "/oado"); act.kind != actNone || b.filter != "" || len(b.items) != 3 {
		t.Errorf("typing: %+v", act)
	}
	keys(b, "\x7f\x7f\x7f\x7fBAN\r")
	if b.filter != "BAN" || len(b.items) != 1 || b.current().GetId() != "banana" || len(b.all) != 3 {
		t.Fatalf("filter %q: %v", b.filter, b.items)
	}
	if s := b.render(); !strings.Contains(s, `3 waiting for an approval; 1 with "BAN"`) {
		t.Errorf("screen:\n%s", s)
	}
	// What comes now and does not fit is counted, and not shown.
	c := &clock{t: b.now()}
	b.update(question(c, "durian", "run", "durian"))
	if len(b.items) != 1 || len(b.all) != 4 {
		t.Errorf("%d of %d", len(b.items), len(b.all))
	}
	keys(b, "/xyz")
	b.key("esc")
	if b.filter != "BAN" {
		t.Errorf("given up: %q", b.filter)
	}
	b.key("esc")
	if b.filter != "" || len(b.items) != 4 || b.current().GetId() != "banana" {
		t.Errorf("all again: %q, %d", b.filter, len(b.items))
	}
	keys(b, "/"+strings.Repeat("x", 2*maxTyped))
	if len(b.typed) != maxTyped {
		t.Errorf("typed %d", len(b.typed))
	}
}

func TestBoardHelp(t *testing.T) {
	b, _ := newBoard("a")
	if act := keys(b, "?"); act.kind != actNone || !strings.Contains(b.render(), "deny") || b.mode != helping {
		t.Error("no help")
	}
	if act := keys(b, "o"); act.kind != actNone || b.mode != looking { // any key goes back, and does no more
		t.Errorf("%+v", act)
	}
	b.once = true
	if keys(b, "?g"); strings.Contains(b.render(), "g grant") || b.form != nil {
		t.Error("grants where there are none")
	}
}

func TestBoardGrants(t *testing.T) {
	for _, c := range []struct {
		typed string
		want  grantTerms
	}{
		{"gn3\ry", grantTerms{uses: 3}},
		{"gN12\x7f\ry", grantTerms{uses: 1}},
		{"gs y", grantTerms{session: true}},
		{"gay", grantTerms{always: true}},
		{"gapuname -*  **\ry", grantTerms{always: true, pattern: []string{"/bin/uname", "-*", "**"}}},
		{"gn0\r\x7f5\ry", grantTerms{uses: 5}},
		{"gapgit 'a b\r'\ry", grantTerms{always: true, pattern: []string{"git", "a b"}}},
	} {
		b, clk := newBoard()
		p := question(clk, "x", "/bin/uname", "-a")
		p.SessionKey, p.Key = new("s"), `"/bin/uname" "-a"`
		b.update(p)
		clk.t = clk.t.Add(time.Second)
		b.render()
		var act action
		for _, k := range parseKeys([]byte(c.typed)) {
			act = b.key(k)
			b.render()
		}
		if act.kind != actDecide || act.id != "x" || act.decision != approvalsv1.Decision_DECISION_ALLOW_ONCE || act.grant == nil || act.grant.String() != c.want.String() ||
			!slices.Equal(act.grant.pattern, c.want.pattern) || b.mode != looking {
			t.Errorf("%q: %+v, %+v", c.typed, act, act.grant)
		}
	}
	b, clk := newBoard("a")
	keys(b, "gu1h\r")
	if s := b.render(); !strings.Contains(s, "for          until 20") || !strings.Contains(s, "keeps        exactly this command") || !strings.Contains(s, "y allow it") {
		t.Errorf("screen:\n%s", s)
	}
	if got := b.form.terms.until; !got.Equal(clk.t.Add(time.Hour)) {
		t.Errorf("until %v", got)
	}
	// A question that goes away takes its form along.
	b.update(&approvalsv1.Approval{Id: "a", State: approvalsv1.State_STATE_EXPIRED})
	if act := keys(b, "y"); act.kind != actNone || b.mode != looking {
		t.Errorf("%+v", act)
	}
	keys(b, "g")
	if b.form != nil {
		t.Error("a form without a question")
	}
	b, _ = newBoard("a")
	if keys(b, "gs"); b.form.wrong == "" || b.form.step != askKind {
		t.Error("a session that is none")
	}
	keys(b, "\x1b")
	if b.mode != looking {
		t.Error("Esc goes nowhere")
	}
}

// What cannot be kept says so before the key is pressed, and after it.
func TestBoardCannotKeep(t *testing.T) {
	b, clk := newBoard()
	p := question(clk, "x", "sh", "-c", "$X")
	p.KeyRefused = "what it runs is not in its text"
	b.w = 100
	b.update(p)
	clk.t = clk.t.Add(time.Second)
	if s := b.render(); !strings.Contains(s, "always       cannot be kept: what it runs is not in its text") {
		t.Errorf("screen:\n%s", s)
	}
	if act := keys(b, "a"); act.kind != actNone || !strings.Contains(b.note, "cannot be allowed always") {
		t.Errorf("%+v, %q", act, b.note)
	}
	if act := keys(b, "o"); act.kind != actDecide {
		t.Errorf("%+v", act)
	}
	// Only a pattern can be kept.
	keys(b, "ga")
	if b.form.step != askPattern {
		t.Errorf("step %v", b.form.step)
	}
	if keys(b, "\r"); b.form.wrong == "" {
		t.Error("nothing is a pattern")
	}
	if act := keys(b, "sh -c *\ry"); act.kind != actDecide || !slices.Equal(act.grant.pattern, []string{"sh", "-c", "*"}) {
		t.Errorf("%+v", act)
	}
}

// Several have to allow what a rule wants several for: then always is the decision of that name.
func TestBoardQuorum(t *testing.T) {
	b, clk := newBoard()
	p := question(clk, "x", "make", "deploy")
	p.Quorum, p.Rule, p.Where = 2, "deploys", "/etc/policy.json:7"
	p.Votes = []*approvalsv1.Vote{{Name: "Anna", Decision: approvalsv1.Decision_DECISION_ALLOW_ONCE, At: timestamppb.New(clk.t)}}
	p.Approvers, p.ExcludeRequester = []string{"device:a", "device:b"}, true
	p.EscalateAt, p.EscalateTo = timestamppb.New(clk.t.Add(time.Minute)), []string{"device:boss"}
	p.Signs, p.OnTimeout = []string{"pipe-to-shell"}, approvalsv1.Decision_DECISION_DENY
	b.w, b.h = 100, 40
	b.update(p)
	clk.t = clk.t.Add(time.Second)
	s := b.render()
	for _, want := range []string{"needs        2 approvers, 1 so far", "vote         Anna allowed once 1s ago", "who may      device:a, device:b", "who may      not whoever asked",
		"escalates    to device:boss in 59s", "rule         deploys (/etc/policy.json:7)", "WARNING      it looks as if it hides what it does: pipe-to-shell", ", then it is denied", "! box"} {
		if !strings.Contains(s, want) {
			t.Errorf("the screen lacks %q:\n%s", want, s)
		}
	}
	if act := keys(b, "a"); act.grant != nil || act.decision != approvalsv1.Decision_DECISION_ALLOW_ALWAYS {
		t.Errorf("%+v", act)
	}
}

// A text that was cut is not allowed before all of it is there, and was shown.
func TestBoardCut(t *testing.T) {
	b, clk := newBoard()
	p := question(clk, "x", "echo", "beginning...")
	p.Cut = true
	b.update(p)
	clk.t = clk.t.Add(time.Second)
	b.render()
	if b.wants() != "x" {
		t.Fatal("nobody wants the rest")
	}
	b.fetching("x")
	if act := keys(b, "o"); act.kind != actNone || b.wants() != "" {
		t.Errorf("%+v", act)
	}
	whole := question(clk, "x", "echo", "beginning", "; rm -rf /")
	earlier := question(clk, "y", "echo", "beginning")
	earlier.State, earlier.Decision, earlier.ResolvedBy = approvalsv1.State_STATE_CONSUMED, approvalsv1.Decision_DECISION_ALLOW_ONCE, "Anna"
	b.fetched("x", detail{whole, earlier})
	if act := keys(b, "o"); act.kind != actNone {
		t.Errorf("before it was drawn: %+v", act)
	}
	if s := b.render(); !strings.Contains(s, "earlier      y, allowed once by Anna") || !strings.Contains(s, "words      echo beginning {+'; rm -rf /'+}") {
		t.Errorf("screen:\n%s", s)
	}
	if act := keys(b, "o"); act.kind != actDecide {
		t.Errorf("%+v", act)
	}
	b.fetched("gone", detail{})
	if len(b.details) != 1 {
		t.Error("what was not asked for is kept")
	}
	b.update(&approvalsv1.Approval{Id: "x", State: approvalsv1.State_STATE_EXPIRED})
	if len(b.details) != 0 {
		t.Error("details of what is gone are kept")
	}
}

func TestDiffWords(t *testing.T) {
	split := strings.Fields
	for _, c := range [][3]string{
		{"", "", ""},
		{"a b c", "a b c", "a b c"},
		{"a b c", "a x c", "a [-b-] {+x+} c"},
		{"git push origin main", "git push --force origin prod", "git push {+--force+} origin [-main-] {+prod+}"},
		{"", "a", "{+a+}"},
		{"a a", "a", "a [-a-]"},
		{"1 2 3 4 5", "3 4 5 6 1", "[-1 2-] 3 4 5 {+6 1+}"},
	} {
		if got := marked(diffWords(split(c[0]), split(c[1])), quoteWords).String(); got != c[2] {
			t.Errorf("%q to %q: %q, want %q", c[0], c[1], got, c[2])
		}
	}
	many := make([]string, 5000)
	for i := range many {
		many[i] = strings.Repeat("x", i%7)
	}
	other := slices.Clone(many)
	slices.Reverse(other)
	began := time.Now()
	parts := diffWords(many, other)
	if time.Since(began) > time.Second || len(parts) == 0 {
		t.Errorf("%d parts after %v", len(parts), time.Since(began))
	}
}

// A comparison loses no word of either side.
func FuzzDiffWords(f *testing.F) {
	f.Add("a b c", "a c d")
	f.Fuzz(func(t *testing.T, a, b string) {
		old, now := strings.Split(a, " "), strings.Split(b, " ")
		var x, y []string
		for _, p := range diffWords(old, now) {
			if p.side != added {
				x = append(x, p.words...)
			}
			if p.side != removed {
				y = append(y, p.words...)
			}
		}
		if !slices.Equal(x, old) || !slices.Equal(y, now) {
			t.Errorf("%q and %q became %q and %q", old, now, x, y)
		}
	})
}

func TestEarlierOf(t *testing.T) {
	c := &clock{t: time.Unix(1_760_000_000, 0)}
	end := func(id, key string, d approvalsv1.Decision) *approvalsv1.Approval {
		p := question(c, id, "x")
		p.State, p.Decision, p.Key = approvalsv1.State_STATE_CONSUMED, d, key
		return p
	}
	p := question(c, "now", "x")
	p.Key = "k"
	once, deny := approvalsv1.Decision_DECISION_ALLOW_ONCE, approvalsv1.Decision_DECISION_DENY
	pending := question(c, "pending", "x")
	for _, tc := range []struct {
		like []*approvalsv1.Approval
		want string
	}{
		{nil, ""},
		{[]*approvalsv1.Approval{pending, p}, ""},
		{[]*approvalsv1.Approval{end("d", "k", deny)}, "d"},
		{[]*approvalsv1.Approval{end("d", "k", deny), end("o", "other", once), end("o2", "other", once)}, "o"},
		{[]*approvalsv1.Approval{end("o", "other", once), end("k1", "k", once), end("k2", "k", once)}, "k1"},
	} {
		if got := earlierOf(p, tc.like).GetId(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestParseUntil(t *testing.T) {
	now := time.Date(2026, 11, 22, 17, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"30m": "2026-11-22 17:30", " 2h": "2026-11-22 19:00", "7d": "2026-11-29 17:00", "18:00": "2026-11-22 18:00", "09:30": "2026-11-23 09:30",
		"2026-12-01": "2026-12-01 00:00", "2026-12-01 08:15": "2026-12-01 08:15", "2026-12-01T08:15": "2026-12-01 08:15", "2026-12-01T08:15:00Z": "2026-12-01 08:15",
		"": "", "-1h": "", "yesterday": "", "2020-01-01": "", "99999d": "", "25:00": "",
	} {
		got := ""
		if at, err := parseUntil(in, now); err == nil {
			got = at.Format("2006-01-02 15:04")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "  ": nil, "git status **": {"git", "status", "**"}, `a 'b c' "d e"`: {"a", "b c", "d e"}, `a\ b`: {"a b"}, `''`: {""}, `x'y'"z"`: {"xyz"}, `"a\"b"`: {`a"b`}, `'a\b'`: {`a\b`},
	} {
		if got, err := splitWords(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"'", `"a`, `a\`} {
		if _, err := splitWords(in); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
}
