package policy

import "time"

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
	// Text is the command as people see it.
	Text       string
	Cwd        string
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
	// Rule is the name of the one rule that decides, Where the place it is written at ("file:line").
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
