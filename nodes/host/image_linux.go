package host

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// firstPassed is the number of the first descriptor that a started program gets beside its streams:
// above those that shell scripts use by number, below what shells take for themselves.
const firstPassed = 90

// boxes are the programs that act by the name they are called with, as the allow-list knows them.
var boxes = []string{"busybox", "toybox", "coreutils"}

// runFolder begins the names of the folders of runs; the number of the process follows. It has the number of the
// process's PID namespace: who is in another one, in a container that shares the directory, cannot tell which
// processes are there.
var runFolder = sync.OnceValue(func() string {
	name, err := os.Readlink("/proc/self/ns/pid") // as pid:[4026531836]
	if err != nil {
		name = "" // without /proc nothing is started by descriptor
	}
	return "hanzod-run-" + strings.Trim(name, "pid:[]") + "-"
})

// runFolders are where they are made, the first that can be: in memory where that is possible, because
// the journal of a busy disk costs a run some milliseconds.
func runFolders() []string {
	out := []string{"/dev/shm", os.TempDir()}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		out = append([]string{dir}, out...)
	}
	return out
}

func makeFolder() (folder string, err error) {
	for _, dir := range runFolders() {
		if folder, err = os.MkdirTemp(dir, runFolder()+strconv.Itoa(os.Getpid())+"-"); err == nil {
			return folder, nil
		}
	}
	return "", err
}

// sweep removes the folders of processes that ended without doing so.
func sweep() {
	var folders []string
	for _, dir := range runFolders() {
		found, _ := filepath.Glob(filepath.Join(dir, runFolder()+"*-*")) // a pattern that is bad finds none
		folders = append(folders, found...)
	}
	for _, f := range folders {
		number, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(f), runFolder()), "-")
		if pid, err := strconv.Atoi(number); err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			_ = os.RemoveAll(f)
		}
	}
}

// errNoProc says why nothing can be started by descriptor.
var errNoProc = errors.New("files are started by descriptor, which needs /proc; mount it")

func descriptor[T int | uintptr](fd T) string { return "/proc/self/fd/" + strconv.Itoa(int(fd)) }

// image makes what was bound startable by the descriptors that are held: what runs is what was read.
//
// A descriptor has no name, but programs are known by the name they are started by. So a folder of
// this run alone, which nobody else can enter, has a link of that name to each descriptor. It is also
// what a script finds in $0: its directory is that folder, and its real path is the link's end
// (readlink -f "$0"). A script whose interpreter looks for the real path itself keeps it.
func (b *bound) image(argv []string) (*image, error) {
	if b.exe == nil {
		return b.byPath(argv), nil
	}
	if _, err := os.Lstat("/proc/self/fd"); err != nil {
		return nil, errNoProc
	}
	folder, err := makeFolder()
	if err != nil {
		return nil, err
	}
	i := &image{pass: make([]*os.File, firstPassed-3), from: b.exe.id.Path, argv: slices.Clone(argv)}
	remove := func() { _ = os.RemoveAll(folder) }
	link := func(f *held, word string) string {
		name := filepath.Join(folder, baseOf(word))
		if _, err2 := os.Lstat(name); err2 == nil {
			sub := filepath.Join(folder, strconv.Itoa(len(i.pass)))
			if err2 := os.Mkdir(sub, 0o700); err2 != nil {
				err = errors.Join(err, err2)
			}
			name = filepath.Join(sub, baseOf(word))
		}
		if err2 := os.Symlink(descriptor(3+len(i.pass)), name); err2 != nil {
			err = errors.Join(err, err2)
		}
		i.pass = append(i.pass, f.file)
		return name
	}
	// handed is the name by which a file is given to who reads it.
	handed := func(f *held) string {
		if f.reopened {
			return f.id.Path
		}
		return link(f, f.word)
	}
	if b.script != nil {
		i.argv[b.script.at] = handed(b.script)
	}
	for _, f := range b.inner {
		if f.at > 0 {
			i.argv[f.at] = handed(f)
		}
	}
	run := b.exe
	for n, interpreter := range b.chain {
		i.argv = slices.Concat([]string{interpreter.word}, b.args[n], []string{handed(run)}, i.argv[1:])
		run = interpreter
	}
	i.path = link(run, run.word)
	if err != nil {
		remove()
		return nil, err
	}
	if b.dir != nil {
		i.dir = descriptor(b.dir.file.Fd())
	}
	var timer *time.Timer
	i.began = func() {
		run.release() // the kernel itself keeps others from writing to what runs
		timer = time.AfterFunc(scriptHold, b.release)
	}
	i.close = func() {
		if timer != nil {
			timer.Stop()
		}
		b.release()
		remove()
	}
	return i, nil
}

// exactly starts the very file that path leads to when it is a program; a script is started by its
// path. No component of path but the last may be a link. It fails when that is not so any more.
func exactly(path string, argv []string) (*image, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, reasonOf(err)
	}
	// Boxes of programs are called by links; nothing else may be a link by now.
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil || dir != filepath.Dir(path) || real != path && !slices.Contains(boxes, filepath.Base(real)) {
		return nil, errors.New("it was replaced while it was opened")
	}
	f, err := os.OpenFile(real, os.O_RDONLY|openFlags, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, nil // one may run what one cannot read
	}
	if err != nil {
		return nil, reasonOf(err)
	}
	h := &held{file: f, id: fileID{Path: path}, word: argv[0]}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || !leadsTo(f, info, real) {
		f.Close()
		return nil, errors.New("it was replaced while it was opened")
	}
	if _, _, script := shebang(h.head()); script {
		f.Close()
		return nil, nil
	}
	b := &bound{exe: h}
	i, err := b.image(argv)
	if err != nil {
		f.Close()
		return nil, err
	}
	end := i.close
	i.close = func() {
		end()
		f.Close()
	}
	return i, nil
}
