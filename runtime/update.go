package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime/service"
)

const (
	// updateName is the file of a program that was put in place and has not served yet.
	updateName = "update.pending.json"
	// maxUpdateStarts is how often such a program may start without becoming ready: then the one before it is
	// put back.
	maxUpdateStarts = 2
)

// pendingUpdate is what updateName holds.
type pendingUpdate struct {
	// Program is what was replaced, by version To; From is what it was before.
	Program, From, To string
	Starts            int
}

// updates replaces the program of this process; it implements live.Updates.
type updates struct{ dir, program, stateDir string }

// Directory implements live.Updates.
func (u updates) Directory() string { return u.dir }

// Variant implements live.Updates.
func (u updates) Variant() string {
	if TailnetBuilt {
		return "hanzod-tailnet"
	}
	return "hanzod"
}

// Install implements live.Updates.
func (u updates) Install(ctx context.Context, program, version string) error {
	now, next, err := service.Facing(ctx, program, u.program)
	if err != nil {
		return err
	}
	if next.Version != version {
		return fmt.Errorf("the program says that it is hanzod %s, and not %s", next.Version, version)
	}
	// It is on disk before the program is replaced: the next start has to know what to put back.
	if err := saveUpdate(u.stateDir, pendingUpdate{Program: u.program, From: now.Version, To: next.Version}); err != nil {
		return err
	}
	if err := service.Swap(program, u.program); err != nil {
		return errors.Join(err, dropUpdate(u.stateDir))
	}
	return nil
}

func saveUpdate(stateDir string, p pendingUpdate) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return config.WriteFileAtomic(filepath.Join(stateDir, updateName), text, 0o600)
}

func dropUpdate(stateDir string) error {
	if err := os.Remove(filepath.Join(stateDir, updateName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// loadUpdate reads what was put in place; a file that says nothing useful counts as none.
func loadUpdate(stateDir string) (p pendingUpdate, ok bool) {
	text, err := os.ReadFile(filepath.Join(stateDir, updateName))
	if err != nil || json.Unmarshal(text, &p) != nil || p.Program == "" {
		return pendingUpdate{}, false
	}
	return p, true
}

// beginUpdate counts the starts of a program that has not served yet. Where they were too many, the program
// before it takes over; then it returns only when that failed.
func (s *server) beginUpdate(dir string) error {
	p, ok := loadUpdate(dir)
	switch {
	case !ok:
		return nil
	case p.To != Version:
		s.notes = append(s.notes, fmt.Sprintf("hanzod %s did not take over; hanzod %s runs", p.To, Version))
		return dropUpdate(dir)
	case p.Starts >= maxUpdateStarts:
		return s.putBack(dir, p, errors.New("it was started several times and never became ready"))
	}
	p.Starts++
	return saveUpdate(dir, p)
}

// putBack puts the program in its place that this one replaced, and goes on as that. It returns when it cannot.
func (s *server) putBack(dir string, p pendingUpdate, why error) error {
	if s.o.Exec == nil {
		return why
	}
	if err := service.PutBack(p.Program); err != nil {
		return errors.Join(why, fmt.Errorf("and hanzod %s cannot be put back: %w", p.From, err))
	}
	_ = s.held.Release()
	return errors.Join(why, s.o.Exec(p.Program))
}

// takeOver goes on as the program that was put in place meanwhile, if there is one. It returns when there is
// none, or when it cannot be started; then the program before is in its place again.
func (s *server) takeOver(dir string) {
	p, ok := loadUpdate(dir)
	if !ok || p.To == Version || s.o.Exec == nil {
		return
	}
	// Another process may take the state in the moment between the two programs; the one that comes then says so.
	_ = s.held.Release()
	err := s.o.Exec(p.Program)
	s.notes = append(s.notes, fmt.Sprintf("hanzod %s was not started and is taken back: %v", p.To, errors.Join(err, service.PutBack(p.Program), dropUpdate(dir))))
}
