//go:build unix

package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/browser"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// uiTabs are the tabs of the Control UI, with a text that shows the daemon's own state (control-ui.md §1.5).
var uiTabs = []struct{ path, shows string }{
	{"chat", ""}, {"overview", "in the last 5 minutes"}, {"channels", ""}, {"instances", "gateway"}, {"sessions", "agent:main:main"}, {"usage", ""}, {"cron", "interop job"}, {"agents", "main"},
	{"skills", ""}, {"nodes", ""}, {"config", ""}, {"debug", "heartbeat"}, {"logs", ""},
}

// uiRoot is where the published client has its Control UI.
func uiRoot(tb testing.TB) string {
	tb.Helper()
	c := theClient(tb)
	root := filepath.Join(filepath.Dir(c.main), "dist", "control-ui")
	if _, err := os.Stat(filepath.Join(root, "index.html")); err != nil {
		tb.Fatal(err)
	}
	return root
}

// uiPage opens the Control UI of a gateway, with its token.
func uiPage(tb testing.TB, base string) *browser.Page {
	tb.Helper()
	path, ok := browser.Find()
	if !ok {
		tb.Fatal("no Chromium is installed (apt-get install chromium)")
	}
	p := browser.Open(tb, path, 1400, 1000)
	p.Go(base + "/overview#token=" + token)
	// Connected, the page has the token of its device.
	p.WaitFor(`/STATUS\s+OK/.test(document.body.innerText)`, "the Control UI to be connected")
	return p
}

// picture keeps what the page looks like among the artefacts of the run.
func picture(tb testing.TB, p *browser.Page, name string) {
	tb.Helper()
	dir := os.Getenv("INTEROP_SHOTS")
	if dir == "" {
		return
	}
	_, b := p.Shot()
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), b, 0o600)
	}
	if err != nil {
		tb.Error(err)
	}
}

// TestControlUITabs opens every tab of the published Control UI against hanzod.
func TestControlUITabs(t *testing.T) {
	root := uiRoot(t)
	d := proc.Start(t, proc.Options{Config: map[string]any{"gateway": map[string]any{
		"auth": map[string]any{"mode": "token", "token": token}, "controlUi": map[string]any{"root": root},
	}}})
	ctl(t, d, "sessions", "patch", "agent:main:main", "--label", "of interop")
	ctl(t, d, "cron", "add", "--name", "interop job", "--every", "1h", "--event", "hello")
	p := uiPage(t, d.URL())
	for _, tab := range uiTabs {
		p.Go(d.URL() + "/" + tab.path)
		p.WaitFor(`/Health\s+OK/.test(document.body.innerText)`, "the tab "+tab.path+" to be connected")
		if tab.shows != "" {
			p.WaitFor("document.body.innerText.includes("+quote(tab.shows)+")", tab.shows+" on the tab "+tab.path)
		}
		picture(t, p, tab.path)
		if faults := p.Faults(); len(faults) > 0 {
			t.Errorf("tab %s: %q", tab.path, faults)
		}
		text := p.Eval("document.body.innerText")
		for _, bad := range []string{"unknown method", "INVALID_REQUEST", "missing scope", "event gap", "unauthorized"} {
			if strings.Contains(text, bad) {
				t.Errorf("tab %s shows %q:\n%.3000s", tab.path, bad, text)
			}
		}
		for _, r := range p.Requests() {
			if !strings.Contains(r, d.Addr()) && !strings.Contains(r, " data:") && !strings.Contains(r, "fonts.g") {
				t.Errorf("tab %s asks for %s", tab.path, r)
			}
		}
	}
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `\'`) + "'" }

// TestControlUIActs does by clicking what an operator does with the Control UI, and looks at what the daemon has then.
func TestControlUIActs(t *testing.T) {
	root := uiRoot(t)
	d := proc.Start(t, proc.Options{Config: map[string]any{"gateway": map[string]any{
		"auth": map[string]any{"mode": "token", "token": token}, "controlUi": map[string]any{"root": root},
	}}})
	ctl(t, d, "sessions", "patch", "agent:main:main", "--label", "old name")
	ctl(t, d, "sessions", "patch", "agent:main:other", "--label", "to go")
	p := uiPage(t, d.URL())
	open := func(tab string) {
		t.Helper()
		p.Go(d.URL() + "/" + tab)
		p.WaitFor(`/Health\s+OK/.test(document.body.innerText)`, "the tab "+tab+" to be connected")
	}
	t.Run("rename a session", func(t *testing.T) {
		open("sessions")
		p.Click("[...document.querySelectorAll('input')].find(i => i.value === 'old name')", "the label of the session")
		p.Do("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2, "commands": []string{"selectAll"}}, nil)
		p.Type("new name")
		p.Eval("document.activeElement.blur()")
		until(t, "the new label", func() (bool, bool) { return true, strings.Contains(ctl(t, d, "sessions", "list"), "new name") })
	})
	t.Run("delete a session", func(t *testing.T) {
		open("sessions")
		p.Eval("window.confirm = () => true")
		row := "[...document.querySelectorAll('*')].filter(e => e.innerText && e.innerText.includes('agent:main:other') && e.querySelector('button')).at(-1)"
		p.Click("[..."+row+".querySelectorAll('button')].find(b => b.innerText.trim() === 'Delete')", "the button that deletes the session")
		until(t, "the session to go", func() (bool, bool) { return true, !strings.Contains(ctl(t, d, "sessions", "list"), "agent:main:other") })
	})
	if faults := p.Faults(); len(faults) > 0 {
		t.Errorf("the page has faults: %q", faults)
	}
}
