package config

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// Change is a key whose value differs between two configurations. Old and New are nil where there is none;
// secrets in them are Sentinel.
type Change struct {
	Path     string
	Old, New *json5.Node
	// Secret tells that a secret differs, which Old and New do not show.
	Secret bool
}

// Diff are the keys in which two configurations differ, sorted; a list is one value. Defaults and meta do
// not count.
func Diff(old, now *Config) []Change {
	return diffTrees(old.tree, now.tree, old.filled, now.filled)
}

func diffTrees(old, now *json5.Node, oldFilled, nowFilled map[*json5.Node]bool) []Change {
	d := differences{old: hider{oldFilled}, now: hider{nowFilled}}
	d.compare(old, now, nil)
	slices.SortFunc(d.out, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return d.out
}

type differences struct {
	old, now hider
	out      []Change
}

func (d *differences) compare(old, now *json5.Node, path []string) {
	if len(path) == 1 && path[0] == "meta" {
		return
	}
	// What is new or gone is told by its keys, too.
	empty := &json5.Node{Kind: json5.Object}
	switch {
	case old == nil && now != nil && now.Kind == json5.Object && len(now.Members) > 0:
		old = empty
	case now == nil && old != nil && old.Kind == json5.Object && len(old.Members) > 0:
		now = empty
	}
	if old != nil && now != nil && old.Kind == json5.Object && now.Kind == json5.Object && len(old.Members)+len(now.Members) > 0 {
		was, is := old.Index(), now.Index()
		for _, m := range old.Members {
			d.compare(m.Value, is.Get(m.Key), append(slices.Clip(path), m.Key))
		}
		for _, m := range now.Members {
			if was.Get(m.Key) == nil {
				d.compare(nil, m.Value, append(slices.Clip(path), m.Key))
			}
		}
		return
	}
	if json5.Equal(old, now) {
		return
	}
	c := Change{Path: strings.Join(path, ".")}
	if old != nil {
		c.Old = d.old.hide(old, path)
	}
	if now != nil {
		c.New = d.now.hide(now, path)
	}
	c.Secret = json5.Equal(c.Old, c.New)
	d.out = append(d.out, c)
}
