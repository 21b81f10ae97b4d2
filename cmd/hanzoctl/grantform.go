package main

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

// maxUses bounds the number of runs of a grant, here as in the daemon: more is always.
const maxUses = 1_000_000

// grantTerms is how far a grant reaches. At least one of uses, until, session and always is set.
type grantTerms struct {
	uses    int
	until   time.Time
	session bool
	always  bool
	pattern []string
	// anyCwd and anyAgent widen it beyond those of the approval.
	anyCwd, anyAgent bool
	note             string
}

// onlyAlways says that they are those of the answer "always".
func (g *grantTerms) onlyAlways() bool {
	return g.always && len(g.pattern) == 0 && !g.anyCwd && !g.anyAgent && g.note == ""
}

// String says it to people.
func (g grantTerms) String() string {
	var parts []string
	if g.always {
		parts = append(parts, "until it is revoked")
	}
	if g.uses > 0 {
		parts = append(parts, count(g.uses, "more run"))
	}
	if !g.until.IsZero() {
		parts = append(parts, "until "+g.until.Format("2006-01-02 15:04:05"))
	}
	if g.session {
		parts = append(parts, "in this session only")
	}
	return strings.Join(parts, ", ")
}

// count is a number of things.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// grantForm asks for the terms of a grant, one question after the other.
type grantForm struct {
	p     *approvalsv1.Approval
	step  formStep
	typed string
	wrong string // why what was typed is not taken
	terms grantTerms
}

type formStep uint8

const (
	askKind formStep = iota
	askUses
	askUntil
	askPattern
	confirm
)

// beginGrant opens the form on the current approval.
func (b *board) beginGrant() {
	if b.once {
		return
	}
	if p := b.ready(false); p != nil {
		b.mode, b.form, b.note = granting, &grantForm{p: b.shown()}, ""
	}
}

// formKey is a key while the form is open.
func (b *board) formKey(k string) action {
	f := b.form
	if k == "esc" {
		b.mode, b.form = looking, nil
		return action{}
	}
	f.wrong = ""
	switch f.step {
	case askKind:
		f.kind(strings.ToLower(k))
	case confirm:
		switch strings.ToLower(k) {
		case "y":
			if b.now().Before(b.settled) {
				f.wrong = "the list has just changed: look again"
				return action{}
			}
			b.mode, b.form = looking, nil
			terms := f.terms
			return action{kind: actDecide, id: f.p.GetId(), decision: approvalsv1.Decision_DECISION_ALLOW_ONCE, grant: &terms}
		case "p":
			f.step, f.typed = askPattern, strings.Join(f.terms.pattern, " ")
		}
	default:
		if k != "enter" {
			f.typed = typeInto(f.typed, k)
			return action{}
		}
		if err := f.take(b.now()); err != nil {
			f.wrong = err.Error()
		}
	}
	return action{}
}

func (f *grantForm) kind(k string) {
	step := confirm
	switch k {
	case "n":
		step = askUses
	case "u":
		step = askUntil
	case "s":
		if f.p.GetSessionKey() == "" {
			f.wrong = "the run belongs to no session"
			return
		}
		f.terms.session = true
	case "a":
		f.terms.always = true
	default:
		return
	}
	f.step = step
	if step == confirm && f.p.GetKeyRefused() != "" {
		f.step = askPattern
	}
}

// take reads what was typed.
func (f *grantForm) take(now time.Time) error {
	switch f.step {
	case askUses:
		n, err := strconv.Atoi(strings.TrimSpace(f.typed))
		if err != nil || n < 1 || n > maxUses {
			return fmt.Errorf("give a number from 1 to %d", maxUses)
		}
		f.terms.uses = n
	case askUntil:
		at, err := parseUntil(f.typed, now)
		if err != nil {
			return err
		}
		f.terms.until = at
	case askPattern:
		words, err := splitWords(f.typed)
		if err != nil {
			return err
		}
		if len(words) == 0 && f.p.GetKeyRefused() != "" {
			return errors.New("this command cannot be found again: give a pattern, or Esc and allow it once")
		}
		f.terms.pattern = patternFor(words, f.p)
	}
	f.step, f.typed = confirm, ""
	if len(f.terms.pattern) == 0 && f.p.GetKeyRefused() != "" {
		f.step = askPattern
	}
	return nil
}

func (f *grantForm) foot() string {
	switch f.step {
	case askKind:
		return "n number of runs  u until a time  s this session  a always  Esc back"
	case askUses:
		return "how many runs: " + f.typed + "_  (Enter, Esc)"
	case askUntil:
		return "for how long (30m, 2h) or until when (18:00, 2006-01-02 15:04): " + f.typed + "_"
	case askPattern:
		return "pattern (* in a word, ** at the end): " + f.typed + "_  (Enter, Esc)"
	default:
		return "y allow it and keep this  p a pattern instead of the one command  Esc back"
	}
}

// formLines show what would be kept.
func (b *board) formLines() []line {
	f := b.form
	var all []fact
	all = append(all, fact{"runs", text(whatRuns(f.p))})
	switch {
	case len(f.terms.pattern) > 0:
		all = append(all, fact{"keeps", text("every command of the form " + Quote(f.terms.pattern))})
	case f.p.GetKeyRefused() != "":
		all = append(all, fact{"keeps", styled(warning, "this command cannot be kept: "+Text(f.p.GetKeyRefused())+"; a pattern can")})
	case f.p.GetKey() != "":
		all = append(all, fact{"keeps", text(keyText(f.p.GetKey()))})
	default:
		all = append(all, fact{"keeps", text("exactly this command")})
	}
	all = append(all, fact{"on", text(Text(where(f.p)))})
	if cwd := cwdOf(f.p); cwd != "" {
		all = append(all, fact{"directory", text(Quote([]string{cwd}))})
	}
	if f.p.GetAgentId() != "" {
		all = append(all, fact{"agent", text(Text(f.p.GetAgentId()))})
	}
	if keys := f.p.GetEnvKeys(); len(keys) > 0 {
		all = append(all, fact{"environment", text("with the same values of " + Quote(keys))})
	}
	all = append(all, fact{"asked by", text(Text(f.p.GetRequestedBy()))})
	if s := f.terms.String(); s != "" {
		all = append(all, fact{"for", text(s)})
	}
	if f.wrong != "" {
		all = append(all, fact{"", line{}}, fact{"", styled(warning, f.wrong)})
	}
	var lines []line
	for _, x := range all {
		lines = append(lines, wrap(fmt.Sprintf("%-13s", x.name), x.text, b.w)...)
	}
	// What decides comes last: of a long command the beginning gives way, it was shown already.
	if h := max(1, b.h-3); len(lines) > h {
		lines = lines[len(lines)-h:]
	}
	return lines
}

// parseUntil reads a time: a duration from now, a time of today or tomorrow, or a date with a time.
func parseUntil(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if d, err := time.ParseDuration(s); err == nil {
		if d <= 0 {
			return time.Time{}, errors.New("that time has passed")
		}
		return now.Add(d), nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= 3650 {
			return now.AddDate(0, 0, n), nil
		}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			if !t.After(now) {
				return time.Time{}, errors.New("that time has passed")
			}
			return t, nil
		}
	}
	if t, err := time.ParseInLocation("15:04", s, now.Location()); err == nil {
		at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = at.AddDate(0, 0, 1)
		}
		return at, nil
	}
	return time.Time{}, fmt.Errorf("%q is no time: use 30m, 2h, 7d, 18:00 or 2006-01-02 15:04", s)
}

// patternFor names the program of a pattern as the approval does: by its path, where it was given by the
// name that this path ends with.
func patternFor(words []string, p *approvalsv1.Approval) []string {
	argv := approvedArgv(p)
	if len(words) == 0 || len(argv) == 0 || strings.ContainsAny(words[0], `/\*`) || path.Base(strings.ReplaceAll(argv[0], `\`, "/")) != words[0] {
		return words
	}
	return append([]string{argv[0]}, words[1:]...)
}

// splitWords splits a pattern into words, at blanks outside of quotes: 'a b' and "a b" are one word, and
// outside of ” a backslash takes the next character as it is.
func splitWords(s string) ([]string, error) {
	var words []string
	var w strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quote != '\'':
			if i++; i == len(s) {
				return nil, errors.New("a backslash at the end takes nothing")
			}
			w.WriteByte(s[i])
			in = true
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote, in = c, true
		case quote == 0 && (c == ' ' || c == '\t' || c == '\n'):
			if in {
				words = append(words, w.String())
				w.Reset()
			}
			in = false
		default:
			w.WriteByte(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if in {
		words = append(words, w.String())
	}
	return words, nil
}

// request is the terms as the daemon takes them; nil stays nil.
func (g *grantTerms) request() *approvalsv1.GrantRequest {
	if g == nil {
		return nil
	}
	out := &approvalsv1.GrantRequest{Uses: int32(g.uses), Session: g.session, Always: g.always, Pattern: g.pattern,
		AnyCwd: g.anyCwd, AnyAgent: g.anyAgent, Note: g.note}
	if !g.until.IsZero() {
		out.Until = timestamppb.New(g.until)
	}
	return out
}
