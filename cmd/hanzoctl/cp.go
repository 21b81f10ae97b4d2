package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

const (
	// copyTries is how often in a row a file is begun again or gone on with without one more byte having
	// arrived; the pauses between them double from copyPause to copyPauseMax, half a minute in all.
	copyTries    = 10
	copyPause    = 200 * time.Millisecond
	copyPauseMax = 5 * time.Second
	// copyWorkers is how many files of a directory are copied at once.
	copyWorkers = 4
	// copyDepth and copyFiles bound what is copied with -r: a link that was followed in a circle, or a node
	// that lies.
	copyDepth = 64
	copyFiles = 1_000_000
	// pieceSize is how many bytes travel in one message.
	pieceSize = 256 << 10
)

// partialPrefix is how the names of files begin that have not arrived whole.
const partialPrefix = ".hanzo-part-"

// copier is one run of cp.
type copier struct {
	a *app
	c *client.Client

	recursive, preserve, keep bool

	bar   *copyBar
	nodes map[string]*nodesv1.Node

	mu     sync.Mutex
	failed []error
	done   copyResult
}

// copyResult is what cp prints as JSON.
type copyResult struct {
	Files   int64   `json:"files"`
	Bytes   int64   `json:"bytes"`
	Resumed int64   `json:"resumedBytes"`
	Skipped int64   `json:"skipped"`
	Failed  int     `json:"failed"`
	Seconds float64 `json:"seconds"`
}

func (a *app) cpCmd() *cobra.Command {
	k := &copier{a: a, nodes: map[string]*nodesv1.Node{}}
	c := &cobra.Command{Use: "cp SOURCE... TARGET", Short: "Copy files to, from and between nodes", Args: cobra.MinimumNArgs(2),
		Long: `Copy files to, from and between nodes. NODE:PATH is a file of a node, PATH one of this machine; a
relative path of a node begins in its workspace. What a node offers is said on the node:
nodeHost.files.roots in its configuration, or hanzod node --files-root.

A file appears under its name whole, with its checksum compared, or not at all. After a cut the
copy goes on by itself where it ended, and gives up when nothing arrives for half a minute; the
same command run again then goes on too. What is not finished lies beside the target as
` + partialPrefix + `… and is removed by the node after a week.

Modes of files are kept as far as they may be run; -p keeps modes and times. With several sources,
or a target that ends in a slash, the target is a directory.`,
		Example: `  hanzoctl cp build-box:out/app.tar.gz .
  hanzoctl cp big.iso build-box:/srv/images/
  hanzoctl cp -rp site build-box:/srv/www
  hanzoctl cp build-box:report.pdf laptop:reports/`,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return a.completePath(cmd, word, true)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				k.c = c
				return k.run(ctx, args[:len(args)-1], args[len(args)-1])
			})
		}}
	f := c.Flags()
	f.BoolVarP(&k.recursive, "recursive", "r", false, "copy directories with all that is in them")
	f.BoolVarP(&k.preserve, "preserve", "p", false, "keep modes and times")
	f.BoolVarP(&k.keep, "no-clobber", "n", false, "leave files alone that are there already")
	return c
}

// spot is a path of this machine or of a node.
type spot struct {
	node *nodesv1.Node // nil for this machine
	path string
}

func (w spot) String() string {
	if w.node == nil {
		return w.path
	}
	return client.Label(w.node) + ":" + w.path
}

// remotePath splits NODE:PATH. A colon behind a slash belongs to a file, and so does one behind a single letter
// on Windows.
func remotePath(arg string) (node, file string, ok bool) {
	node, file, ok = strings.Cut(arg, ":")
	if !ok || node == "" || strings.ContainsAny(node, `/\`) || runtime.GOOS == "windows" && len(node) == 1 {
		return "", arg, false
	}
	return node, file, true
}

// spot finds the node of an argument.
func (k *copier) spot(ctx context.Context, arg string) (spot, error) {
	name, file, ok := remotePath(arg)
	if !ok {
		return spot{path: arg}, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.nodes[name] == nil {
		n, err := k.c.ResolveNode(ctx, name)
		if err != nil {
			return spot{}, err
		}
		k.nodes[name] = n
	}
	return spot{k.nodes[name], file}, nil
}

// fileFound is what is at a place.
type fileFound struct {
	size    int64
	dir     bool
	file    bool
	mode    fs.FileMode
	modTime time.Time
	version string
}

func rawPath(p string) (string, []byte) {
	if strings.ToValidUTF8(p, "") == p {
		return p, nil
	}
	return "", []byte(p)
}

// stat looks at a place; links are followed.
func (k *copier) stat(ctx context.Context, w spot) (fileFound, error) {
	if w.node == nil {
		info, err := os.Stat(w.path)
		if err != nil {
			return fileFound{}, fileError(err)
		}
		return fileFound{info.Size(), info.IsDir(), info.Mode().IsRegular(), info.Mode().Perm(), info.ModTime(), fmt.Sprintf("%d-%d", info.Size(), info.ModTime().UnixNano())}, nil
	}
	req := &tunnelv1.StatFileRequest{NodeId: w.node.GetNodeId()}
	req.Path, req.RawPath = rawPath(w.path)
	out, err := k.c.Files.StatFile(ctx, req)
	if err != nil {
		return fileFound{}, err
	}
	e := out.GetEntry()
	return fileFound{e.GetSize(), e.GetKind() == tunnelv1.FileKind_FILE_KIND_DIRECTORY, e.GetKind() == tunnelv1.FileKind_FILE_KIND_FILE, fs.FileMode(e.GetMode()).Perm(), e.GetModifiedAt().AsTime(), e.GetVersion()}, nil
}

// fileError gives a failure of this machine's files its exit code.
func fileError(err error) error {
	code := exitFailed
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code = exitNotFound
	case errors.Is(err, fs.ErrPermission):
		code = exitDenied
	case errors.Is(err, fs.ErrExist):
		code = exitConflict
	}
	return &codeError{code: code, err: err}
}

func isNotFound(err error) bool { return exitCode(err) == exitNotFound }

// base is the last part of a path, "" when it has none of its own.
func (w spot) base() string {
	if w.node == nil {
		b := filepath.Base(w.path)
		if b == "." || b == ".." || b == string(filepath.Separator) {
			if abs, err := filepath.Abs(w.path); err == nil {
				b = filepath.Base(abs)
			}
		}
		if b == string(filepath.Separator) || b == "." {
			return ""
		}
		return b
	}
	p := strings.TrimRight(w.path, "/")
	if onWindows(w.node) {
		p = strings.TrimRight(strings.ReplaceAll(p, `\`, "/"), "/")
	}
	if b := path.Base(p); b != "." && b != ".." && b != "/" {
		return b
	}
	return ""
}

func onWindows(n *nodesv1.Node) bool {
	return strings.HasPrefix(strings.ToLower(n.GetPlatform()), "win")
}

// below is a place in a directory.
func (w spot) below(name string) spot {
	if w.node == nil {
		return spot{nil, filepath.Join(w.path, filepath.FromSlash(name))}
	}
	if w.path == "" {
		return spot{w.node, name}
	}
	return spot{w.node, strings.TrimRight(w.path, "/") + "/" + name}
}

// run copies the sources.
func (k *copier) run(ctx context.Context, args []string, target string) error {
	began := time.Now()
	to, err := k.spot(ctx, target)
	if err != nil {
		return err
	}
	into, err := k.stat(ctx, to)
	exists := err == nil
	if err != nil && !isNotFound(err) {
		return err
	}
	wantsDir := len(args) > 1 || strings.HasSuffix(target, "/") || to.node != nil && to.path == ""
	if wantsDir && exists && !into.dir {
		return usagef("%s is no directory", Text(to.String()))
	}
	if wantsDir && !exists && !k.recursive {
		return &codeError{code: exitNotFound, text: fmt.Sprintf("there is no directory %s; make it first, or copy a directory with -r", Text(to.String()))}
	}
	k.bar = newCopyBar(k.a)
	defer k.bar.stop()
	jobs := make(chan func(), copyWorkers)
	var wg sync.WaitGroup
	for range copyWorkers {
		wg.Go(func() {
			for f := range jobs {
				f()
			}
		})
	}
	for _, arg := range args {
		if err := k.source(ctx, arg, to, exists && into.dir || wantsDir, jobs); err != nil {
			k.fail(err)
		}
	}
	close(jobs)
	wg.Wait()
	k.bar.stop()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	k.done.Seconds = time.Since(began).Seconds()
	k.done.Failed = len(k.failed)
	if k.a.output != "table" && !k.a.quiet {
		if err := k.a.printValue(k.done); err != nil {
			return err
		}
	}
	switch {
	case len(k.failed) == 0:
		return nil
	case len(k.failed) == 1:
		return k.failed[0]
	}
	for _, err := range k.failed[1:] {
		fmt.Fprintln(k.a.stderr, "hanzoctl: "+Text(err.Error()))
	}
	return k.failed[0]
}

func (k *copier) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed = append(k.failed, err)
}

// source hands one argument to the workers.
func (k *copier) source(ctx context.Context, arg string, to spot, into bool, jobs chan<- func()) error {
	from, err := k.spot(ctx, arg)
	if err != nil {
		return err
	}
	what, err := k.stat(ctx, from)
	if err != nil {
		return err
	}
	target := to
	if into {
		base := from.base()
		if base == "" && !what.dir {
			return usagef("%s has no name to copy it under", Text(arg))
		}
		if base != "" {
			target = to.below(base)
		}
	}
	switch {
	case what.dir && !k.recursive:
		return usagef("%s is a directory; copy it with -r", Text(from.String()))
	case what.dir:
		n := 0
		return k.tree(ctx, from, target, what, 0, &n, jobs)
	case !what.file:
		return &codeError{code: exitConflict, text: fmt.Sprintf("%s is neither a file nor a directory", Text(from.String()))}
	}
	k.bar.expect(what.size)
	k.send(ctx, jobs, from, target, what)
	return nil
}

func (k *copier) send(ctx context.Context, jobs chan<- func(), from, to spot, what fileFound) {
	select {
	case jobs <- func() {
		if err := k.file(ctx, from, to, what); err != nil && ctx.Err() == nil {
			k.fail(fmt.Errorf("%s: %w", Text(from.String()), err))
		}
	}:
	case <-ctx.Done():
	}
}

// tree copies a directory. What is neither a file nor a directory is left out with a word; links to directories
// are not followed.
func (k *copier) tree(ctx context.Context, from, to spot, what fileFound, depth int, count *int, jobs chan<- func()) error {
	if depth > copyDepth {
		return fmt.Errorf("%s: more than %d directories in each other", Text(from.String()), copyDepth)
	}
	if err := k.mkdir(ctx, to, what); err != nil {
		return err
	}
	list, err := k.list(ctx, from)
	if err != nil {
		return err
	}
	for _, name := range list {
		if *count++; *count > copyFiles {
			return fmt.Errorf("there are more than %d files; copy them in several parts", copyFiles)
		}
		if to.node == nil && !oneName(name) || strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." {
			k.fail(fmt.Errorf("%s: a file cannot have this name here", Text(from.below(name).String())))
			continue
		}
		if strings.HasPrefix(name, partialPrefix) {
			continue
		}
		src := from.below(name)
		if k.linkToDirectory(src) {
			fmt.Fprintf(k.a.stderr, "%s is a link to a directory and is left out\n", Text(src.String()))
			continue
		}
		child, err := k.stat(ctx, src)
		switch {
		case err != nil:
			k.fail(fmt.Errorf("%s: %w", Text(src.String()), err))
		case child.dir:
			if err := k.tree(ctx, src, to.below(name), child, depth+1, count, jobs); err != nil {
				k.fail(err)
			}
		case child.file:
			k.bar.expect(child.size)
			k.send(ctx, jobs, src, to.below(name), child)
		default:
			fmt.Fprintf(k.a.stderr, "%s is neither a file nor a directory and is left out\n", Text(src.String()))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// oneName reports whether a name that a node sent is one name and no path here.
func oneName(name string) bool {
	return filepath.IsLocal(name) && filepath.Base(name) == name && !strings.ContainsRune(name, 0)
}

func (k *copier) linkToDirectory(w spot) bool {
	if w.node != nil {
		return false // list leaves them out
	}
	info, err := os.Lstat(w.path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return false
	}
	to, err := os.Stat(w.path)
	return err == nil && to.IsDir()
}

// list returns the names in a directory.
func (k *copier) list(ctx context.Context, w spot) ([]string, error) {
	if w.node == nil {
		all, err := os.ReadDir(w.path)
		if err != nil {
			return nil, fileError(err)
		}
		var names []string
		for _, e := range all {
			names = append(names, e.Name())
		}
		return names, nil
	}
	var names []string
	err := k.eachEntry(ctx, w, func(e *tunnelv1.FileEntry) error {
		name := entryName(e)
		if e.GetKind() == tunnelv1.FileKind_FILE_KIND_LINK {
			if to, err := k.stat(ctx, w.below(name)); err != nil || to.dir {
				fmt.Fprintf(k.a.stderr, "%s is a link to a directory or out of what is offered, and is left out\n", Text(w.below(name).String()))
				return nil
			}
		}
		if names = append(names, name); len(names) > copyFiles {
			return fmt.Errorf("%s has more than %d entries", Text(w.String()), copyFiles)
		}
		return nil
	})
	return names, err
}

func entryName(e *tunnelv1.FileEntry) string {
	if len(e.GetRawName()) > 0 {
		return string(e.GetRawName())
	}
	return e.GetName()
}

// eachEntry lists a directory of a node, page by page.
func (k *copier) eachEntry(ctx context.Context, w spot, f func(*tunnelv1.FileEntry) error) error {
	req := &tunnelv1.ListFilesRequest{NodeId: w.node.GetNodeId()}
	req.Path, req.RawPath = rawPath(w.path)
	for {
		out, err := k.c.Files.ListFiles(ctx, req)
		if err != nil {
			return err
		}
		for _, e := range out.GetEntries() {
			if err := f(e); err != nil {
				return err
			}
		}
		n := len(out.GetEntries())
		if !out.GetMore() || n == 0 {
			return nil
		}
		last := entryName(out.GetEntries()[n-1])
		if last <= string(req.GetAfter()) {
			return nil // a node that never ends
		}
		req.After = []byte(last)
	}
}

func (k *copier) mkdir(ctx context.Context, w spot, what fileFound) error {
	mode := fs.FileMode(0o755)
	if k.preserve {
		mode = what.mode | 0o700 // its files are still to come
	}
	if w.node == nil {
		if err := os.MkdirAll(w.path, mode); err != nil {
			return fileError(err)
		}
		return nil
	}
	bits := uint32(mode.Perm())
	req := &tunnelv1.MakeDirectoryRequest{NodeId: w.node.GetNodeId(), Parents: true, Mode: &bits}
	req.Path, req.RawPath = rawPath(w.path)
	_, err := k.c.Files.MakeDirectory(ctx, req)
	return err
}

// errAgain says that a copy has to begin anew at 0.
var errAgain = errors.New("what has arrived is something else; beginning anew")

// file copies one file, with as many tries as it takes while something arrives.
func (k *copier) file(ctx context.Context, from, to spot, what fileFound) error {
	src, dst := k.reader(from, what), k.writer(from, to, what)
	defer dst.close()
	if k.keep {
		if _, err := k.stat(ctx, to); err == nil {
			k.mu.Lock()
			k.done.Skipped++
			k.mu.Unlock()
			k.bar.expect(-what.size)
			return nil
		}
	}
	pause, most := copyPause, int64(-1)
	fresh := false
	var shown int64
	for tries := 1; ; tries++ {
		at, err := k.attempt(ctx, src, dst, what, fresh, func(at int64) {
			k.bar.add(at-shown, from)
			shown = at
		})
		if err == nil {
			k.mu.Lock()
			k.done.Files++
			k.done.Bytes += what.size
			k.mu.Unlock()
			return nil
		}
		fresh = false
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errAgain):
			fresh = true
		case !passing(err):
			return err
		}
		if at > most {
			most, tries, pause = at, 0, copyPause
		}
		if tries >= copyTries {
			return fmt.Errorf("%w; the same command goes on where this one ended", err)
		}
		k.bar.note("interrupted, trying again: " + err.Error())
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		pause = min(2*pause, copyPauseMax)
	}
}

// passing reports whether a later try may work.
func passing(err error) bool {
	if _, ok := errors.AsType[*client.NotRunning](err); ok {
		return true
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case "files.no_space":
		return false
	case "files.taken", "files.checksum", "files.damaged", "files.incomplete", "files.busy", client.CodeLost:
		return true
	}
	return e.Class == client.Unavailable || e.Class == client.Deadline || e.Class == client.Exhausted
}

// reads is where a file comes from.
type reads interface {
	// prefix is the checksum of the first n bytes.
	prefix(ctx context.Context, n int64) ([]byte, error)
	// from hands on the bytes from offset at. It fails when the file is another one than it was.
	from(ctx context.Context, at int64, w func([]byte) error) error
	// whole is the checksum of all of it, nil when it is not known yet.
	whole(ctx context.Context) ([]byte, error)
}

// writes is where it goes.
type writes interface {
	// held is how much has arrived before, with its checksum.
	held(ctx context.Context) (int64, []byte, error)
	// begin goes on at an offset.
	begin(ctx context.Context, at int64, prefix []byte) error
	write(p []byte) error
	// finish gives the file its name once its checksum holds, given up when ctx ends.
	finish(sha256 []byte) error
	// abort keeps what has arrived.
	abort()
	close()
}

// attempt copies what is missing and returns how far it came.
func (k *copier) attempt(ctx context.Context, src reads, dst writes, what fileFound, fresh bool, progress func(int64)) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var at int64
	var prefix []byte
	if !fresh && what.size > pieceSize {
		held, sum, err := dst.held(ctx)
		if err != nil {
			return 0, err
		}
		if held > 0 && held <= what.size {
			own, err := src.prefix(ctx, held)
			if err != nil {
				return 0, err
			}
			if slices.Equal(own, sum) {
				at, prefix = held, sum
				k.mu.Lock()
				k.done.Resumed += held
				k.mu.Unlock()
			}
		}
	}
	progress(at)
	if err := dst.begin(ctx, at, prefix); err != nil {
		return at, err
	}
	err := src.from(ctx, at, func(p []byte) error {
		if err := dst.write(p); err != nil {
			return err
		}
		at += int64(len(p))
		progress(at)
		return nil
	})
	if err == nil && at != what.size {
		err = &client.Error{Code: "files.changed", Class: client.Conflict, Message: "the file has changed while it was copied; copy it again"}
	}
	var sum []byte
	if err == nil {
		sum, err = src.whole(ctx)
	}
	if err != nil {
		dst.abort()
		return at, err
	}
	return at, dst.finish(sum)
}

// uploadID names a copy: the same file to the same place goes on with it.
func uploadID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:20])
}

// identity is what a source is called in the name of a copy.
func (w spot) identity(what fileFound) string {
	if w.node != nil {
		return w.node.GetNodeId() + ":" + w.path + ":" + what.version
	}
	abs, err := filepath.Abs(w.path)
	if err != nil {
		abs = w.path
	}
	host, _ := os.Hostname()
	return host + ":" + abs + ":" + what.version
}

// modeOf is the mode that a copy is to have, nil for the one that a new file has.
func (k *copier) modeOf(what fileFound) *fs.FileMode {
	mode := what.mode.Perm()
	switch {
	case k.preserve:
	case mode&0o111 != 0:
		mode = 0o755
	default:
		return nil
	}
	return &mode
}
