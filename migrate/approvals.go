package migrate

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hanzoai/hanzod/config/json5"
)

const (
	partApprovals = "approvals"
	approvalsFile = "exec-approvals.json"
	// maxApprovals is what package approvals/policy reads.
	maxApprovals = 4 << 20
)

// importApprovals brings over the file of what may run on this machine, which the original keeps in the home directory
// whatever its state directory is (config.md §1).
func importApprovals(_ context.Context, r *run) error {
	root := r.source
	if r.missing(approvalsFile) && r.Home != "" {
		home, err := os.OpenRoot(filepath.Join(r.Home, ".openclaw"))
		if err != nil {
			return nil //nolint:nilerr // then there is none
		}
		defer func() { _ = home.Close() }()
		root = home
	}
	text, err := readFile(root, approvalsFile, maxApprovals)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_, err = json5.Parse(text)
	}
	name := approvalsFile
	if root != r.source {
		name = filepath.ToSlash(filepath.Join(root.Name(), approvalsFile))
	}
	if err != nil {
		r.found(Finding{Part: partApprovals, Path: name, Outcome: Fault, Why: reason(err) + "; hanzod asks about every command without it"})
		return nil
	}
	return r.bringFile(partApprovals, name, approvalsFile, text, emptyApprovals)
}

// emptyApprovals tells whether a file of exec approvals says nothing: a daemon makes such a one for its socket.
func emptyApprovals(text []byte) bool {
	n, err := json5.Parse(text)
	if err != nil {
		return false
	}
	for _, key := range []string{"defaults", "agents"} {
		if v := n.Get(key); v != nil && len(v.Members) > 0 {
			return false
		}
	}
	return true
}

// exportApprovals writes the file into the exported directory.
func exportApprovals(_ context.Context, r *run) error {
	text, err := readFile(r.source, approvalsFile, maxApprovals)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.found(Finding{Part: partApprovals, Path: approvalsFile, Outcome: Fault, Why: reason(err)})
		return nil
	}
	return r.writeFile(partApprovals, approvalsFile, text, 1)
}

// missing tells whether the source has no such file.
func (r *run) missing(name string) bool {
	_, err := r.source.Lstat(name)
	return errors.Is(err, fs.ErrNotExist)
}
