//go:build unix

package interop

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestControlUIConfig changes the configuration by clicking, in the form and as text.
func TestControlUIConfig(t *testing.T) {
	d, u := uiDaemon(t)
	value := func(key string) string {
		t.Helper()
		return strings.Trim(strings.TrimSpace(d.Ctl("config", "get", key, "-o", "json").Wait(t, patience).Stdout.String()), `"`)
	}
	saved := func(t *testing.T, key, is string) {
		t.Helper()
		until(t, key+" to be "+is, func() (bool, bool) { return true, value(key) == is })
		want(t, readJSON(t, d.State+"/config.json"), token, "gateway", "auth", "token") // it was hidden from the page
	}
	const text = "document.querySelector('.config-raw-field textarea')"
	t.Run("form", func(t *testing.T) {
		u := u.in(t)
		u.open("config")
		u.press(whole, "Logging")
		level := "[...document.querySelectorAll('.config-content select')].find(s => [...s.options].some(o => o.text.trim() === 'debug'))"
		u.WaitFor(level, "the level of the console")
		u.choose(level, "the level", u.Eval("[..."+level+".options].find(o => o.text.trim() === 'debug').value"))
		u.shows("unsaved change")
		picture(t, u.Page, "config-form")
		u.press(whole, "Save")
		saved(t, "logging.consoleLevel", "debug")
		u.shows("No changes")
		u.clean()
	})
	// raw opens the text and returns it.
	raw := func(u ui) string {
		u.open("config")
		u.press(whole, "Raw")
		// The page shows {} before it has asked, and asks more than once: what is typed before its last answer is lost.
		u.WaitFor(text+"?.value.includes('gateway')", "the text")
		uiText(u.tb, u.Page)
		return u.Eval(text + ".value")
	}
	t.Run("raw", func(t *testing.T) {
		u := u.in(t)
		before := raw(u)
		if strings.Contains(before, token) {
			t.Error("the page shows the token")
		}
		u.fill(text, "the text", strings.Replace(before, "debug", "warn", 1))
		picture(t, u.Page, "config-raw-edited")
		u.press(whole, "Save")
		saved(t, "logging.consoleLevel", "warn")
		u.clean()
	})
	t.Run("what is wrong is not saved", func(t *testing.T) {
		u := u.in(t)
		before := raw(u)
		for _, bad := range []struct{ text, says string }{
			{strings.Replace(before, "warn", "loud", 1), "invalid config"},
			{before[:len(before)/2], "SyntaxError: JSON5: invalid"},
		} {
			u.fill(text, "the text", bad.text)
			u.press(whole, "Save")
			uiText(t, u.Page)
			u.WaitFor("document.body.innerText.includes("+quote(bad.says)+")", bad.says)
			saved(t, "logging.consoleLevel", "warn")
			if v := u.Eval(text + ".value"); v != bad.text {
				t.Errorf("what was typed is gone: %q", v)
			}
		}
		picture(t, u.Page, "config-wrong")
		u.clean()
	})
	t.Run("somebody else was faster", func(t *testing.T) {
		u := u.in(t)
		before := raw(u)
		ctl(t, d, "config", "set", "logging.consoleLevel", "error")
		u.fill(text, "the text", strings.Replace(before, "warn", "info", 1))
		u.press(whole, "Save")
		u.shows("config changed since last load")
		saved(t, "logging.consoleLevel", "error")
		u.clean()
	})
	t.Run("the node of agents", func(t *testing.T) {
		u := u.in(t)
		ourNode(t, d.Port, "box")
		id, _ := json.Marshal(listed(t, d, "box")["nodeId"])
		node := strings.Trim(string(id), `"`)
		u.open("nodes")
		binding := "[...document.querySelectorAll('main .card')].find(e => e.innerText.startsWith('Exec node binding'))"
		u.choose(binding+"?.querySelector('select')", "the default node", node)
		u.press(binding, "Save")
		saved(t, "tools.exec.node", node)
		u.clean()
	})
}
