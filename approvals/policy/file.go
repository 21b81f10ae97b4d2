package policy

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Options of Open; all have defaults.
type Options struct {
	// SocketPath is written into a file that names none; exec-approvals.sock beside the file.
	SocketPath string
	Now        func() time.Time
	// HomeDir is what ~ stands for in patterns; Home(os.Getenv).
	HomeDir string
	// Defaults count where the file says nothing. A node host passes allowlist and on-miss, or what
	// its configuration says; without them the file's own defaults are deny and on-miss.
	Defaults Overrides
	// AgentDefaults is what the configuration says for one agent; what it says comes before Defaults. It
	// must be quick and safe for concurrent use; nil says nothing.
	AgentDefaults func(agentID string) Overrides
	// Skills are the programs that agents with autoAllowSkills run unlisted; nil for none. A run waits
	// for it. It must be safe for concurrent use.
	Skills func() []shell.Skill
	// SafeBins returns the filters that an agent runs unlisted with harmless arguments; nil is
	// DefaultSafeBins for all. It must be quick and safe for concurrent use.
	SafeBins func(agentID string) SafeBins
	Log      *slog.Logger
}

// SafeBins are filters and what is harmless for them, as shell.List has them.
type SafeBins struct {
	Bins        []string
	Profiles    map[string]shell.Profile
	TrustedDirs []string
}

// File is the exec approvals file at one path.
type File struct {
	path     string
	socket   string
	home     string
	defaults Overrides
	agents   func(agentID string) Overrides
	skills   func() []shell.Skill
	safeBins func(agentID string) SafeBins
	now      func() time.Time
	log      *slog.Logger

	mu sync.Mutex // orders the changes of this process; lockFile those of several
}

// Snapshot is the file as clients see it. Its secret is left out.
type Snapshot struct {
	Path   string
	Exists bool
	// Hash is the SHA-256, in hex, of the text in the file.
	Hash string
	// File is JSON text.
	File []byte
}

// Open names the file; nothing is read or created before it is needed.
func Open(path string, o Options) *File {
	f := &File{path: path, socket: o.SocketPath, home: o.HomeDir, defaults: o.Defaults, agents: o.AgentDefaults, skills: o.Skills, now: o.Now, log: o.Log}
	f.safeBins = o.SafeBins
	if f.safeBins == nil {
		f.safeBins = func(string) SafeBins { return SafeBins{Bins: shell.DefaultSafeBins} }
	}
	if f.socket == "" {
		f.socket = filepath.Join(filepath.Dir(path), "exec-approvals.sock")
	}
	if f.home == "" {
		f.home = shell.Home(os.Getenv)
	}
	if f.now == nil {
		f.now = time.Now
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f
}

// Readable reports whether a file can be used, and changes nothing: neither the file nor its lock is made. The
// error says why not.
func Readable(path string) error {
	f := &File{path: path}
	raw, err := f.read()
	if err != nil {
		return ErrRead.Wrap(err)
	}
	if _, why := parseDocument(raw, func() string { return "" }); why != "" {
		return ErrCorrupt.WithText(why)
	}
	return nil
}

// Path returns where the file is.
func (f *File) Path() string { return f.path }

// Companion returns the socket of this machine's companion app and its secret (nodes-approvals.md §3.19).
// It fails as Snapshot does.
func (f *File) Companion() (path, token string, err error) {
	doc, err := f.ensured()
	if err != nil {
		return "", "", err
	}
	path, _ = doc.socket.str("path")
	token, _ = doc.socket.str("token")
	return path, token, nil
}

// Snapshot returns the file, normalised; it creates one when there is none. It fails with ErrRead or
// ErrCorrupt.
func (f *File) Snapshot() (Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	unlock, err := f.lock()
	if err != nil {
		return Snapshot{}, err
	}
	defer unlock()
	doc, raw, err := f.ensure()
	if err != nil {
		return Snapshot{}, err
	}
	return f.snapshot(doc, raw), nil
}

// Set replaces the file with normalised new content (JSON text), provided that it still is the one
// with the hash base. The secret and path of the socket are kept where the new content has none. It
// fails with ErrInvalid, ErrHashRequired, ErrChanged, ErrRead or ErrCorrupt.
func (f *File) Set(file []byte, base *string) (Snapshot, error) {
	doc, why := parseDocument(file, f.newID)
	if why != "" {
		return Snapshot{}, ErrInvalid.WithText("this is no exec approvals file: " + why)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	unlock, err := f.lock()
	if err != nil {
		return Snapshot{}, err
	}
	defer unlock()
	old, raw, err := f.ensure()
	if err != nil {
		return Snapshot{}, err
	}
	switch {
	case base == nil || trim(*base) == "":
		return Snapshot{}, ErrHashRequired
	case trim(*base) != hashOf(raw):
		return Snapshot{}, ErrChanged
	}
	for _, m := range old.socket {
		if doc.socket.get(m.key) == nil {
			doc.socket.set(m.key, m.val)
		}
	}
	doc.socket = ordered(doc.socket)
	text := doc.text()
	if err := f.write(text, raw); err != nil {
		return Snapshot{}, err
	}
	return f.snapshot(doc, text), nil
}

func ordered(socket object) object {
	slices.SortStableFunc(socket, func(a, b member) int { return bytes.Compare([]byte(a.key), []byte(b.key)) })
	return socket
}

func (f *File) snapshot(d document, raw []byte) Snapshot {
	return Snapshot{Path: f.path, Exists: true, Hash: hashOf(raw), File: d.encode(false)}
}

// SnapshotJSON is Snapshot as the payload {path,exists,hash,file} of nodes-approvals.md §3.15.
func (f *File) SnapshotJSON() ([]byte, error) {
	s, err := f.Snapshot()
	if err != nil {
		return nil, err
	}
	return s.JSON(), nil
}

// SetJSON is Set with the payload of SnapshotJSON for an answer.
func (f *File) SetJSON(file []byte, base *string) ([]byte, error) {
	s, err := f.Set(file, base)
	if err != nil {
		return nil, err
	}
	return s.JSON(), nil
}

// JSON writes the snapshot as the original does.
func (s Snapshot) JSON() []byte {
	return object{
		{"path", quote(s.Path)},
		{"exists", strconv.AppendBool(nil, s.Exists)},
		{"hash", quote(s.Hash)},
		{"file", s.File},
	}.encode()
}

// edit changes the list of one agent. change returns the list and whether it differs.
func (f *File) edit(agentID *string, change func(list []json.RawMessage) ([]json.RawMessage, bool)) error {
	id := mainAgent
	if agentID != nil {
		id = *agentID
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	for range maxLost {
		err := f.editOnce(id, change)
		if !errors.Is(err, ErrChanged) {
			return err
		}
	}
	return ErrRead.WithText("another program keeps changing the exec approvals file; try again")
}

// editOnce is edit with the lock held. It fails with ErrChanged when a program without the lock was
// quicker.
func (f *File) editOnce(id string, change func(list []json.RawMessage) ([]json.RawMessage, bool)) error {
	doc, raw, err := f.ensure()
	if err != nil {
		return err
	}
	agent := doc.agent(id)
	list, _ := asArray(agent.get("allowlist"))
	list, changed := change(list)
	if !changed {
		return nil
	}
	agent.set("allowlist", encodeArray(list))
	doc.agents.set(id, agent.encode())
	text := doc.text()
	if len(text) > MaxFile {
		return ErrInvalid.WithText("the exec approvals file would become larger than 4 MiB; remove entries first")
	}
	return f.write(text, raw)
}

// ensured returns the file's content. A normal file is read without the lock.
func (f *File) ensured() (document, error) {
	if raw, err := f.read(); err == nil {
		if doc, why := parseDocument(raw, f.newID); why == "" && doc.complete() && bytes.Equal(doc.text(), raw) {
			return doc, nil
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	unlock, err := f.lock()
	if err != nil {
		return document{}, err
	}
	defer unlock()
	doc, _, err := f.ensure()
	return doc, err
}

func (d document) complete() bool { return d.socket.get("path") != nil && d.socket.get("token") != nil }

// ensure returns the content and text of the file after writing back what normalisation changed. The
// lock is held.
func (f *File) ensure() (document, []byte, error) {
	for range maxLost {
		doc, raw, err := f.ensureOnce()
		if !errors.Is(err, ErrChanged) {
			return doc, raw, err
		}
	}
	return document{}, nil, ErrRead.WithText("another program keeps changing the exec approvals file; try again")
}

func (f *File) ensureOnce() (document, []byte, error) {
	raw, err := f.read()
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return document{}, nil, ErrRead.Wrap(err)
	}
	if missing {
		raw = []byte(`{"version":1}`)
	}
	doc, why := parseDocument(raw, f.newID)
	if why != "" {
		return document{}, nil, f.corrupt(raw, why)
	}
	if doc.socket.get("path") == nil {
		doc.socket.setStr("path", f.socket)
	}
	if doc.socket.get("token") == nil {
		secret := make([]byte, 24)
		rand.Read(secret) // never fails
		doc.socket.setStr("token", base64.RawURLEncoding.EncodeToString(secret))
	}
	doc.socket = ordered(doc.socket)
	text := doc.text()
	if bytes.Equal(text, raw) {
		return doc, raw, nil
	}
	was := raw
	if missing {
		was = nil
	}
	if err := f.write(text, was); err != nil {
		return document{}, nil, err
	}
	return doc, text, nil
}

func (f *File) read() ([]byte, error) {
	// Asked before opening, which would wait for the writer of a named pipe.
	if st, err := os.Stat(f.path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", f.path)
	}
	r, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(io.LimitReader(r, MaxFile+1))
}

// write replaces the file in one step, provided that it still holds what was read (nil is no file): companion
// apps do not know our lock. It fails with ErrChanged. A link at its path stays a link.
func (f *File) write(text, was []byte) error {
	err := replaceFile(f.path, text, func() error {
		now, err := f.read()
		if errors.Is(err, fs.ErrNotExist) {
			now, err = nil, nil
		}
		if err == nil && !bytes.Equal(now, was) {
			return ErrChanged
		}
		return err
	})
	if err != nil && !errors.Is(err, ErrChanged) {
		return ErrRead.Wrap(err)
	}
	return err
}

// replaceFile writes a file in one step, for its owner alone. A link at its path stays a link. Whoever
// calls it holds a lock: there is one name for what is not finished.
//
// still is asked when the new text is on disk, right before it takes the place of the old one.
func replaceFile(path string, text []byte, still func() error) error {
	target := path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		target = real
	} else if to, err := os.Readlink(path); err == nil { // to a file that is not there yet
		if target = to; !filepath.IsAbs(to) {
			target = filepath.Join(filepath.Dir(path), to)
		}
	}
	tmp := target + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	w, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = w.Write(text)
	if err == nil {
		err = w.Sync()
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = still()
	}
	if err == nil {
		err = os.Rename(tmp, target)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(target))
}

// corrupt keeps a copy of a damaged file and says what to do. The file itself is left alone.
func (f *File) corrupt(raw []byte, why string) error {
	e := ErrCorrupt.WithText(fmt.Sprintf("the exec approvals file %s cannot be used: %s; nothing runs on this machine until it is repaired, or removed to start afresh", f.path, why))
	copies, _ := filepath.Glob(globQuote(f.path) + ".corrupt-*")
	for _, c := range copies {
		if old, err := os.ReadFile(c); err == nil && bytes.Equal(old, raw) {
			return e
		}
	}
	slices.Sort(copies) // stamps sort by age
	for len(copies) >= MaxCorruptCopies {
		os.Remove(copies[0])
		copies = copies[1:]
	}
	name := f.path + ".corrupt-" + f.now().UTC().Format("20060102T150405.000000000Z")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		f.log.Error("exec approvals file is damaged and could not be copied", "path", f.path, "why", why, "err", err)
		return e
	}
	f.log.Error("exec approvals file is damaged; nothing runs until it is repaired or removed", "path", f.path, "why", why, "copy", name)
	return e
}

// globQuote protects the characters that a file name pattern gives a meaning.
func globQuote(path string) string {
	var b []byte
	for _, c := range []byte(path) {
		if c == '*' || c == '?' || c == '[' {
			b = append(b, '[', c, ']')
			continue
		}
		b = append(b, c)
	}
	return string(b)
}

// lock takes the lock file, making the directory when there is none.
func (f *File) lock() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o700); err != nil {
		return nil, ErrRead.Wrap(err)
	}
	deadline := time.NewTimer(lockWait)
	defer deadline.Stop()
	again := time.NewTicker(lockPoll)
	defer again.Stop()
	for {
		unlock, err := lockFile(f.path + ".lock")
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, ErrRead.Wrap(err)
		}
		select {
		case <-again.C:
		case <-deadline.C:
			return nil, ErrRead.WithText("another process is holding the exec approvals file; try again")
		}
	}
}

// errLocked says that another process holds the lock.
var errLocked = errors.New("locked")

func hashOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func (f *File) stampTime() json.RawMessage {
	return strconv.AppendInt(nil, f.now().UnixMilli(), 10)
}

// newID makes a random UUID.
func (f *File) newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
