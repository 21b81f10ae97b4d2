package schema

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/config/json5"
)

// Issue is something wrong with a value. Path is the key ("agents.list.0.id"), Node where it stands in the
// text. Allowed are the values of an enumeration, Hidden how many more there are.
type Issue struct {
	Path, Message string
	Node          *json5.Node
	Pos           json5.Pos
	Allowed       []string
	Hidden        int
	// Hint says more, in words of this program.
	Hint string
	// Unknown are keys that are not described, Known those that are.
	Unknown, Known []string

	// soft tells that the kind of the value is right.
	soft bool
}

// Check returns what is wrong with a configuration (config.md §13): the texts are those of the original.
func (t *Type) Check(n *json5.Node) []Issue {
	var out []Issue
	t.check(n, "", &out)
	return out
}

// maxIssues bounds what is told about one file.
const maxIssues = 1000

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func received(n *json5.Node) string {
	switch {
	case n == nil:
		return "undefined"
	case n.Kind == json5.Number && math.IsNaN(n.Num):
		return "NaN"
	case n.Kind == json5.Number && math.IsInf(n.Num, 0):
		return "Infinity"
	}
	return n.Kind.String()
}

// check notes what is wrong with n, which is nil where a key is missing.
func (t *Type) check(n *json5.Node, path string, out *[]Issue) {
	if len(*out) >= maxIssues {
		return
	}
	fail := func(soft bool, format string, args ...any) *Issue {
		*out = append(*out, Issue{Path: path, Message: fmt.Sprintf(format, args...), Node: n, soft: soft})
		return &(*out)[len(*out)-1]
	}
	kind := func(want json5.Kind, name string) bool {
		if n != nil && n.Kind == want && (want != json5.Number || !math.IsNaN(n.Num) && !math.IsInf(n.Num, 0)) {
			return true
		}
		fail(false, "Invalid input: expected %s, received %s", name, received(n))
		return false
	}
	switch t.Kind {
	case String:
		if kind(json5.String, "string") {
			t.checkText(n.Str, fail)
		}
	case Bool:
		kind(json5.Bool, "boolean")
	case Number, Integer:
		if !kind(json5.Number, "number") {
			return
		}
		if t.Kind == Integer && n.Num != math.Trunc(n.Num) {
			fail(false, "Invalid input: expected int, received number")
			return
		}
		t.checkBounds(n.Num, "number", "", fail)
	case OneOf, Enum:
		for _, v := range t.Values {
			if n != nil && json5.Equal(v, n) {
				return
			}
		}
		t.refuse(fail)
		if n != nil && n.Kind == json5.String && n.Str != "" && len(n.Str) <= 40 {
			(*out)[len(*out)-1].Hint = ", got " + strconv.Quote(n.Str)
		}
	case Secret:
		t.checkSecret(n, out, fail)
	case Array:
		if !kind(json5.Array, "array") {
			return
		}
		t.checkBounds(float64(len(n.Items)), "array", " items", fail)
		for i, item := range n.Items {
			t.Elem.check(item, join(path, strconv.Itoa(i)), out)
		}
	case Map:
		if kind(json5.Object, "record") {
			for _, m := range n.Members {
				t.Elem.check(m.Value, join(path, m.Key), out)
			}
		}
	case Object:
		if kind(json5.Object, "object") {
			t.checkObject(n, path, out)
		}
	case Union:
		t.checkUnion(n, path, out, fail)
	}
}

type failer func(soft bool, format string, args ...any) *Issue

func (t *Type) checkText(s string, fail failer) {
	if t.Min != nil || t.Max != nil {
		size := 0
		for _, r := range s {
			size += max(1, utf16.RuneLen(r))
		}
		t.checkBounds(float64(size), "string", " characters", fail)
	}
	switch {
	case t.Pattern != nil && !t.Pattern.MatchString(s):
		if t.Message != "" {
			fail(true, "%s", t.Message)
		} else {
			fail(true, "Invalid string: must match pattern /%s/", t.Pattern)
		}
	case t.Test != "":
		if text := checks[t.Test](s); text != "" {
			fail(true, "%s", text)
		}
	}
}

// checkBounds tells of a number, or of a size of something.
func (t *Type) checkBounds(v float64, what, unit string, fail failer) {
	has := " to be "
	if unit != "" {
		has = " to have "
	}
	limit, least := t.Max, t.Min
	if t.Kind == Integer {
		switch {
		case v > maxSafe && limit == nil:
			limit = bound(maxSafe)
		case v < -maxSafe && least == nil:
			least = bound(-maxSafe)
		}
	}
	if t.Cap != nil && (limit == nil || *limit > *t.Cap) {
		limit = t.Cap
	}
	switch {
	case least != nil && t.Above && v <= *least:
		fail(true, "Too small: expected %s%s>%s%s", what, has, numeral(*least), unit)
	case least != nil && v < *least:
		fail(true, "Too small: expected %s%s>=%s%s", what, has, numeral(*least), unit)
	case limit != nil && v > *limit:
		fail(true, "Too big: expected %s%s<=%s%s", what, has, numeral(*limit), unit)
	}
}

func numeral(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// shownValues is how many values of an enumeration a text names.
const shownValues = 12

// allowed are the values of a type that has only some; ok is false for others.
func (t *Type) allowed() (values []*json5.Node, ok bool) {
	switch t.Kind {
	case OneOf, Enum:
		return t.Values, true
	case Bool:
		return []*json5.Node{{Kind: json5.Bool, Bool: true}, {Kind: json5.Bool}}, true
	case Union:
		for _, alt := range t.Alts {
			some, ok := alt.allowed()
			if !ok {
				return nil, false
			}
			values = append(values, some...)
		}
		return values, true
	}
	return nil, false
}

// choices are the allowed values as text.
func (t *Type) choices() []string {
	values, _ := t.allowed()
	out := make([]string, 0, len(values))
	for _, v := range values {
		if v.Kind == json5.String {
			out = append(out, v.Str)
		} else {
			out = append(out, json5.Format(v))
		}
	}
	return out
}

// refuse tells that a value is none of those allowed.
func (t *Type) refuse(fail failer) {
	values, ok := t.allowed()
	if !ok {
		fail(false, "Invalid input")
		return
	}
	var names, quoted []string
	for _, v := range values {
		name := strconv.FormatBool(v.Bool)
		if v.Kind == json5.Null {
			name = "null"
		}
		text := name
		if v.Kind == json5.String {
			quote, _ := json.Marshal(v.Str)
			name, text = v.Str, string(quote)
		}
		names, quoted = append(names, name), append(quoted, text)
	}
	hidden := max(0, len(names)-shownValues)
	names = names[:len(names)-hidden]
	var is *Issue
	switch t.Kind {
	case Enum:
		is = fail(false, "Invalid option: expected one of %s", strings.Join(quoted, "|"))
	default:
		list := strings.Join(quoted[:len(names)], ", ")
		if hidden > 0 {
			list += fmt.Sprintf(", ... (+%d more)", hidden)
		}
		text := "Invalid input"
		if t.Kind == OneOf && len(t.Values) == 1 {
			text = "Invalid input: expected " + quoted[0]
		}
		is = fail(false, "%s (allowed: %s)", text, list)
	}
	is.Allowed, is.Hidden = names, hidden
}

func (t *Type) checkObject(n *json5.Node, path string, out *[]Issue) {
	index := n.Index()
	for _, f := range t.Fields {
		if v := index.Get(f.Key); v != nil || f.Required {
			before := len(*out)
			f.Type.check(v, join(path, f.Key), out)
			if v == nil {
				for i := range (*out)[before:] {
					(*out)[before+i].Node = n
				}
			}
		}
	}
	if t.Open {
		for _, m := range n.Members {
			if t.Elem != nil && t.Field(m.Key) == nil {
				t.Elem.check(m.Value, join(path, m.Key), out)
			}
		}
		return
	}
	is := Issue{Path: path, Node: n}
	for _, m := range n.Members {
		if t.Field(m.Key) == nil {
			if is.Unknown == nil {
				is.Node, is.Pos = m.Value, m.KeyPos
			}
			is.Unknown = append(is.Unknown, m.Key)
		}
	}
	if is.Unknown == nil || len(*out) >= maxIssues {
		return
	}
	is.Message = "Unrecognized key: "
	if len(is.Unknown) > 1 {
		is.Message = "Unrecognized keys: "
	}
	for i, key := range is.Unknown {
		if i > 0 {
			is.Message += ", "
		}
		is.Message += `"` + key + `"`
	}
	for _, f := range t.Fields {
		is.Known = append(is.Known, f.Key)
	}
	*out = append(*out, is)
}

// named is the alternative that a value names itself: all are objects that begin with a key of one value,
// which one of them may leave out.
func (t *Type) named(n *json5.Node) *Type {
	if n == nil || n.Kind != json5.Object {
		return nil
	}
	var found *Type
	for _, alt := range t.Alts {
		if alt.Kind != Object || len(alt.Fields) == 0 || len(alt.Fields[0].Type.Values) != 1 {
			return nil
		}
		f := alt.Fields[0]
		if v := n.Get(f.Key); v == nil && !f.Required || v != nil && json5.Equal(v, f.Type.Values[0]) {
			found = alt
		}
	}
	return found
}

func (t *Type) checkUnion(n *json5.Node, path string, out *[]Issue, fail failer) {
	if alt := t.named(n); alt != nil {
		alt.check(n, path, out)
		return
	}
	var one []Issue
	soft := 0
	for _, alt := range t.Alts {
		var issues []Issue
		alt.check(n, path, &issues)
		if len(issues) == 0 {
			return
		}
		right := true
		for _, is := range issues {
			right = right && is.soft
		}
		if right {
			soft++
			one = issues
		}
	}
	if soft == 1 {
		*out = append(*out, one...)
		return
	}
	t.refuse(fail)
}

// What the parts of a reference to a secret may look like (config.md §9 "secrets"). They are made at first use: each
// costs a third of a millisecond.
var (
	secretAlias = lazy(`^[a-z][a-z0-9_-]{0,63}$`)
	secretEnv   = lazy(`^[A-Z][A-Z0-9_]{0,127}$`)
	secretExec  = lazy(`^[A-Za-z0-9][A-Za-z0-9._:/-]{0,255}$`)
)

func lazy(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// SecretAlias reports whether s may name a provider of secrets.
func SecretAlias(s string) bool { return secretAlias().MatchString(s) }

// SecretID reports whether id may name a secret of a source.
func SecretID(source, id string) bool {
	switch source {
	case "env":
		return secretEnv().MatchString(id)
	case "file":
		return id == "value" || strings.HasPrefix(id, "/")
	case "exec":
		return secretExec().MatchString(id) && !strings.Contains(id, "..") && !strings.Contains("/"+id+"/", "/./")
	}
	return false
}

func (t *Type) checkSecret(n *json5.Node, out *[]Issue, fail failer) {
	if n == nil || n.Kind != json5.String && n.Kind != json5.Object {
		t.refuse(fail)
		return
	}
	if n.Kind == json5.String {
		return
	}
	if fault := refFault(n); fault != "" {
		t.refuse(fail)
		(*out)[len(*out)-1].Hint = ": " + fault
	}
}

// refFault says why an object is no reference to a secret, or nothing.
func refFault(n *json5.Node) string {
	at := func(key string) string {
		if v := n.Get(key); v != nil && v.Kind == json5.String {
			return v.Str
		}
		return ""
	}
	for _, key := range []string{"source", "id"} {
		if n.Get(key) == nil {
			return "Secret reference needs " + strconv.Quote(key)
		}
	}
	for _, m := range n.Members {
		if m.Key != "source" && m.Key != "provider" && m.Key != "id" {
			return "Secret reference has source, provider and id only"
		}
	}
	source := at("source")
	switch {
	case source != "env" && source != "file" && source != "exec":
		return `Secret source is "env", "file" or "exec"`
	case n.Get("provider") != nil && !SecretAlias(at("provider")):
		return "Secret provider " + strconv.Quote(at("provider")) + " is no valid name"
	case SecretID(source, at("id")):
		return ""
	case source == "env":
		return "Secret id " + strconv.Quote(at("id")) + " is no environment variable name (A-Z, 0-9, _)"
	}
	return "Secret id " + strconv.Quote(at("id")) + " cannot be one of source " + strconv.Quote(source)
}

// checks are tests of texts; each says what is wrong, or nothing.
var checks = map[string]func(string) string{
	"duration": func(s string) string {
		if durationForm().MatchString(strings.ToLower(strings.TrimSpace(s))) {
			return ""
		}
		return "invalid duration (use ms, s, m, h, d)"
	},
	"size": func(s string) string {
		if sizeForm().MatchString(strings.ToLower(strings.TrimSpace(s))) {
			return ""
		}
		return "invalid size (use b, kb, mb, gb, tb)"
	},
	"filled": func(s string) string {
		if strings.TrimSpace(s) == "" {
			return "Too small: expected string to have >=1 characters"
		}
		return ""
	},
	"url": func(s string) string {
		if u, err := url.Parse(s); err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" {
			return "Invalid URL"
		}
		return ""
	},
	"web": func(s string) string {
		if u, err := url.Parse(s); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return "Expected http:// or https:// URL"
		}
		return ""
	},
	"line": func(s string) string {
		if strings.ContainsAny(s, "\r\n\x00") {
			return "Expected one line"
		}
		return ""
	},
	"network": func(s string) string {
		s = strings.TrimSpace(s)
		if _, err := netip.ParseAddr(s); err == nil {
			return ""
		}
		if _, err := netip.ParsePrefix(s); err == nil {
			return ""
		}
		return "Expected IP address or CIDR block"
	},
	"clock": func(s string) string {
		if clockForm().MatchString(s) {
			return ""
		}
		return `invalid time (use "HH:MM" 24h format)`
	},
}

var (
	durationForm = lazy(`^(\d+(\.\d+)?(ms|s|m|h|d)?)+$`)
	sizeForm     = lazy(`^\d+(\.\d+)?(b|kb?|mb?|gb?|tb?)?$`)
	clockForm    = lazy(`^([01]\d|2[0-3]|24):[0-5]\d$`)
)
