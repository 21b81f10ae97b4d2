package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// GitRestore is what the bridge says of git when it restores (§1.10).
type GitRestore struct {
	Attempted bool   `json:"attempted"`
	Clone     string `json:"clone"`
	// ApplyDiff is nil when the diff is blank.
	ApplyDiff *string `json:"apply_diff,omitempty"`
	// Steps are those of a document of ours; absent otherwise.
	Steps []Step `json:"steps,omitempty"`
}

// RestoreLikeBridge restores a document as the bridge does: what git says is told and fails nothing. Nil is a document
// that names no remote or no branch. Unlike the bridge it mends the end of the diff, which was trimmed; it looks whether
// the diff is there already; and it does not touch a repository with changes.
func RestoreLikeBridge(ctx context.Context, o RestoreOptions) *GitRestore {
	ws := o.Document.Workspace
	if x := o.Document.Hanzo; x != nil && x.Kind != KindNone {
		return likeBridge(ctx, o)
	}
	if ws.RemoteURL == "" || ws.Branch == "" {
		return nil
	}
	one.Lock()
	defer one.Unlock()
	out := &GitRestore{Attempted: true}
	g, err := newGit(o.Dir, o.Env, o.Protocols)
	if err != nil {
		out.Clone = "error: " + err.Error()
		return out
	}
	if _, err := os.Lstat(filepath.Join(o.Dir, ".git")); err == nil {
		out.Clone = "skipped (existing .git)"
	} else {
		out.Clone = clone(ctx, g, o)
	}
	if strings.TrimSpace(ws.Diff) == "" {
		return out
	}
	applied := applyText(ctx, g, o, out.Clone == "ok")
	out.ApplyDiff = &applied
	return out
}

// likeBridge restores a document of ours and says it in the words of the bridge.
func likeBridge(ctx context.Context, o RestoreOptions) *GitRestore {
	out := &GitRestore{Attempted: true, Clone: "ok"}
	if o.Document.Hanzo.Kind == KindDirectory {
		out.Clone = "skipped (no repository)"
	} else if _, err := os.Lstat(filepath.Join(o.Dir, ".git")); err == nil {
		out.Clone = "skipped (existing .git)"
	}
	report, err := Restore(ctx, o)
	out.Steps = report.Steps
	hasDiff := strings.TrimSpace(o.Document.Workspace.Diff) != ""
	if err == nil {
		if hasDiff {
			ok := "ok"
			out.ApplyDiff = &ok
		}
		return out
	}
	text := "error: " + lastChars(err.Error(), stderrKept)
	failed := report.Failed()
	if out.Clone == "ok" && (failed == nil || failed.Name == "preflight" || failed.Name == "attachments" || failed.Name == "base" || failed.Name == "checkout") {
		out.Clone = text
		return out
	}
	out.ApplyDiff = &text
	return out
}

// clone clones into the directory, and says what became of it.
func clone(ctx context.Context, g *git, o RestoreOptions) string {
	ws := o.Document.Workspace
	if err := checkRemote(ws.RemoteURL, o.Protocols); err != nil {
		return "error: " + err.Error()
	}
	if err := checkRef(ws.Branch); err != nil {
		return "error: " + err.Error()
	}
	if o.Allow != nil {
		if err := o.Allow([]string{"git", "clone", "--depth=1", "-b", ws.Branch, "--", ws.RemoteURL, "."}); err != nil {
			return "error: " + err.Error()
		}
	}
	err := g.run(ctx, cloneTime, nil, io.Discard, "clone", "--depth=1", "--template=", "--no-recurse-submodules", "-b", ws.Branch, "--", ws.RemoteURL, ".")
	return said(err, "clone timed out (60s)")
}

// said words what became of a call as the bridge does.
func said(err error, late string) string {
	ge, ok := errors.AsType[*gitError](err)
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, context.DeadlineExceeded):
		return "error: " + late
	case ok && ge.stderr != "":
		return lastChars(valid(ge.stderr), stderrKept)
	}
	return "error: " + err.Error()
}

// applyText applies the diff of a version-1 document.
func applyText(ctx context.Context, g *git, o RestoreOptions, cloned bool) string {
	diff := mend(o.Document.Workspace.Diff)
	if o.Allow != nil {
		if err := o.Allow([]string{"git", "apply", "--allow-empty", "-"}); err != nil {
			return "error: " + err.Error()
		}
	}
	if !cloned {
		state, err := lookAt(ctx, o.Dir, o.Env)
		if err != nil {
			return "error: " + err.Error()
		}
		if state == dirOther && !o.Force {
			if g.fence(ctx) == nil && g.run(ctx, applyTime, strings.NewReader(diff), io.Discard, "apply", "--check", "-R", "--whitespace=nowarn", "-") == nil {
				return "ok" // it is there already
			}
			return "error: the workspace has changes of its own; commit or move them, or restore into an empty directory"
		}
		if err := g.fence(ctx); err != nil {
			return "error: " + err.Error()
		}
	}
	err := g.run(ctx, applyTime, strings.NewReader(diff), io.Discard, "apply", "--allow-empty", "--whitespace=nowarn", "-")
	return said(err, "apply timed out (30s)")
}

var hunk = regexp.MustCompile(`^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@`)

// mend gives a trimmed diff its end back: the last newline, and blank context lines that the last hunk lacks.
func mend(diff string) string {
	diff = strings.TrimRight(diff, "\n") + "\n"
	lines := strings.Split(strings.TrimSuffix(diff, "\n"), "\n")
	at := -1
	for i := len(lines) - 1; i >= 0 && at < 0; i-- {
		if hunk.MatchString(lines[i]) {
			at = i
		}
		if strings.HasPrefix(lines[i], "diff --git ") {
			break
		}
	}
	if at < 0 {
		return diff
	}
	count := func(s string) int {
		if s == "" {
			return 1
		}
		n, _ := strconv.Atoi(s) // digits
		return n
	}
	m := hunk.FindStringSubmatch(lines[at])
	before, after := count(m[1]), count(m[2])
	for _, line := range lines[at+1:] {
		switch {
		case line == "" || line[0] == ' ':
			before, after = before-1, after-1
		case line[0] == '-':
			before--
		case line[0] == '+':
			after--
		}
	}
	if before == after && before > 0 && before <= 3 {
		diff += strings.Repeat(" \n", before)
	}
	return diff
}

// first restores what version 1 holds, and fails where the bridge goes on.
func (r *restore) first(ctx context.Context) error {
	ws := r.d.Workspace
	if r.state != dirClean {
		if err := r.step("clone", func() (string, error) {
			// git clones into an empty directory alone, and what was there lies in this one.
			if err := r.mark(); err != nil {
				return "", err
			}
			for _, args := range [][]string{
				{"init", "-q", "--template=", "--initial-branch=" + ws.Branch, "."},
				{"remote", "add", "--", "origin", ws.RemoteURL},
				{"fetch", "-q", "--depth=1", "--no-recurse-submodules", "--", "origin", "+refs/heads/" + ws.Branch + ":refs/remotes/origin/" + ws.Branch},
				{"checkout", "-q", "-B", ws.Branch, "--track", "refs/remotes/origin/" + ws.Branch},
			} {
				if err := r.git.run(ctx, cloneTime, nil, io.Discard, args...); err != nil {
					if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
						return "", errors.New("clone timed out (60s)")
					}
					return "", err
				}
			}
			return bare(ws.RemoteURL), nil
		}); err != nil {
			return err
		}
	}
	return r.step("diff", func() (string, error) {
		if strings.TrimSpace(ws.Diff) == "" {
			return skippedMark + "there is none", nil
		}
		err := r.git.run(ctx, applyTime, strings.NewReader(mend(ws.Diff)), io.Discard, "apply", "--allow-empty", "--whitespace=nowarn", "-")
		if err != nil {
			return "", fmt.Errorf("the diff does not apply: %w", err)
		}
		return fmt.Sprintf("%d bytes", len(ws.Diff)), nil
	})
}
