package door

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/agents/models"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/events"
	sessionsv1 "github.com/hanzoai/hanzod/gen/hanzo/sessions/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/sessions/usage"
	"github.com/hanzoai/hanzod/store"
)

// sessionDoor is what an operator does with sessions, at one door, reduced to what all doors tell.
type sessionDoor interface {
	// patch sets a label and a thinking level, and returns the key and the model.
	patch(key, label, thinking string) (text, refusal string)
	// list is key, label, thinking level and model of each session, in order.
	list() string
	// inject puts a note into a session; the answer is an id.
	inject(key, text string) (id, refusal string)
	// history is role and text of each message.
	history(key string) string
	// remove removes a session.
	remove(key string) (text, refusal string)
	// cost is the sum of all tokens of January 2026, and what they cost.
	cost() string
}

type grpcSessions struct{ *overGRPC }

func (g grpcSessions) patch(key, label, thinking string) (string, string) {
	out, err := g.c.Sessions.PatchSession(context.Background(), &sessionsv1.PatchSessionRequest{Key: key, Label: &label, ThinkingLevel: &thinking})
	if err != nil {
		return "", g.reason(err)
	}
	return out.GetKey() + " " + out.GetModel().GetName(), ""
}

func (g grpcSessions) list() (text string) {
	out, err := g.c.Sessions.ListSessions(context.Background(), &sessionsv1.ListSessionsRequest{})
	if err != nil {
		g.tb.Fatal(err)
	}
	for _, s := range out.GetSessions() {
		text += fmt.Sprintln(s.GetKey(), s.GetEntry().GetLabel(), s.GetEntry().GetThinkingLevel(), s.GetModel().GetName())
	}
	return text
}

func (g grpcSessions) inject(key, text string) (string, string) {
	out, err := g.c.Sessions.InjectMessage(context.Background(), &sessionsv1.InjectMessageRequest{Key: key, Text: text})
	if err != nil {
		return "", g.reason(err)
	}
	return out.GetMessageId(), ""
}

func (g grpcSessions) history(key string) (text string) {
	out, err := g.c.Sessions.GetHistory(context.Background(), &sessionsv1.GetHistoryRequest{Key: key})
	if err != nil {
		g.tb.Fatal(err)
	}
	return conversation(each(fields(g.tb, out)["messages"]))
}

func (g grpcSessions) remove(key string) (string, string) {
	out, err := g.c.Sessions.DeleteSession(context.Background(), &sessionsv1.DeleteSessionRequest{Key: key})
	if err != nil {
		return "", g.reason(err)
	}
	return fmt.Sprint(out.GetKey(), out.GetDeleted()), ""
}

func (g grpcSessions) cost() string {
	out, err := g.c.Usage.GetCost(context.Background(), &sessionsv1.GetCostRequest{
		Range: &sessionsv1.DayRange{StartDate: "2026-01-01", EndDate: "2026-01-31", Mode: "utc"},
	})
	if err != nil {
		g.tb.Fatal(err)
	}
	return fmt.Sprint(out.GetTotals().GetTokens().GetTotal(), out.GetTotals().GetCost().GetTotal(), out.GetDays())
}

type restSessions struct{ *overREST }

func (r restSessions) patch(key, label, thinking string) (string, string) {
	out, refusal := r.do("PATCH", "/v1/sessions/"+key, object{"label": label, "thinkingLevel": thinking})
	if refusal != "" {
		return "", refusal
	}
	return fmt.Sprint(out["key"], " ", out["model"].(object)["name"]), ""
}

func (r restSessions) list() (text string) {
	out, _ := r.do("GET", "/v1/sessions", nil)
	for _, s := range each(out["sessions"]) {
		e, _ := s["entry"].(object)
		text += fmt.Sprintln(s["key"], e["label"], e["thinkingLevel"], s["model"].(object)["name"])
	}
	return text
}

func (r restSessions) inject(key, text string) (string, string) {
	out, refusal := r.do("POST", "/v1/sessions/"+key+":inject", object{"text": text})
	id, _ := out["messageId"].(string)
	return id, refusal
}

func (r restSessions) history(key string) string {
	out, _ := r.do("GET", "/v1/sessions/"+key+"/history", nil)
	return conversation(each(out["messages"]))
}

func (r restSessions) remove(key string) (string, string) {
	out, refusal := r.do("DELETE", "/v1/sessions/"+key, nil)
	if refusal != "" {
		return "", refusal
	}
	return fmt.Sprint(out["key"], out["deleted"] == true), ""
}

func (r restSessions) cost() string {
	out, _ := r.do("GET", "/v1/usage/cost?range.startDate=2026-01-01&range.endDate=2026-01-31&range.mode=utc", nil)
	t, _ := out["totals"].(object)
	return fmt.Sprint(t["tokens"].(object)["total"], t["cost"].(object)["total"], out["days"])
}

type legacySessions struct{ *overLegacy }

func (l legacySessions) ask(method string, params object) (object, string) {
	f := l.c.call(method, params)
	if _, text := failure(f); text != "" {
		reasons := map[string]string{
			"session not found": "sessions.none", "Cannot delete the main session (agent:main:main).": "sessions.main",
			"label already in use: taken": "sessions.label_taken",
		}
		if reasons[text] == "" {
			l.tb.Fatalf("unknown refusal %q", text)
		}
		return nil, reasons[text]
	}
	out, _ := f["payload"].(object)
	return out, ""
}

func (l legacySessions) patch(key, label, thinking string) (string, string) {
	out, refusal := l.ask("sessions.patch", object{"key": key, "label": label, "thinkingLevel": thinking})
	if refusal != "" {
		return "", refusal
	}
	return fmt.Sprint(out["key"], " ", out["resolved"].(object)["model"]), ""
}

func (l legacySessions) list() (text string) {
	out, _ := l.ask("sessions.list", object{})
	for _, s := range each(out["sessions"]) {
		text += fmt.Sprintln(s["key"], s["label"], s["thinkingLevel"], s["model"])
	}
	return text
}

func (l legacySessions) inject(key, text string) (string, string) {
	out, refusal := l.ask("chat.inject", object{"sessionKey": key, "message": text})
	id, _ := out["messageId"].(string)
	return id, refusal
}

func (l legacySessions) history(key string) string {
	out, _ := l.ask("chat.history", object{"sessionKey": key})
	return conversation(each(out["messages"]))
}

func (l legacySessions) remove(key string) (string, string) {
	out, refusal := l.ask("sessions.delete", object{"key": key})
	if refusal != "" {
		return "", refusal
	}
	return fmt.Sprint(out["key"], out["deleted"] == true), ""
}

func (l legacySessions) cost() string {
	out, _ := l.ask("usage.cost", object{"startDate": "2026-01-01", "endDate": "2026-01-31", "mode": "utc"})
	t, _ := out["totals"].(object)
	return fmt.Sprint(t["totalTokens"], t["totalCost"], out["days"])
}

// conversation is role and text of messages.
func conversation(messages []object) (text string) {
	for _, m := range messages {
		text += fmt.Sprint(m["role"], ":")
		for _, b := range each(m["content"]) {
			text += fmt.Sprint(" ", b["text"])
		}
		text += "\n"
	}
	return text
}

var sessionDoors = map[string]func(testing.TB, *hanzodtest.Daemon) sessionDoor{
	"grpc": func(tb testing.TB, d *hanzodtest.Daemon) sessionDoor { return grpcSessions{newGRPC(tb, d).(*overGRPC)} },
	"rest": func(tb testing.TB, d *hanzodtest.Daemon) sessionDoor { return restSessions{&overREST{tb, d}} },
	"legacy": func(tb testing.TB, d *hanzodtest.Daemon) sessionDoor {
		return legacySessions{newLegacy(tb, d).(*overLegacy)}
	},
}

// sessionsOf is sessions and their usage over a store.
func sessionsOf(t *testing.T, st *store.Store, bus *events.Bus, mo *models.Service, current func() *config.Config) (*sessions.Service, *usage.Service) {
	t.Helper()
	talks, err := sessions.New(sessions.Settings{
		Store: st, Transcripts: st.Transcripts(), Models: knownModels{mo}, Config: current, Bus: bus, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	return talks, usage.New(usage.Config{Index: st, Files: st.Transcripts(), Current: current, Now: time.Now})
}

type knownModels struct{ *models.Service }

func (m knownModels) Default(agentID string) sessions.Model {
	ref := m.Service.Default(agentID)
	return sessions.Model{Provider: ref.Provider, Name: ref.Model}
}

func (m knownModels) Choose(_, text string) (sessions.Model, error) {
	ref, ok := m.Parse(text)
	if !ok {
		return sessions.Model{}, sessions.ErrModel.With("model", text)
	}
	return sessions.Model{Provider: ref.Provider, Name: ref.Model}, nil
}

func (m knownModels) ContextTokens() int64 { return 200_000 }

// Sessions by every door: what one does, all see, and refuse alike.
func TestSessionsByEveryDoor(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	doors := map[string]sessionDoor{}
	for name, door := range sessionDoors {
		doors[name] = door(t, d)
	}
	names := slices.Sorted(maps.Keys(doors))
	for _, name := range names {
		door := doors[name]
		key := "agent:main:" + name
		if got, refusal := door.patch(key, name, "low"); refusal != "" || got != key+" claude-opus-4-6" {
			t.Errorf("%s: %s %s", name, got, refusal)
		}
		if _, refusal := door.inject("agent:main:none", "x"); refusal != "sessions.none" {
			t.Errorf("%s: a note for nobody: %s", name, refusal)
		}
		if id, refusal := door.inject(key, "note of "+name); refusal != "" || len(id) != 8 {
			t.Errorf("%s: %q %s", name, id, refusal)
		}
		if _, refusal := door.remove("main"); refusal != "sessions.main" {
			t.Errorf("%s: the main session: %s", name, refusal)
		}
		for _, other := range names {
			if got := doors[other].history(key); got != "assistant: note of "+name+"\n" {
				t.Errorf("%s after %s: %q", other, name, got)
			}
			if got := doors[other].list(); got != doors[name].list() || !strings.Contains(got, key+" "+name+" low claude-opus-4-6\n") {
				t.Errorf("%s after %s:\n%s", other, name, got)
			}
		}
	}
	if _, refusal := doors["grpc"].patch("agent:main:taken", "taken", "off"); refusal != "" {
		t.Fatal(refusal)
	}
	dir := filepath.Join(d.StateDir, "agents", "main", "sessions")
	answer := `{"type":"message","message":{"role":"assistant","content":"a","timestamp":1767355200000,"usage":{"input":3,"output":4,"cost":{"total":0.5}}}}` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "lost.jsonl"), []byte(answer), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		door := doors[name]
		if _, refusal := door.patch("agent:main:"+name, "taken", "low"); refusal != "sessions.label_taken" {
			t.Errorf("%s: a label of another: %s", name, refusal)
		}
		if got := strings.Join(strings.Fields(door.cost()), ""); got != strings.Join(strings.Fields(doors["grpc"].cost()), "") || !strings.HasPrefix(got, "70.5") {
			t.Errorf("%s: cost %s", name, got)
		}
		key := "agent:main:" + name
		if got, refusal := door.remove(key); refusal != "" || got != key+"true" && got != key+" true" {
			t.Errorf("%s: removed %q %s", name, got, refusal)
		}
		if got, refusal := door.remove(key); refusal != "" || got != key+"false" && got != key+" false" {
			t.Errorf("%s: removed again: %q %s", name, got, refusal)
		}
	}
}
