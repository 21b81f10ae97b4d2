//go:build unix

package interop

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/browser"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// uiQuiet is for how long what a tab shows must stay the same to be all that it shows.
const uiQuiet = time.Second

// uiText waits until a page shows all that it loads, and returns its text.
func uiText(tb testing.TB, p *browser.Page) string {
	tb.Helper()
	const all = `(() => {
		const of = root => [...root.querySelectorAll('*')].map(e => [e.shadowRoot ? of(e.shadowRoot) : '', ['INPUT', 'SELECT', 'TEXTAREA'].includes(e.tagName) ? e.tagName + '=' + e.value : ''].filter(Boolean).join('\n')).filter(Boolean).join('\n');
		return document.querySelector('main').innerText + '\n' + of(document.querySelector('main'));
	})()`
	text, since := "", time.Now()
	for deadline := time.Now().Add(browser.Patience); ; time.Sleep(pollEvery) {
		now := p.Eval(all)
		if now != text || strings.Contains(now, "Loading") || strings.Contains(now, "\nloading") {
			text, since = now, time.Now()
		}
		if time.Since(since) > uiQuiet {
			return text
		}
		if time.Now().After(deadline) {
			tb.Errorf("the page does not come to rest; it shows:\n%.2000s", text)
			return text
		}
	}
}

// uiVaries are the parts of the text of a page that differ from run to run, and from gateway to gateway.
var uiVaries = []struct {
	re *regexp.Regexp
	as string
}{
	{regexp.MustCompile(`\d{1,2}:\d{2}(:\d{2})? [AP]M`), "TIME"},
	{regexp.MustCompile(`\b\d+ ?(ms|s|m|h|d)\b( ago)?|\bjust now\b`), "SPAN"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "DEVICE"},
	{regexp.MustCompile(`\b\d{13}\b`), "MS"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`/\S*/workspace\b`), "WORKSPACE"},
	{regexp.MustCompile(`\b` + regexp.QuoteMeta(clientVersion) + `\b|(?m)\b0\.\d+\.\d+(-\S+)?$`), "VERSION"},
}

// uiLines are the lines of a page's text, without what varies.
func uiLines(text string) []string {
	for _, v := range uiVaries {
		text = v.re.ReplaceAllString(text, v.as)
	}
	var out []string
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

// uiOwn are what the two gateways show differently on purpose: a function of what both may show equally.
var uiOwn = map[string]func(ours, theirs []string) ([]string, []string){
	// hanzod has sections of its own, and its own words for what a setting means.
	"config": uiSections, "config-raw": uiSections,
	// Its own gateway has no description of the channels' settings without their plugins, and no name for one: what else it
	// shows must be there.
	"channels": func(ours, theirs []string) ([]string, []string) {
		kept := func(l string) bool { return l != "Unsupported type: . Use Raw mode." && l != "Googlechat" }
		theirs = uiOnly(theirs, kept)
		return uiOnly(ours, func(l string) bool { return slices.Contains(theirs, l) }), theirs
	},
	// The package comes with skills, and with more models.
	"skills": uiHead, "agents-Skills": uiHead,
	"debug": func(ours, theirs []string) ([]string, []string) { return uiKeys(ours), uiKeys(theirs) },
}

func uiOnly(lines []string, keep func(string) bool) []string {
	var out []string
	for _, l := range lines {
		if keep(l) && !slices.Contains(out, l) {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}

func uiSections(ours, theirs []string) ([]string, []string) {
	own := []string{"$schema", "Audit", "Tunnel", "Checkpoints", "Uplinks"}
	cut := func(lines []string) []string { return lines[:max(0, slices.Index(lines, "Form"))] }
	return slices.DeleteFunc(cut(ours), func(l string) bool { return slices.Contains(own, l) }), cut(theirs)
}

func uiHead(ours, theirs []string) ([]string, []string) {
	cut := func(lines []string) []string {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasSuffix(l, " shown") })
		lines = slices.Clone(lines[:max(0, i)])
		for i := range lines {
			lines[i] = regexp.MustCompile(` \d+/\d+$`).ReplaceAllString(lines[i], "")
		}
		return lines
	}
	return cut(ours), cut(theirs)
}

// uiKeys are the keys of the JSON that a page shows.
func uiKeys(lines []string) []string {
	var keys []string
	for _, l := range lines {
		if key, _, ok := strings.Cut(l, `":`); ok && strings.HasPrefix(key, `"`) {
			keys = append(keys, key)
		}
	}
	return uiOnly(keys, func(string) bool { return true })
}

// TestControlUISame opens every tab of the Control UI against hanzod and against its own gateway in the same state: they
// show the same, but for what uiOwn says.
func TestControlUISame(t *testing.T) {
	d, ours := uiDaemon(t)
	_, port, _ := theirGateway(t, token)
	base := "http://127.0.0.1:" + strconv.Itoa(port)
	theirs := ui{uiPage(t, base), t, base}
	for _, port := range []int{d.Port, port} {
		op := proc.Connect(t, theirOperator(port, nil))
		proc.Call(t, op, "sessions.patch", map[string]any{"key": "agent:main:main", "label": "of interop"})
		proc.Call(t, op, "cron.add", map[string]any{
			"name": "interop job", "enabled": true, "schedule": map[string]any{"kind": "every", "everyMs": 3_600_000},
			"sessionTarget": "main", "wakeMode": "now", "payload": map[string]any{"kind": "systemEvent", "text": "hello"},
		})
		_ = op.Close()
	}
	look := func(what string, act func(u ui)) {
		t.Run(what, func(t *testing.T) {
			var shown [2][]string
			for i, u := range []ui{ours.in(t), theirs.in(t)} {
				act(u)
				shown[i] = uiLines(uiText(t, u.Page))
				picture(t, u.Page, "same-"+what+"-"+[]string{"hanzod", "theirs"}[i])
			}
			ours.clean()
			if what == "config" {
				// A setting that its own gateway lets people edit in the form.
				if i := slices.Index(shown[0], "Cron Session Retention"); i < 0 || strings.HasPrefix(shown[0][i+1], "Unsupported") {
					t.Errorf("the form cannot edit cron.sessionRetention")
				}
			}
			for _, bad := range []string{"undefined", "NaN", "[object", "Invalid Date"} {
				for _, l := range shown[0] {
					if strings.Contains(l, bad) {
						t.Errorf("hanzod's page shows %q", l)
					}
				}
			}
			if f := uiOwn[what]; f != nil {
				shown[0], shown[1] = f(shown[0], shown[1])
			}
			if len(shown[0]) == 0 || !slices.Equal(shown[0], shown[1]) {
				only := func(a, b []string) []string { return uiOnly(a, func(l string) bool { return !slices.Contains(b, l) }) }
				t.Errorf("%d lines and %d lines; only hanzod's: %q\nonly its own: %q", len(shown[0]), len(shown[1]), only(shown[0], shown[1]), only(shown[1], shown[0]))
			}
		})
	}
	for _, tab := range uiTabs {
		if tab.path == "logs" {
			continue // each says what it does
		}
		look(tab.path, func(u ui) { u.open(tab.path) })
		switch tab.path {
		case "agents":
			for _, panel := range []string{"Files", "Tools", "Skills", "Channels", "Cron Jobs"} {
				look("agents-"+panel, func(u ui) { u.press(whole, panel) })
			}
		case "usage":
			look("usage-refreshed", func(u ui) { u.press(whole, "Refresh") })
		case "config":
			look("config-raw", func(u ui) { u.press(whole, "Raw") })
		}
	}
}
