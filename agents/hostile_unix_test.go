//go:build unix

package agents_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/errs"
)

// What stands under the name of a file may be anything; it is never followed out of the workspace, waited
// for, or written through.
func TestHostileWorkspace(t *testing.T) {
	w := newWorld(t, `{agents: {defaults: {workspace: "$home/ws"}}}`)
	ctx, ws := context.Background(), filepath.Join(w.home, "ws")
	secret := filepath.Join(w.home, "secret")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(ws, "sub"), 0o700))
	must(os.WriteFile(secret, []byte("secret"), 0o600))
	must(os.WriteFile(filepath.Join(ws, "sub", "inner.md"), []byte("inner"), 0o600))
	must(os.Symlink("../secret", filepath.Join(ws, "AGENTS.md")))
	must(os.Symlink(secret, filepath.Join(ws, "SOUL.md")))
	must(syscall.Mkfifo(filepath.Join(ws, "TOOLS.md"), 0o600))
	must(os.Mkdir(filepath.Join(ws, "USER.md"), 0o700))
	must(os.Link(secret, filepath.Join(ws, "HEARTBEAT.md")))
	must(os.Symlink("loop", filepath.Join(ws, "loop")))
	must(os.Symlink("loop", filepath.Join(ws, "MEMORY.md")))
	must(os.Symlink("sub/inner.md", filepath.Join(ws, "IDENTITY.md")))
	must(os.Symlink("/dev/zero", filepath.Join(ws, "BOOTSTRAP.md")))

	for name, reason := range map[string]string{
		"AGENTS.md": "path escapes workspace root", "SOUL.md": "path escapes workspace root", "TOOLS.md": "path is not a regular file",
		"USER.md": "path is not a regular file", "BOOTSTRAP.md": "path escapes workspace root",
		"HEARTBEAT.md": "hardlinked file path not allowed", //nolint:misspell // the word of the original
		"MEMORY.md":    "",
	} {
		for what, err := range map[string]error{
			"get": second(w.GetFile(ctx, admin, agents.FileIn{AgentID: "main", Name: name})),
			"set": second(w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: name, Content: "c"})),
		} {
			e, ok := errs.As(err)
			if !errors.Is(err, agents.ErrUnsafe) || !ok || reason != "" && e.Field("reason") != reason {
				t.Errorf("%s %s: %v, reason %q", what, name, err, e.Field("reason"))
			}
		}
	}
	list, err := w.ListFiles(ctx, admin, agents.FilesIn{AgentID: "main"})
	must(err)
	for _, f := range list.Files {
		if f.Missing != (f.Name != "IDENTITY.md") {
			t.Errorf("%+v", f)
		}
	}
	// A link inside the workspace is followed, and stays.
	out, err := w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: "IDENTITY.md", Content: "new"})
	must(err)
	if b, _ := os.ReadFile(filepath.Join(ws, "sub", "inner.md")); string(b) != "new" || out.File.Size != 3 {
		t.Errorf("%q", b)
	}
	if to, err := os.Readlink(filepath.Join(ws, "IDENTITY.md")); err != nil || to != "sub/inner.md" {
		t.Errorf("%q %v", to, err)
	}
	if b, _ := os.ReadFile(secret); string(b) != "secret" {
		t.Errorf("the secret is %q", b)
	}

	// The workspace itself may be anything, too.
	w = newWorld(t, `{agents: {defaults: {workspace: "$home/ws"}}}`)
	must(syscall.Mkfifo(filepath.Join(w.home, "ws"), 0o600))
	if _, err := w.GetFile(ctx, admin, agents.FileIn{AgentID: "main", Name: "SOUL.md"}); !errors.Is(err, agents.ErrUnsafe) {
		t.Error(err)
	}
	if _, err := w.SetFile(ctx, admin, agents.SetFileIn{AgentID: "main", Name: "SOUL.md"}); !errors.Is(err, agents.ErrWorkspace) {
		t.Error(err)
	}
	if _, err := w.Identity(ctx, admin, agents.IdentityIn{}); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }
