package sessions

import (
	"slices"
	"strings"
)

// What clients may write for a level, and what is kept (sessions-chat.md §3).
var (
	thinkWords = map[string]string{
		"off": "off", "on": "low", "enable": "low", "enabled": "low", "min": "minimal", "minimal": "minimal", "think": "minimal",
		"low": "low", "thinkhard": "low", "think-hard": "low", "think_hard": "low",
		"mid": "medium", "med": "medium", "medium": "medium", "thinkharder": "medium", "think-harder": "medium", "harder": "medium",
		"high": "high", "ultra": "high", "ultrathink": "high", "thinkhardest": "high", "highest": "high", "max": "high",
	}
	verboseWords = map[string]string{
		"off": "off", "false": "off", "no": "off", "0": "off", "full": "full", "all": "full", "everything": "full",
		"on": "on", "minimal": "on", "true": "on", "yes": "on", "1": "on",
	}
	reasoningWords = map[string]string{
		"off": "off", "false": "off", "no": "off", "0": "off", "hide": "off", "hidden": "off", "disable": "off", "disabled": "off",
		"on": "on", "true": "on", "yes": "on", "1": "on", "show": "on", "visible": "on", "enable": "on", "enabled": "on",
		"stream": "stream", "streaming": "stream", "draft": "stream", "live": "stream",
	}
	usageWords = map[string]string{
		"off": "off", "false": "off", "no": "off", "0": "off", "disable": "off", "disabled": "off",
		"on": "tokens", "true": "tokens", "yes": "tokens", "1": "tokens", "enable": "tokens", "enabled": "tokens",
		"tokens": "tokens", "token": "tokens", "tok": "tokens", "minimal": "tokens", "min": "tokens", "full": "full", "session": "full",
	}
	elevatedWords = map[string]string{
		"off": "off", "false": "off", "no": "off", "0": "off",
		"full": "full", "auto": "full", "auto-approve": "full", "autoapprove": "full",
		"ask": "ask", "prompt": "ask", "approval": "ask", "approve": "ask", "on": "on", "true": "on", "yes": "on", "1": "on",
	}
	hostWords       = words("sandbox", "gateway", "node")
	securityWords   = words("deny", "allowlist", "full")
	askWords        = words("off", "on-miss", "always")
	policyWords     = words("allow", "deny")
	activationWords = words("mention", "always")
)

func words(all ...string) map[string]string {
	out := map[string]string{}
	for _, w := range all {
		out[w] = w
	}
	return out
}

// thinkLevel reads a thinking level; "" is none.
func thinkLevel(raw string) string {
	key := strings.ToLower(strings.TrimSpace(raw))
	switch strings.NewReplacer(" ", "", "\t", "", "_", "", "-", "").Replace(key) {
	case "adaptive", "auto":
		return "adaptive"
	case "xhigh", "extrahigh":
		return "xhigh"
	}
	return thinkWords[key]
}

// xhighModels think more than others (frozen).
var xhighModels = []string{
	"openai/gpt-5.4", "openai/gpt-5.4-pro", "openai/gpt-5.2",
	"openai-codex/gpt-5.4", "openai-codex/gpt-5.3-codex", "openai-codex/gpt-5.3-codex-spark", "openai-codex/gpt-5.2-codex", "openai-codex/gpt-5.1-codex",
	"github-copilot/gpt-5.2-codex", "github-copilot/gpt-5.2",
}

func thinksXHigh(m Model) bool {
	provider, name := strings.ToLower(strings.TrimSpace(m.Provider)), strings.ToLower(strings.TrimSpace(m.Name))
	if provider == "" {
		return slices.ContainsFunc(xhighModels, func(x string) bool { return strings.HasSuffix(x, "/"+name) && name != "" })
	}
	return slices.Contains(xhighModels, provider+"/"+name)
}

// xhighHint lists xhighModels for people.
func xhighHint() string {
	last := len(xhighModels) - 1
	return strings.Join(xhighModels[:last], ", ") + " or " + xhighModels[last]
}

// ThinkingLevels are those that a model has.
func ThinkingLevels(m Model) []string {
	switch strings.ToLower(strings.TrimSpace(m.Provider)) {
	case "zai", "z.ai", "z-ai":
		return []string{"off", "on"}
	}
	out := []string{"off", "minimal", "low", "medium", "high"}
	if thinksXHigh(m) {
		out = append(out, "xhigh")
	}
	return append(out, "adaptive")
}
