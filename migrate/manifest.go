package migrate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"
)

// manifestName is the notes of imports in the state directory, exportName those of exports in what they wrote.
const (
	manifestName = "migration.json"
	exportName   = "hanzod-export.json"
)

// maxManifest bounds both: a session takes about 150 bytes, so it is good for some 400,000 things.
const maxManifest = 64 << 20

// The states of a migration.
const (
	stateImporting = "importing"
	stateDone      = "done"
)

// manifest is what the last migration wrote: the hash of each thing, by part and name. It may hold what people
// wrote into unknown keys, and so secrets: mode 0600.
type manifest struct {
	State  string                       `json:"state"`
	Source string                       `json:"source"`
	At     time.Time                    `json:"at"`
	Parts  map[string]map[string]string `json:"parts"`
	// Pending is what a part is about to write: after a cut either it or Parts is what is there.
	Pending map[string]map[string]string `json:"pending,omitempty"`
	// Rest is what hanzod does not know of things that it took over, for the way back: by part and name, an object.
	Rest map[string]map[string]json.RawMessage `json:"rest,omitempty"`
}

func readManifest(root *os.Root, name string) (m manifest, err error) {
	defer func() {
		if m.Parts == nil {
			m.Parts = map[string]map[string]string{}
		}
		if m.Pending == nil {
			m.Pending = map[string]map[string]string{}
		}
		if m.Rest == nil {
			m.Rest = map[string]map[string]json.RawMessage{}
		}
	}()
	if root == nil {
		return m, nil
	}
	text, err := readFile(root, name, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		return manifest{}, ErrUnread.WithText(fmt.Sprintf("%s in %s cannot be read: put back a copy of it, or move it away to begin as if nothing had been migrated", name, root.Name())).Wrap(err)
	}
	return m, nil
}

// saveNotes writes the notes of the target. A dry run writes nothing.
func (r *run) saveNotes() error {
	if r.DryRun {
		return nil
	}
	text, err := json.MarshalIndent(r.last, "", "  ")
	if err != nil {
		return err
	}
	return r.write(r.notesName, append(text, '\n'))
}

// Unfinished is the source of an import into a state directory that was begun and has not ended, "" when there
// is none. A daemon must not start on half of one.
func Unfinished(stateDir string) (source string, err error) {
	if st, err := os.Stat(stateDir); err != nil || !st.IsDir() {
		return "", nil //nolint:nilerr // who opens it says what is wrong with it
	}
	root, err := os.OpenRoot(stateDir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	m, err := readManifest(root, manifestName)
	if err != nil || m.State != stateImporting {
		return "", err
	}
	return m.Source, nil
}

// Abandon ends an import that was cut off, with what it brought so far. The caller holds the lock.
func Abandon(stateDir string) error {
	root, err := os.OpenRoot(stateDir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := &run{target: root, notesName: manifestName}
	if r.last, err = readManifest(root, manifestName); err != nil || r.last.State != stateImporting {
		return err
	}
	r.last.State = stateDone
	return r.saveNotes()
}

// sumOf is the hash of a thing as it is compared: of the bytes of a file, of the JSON of anything else.
func sumOf(v any) string {
	text, ok := v.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(v); err != nil {
			panic("migrate: a thing without JSON: " + err.Error())
		}
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// plan is what is to be written of a part, and what removed: names, sorted.
type plan struct{ put, drop []string }

// follow compares the things of a part in the source with those that are here, both by name and hash, and says
// what is to be written. It reports what stays; the caller writes, calls wrote, and reports nothing more. whole
// says that all of the source could be read: only then is what it has no longer removed here.
//
// What is about to be written is noted before, so that a cut in between is no change made by somebody.
func (r *run) follow(part string, want, here map[string]string, whole bool) (plan, error) {
	last, pending := r.last.Parts[part], r.last.Pending[part]
	ours := func(name string) bool { // here is as a migration left it
		h := here[name]
		return h == last[name] || h == pending[name]
	}
	var p plan
	same := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		_, there := here[name]
		_, known := last[name]
		switch {
		case there && here[name] == want[name]:
			same++
		case there && ours(name), !there && !known:
			p.put = append(p.put, name)
		case there && known:
			r.found(Finding{Part: part, Path: name, Outcome: Kept, Why: "changed here since it was brought over"})
		case there:
			r.found(Finding{Part: part, Path: name, Outcome: Kept, Why: "was here before and differs"})
		default:
			r.found(Finding{Part: part, Path: name, Outcome: Kept, Why: "removed here since it was brought over"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(here)) {
		if _, wanted := want[name]; wanted || !ours(name) {
			continue
		}
		if whole {
			p.drop = append(p.drop, name)
		} else {
			r.found(Finding{Part: part, Path: name, Outcome: Kept, Why: "no longer found in the source, which could not be read whole"})
		}
	}
	if same > 0 {
		r.found(Finding{Part: part, Outcome: Unchanged, Count: same})
	}
	if len(p.put) > 0 && !r.DryRun {
		next := map[string]string{}
		for _, name := range p.put {
			next[name] = want[name]
		}
		r.last.Pending[part] = next
		if err := r.saveNotes(); err != nil {
			return p, err
		}
	}
	return p, nil
}

// wrote notes that a plan was carried out, and reports it. The notes are saved with those of the next part, or at
// the end: until then Pending says the same.
func (r *run) wrote(part string, p plan, want, here map[string]string, bytes int64) {
	if len(p.put) > 0 {
		r.found(Finding{Part: part, Outcome: Imported, Count: len(p.put), Bytes: bytes})
	}
	if len(p.drop) > 0 {
		r.found(Finding{Part: part, Outcome: Removed, Count: len(p.drop)})
	}
	if r.DryRun {
		return
	}
	notes := r.last.Parts[part]
	if notes == nil {
		notes = map[string]string{}
		r.last.Parts[part] = notes
	}
	for _, name := range p.put {
		notes[name] = want[name]
	}
	for _, name := range p.drop {
		delete(notes, name)
	}
	for name, h := range want {
		if here[name] == h {
			notes[name] = h
		}
	}
	delete(r.last.Pending, part)
}

// settle moves the things of a part that are small enough to be held at once: those of the source and those that
// are here, by name. put writes and removes them, in as few transactions as it can.
func settle[T any](r *run, part string, src, here map[string]T, whole bool, put func(put []T, drop []string) error) error {
	want, have := hashes(src), hashes(here)
	p, err := r.follow(part, want, have, whole)
	if err != nil {
		return err
	}
	if !r.DryRun && len(p.put)+len(p.drop) > 0 {
		things := make([]T, len(p.put))
		for i, name := range p.put {
			things[i] = src[name]
		}
		if err := put(things, p.drop); err != nil {
			return err
		}
	}
	r.wrote(part, p, want, have, 0)
	return nil
}

func hashes[T any](things map[string]T) map[string]string {
	out := make(map[string]string, len(things))
	for name, v := range things {
		out[name] = sumOf(v)
	}
	return out
}

// rest keeps what hanzod does not know of a thing; nil forgets it.
func (r *run) rest(part, name string, v json.RawMessage) {
	if len(v) == 0 {
		delete(r.last.Rest[part], name)
		return
	}
	if r.last.Rest[part] == nil {
		r.last.Rest[part] = map[string]json.RawMessage{}
	}
	r.last.Rest[part][name] = v
}
