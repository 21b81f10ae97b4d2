package host

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/errs"
)

// denial is the refusal of a run that an event tells about too.
type denial struct{ reason, message string }

// run is system.run (nodes-approvals.md §4.3).
func (h *Host) run(ctx context.Context, r Request, p params) Result {
	argv, text, shell, bad := h.command(p)
	if bad != nil {
		return *bad
	}
	select {
	case h.runs <- struct{}{}:
		defer func() { <-h.runs }()
	default:
		return failed("UNAVAILABLE", "UNAVAILABLE: too many commands are running on this node; wait for one to end and try again")
	}

	agent := p.text("agentId")
	decision := orEmpty(p.text("approvalDecision"))
	always := decision == "allow-always"
	approved := always || decision == "allow-once" || p.isTrue("approved")
	job := job{text: text, sessionKey: "node", runID: newUUID(), cwd: orEmpty(p.text("cwd")), timeout: p.millis("timeoutMs")}
	if s := p.text("sessionKey"); s != nil {
		job.sessionKey = *s
	}
	if s := p.text("runId"); s != nil {
		job.runID = *s
	}
	var dropped []string
	job.env, dropped = h.policy.Environment(h.env(), p.strings("env"), shell)
	if len(dropped) > 0 {
		h.log.Info("environment overrides of a run were left out", "run", job.runID, "names", dropped)
	}
	path := lookup(job.env, "PATH")

	planned, covered, reason, message, err := h.policy.Admit(agent, argv, job.cwd, path, approved)
	if err != nil {
		h.log.Error("the exec approvals file cannot be used, so the run is refused", "run", job.runID, "err", err)
	}
	if reason == "approval-required" && !approved && !p.isTrue("needsScreenRecording") {
		switch answer, files := h.prompt(ctx, r, job, agent, argv, path); answer {
		case "":
		case "deny":
			return h.deny(r, job, denial{"user-denied", "SYSTEM_RUN_DENIED: user denied"})
		default:
			approved, always = true, answer == "allow-always"
			p["binding"] = files
			// The policy may have changed meanwhile: deny stays denied.
			planned, covered, reason, message, err = h.policy.Admit(agent, argv, job.cwd, path, approved)
			if err != nil {
				h.log.Error("the exec approvals file cannot be used, so the run is refused", "run", job.runID, "err", err)
			}
		}
	}
	if reason != "" {
		return h.deny(r, job, denial{reason, message})
	}
	// Before anything is remembered, unlike the original, which stored an entry for a run that it
	// then refused.
	if p.isTrue("needsScreenRecording") {
		return h.deny(r, job, denial{"permission:screenRecording", "PERMISSION_MISSING: screenRecording"})
	}
	job.argv = planned
	var dir *canonicalDir
	var files *bound
	if approved {
		var refused *denial
		dir, refused = canonical(job.cwd)
		defer dir.close()
		if refused == nil {
			job.cwd = dir.orEmpty()
			job.argv, refused = h.pin(argv, job.cwd, path)
		}
		if refused == nil {
			files, refused = h.verify(p["binding"], job, path)
			defer files.close()
		}
		if refused != nil {
			return h.deny(r, job, *refused)
		}
	}
	if err := h.policy.Record(agent, argv, job.cwd, path, text, always); err != nil {
		h.log.Error("a run could not be remembered in the exec approvals file", "run", job.runID, "always", always, "err", err)
	}
	if h.beforeSpawn != nil {
		h.beforeSpawn()
	}
	if !dir.unchanged() {
		return h.deny(r, job, denial{"approval-required", "SYSTEM_RUN_DENIED: approval cwd changed before execution"})
	}
	var refused *denial
	if job.image, refused = h.image(job, files, covered); refused != nil {
		return h.deny(r, job, *refused)
	}

	if p.isTrue("streamOutput") {
		job.tap = newTap(r, job.runID)
	}
	ctx, ended := h.commands.begin(ctx, r.ID)
	out := h.spawn(ctx, job)
	if by := ended(); by != "" && out.ExitCode == nil {
		text := "killed by " + by
		out.Error = &text
	}
	job.tap.close()
	r.Emit("exec.finished", string(encode(finished{
		SessionKey: job.sessionKey, RunID: job.runID, Host: "node", Command: head(text, maxEventText),
		ExitCode: out.ExitCode, TimedOut: out.TimedOut, Success: out.Success, Output: out.summary(),
	})))
	return done(encode(out))
}

// prepare is system.run.prepare: it says what an approval would cover, and asks no policy.
func (h *Host) prepare(_ context.Context, _ Request, p params) Result {
	argv, text, _, bad := h.command(p)
	if bad != nil {
		return *bad
	}
	dir, refused := canonical(orEmpty(p.text("cwd")))
	if refused != nil {
		return invalid(refused.message)
	}
	defer dir.close()
	pinned, refused := h.pin(argv, dir.orEmpty(), h.PathEnv())
	if refused != nil {
		return invalid(refused.message)
	}
	pl := plan{Argv: pinned, RawCommand: text, AgentID: p.text("agentId"), SessionKey: p.text("sessionKey")}
	if !slices.Equal(pinned, argv) {
		// The text of the pinned argv comes from the same rule as any other text.
		_, pl.RawCommand, _, _ = h.policy.Command(encode(pinned), nil)
	}
	if dir != nil {
		pl.Cwd = &dir.path
	}
	files := h.identify(pinned, dir.orEmpty(), h.PathEnv())
	defer files.close()
	return done(encode(prepared{CmdText: text, Plan: pl, Binding: files.binding}))
}

// verify opens the files of an approved run and compares them with what was approved. Without a
// binding, from a gateway that knows none, it is nil and any files will do.
func (h *Host) verify(raw json.RawMessage, j job, pathEnv string) (*bound, *denial) {
	was, err := parseBinding(raw)
	if err != nil {
		return nil, &denial{"approval-required", "SYSTEM_RUN_DENIED: the files of the approval cannot be checked: " + err.Error()}
	}
	if was == nil {
		return nil, nil
	}
	is := h.identify(j.argv, j.cwd, pathEnv)
	if what := changed(*was, is.binding); what != "" {
		is.close()
		return nil, &denial{"approval-required", "SYSTEM_RUN_DENIED: " + what}
	}
	return is, nil
}

// image makes what a run starts: the files that were verified, or else the program that the allow-list
// covers and no other. Nil is what the argv leads to.
func (h *Host) image(j job, files *bound, covered bool) (*image, *denial) {
	var i *image
	var err error
	switch {
	case files == nil && !covered:
		return nil, nil
	case files == nil:
		if i, err = exactly(j.argv[0], j.argv); i != nil {
			i.dir = j.cwd
		}
	default:
		if what := files.still(true); what != "" {
			return nil, &denial{"approval-required", "SYSTEM_RUN_DENIED: " + what}
		}
		i, err = files.image(j.argv)
	}
	if err != nil {
		return nil, &denial{"approval-required", "SYSTEM_RUN_DENIED: " + clip(j.argv[0]) + " cannot be started: " + err.Error()}
	}
	return i, nil
}

// command reads the parameters command and rawCommand.
func (h *Host) command(p params) (argv []string, text string, shell bool, bad *Result) {
	argv, text, shell, err := h.policy.Command(p["command"], p["rawCommand"])
	switch e, _ := errs.As(err); {
	case e != nil && e.Code == "policy.raw_mismatch":
		r := invalid("INVALID_REQUEST: " + e.Text)
		return nil, "", false, &r
	case err != nil:
		r := invalid(err.Error())
		return nil, "", false, &r
	case len(argv) == 0:
		r := invalid("command required")
		return nil, "", false, &r
	}
	return argv, text, shell, nil
}

func (h *Host) pin(argv []string, cwd, path string) ([]string, *denial) {
	pinned, err := h.policy.Pin(argv, cwd, path)
	if err != nil {
		return nil, &denial{"approval-required", "SYSTEM_RUN_DENIED: approval requires a stable executable path"}
	}
	return pinned, nil
}

// deny tells the event and then the error.
func (h *Host) deny(r Request, j job, d denial) Result {
	r.Emit("exec.denied", string(encode(refusal{
		SessionKey: j.sessionKey, RunID: j.runID, Host: "node", Command: head(j.text, maxEventText), Reason: d.reason,
	})))
	return failed("UNAVAILABLE", d.message)
}

// The frozen payloads, in their order of keys.
type (
	plan struct {
		Argv       []string `json:"argv"`
		Cwd        *string  `json:"cwd"`
		RawCommand string   `json:"rawCommand"`
		AgentID    *string  `json:"agentId"`
		SessionKey *string  `json:"sessionKey"`
	}
	prepared struct {
		CmdText string  `json:"cmdText"`
		Plan    plan    `json:"plan"`
		Binding binding `json:"binding"`
	}
	finished struct {
		SessionKey string `json:"sessionKey"`
		RunID      string `json:"runId"`
		Host       string `json:"host"`
		Command    string `json:"command"`
		ExitCode   *int   `json:"exitCode,omitempty"`
		TimedOut   bool   `json:"timedOut"`
		Success    bool   `json:"success"`
		Output     string `json:"output"`
	}
	refusal struct {
		SessionKey string `json:"sessionKey"`
		RunID      string `json:"runId"`
		Host       string `json:"host"`
		Command    string `json:"command"`
		Reason     string `json:"reason"`
	}
	outcome struct {
		ExitCode *int    `json:"exitCode,omitempty"`
		TimedOut bool    `json:"timedOut"`
		Success  bool    `json:"success"`
		Stdout   string  `json:"stdout"`
		Stderr   string  `json:"stderr"`
		Error    *string `json:"error"`
	}
)

// summary is the output for an event: the end of it, where the news is.
func (o outcome) summary() string {
	var parts []string
	for _, s := range []string{o.Stdout, o.Stderr, orEmpty(o.Error)} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	all := strings.TrimSpace(strings.Join(parts, "\n"))
	runes := []rune(all)
	if len(runes) <= maxEventText {
		return all
	}
	return "... (truncated) " + string(runes[len(runes)-maxEventText:])
}

func head(s string, n int) string {
	if len(s) <= n {
		return s
	}
	if r := []rune(s); len(r) > n {
		return string(r[:n])
	}
	return s
}
