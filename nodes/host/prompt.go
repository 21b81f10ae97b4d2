package host

import (
	"context"
	"encoding/json"
)

// maxPrompts is how many questions the person at this machine has open at once. Beyond it a run is
// refused as without a person: a gateway must not fill a screen, nor every place for commands with runs
// that wait.
const maxPrompts = 4

// Prompter asks the person at this machine about a run that the policy wants an approval for, and that
// came without one (nodes-approvals.md §3.19).
type Prompter interface {
	// Prompt returns the decision, in the words of approvalDecision or "deny"; "" is no answer. It
	// returns soon after ctx ends. An error is worth a line in the log.
	Prompt(ctx context.Context, q Question) (decision string, err error)
}

// Question is what the person is asked. Texts that are not known are empty.
type Question struct {
	// Command is the text of the argv that would run, Program the file that it names.
	Command string
	Program string
	Cwd     string
	// AgentID is nil for the main agent.
	AgentID    *string
	SessionKey string
}

// decided is the payload of the event exec.decided: a person at the node has answered. Gateways that do
// not know it take it for nothing.
type decided struct {
	SessionKey string `json:"sessionKey"`
	RunID      string `json:"runId"`
	InvokeID   string `json:"invokeId"`
	Host       string `json:"host"`
	Command    string `json:"command"`
	Decision   string `json:"decision"`
	By         string `json:"by"`
}

// prompt asks the person at this machine. It returns the decision, "" for none, with the files that it is
// about: the run has to open the same.
func (h *Host) prompt(ctx context.Context, r Request, j job, agent *string, argv []string, path string) (string, json.RawMessage) {
	if h.prompter == nil {
		return "", nil
	}
	select {
	case h.prompts <- struct{}{}:
		defer func() { <-h.prompts }()
	default:
		return "", nil
	}
	// What cannot be approved is not asked.
	dir, refused := canonical(j.cwd)
	if refused != nil {
		return "", nil
	}
	defer dir.close()
	pinned, refused := h.pin(argv, dir.orEmpty(), path)
	if refused != nil {
		return "", nil
	}
	files := h.identify(pinned, dir.orEmpty(), path)
	binding := encode(files.binding)
	files.close() // nobody has to wait with a change of theirs until the person has answered
	// The text is that of the argv that runs, by the rule of any other text.
	_, text, _, err := h.policy.Command(encode(pinned), nil)
	if err != nil {
		return "", nil
	}
	if r.Timeout > 0 { // nobody runs what its caller has given up
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	q := Question{Command: text, Cwd: dir.orEmpty(), AgentID: agent, SessionKey: j.sessionKey}
	if q.Program, _ = h.policy.Locate(pinned[0], dir.orEmpty(), path); q.Program == "" {
		q.Program = pinned[0]
	}
	decision, err := h.prompter.Prompt(ctx, q)
	if err != nil {
		h.log.Warn("the person at this machine could not be asked", "run", j.runID, "err", err)
	}
	if ctx.Err() != nil || decision != "allow-once" && decision != "allow-always" && decision != "deny" {
		return "", nil
	}
	h.log.Info("the person at this machine has answered", "run", j.runID, "decision", decision, "command", head(text, maxEventText))
	r.Emit("exec.decided", string(encode(decided{
		SessionKey: j.sessionKey, RunID: j.runID, InvokeID: r.ID, Host: "node", Command: head(text, maxEventText),
		Decision: decision, By: "companion app",
	})))
	return decision, binding
}
