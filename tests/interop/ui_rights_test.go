//go:build unix

package interop

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/compat/dial"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// TestControlUIDevices lets devices in and keeps them out by clicking, and replaces and revokes a token.
func TestControlUIDevices(t *testing.T) {
	d, u := uiDaemon(t)
	far := "ws" + strings.TrimPrefix(d.URL(), "http")
	far = far[:strings.LastIndex(far, ":")+1] + strconv.Itoa(elsewhere(t, d.Port))
	device := proc.Device(t)
	try := func(secret dial.Auth) error {
		o := d.Operator(device)
		o.URL, o.Auth, o.Client.DisplayName = far, secret, "asks from afar"
		ctx, cancel := context.WithTimeout(t.Context(), proc.Patience)
		defer cancel()
		c, err := dial.Dial(ctx, o)
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	knocks := func(t *testing.T) {
		t.Helper()
		if err := try(dial.Auth{Token: token}); err == nil || !strings.Contains(err.Error(), "pairing required") {
			t.Fatalf("a device from elsewhere: %v", err)
		}
	}
	pending := func() int {
		list, _ := ctlJSON(t, d, "devices", "--pending")["pending"].([]any)
		return len(list)
	}
	card := row(device.ID)

	t.Run("reject", func(t *testing.T) {
		u := u.in(t)
		u.open("nodes")
		u.shows("operator · active")
		knocks(t) // the page is told
		u.Eval("window.confirm = () => true")
		u.shows("asks from afar")
		picture(t, u.Page, "device-asks")
		u.press(card, "Reject")
		until(t, "the request to go", func() (bool, bool) { return true, pending() == 0 })
		u.hides("asks from afar")
		u.clean()
	})
	t.Run("approve", func(t *testing.T) {
		u := u.in(t)
		knocks(t)
		u.press(card, "Approve")
		until(t, "the device to be let in", func() (bool, bool) { return true, pending() == 0 })
		if err := try(dial.Auth{Token: token}); err != nil {
			t.Errorf("the device is approved: %v", err)
		}
		u.WaitFor(button(card, "Rotate"), "the device among the paired ones")
		u.clean()
	})
	var rotated string
	t.Run("rotate", func(t *testing.T) {
		u := u.in(t)
		u.Eval("window.confirm = () => true; window.prompt = (text, value) => { window.toldToken = value; return value }")
		u.press(card, "Rotate")
		u.WaitFor("window.toldToken", "the new token")
		if rotated = u.Eval("window.toldToken"); len(rotated) != 43 {
			t.Fatalf("the new token has %d characters", len(rotated))
		}
		if err := try(dial.Auth{Token: rotated}); err != nil {
			t.Errorf("with the new token alone: %v", err)
		}
		u.clean()
	})
	t.Run("revoke", func(t *testing.T) {
		u := u.in(t)
		u.press(card, "Revoke")
		until(t, "the token to be worth nothing", func() (bool, bool) { return true, try(dial.Auth{Token: rotated}) != nil })
		u.WaitFor("/operator · revoked/.test("+card+"?.innerText ?? '') || /operator · revoked/.test(document.body.innerText)", "the token to be revoked")
		picture(t, u.Page, "device-revoked")
		u.clean()
	})
	t.Run("removed by somebody else", func(t *testing.T) {
		u := u.in(t)
		ctl(t, d, "devices", "remove", device.ID[:12])
		u.press(row("Pairing requests"), "Refresh")
		u.hides(device.ID)
		u.clean()
	})
}

// TestControlUIExec answers requests of a real node by clicking, on a tab that has nothing to do with them.
func TestControlUIExec(t *testing.T) {
	d, u := uiDaemon(t)
	node, _ := ourNode(t, d.Port, "box")
	listed(t, d, "box")
	const dialog = "document.querySelector('.exec-approval-overlay, [role=dialog]')"
	u.open("sessions")
	ask := func(t *testing.T, u ui, argv ...string) *proc.Command {
		t.Helper()
		c := run(t, d, "box", argv...)
		u.shows(strings.Join(argv, " "))
		return c
	}
	t.Run("once", func(t *testing.T) {
		u := u.in(t)
		c := ask(t, u, "uname", "-s")
		picture(t, u.Page, "exec-asks")
		u.press(dialog, "Allow once")
		ended(t, c, 0, "Linux")
		u.WaitFor("!"+dialog, "the dialog to close")
		u.clean()
	})
	t.Run("deny", func(t *testing.T) {
		u := u.in(t)
		c := ask(t, u, "uname", "-r")
		u.press(dialog, "Deny")
		ended(t, c, 77, "denied")
		u.clean()
	})
	t.Run("always", func(t *testing.T) {
		u := u.in(t)
		c := ask(t, u, "uname", "-m")
		u.press(dialog, "Always allow")
		ended(t, c, 0, "")
		if text := ctl(t, d, "grants", "list"); !strings.Contains(text, "uname -m") {
			t.Errorf("no grant is kept:\n%s", text)
		}
		ended(t, run(t, d, "box", "uname", "-m"), 0, "") // nobody is asked
		u.clean()
	})
	t.Run("two at once, one decided elsewhere", func(t *testing.T) {
		u := u.in(t)
		first := ask(t, u, "id", "-u")
		second := run(t, d, "box", "id", "-g")
		u.shows("2 pending")
		decide(t, d, "id -u", "deny")
		ended(t, first, 77, "denied")
		u.shows("id -g")
		u.press(dialog, "Allow once")
		ended(t, second, 0, "")
		u.WaitFor("!"+dialog, "the dialog to close")
		u.clean()
	})
	t.Run("the policy of the daemon's machine", func(t *testing.T) {
		u := u.in(t)
		u.open("nodes")
		policy := "[...document.querySelectorAll('main .card')].find(e => e.innerText.startsWith('Exec approvals'))"
		u.choose("[..."+policy+".querySelectorAll('select')].find(s => [...s.options].some(o => o.value === 'allowlist'))", "the security", "allowlist")
		u.press(policy, "Save")
		until(t, "the new policy", func() (bool, bool) {
			return true, strings.Contains(ctl(t, d, "approvals", "get", "-o", "json"), `"allowlist"`)
		})
		u.clean()
	})
	t.Run("the node comes and goes", func(t *testing.T) {
		u := u.in(t)
		u.WaitFor("/box[\\s\\S]*connected/.test(document.body.innerText)", "the node")
		picture(t, u.Page, "node")
		node.End(syscall.SIGTERM)
		u.WaitFor("!/\\bconnected\\b/.test("+whole+".innerText)", "the node to be shown as away") // the page asks each 5 s
		u.clean()
	})
}

// TestControlUIWatches shows live what others do, and does what is left to do.
func TestControlUIWatches(t *testing.T) {
	d, u := uiDaemon(t)
	skill := filepath.Join(d.State, "skills", "greet")
	err := os.MkdirAll(skill, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(skill, "SKILL.md"), []byte("---\nname: greet\ndescription: Says hello.\n---\n# Greet\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Run("instances", func(t *testing.T) {
		u := u.in(t)
		u.open("instances")
		u.shows("gateway")
		o := d.Operator(proc.Device(t))
		o.Client.DisplayName, o.Client.InstanceID = "second client", "interop-second"
		c := proc.Connect(t, o)
		u.press(whole, "Refresh") // as with its own gateway, only ends are told
		u.shows("second client")
		picture(t, u.Page, "second-client")
		_ = c.Close()
		u.shows("Reason disconnect")
		u.clean()
	})
	t.Run("logs", func(t *testing.T) {
		u := u.in(t)
		u.open("logs")
		u.shows("a client connected")
		id := proc.Connect(t, d.Operator(nil)).Hello().ConnID
		began := time.Now()
		u.shows(id)
		t.Logf("a line of the log is shown after %v", time.Since(began).Round(time.Millisecond))
		u.clean()
	})
	t.Run("skills", func(t *testing.T) {
		u := u.in(t)
		u.open("skills")
		for _, s := range []struct {
			press string
			is    bool
		}{{"Disable", true}, {"Enable", false}} {
			u.press(row("Says hello."), s.press)
			until(t, s.press, func() (bool, bool) {
				return true, get(ctlJSON(t, d, "skills", "show", "greet"), "disabled") == s.is
			})
		}
		u.WaitFor(button(row("Says hello."), "Disable"), "the skill to be on again")
		picture(t, u.Page, "skill")
		u.clean()
	})
	t.Run("a file of an agent", func(t *testing.T) {
		u := u.in(t)
		u.open("agents")
		u.press(whole, "Files")
		u.Click("[...document.querySelectorAll('.agent-file-row')].find(b => b.innerText.includes('USER.md'))", "USER.md")
		u.fill("document.querySelector('.agent-files-editor textarea')", "the file", "# Written by clicking\n")
		u.press("document.querySelector('.agent-files-editor')", "Save")
		until(t, "the file", func() (bool, bool) {
			return true, d.Ctl("agents", "files", "get", "main", "USER.md").Wait(t, proc.Patience).Stdout.String() == "# Written by clicking\n"
		})
		picture(t, u.Page, "agent-file")
		u.clean()
	})
	t.Run("debug", func(t *testing.T) {
		u := u.in(t)
		u.open("debug")
		u.fill("document.querySelector('input[placeholder=\"system-presence\"]')", "the method", "cron.status")
		u.press(whole, "Call")
		u.shows(`"nextWakeAtMs"`)
		u.fill("document.querySelector('input[placeholder=\"system-presence\"]')", "the method", "no.such.method")
		u.press(whole, "Call")
		u.shows("unknown method: no.such.method")
		picture(t, u.Page, "debug-call")
		u.clean()
	})
}
