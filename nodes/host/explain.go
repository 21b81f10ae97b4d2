package host

import (
	"bytes"
	"encoding/json"
)

// explainer is a Policy that can say what it would decide, as JSON text.
type explainer interface {
	ExplainJSON(agentID *string, argv []string, cwd, pathEnv string, approved bool) []byte
}

// getPolicy is system.execApprovals.get. The parameter explain, which the original ignores, asks what the
// policy would say about a run: the answer has a member explain then. Nothing runs and nobody is asked.
func (h *Host) getPolicy(r Request) Result {
	snapshot, err := h.policy.SnapshotJSON()
	asked, ok := explainOf(r.ParamsJSON)
	e, able := h.policy.(explainer)
	if !ok || !able {
		return policyResult(snapshot, err)
	}
	argv, _, inline, bad := h.policy.Command(asked["command"], nil)
	if bad != nil || len(argv) == 0 {
		return policyResult(snapshot, err)
	}
	if err != nil { // a file that cannot be read has something to say all the same
		snapshot = []byte(`{"exists":true}`)
	}
	env, _ := h.policy.Environment(h.env(), nil, inline)
	cwd, path, approved := orEmpty(asked.text("cwd")), lookup(env, "PATH"), asked.isTrue("approved")
	answer := e.ExplainJSON(asked.text("agentId"), argv, cwd, path, approved)
	if refused := h.approvable(argv, cwd, path); approved && refused != nil {
		var said map[string]json.RawMessage
		if json.Unmarshal(answer, &said) == nil && string(said["run"]) == "true" {
			said["run"], said["reason"], said["message"] = []byte("false"), encode(refused.reason), encode(refused.message)
			said["rule"] = encode("what an approved run needs")
			answer = encode(said)
		}
	}
	return done(bytes.Join([][]byte{bytes.TrimSuffix(snapshot, []byte("}")), []byte(`,"explain":`), answer, []byte("}")}, nil))
}

// approvable says why an approved run would be refused all the same; nil when it would not.
func (h *Host) approvable(argv []string, cwd, path string) *denial {
	dir, refused := canonical(cwd)
	if refused != nil {
		return refused
	}
	defer dir.close()
	_, refused = h.pin(argv, dir.orEmpty(), path)
	return refused
}

func explainOf(paramsJSON *string) (params, bool) {
	var p, asked params
	if paramsJSON == nil || json.Unmarshal([]byte(*paramsJSON), &p) != nil || p["explain"] == nil {
		return nil, false
	}
	return asked, json.Unmarshal(p["explain"], &asked) == nil && asked != nil
}
