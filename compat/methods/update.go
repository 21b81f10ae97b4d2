package methods

import (
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/config/live"
)

// UpdateFromLegacy reads update.run.
func UpdateFromLegacy(p wire.Value) (live.UpdateIn, error) {
	var in struct {
		SessionKey     wire.Opt[string]   `json:"sessionKey"`
		Note           wire.Opt[string]   `json:"note"`
		RestartDelayMs wire.Opt[wire.Int] `json:"restartDelayMs"`
		TimeoutMs      wire.Opt[wire.Int] `json:"timeoutMs"`
	}
	if err := wire.Decode(p, &in); err != nil {
		return live.UpdateIn{}, err
	}
	out := live.UpdateIn{SessionKey: text(in.SessionKey), Note: text(in.Note)}
	if ms, ok := in.RestartDelayMs.Get(); ok {
		d := time.Duration(min(int64(ms), live.MaxRestartDelay.Milliseconds())) * time.Millisecond
		out.Delay = &d
	}
	if ms, ok := in.TimeoutMs.Get(); ok {
		out.Timeout = time.Duration(min(int64(ms), time.Hour.Milliseconds())) * time.Millisecond
	}
	return out, nil
}

type updateVersion struct {
	Version wire.Opt[string] `json:"version,omitzero"`
}

type updateStep struct {
	Name       string           `json:"name"`
	Command    string           `json:"command"`
	Cwd        string           `json:"cwd"`
	DurationMs int64            `json:"durationMs"`
	ExitCode   int              `json:"exitCode"`
	StdoutTail wire.Opt[string] `json:"stdoutTail,omitzero"`
	StderrTail wire.Opt[string] `json:"stderrTail,omitzero"`
}

// UpdateToLegacy writes the result of update.run (control-plane.md §7).
func UpdateToLegacy(o live.UpdateOut) any {
	type result struct {
		Status     string                  `json:"status"`
		Mode       string                  `json:"mode"`
		Root       wire.Opt[string]        `json:"root,omitzero"`
		Reason     wire.Opt[string]        `json:"reason,omitzero"`
		Before     wire.Opt[updateVersion] `json:"before,omitzero"`
		After      wire.Opt[updateVersion] `json:"after,omitzero"`
		Steps      wire.List[updateStep]   `json:"steps"`
		DurationMs int64                   `json:"durationMs"`
	}
	r := result{
		Status: o.Status, Mode: "unknown", Root: wire.NonZero(o.Root), Reason: wire.NonZero(o.Reason),
		Before: wire.Some(updateVersion{wire.NonZero(o.Before)}), DurationMs: o.Took.Milliseconds(),
	}
	if o.After != "" {
		r.After = wire.Some(updateVersion{wire.NonZero(o.After)})
	}
	for _, st := range o.Steps {
		one := updateStep{Name: st.Name, Command: st.Command, Cwd: o.Root, DurationMs: st.Took.Milliseconds(), StdoutTail: wire.NonZero(st.Stdout), StderrTail: wire.NonZero(st.Stderr)}
		if st.Failed {
			one.ExitCode = 1
		}
		r.Steps = append(r.Steps, one)
	}
	out := struct {
		OK       bool   `json:"ok"`
		Result   result `json:"result"`
		Restart  any    `json:"restart"`
		Sentinel any    `json:"sentinel"`
	}{OK: o.Status != "error", Result: r, Sentinel: SentinelToLegacy(o.SentinelPath, o.Sentinel)}
	if o.Restart != nil {
		out.Restart = RestartToLegacy(*o.Restart)
	}
	return out
}

// UpdateAvailableToLegacy writes the event update.available.
func UpdateAvailableToLegacy(u live.UpdateAvailable) any {
	type available struct {
		CurrentVersion string `json:"currentVersion"`
		LatestVersion  string `json:"latestVersion"`
		Channel        string `json:"channel"`
	}
	out := struct {
		UpdateAvailable *available `json:"updateAvailable"`
	}{}
	if u.Latest != "" {
		out.UpdateAvailable = &available{u.Current, u.Latest, u.Channel}
	}
	return out
}
