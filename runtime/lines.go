package runtime

import (
	"encoding/json"
	"strings"

	"github.com/hanzoai/hanzod/runs"
)

// Runs on nodes that take a line for a shell: the system.run and the exec.run of linked machines that are
// no hanzod (tunnel.md §1.5, §1.6). The plan of such a run is the shell with that line.

type lineParams struct {
	Command   []string          `json:"command"`
	Cwd       string            `json:"cwd"`
	Env       map[string]string `json:"env"`
	TimeoutMs int64             `json:"timeoutMs"`
	Plan      *lineParams       `json:"plan"`
	Argv      []string          `json:"argv"`
}

// lineCall turns the parameters of a run, or its plan, into those of the node's command.
func lineCall(command string, params []byte) (string, []byte, error) {
	var p lineParams
	if err := json.Unmarshal(params, &p); err != nil {
		return "", nil, runs.ErrAnswer.Wrap(err)
	}
	if p.Plan != nil {
		p.Plan.TimeoutMs = p.TimeoutMs
		p = *p.Plan
		p.Command = p.Argv
	}
	if len(p.Env) > 0 {
		return "", nil, &runs.NodeError{Code: "INVALID_REQUEST", Text: "the node takes no environment for a command; name it within the command"}
	}
	out := map[string]any{"command": lineOf(p.Command)}
	if p.Cwd != "" {
		out["cwd"] = p.Cwd
	}
	if p.TimeoutMs > 0 && command == "system.run" {
		out["timeout_ms"] = p.TimeoutMs
	}
	text, err := json.Marshal(out)
	return command, text, err
}

// linePlan is the answer to system.run.prepare of such a node. It keeps the limit of the run, which is part
// of what the node is sent.
func linePlan(params []byte) ([]byte, error) {
	var p lineParams
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, runs.ErrAnswer.Wrap(err)
	}
	line := lineOf(p.Command)
	plan := map[string]any{"argv": []string{"/bin/sh", "-c", line}}
	if p.Cwd != "" {
		plan["cwd"] = p.Cwd
	}
	return json.Marshal(map[string]any{"cmdText": line, "plan": plan})
}

// lineOf writes an argv as a line for a shell: that of a shell with a line is the line.
func lineOf(argv []string) string {
	if len(argv) == 3 && argv[1] == "-c" && (argv[0] == "/bin/sh" || argv[0] == "sh") {
		return argv[2]
	}
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		if w != "" && !strings.ContainsFunc(w, func(r rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,@%+", r)
		}) {
			words[i] = w
		}
	}
	return strings.Join(words, " ")
}

// lineResult gives the answer of system.run of linked machines the names of the gateway protocol.
func lineResult(answer []byte) []byte {
	var all map[string]json.RawMessage
	if json.Unmarshal(answer, &all) != nil || all["exit_code"] == nil {
		return answer
	}
	all["exitCode"] = all["exit_code"]
	if string(all["exit_code"]) == "null" {
		all["success"] = json.RawMessage("false") // a signal ended it
	}
	delete(all, "exit_code")
	out, err := json.Marshal(all)
	if err != nil {
		return answer
	}
	return out
}
