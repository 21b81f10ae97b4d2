package clienttest

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
)

// Commands is what Node answers to.
var Commands = []string{"system.run", "system.run.prepare", "system.which"}

// Node answers an invoke as a node host would (nodes-approvals.md §4.2, §4.3), for a few programs
// that need no machine. Its policy allows echo, env, false, sleep, crash and nosuch; everything
// else needs an approval. A failure is told by a code other than "".
//
//	echo a b   prints its arguments
//	env        prints its environment overrides, sorted
//	false      prints to stderr and exits with 1
//	exit n     exits with n
//	sleep      reaches its limit when it has one
//	crash      is ended by a signal
//	nosuch     does not start
//	deploy     is refused as an allow-list miss, prints "deployed"
func Node(command string, params []byte) (payload []byte, code, message string) {
	var p struct {
		Command    []string          `json:"command"`
		RawCommand *string           `json:"rawCommand"`
		Cwd        *string           `json:"cwd"`
		Env        map[string]string `json:"env"`
		AgentID    *string           `json:"agentId"`
		SessionKey *string           `json:"sessionKey"`
		TimeoutMs  int               `json:"timeoutMs"`
		Approved   bool              `json:"approved"`
		Bins       []string          `json:"bins"`
	}
	if err := json.Unmarshal(params, &p); err != nil {
		return nil, "INVALID_REQUEST", "Error: INVALID_REQUEST: paramsJSON required"
	}
	switch command {
	case "system.which":
		bins := map[string]string{}
		for _, b := range p.Bins {
			if b != "nosuch" {
				bins[b] = "/usr/bin/" + b
			}
		}
		return encode(map[string]any{"bins": bins}), "", ""
	case "system.run.prepare":
		if len(p.Command) == 0 {
			return nil, "INVALID_REQUEST", "command required"
		}
		argv := slices.Clone(p.Command)
		if !strings.Contains(argv[0], "/") {
			argv[0] = "/usr/bin/" + argv[0]
		}
		return encode(map[string]any{"cmdText": strings.Join(p.Command, " "), "plan": map[string]any{
			"argv": argv, "cwd": p.Cwd, "rawCommand": strings.Join(argv, " "), "agentId": p.AgentID, "sessionKey": p.SessionKey}}), "", ""
	case "system.run":
		return runProgram(p.Command, p.Env, p.TimeoutMs, p.Approved)
	}
	return nil, "UNAVAILABLE", "command not supported"
}

func runProgram(argv []string, env map[string]string, timeoutMs int, approved bool) ([]byte, string, string) {
	if len(argv) == 0 {
		return nil, "INVALID_REQUEST", "command required"
	}
	name := path.Base(argv[0])
	if name == "forbidden" {
		return nil, "UNAVAILABLE", "SYSTEM_RUN_DISABLED: security=deny"
	}
	if !approved {
		switch name {
		case "echo", "env", "false", "sleep", "crash", "nosuch":
		case "deploy":
			return nil, "UNAVAILABLE", "SYSTEM_RUN_DENIED: allowlist miss"
		default:
			return nil, "UNAVAILABLE", "SYSTEM_RUN_DENIED: approval required"
		}
	}
	res := map[string]any{"exitCode": 0, "timedOut": false, "success": true, "stdout": "", "stderr": "", "error": nil}
	switch name {
	case "echo":
		res["stdout"] = strings.Join(argv[1:], " ") + "\n"
	case "env":
		var lines []string
		for k, v := range env {
			lines = append(lines, k+"="+v+"\n")
		}
		slices.Sort(lines)
		res["stdout"] = strings.Join(lines, "")
	case "false":
		res["exitCode"], res["success"], res["stderr"] = 1, false, "false says no\n"
	case "exit":
		n := 0
		if len(argv) > 1 {
			for _, d := range argv[1] {
				n = n*10 + int(d-'0')
			}
		}
		res["exitCode"], res["success"] = n, n == 0
	case "sleep":
		if timeoutMs > 0 {
			delete(res, "exitCode")
			res["timedOut"], res["success"] = true, false
		}
	case "crash":
		delete(res, "exitCode")
		res["success"], res["signal"] = false, "SIGSEGV"
	case "nosuch":
		delete(res, "exitCode")
		res["success"], res["error"] = false, "spawn nosuch ENOENT"
	case "deploy":
		res["stdout"] = "deployed\n"
	case "uname":
		res["stdout"] = "Linux box\n"
	}
	return encode(res), "", ""
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // values of this file only
	}
	return b
}
