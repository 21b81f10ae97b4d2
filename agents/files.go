package agents

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

const (
	identityName  = "IDENTITY.md"
	bootstrapName = "BOOTSTRAP.md"
	memoryName    = "MEMORY.md"
	memoryLower   = "memory.md"
	// maxLinks bounds the links inside a workspace that lead to a file that is written.
	maxLinks = 8
)

// bootstrapNames are the files that an agent reads at each run, in order (sessions-chat.md §8).
var bootstrapNames = []string{"AGENTS.md", "SOUL.md", "TOOLS.md", identityName, "USER.md", "HEARTBEAT.md", bootstrapName}

// FileNames are the names that the file operations take.
func FileNames() []string { return append(slices.Clone(bootstrapNames), memoryName, memoryLower) }

// File is a file of a workspace. Size is in bytes; Content is nil where it was not asked for.
type File struct {
	Name, Path string
	Missing    bool
	Size       int64
	Updated    time.Time
	Content    *string
}

// FilesIn names an agent, or for ListFiles also a connected node.
type FilesIn struct{ AgentID string }

// FilesOut are the files of a workspace.
type FilesOut struct {
	AgentID, Workspace string
	Files              []File
}

// FileIn names a file of an agent.
type FileIn struct{ AgentID, Name string }

// SetFileIn is a file and its new content.
type SetFileIn struct{ AgentID, Name, Content string }

// FileOut is one file of a workspace.
type FileOut struct {
	AgentID, Workspace string
	File               File
}

// ListFiles lists the files of a workspace that an agent reads, those that are missing too: BOOTSTRAP.md
// until it has done its work, and one memory file. Errors: ErrUnknown.
func (s *Service) ListFiles(_ context.Context, _ identity.Caller, in FilesIn) (FilesOut, error) {
	v := s.view()
	id := config.AgentID(in.AgentID)
	if !v.Known(id) && !slices.ContainsFunc(s.nodes(), func(n Node) bool { return config.AgentID(n.ID) == id }) {
		return FilesOut{}, ErrUnknown.With("agent", in.AgentID)
	}
	out := FilesOut{AgentID: id, Workspace: v.Workspace(id)}
	root, err := openRoot(out.Workspace)
	if err == nil {
		defer root.Close()
	}
	look := func(name string) File {
		f := File{Name: name, Path: filepath.Join(out.Workspace, name), Missing: true}
		if root == nil {
			return f
		}
		if st, err := statWithin(root, name); err == nil {
			f.Missing, f.Size, f.Updated = false, st.Size(), st.ModTime()
		}
		return f
	}
	onboarded := root != nil && onboarded(root)
	for _, name := range bootstrapNames {
		if name != bootstrapName || !onboarded {
			out.Files = append(out.Files, look(name))
		}
	}
	memory := look(memoryName)
	if lower := look(memoryLower); memory.Missing && !lower.Missing {
		memory = lower
	}
	out.Files = append(out.Files, memory)
	return out, nil
}

// place checks what a file operation names.
func (s *Service) place(agentID, name string) (FileOut, error) {
	v := s.view()
	id := config.AgentID(agentID)
	if !v.Known(id) {
		return FileOut{}, ErrUnknown.With("agent", agentID)
	}
	name = strings.TrimSpace(name)
	if !slices.Contains(FileNames(), name) {
		return FileOut{}, ErrFileName.With("name", name)
	}
	out := FileOut{AgentID: id, Workspace: v.Workspace(id)}
	out.File = File{Name: name, Path: filepath.Join(out.Workspace, name)}
	return out, nil
}

// GetFile reads a file of a workspace. One that is missing is no error.
// Errors: ErrUnknown, ErrFileName, ErrUnsafe, ErrFileSize.
func (s *Service) GetFile(_ context.Context, _ identity.Caller, in FileIn) (FileOut, error) {
	out, err := s.place(in.AgentID, in.Name)
	if err != nil {
		return FileOut{}, err
	}
	root, err := openRoot(out.Workspace)
	if errors.Is(err, fs.ErrNotExist) {
		out.File.Missing = true
		return out, nil
	}
	if err != nil {
		return FileOut{}, unsafe(out.File.Name, err)
	}
	defer root.Close()
	data, st, err := readWithin(root, out.File.Name, maxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		out.File.Missing = true
		return out, nil
	case err != nil:
		return FileOut{}, unsafe(out.File.Name, err)
	}
	content := string(bytes.ToValidUTF8(data, []byte("\uFFFD")))
	out.File.Size, out.File.Updated, out.File.Content = st.Size(), st.ModTime(), &content
	return out, nil
}

// SetFile writes a file of a workspace, which is made when it is missing. Readers find the old content or
// the new one; on return the new one is on disk.
// Errors: ErrUnknown, ErrFileName, ErrUnsafe, ErrFileSize, ErrWorkspace.
func (s *Service) SetFile(ctx context.Context, c identity.Caller, in SetFileIn) (FileOut, error) {
	out, err := s.place(in.AgentID, in.Name)
	if err != nil {
		return FileOut{}, err
	}
	if len(in.Content) > maxFile {
		return FileOut{}, ErrFileSize.With("name", out.File.Name)
	}
	s.files.Lock()
	defer s.files.Unlock()
	if err := s.record(ctx, c, out.File.Name+" of the agent "+out.AgentID+" is written"); err != nil {
		return FileOut{}, err
	}
	root, err := openWorkspace(out.Workspace)
	if err != nil {
		return FileOut{}, err
	}
	defer root.Close()
	st, err := writeWithin(root, out.File.Name, []byte(in.Content))
	if cause, ok := errors.AsType[syscall.Errno](err); ok && slices.Contains(diskFaults, cause) {
		return FileOut{}, ErrWorkspace.WithText("the workspace cannot be written, and the file is as it was: " + cause.Error()).Wrap(err)
	}
	if err != nil {
		return FileOut{}, unsafe(out.File.Name, err)
	}
	content := in.Content
	out.File.Size, out.File.Updated, out.File.Content = st.Size(), st.ModTime(), &content
	return out, nil
}

// The reasons why a file is left alone.
var (
	errEscapes   = errors.New("path escapes workspace root")
	errIrregular = errors.New("path is not a regular file")
	errHardLink  = errors.New("hardlinked file path not allowed") //nolint:misspell // the word of the original
)

// diskFaults are what a file is not to blame for.
var diskFaults = []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS, syscall.EIO}

// unsafe is the error of a file operation that was refused or failed.
func unsafe(name string, err error) error {
	for _, reason := range []error{errEscapes, errIrregular, errHardLink} {
		if errors.Is(err, reason) {
			return ErrUnsafe.With("name", name, "reason", reason.Error())
		}
	}
	if _, classed := errs.As(err); classed {
		return err
	}
	return ErrUnsafe.With("name", name).Wrap(err)
}

// openRoot opens a directory, and nothing else: the last element makes a named pipe an error, where
// opening one would wait for somebody who writes to it.
func openRoot(dir string) (*os.Root, error) {
	return os.OpenRoot(dir + string(filepath.Separator) + ".")
}

// openWorkspace opens a workspace, which is made when it is missing.
func openWorkspace(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, workspaceFault(err)
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, workspaceFault(err)
	}
	return root, nil
}

func workspaceFault(err error) error {
	return ErrWorkspace.WithText("the workspace cannot be written: " + err.Error()).Wrap(err)
}

// check is what a file must be, whoever opened it.
func check(st fs.FileInfo) error {
	switch {
	case !st.Mode().IsRegular():
		return errIrregular
	case links(st) > 1:
		// A second name may lie outside of the workspace, where others decide about the file.
		return errHardLink
	}
	return nil
}

// statWithin looks at a file that could be read.
func statWithin(root *os.Root, name string) (fs.FileInfo, error) {
	st, err := root.Stat(name)
	if err != nil {
		return nil, escape(err)
	}
	return st, check(st)
}

// escape names the error of a path that leads out of the workspace.
func escape(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok && strings.Contains(p.Err.Error(), "escapes") {
		return errEscapes
	}
	return err
}

// readWithin reads a regular file of at most limit bytes. What is checked is what is read: the descriptor
// is looked at, not the name, and opening never waits for a writer.
func readWithin(root *os.Root, name string, limit int64) ([]byte, fs.FileInfo, error) {
	if _, err := statWithin(root, name); err != nil {
		return nil, nil, err // a device may not even be opened
	}
	f, err := root.OpenFile(name, os.O_RDONLY|noWait, 0)
	if err != nil {
		return nil, nil, escape(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if err := check(st); err != nil {
		return nil, nil, err
	}
	if st.Size() > limit {
		return nil, nil, ErrFileSize.With("name", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(data)) > limit {
		return nil, nil, ErrFileSize.With("name", name)
	}
	return data, st, nil
}

// writeWithin replaces a file as a whole; links inside the workspace are followed, so that they stay.
func writeWithin(root *os.Root, name string, data []byte) (fs.FileInfo, error) {
	for range maxLinks {
		st, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, escape(err)
		}
		if st.Mode().Type() != fs.ModeSymlink {
			if err := check(st); err != nil {
				return nil, err
			}
			break
		}
		to, err := root.Readlink(name)
		if err != nil {
			return nil, escape(err)
		}
		next := filepath.Join(filepath.Dir(name), to)
		if filepath.IsAbs(to) || !filepath.IsLocal(next) {
			return nil, errEscapes
		}
		name = next
	}
	if st, err := root.Lstat(name); err == nil && !st.Mode().IsRegular() {
		return nil, errIrregular // a chain of links that does not end
	}
	temp := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+"."+rand.Text()+".tmp")
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, escape(err)
	}
	st, err := fill(f, data)
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		_ = root.Remove(temp) // the fault is told; a left file is hidden and small
		return nil, escape(err)
	}
	return st, syncWithin(root, filepath.Dir(name))
}

// fill writes a new file to the disk and closes it.
func fill(f *os.File, data []byte) (fs.FileInfo, error) {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	var st fs.FileInfo
	if err == nil {
		st, err = f.Stat()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return st, err
}
