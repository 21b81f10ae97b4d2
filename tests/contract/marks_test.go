package contract

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
)

// markRE finds a mark in a text: a learned one (uuid#1), a plain one (ms) or a device's (device:box.id).
var markRE = regexp.MustCompile(`\$(?:((?:uuid|hex|token|id)#\d+)` +
	`|(ms|int|number|iso|version|clock|any|notScopeError|string|boolean|null|home|port|host)\b` +
	`|device:([A-Za-z0-9_-]+)\.(id|publicKey)\b)`)

// markText is what each mark stands for where it is a text or part of one.
var markText = map[string]string{
	"uuid":    `[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}`,
	"hex":     `[0-9a-fA-F]+`,
	"token":   `[A-Za-z0-9._~+=-]+`,
	"id":      `[A-Za-z0-9._:-]+`,
	"ms":      `[0-9]{13}`,
	"int":     `-?[0-9]+`,
	"number":  `-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?`,
	"iso":     `[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:?[0-9]{2})`,
	"version": `[0-9A-Za-z][0-9A-Za-z.+_-]*`,
	"clock":   `[^\[\]\r\n]+`,
	"any":     `(?s:.*)`,
}

// scopeRefusals begin the messages by which a role or scope is refused (protocol.md §5).
var scopeRefusals = []string{"missing scope: ", "unauthorized role: "}

// device is a test device: its key comes from its name, so that a recording can name it.
type device struct {
	id, publicKey string
	key           ed25519.PrivateKey
}

func deviceOf(name string) device {
	seed := sha256.Sum256([]byte("fixture-device:" + name))
	key := ed25519.NewKeyFromSeed(seed[:])
	pub := key.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(pub)
	return device{hex.EncodeToString(sum[:]), base64.RawURLEncoding.EncodeToString(pub), key}
}

// world is what the marks of one scenario stand for: the daemon under test and the values learned so
// far. It belongs to one scenario and is not safe for concurrent use.
type world struct {
	home    string
	port    int
	host    string
	learned map[string]string // "uuid#1" → value
}

func newWorld(home string, port int, host string) *world {
	return &world{home: home, port: port, host: host, learned: map[string]string{}}
}

// known is the value of a mark (a match of markRE) that has one value already.
func (w *world) known(m []string, learned map[string]string) (string, bool) {
	switch {
	case m[1] != "":
		v, ok := learned[m[1]]
		return v, ok
	case m[3] != "":
		d := deviceOf(m[3])
		if m[4] == "id" {
			return d.id, true
		}
		return d.publicKey, true
	}
	switch m[2] {
	case "home":
		return w.home, true
	case "port":
		return strconv.Itoa(w.port), true
	case "host":
		return w.host, true
	}
	return "", false
}

// text puts values for the marks of s, for sending. A mark without a value is an error.
func (w *world) text(s string) (string, error) {
	var missing error
	out := markRE.ReplaceAllStringFunc(s, func(mark string) string {
		v, ok := w.known(markRE.FindStringSubmatch(mark), w.learned)
		if !ok && missing == nil {
			missing = fmt.Errorf("the recording sends %s, which no earlier frame has told", mark)
		}
		return v
	})
	return out, missing
}

// fill puts values for the marks in every text of v, for sending.
func (w *world) fill(v any) (any, error) {
	switch x := v.(type) {
	case string:
		if x == "$port" {
			return json.Number(strconv.Itoa(w.port)), nil
		}
		return w.text(x)
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			f, err := w.fill(e)
			if err != nil {
				return nil, err
			}
			out[i] = f
		}
		return out, nil
	case *object:
		out := newObject()
		for _, k := range x.keys {
			name, err := w.text(k)
			if err != nil {
				return nil, err
			}
			f, err := w.fill(x.vals[k])
			if err != nil {
				return nil, err
			}
			out.set(name, f)
		}
		return out, nil
	}
	return v, nil
}

// matchText compares a received text with one that holds marks and learns from it into b. The second
// result says what is wrong when it does not match.
func (w *world) matchText(want, got string, b map[string]string) (bool, string) {
	places := markRE.FindAllStringSubmatchIndex(want, -1)
	if places == nil {
		return want == got, "not the recorded text"
	}
	var re strings.Builder
	re.WriteString(`\A`)
	var names []string // learned mark of each group, empty for the others
	end := 0
	for _, p := range places {
		re.WriteString(regexp.QuoteMeta(want[end:p[0]]))
		m := markRE.FindStringSubmatch(want[p[0]:p[1]])
		end = p[1]
		if v, ok := w.known(m, b); ok {
			re.WriteString(regexp.QuoteMeta(v))
			continue
		}
		kind, _, _ := strings.Cut(m[1]+m[2], "#")
		class, ok := markText[kind]
		if !ok { // $string and the like only stand alone: here they are plain text
			re.WriteString(regexp.QuoteMeta(m[0]))
			continue
		}
		re.WriteString("(" + class + ")")
		names = append(names, m[1])
	}
	re.WriteString(regexp.QuoteMeta(want[end:]) + `\z`)
	found := regexp.MustCompile(re.String()).FindStringSubmatch(got)
	if found == nil {
		return false, "not a text of that form, or not the value learned before"
	}
	for i, name := range names {
		if name == "" {
			continue
		}
		if old, ok := b[name]; ok && old != found[i+1] {
			return false, fmt.Sprintf("$%s is %q here and %q before", name, found[i+1], old)
		}
		b[name] = found[i+1]
	}
	return true, ""
}

// diff is one difference between a recorded and a received value.
type diff struct{ path, note, want, got string }

// matcher compares one received value with a recorded one. Values are learned into b, which becomes
// the world's only when all of it fits (accept).
type matcher struct {
	w     *world
	b     map[string]string
	loose bool
	diffs []diff
}

func (w *world) matcher(loose bool) *matcher {
	return &matcher{w: w, b: maps.Clone(w.learned), loose: loose}
}

func (m *matcher) accept() { m.w.learned = m.b }

func (m *matcher) fail(path, note string, want, got any) {
	d := diff{path: path, note: note}
	if want != absent {
		d.want = shown(want)
	}
	if got != absent {
		d.got = shown(got)
	}
	m.diffs = append(m.diffs, d)
}

// absent stands for no value at all in a diff: null is one.
var absent = &struct{ name string }{"absent"}

// value compares got with want at path and reports whether they agree.
func (m *matcher) value(path string, want, got any) bool {
	before := len(m.diffs)
	switch x := want.(type) {
	case string:
		m.mark(path, x, got)
	case *object:
		g, ok := got.(*object)
		if !ok {
			m.fail(path, "an object is wanted", want, got)
			break
		}
		m.object(path, x, g)
	case []any:
		g, ok := got.([]any)
		if !ok {
			m.fail(path, "an array is wanted", want, got)
			break
		}
		m.array(path, x, g)
	case json.Number:
		g, ok := got.(json.Number)
		if !ok || !sameNumber(x, g) {
			m.fail(path, "another value", want, got)
		}
	default: // bool, nil
		if want != got {
			m.fail(path, "another value", want, got)
		}
	}
	return len(m.diffs) == before
}

func sameNumber(a, b json.Number) bool {
	if a == b {
		return true
	}
	x, err1 := a.Float64()
	y, err2 := b.Float64()
	return err1 == nil && err2 == nil && x == y
}

func isInt(n json.Number) bool {
	f, err := n.Float64()
	return err == nil && f == float64(int64(f))
}

func (m *matcher) mark(path, want string, got any) {
	ok, note := false, "not of the kind "+want
	num, isNum := got.(json.Number)
	switch want {
	case "$any":
		ok = true
	case "$string":
		_, ok = got.(string)
	case "$boolean":
		_, ok = got.(bool)
	case "$number":
		ok = isNum
	case "$null":
		ok = got == nil
	case "$int":
		ok = isNum && isInt(num)
	case "$ms":
		ok = isNum && len(num) == 13 && isInt(num)
	case "$port":
		s, isText := got.(string)
		ok = isNum && string(num) == strconv.Itoa(m.w.port) || isText && s == strconv.Itoa(m.w.port)
	case "$notScopeError":
		s, isText := got.(string)
		ok = isText && s != ""
		for _, r := range scopeRefusals {
			ok = ok && !strings.HasPrefix(s, r)
		}
	default:
		s, isText := got.(string)
		if note = "a text is wanted"; isText {
			ok, note = m.w.matchText(want, s, m.b)
		}
	}
	if !ok {
		m.fail(path, note, want, got)
	}
}

func (m *matcher) object(path string, want, got *object) {
	seen := map[string]bool{}
	for _, k := range want.keys {
		name := k
		if strings.Contains(k, "$") {
			name = markRE.ReplaceAllStringFunc(k, func(mark string) string {
				v, ok := m.w.known(markRE.FindStringSubmatch(mark), m.b)
				if !ok {
					return mark
				}
				return v
			})
		}
		seen[name] = true
		g, ok := got.get(name)
		if !ok {
			m.fail(join(path, name), "missing", want.vals[k], absent)
			continue
		}
		m.value(join(path, name), want.vals[k], g)
	}
	if m.loose {
		return
	}
	for _, k := range got.keys {
		if !seen[k] {
			m.fail(join(path, k), "not in the recording", absent, got.vals[k])
		}
	}
}

func (m *matcher) array(path string, want, got []any) {
	if len(want) == 1 {
		if o, ok := want[0].(*object); ok && len(o.keys) == 1 && o.keys[0] == "$each" {
			for i, g := range got {
				m.value(fmt.Sprintf("%s[%d]", path, i), o.vals["$each"], g)
			}
			return
		}
	}
	for i := range max(len(want), len(got)) {
		at := fmt.Sprintf("%s[%d]", path, i)
		switch {
		case i >= len(want):
			m.fail(at, "not in the recording", absent, got[i])
		case i >= len(got):
			m.fail(at, "missing", want[i], absent)
		default:
			m.value(at, want[i], got[i])
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// report is the first differences and both values, for a person to read.
func (m *matcher) report(want, got any) string {
	var b strings.Builder
	for i, d := range m.diffs {
		if i == maxDiffs {
			fmt.Fprintf(&b, "  … and %d more\n", len(m.diffs)-maxDiffs)
			break
		}
		fmt.Fprintf(&b, "  at %s: %s\n", d.path, d.note)
		if d.want != "" {
			fmt.Fprintf(&b, "    want %s\n", d.want)
		}
		if d.got != "" {
			fmt.Fprintf(&b, "    got  %s\n", d.got)
		}
	}
	fmt.Fprintf(&b, "  want %s\n  got  %s", shown(want), shown(got))
	return b.String()
}
