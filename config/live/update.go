package live

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
)

const (
	// updateTimeout is how long an update may take when nobody says.
	updateTimeout = 20 * time.Minute
	// checkEvery is how often a newer build is looked for, checkName the file that says when that was last.
	checkEvery = 24 * time.Hour
	checkName  = "update-check.json"
)

// Updates is what replacing the program takes; nil where it cannot be replaced from within.
type Updates interface {
	// Directory is where builds are, "" when nobody says; Variant is the name that they begin with.
	Directory() string
	Variant() string
	// Install puts a program in the place of the one that runs, keeps the latter, and has it start at the next
	// restart. It returns the version of the new one, and refuses one that could not read the database.
	Install(ctx context.Context, program, version string) error
}

// UpdateIn asks for an update.
type UpdateIn struct {
	SessionKey, Note string
	Delay            *time.Duration
	// Timeout is updateTimeout when zero.
	Timeout time.Duration
}

// Step is a part of an update.
type Step struct {
	Name, Command  string
	Took           time.Duration
	Failed         bool
	Stdout, Stderr string
}

// UpdateOut is the result of an update (control-plane.md §7).
type UpdateOut struct {
	// Status is ok, error or skipped; Reason says why it is not ok.
	Status, Reason string
	// Root is the directory of builds, "" when nobody says.
	Root          string
	Before, After string
	Steps         []Step
	Took          time.Duration
	// Restart is set when the daemon starts anew with the new program.
	Restart      *Restart
	Sentinel     Sentinel
	SentinelPath string
}

// UpdateState says whether there is a newer build.
type UpdateState struct {
	Current string
	// Latest is empty when there is none that is newer.
	Latest, Channel, Directory string
	CheckedAt                  time.Time
	Fault                      string
}

// UpdateAvailable is the payload of the event update.available; Latest is "" when there is none any more.
type UpdateAvailable struct{ Current, Latest, Channel string }

func (s *Service) channel() string {
	if c := s.Current().Update.Channel; c != "" {
		return c
	}
	return "stable"
}

func (s *Service) builds() string {
	if s.cfg.Updates == nil {
		return ""
	}
	return s.cfg.Updates.Directory()
}

// Update says whether there is a newer build.
func (s *Service) Update(_ context.Context, c identity.Caller, _ struct{}) (UpdateState, error) {
	out := s.look()
	if !c.Has(identity.ScopeAdmin) {
		out.Directory, out.Fault = "", "" // they name files
	}
	return out, nil
}

func (s *Service) look() UpdateState {
	out := UpdateState{Current: s.cfg.Version, Channel: s.channel(), Directory: s.builds(), CheckedAt: s.cfg.Now()}
	if out.Directory == "" {
		out.Fault = "no directory of builds is named: set HANZOD_UPDATE_DIR"
		return out
	}
	b, ok, err := newest(out.Directory, s.cfg.Updates.Variant(), runtime.GOOS, runtime.GOARCH, out.Channel, s.cfg.Version)
	switch {
	case err != nil:
		out.Fault = err.Error()
	case ok:
		out.Latest = b.version
	}
	return out
}

// RunUpdate puts the newest build in the place of the program that runs and plans a restart. What goes wrong
// is said in the answer, and changes nothing.
func (s *Service) RunUpdate(ctx context.Context, c identity.Caller, in UpdateIn) (UpdateOut, error) {
	if err := may(c); err != nil {
		return UpdateOut{}, err
	}
	if in.Timeout <= 0 {
		in.Timeout = updateTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, in.Timeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	began := s.cfg.Now()
	out := UpdateOut{Root: s.builds(), Before: s.cfg.Version}
	s.update(ctx, c, &out)
	out.Took = s.cfg.Now().Sub(began)
	note := Sentinel{Kind: "update", Status: out.Status, At: s.cfg.Now(), SessionKey: in.SessionKey, Mode: "unknown", Root: out.Root}
	if in.Note != "" {
		note.Message = &in.Note
	}
	out.Sentinel = note
	if out.Status != "ok" {
		return out, nil
	}
	path, err := writeSentinel(s.load.StateDir, note)
	if err != nil {
		s.cfg.Log.Warn("the note for after the restart was not written", "error", err)
	} else {
		out.SentinelPath = path
	}
	r := s.restart(RestartIn{Delay: in.Delay, Reason: "update.run"})
	out.Restart = &r
	return out, nil
}

func (s *Service) update(ctx context.Context, c identity.Caller, out *UpdateOut) {
	fail := func(reason string) { out.Status, out.Reason = "error", reason }
	step := func(name, command string, do func() error) bool {
		began := time.Now()
		err := do()
		st := Step{Name: name, Command: command, Took: time.Since(began), Failed: err != nil}
		if err != nil {
			st.Stderr = err.Error()
			fail(name + "-failed")
		}
		out.Steps = append(out.Steps, st)
		return err == nil
	}
	if out.Root == "" {
		out.Status, out.Reason = "skipped", "not-configured"
		return
	}
	if s.until.Load() != nil {
		out.Status, out.Reason = "skipped", "config-pending"
		return
	}
	var b build
	var found bool
	if !step("find", "newest build in "+out.Root, func() (err error) {
		b, found, err = newest(out.Root, s.cfg.Updates.Variant(), runtime.GOOS, runtime.GOARCH, s.channel(), s.cfg.Version)
		return err
	}) {
		return
	}
	if !found {
		out.Status, out.Reason = "skipped", "up-to-date"
		return
	}
	work, err := os.MkdirTemp(s.load.StateDir, "update-")
	if err != nil {
		fail("no-space")
		out.Steps = append(out.Steps, Step{Name: "prepare", Failed: true, Stderr: err.Error()})
		return
	}
	defer os.RemoveAll(work)
	var file string
	if !step("verify", "sha256 of "+filepath.Base(b.file), func() (err error) { file, err = b.take(work); return err }) {
		return
	}
	if err := s.cfg.Record(ctx, Change{At: s.cfg.Now(), By: c.Subject(), What: "update: hanzod " + s.cfg.Version + " is replaced by " + b.version}); err != nil {
		fail("not-recorded")
		return
	}
	if !step("install", "replace the program by hanzod "+b.version, func() error { return s.cfg.Updates.Install(ctx, file, b.version) }) {
		return
	}
	out.Status, out.After = "ok", b.version
}

// checkUpdates looks for a newer build at the start and once a day, until ctx ends.
func (s *Service) checkUpdates(ctx context.Context) {
	if s.builds() == "" {
		return
	}
	told := ""
	check := func() {
		if !s.Current().Update.CheckOnStart {
			return
		}
		now := s.look()
		if err := saveCheck(s.load.StateDir, now); err != nil {
			s.cfg.Log.Warn("when a newer build was looked for was not kept", "error", err)
		}
		if now.Latest != told {
			told = now.Latest
			s.cfg.Bus.Publish("update.available", UpdateAvailable{now.Current, now.Latest, now.Channel})
			if told != "" {
				s.cfg.Log.Info("there is a newer hanzod; install it with: hanzoctl update run", "version", told)
			}
		}
	}
	check()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			check()
		case <-ctx.Done():
			return
		}
	}
}

// saveCheck keeps when a newer build was looked for, in the format of the original.
func saveCheck(stateDir string, u UpdateState) error {
	state := map[string]any{"lastCheckedAt": u.CheckedAt.UTC().Format("2006-01-02T15:04:05.000Z")}
	if u.Latest != "" {
		state["lastNotifiedVersion"], state["lastNotifiedTag"] = u.Latest, u.Channel
	}
	text, err := json.MarshalIndent(state, "", "  ")
	if err != nil {
		return err
	}
	return config.WriteFileAtomic(filepath.Join(stateDir, checkName), append(text, '\n'), 0o600)
}

// Summary is one line for people.
func (u UpdateOut) Summary() string {
	if u.Status == "ok" {
		return fmt.Sprintf("hanzod %s takes the place of %s", u.After, u.Before)
	}
	for _, st := range u.Steps {
		if st.Failed {
			first, _, _ := strings.Cut(st.Stderr, "\n")
			return first
		}
	}
	return u.Reason
}
