package proc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// Form is how a program is built.
type Form int

// The forms: as it is shipped, for what is measured; and like the test itself, which is with the
// race detector when the test has it.
const (
	Shipped Form = iota
	Tested
)

// sources are the programs that are no part of this module. hello is the least that a Go program
// does. peak runs a program and prints the most memory, in the unit of the system, that it was
// resident with: a small parent must do that, because a process inherits the peak of the one that
// forked it.
var sources = map[string]string{
	"hello": `package main

import "os"

func main() { os.Stdout.WriteString("hello\n") }
`,
	"peak": `package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

func main() {
	c := exec.Command(os.Args[1], os.Args[2:]...)
	if out, err := c.CombinedOutput(); err != nil {
		fmt.Printf("%v: %s", err, out)
		os.Exit(1)
	}
	fmt.Println(c.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
}
`,
}

type built struct {
	once sync.Once
	path string
	err  error
}

var (
	dirOnce sync.Once
	dir     string
	dirErr  error
	mu      sync.Mutex
	all     = map[string]*built{}
)

// Main runs the tests of a package, looks for goroutines that are left, and removes what was built. Each of
// after may look at the exit code then and give another.
func Main(m *testing.M, after ...func(code int) int) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		for _, f := range after {
			code = f(code)
		}
		if dir != "" {
			_ = os.RemoveAll(dir) // a temporary directory
		}
		os.Exit(code)
	}))
}

// Build returns the path of a program of this module, built at most once per test run: hanzod,
// hanzoctl, or one of sources.
func Build(tb testing.TB, name string, form Form) string {
	tb.Helper()
	race := form == Tested && Race
	mu.Lock()
	key := fmt.Sprint(name, race)
	b, ok := all[key]
	if !ok {
		b = &built{}
		all[key] = b
	}
	mu.Unlock()
	b.once.Do(func() { b.path, b.err = build(name, race) })
	if b.err != nil {
		tb.Fatal(b.err)
	}
	return b.path
}

// Variant builds hanzod as it is shipped, with more arguments of go build, into a file.
func Variant(tb testing.TB, out string, args ...string) {
	tb.Helper()
	r, err := root()
	if err != nil {
		tb.Fatal(err)
	}
	args = append([]string{"build", "-trimpath", "-o", out}, args...)
	if err := goBuild(r, append(args, "./cmd/hanzod"), append(os.Environ(), "CGO_ENABLED=0")); err != nil {
		tb.Fatal(err)
	}
}

func goBuild(root string, args, env []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = root, env, buildWait
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}

func build(name string, race bool) (string, error) {
	dirOnce.Do(func() { dir, dirErr = os.MkdirTemp("", "hanzod-proc-") })
	if dirErr != nil {
		return "", dirErr
	}
	out := filepath.Join(dir, strconv.FormatBool(race), name)
	target, args, env := "./cmd/"+name, []string{"build", "-ldflags", "-s -w", "-o", out}, append(os.Environ(), "CGO_ENABLED=0")
	if race {
		args, env = append(args, "-race"), append(os.Environ(), "CGO_ENABLED=1")
	} else {
		args = append(args, "-trimpath")
	}
	root, err := root()
	if err != nil {
		return "", err
	}
	if source, ok := sources[name]; ok {
		target = filepath.Join(dir, name+".go")
		if err := os.WriteFile(target, []byte(source), 0o600); err != nil {
			return "", err
		}
	}
	return out, goBuild(root, append(args, target), env)
}

// root is the directory of the module.
func root() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(file) {
		return "", fmt.Errorf("the source of the tests is not where they were built (%q)", file)
	}
	return filepath.Join(filepath.Dir(file), "..", "..", ".."), nil
}

// Root is the directory of the module.
func Root(tb testing.TB) string {
	tb.Helper()
	r, err := root()
	if err != nil {
		tb.Fatal(err)
	}
	return r
}
