package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/files"
)

// fileRoots says which directories a node offers, as the configuration stands when it is asked.
func fileRoots(o NodeOptions) (func() []files.Root, error) {
	var named []files.Root
	for _, text := range o.Files {
		path, ro := strings.CutSuffix(text, ":ro")
		path, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("%s is no directory whose files could be offered", path))
		}
		named = append(named, files.Root{Path: path, ReadOnly: ro})
	}
	return func() []files.Root {
		if len(named) > 0 {
			return named
		}
		if o.Current != nil {
			if list := o.Current().NodeHost.FileRoots; len(list) > 0 {
				roots := make([]files.Root, len(list))
				for i, r := range list {
					roots[i] = files.Root{Path: r.Path, ReadOnly: r.ReadOnly}
				}
				return roots
			}
		}
		return []files.Root{{Path: workspaceOf(o)}}
	}, nil
}

// workspaceOf is the directory in which the work on this machine is done. It is made when it is the one of the
// state directory.
func workspaceOf(o NodeOptions) string {
	if o.Workspace != "" {
		return o.Workspace
	}
	path, own := filepath.Join(o.StateDir, "workspace"), o.StateDir
	if o.Current != nil {
		c := o.Current()
		path, own = c.Workspace(c.DefaultAgentID()), c.StateDir
	}
	if filepath.Dir(path) == own {
		_ = os.MkdirAll(path, 0o700) // whoever opens it finds out
	}
	return path
}
