package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config/json5"
)

// readFile reads the file of a question once, in a goroutine of its own: a file system may hang.
func readFile(ctx context.Context, q *question) func(string) Result {
	name := filepath.Base(q.provider.Path)
	ctx, cancel := context.WithTimeout(ctx, within(q.provider.Timeout, defaultTimeout, maxTimeout))
	defer cancel()
	type read struct {
		text []byte
		err  error
	}
	done := make(chan read, 1)
	go func() {
		text, err := load(q.provider)
		done <- read{text, err}
	}()
	var r read
	select {
	case r = <-done:
	case <-ctx.Done():
		r.err = errors.New("it took too long; raise timeoutMs of the provider if it is slow by nature")
	}
	err := r.err
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err
	}
	var root *json5.Node
	if err == nil && !q.provider.Single {
		if root, err = json5.Parse(r.text); err != nil {
			err = problemf("Secret file %s is not JSON", name) // the place of the fault may show what is there
		}
	} else if err != nil {
		err = problemf("Cannot read secret file %s: %w", name, err)
	}
	return func(id string) Result {
		switch {
		case err != nil:
			return Result{Err: err}
		case q.provider.Single:
			return Result{Text: strings.TrimRight(string(r.text), "\r\n")}
		}
		n, ok := pointer(root, id)
		if !ok {
			return Result{Err: problemf("Secret file %s has nothing at %s", name, quote(id))}
		}
		if n.Kind != json5.String {
			return Result{Err: problemf("Secret file %s holds no string at %s", name, quote(id))}
		}
		return Result{Text: n.Str}
	}
}

// load reads a file that nobody else can read or change.
func load(p Provider) ([]byte, error) {
	f, err := open(p.Path, p.Insecure)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	if !p.Insecure {
		if err := private(st); err != nil {
			return nil, err
		}
	}
	limit := within(p.MaxBytes, maxBytes, maxBytes)
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", filepath.Base(p.Path), limit)
	}
	return text, nil
}

// open opens a file without waiting for the writer of a pipe, and unless told otherwise no link.
func open(path string, links bool) (*os.File, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode()&fs.ModeSymlink != 0 && !links {
		return nil, errors.New("it is a symbolic link; name the file itself, or set allowInsecurePath of the provider")
	}
	return os.OpenFile(path, os.O_RDONLY|openFlags(links), 0)
}

// pointer follows a JSON pointer (RFC 6901) that is not empty.
func pointer(n *json5.Node, p string) (*json5.Node, bool) {
	for part := range strings.SplitSeq(p[1:], "/") {
		part = strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		switch n.Kind {
		case json5.Object:
			n = n.Get(part)
		case json5.Array:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(n.Items) || strconv.Itoa(i) != part {
				return nil, false
			}
			n = n.Items[i]
		default:
			return nil, false
		}
		if n == nil {
			return nil, false
		}
	}
	return n, true
}
