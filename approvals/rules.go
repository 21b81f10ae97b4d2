package approvals

import "github.com/hanzoai/hanzod/approvals/policy"

// Rules are the operator's rules about what may run. Decide is quick and safe for concurrent use.
type Rules interface {
	Decide(policy.Query) policy.Ruling
}

// noRules says nothing about anything.
type noRules struct{}

func (noRules) Decide(policy.Query) policy.Ruling { return policy.Ruling{} }
