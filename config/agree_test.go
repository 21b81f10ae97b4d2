package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/schema"
)

// typedOnly fills the typed sections from a tree without asking the description first.
func typedOnly(t testing.TB, home string, root *json5.Node) []Issue {
	t.Helper()
	l := &loader{
		config: &Config{Path: filepath.Join(home, "c.json"), StateDir: home, Home: home, tree: root}, env: vars{}.get,
		origin: map[*json5.Node]string{}, filled: map[*json5.Node]bool{},
	}
	l.fillTyped(root)
	return l.issues
}

// place puts a value at a path of the description into a configuration that is otherwise in order.
func place(path []string, v *json5.Node) *json5.Node {
	full := path
	root := &json5.Node{Kind: json5.Object}
	n, t := root, schema.Root()
	for i, key := range full {
		for t.Kind == schema.Union {
			t = t.Alts[len(t.Alts)-1]
		}
		if t.Kind == schema.Object {
			// What else must be there.
			for _, f := range t.Fields {
				if f.Required && f.Key != strings.TrimRight(key, "[]") {
					n.Members = append(n.Members, json5.Member{Key: f.Key, Value: sample(f.Type)})
				}
			}
		}
		last := i == len(full)-1
		name, list := strings.CutSuffix(key, "[]")
		if name == "*" {
			name = "x"
		}
		next := &json5.Node{Kind: json5.Object}
		if last {
			next = v
		}
		if f := t.Field(name); f != nil {
			t = f.Type
		} else if t.Elem != nil {
			t = t.Elem
		}
		child := next
		if list {
			child = &json5.Node{Kind: json5.Array, Items: []*json5.Node{next}}
			for t.Kind == schema.Union {
				t = t.Alts[len(t.Alts)-1]
			}
			t = t.Elem
		}
		n.Members = slices.DeleteFunc(n.Members, func(m json5.Member) bool { return m.Key == name })
		n.Members = append(n.Members, json5.Member{Key: name, Value: child})
		n = next
	}
	return root
}

// sample is a value that a type takes.
func sample(t *schema.Type) *json5.Node {
	switch t.Kind {
	case schema.Bool:
		return &json5.Node{Kind: json5.Bool, Bool: true}
	case schema.Number, schema.Integer:
		v := 1.0
		if t.Min != nil {
			v = max(v, *t.Min)
		}
		if t.Max != nil {
			v = min(v, *t.Max)
		}
		return numberNode(v)
	case schema.OneOf, schema.Enum:
		return t.Values[0]
	case schema.Array:
		return &json5.Node{Kind: json5.Array, Items: []*json5.Node{sample(t.Elem)}}
	case schema.Map:
		return &json5.Node{Kind: json5.Object}
	case schema.Object:
		n := &json5.Node{Kind: json5.Object}
		for _, f := range t.Fields {
			if f.Required {
				n.Members = append(n.Members, json5.Member{Key: f.Key, Value: sample(f.Type)})
			}
		}
		return n
	case schema.Union:
		return sample(t.Alts[0])
	}
	for _, text := range []string{"1h", "00ff00", "10:00", "10.0.0.1", "http://x", "1", "abc"} {
		if n := textNode(text); len(t.Check(n)) == 0 {
			return n
		}
	}
	panic("no sample")
}

// trials are values of all kinds, and those at the bounds of a type.
func trials(t *schema.Type) []*json5.Node {
	out := []*json5.Node{
		textNode("x"), textNode(""), textNode("10mb"), textNode("1h"), numberNode(0), numberNode(-1), numberNode(1.5), numberNode(1e300),
		{Kind: json5.Bool}, {Kind: json5.Bool, Bool: true}, {}, {Kind: json5.Array}, {Kind: json5.Object},
		{Kind: json5.Array, Items: []*json5.Node{numberNode(1)}},
	}
	var walk func(t *schema.Type)
	walk = func(t *schema.Type) {
		out = append(out, t.Values...)
		for _, b := range []*float64{t.Min, t.Max, t.Cap} {
			if b != nil && (t.Kind == schema.Integer || t.Kind == schema.Number) {
				out = append(out, numberNode(*b-1), numberNode(*b), numberNode(*b+1))
			}
		}
		for _, alt := range t.Alts {
			walk(alt)
		}
	}
	walk(t)
	return append(out, sample(t))
}

// What fills the typed sections and what describes them have the same keys, types, values and bounds.
func TestTypedAndDescribedAgree(t *testing.T) {
	home := realDir(t)
	typed := map[string]bool{}
	describe := map[string]bool{}
	schema.Root().Walk(func(path []string, f *schema.Field) bool {
		name := strings.Join(path, ".")
		// Not typed, and of several shapes.
		for _, part := range []string{"channels.", "secrets.providers.", "bindings[].", ".runtime.", "broadcast."} {
			if strings.Contains(name, part) {
				return false
			}
		}
		describe[name] = true
		base := place(path, sample(f.Type))
		if is := schema.Root().Check(base); len(is) > 0 {
			t.Fatalf("%s: the sample is refused: %v", name, is[0])
		}
		read := false
		for _, v := range trials(f.Type) {
			root := place(path, v)
			described := schema.Root().Check(root)
			issues := typedOnly(t, home, root)
			// Rules over several keys are the loader's own.
			loaderRefuses := slices.ContainsFunc(issues, func(i Issue) bool { return !ownRule(i, v) })
			if loaderRefuses {
				read = true
			}
			if loaderRefuses && len(described) == 0 {
				t.Errorf("%s = %s: described, and refused by the loader: %v", name, json5.Format(v), issues)
			}
		}
		if !read {
			return true
		}
		typed[name] = true
		// What the loader reads it must refuse wherever the description does.
		for _, v := range trials(f.Type) {
			root := place(path, v)
			if described := schema.Root().Check(root); len(described) > 0 && len(typedOnly(t, home, root)) == 0 && !lenient(name, v) {
				t.Errorf("%s = %s: refused by the description (%s), and taken by the loader", name, json5.Format(v), described[0].Message)
			}
		}
		return true
	})
	for _, name := range []string{"gateway.port", "gateway.auth.mode", "session.maintenance.mode", "cron.runLog.maxBytes", "hooks.mappings[].action"} {
		if !typed[name] {
			t.Errorf("%s is not read", name)
		}
	}
	// And what the loader knows is described: an object with every key of the description has none that it
	// does not know, and the other way round.
	l := &loader{config: &Config{StateDir: home, Home: home}, env: vars{}.get, origin: map[*json5.Node]string{}, filled: map[*json5.Node]bool{}, asked: map[string]bool{}}
	root := &json5.Node{Kind: json5.Object}
	for _, text := range []string{
		"{gateway:{auth:{rateLimit:{},trustedProxy:{userHeader:'x'},iam:{serverUrl:'s',clientId:'c'}},tailnet:{grants:[{users:['a'],scopes:['operator.read']}]}}}",
		"{agents:{list:[{id:'a'}]},hooks:{mappings:[{}]},session:{resetByChannel:{x:{}},sendPolicy:{rules:[{action:'allow'}]},resetByType:{direct:{},group:{}}}}",
	} {
		n, err := json5.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		root.Members = append(root.Members, n.Members...)
	}
	l.config.tree = root
	l.fillTyped(root)
	if len(l.asked) < 200 {
		t.Errorf("the loader asked for %d keys only", len(l.asked))
	}
	for path := range l.asked {
		if _, _, _, ok := schema.Root().At(strings.Split(path, ".")); !ok {
			t.Errorf("the loader reads %s, which is not described", path)
		}
	}
}

// ownRule tells of refusals that depend on more than the key itself.
func ownRule(i Issue, v *json5.Node) bool {
	if v.Num >= 1e300 && (strings.HasPrefix(i.Message, badDuration) || i.Message == badSize) {
		return true // how long and how large is the loader's rule
	}
	for _, text := range []string{"whom it is for", "without patterns", "tag:name", "at least one scope", "a node has none", "JavaScript modules", "one line"} {
		if strings.Contains(i.Message, text) {
			return true
		}
	}
	return false
}

// lenient are keys of which the loader takes what counts and leaves the rest to the description.
func lenient(name string, v *json5.Node) bool {
	for _, part := range []string{"backoffMs", "retryOn", "identityLinks", "safeBinProfiles", "webhook", "activeHours", "gmail", "internal", "bindings", "transform"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	// A reference to a secret is read when everything else is.
	return v.Kind == json5.Object && len(v.Members) == 0
}

// TestSecretTargetsAreDescribed as secrets.
func TestSecretTargetsAreDescribed(t *testing.T) {
	n := 0
	for _, target := range secretTargets {
		if len(target.path) == 0 {
			continue
		}
		path := make([]string, len(target.path))
		for i, key := range target.path {
			path[i] = strings.ReplaceAll(key, "[]", "*")
		}
		if path[0] == "channels" && slices.Contains(extraChannels, path[1]) {
			continue
		}
		found, f, _, ok := schema.Root().At(path)
		for ok && found.Kind == schema.Union {
			found = found.Alts[0]
		}
		n++
		if !ok || found.Kind != schema.Secret || !f.Sensitive {
			t.Errorf("%s is not described as a secret", target.ID)
		}
		if plain := strings.ReplaceAll(target.ID, "[]", ""); !secretAt(strings.Split(plain, ".")) {
			t.Errorf("%s is shown", target.ID)
		}
	}
	if n < 40 {
		t.Errorf("only %d", n)
	}
	// And what the description marks is hidden.
	schema.Root().Walk(func(path []string, f *schema.Field) bool {
		plain := strings.Split(strings.ReplaceAll(strings.Join(path, "."), "[]", ""), ".")
		if f.Sensitive && !secretAt(plain) && !secretAt(append(plain, "x")) {
			t.Errorf("%s is marked and shown", strings.Join(path, "."))
		}
		return true
	})
}
