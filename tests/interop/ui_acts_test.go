//go:build unix

package interop

import (
	"strings"
	"testing"
)

// TestControlUIActs does by clicking what an operator does with sessions and jobs, and looks at what the daemon has then.
func TestControlUIActs(t *testing.T) {
	d, u := uiDaemon(t)
	ctl(t, d, "sessions", "patch", "agent:main:main", "--label", "old name")
	ctl(t, d, "sessions", "patch", "agent:main:other", "--label", "to go")

	t.Run("rename a session", func(t *testing.T) {
		u := u.in(t)
		u.open("sessions")
		u.fill("[...document.querySelectorAll('input')].find(i => i.value === 'old name')", "the label of the session", "new name")
		u.Eval("document.activeElement.blur()")
		until(t, "the new label", func() (bool, bool) { return true, strings.Contains(ctl(t, d, "sessions", "list"), "new name") })
		u.clean()
	})
	t.Run("delete a session", func(t *testing.T) {
		u := u.in(t)
		u.open("sessions")
		u.Eval("window.confirm = () => true")
		u.press(row("agent:main:other"), "Delete")
		until(t, "the session to go", func() (bool, bool) { return true, !strings.Contains(ctl(t, d, "sessions", "list"), "agent:main:other") })
		u.hides("agent:main:other")
		u.clean()
	})

	// job is the job that the daemon has by that name.
	job := func(t *testing.T, name string) map[string]any {
		t.Helper()
		list, _ := ctlJSON(t, d, "cron", "list", "--all")["jobs"].([]any)
		for _, j := range list {
			if get(j, "name") == name {
				return j.(map[string]any)
			}
		}
		return nil
	}
	const form = "document.querySelector('.cron-workspace-form')"
	card := "[...document.querySelectorAll('.cron-job')].find(e => e.innerText.includes('by clicking'))"
	t.Run("add a job", func(t *testing.T) {
		u := u.in(t)
		u.open("cron")
		u.fill("document.getElementById('cron-name')", "the name", "by clicking")
		u.fill("document.getElementById('cron-every-amount')", "the amount", "45")
		u.choose("document.getElementById('cron-session-target')", "the session", "main")
		u.choose("document.getElementById('cron-payload-kind')", "what should run", "systemEvent")
		u.choose("document.getElementById('cron-wake-mode')", "the wake mode", "next-heartbeat")
		u.fill("document.getElementById('cron-payload-text')", "the text", "look at the build")
		picture(t, u.Page, "cron-form")
		u.press(form, "Add job")
		j := until(t, "the job", func() (map[string]any, bool) { j := job(t, "by clicking"); return j, j != nil })
		want(t, j, true, "enabled")
		u.WaitFor(card, "the job in the list")
		picture(t, u.Page, "cron-added")
		u.clean()
	})
	t.Run("disable and enable a job", func(t *testing.T) {
		u := u.in(t)
		for _, b := range []struct {
			press string
			is    bool
		}{{"Disable", false}, {"Enable", true}} {
			u.press(card, b.press)
			until(t, b.press, func() (bool, bool) { return true, get(job(t, "by clicking"), "enabled") == b.is })
		}
		u.clean()
	})
	t.Run("run a job", func(t *testing.T) {
		u := u.in(t)
		u.WaitFor(button(card, "Run"), "the job to be enabled")
		u.press(card, "Run")
		until(t, "the run", func() (bool, bool) { return true, strings.Contains(ctl(t, d, "cron", "runs"), "by clicking") })
		u.WaitFor("/\\bok\\b/i.test("+card+"?.querySelector('.cron-job-status-pill')?.innerText)", "the run's end in the list")
		picture(t, u.Page, "cron-ran")
		u.clean()
	})
	t.Run("edit a job", func(t *testing.T) {
		u := u.in(t)
		u.press(card, "Edit")
		u.WaitFor("document.getElementById('cron-name')?.value === 'by clicking'", "the job in the form")
		u.fill("document.getElementById('cron-payload-text')", "the text", "look again")
		u.press(form, "Save changes")
		until(t, "the change", func() (bool, bool) {
			return true, strings.Contains(ctl(t, d, "cron", "list", "-o", "json"), "look again")
		})
		u.clean()
	})
	t.Run("a job of somebody else comes and goes", func(t *testing.T) {
		u := u.in(t)
		u.open("cron")
		u.shows("1 shown of 1")
		ctl(t, d, "cron", "add", "--name", "from elsewhere", "--every", "1h", "--event", "hello")
		u.shows("from elsewhere")
		id, _ := job(t, "from elsewhere")["id"].(string)
		ctl(t, d, "cron", "rm", id)
		u.hides("from elsewhere")
		u.clean()
	})
	t.Run("a wrong expression", func(t *testing.T) {
		u := u.in(t)
		u.open("cron")
		u.fill("document.getElementById('cron-name')", "the name", "never")
		u.choose("document.getElementById('cron-schedule-kind')", "the schedule", "cron")
		u.fill("document.getElementById('cron-cron-expr')", "the expression", "61 25 * * *")
		u.choose("document.getElementById('cron-session-target')", "the session", "main")
		u.choose("document.getElementById('cron-payload-kind')", "what should run", "systemEvent")
		u.fill("document.getElementById('cron-payload-text')", "the text", "never")
		u.press(form, "Add job")
		u.shows("Invalid value for minute: 61")
		picture(t, u.Page, "cron-wrong")
		if job(t, "never") != nil {
			t.Error("there is a job with a wrong expression")
		}
		u.WaitFor("document.getElementById('cron-name').value === 'never'", "the form to keep what was typed")
		u.clean()
	})
	t.Run("remove a job", func(t *testing.T) {
		u := u.in(t)
		u.open("cron")
		u.Eval("window.confirm = () => true")
		u.press(card, "Remove")
		until(t, "the job to go", func() (bool, bool) { return true, job(t, "by clicking") == nil })
		u.hides("by clicking")
		u.clean()
	})
}
