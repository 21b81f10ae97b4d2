package methods

import (
	"strconv"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
)

type configIssueShape struct {
	Path          string   `json:"path"`
	Message       string   `json:"message"`
	AllowedValues []string `json:"allowedValues,omitempty"`
}

type configShape struct {
	Path         string                      `json:"path"`
	Exists       bool                        `json:"exists"`
	Raw          wire.Opt[string]            `json:"raw"`
	Parsed       wire.Raw                    `json:"parsed"`
	Resolved     wire.Raw                    `json:"resolved"`
	Valid        bool                        `json:"valid"`
	Config       wire.Raw                    `json:"config"`
	Hash         string                      `json:"hash"`
	Issues       wire.List[configIssueShape] `json:"issues"`
	Warnings     wire.List[configIssueShape] `json:"warnings"`
	LegacyIssues wire.List[configIssueShape] `json:"legacyIssues"`
}

// ConfigToLegacy writes the result of config.get.
func ConfigToLegacy(v config.View) any {
	out := configShape{
		Path: v.Path, Exists: v.Exists, Raw: null(v.Raw), Parsed: treeToLegacy(v.Parsed), Resolved: treeToLegacy(v.Resolved),
		Valid: v.Valid, Config: treeToLegacy(v.Config), Hash: v.Hash,
	}
	for _, i := range v.Issues {
		out.Issues = append(out.Issues, configIssueShape{Path: i.Path, Message: i.Message, AllowedValues: i.AllowedValues})
	}
	return out
}

// treeToLegacy writes a tree as JSON, keys in order; null without one.
func treeToLegacy(n *json5.Node) wire.Raw { return appendTree(nil, n) }

func appendTree(dst []byte, n *json5.Node) []byte {
	if n == nil {
		return append(dst, "null"...)
	}
	switch n.Kind {
	case json5.Bool:
		return strconv.AppendBool(dst, n.Bool)
	case json5.Number:
		return wire.AppendNumber(dst, n.Num)
	case json5.String:
		return wire.AppendString(dst, n.Str)
	case json5.Array:
		dst = append(dst, '[')
		for i, item := range n.Items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendTree(dst, item)
		}
		return append(dst, ']')
	case json5.Object:
		dst = append(dst, '{')
		for i, m := range n.Members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(wire.AppendString(dst, m.Key), ':')
			dst = appendTree(dst, m.Value)
		}
		return append(dst, '}')
	default:
		return append(dst, "null"...)
	}
}
