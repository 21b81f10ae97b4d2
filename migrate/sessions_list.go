package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// sessionFile is a file of a sessions directory that is to be moved.
type sessionFile struct {
	root *os.Root // where it is
	from string   // its path there, with slashes
	to   string   // its path below the target, with slashes
	size int64
}

// listSessions lists the files below a directory of sessions, by their paths in it, and says what is left out.
func listSessions(ctx context.Context, root *os.Root, dir string, each func(name string, st fs.FileInfo), left func(name string, o Outcome, why string)) error {
	n := 0
	var walk func(sub string, depth int) error
	walk = func(sub string, depth int) error {
		d, err := root.Open(filepath.FromSlash(path.Join(dir, sub)))
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			entries, err := d.ReadDir(1024)
			slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
			for _, e := range entries {
				name := path.Join(sub, e.Name())
				if n++; n > maxSessionFiles {
					return fmt.Errorf("%s holds more than %d files", dir, maxSessionFiles)
				}
				switch st, err := e.Info(); {
				case err != nil:
					left(name, Fault, "it cannot be looked at: "+reason(err))
				case st.IsDir() && depth >= maxSessionDepth:
					left(name, Left, "directories below sessions are followed four deep")
				case st.IsDir():
					if err := walk(name, depth+1); err != nil {
						left(name, Fault, "it cannot be read: "+reason(err))
					}
				case passing(e.Name()):
					left(name, Left, "locks and unfinished files are of the running original")
				case st.Mode().Type() == fs.ModeSymlink:
					// Within the directory that is moved a link is as good as its file; os.Root follows no other.
					if st, err = root.Stat(filepath.FromSlash(path.Join(dir, name))); err != nil {
						left(name, Fault, "it is a link that leads out of the directory, or nowhere")
					} else if !st.Mode().IsRegular() {
						left(name, Fault, "it is a link to what is no file")
					} else {
						each(name, st)
					}
				case !st.Mode().IsRegular():
					left(name, Fault, "it is no regular file")
				default:
					each(name, st)
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
	return walk("", 0)
}

// passing reports whether a file is only there while a program writes.
func passing(name string) bool {
	return strings.HasSuffix(name, ".lock") || strings.HasSuffix(name, ".tmp") || strings.HasSuffix(name, ".jsonl.new") || strings.HasPrefix(name, tempPrefix)
}

// reason is an error without the paths of it, which are said beside it.
func reason(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// transcriptName is the name that a transcript has with us: the same, but for characters that package store allows in
// no name. What has some gets a hash as well, so that it stays unlike all others; archives of a transcript still begin
// as it does. ok is false for a name that is too long.
func transcriptName(name string) (safe string, ok bool) {
	base, rest, _ := strings.Cut(name, ".jsonl")
	safe = plainName(base, "._-") + ".jsonl" + plainName(rest, "._-")
	return safe, len(safe) <= maxTranscriptName
}

// plainName replaces what is no letter, digit or one of some others, a dot at the beginning of what is no suffix, and
// one at the end.
func plainName(s, others string) string {
	clean := []byte(s)
	for i, c := range clean {
		plain := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(others, c) >= 0
		if !plain || c == '.' && i == len(clean)-1 {
			clean[i] = '_'
		}
	}
	if string(clean) == s {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return string(clean) + "-" + hex.EncodeToString(sum[:4])
}
