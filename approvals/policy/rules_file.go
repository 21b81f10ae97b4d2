package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// rulesPoll is how often the rules file is looked at.
	rulesPoll = time.Second
	// rulesFresh is how long after a change the text is read again although the file looks the same: the
	// clock of a file system may be that coarse.
	rulesFresh = 3 * time.Second
)

// RulesOptions are what a RulesFile needs.
type RulesOptions struct {
	// Record is told of every change before it counts, with the hashes of the texts before and after. "" is
	// no rules. When it fails, nothing changes. by is who set the rules, "" for a file that changed.
	Record func(ctx context.Context, by, before, after string) error
	Log    *slog.Logger
}

// RulesFile keeps the rules of one file in force. Its methods may be called concurrently; Run follows the
// changes of the file.
type RulesFile struct {
	path string
	o    RulesOptions
	now  atomic.Pointer[inForce]

	mu   sync.Mutex // orders changes
	seen fileMark   // of the last look at the file
	gone bool       // the last look found none
}

// inForce is what decides, and what is wrong with the file since.
type inForce struct {
	rules *Rules
	text  []byte
	// fault is why the file is not what decides; nil when it is.
	fault error
	since time.Time
}

// fileMark tells one state of a file from another without reading it.
type fileMark struct {
	size int64
	mod  time.Time
	hash string
	at   time.Time
}

// RulesState is how the rules of a file stand.
type RulesState struct {
	Path string
	// Hash is that of the rules in force, "" for none; Text is their text, Count how many there are.
	Hash  string
	Text  []byte
	Count int
	Since time.Time
	// Fault is what is wrong with the file as it stands now: the rules in force are those before it. Closed
	// says that there were none before, so that nothing may run.
	Fault  string
	Closed bool
}

// OpenRules reads the rules file at a path. A missing file is no rules; with a wrong one nothing may run
// until it is repaired. It never fails: what is wrong is in State.
func OpenRules(path string, o RulesOptions) *RulesFile {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Record == nil {
		o.Record = func(context.Context, string, string, string) error { return nil }
	}
	f := &RulesFile{path: path, o: o}
	text, mark, err := f.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.gone = true
		f.now.Store(&inForce{rules: &Rules{}, since: time.Now()})
		return f
	case err == nil:
		var rules *Rules
		if rules, err = ParseRules(path, text); err == nil {
			f.seen = mark
			f.now.Store(&inForce{rules: rules, text: text, since: time.Now()})
			return f
		}
	}
	f.seen = mark
	where := filepath.Base(path) + ":1"
	if faults := CheckRules(text); err != nil && len(text) > 0 && len(faults) > 0 {
		where = fmt.Sprintf("%s:%d", filepath.Base(path), faults[0].Line)
	}
	f.now.Store(&inForce{rules: DenyAll("the policy rules cannot be used, so nothing may run: "+err.Error(), where), fault: err, since: time.Now()})
	o.Log.Error("the policy rules cannot be used; nothing that needs them runs until they are repaired", "path", path, "error", err.Error())
	return f
}

// Path returns where the file is.
func (f *RulesFile) Path() string { return f.path }

// Rules returns what is in force.
func (f *RulesFile) Rules() *Rules { return f.now.Load().rules }

// Decide says what the rules in force say about a run.
func (f *RulesFile) Decide(q Query) Ruling { return f.Rules().Decide(q) }

// State says how the rules stand.
func (f *RulesFile) State() RulesState {
	n := f.now.Load()
	s := RulesState{Path: f.path, Hash: n.rules.hash, Text: n.text, Count: n.rules.Count(), Since: n.since, Closed: n.rules.broken != ""}
	if n.fault != nil {
		s.Fault = n.fault.Error()
	}
	return s
}

// read returns the text of the file, at most one byte more than may be.
func (f *RulesFile) read() ([]byte, fileMark, error) {
	// Asked before opening, which would wait for the writer of a named pipe.
	if st, err := os.Stat(f.path); err == nil && !st.Mode().IsRegular() {
		return nil, fileMark{mod: st.ModTime(), at: time.Now()}, ErrRulesRead.WithText(f.path + " is no file")
	}
	r, err := os.Open(f.path)
	if err != nil {
		return nil, fileMark{}, err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return nil, fileMark{}, err
	}
	mark := fileMark{size: info.Size(), mod: info.ModTime(), at: time.Now()}
	if !info.Mode().IsRegular() {
		return nil, mark, ErrRulesRead.WithText(f.path + " is no file")
	}
	text, err := io.ReadAll(io.LimitReader(r, MaxRules+1))
	if err != nil {
		return nil, mark, err
	}
	mark.hash = hashOf(text)
	return text, mark, nil
}

// Run follows the file until ctx ends.
func (f *RulesFile) Run(ctx context.Context) {
	tick := time.NewTicker(rulesPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look(ctx)
		}
	}
}

// look brings a changed file into force.
func (f *RulesFile) look(ctx context.Context) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		// Editors replace files: it has to be gone for two looks.
		if f.gone {
			f.empty(ctx)
		}
		f.gone = true
		return
	}
	f.gone = false
	same := err == nil && info.Size() == f.seen.size && info.ModTime().Equal(f.seen.mod)
	if same && f.seen.at.Sub(f.seen.mod) > rulesFresh && f.seen.hash != "" {
		return
	}
	text, mark, err := f.read()
	if err != nil {
		f.seen = fileMark{} // look again, whatever its times
		f.wrong(ErrRulesRead.WithText("the policy rules cannot be read: " + err.Error()))
		return
	}
	was := f.seen
	f.seen = mark
	if mark.hash == was.hash {
		return
	}
	if err := f.bring(ctx, "", text); err != nil {
		f.seen.hash = "" // look again
		f.o.Log.Error("changed policy rules are not in force, because the change could not be recorded", "path", f.path, "error", err)
	}
}

// empty takes the rules of a file away that is gone.
func (f *RulesFile) empty(ctx context.Context) {
	n := f.now.Load()
	if n.text == nil && n.fault == nil {
		return
	}
	if err := f.o.Record(ctx, "", n.rules.hash, ""); err != nil {
		f.o.Log.Error("policy rules that are gone stay in force, because the change could not be recorded", "path", f.path, "error", err)
		return
	}
	f.seen = fileMark{}
	f.now.Store(&inForce{rules: &Rules{}, since: time.Now()})
	f.o.Log.Warn("the policy rules are gone: no rules are in force", "path", f.path, "before", n.rules.hash)
}

// bring puts a text of the file into force. A wrong one leaves what was. It fails when the change cannot
// be recorded.
func (f *RulesFile) bring(ctx context.Context, by string, text []byte) error {
	n := f.now.Load()
	rules, err := ParseRules(f.path, text)
	if err != nil {
		f.wrong(err)
		return nil
	}
	if rules.hash != n.rules.hash {
		if err := f.o.Record(ctx, by, n.rules.hash, rules.hash); err != nil {
			return err
		}
	}
	f.now.Store(&inForce{rules: rules, text: text, since: time.Now()})
	f.o.Log.Info("policy rules are in force", "path", f.path, "rules", rules.Count(), "before", n.rules.hash, "hash", rules.hash)
	return nil
}

// wrong keeps what is in force and says why the file is not.
func (f *RulesFile) wrong(fault error) {
	n := *f.now.Load()
	if n.fault != nil && n.fault.Error() == fault.Error() {
		return
	}
	n.fault = fault
	f.now.Store(&n)
	f.o.Log.Error("the policy rules are wrong; the last good ones stay in force", "path", f.path, "error", fault.Error(), "hash", n.rules.hash)
}

// Set replaces the text of the file, provided that it still is the one with the hash base ("" for none),
// and puts it into force. It fails with ErrRules, ErrRulesHash, ErrRulesChanged or ErrRulesRead; then
// nothing changed.
func (f *RulesFile) Set(ctx context.Context, by string, text []byte, base string) error {
	if len(text) > MaxRules {
		return errRulesTooLarge
	}
	rules, err := ParseRules(filepath.Base(f.path), text)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	old, _, err := f.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if base != "" {
			return ErrRulesChanged
		}
	case err != nil:
		return ErrRulesRead.Wrap(err)
	case base == "":
		return ErrRulesHash
	case base != hashOf(old):
		return ErrRulesChanged
	}
	if err := f.o.Record(ctx, by, f.now.Load().rules.hash, rules.hash); err != nil {
		return err
	}
	if err == nil && bytes.Equal(old, text) && f.now.Load().rules.hash == rules.hash {
		return nil
	}
	err = replaceFile(f.path, text, func() error {
		if now, _, err := f.read(); err == nil && (base == "" || hashOf(now) != base) {
			return ErrRulesChanged
		}
		return nil
	})
	if errors.Is(err, ErrRulesChanged) {
		return ErrRulesChanged
	} else if err != nil {
		return ErrRulesRead.Wrap(err)
	}
	_, mark, err := f.read()
	if err == nil && mark.hash == rules.hash {
		f.seen = mark
	} // else the next look finds out what stands there now
	f.gone = false
	f.now.Store(&inForce{rules: rules, text: bytes.Clone(text), since: time.Now()})
	f.o.Log.Info("policy rules were set", "path", f.path, "rules", rules.Count(), "by", by, "hash", rules.hash)
	return nil
}

// FileText returns the text that stands in the file, which may be a wrong one, and its hash. Both are
// empty without a file. It fails with ErrRulesRead.
func (f *RulesFile) FileText() ([]byte, string, error) {
	text, mark, err := f.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", nil
	case err != nil:
		return nil, "", ErrRulesRead.Wrap(err)
	}
	return text, mark.hash, nil
}
