package client

import (
	"context"
	"fmt"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
)

// ResolveNode finds the node that a person means; see MatchNode.
func (c *Client) ResolveNode(ctx context.Context, query string) (*nodesv1.Node, error) {
	out, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	return MatchNode(out.GetNodes(), query)
}

// MatchNode picks a node by its id, its address, its name (case and punctuation aside) or the
// first six or more characters of its id (nodes-approvals.md §1.5). Of several, the only
// connected one wins.
//
// It is stricter than the original in two points, so that a node cannot be taken for another: a
// full id always wins over a name, and names without any letter a–z or digit match only as written.
func MatchNode(nodes []*nodesv1.Node, query string) (*nodesv1.Node, error) {
	query = strings.TrimSpace(query)
	if query == "" {
		return nil, &Error{Code: CodeNodeRequired, Class: errs.Invalid, Message: "node required"}
	}
	var matches, connected []*nodesv1.Node
	for _, n := range nodes {
		if n.GetNodeId() == query {
			return n, nil
		}
		if matchesNode(n, query) {
			matches = append(matches, n)
			if n.GetConnected() {
				connected = append(connected, n)
			}
		}
	}
	switch {
	case len(matches) == 1:
		return matches[0], nil
	case len(matches) == 0:
		return nil, &Error{Code: CodeNodeUnknown, Class: errs.NotFound,
			Message: fmt.Sprintf("unknown node: %s (known: %s)", query, labels(nodes))}
	case len(connected) == 1:
		return connected[0], nil
	}
	return nil, &Error{Code: CodeNodeAmbiguous, Class: errs.Invalid,
		Message: fmt.Sprintf("ambiguous node: %s (matches: %s)", query, labels(matches))}
}

func matchesNode(n *nodesv1.Node, query string) bool {
	if n.GetRemoteIp() == query || n.GetDisplayName() == query {
		return true
	}
	if name := Slug(n.GetDisplayName()); name != "" && name == Slug(query) {
		return true
	}
	return len(query) >= minPrefix && strings.HasPrefix(n.GetNodeId(), query)
}

// Slug is a name as MatchNode compares it: in lower case, with everything outside a–z and 0–9 as single dashes.
func Slug(s string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(s) {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte('-')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}

// Label is what a node is called: its name, else its address, else its id.
func Label(n *nodesv1.Node) string {
	for _, s := range []string{n.GetDisplayName(), n.GetRemoteIp()} {
		if strings.TrimSpace(s) != "" {
			return s
		}
	}
	return n.GetNodeId()
}

// maxLabels bounds the names in an error text; the rest are counted.
const maxLabels = 20

func labels(nodes []*nodesv1.Node) string {
	if len(nodes) == 0 {
		return "none"
	}
	var out []string
	for i, n := range nodes {
		if i == maxLabels {
			out = append(out, fmt.Sprintf("%d more", len(nodes)-i))
			break
		}
		out = append(out, Label(n))
	}
	return strings.Join(out, ", ")
}
