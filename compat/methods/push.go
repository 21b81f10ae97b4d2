package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/nodes"
)

type pushTestParams struct {
	NodeID      string           `json:"nodeId"`
	Title       wire.Opt[string] `json:"title"`
	Body        wire.Opt[string] `json:"body"`
	Environment wire.Opt[string] `json:"environment"`
}

// PushTestFromLegacy reads push.test.
func PushTestFromLegacy(p wire.Value) (nodes.TestPushIn, error) {
	var in pushTestParams
	err := wire.Decode(p, &in)
	return nodes.TestPushIn{
		NodeID: in.NodeID, Title: in.Title.Or(""), Body: in.Body.Or(""), Environment: in.Environment.Or(""),
	}, err
}

type pushTestResult struct {
	OK          bool             `json:"ok"`
	Status      int              `json:"status"`
	APNsID      wire.Opt[string] `json:"apnsId,omitzero"`
	Reason      wire.Opt[string] `json:"reason,omitzero"`
	TokenSuffix string           `json:"tokenSuffix"`
	Topic       string           `json:"topic"`
	Environment string           `json:"environment"`
}

// PushTestToLegacy writes the result of push.test.
func PushTestToLegacy(out nodes.TestPushOut) any {
	return pushTestResult{
		OK: out.OK, Status: out.Status, APNsID: wire.NonZero(out.APNsID), Reason: wire.NonZero(out.Reason),
		TokenSuffix: out.TokenSuffix, Topic: out.Topic, Environment: out.Environment,
	}
}
