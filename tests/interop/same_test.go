//go:build unix

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// question is a call that both gateways are asked.
type question struct {
	method string
	params string // JSON, empty for none
}

func (q question) String() string { return q.method + " " + q.params }

// reply is what a gateway answered, as comparable text: the payload, or the error.
func reply(tb testing.TB, c *dial.Conn, q question) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), proc.Patience)
	defer cancel()
	var params any
	if q.params != "" {
		params = json.RawMessage(q.params)
	}
	payload, err := c.Call(ctx, q.method, params)
	if err == nil {
		return "ok " + plain(payload)
	}
	r := proc.Refusal(err)
	if r == nil {
		tb.Fatalf("%v: %v", q, err)
	}
	return fmt.Sprintf("%s %s %s", r.Code, r.Message, plain(r.Details))
}

// plain writes JSON with its keys in order, and without what no two gateways have in common.
func plain(text json.RawMessage) string {
	if len(text) == 0 {
		return ""
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return string(text)
	}
	out, _ := json.Marshal(v)
	s := string(out)
	for _, r := range own {
		s = r.find.ReplaceAllString(s, r.with)
	}
	return s
}

// own is what each gateway has of its own: times, ids, ports, paths.
var own = []struct {
	find *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{64}`), "<hash>"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uuid>"},
	{regexp.MustCompile(`\b1[0-9]{12}\b`), "<time>"},
	{regexp.MustCompile(`"[^" ]*/hz[^" ]*"`), `"<path>"`},
}

// wrong are values that hardly any parameter takes.
var wrong = []string{`null`, `""`, `"x"`, `-1`, `1.5`, `true`, `[]`, `[1]`, `{}`}

// questions are calls with parameters that are wrong in many ways, for each method of the frozen
// protocol, and some that are right.
func questions(tb testing.TB) []question {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join(proc.Root(tb), "compat", "schema", "frozen.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var frozen struct {
		Methods []struct {
			Method string
			Params *struct {
				Required   []string
				Properties map[string]json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(text, &frozen); err != nil {
		tb.Fatal(err)
	}
	var all []question
	for _, m := range frozen.Methods {
		all = append(all, question{m.Method, ""})
		for _, p := range []string{`{}`, `{"zzz":1}`, `[]`, `"text"`, `7`, `null`} {
			all = append(all, question{m.Method, p})
		}
		if m.Params == nil {
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(m.Params.Properties)) {
			for _, v := range wrong {
				all = append(all, question{m.Method, fmt.Sprintf(`{%q:%s}`, k, v)})
				all = append(all, question{m.Method, fmt.Sprintf(`{%q:%s,"zzz":1}`, k, v)})
			}
		}
	}
	return all
}

func TestSameAnswers(t *testing.T) {
	t.Parallel()
	theClient(t)
	d := proc.Start(t, proc.Options{Form: proc.Tested})
	_, port, _ := theirGateway(t, token)
	o := d.Operator(proc.Device(t))
	o.Client = dial.Client{ID: "gateway-client", Mode: "backend"}
	ours, theirs := proc.Connect(t, o), proc.Connect(t, theirOperator(port, proc.Device(t)))
	_ = identity.RoleNode
	same, later := 0, 0
	for _, q := range questions(t) {
		if strings.HasPrefix(q.method, "update.") || q.method == "connect" {
			continue
		}
		a := reply(t, ours, q)
		if strings.Contains(a, "is not served by this version of hanzod yet") {
			later++
			continue
		}
		b := reply(t, theirs, q)
		if a != b {
			t.Errorf("%v\nhanzod %s\ntheirs %s", q, a, b)
			continue
		}
		same++
	}
	t.Logf("%d same, %d later", same, later)
}
