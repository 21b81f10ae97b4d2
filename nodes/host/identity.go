package host

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of binding.
const (
	// maxHashed bounds what is read of one file to tell its content, in bytes: the largest programs in
	// use are below it, and reading it takes about a second.
	maxHashed = 1 << 30
	// maxInner is how many files beside the executable, the script and the directory are bound, so that
	// one line cannot make this machine read all it has.
	maxInner = 32
	// maxBindingDepth is how deep programs inside programs are followed, and interpreters of
	// interpreters; Linux itself stops there.
	maxBindingDepth = 4
)

// A binding is which files a run opens: what an approval of it covers beside its words. It goes to the
// gateway with the plan and comes back with the run. A node of the original knows none, and a gateway
// of the original drops it.
type binding struct {
	// Executable is the file that the first word names, Script the one that it is given to run when it
	// is an interpreter, Directory where it starts.
	Executable *fileID `json:"executable,omitempty"`
	Script     *fileID `json:"script,omitempty"`
	Directory  *fileID `json:"directory,omitempty"`
	// Inner is what else runs as far as the text says: interpreters named in first lines, programs
	// behind wrappers and in the lines of inline shells, and their scripts.
	Inner []innerFile `json:"inner,omitempty"`
	// Unbound says in words for people what runs or is read and could not be bound.
	Unbound []string `json:"unbound,omitempty"`
}

type innerFile struct {
	Role string `json:"role"` // interpreter, program or script
	fileID
}

// fileID is one file or directory. The numbers are text because readers of JSON round large ones.
type fileID struct {
	Path   string `json:"path"`             // absolute, without links
	Device string `json:"device,omitempty"` // decimal, empty where the system has none
	Inode  string `json:"inode,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // in hex, empty for a directory
}

// parseBinding reads the parameter binding, nil when there is none. A binding that cannot be read is
// an error, never none.
func parseBinding(raw json.RawMessage) (*binding, error) {
	if raw == nil || string(bytes.TrimSpace(raw)) == "null" {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields() // what is not understood cannot be checked
	var b *binding
	if err := d.Decode(&b); err != nil || b == nil {
		return nil, errors.New("it is no binding of this node")
	}
	return b, nil
}

// held is a file of a run, open from the check to the start.
type held struct {
	id   fileID
	file *os.File // nil when it cannot be read
	info os.FileInfo
	// firm says that nobody can write to it while it is held.
	firm bool
	free func() // may be called again
	// word is how the command names it; at is its place in the argv of the run, -1 for none.
	word string
	at   int
	// reopened says that who reads it looks for its path.
	reopened bool
}

func (f *held) close() {
	if f == nil {
		return
	}
	f.release()
	if f.file != nil {
		f.file.Close()
	}
}

// release lets others write to it again.
func (f *held) release() {
	if f != nil && f.free != nil {
		f.free()
	}
}

// bound is a binding with the files that it is about, held open.
type bound struct {
	binding
	dir, exe *held
	// chain is the interpreters of exe when it begins with #!, outermost last: each runs the one
	// before it. args are the words that each gets before the file.
	chain []*held
	args  [][]string
	// scripts is the script, by whom it is read.
	script *held
	inner  []*held // the others
}

func (b *bound) all() []*held {
	out := append([]*held{b.dir, b.exe, b.script}, b.chain...)
	return slices.DeleteFunc(append(out, b.inner...), func(f *held) bool { return f == nil })
}

func (b *bound) close() {
	if b != nil {
		for _, f := range b.all() {
			f.close()
		}
	}
}

// release lets others write to the files again.
func (b *bound) release() {
	for _, f := range b.all() {
		f.release()
	}
}

func (b *bound) note(format string, args ...any) {
	n := fmt.Sprintf(format, args...)
	if !slices.Contains(b.Unbound, n) && len(b.Unbound) < maxInner {
		b.Unbound = append(b.Unbound, n)
	}
}

// identify opens the files of a run and tells what they are. It never fails: what cannot be bound is
// said in the binding. The caller closes it.
func (h *Host) identify(argv []string, cwd, pathEnv string) *bound {
	b := &bound{}
	dir := cwd
	if dir == "" {
		dir = "."
	}
	if abs, err := filepath.Abs(dir); err != nil {
		b.note("the working directory cannot be found")
	} else if b.dir = openDir(abs); b.dir == nil {
		b.note("the directory %s cannot be opened", abs)
	} else {
		b.Directory = &b.dir.id
	}
	path, ok := h.policy.Locate(argv[0], cwd, pathEnv)
	if !ok {
		b.note("there is no executable %s on this node", clip(argv[0]))
		return b
	}
	if b.exe = b.open(path); b.exe == nil {
		return b
	}
	b.exe.word = argv[0]
	b.Executable = &b.exe.id
	b.chain, b.args = b.interpreters(h, b.exe, pathEnv)
	for _, f := range b.chain {
		b.Inner = append(b.Inner, innerFile{"interpreter", f.id})
	}
	b.script = b.scriptOf(argv, b.exe.id.Path, cwd)
	if b.script != nil {
		b.Script = &b.script.id
	}
	b.programs(h, argv, 0, cwd, pathEnv, 0)
	return b
}

// open opens a file and tells what it is, nil with a note when it cannot.
func (b *bound) open(path string) *held {
	f, err := openFile(path)
	if err != nil {
		b.note("%s cannot be bound: %v", path, err)
		return nil
	}
	if f.id.SHA256, err = hash(f.file); err != nil {
		f.close()
		b.note("%s cannot be bound: %v", path, err)
		return nil
	}
	return f
}

// hash reads a file to its end.
func hash(f *os.File) (string, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, io.NewSectionReader(f, 0, maxHashed+1))
	switch {
	case err != nil:
		return "", reasonOf(err)
	case n > maxHashed:
		return "", fmt.Errorf("it is larger than %d MiB", maxHashed>>20)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// reasonOf is an error without the path, which stands before it.
func reasonOf(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// head is the beginning of a file, enough for its first line.
func (f *held) head() []byte {
	buf := make([]byte, maxShebang+1)
	n, _ := f.file.ReadAt(buf, 0)
	return buf[:n]
}

// interpreters follows the first lines of scripts, from a file on: the interpreters, and the words that
// each gets before the file that it reads.
func (b *bound) interpreters(h *Host, of *held, pathEnv string) (chain []*held, args [][]string) {
	at := of
	for range maxBindingDepth {
		program, arg, ok := shebang(at.head())
		if !ok {
			return chain, args
		}
		if !filepath.IsAbs(program) {
			b.note("the first line of %s names its interpreter without a full path", at.id.Path)
			return chain, args
		}
		words := []string{program}
		if arg != "" {
			words = append(words, arg)
		}
		if filepath.Base(program) == "env" {
			if through := throughEnv(arg); through != nil {
				words = through
			} else {
				b.note("what the first line of %s starts through env cannot be told", at.id.Path)
			}
		}
		path, ok := h.policy.Locate(words[0], "/", pathEnv)
		if !ok {
			b.note("there is no interpreter %s, which the first line of %s names", clip(words[0]), at.id.Path)
			return chain, args
		}
		f := b.open(path)
		if f == nil {
			return chain, args
		}
		f.word = words[0]
		if i, known := interpreterOf(f.id.Path); known {
			at.reopened = i.reopens
		}
		chain, args = append(chain, f), append(args, words[1:])
		at = f
	}
	b.note("the interpreter of %s has an interpreter itself, and so on", at.id.Path)
	return chain, args
}

// scriptOf opens the file that an interpreter is given to run.
func (b *bound) scriptOf(argv []string, path, cwd string) *held {
	i, known := interpreterOf(argv[0])
	if !known {
		if i, known = interpreterOf(path); !known {
			return nil
		}
	}
	at := i.find(argv[1:])
	switch {
	case at.why != "":
		b.note("%s: %s", clip(argv[0]), at.why)
		return nil
	case at.at < 0:
		return nil
	}
	word := argv[1+at.at]
	name := word
	if !filepath.IsAbs(name) {
		name = filepath.Join(cwd, name)
	}
	if abs, err := filepath.Abs(name); err == nil {
		name = abs
	}
	f := b.open(name)
	if f != nil {
		f.word, f.at, f.reopened = word, 1+at.at, i.reopens
	}
	return f
}

// programs binds what a wrapper or an inline shell would run. at is where argv begins in that of the
// run, -1 when it is not part of it.
func (b *bound) programs(h *Host, argv []string, at int, cwd, pathEnv string, depth int) {
	inner, why := h.policy.Programs(argv, cwd, pathEnv)
	if why != "" {
		b.note("%s: %s", clip(argv[0]), why)
	}
	for _, words := range inner {
		if len(words) == 0 {
			continue
		}
		if len(b.inner) >= maxInner || depth >= maxBindingDepth {
			b.note("it runs more programs than are bound")
			return
		}
		// Behind a wrapper the words are the rest of argv itself, and may be written anew; in the line of
		// a shell they are not.
		from := -1
		if k := len(argv) - len(words); at >= 0 && k > 0 && &argv[k] == &words[0] {
			from = at + k
		}
		path, ok := h.policy.Locate(words[0], cwd, pathEnv)
		if !ok {
			continue // a word of the shell, or nothing
		}
		if f := b.open(path); f != nil {
			f.word = words[0]
			chain, _ := b.interpreters(h, f, pathEnv)
			if len(chain) > 0 {
				f.at = from
			}
			b.add("program", f)
			for _, i := range chain {
				b.add("interpreter", i)
			}
		}
		if f := b.scriptOf(words, path, cwd); f != nil {
			if f.at += from; from < 0 {
				f.at = -1
			}
			b.add("script", f)
		}
		b.programs(h, words, from, cwd, pathEnv, depth+1)
	}
}

func (b *bound) add(role string, f *held) {
	if f == nil {
		return
	}
	if i := (innerFile{role, f.id}); !slices.Contains(b.Inner, i) {
		b.Inner = append(b.Inner, i)
		b.inner = append(b.inner, f)
		return
	}
	f.close()
}

// changed says what is not as it was approved, "" when all is.
func changed(was, is binding) string {
	switch what := fileChanged("the executable", was.Executable, is.Executable); {
	case what != "":
		return what
	}
	if what := fileChanged("the script", was.Script, is.Script); what != "" {
		return what
	}
	if what := fileChanged("the directory", was.Directory, is.Directory); what != "" {
		return what
	}
	for i := range max(len(was.Inner), len(is.Inner)) {
		var a, b *fileID
		role := "program"
		if i < len(was.Inner) {
			a, role = &was.Inner[i].fileID, was.Inner[i].Role
		}
		if i < len(is.Inner) {
			b = &is.Inner[i].fileID
			if a != nil && is.Inner[i].Role != role {
				return fmt.Sprintf("the %s %s is a %s now", role, a.Path, is.Inner[i].Role)
			}
		}
		if what := fileChanged("the "+role, a, b); what != "" {
			return what
		}
	}
	if !slices.Equal(was.Unbound, is.Unbound) {
		for _, n := range is.Unbound {
			if !slices.Contains(was.Unbound, n) {
				return "what runs cannot be told any more: " + n
			}
		}
		return "what was approved could not be told, and can be now"
	}
	return ""
}

func fileChanged(what string, was, is *fileID) string {
	switch {
	case was == nil && is == nil:
		return ""
	case was == nil:
		return fmt.Sprintf("%s %s was not there when it was approved", what, is.Path)
	case is == nil:
		return fmt.Sprintf("%s %s was approved and is gone or cannot be read", what, was.Path)
	case *was == *is:
		return ""
	case was.Path != is.Path:
		return fmt.Sprintf("%s was %s when it was approved and is %s now", what, was.Path, is.Path)
	case was.SHA256 != is.SHA256:
		return fmt.Sprintf("the content of %s changed since it was approved (sha256 %s → %s)", is.Path, short(was.SHA256), short(is.SHA256))
	}
	return fmt.Sprintf("%s %s was replaced since it was approved (device and inode %s:%s → %s:%s)", what, is.Path, was.Device, was.Inode, is.Device, is.Inode)
}

func short(sum string) string {
	if len(sum) > 12 {
		return sum[:12]
	}
	if sum == "" {
		return "none"
	}
	return sum
}

// still says what changed on the way to a file since it was opened, "" when nothing did. With again,
// the content of those that others may write to is read once more.
func (b *bound) still(again bool) string {
	for _, f := range b.all() {
		now, err := os.Lstat(f.id.Path)
		if err != nil || !os.SameFile(now, f.info) {
			return f.id.Path + " was replaced while it was about to run"
		}
		if f.file == nil || f.info.IsDir() {
			continue
		}
		if now, err := f.file.Stat(); err != nil || now.Size() != f.info.Size() || !now.ModTime().Equal(f.info.ModTime()) {
			return "the content of " + f.id.Path + " changed while it was about to run"
		}
		if again && !f.firm {
			if sum, err := hash(f.file); err != nil || sum != f.id.SHA256 {
				return "the content of " + f.id.Path + " changed while it was about to run"
			}
		}
	}
	return ""
}

// openFile opens a regular file for reading and tells which it is, all but its content. Nothing may
// lead elsewhere between the answer and the path in it.
func openFile(path string) (*held, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, reasonOf(err)
	}
	if !utf8.ValidString(real) {
		return nil, errors.New("its path is no UTF-8 text")
	}
	f, err := os.OpenFile(real, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil, reasonOf(err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = errors.New("it is no regular file")
	case !leadsTo(f, info, real):
		err = errors.New("it was replaced while it was opened")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	out := &held{file: f, info: info, id: fileID{Path: real}, at: -1}
	out.id.Device, out.id.Inode = numbers(f, info)
	if out.free, out.firm, err = hold(f); err != nil {
		f.Close()
		return nil, err
	}
	if out.info, err = f.Stat(); err != nil { // as it is from now on
		out.close()
		return nil, reasonOf(err)
	}
	return out, nil
}

func openDir(path string) *held {
	real, err := filepath.EvalSymlinks(path)
	if err != nil || !utf8.ValidString(real) {
		return nil
	}
	f, err := os.OpenFile(real, os.O_RDONLY|openFlags, 0)
	if err != nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil || !info.IsDir() || !leadsTo(f, info, real) {
		f.Close()
		return nil
	}
	d := &held{file: f, info: info, id: fileID{Path: real}, at: -1}
	d.id.Device, d.id.Inode = numbers(f, info)
	return d
}

// decimal writes a number, 0 as none.
func decimal[T int32 | uint32 | uint64](n T) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(n), 10)
}

// baseOf is the last component of a word that names a program, for showing.
func baseOf(word string) string {
	name := filepath.Base(strings.TrimSpace(word))
	if name == "." || name == ".." || strings.ContainsRune(name, filepath.Separator) {
		return "program"
	}
	return name
}
