package sessions_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/sessions"
)

// What is read of sessions over a real store, and of transcripts that are none.
func TestThePastIsRead(t *testing.T) {
	w := newWorld(t)
	empty, err := w.History(t.Context(), me, sessions.HistoryIn{Key: "Main"})
	if err != nil || empty.Key != "Main" || empty.SessionID != "" || len(empty.Messages) != 0 || empty.ThinkingLevel != "off" {
		t.Errorf("%+v %v", empty, err)
	}
	if _, err := w.Messages(t.Context(), me, sessions.MessagesIn{Key: " "}); errs.ClassOf(err) != errs.Invalid {
		t.Errorf("a key is needed: %v", err)
	}
	w.patch(t, sessions.PatchIn{Key: "main", ThinkingLevel: sessions.SetTo("low"), VerboseLevel: sessions.SetTo("on")})
	if p, err := w.Preview(t.Context(), me, sessions.PreviewIn{Keys: []string{"main", "other"}}); err != nil ||
		p.Previews[0].Status != sessions.PreviewEmpty || p.Previews[1].Status != sessions.PreviewMissing {
		t.Errorf("%+v %v", p, err)
	}
	id, err := w.Inject(t.Context(), me, sessions.InjectIn{Key: "main", Text: "[[reply_to_current]]a note"})
	if err != nil {
		t.Fatal(err)
	}
	h, err := w.History(t.Context(), me, sessions.HistoryIn{Key: "main"})
	if err != nil || h.SessionID == "" || h.ThinkingLevel != "low" || h.VerboseLevel != "on" || len(h.Messages) != 1 ||
		!strings.Contains(string(h.Messages[0]), `"text":"a note"`) || strings.Contains(string(h.Messages[0]), "usage") {
		t.Errorf("%+v %s %v", h, h.Messages, err)
	}
	raw, err := w.Messages(t.Context(), me, sessions.MessagesIn{Key: "agent:main:main"})
	if err != nil || len(raw) != 1 || !strings.Contains(string(raw[0]), "[[reply_to_current]]a note") || !strings.Contains(string(raw[0]), "usage") {
		t.Errorf("%s %v", raw, err)
	}
	list, err := w.List(t.Context(), me, sessions.ListIn{LastMessages: true, DerivedTitles: true})
	if err != nil || len(list.Sessions) != 1 || list.Sessions[0].LastMessage != "[[reply_to_current]]a note" || !strings.HasSuffix(list.Sessions[0].DerivedTitle, "(2026-03-18)") {
		t.Errorf("%+v %v (note %s)", list.Sessions, err, id)
	}
	if plain, _ := w.List(t.Context(), me, sessions.ListIn{}); plain.Sessions[0].LastMessage != "" {
		t.Error("nobody asked for it")
	}
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = "main"
	}
	if p, _ := w.Preview(t.Context(), me, sessions.PreviewIn{Keys: keys, Limit: 1000, MaxChars: 1}); len(p.Previews) != 64 || len(p.Previews[0].Items[0].Text) != 20 {
		t.Errorf("%d previews, %q", len(p.Previews), p.Previews[0].Items)
	}
	if runtime.GOOS == "windows" {
		return // links need a privilege
	}
	w.patch(t, sessions.PatchIn{Key: "linked", Label: sessions.SetTo("linked")})
	_, e, _ := w.Lookup("linked")
	path := w.TranscriptPath("main", e)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(`{"message":{"role":"user","content":"secret"}}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, path); err != nil {
		t.Fatal(err)
	}
	if h, err := w.History(t.Context(), me, sessions.HistoryIn{Key: "linked"}); err == nil || len(h.Messages) != 0 {
		t.Errorf("a link was followed: %+v", h)
	}
	if p, err := w.Preview(t.Context(), me, sessions.PreviewIn{Keys: []string{"linked", "main"}}); err != nil ||
		p.Previews[0].Status != sessions.PreviewError || p.Previews[1].Status != sessions.PreviewOK {
		t.Errorf("%+v %v", p, err)
	}
	if list, err := w.List(t.Context(), me, sessions.ListIn{LastMessages: true}); err != nil || len(list.Sessions) != 2 || list.Sessions[0].LastMessage != "" {
		t.Errorf("one bad file costs the list nothing: %+v %v", list.Sessions, err)
	}
}
