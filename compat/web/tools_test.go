package web_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/hanzodtest"
)

func TestToolsReadState(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["gateway"] = object{"auth": object{"mode": "token", "token": hanzodtest.Token}}
		cfg["agents"] = object{"list": []object{
			{"id": "main", "subagents": object{"allowAgents": []string{"ops"}}},
			{"id": "ops", "name": "Ops", "tools": object{"deny": []string{"group:sessions"}}},
			{"id": "hidden", "tools": object{"profile": "minimal"}},
			{"id": "narrow", "tools": object{"allow": []string{"agents_*"}}},
		}}
	})
	call := func(body string) (int, string) {
		t.Helper()
		a := raw(t, d.Addr(), "POST", "/tools/invoke", body, bearer(hanzodtest.Token), "Content-Type: application/json")
		return a.status, a.body
	}
	patched := raw(t, d.Addr(), "PATCH", "/v1/sessions/agent:main:main", `{"label":"One","thinkingLevel":"low"}`, bearer(hanzodtest.Token), "Content-Type: application/json")
	if patched.status != 200 {
		t.Fatal(patched.body)
	}
	var session struct {
		Entry struct{ SessionID string }
	}
	if err := json.Unmarshal([]byte(patched.body), &session); err != nil || session.Entry.SessionID == "" {
		t.Fatal(patched.body, err)
	}
	dir := filepath.Join(d.StateDir, "agents", "main", "sessions")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	transcript := `{"type":"session","version":3,"id":"s"}` + "\n" +
		`{"type":"message","id":"00000001","message":{"role":"user","content":"[2026-01-01 10:00] hello"}}` + "\n" +
		`{"type":"message","id":"00000002","message":{"role":"toolResult","content":"secret of a tool"}}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, session.Entry.SessionID+".jsonl"), []byte(transcript), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		body   string
		status int
		holds  string
	}{
		{`{"tool":"sessions_list"}`, 200, `"details":{"count":1,"sessions":[{"key":"agent:main:main","kind":"main","channel":"unknown","label":"One"`},
		{`{"tool":"sessions_list","args":{"kinds":["group"]}}`, 200, `"details":{"count":0,"sessions":[]}`},
		{`{"tool":"sessions_list","args":{"messageLimit":5}}`, 200, `"messages":[{"role":"user","content":"hello"}]`},
		{`{"tool":"sessions_history","args":{"sessionKey":"main"}}`, 200, `"details":{"sessionKey":"agent:main:main","messages":[{"role":"user","content":"hello"}]}`},
		{`{"tool":"sessions_history","args":{"sessionKey":"` + session.Entry.SessionID + `","includeTools":true}}`, 200, `secret of a tool`},
		{`{"tool":"sessions_history"}`, 400, `{"ok":false,"error":{"type":"tool_error","message":"sessionKey required"}}`},
		{`{"tool":"sessions_history","args":{"sessionKey":"none"}}`, 400, `{"ok":false,"error":{"type":"tool_error","message":"No session found: none"}}`},
		{`{"tool":"session_status"}`, 200, `"sessionKey":"agent:main:main","statusText":"Session: agent:main:main\nId: `},
		{`{"tool":"session_status","args":{"sessionKey":"none"}}`, 400, `Unknown sessionKey: none`},
		{`{"tool":"session_status","args":{"model":"x"}}`, 403, `this route only reads`},
		{`{"tool":"agents_list"}`, 200, `"details":{"requester":"main","allowAny":false,"agents":[{"id":"main","configured":true},{"id":"ops","name":"Ops","configured":true}]}`},
		{`{"tool":"agents_list","sessionKey":"agent:ops:main"}`, 200, `"agents":[{"id":"ops","name":"Ops","configured":true}]`},
		{`{"tool":"sessions_list","sessionKey":"agent:ops:main"}`, 404, `Tool not available: sessions_list`},
		{`{"tool":"sessions_list","sessionKey":"agent:hidden:main"}`, 404, `Tool not available: sessions_list`},
		{`{"tool":"session_status","sessionKey":"agent:hidden:main"}`, 200, `Session: agent:hidden:main`},
		{`{"tool":"sessions_list","sessionKey":"agent:narrow:main"}`, 404, `Tool not available: sessions_list`},
		{`{"tool":"agents_list","sessionKey":"agent:narrow:main"}`, 200, `"requester":"narrow"`},
		{`{"tool":"sessions_spawn"}`, 404, `Tool not available: sessions_spawn`},
	} {
		if status, body := call(c.body); status != c.status || !strings.Contains(body, c.holds) {
			t.Errorf("%s: %d %s", c.body, status, body)
		}
	}
}

func TestToolsDenied(t *testing.T) {
	d, _ := start(t, func(_ *hanzodtest.Options, cfg object) {
		cfg["gateway"] = object{"auth": object{"mode": "token", "token": hanzodtest.Token}, "tools": object{"deny": []string{"sessions_list"}}}
		cfg["tools"] = object{"deny": []string{"agents_*"}}
	})
	for tool, want := range map[string]int{"sessions_list": 404, "agents_list": 404, "session_status": 200} {
		if a := raw(t, d.Addr(), "POST", "/tools/invoke", `{"tool":"`+tool+`"}`, bearer(hanzodtest.Token)); a.status != want {
			t.Errorf("%s: %d %s", tool, a.status, a.body)
		}
	}
}
