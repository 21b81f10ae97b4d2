// Package migrate brings a state directory of the original over to hanzod, and back.
//
// It may import leaves and domains, and declares what it needs of the store; cmd/hanzod reaches it through
// runtime. No daemon runs meanwhile: the caller holds the lock of the state directory. One goroutine calls Import or
// Export; both only ever read their source.
//
// # Rules
//
// What is imported is noted in migration.json of the state directory, by hash, so that an import can be repeated:
// what is as the last import left it follows the source, and what was changed here since stays, with a row in the
// report. An import that was cut off is begun again and passes over what is there already.
package migrate

import (
	"context"
	"os"
	"time"

	"github.com/hanzoai/hanzod/config"
)

// Options say what is to be moved, and where.
type Options struct {
	// Source is the directory that is read: of the original for Import, the state directory of hanzod for Export.
	Source string
	// Target is the directory that is written: the state directory for Import, a new or empty directory, or one
	// that an export made, for Export.
	Target string
	// Config is the configuration file of the original when it is not in its state directory.
	Config string
	// DryRun says what would happen and writes nothing at all.
	DryRun bool
	// Progress hears how far it is, at most ten times a second; nil hears nothing.
	Progress func(Progress)
	// Now is the time that is written down.
	Now func() time.Time
}

// Progress is how far a migration is.
type Progress struct {
	Part        string // as in Finding
	Done, Total int64  // bytes
}

// Outcome is what became of one thing.
type Outcome string

// The outcomes, from what is fine to what somebody should look at.
const (
	Imported  Outcome = "imported"  // written; in a dry run, would be
	Unchanged Outcome = "unchanged" // already there as it is in the source
	Kept      Outcome = "kept"      // changed here since the last import, and left so
	Left      Outcome = "left"      // stays in the source only; Why says why
	Fault     Outcome = "fault"     // could not be read or understood; stays in the source only
)

// Finding is one thing that was looked at, or many alike of one part: then Count is above 1.
type Finding struct {
	Part    string  `json:"part"` // config, devices, nodes, approvals, sessions, cron, voicewake, agents, push, files
	Path    string  `json:"path,omitzero"`
	Outcome Outcome `json:"outcome"`
	Count   int     `json:"count"`
	Bytes   int64   `json:"bytes,omitzero"`
	Why     string  `json:"why,omitzero"`
}

// Report is what a migration did, or would do. It names no secret.
type Report struct {
	Source   string        `json:"source"`
	Target   string        `json:"target"`
	DryRun   bool          `json:"dryRun,omitzero"`
	Findings []Finding     `json:"findings"`
	Took     time.Duration `json:"-"`
}

// run is one import or export under way.
type run struct {
	Options
	source *os.Root // never written to
	target *os.Root // nil in a dry run whose target is not there yet
	store  Store
	report Report
	last   manifest

	// config is that of the source, of the state directory where it is exported.
	config *config.Config
}

// Store is what a migration reads and writes of the store.
type Store interface{ sessionStore }

// manifest is what the last import wrote: the hash of each thing, by part and name.
type manifest struct {
	Source string                       `json:"source"`
	At     time.Time                    `json:"at"`
	Parts  map[string]map[string]string `json:"parts"`
}

func (r *run) found(f Finding) {
	if f.Count == 0 {
		f.Count = 1
	}
	r.report.Findings = append(r.report.Findings, f)
}

// part is one kind of thing that is moved.
type part struct {
	name string
	in   func(*run, context.Context) error
	out  func(*run, context.Context) error
}
