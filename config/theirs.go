package config

import (
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/schema"
)

// ownMark ends the help of keys that the original does not have.
const ownMark = "It is hanzod's own."

// WithoutOwn takes out of the text of a file the keys that the original does not have: it refuses a file with one of
// them as a whole. Comments and layout of the rest stay. gone are the paths of the keys.
func WithoutOwn(text []byte) (out []byte, gone []string, err error) {
	n, err := json5.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	var paths [][]string
	own(schema.Root(), n, nil, &paths)
	out = text
	for _, p := range paths {
		if out, err = json5.Delete(out, p); err != nil {
			return nil, nil, err
		}
		gone = append(gone, strings.Join(p, "."))
	}
	return out, gone, nil
}

// own collects the paths of the keys of n that are hanzod's own.
func own(t *schema.Type, n *json5.Node, at []string, paths *[][]string) {
	if t == nil || n == nil {
		return
	}
	for _, alt := range t.Alts {
		own(alt, n, at, paths)
	}
	below := func(key string) []string { return append(append([]string(nil), at...), key) }
	switch {
	case n.Kind == json5.Array && t.Kind == schema.Array:
		for i, item := range n.Items {
			own(t.Elem, item, below(strconv.Itoa(i)), paths)
		}
	case n.Kind == json5.Object && t.Kind == schema.Map:
		for _, m := range n.Members {
			own(t.Elem, m.Value, below(m.Key), paths)
		}
	case n.Kind == json5.Object && t.Kind == schema.Object:
		for _, f := range t.Fields {
			v := n.Get(f.Key)
			switch {
			case v == nil:
			case strings.HasSuffix(f.Help, ownMark):
				*paths = append(*paths, below(f.Key))
			default:
				own(f.Type, v, below(f.Key), paths)
			}
		}
	}
}
