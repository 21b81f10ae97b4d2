//go:build unix

package interop

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// seeded is the state of sessions that a gateway starts with: what only a model would write, and older spellings.
func seeded(dir string) map[string]string {
	transcript := func(id, text string) string {
		return `{"type":"session","version":3,"id":"` + id + `","timestamp":"2026-01-01T00:00:00.000Z","cwd":"/"}
{"type":"message","id":"aaaaaaaa","parentId":null,"timestamp":"2026-01-01T00:00:00.000Z","message":{"role":"user","content":"` + text + ` question","timestamp":1767225600000}}
{"type":"message","id":"aaaaaaab","parentId":"aaaaaaaa","timestamp":"2026-01-01T00:00:01.000Z","message":{"role":"assistant","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"` + text + ` answer"},{"type":"toolCall","id":"c1","name":"exec","arguments":{"command":"ls"}}],"api":"a","provider":"anthropic","model":"claude-opus-4-6","usage":{"input":10,"output":5,"cacheRead":0,"cacheWrite":0,"totalTokens":15,"cost":{"input":1,"output":1,"cacheRead":0,"cacheWrite":0,"total":2}},"stopReason":"toolUse","timestamp":1767225601000}}
{"type":"message","id":"aaaaaaac","parentId":"aaaaaaab","timestamp":"2026-01-01T00:00:02.000Z","message":{"role":"toolResult","toolCallId":"c1","toolName":"exec","content":[{"type":"text","text":"files"}],"isError":false,"timestamp":1767225602000}}
`
	}
	main, work := filepath.Join(dir, "agents/main/sessions"), filepath.Join(dir, "agents/work/sessions")
	return map[string]string{
		main + "/sessions.json": `{
  "agent:main:main": {"sessionId":"11111111-0000-4000-8000-000000000001","updatedAt":1767225600001,"sessionFile":"` + main + `/11111111-0000-4000-8000-000000000001.jsonl","model":"gpt-5.2","modelProvider":"openai","inputTokens":100,"outputTokens":5,"totalTokens":105,"totalTokensFresh":true,"contextTokens":200000,"compactionCount":1,"systemSent":true,"abortedLastRun":false,"skillsSnapshot":{"prompt":"p <&>","skills":[{"name":"s"}]},"deliveryContext":{"channel":"webchat"},"lastChannel":"webchat"},
  "agent:main:Telegram:group:-100:topic:5": {"sessionId":"11111111-0000-4000-8000-000000000002","updatedAt":1767225600002,"sessionFile":"` + main + `/11111111-0000-4000-8000-000000000002-topic-5.jsonl","chatType":"group","channel":"telegram","groupId":"-100","subject":"A group","origin":{"label":"A group","provider":"telegram","surface":"telegram","chatType":"group","from":"telegram:group:-100","to":"telegram:-100","threadId":5},"deliveryContext":{"channel":"telegram","to":"-100","threadId":5},"lastChannel":"telegram","lastTo":"-100","lastThreadId":5,"unknownField":{"x":[1,2]}},
  "agent:main:matrix:channel:!x:thread:t": {"sessionId":"11111111-0000-4000-8000-000000000003","updatedAt":1767225600003,"sessionFile":"` + main + `/11111111-0000-4000-8000-000000000003-topic-%24ev%3Ax.jsonl"},
  "agent:main:torn": {"sessionId":"11111111-0000-4000-8000-000000000004","updatedAt":1767225600004},
  "agent:main:empty": {"sessionId":"11111111-0000-4000-8000-000000000005","updatedAt":1767225600005}
}`,
		work + "/sessions.json":                                              `{"agent:work:main":{"sessionId":"22222222-0000-4000-8000-000000000001","updatedAt":1767225600006,"label":"at work"}}`,
		main + "/11111111-0000-4000-8000-000000000001.jsonl":                 transcript("11111111-0000-4000-8000-000000000001", "first"),
		main + "/11111111-0000-4000-8000-000000000002-topic-5.jsonl":         transcript("11111111-0000-4000-8000-000000000002", "group"),
		main + "/11111111-0000-4000-8000-000000000003-topic-%24ev%3Ax.jsonl": transcript("11111111-0000-4000-8000-000000000003", "thread"),
		main + "/11111111-0000-4000-8000-000000000004.jsonl":                 transcript("11111111-0000-4000-8000-000000000004", "torn") + `{"type":"message","id":"aaaa`,
		work + "/22222222-0000-4000-8000-000000000001.jsonl":                 transcript("22222222-0000-4000-8000-000000000001", "work"),
	}
}

// sessionAnswers are what a gateway says of all its sessions, without times of the answer and paths.
func sessionAnswers(tb testing.TB, c *dial.Conn) map[string]any {
	tb.Helper()
	out := map[string]any{}
	ask := func(method string, params map[string]any) map[string]any {
		tb.Helper()
		var v map[string]any
		if err := json.Unmarshal(proc.Call(tb, c, method, params), &v); err != nil {
			tb.Fatal(err)
		}
		delete(v, "ts")
		delete(v, "path")
		out[fmt.Sprint(method, " ", params)] = v
		return v
	}
	ask("sessions.list", map[string]any{"agentId": "work"})
	list := ask("sessions.list", map[string]any{"includeGlobal": true, "includeUnknown": true, "includeDerivedTitles": true, "includeLastMessage": true})
	rows, _ := list["sessions"].([]any)
	for _, row := range rows {
		key, _ := get(row, "key").(string)
		ask("chat.history", map[string]any{"sessionKey": key})
		ask("sessions.get", map[string]any{"key": key})
		ask("sessions.preview", map[string]any{"keys": []string{key}})
		ask("sessions.resolve", map[string]any{"key": key})
	}
	ask("sessions.resolve", map[string]any{"label": "at work"})
	return out
}

// sameAnswers fails the test for each answer that differs.
func sameAnswers(tb testing.TB, want, got map[string]any) {
	tb.Helper()
	text := func(v any) string {
		b, _ := json.MarshalIndent(v, "", " ")
		return string(b)
	}
	for name, v := range want {
		if reflect.DeepEqual(v, got[name]) {
			continue
		}
		a, b := strings.Split(text(v), "\n"), strings.Split(text(got[name]), "\n")
		i := 0
		for i < min(len(a), len(b)) && a[i] == b[i] {
			i++
		}
		tb.Errorf("%s differs from line %d on:\n%s\nbut was\n%s", name, i, strings.Join(b[max(0, i-3):min(len(b), i+5)], "\n"), strings.Join(a[max(0, i-3):min(len(a), i+5)], "\n"))
	}
	if len(want) != len(got) {
		tb.Errorf("%d answers, want %d", len(got), len(want))
	}
}

// migrate runs hanzod migrate and returns what it said.
func migrate(tb testing.TB, home string, args ...string) string {
	tb.Helper()
	c := proc.Run(tb, home, proc.Build(tb, "hanzod", proc.Tested), nil, append([]string{"migrate", "--yes"}, args...)...)
	c.Wait(tb, callTimeout)
	if c.Code != 0 {
		tb.Fatalf("hanzod migrate %v: exit code %d\n%s%s", args, c.Code, c.Stdout, c.Stderr)
	}
	return c.Stdout.String()
}

// TestMigrateSessions moves the sessions of the client's gateway to hanzod and back: both gateways say the same of
// them, and what hanzod wrote meanwhile the client's gateway has then.
func TestMigrateSessions(t *testing.T) {
	t.Parallel()
	theClient(t)
	u, port := theirUser(t, map[string]any{"mode": "token", "token": token}, map[string]any{
		"agents": map[string]any{"list": []any{map[string]any{"id": "main", "default": true}, map[string]any{"id": "work"}}},
	})
	old := u.path("state")
	for name, text := range seeded(old) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gateway := startGateway(t, u, port)
	c := proc.Connect(t, theirOperator(port, proc.Device(t)))
	for _, p := range []map[string]any{
		{"key": "patched", "label": "patched", "thinkingLevel": "high", "verboseLevel": "full", "execHost": "node", "execNode": "n"},
		{"key": "agent:work:other", "model": "openai/gpt-5.2", "responseUsage": "full"},
		{"key": "reset"}, {"key": "removed"},
	} {
		proc.Call(t, c, "sessions.patch", p)
	}
	proc.Call(t, c, "chat.inject", map[string]any{"sessionKey": "main", "message": "put in by hand", "label": "note"})
	proc.Call(t, c, "sessions.reset", map[string]any{"key": "agent:work:other"})
	proc.Call(t, c, "sessions.delete", map[string]any{"key": "removed"})
	theirs := sessionAnswers(t, c)
	if len(theirs) != 3+4*9 { // of nine sessions
		t.Fatalf("%d answers", len(theirs))
	}
	_ = c.Close()
	gateway.End(syscall.SIGTERM)

	d := proc.New(t, proc.Options{Form: proc.Tested, Config: map[string]any{
		"agents": map[string]any{
			"defaults": map[string]any{"heartbeat": map[string]any{"every": "0m"}},
			"list":     []any{map[string]any{"id": "main", "default": true}, map[string]any{"id": "work"}},
		},
	}})
	t.Log(migrate(t, d.State, old, "--state-dir", d.State))
	d.Start()
	c = proc.Connect(t, theirOperator(d.Port, proc.Device(t)))
	ours := sessionAnswers(t, c)
	sameAnswers(t, theirs, ours)

	// It goes on here, in a transcript whose name the client's gateway made too.
	proc.Call(t, c, "chat.inject", map[string]any{"sessionKey": "agent:main:telegram:group:-100:topic:5", "message": "written by hanzod"})
	proc.Call(t, c, "sessions.patch", map[string]any{"key": "main", "label": "renamed"})
	ours = sessionAnswers(t, c)
	_ = c.Close()
	d.End(syscall.SIGTERM)

	back := filepath.Join(proc.Dir(t), "back")
	t.Log(migrate(t, d.State, "--export", back, "--state-dir", d.State, "--config", filepath.Join(d.State, "config.json")))
	u2 := u.with("OPENCLAW_STATE_DIR="+back, "OPENCLAW_CONFIG_PATH="+u.path("state/openclaw.json"))
	gateway = startGateway(t, u2, port)
	c = proc.Connect(t, theirOperator(port, proc.Device(t)))
	theirs = sessionAnswers(t, c)
	sameAnswers(t, untitled(ours), untitled(theirs))

	// It goes on there again, and comes over again.
	proc.Call(t, c, "chat.inject", map[string]any{"sessionKey": "agent:main:telegram:group:-100:topic:5", "message": "written there again"})
	proc.Call(t, c, "sessions.patch", map[string]any{"key": "main", "label": "renamed again"})
	proc.Call(t, c, "sessions.reset", map[string]any{"key": "agent:work:main"})
	proc.Call(t, c, "sessions.delete", map[string]any{"key": "torn"})
	theirs = sessionAnswers(t, c)
	_ = c.Close()
	gateway.End(syscall.SIGTERM)
	t.Log(migrate(t, d.State, back, "--state-dir", d.State))
	d.Start()
	c = proc.Connect(t, theirOperator(d.Port, proc.Device(t)))
	sameAnswers(t, untitled(theirs), untitled(sessionAnswers(t, c)))
}

// untitled takes out what an exported session of a thread has no more. Its entry names the transcript without a
// directory, so that the directory can be moved. The client's gateway reads it so everywhere but for the titles in the
// list of all agents, where it looks for <id>.jsonl alone.
func untitled(answers map[string]any) map[string]any {
	for _, answer := range answers {
		rows, _ := get(answer, "sessions").([]any)
		for _, row := range rows {
			if key, _ := get(row, "key").(string); strings.Contains(key, ":topic:") || strings.Contains(key, ":thread:") {
				delete(row.(map[string]any), "derivedTitle")
				delete(row.(map[string]any), "lastMessagePreview")
			}
		}
	}
	return answers
}
