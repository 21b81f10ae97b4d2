package schema

import (
	_ "embed"
	"slices"
	"sync"

	"github.com/hanzoai/hanzod/compat/wire"
)

//go:embed frozen.json
var frozen []byte

// A Method is what the frozen list says about one method.
type Method struct {
	Name            string
	Role            string // "operator", "node" or "any"
	Scope           string // "" when the role alone decides
	ListedInHello   bool   // named in hello-ok
	Wired           bool   // false: the original knows the name but answers "unknown method"
	ParamsValidated bool   // false: no schema is applied, the method has texts of its own
}

type table struct {
	methods []Method
	index   map[string]int
	rules   []lazyRule
	hello   []string
	events  []string
}

// lazyRule is a parameter schema that is compiled on the first use of its method.
type lazyRule struct {
	once   sync.Once
	source wire.Value
	rule   *rule
}

func (l *lazyRule) get() *rule {
	l.once.Do(func() { l.rule = compile(l.source) })
	return l.rule
}

var frozenTable = sync.OnceValue(loadTable)

func loadTable() *table {
	doc, err := wire.Parse(frozen)
	if err != nil {
		panic("schema: frozen.json: " + err.Error())
	}
	list, _ := doc.Get("methods")
	n := list.Len()
	t := &table{methods: make([]Method, 0, n), index: make(map[string]int, n), rules: make([]lazyRule, n)}
	for row := range list.Items() {
		var m Method
		i := len(t.methods)
		for k, v := range row.Members() {
			switch k {
			case "method":
				m.Name = v.Str()
			case "role":
				m.Role = v.Str()
			case "scope":
				m.Scope = v.Str()
			case "listedInHello":
				m.ListedInHello = v.Bool()
			case "wired":
				m.Wired = v.Bool()
			case "paramsValidated":
				m.ParamsValidated = v.Bool()
			case "params":
				t.rules[i].source = v
			}
		}
		t.index[m.Name] = i
		t.methods = append(t.methods, m)
		if m.ListedInHello {
			t.hello = append(t.hello, m.Name)
		}
	}
	events, _ := doc.Get("events")
	for e := range events.Items() {
		t.events = append(t.events, e.Str())
	}
	return t
}

// Methods lists every method in the frozen order.
func Methods() []Method { return slices.Clone(frozenTable().methods) }

// Lookup finds a method by name.
func Lookup(name string) (Method, bool) {
	t := frozenTable()
	i, ok := t.index[name]
	if !ok {
		return Method{}, false
	}
	return t.methods[i], true
}

// HelloMethods lists the method names of hello-ok in order, without those that plugins add (protocol.md §3.3).
func HelloMethods() []string { return slices.Clone(frozenTable().hello) }

// HelloEvents lists the event names of hello-ok in order.
func HelloEvents() []string { return slices.Clone(frozenTable().events) }
