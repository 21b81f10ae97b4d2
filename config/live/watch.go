package live

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/hanzoai/hanzod/config"
)

const (
	// stableFor is how long the files have to stay as they are before they are read: editors and copies
	// write in several steps (control-plane.md §4 "Reload on file change").
	stableFor = 200 * time.Millisecond
	// pollEvery is how often the files are looked at when the system tells of their changes, pollAlone
	// when it does not.
	pollEvery = 5 * time.Second
	pollAlone = time.Second
	// maxDebounce bounds gateway.reload.debounceMs.
	maxDebounce = time.Minute
)

// stamp is what the file system says of the files of a configuration.
type stamp string

// stampOf looks at the files without reading them.
func stampOf(files []string) stamp {
	var b strings.Builder
	for _, f := range files {
		st, err := os.Stat(f)
		if err != nil {
			b.WriteString("-\n")
			continue
		}
		b.WriteString(st.ModTime().Format(time.RFC3339Nano))
		b.WriteByte(' ')
		b.WriteString(identityOf(st))
		b.WriteByte('\n')
	}
	return stamp(b.String())
}

// files are those that the configuration in force was read from, and the ones that the last attempt to
// read another named.
func (s *Service) files() []string {
	s.filesMu.Lock()
	defer s.filesMu.Unlock()
	return slices.Clone(s.watched)
}

// follow notes which files to watch: the main one and what it includes.
func (s *Service) follow(c *config.Config) {
	all := []string{s.load.Path}
	if c != nil {
		all = append(all, c.Includes...)
	}
	s.filesMu.Lock()
	s.watched = all
	s.filesMu.Unlock()
}

// watch reloads the configuration after its files changed, until ctx ends.
func (s *Service) watch(ctx context.Context) {
	told := make(chan struct{}, 1)
	notify, err := fsnotify.NewWatcher()
	every := pollEvery
	if err != nil {
		s.cfg.Log.Warn("the system does not tell of changes of the configuration; its files are looked at every second", "error", err)
		every = pollAlone
	} else {
		defer notify.Close()
		go func() {
			for range notify.Errors { // ends with Close
			}
		}()
		go func() {
			for e := range notify.Events { // ends with Close
				if e.Op == fsnotify.Chmod {
					continue
				}
				select {
				case told <- struct{}{}:
				default:
				}
			}
		}()
	}
	dirs := map[string]bool{}
	// attend watches the directories of the files: a file that is replaced is another one.
	attend := func() {
		if notify == nil {
			return
		}
		want := map[string]bool{}
		for _, f := range s.files() {
			want[filepath.Dir(f)] = true
			if real, err := filepath.EvalSymlinks(f); err == nil {
				want[filepath.Dir(real)] = true
			}
		}
		for d := range want {
			if !dirs[d] && notify.Add(d) == nil {
				dirs[d] = true
			}
		}
		for d := range dirs {
			if !want[d] {
				_ = notify.Remove(d) // it may be gone
				delete(dirs, d)
			}
		}
		if len(dirs) < len(want) {
			every = pollAlone
		}
	}
	attend()
	// What changed between the reading of the configuration and now is seen as well: the stamp of then is
	// not known.
	seen, due := stamp("unread"), time.Time{}
	wake := time.NewTimer(0)
	defer wake.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
		case <-wake.C:
		}
		now := time.Now()
		if at := stampOf(s.files()); at != seen {
			seen, due = at, now.Add(stableFor+s.debounce())
		}
		if !due.IsZero() && !now.Before(due) {
			due = time.Time{}
			s.reload(ctx)
			attend()
			seen = stampOf(s.files())
		}
		next := every
		if !due.IsZero() {
			next = min(next, max(due.Sub(now), time.Millisecond))
		}
		wake.Reset(next)
	}
}

// debounce is gateway.reload.debounceMs.
func (s *Service) debounce() time.Duration {
	return min(time.Duration(min(s.Current().Gateway.Reload.DebounceMs, int64(maxDebounce/time.Millisecond)))*time.Millisecond, maxDebounce)
}
