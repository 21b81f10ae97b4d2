package skills

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// The front matter of a skill is YAML of somebody else. What is read of it is the part that skills use:
// mappings, lists, block and flow forms, quoted, plain and block texts. There are no anchors, tags or
// documents, so nothing grows; each line is looked at once, so nothing lasts.

// line is a line that says something.
type line struct {
	indent int
	text   string
	raw    string // with its blanks, for block texts
}

// yamlReader reads lines from at on.
type yamlReader struct {
	lines []line
	at    int
	depth int
}

// parseYAML reads a mapping; ok is false where the text is something else, or nests too deep.
func parseYAML(text string) (out map[string]any, ok bool) {
	r := &yamlReader{}
	for raw := range strings.SplitSeq(text, "\n") {
		trimmed := strings.TrimLeft(raw, " ")
		l := line{indent: len(raw) - len(trimmed), text: strings.TrimRight(trimmed, " \t"), raw: raw}
		if strings.HasPrefix(l.text, "#") {
			l.text = ""
		}
		r.lines = append(r.lines, l)
	}
	l, some := r.peek()
	if !some {
		return map[string]any{}, true
	}
	v, ok := r.block(l.indent)
	if _, more := r.peek(); more {
		ok = false
	}
	out, isMap := v.(map[string]any)
	return out, ok && isMap
}

// peek is the next line that says something.
func (r *yamlReader) peek() (line, bool) {
	for ; r.at < len(r.lines); r.at++ {
		if r.lines[r.at].text != "" {
			return r.lines[r.at], true
		}
	}
	return line{}, false
}

func isItem(text string) bool { return text == "-" || strings.HasPrefix(text, "- ") }

// block reads a mapping or a list whose lines begin at indent.
func (r *yamlReader) block(indent int) (any, bool) {
	if r.depth++; r.depth > maxNesting {
		return nil, false
	}
	defer func() { r.depth-- }()
	if l, _ := r.peek(); isItem(l.text) {
		return r.items(indent)
	}
	out := map[string]any{}
	for {
		l, some := r.peek()
		if !some || l.indent < indent || isItem(l.text) {
			return out, true
		}
		key, rest, ok := splitKey(l.text)
		if l.indent > indent || !ok {
			return nil, false
		}
		r.at++
		if out[key], ok = r.value(rest, indent, true); !ok {
			return nil, false
		}
	}
}

func (r *yamlReader) items(indent int) (any, bool) {
	var out []any
	for {
		l, some := r.peek()
		if !some || l.indent < indent || l.indent == indent && !isItem(l.text) {
			return out, true
		}
		if l.indent > indent {
			return nil, false
		}
		rest := strings.TrimLeft(strings.TrimPrefix(l.text, "-"), " ")
		inner := indent + len(l.text) - len(rest)
		var v any
		var ok bool
		if _, _, isMap := splitKey(rest); isMap || isItem(rest) {
			// What stands behind the dash begins a block of its own.
			r.lines[r.at] = line{indent: inner, text: rest, raw: strings.Repeat(" ", inner) + rest}
			v, ok = r.block(inner)
		} else {
			r.at++
			v, ok = r.value(rest, indent, false)
		}
		if !ok {
			return nil, false
		}
		out = append(out, v)
	}
}

// splitKey splits "key: value". Flow forms and texts have no key.
func splitKey(text string) (key, rest string, ok bool) {
	if text == "" || strings.ContainsRune("{[#&*!|>%@`", rune(text[0])) {
		return "", "", false
	}
	if q := text[0]; q == '"' || q == '\'' {
		end := strings.IndexByte(text[1:], q)
		if end < 0 {
			return "", "", false
		}
		key, rest = text[1:end+1], strings.TrimLeft(text[end+2:], " ")
		rest, ok = strings.CutPrefix(rest, ":")
		return key, strings.TrimSpace(rest), ok
	}
	if before, found := strings.CutSuffix(text, ":"); found && !strings.Contains(before, ": ") {
		return strings.TrimSpace(before), "", true
	}
	key, rest, ok = strings.Cut(text, ": ")
	return strings.TrimSpace(key), strings.TrimSpace(rest), ok
}

var blockText = regexp.MustCompile(`^[|>][+-]?[0-9]?[+-]?(\s+#.*)?$`)

// value reads what stands behind a key or a dash of a line that begins at indent.
func (r *yamlReader) value(rest string, indent int, ofKey bool) (any, bool) {
	if i := strings.Index(" "+rest, " #"); i >= 0 && !strings.ContainsAny(rest[:1], `"'[{`) {
		rest = strings.TrimSpace(rest[:i])
	}
	switch {
	case rest == "":
		l, some := r.peek()
		if some && (l.indent > indent || ofKey && l.indent == indent && isItem(l.text)) {
			if _, _, isKey := splitKey(l.text); !isKey && !isItem(l.text) {
				return r.value(r.more(indent), indent, ofKey)
			}
			return r.block(l.indent)
		}
		return nil, true
	case strings.ContainsRune("&*!", rune(rest[0])):
		return nil, false
	case blockText.MatchString(rest):
		return r.text(rest[0] == '>', indent), true
	case rest[0] == '{' || rest[0] == '[':
		f := &flow{text: rest + " " + r.more(indent)}
		v := f.value()
		return v, !f.failed
	case rest[0] == '"' || rest[0] == '\'':
		f := &flow{text: rest}
		v := f.value()
		if f.failed {
			f = &flow{text: rest + " " + r.more(indent)}
			v = f.value()
		}
		return v, !f.failed
	}
	if more := r.more(indent); more != "" {
		return rest + " " + more, true
	}
	return scalar(rest), true
}

// more takes the lines that go on with a value, and joins them.
func (r *yamlReader) more(indent int) string {
	var b strings.Builder
	for r.at < len(r.lines) {
		l := r.lines[r.at]
		closes := l.indent == indent && l.text != "" && (l.text[0] == '}' || l.text[0] == ']')
		if l.text != "" && l.indent <= indent && !closes {
			break
		}
		if r.at++; l.text == "" {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(l.text)
	}
	return b.String()
}

// text takes the lines of a block text.
func (r *yamlReader) text(fold bool, indent int) string {
	var out []string
	own := -1
	for ; r.at < len(r.lines); r.at++ {
		l := r.lines[r.at]
		blank := strings.TrimSpace(l.raw) == ""
		if !blank && l.indent <= indent {
			break
		}
		if !blank && own < 0 {
			own = l.indent
		}
		if blank {
			out = append(out, "")
			continue
		}
		out = append(out, strings.TrimRight(l.raw[min(max(own, 0), l.indent):], " \t"))
	}
	sep := "\n"
	if fold {
		sep = " "
	}
	return strings.TrimSpace(strings.Join(out, sep))
}

// scalar is a plain text, or what it stands for.
func scalar(s string) any {
	switch s {
	case "true", "True", "TRUE":
		return true
	case "false", "False", "FALSE":
		return false
	case "null", "~", "Null", "NULL":
		return nil
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil && strings.ContainsAny(s[:1], "-+.0123456789") {
		return n
	}
	return s
}

// flow reads the flow form: {a: b}, [a, b], texts; JSON is one.
type flow struct {
	text   string
	at     int
	depth  int
	failed bool
}

func (f *flow) blanks() {
	for f.at < len(f.text) && (f.text[f.at] == ' ' || f.text[f.at] == '\t') {
		f.at++
	}
}

// next is the next byte that is no blank, 0 at the end.
func (f *flow) next() byte {
	if f.blanks(); f.at < len(f.text) {
		return f.text[f.at]
	}
	return 0
}

func (f *flow) value() any {
	if f.depth++; f.depth > maxNesting {
		f.failed = true
	}
	defer func() { f.depth-- }()
	if f.failed {
		return nil
	}
	switch c := f.next(); c {
	case '{':
		return f.mapping()
	case '[':
		return f.list()
	case '"', '\'':
		return f.quoted(c)
	case 0, '&', '*', '!':
		f.failed = true
		return nil
	}
	return scalar(f.plain(",]}"))
}

func (f *flow) mapping() any {
	out := map[string]any{}
	f.at++
	for !f.failed {
		switch c := f.next(); c {
		case '}':
			f.at++
			return out
		case ',':
			f.at++
			continue
		case 0, '{', '[', ']':
			f.failed = true
			return nil
		case '"', '\'':
			f.pair(out, f.quoted(c))
		default:
			f.pair(out, f.plain(":,}"))
		}
	}
	return nil
}

// pair reads what a key stands for.
func (f *flow) pair(out map[string]any, key string) {
	if f.next() != ':' {
		out[key] = nil
		return
	}
	f.at++
	if c := f.next(); c == ',' || c == '}' {
		out[key] = nil
		return
	}
	out[key] = f.value()
}

func (f *flow) list() any {
	out := []any{}
	f.at++
	for !f.failed {
		switch f.next() {
		case ']':
			f.at++
			return out
		case ',':
			f.at++
			continue
		case 0, '}':
			f.failed = true
			return nil
		}
		out = append(out, f.value())
	}
	return nil
}

// plain reads a text without quotes up to one of the ends; a colon ends it only before a blank.
func (f *flow) plain(ends string) string {
	start := f.at
	for ; f.at < len(f.text); f.at++ {
		c := f.text[f.at]
		if c == ':' && strings.IndexByte(ends, ':') >= 0 && f.at+1 < len(f.text) && !strings.ContainsRune(" \t", rune(f.text[f.at+1])) {
			continue
		}
		if strings.IndexByte(ends, c) >= 0 {
			break
		}
	}
	if f.at == start {
		f.failed = true
	}
	return strings.TrimSpace(f.text[start:f.at])
}

func (f *flow) quoted(q byte) string {
	start := f.at
	for f.at++; f.at < len(f.text); f.at++ {
		switch c := f.text[f.at]; {
		case c == '\\' && q == '"':
			f.at++
		case c == q && q == '\'' && f.at+1 < len(f.text) && f.text[f.at+1] == q:
			f.at++
		case c == q:
			f.at++
			s := f.text[start+1 : f.at-1]
			if q == '\'' {
				return strings.ReplaceAll(s, "''", "'")
			}
			var out string
			if json.Unmarshal([]byte(f.text[start:f.at]), &out) != nil {
				return s
			}
			return out
		}
	}
	f.failed = true
	return ""
}
