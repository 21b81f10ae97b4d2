//go:build unix

package interop

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/tests/browser"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestControlUIRefused opens the Control UI with what must not let it in: it says why, in the words that it has for it.
func TestControlUIRefused(t *testing.T) {
	root := uiRoot(t)
	d := proc.Start(t, proc.Options{Config: map[string]any{"gateway": map[string]any{
		"auth": map[string]any{"mode": "token", "token": token}, "controlUi": map[string]any{"root": root},
	}}})
	path, ok := browser.Find()
	if !ok {
		t.Fatal("no Chromium is installed (apt-get install chromium)")
	}
	out := func(t *testing.T, u ui, says ...string) {
		t.Helper()
		for _, text := range says {
			u.shows(text)
		}
		u.WaitFor(`/Health\s+Offline/.test(document.body.innerText)`, "the page to be offline")
		picture(t, u.Page, "refused-"+strings.ReplaceAll(t.Name()[strings.Index(t.Name(), "/")+1:], "/", "-"))
	}
	id := func(u ui) string {
		return u.Eval("JSON.parse(localStorage.getItem('openclaw-device-identity-v1')).deviceId")
	}
	fresh := func(t *testing.T) ui { return ui{browser.Open(t, path, 1400, 1000), t, d.URL()} }

	t.Run("a stolen link", func(t *testing.T) {
		u := fresh(t)
		u.Go(d.URL() + "/overview#token=guessed-by-somebody")
		out(t, u, "unauthorized: gateway token mismatch", "Auth failed.")
		if at := u.Eval("location.href"); strings.Contains(at, "guessed") {
			t.Errorf("the token is still in the address: %s", at)
		}
	})
	t.Run("no token", func(t *testing.T) {
		u := fresh(t)
		u.Go(d.URL() + "/overview")
		out(t, u, "unauthorized: gateway token missing", "This gateway requires auth.")
	})
	t.Run("a link to another gateway", func(t *testing.T) {
		u := fresh(t)
		reached := make(chan string, 100)
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case reached <- r.URL.String():
			default:
			}
			http.Error(w, "no", http.StatusForbidden)
		}))
		defer other.Close()
		u.Go(d.URL() + "/overview?gatewayUrl=" + strings.Replace(other.URL, "http", "ws", 1) + "#token=" + token)
		u.shows("Change Gateway URL")
		picture(t, u.Page, "refused-other-gateway")
		u.press("document.querySelector('.exec-approval-card, [role=dialog]')", "Cancel")
		u.hides("Change Gateway URL")
		u.WaitFor(`/STATUS\s+OK/.test(document.body.innerText)`, "the page to use its own gateway")
		select {
		case at := <-reached:
			t.Errorf("the page went to the other gateway before anybody agreed: %s", at)
		default:
		}
	})
	far := "http://127.0.0.1:" + strconv.Itoa(elsewhere(t, d.Port))
	t.Run("an origin that is not allowed", func(t *testing.T) {
		u := fresh(t)
		u.Go(far + "/overview#token=" + token)
		out(t, u, "origin not allowed (open the Control UI from the gateway host or allow it in gateway.controlUi.allowedOrigins)")
	})
	t.Run("a token that was replaced", func(t *testing.T) {
		u := ui{uiPage(t, d.URL()), t, d.URL()}
		forget := "(() => { const k = 'openclaw.control.settings.v1', s = JSON.parse(localStorage.getItem(k)); s.token = ''; localStorage.setItem(k, JSON.stringify(s)); sessionStorage.clear(); return true })()"
		if u.Eval(forget) != "true" {
			t.Fatal("the page has no settings")
		}
		u.Go(d.URL() + "/overview")
		u.WaitFor(`/STATUS\s+OK/.test(document.body.innerText)`, "the page to come with the token of its device alone")
		ctl(t, d, "devices", "rotate", id(u)[:12], "operator")
		u.Go(d.URL() + "/overview")
		out(t, u, "unauthorized: gateway token mismatch", "Auth failed.")
	})
	t.Run("a token that was revoked", func(t *testing.T) {
		u := ui{uiPage(t, d.URL()), t, d.URL()}
		ctl(t, d, "devices", "revoke", id(u)[:12], "operator")
		out(t, u, "pairing required")
	})
	t.Run("a device that nobody let in", func(t *testing.T) {
		ctl(t, d, "config", "set", "gateway.controlUi.allowedOrigins", `["`+far+`"]`)
		u := fresh(t)
		u.Go(far + "/overview#token=" + token)
		out(t, u, "pairing required", "This device needs pairing approval")
		ctl(t, d, "devices", "approve", id(u)[:12])
		u.WaitFor(`/STATUS\s+OK/.test(document.body.innerText)`, "the page to be let in by itself")
	})
}

// TestControlUIRestart stops, kills and starts hanzod under an open page: it says that it is offline, comes back by itself,
// and goes on being told what happens.
func TestControlUIRestart(t *testing.T) {
	d, u := uiDaemon(t)
	u.open("cron")
	for i, end := range []func(){func() { d.Stop() }, d.Kill} {
		end()
		u.WaitFor(`/Health\s+Offline/.test(document.body.innerText)`, "the page to be offline")
		d.Start()
		u.WaitFor(`/Health\s+OK/.test(document.body.innerText)`, "the page to be back")
		name := "after start " + strconv.Itoa(i)
		ctl(t, d, "cron", "add", "--name", name, "--every", "1h", "--event", "hello")
		u.shows(name)
	}
	text := u.Eval("document.body.innerText")
	if strings.Contains(text, "event gap") || strings.Contains(text, "disconnected (") {
		t.Errorf("the page shows a fault of the connections before:\n%.2000s", text)
	}
}
