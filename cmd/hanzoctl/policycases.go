package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/config/json5"
	approvalsv1 "github.com/hanzoai/hanzod/gen/hanzo/approvals/v1"
)

var caseKeys = []string{"argv", "line", "node", "agent", "session", "cwd", "at", "expect", "rule"}

// policyCases reads the cases of a test and their lines. Every fault is told, with its place.
func policyCases(file string, text []byte) (cases []*approvalsv1.PolicyCase, at []int, err error) {
	root, err := json5.Parse(text)
	if err != nil {
		if syntax, ok := errors.AsType[*json5.SyntaxError](err); ok {
			return nil, nil, fmt.Errorf("%s:%d: this is not JSON5: %s", file, syntax.Line, syntax.Msg)
		}
		return nil, nil, err
	}
	var faults []string
	fault := func(at json5.Pos, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s:%d: ", file, at.Line)+fmt.Sprintf(format, args...))
	}
	if root.Kind != json5.Array {
		return nil, nil, fmt.Errorf(`%s:%d: the cases must be a list [ {argv: ["git", "status"], expect: "allow"}, … ]`, file, root.Start.Line)
	}
	for _, n := range root.Items {
		if n.Kind != json5.Object {
			fault(n.Start, "a case must be an object { … }")
			continue
		}
		c := &approvalsv1.PolicyCase{Run: &approvalsv1.Run{}}
		for _, m := range n.Members {
			text := map[string]*string{
				"line": &c.Run.Line, "node": &c.Run.NodeId, "agent": &c.Run.AgentId, "session": &c.Run.SessionKey, "cwd": &c.Run.Cwd,
				"expect": &c.Expect, "rule": &c.Rule, "at": new(string),
			}[m.Key]
			switch {
			case m.Key == "argv":
				for _, w := range m.Value.Items {
					if w.Kind != json5.String {
						fault(w.Start, "argv must be a list of words")
					}
					c.Run.Argv = append(c.Run.Argv, w.Str)
				}
				if len(m.Value.Items) == 0 {
					fault(m.Value.Start, "argv must be a list of words")
				}
			case text == nil:
				fault(m.KeyPos, "a case has no key %q; its keys are %s", m.Key, strings.Join(caseKeys, ", "))
			case m.Value.Kind != json5.String:
				fault(m.Value.Start, "%s must be a text", m.Key)
			case m.Key == "at":
				t, err := time.Parse(time.RFC3339, m.Value.Str)
				if err != nil {
					fault(m.Value.Start, "at must be a time such as \"2027-01-31T18:00:00Z\"")
				}
				c.Run.At = timestamppb.New(t)
			default:
				*text = m.Value.Str
			}
		}
		if (len(c.GetRun().GetArgv()) == 0) == (c.GetRun().GetLine() == "") && n.Get("argv") == nil {
			fault(n.Start, "a case needs argv or line")
		} else if n.Get("argv") != nil && n.Get("line") != nil {
			fault(n.Start, "a case has argv or line, not both")
		}
		if !slices.Contains([]string{"allow", "ask", "deny", "none"}, c.GetExpect()) {
			fault(n.Start, "a case needs expect: \"allow\", \"ask\", \"deny\" or \"none\"")
		}
		cases, at = append(cases, c), append(at, n.Start.Line)
	}
	if len(faults) > 0 {
		return nil, nil, errors.New(strings.Join(faults, "\n"))
	}
	return cases, at, nil
}

// diffLines shows how a text becomes another: the lines that go with -, the new ones with +, and a few
// around them.
func diffLines(old, now string) string {
	a, b := splitLines(old), splitLines(now)
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	end := 0
	for end < len(a)-start && end < len(b)-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	const around = 3
	var out strings.Builder
	for _, l := range a[max(0, start-around):start] {
		out.WriteString("  " + l + "\n")
	}
	for _, l := range common(a[start:len(a)-end], b[start:len(b)-end]) {
		out.WriteString(l + "\n")
	}
	for _, l := range a[len(a)-end : min(len(a), len(a)-end+around)] {
		out.WriteString("  " + l + "\n")
	}
	return out.String()
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// maxDiff bounds the comparison, whose work is the product of the lines; past it all lines count as
// changed.
const maxDiff = 4 << 20

// common marks the lines of two texts by their longest common part.
func common(a, b []string) []string {
	var out []string
	i, j := 0, 0
	if len(a)*len(b) <= maxDiff {
		length := make([][]int32, len(a)+1)
		for x := range length {
			length[x] = make([]int32, len(b)+1)
		}
		for x := range slices.Backward(a) {
			for y := len(b) - 1; y >= 0; y-- {
				if a[x] == b[y] {
					length[x][y] = length[x+1][y+1] + 1
				} else {
					length[x][y] = max(length[x+1][y], length[x][y+1])
				}
			}
		}
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				out = append(out, "  "+a[i])
				i, j = i+1, j+1
			case length[i+1][j] >= length[i][j+1]:
				out = append(out, "- "+a[i])
				i++
			default:
				out = append(out, "+ "+b[j])
				j++
			}
		}
	}
	for ; i < len(a); i++ {
		out = append(out, "- "+a[i])
	}
	for ; j < len(b); j++ {
		out = append(out, "+ "+b[j])
	}
	return out
}
