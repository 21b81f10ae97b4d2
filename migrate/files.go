package migrate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// errKind is something that is no regular file.
var errKind = errors.New("it is no regular file")

// errLarge is a file above a bound.
type errLarge int64

func (e errLarge) Error() string { return "it is larger than " + sizeText(int64(e)) }

// readFile reads a regular file of at most so many bytes.
func readFile(root *os.Root, name string, limit int64) ([]byte, error) {
	f, _, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = errLarge(limit)
	}
	return text, err
}

// whyNot words an error of a single file for the report.
func whyNot(err error) string {
	var large errLarge
	switch {
	case errors.Is(err, errKind):
		return "is no regular file"
	case errors.As(err, &large):
		return "is larger than " + sizeText(int64(large))
	case errors.Is(err, fs.ErrPermission):
		return "may not be read: run this as the owner of the files"
	case strings.Contains(err.Error(), "escapes from parent"):
		return "is a link that leads out of the directory"
	case errors.Is(err, fs.ErrNotExist):
		return "is a link to nothing"
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return "cannot be read: " + err.Error()
}

// tempSuffix ends the names of files being written; those that a cut left are written over by the next run.
const tempSuffix = ".migrate-tmp"

// write puts a file into the target, mode 0600, its directories 0700: whole or not at all, and on disk.
func (r *run) write(name string, text []byte) error {
	_, err := r.copy(name, strings.NewReader(string(text)))
	return err
}

// copy does the same with what a reader gives, and says how much that was.
func (r *run) copy(name string, from io.Reader) (n int64, err error) {
	file := filepath.FromSlash(name)
	if err := r.mkdirs(path.Dir(name)); err != nil {
		return 0, err
	}
	f, err := r.target.OpenFile(file+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(f, from)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = r.target.Rename(file+tempSuffix, file)
	}
	if err != nil {
		return n, errors.Join(fmt.Errorf("write %s: %w", name, err), ignoreGone(r.target.Remove(file+tempSuffix)))
	}
	return n, syncDir(r.target, path.Dir(name))
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// mkdirs makes a directory of the target and those above it, each on disk.
func (r *run) mkdirs(dir string) error {
	if dir == "." {
		return nil
	}
	if st, err := r.target.Stat(filepath.FromSlash(dir)); err == nil && st.IsDir() {
		return nil
	}
	if err := r.mkdirs(path.Dir(dir)); err != nil {
		return err
	}
	if err := r.target.Mkdir(filepath.FromSlash(dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(r.target, path.Dir(dir))
}

// syncDir makes the entries of a directory durable. Windows has no way to; NTFS journals its entries.
func syncDir(root *os.Root, name string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
