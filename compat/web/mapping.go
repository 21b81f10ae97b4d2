package web

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/hooks"
	"github.com/hanzoai/hanzod/system"
)

// mapping is an entry of hooks.mappings with its texts read (channels-plugins.md §5.4).
type mapping struct {
	config.HookMapping
	text, message, name, sessionKey, to, model, thinking template
}

func compile(m config.HookMapping) mapping {
	return mapping{
		HookMapping: m, text: parse(m.TextTemplate), message: parse(m.MessageTemplate), name: parse(m.Name),
		sessionKey: parse(m.SessionKey), to: parse(m.To), model: parse(m.Model), thinking: parse(m.Thinking),
	}
}

// input is what expressions can name.
type input struct {
	path    string
	payload wire.Value
	r       *http.Request
	now     func() time.Time
}

// action is what a mapping makes of a request: one of the two.
type action struct {
	wake  *system.WakeIn
	agent *hooks.AgentIn
}

func (m *mapping) fits(path string, payload wire.Value) bool {
	if m.MatchPath != "" && m.MatchPath != strings.Trim(path, "/") {
		return false
	}
	return m.MatchSource == "" || m.MatchSource == str(payload, "source")
}

var (
	errNoText    = errors.New("hook mapping requires text")
	errNoMessage = errors.New("hook mapping requires message")
	errTooLong   = errors.New("hook mapping makes a text of more than 1048576 bytes")
)

// maxRendered bounds what one template makes: an expression may repeat the whole body.
const maxRendered = 1 << 20

func (m *mapping) act(in input) (action, error) {
	var failed error
	render := func(t template) string {
		s, err := t.render(in)
		if err != nil {
			failed = err
		}
		return s
	}
	if m.Action == "wake" {
		w := system.WakeIn{Text: trim(render(m.text)), Mode: system.WakeMode(m.WakeMode), Source: "hook " + m.ID}
		if failed == nil && w.Text == "" {
			failed = errNoText
		}
		return action{wake: &w}, failed
	}
	a := hooks.AgentIn{
		Message: trim(render(m.message)), Name: trim(render(m.name)), AgentID: m.AgentID,
		SessionKey: trim(render(m.sessionKey)), KeySource: hooks.KeyFromConfig,
		WakeNow: m.WakeMode == string(system.WakeNow), Deliver: m.Deliver, To: trim(render(m.to)),
		Thinking: trim(render(m.thinking)), Timeout: time.Duration(m.TimeoutSeconds) * time.Second,
		Trusted: m.AllowUnsafeExternalContent,
	}
	if m.sessionKey.varies() {
		a.KeySource = hooks.KeyFromTemplate
	}
	if m.Channel != "" {
		a.Channel = &m.Channel
	}
	if s := trim(render(m.model)); s != "" {
		a.Model = &s
	}
	if failed == nil && a.Message == "" {
		failed = errNoMessage
	}
	return action{agent: &a}, failed
}

// template is a text with expressions in it: each piece is a plain text, or an expression.
type template []piece

type piece struct {
	plain string
	expr  string // "" for a plain text
}

// parse reads a template. Braces that hold nothing, or are not closed, are plain text.
func parse(s string) template {
	var t template
	plain := func(s string) {
		if s != "" {
			t = append(t, piece{plain: s})
		}
	}
	for {
		open := strings.Index(s, "{{")
		if open < 0 {
			plain(s)
			return t
		}
		// The innermost pair counts: an expression holds no closing brace.
		end := strings.IndexByte(s[open+2:], '}')
		if end < 0 {
			plain(s)
			return t
		}
		end += open + 2
		expr := strings.TrimSpace(s[open+2 : end])
		if !strings.HasPrefix(s[end:], "}}") || expr == "" {
			plain(s[:end+1])
			s = s[end+1:]
			continue
		}
		plain(s[:open])
		t = append(t, piece{expr: expr})
		s = s[end+2:]
	}
}

// varies reports whether the text depends on the request.
func (t template) varies() bool {
	for _, p := range t {
		if p.expr != "" {
			return true
		}
	}
	return false
}

func (t template) render(in input) (string, error) {
	var b strings.Builder
	for _, p := range t {
		part := p.plain
		if p.expr != "" {
			part = in.value(p.expr)
		}
		if b.Len()+len(part) > maxRendered {
			return "", errTooLong
		}
		b.WriteString(part)
	}
	return b.String(), nil
}

// value is the text of an expression; what is not there is empty.
func (in input) value(expr string) string {
	switch expr {
	case "path":
		return in.path
	case "now":
		return in.now().UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if name, ok := strings.CutPrefix(expr, "headers."); ok {
		return in.header(name)
	}
	if name, ok := strings.CutPrefix(expr, "query."); ok {
		values := in.r.URL.Query()[name]
		if len(values) == 0 {
			return ""
		}
		return values[len(values)-1]
	}
	return shown(walk(in.payload, strings.TrimPrefix(expr, "payload.")))
}

// secretHeaders never reach a text that an agent reads: they hold the token of the hook, or others.
var secretHeaders = map[string]bool{
	"Authorization": true, "Proxy-Authorization": true, "X-Openclaw-Token": true, "Cookie": true,
}

func (in input) header(name string) string {
	if name != strings.ToLower(name) {
		return "" // names are in lower case
	}
	if name == "host" {
		return in.r.Host
	}
	key := http.CanonicalHeaderKey(name)
	if secretHeaders[key] {
		return ""
	}
	return strings.Join(in.r.Header[key], ", ")
}

// maxSteps bounds how deep an expression reaches; bodies nest less deep than that.
const maxSteps = wire.MaxDepth

// walk follows a path such as a.b[0].c.
func walk(v wire.Value, path string) wire.Value {
	steps := 0
	for path != "" {
		if steps++; steps > maxSteps {
			return wire.Value{}
		}
		end := strings.IndexAny(path, ".[]")
		switch {
		case end == 0 && path[0] == '[':
			shut := strings.IndexByte(path, ']')
			i, err := strconv.ParseUint(path[1:max(shut, 1)], 10, 31)
			if shut < 0 || err != nil || v.Kind() != wire.Array {
				return wire.Value{}
			}
			v, path = item(v, i), path[shut+1:]
			continue
		case end == 0:
			path = path[1:]
			continue
		case end < 0:
			end = len(path)
		}
		v, path = member(v, path[:end]), path[end:]
	}
	return v
}

func member(v wire.Value, key string) wire.Value {
	switch key {
	case "__proto__", "prototype", "constructor":
		return wire.Value{}
	}
	if v.Kind() == wire.Array {
		if i, err := strconv.ParseUint(key, 10, 31); err == nil && strconv.FormatUint(i, 10) == key {
			return item(v, i)
		}
		return wire.Value{}
	}
	m, _ := v.Get(key)
	return m
}

func item(v wire.Value, n uint64) wire.Value {
	for x := range v.Items() {
		if n == 0 {
			return x
		}
		n--
	}
	return wire.Value{}
}

// shown is how JavaScript writes a value into a text.
func shown(v wire.Value) string {
	switch v.Kind() {
	case wire.Undefined, wire.Null:
		return ""
	case wire.String:
		return v.Str()
	case wire.Number:
		return string(wire.AppendNumber(nil, v.Num()))
	default:
		return string(wire.Stringify(v))
	}
}

// seconds reads a number of seconds; 0 for what is no positive one.
func seconds(n float64) time.Duration {
	if !(n > 0) || math.IsInf(n, 0) {
		return 0
	}
	const most = 365 * 24 * 3600 // a year: more is no limit
	return time.Duration(math.Floor(min(n, most))) * time.Second
}
