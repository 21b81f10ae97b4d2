package schema

import (
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/compat/wire"
)

// Bounds of a validation text. A hostile object could otherwise name a million unexpected keys; the original had no
// bound, and no honest text comes near these. What is beyond them is left out.
const (
	maxProblems     = 256
	maxProblemBytes = 64 << 10
)

// place is where a value stands, as a chain from the value to the root; nil is the root.
type place struct {
	up    *place
	key   string
	index int
	item  bool // an item of an array; index counts
}

func (p *place) append(dst []byte) []byte {
	if p == nil {
		return dst
	}
	dst = append(p.up.append(dst), '/')
	if p.item {
		return strconv.AppendInt(dst, int64(p.index), 10)
	}
	if !strings.ContainsAny(p.key, "~/") {
		return append(dst, p.key...)
	}
	return append(dst, pointerEscape.Replace(p.key)...)
}

var pointerEscape = strings.NewReplacer("~", "~0", "/", "~1")

// collector gathers problems: each once, in order.
type collector struct {
	text  []byte
	seen  map[string]struct{}
	count int
}

func (c *collector) full() bool { return c.count >= maxProblems || len(c.text) >= maxProblemBytes }

func (c *collector) add(at *place, text string) {
	if c.full() {
		return
	}
	if at == nil {
		c.put(text)
		return
	}
	c.put(string(at.append([]byte("at "))) + ": " + text)
}

func (c *collector) addUnexpected(at *place, key string) {
	if c.full() {
		return
	}
	where := "at root"
	if at != nil {
		where = string(at.append([]byte("at ")))
	}
	c.put(where + ": unexpected property '" + key + "'")
}

func (c *collector) put(problem string) {
	problem = wire.TruncateUTF8(problem, maxProblemBytes)
	if _, dup := c.seen[problem]; dup {
		return
	}
	if c.seen == nil {
		c.seen = make(map[string]struct{})
	}
	c.seen[problem] = struct{}{}
	if c.count > 0 {
		c.text = append(c.text, "; "...)
	}
	c.text = append(c.text, problem...)
	c.count++
}
