package config

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strconv"

	"github.com/hanzoai/hanzod/config/json5"
)

// object reads the members of one object of the tree. Its getters note an issue for a value of the
// wrong type and leave the target as it is, as they do for a missing one; so targets hold their
// defaults before. n is nil where the object is missing, and every getter finds nothing then.
type object struct {
	l     *loader
	n     *json5.Node
	path  string
	known *[]string
}

// take returns a member, or nil, and notes that its key is known.
func (o object) take(key string) *json5.Node {
	*o.known = append(*o.known, key)
	if o.l.asked != nil {
		o.l.asked[join(o.path, key)] = true
	}
	return o.n.Get(key)
}

func (o object) want(key, what string, n *json5.Node) {
	o.l.fail(join(o.path, key), n, "Expected "+what+", got "+got(n))
}

// typed is take for one kind of value.
func (o object) typed(key string, kind json5.Kind) *json5.Node {
	n := o.take(key)
	if n == nil || n.Kind == kind {
		return n
	}
	// The value may be a secret at the wrong place, so only its kind is told.
	o.l.fail(join(o.path, key), n, "Expected "+kind.String()+", got "+n.Kind.String())
	return nil
}

func (o object) object(key string) object {
	return object{l: o.l, n: o.typed(key, json5.Object), path: join(o.path, key), known: new([]string)}
}

// raw accepts members of one kind without looking into them.
func (o object) raw(kind json5.Kind, keys ...string) {
	for _, key := range keys {
		o.typed(key, kind)
	}
}

func (o object) bool(key string, into *bool) {
	if n := o.typed(key, json5.Bool); n != nil {
		*into = n.Bool
	}
}

func (o object) str(key string, into *string) {
	if n := o.typed(key, json5.String); n != nil {
		*into = n.Str
	}
}

// file reads a path and makes it absolute; ~ is the home directory.
func (o object) file(key string, into *string) {
	n := o.typed(key, json5.String)
	if n == nil || n.Str == "" {
		return
	}
	path, err := o.l.config.abs(n.Str)
	if err != nil {
		o.l.fail(join(o.path, key), n, err.Error())
		return
	}
	*into = path
}

// integer reads a whole number between low and high, which is noBound where there is no upper one.
func (o object) integer(key string, low, high int64, into *int64) {
	n := o.take(key)
	if n == nil {
		return
	}
	if n.Kind != json5.Number || n.Num != math.Trunc(n.Num) || n.Num < float64(low) || n.Num > float64(high) {
		what := fmt.Sprintf("integer %d..%d", low, high)
		if high == noBound {
			what = fmt.Sprintf("integer of at least %d", low)
		}
		o.want(key, what, n)
		return
	}
	*into = int64(n.Num)
}

// noBound is the largest integer a JavaScript number holds exactly.
const noBound = 1<<53 - 1

func (o object) int(key string, low, high int64, into *int) {
	v := int64(*into)
	o.integer(key, low, high, &v)
	*into = int(v)
}

func (o object) choice(key string, into *string, allowed ...string) {
	n := o.typed(key, json5.String)
	if n == nil {
		return
	}
	if !contains(allowed, n.Str) {
		o.l.fail(join(o.path, key), n, wrongChoice(n.Str, allowed)).AllowedValues = allowed
		return
	}
	*into = n.Str
}

func (o object) strs(key string, into *[]string) {
	n := o.typed(key, json5.Array)
	if n == nil {
		return
	}
	list := make([]string, 0, len(n.Items))
	for i, item := range n.Items {
		if item.Kind != json5.String {
			o.l.fail(join(join(o.path, key), strconv.Itoa(i)), item, "Expected string, got "+item.Kind.String())
			continue
		}
		list = append(list, item.Str)
	}
	*into = list
}

// entries are the members of an object that is a map of objects, sorted by key, most of them at the most.
func (o object) entries(most int) iter.Seq2[string, object] {
	return func(yield func(string, object) bool) {
		if o.n == nil {
			return
		}
		if len(o.n.Members) > most {
			o.l.fail(o.path, o.n, "Expected at most "+strconv.Itoa(most)+" entries")
			return
		}
		members := slices.SortedFunc(slices.Values(o.n.Members), func(a, b json5.Member) int { return cmp.Compare(a.Key, b.Key) })
		for _, m := range members {
			if m.Value.Kind != json5.Object {
				o.want(m.Key, "object", m.Value)
				continue
			}
			if !yield(m.Key, object{l: o.l, n: m.Value, path: join(o.path, m.Key), known: new([]string)}) {
				return
			}
		}
	}
}

// texts reads a map of texts.
func (o object) texts(key string, into *map[string]string) {
	n := o.typed(key, json5.Object)
	if n == nil {
		return
	}
	out := map[string]string{}
	for _, m := range n.Members {
		if m.Value.Kind != json5.String {
			o.l.fail(join(join(o.path, key), m.Key), m.Value, "Expected string, got "+m.Value.Kind.String())
			continue
		}
		out[m.Key] = m.Value.Str
	}
	*into = out
}

// strict notes the keys that no getter asked for.
func (o object) strict() {
	if o.n == nil {
		return
	}
	var unknown []json5.Member
	for _, m := range o.n.Members {
		if !contains(*o.known, m.Key) {
			unknown = append(unknown, m)
		}
	}
	if len(unknown) == 0 {
		return
	}
	text := "Unrecognized key: "
	if len(unknown) > 1 {
		text = "Unrecognized keys: "
	}
	for i, m := range unknown {
		if i > 0 {
			text += ", "
		}
		text += quote(m.Key)
		if to := moved[join(o.path, m.Key)]; to != "" {
			text += " (moved to " + to + ")"
		} else if like := near(m.Key, *o.known); like != "" {
			text += " (did you mean " + strconv.Quote(like) + "?)"
		}
	}
	is := o.l.fail(o.path, unknown[0].Value, text)
	if pos := unknown[0].KeyPos; pos.Line > 0 {
		is.Line, is.Col = pos.Line, pos.Col
	}
}

// moved are keys of older files and where their content goes now (config.md §13).
var moved = map[string]string{
	"whatsapp": "channels.whatsapp", "telegram": "channels.telegram", "discord": "channels.discord",
	"slack": "channels.slack", "signal": "channels.signal", "imessage": "channels.imessage",
	"msteams": "channels.msteams", "identity": "agents.list[].identity", "agent": "agents.defaults",
	"routing": "bindings and agents.list", "memorySearch": "agents.defaults.memorySearch",
	"heartbeat": "agents.defaults.heartbeat", "gateway.token": "gateway.auth.token",
}
