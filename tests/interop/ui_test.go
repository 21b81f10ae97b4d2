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

// ui is a page of the Control UI. Elements are named by expressions of the page.
type ui struct {
	*browser.Page
	tb   testing.TB
	base string
}

// open opens a tab and waits until it is connected.
func (u ui) open(tab string) {
	u.tb.Helper()
	u.Go(u.base + "/" + tab)
	u.WaitFor(`/Health\s+OK/.test(document.body.innerText)`, "the tab "+tab+" to be connected")
}

// button is the first button with a text that may be pressed, inside of an element.
func button(inside, text string) string {
	return "[...(" + inside + " ?? document.createElement('i')).querySelectorAll('button')].find(b => b.innerText.trim() === " + quote(text) + " && !b.disabled)"
}

// whole is all of the page that a tab fills.
const whole = "document.querySelector('main')"

// row is the innermost element that holds a text and a button.
func row(text string) string {
	return "[...document.querySelectorAll('main *')].filter(e => e.innerText && e.innerText.includes(" + quote(text) + ") && e.querySelector('button')).at(-1)"
}

// press clicks on a button.
func (u ui) press(inside, text string) {
	u.tb.Helper()
	u.Click(button(inside, text), "the button "+text)
}

// fill replaces what a field holds, as by the keyboard.
func (u ui) fill(field, what, text string) {
	u.tb.Helper()
	u.Click(field, what)
	u.Do("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2, "commands": []string{"selectAll"}}, nil)
	u.Type(text)
}

// choose chooses a value of a list. The list that the browser opens is none of the page, so it is not clicked.
func (u ui) choose(list, what, value string) {
	u.tb.Helper()
	u.WaitFor("[...("+list+")?.options ?? []].some(o => o.value === "+quote(value)+")", value+" in "+what)
	u.Eval("(() => { const e = " + list + "; e.value = " + quote(value) + "; e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true})) })()")
}

// shows waits until the page shows a text.
func (u ui) shows(text string) {
	u.tb.Helper()
	u.WaitFor("document.body.innerText.includes("+quote(text)+")", "the page to show "+text)
}

// hides waits until the page shows a text no more.
func (u ui) hides(text string) {
	u.tb.Helper()
	u.WaitFor("!document.body.innerText.includes("+quote(text)+")", "the page to show no more "+text)
}

// clean fails the test where the console of the page has an error or a warning.
func (u ui) clean() {
	u.tb.Helper()
	if faults := u.Faults(); len(faults) > 0 {
		u.tb.Errorf("the page has faults: %q", faults)
	}
}

// uiDaemon starts hanzod with the published Control UI and opens that.
func uiDaemon(tb testing.TB) (*proc.Daemon, ui) {
	tb.Helper()
	root := uiRoot(tb)
	d := proc.Start(tb, proc.Options{Config: map[string]any{"gateway": map[string]any{
		"auth": map[string]any{"mode": "token", "token": token}, "controlUi": map[string]any{"root": root},
	}}})
	return d, ui{uiPage(tb, d.URL()), tb, d.URL()}
}

// in is the same page for a test inside of the one that opened it.
func (u ui) in(tb testing.TB) ui {
	u.For(tb)
	u.tb = tb
	return u
}
