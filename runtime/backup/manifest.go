// Package backup makes backups of the state of a daemon, reads them, and puts them back.
//
// A backup is a gzip-compressed tar archive. Its first entry, manifest.json, names every other one with its
// size and its SHA-256, in their order: state/hanzod.db, a consistent copy of the database, then what lies
// beside it in the state directory under state/, configuration that lies elsewhere under outside/, and the
// transcripts of sessions as they were when the database was copied. It holds secrets: tokens, keys, the
// configuration.
//
// The package belongs to the composition root. It owns no goroutine; its functions may be called concurrently,
// each for its own archive.
package backup

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/audit"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/store"
)

const (
	format = "hanzod-backup"
	// version is that of backups with transcripts; those without are of version 1.
	version = 2

	manifestName = "manifest.json"
	statePrefix  = "state/"
	outPrefix    = "outside/"
	database     = statePrefix + store.FileName

	// maxManifest bounds the manifest, maxFiles the files that it names: there may be 100,000 sessions, and several
	// transcripts of each.
	maxManifest = 256 << 20
	maxFiles    = 1_000_000
	// maxBeside bounds the files that are no transcripts: a configuration may include 256.
	maxBeside = 512
	// maxFile bounds each file but the database and transcripts; a configuration may have 16 MiB.
	maxFile = 16 << 20
	// maxDatabase bounds the database and each transcript. The audit log, the largest part of the database, is
	// bounded far below.
	maxDatabase = 64 << 30
	// maxName bounds the name of a file in bytes.
	maxName = 240
)

// Manifest says what is in a backup.
type Manifest struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Hanzod is the version of the program that made it, Platform where that ran.
	Hanzod   string    `json:"hanzod"`
	Platform string    `json:"platform"`
	Taken    time.Time `json:"taken"`
	// Running says that a daemon was running.
	Running bool `json:"running"`
	// Schema is that of the database, AuditHead the mark of the newest row of its audit log, "" without one.
	Schema    uint64 `json:"schema"`
	AuditHead string `json:"auditHead,omitempty"`
	// StateDir is where the state was.
	StateDir string `json:"stateDir"`
	Files    []File `json:"files"`
}

// File is one file of a backup.
type File struct {
	// Name is its name in the archive.
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// From is where a file of outside/ was.
	From string `json:"from,omitempty"`
}

// The errors of this package.
var (
	// ErrArchive is a backup that cannot be one, is damaged, or was made to do harm.
	ErrArchive = errs.Define(errs.Invalid, "backup.archive", "this is no whole backup of hanzod")
	// ErrNewer is a backup of a newer hanzod.
	ErrNewer = errs.Define(errs.Conflict, "backup.newer", "the backup was made by a newer hanzod; restore it with that version")
	// ErrSpace is a disk without room.
	ErrSpace = errs.Define(errs.Unavailable, "backup.space", "the disk has too little room")
	// ErrFile is a file of the state that cannot be backed up.
	ErrFile = errs.Define(errs.Unavailable, "backup.file", "a file of the state cannot be read")
)

func bad(format string, args ...any) *errs.Error {
	return ErrArchive.WithText(ErrArchive.Text + ": " + fmt.Sprintf(format, args...))
}

// Total is how many bytes all files have.
func (m Manifest) Total() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// state returns the names of the files below the state directory, with slashes.
func (m Manifest) state() []string {
	var names []string
	for _, f := range m.Files {
		if rel, ok := strings.CutPrefix(f.Name, statePrefix); ok {
			names = append(names, rel)
		}
	}
	return names
}

func parseManifest(text []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return m, bad("its %s cannot be read: %v", manifestName, err)
	}
	switch {
	case m.Format != format:
		return m, bad("its %s is of something else", manifestName)
	case m.Version > version:
		return m, ErrNewer
	case m.Version < 1:
		return m, bad("its version is %d", m.Version)
	case len(m.Files) > maxFiles:
		return m, bad("it names more than %d files", maxFiles)
	case len(m.Files) == 0 || m.Files[0].Name != database:
		return m, bad("it holds no database")
	}
	if m.AuditHead != "" {
		if _, err := audit.ParseMark(m.AuditHead); err != nil {
			return m, bad("the mark of its audit log cannot be read")
		}
	}
	seen := map[string]bool{}
	beside := 0
	for i, f := range m.Files {
		if err := checkName(f.Name); err != nil {
			return m, err
		}
		// File systems of other systems hold these for one file.
		fold := strings.ToLower(f.Name)
		if seen[fold] {
			return m, bad("%q is in it twice", f.Name)
		}
		seen[fold] = true
		limit := int64(maxFile)
		if i == 0 || ofTranscripts(f.Name) {
			limit = maxDatabase
		} else if beside++; beside > maxBeside {
			return m, bad("it names more than %d files", maxBeside)
		}
		if f.Size < 0 || f.Size > limit {
			return m, bad("%q has %d bytes", f.Name, f.Size)
		}
		if len(f.SHA256) != 64 {
			return m, bad("%q has no SHA-256", f.Name)
		}
	}
	for name := range seen {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if seen[dir] {
				return m, bad("%q is a file and a directory", dir)
			}
		}
	}
	return m, nil
}

// kept are names in a state directory that no backup may write: the lock, what a restore keeps there, logs
// and the socket.
var kept = []string{"hanzod.lock", workDir, "logs", "hanzod.sock", "daemon.json", "audit.head"}

// checkName demands a plain name below state/ or outside/, on every system.
func checkName(name string) error {
	rel, state := strings.CutPrefix(name, statePrefix)
	if !state {
		ok := false
		if rel, ok = strings.CutPrefix(name, outPrefix); !ok {
			return bad("%q is a name that it may not have", name)
		}
	}
	if len(name) > maxName || rel == "" || path.Clean(name) != name || !filepath.IsLocal(filepath.FromSlash(rel)) || strings.ContainsFunc(rel, odd) {
		return bad("%q is a name that it may not have", name)
	}
	first, _, _ := strings.Cut(strings.ToLower(rel), "/")
	for _, k := range kept {
		if state && first == k {
			return bad("%q is a name that it may not have", name)
		}
	}
	if state && strings.HasPrefix(first, asidePrefix) {
		return bad("%q is a name that it may not have", name)
	}
	for part := range strings.SplitSeq(rel, "/") {
		if strings.HasSuffix(part, ".") || strings.HasSuffix(part, " ") {
			return bad("%q is a name that it may not have", name)
		}
	}
	return nil
}

// odd are characters that mean something in paths of one system or another, or on terminals.
func odd(r rune) bool {
	return r < 0x20 || r == 0x7f || r == 0xfffd || strings.ContainsRune(`\:*?"<>|`, r)
}
