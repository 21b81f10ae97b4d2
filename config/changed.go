package config

import (
	"slices"

	"github.com/hanzoai/hanzod/config/json5"
)

// Changed are the paths whose values differ between two configurations, sorted. Objects are compared key by
// key; an array is one value. What a key is without is compared with the default that clients are shown, so
// that writing it down changes nothing.
func Changed(a, b *Config) []string {
	var out []string
	differ(withDefaults(a.tree), withDefaults(b.tree), "", &out)
	slices.Sort(out)
	return out
}

func differ(a, b *json5.Node, path string, out *[]string) {
	if a != nil && b != nil && a.Kind == json5.Object && b.Kind == json5.Object {
		inA, inB := lookup(a), lookup(b)
		for _, m := range a.Members {
			differ(m.Value, inB(m.Key), join(path, m.Key), out)
		}
		for _, m := range b.Members {
			if inA(m.Key) == nil {
				differ(nil, m.Value, join(path, m.Key), out)
			}
		}
		return
	}
	// An empty object is no more than none; a new one is named by its keys, so that the reload table knows them.
	switch {
	case a == nil && b != nil && b.Kind == json5.Object:
		differ(&json5.Node{Kind: json5.Object}, b, path, out)
	case b == nil && a != nil && a.Kind == json5.Object:
		differ(a, &json5.Node{Kind: json5.Object}, path, out)
	case !alike(a, b):
		*out = append(*out, path)
	}
}

// lookup finds the members of an object by key; an index pays for itself in a large one.
func lookup(n *json5.Node) func(string) *json5.Node {
	if len(n.Members) < 32 {
		return n.Get
	}
	index := make(map[string]*json5.Node, len(n.Members))
	for _, m := range n.Members {
		index[m.Key] = m.Value
	}
	return func(key string) *json5.Node { return index[key] }
}

// alike reports whether two values are the same, wherever they stand.
func alike(a, b *json5.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	if a.Kind != b.Kind || len(a.Items) != len(b.Items) || len(a.Members) != len(b.Members) {
		return false
	}
	switch a.Kind {
	case json5.Object:
		inB := lookup(b)
		for _, m := range a.Members {
			if !alike(m.Value, inB(m.Key)) {
				return false
			}
		}
	case json5.Array:
		for i := range a.Items {
			if !alike(a.Items[i], b.Items[i]) {
				return false
			}
		}
	case json5.String:
		return a.Str == b.Str
	case json5.Number:
		return a.Num == b.Num
	case json5.Bool:
		return a.Bool == b.Bool
	}
	return true
}
