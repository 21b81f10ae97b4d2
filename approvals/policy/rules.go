package policy

import (
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// The rules file, policy.json in the state directory, holds the operator's rules for every run that
// passes the gateway. It is JSON5, version 1; ParseRules has the format. What it decides comes before
// the exec approvals file of the machine that runs, and both must permit.

// Limits of the rules file.
const (
	// MaxRules bounds the text, in bytes; a larger one is refused.
	MaxRules = 1 << 20
	// maxRuleCount bounds the rules of a file: every run is compared with all that forbid.
	maxRuleCount = 1000
	// maxRuleList bounds each list inside a rule: alternatives, words, agents, windows, approvers.
	maxRuleList = 256
	// maxRuleText bounds a name or a pattern, in bytes.
	maxRuleText = 4096
	// maxRuleFaults is how many faults of a wrong file are told at once.
	maxRuleFaults = 20
	// maxRuleTimeout bounds timeout and escalateAfter, as approvals does.
	maxRuleTimeout = 7 * 24 * time.Hour
	// maxMeet bounds the comparison of a pattern with a word that is not known, whose time is the product of
	// their lengths in bytes. Past it the word fits.
	maxMeet = 1 << 22
	// maxQuorum bounds how many approvers a rule may want.
	maxQuorum = 100
)

// Effect is what a rule says about a run.
type Effect string

// The effects; the empty one says nothing.
const (
	Abstain     Effect = ""
	EffectAllow Effect = "allow"
	EffectAsk   Effect = "ask"
	EffectDeny  Effect = "deny"
)

// Query is a run to decide on. Text that is not known is empty.
type Query struct {
	Argv []string
	// Text is the command as people see it. It is what runs when there is no Argv.
	Text string
	// Cwd is absolute; anything else counts as not known.
	Cwd string
	// AgentID is main when empty.
	AgentID    string
	SessionKey string
	NodeID     string
	NodeName   string
	// Platform is that of the machine it would run on; "" is not known.
	Platform string
	// Host is "node" or "gateway".
	Host string
	At   time.Time
}

// Ruling is what the rules say about a run. The zero value says nothing.
type Ruling struct {
	Effect Effect
	// Rule is the name of the one rule that decides, Where the place it is written at ("file:line"). A
	// setting has its path for a name: "agents.main.security".
	Rule  string
	Where string
	// Reason says in words why it decides so.
	Reason string
	// Rules is the SHA-256 in hex of the text of the rules that decided; empty without a rules file.
	Rules string
	// The terms of asking. Zero values leave them to the request.
	Timeout          time.Duration
	OnTimeout        Effect // deny or allow
	Quorum           int
	Approvers        []string
	ExcludeRequester bool
	EscalateAfter    time.Duration
	EscalateTo       []string
}

// The errors of the rules.
var (
	// ErrRules carries every fault with its place in its text.
	ErrRules         = errs.Define(errs.Invalid, "policy.rules", "these are no policy rules")
	ErrRulesChanged  = errs.Define(errs.Conflict, "policy.rules_changed", "the policy rules changed since they were read; read them again")
	ErrRulesHash     = errs.Define(errs.Conflict, "policy.rules_hash", "say which version of the policy rules the change starts from")
	ErrRulesRead     = errs.Define(errs.Unavailable, "policy.rules_read", "the policy rules cannot be read or written")
	errRulesTooLarge = ErrRules.WithText("the policy rules are larger than 1 MiB")
)
