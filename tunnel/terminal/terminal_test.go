//go:build linux

package terminal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func manager(t testing.TB, c Config) *Manager {
	t.Helper()
	m := NewManager(c)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			t.Error("the terminals do not end: ", err)
		}
	})
	return m
}

func open(t testing.TB, m *Manager, argv ...string) *Terminal {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		t.Skip("not here: ", argv[0])
	}
	env := Environ([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "PS1=$ ", "TERM=dumb", "LANG=C.UTF-8"}, 100, 30)
	term, err := m.Open(Spec{Path: path, Argv: argv, Env: env, Dir: t.TempDir(), Cols: 100, Rows: 30})
	if err != nil {
		t.Fatal(err)
	}
	return term
}

// screen follows a terminal.
type screen struct {
	t   testing.TB
	v   *Viewer
	all bytes.Buffer
}

func watch(t testing.TB, term *Terminal) *screen {
	t.Helper()
	v, err := term.Feed().Attach(FromStart, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Detach)
	return &screen{t: t, v: v}
}

// until reads until what was read since the last call matches.
func (s *screen) until(pattern string) []string {
	s.t.Helper()
	re := regexp.MustCompile(pattern)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	buf := make([]byte, 32<<10)
	for {
		if at := re.FindSubmatchIndex(s.all.Bytes()); at != nil {
			m := re.FindStringSubmatch(s.all.String())
			s.all.Next(at[1])
			return m
		}
		p, err := s.v.Next(ctx, buf)
		s.all.Write(p.Data)
		if err != nil {
			s.t.Fatalf("no %q but %q: %v", pattern, s.all.String(), err)
		}
	}
}

// rest reads to the end.
func (s *screen) rest() string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	buf := make([]byte, 32<<10)
	for {
		p, err := s.v.Next(ctx, buf)
		s.all.Write(p.Data)
		if errors.Is(err, io.EOF) {
			return s.all.String()
		}
		if err != nil {
			s.t.Fatalf("no end but %q: %v", s.all.String(), err)
		}
	}
}

func typed(t testing.TB, term *Terminal, text string) {
	t.Helper()
	if err := term.Input(context.Background(), []byte(text)); err != nil {
		t.Fatalf("type %q: %v", text, err)
	}
}

func TestTerminalIsOne(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{})
	term := open(t, m, "sh")
	s := watch(t, term)
	s.until(`\$ `)
	typed(t, term, "tty; stty size; echo $TERM $COLUMNS $LINES\n")
	s.until(`/dev/pts/\d+\r\n30 100\r\nxterm-256color 100 30\r\n`)
	if err := term.Resize(132, 43); err != nil {
		t.Fatal(err)
	}
	typed(t, term, "stty size\n")
	s.until(`43 132\r\n`)
	if i := m.List(); len(i) != 1 || i[0].Cols != 132 || i[0].Rows != 43 || i[0].PID <= 0 || i[0].Shell != "sh" || i[0].Viewers != 1 {
		t.Fatalf("the list says %+v", i)
	}
	began := time.Now()
	typed(t, term, "sh -c 'echo sleeps; exec sleep 60'\n")
	s.until(`sleeps\r\n`) // before that, the signal would be the shell's
	typed(t, term, "\x03")
	s.until(`\$ `)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Ctrl-C took %v", took)
	}
	typed(t, term, "exit 7\n")
	s.rest()
	e, ended := term.Feed().Exit()
	if !ended || e.Code == nil || *e.Code != 7 {
		t.Fatalf("exit %+v, ended %v", e, ended)
	}
	if len(m.List()) != 0 {
		t.Fatal("an ended terminal is listed")
	}
	if err := term.Input(t.Context(), []byte("x")); !errors.Is(err, ErrEnded) {
		t.Errorf("input after the end: %v", err)
	}
	if err := term.Resize(1, 1); !errors.Is(err, ErrEnded) {
		t.Errorf("resize after the end: %v", err)
	}
	if _, err := m.Get(term.ID()); err != nil {
		t.Errorf("the last output is gone already: %v", err)
	}
}

// A program learns of another size by a signal.
func TestResizeIsSignalled(t *testing.T) {
	t.Parallel()
	term := open(t, manager(t, Config{}), "sh", "-c", `trap 'echo now $(stty size); exit' WINCH; echo ready; while :; do sleep 0.05; done`)
	s := watch(t, term)
	s.until("ready")
	if err := term.Resize(90, 20); err != nil {
		t.Fatal(err)
	}
	s.until(`now 20 90`)
}

func TestShells(t *testing.T) {
	t.Parallel()
	for name, argv := range map[string][]string{
		"bash": {"bash", "--norc", "--noprofile"}, "sh": {"sh"}, "zsh": {"zsh", "-f"}, "fish": {"fish", "--no-config"}, "dash": {"dash"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := manager(t, Config{})
			term := open(t, m, argv...)
			s := watch(t, term)
			if name == "fish" {
				typed(t, term, "echo h\"i\"(math 40+2)\n")
			} else {
				typed(t, term, "echo h\"i\"$((40+2))\n")
			}
			s.until(`hi42`)
			// Job control: stop a job, see it, take it back, interrupt it.
			if name == "bash" || name == "zsh" {
				typed(t, term, "sleep 50\n")
				s.until(`sleep 50`)
				untilForeground(t, term, "sleep")
				typed(t, term, "\x1a")
				s.until(`(?i)(stopped|suspended)`)
				typed(t, term, "jobs\n")
				s.until(`(?i)(stopped|suspended).*sleep 50`)
				typed(t, term, "fg\n")
				s.until(`sleep 50`)
				untilForeground(t, term, "sleep")
				typed(t, term, "\x03")
			}
			typed(t, term, "exit 5\n")
			s.rest()
			if e, _ := term.Feed().Exit(); e.Code == nil || *e.Code != 5 {
				t.Fatalf("exit %+v", e)
			}
		})
	}
}

// untilForeground waits until the named program is a child in the foreground.
func untilForeground(t *testing.T, term *Terminal, name string) {
	t.Helper()
	for range 2000 {
		fg := 0
		_ = term.dev.(*ptyDevice).control(func(fd int) error { fg, _ = foreground(fd); return nil })
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", fg))
		if strings.TrimSpace(string(comm)) == name {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never in the foreground: ", name)
}

func TestEditorDraws(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{})
	term := open(t, m, "vi", "-u", "NONE", "new.txt")
	s := watch(t, term)
	s.until(`~`) // lines behind the end
	typed(t, term, "ihello from here\x1b:wq\r")
	s.rest()
	got, err := os.ReadFile(filepath.Join(term.Info().Dir, "new.txt"))
	if err != nil || string(got) != "hello from here\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

// The end comes after the last byte, with the code or the signal, also when a child still holds the terminal.
func TestExitIsAfterTheLastByte(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{})
	for range 20 {
		term := open(t, m, "sh", "-c", `seq 1 5000; printf last; exit 3`)
		if out := watch(t, term).rest(); !strings.HasSuffix(out, "5000\r\nlast") {
			t.Fatalf("the end is %q", out[max(0, len(out)-40):])
		}
		if e, _ := term.Feed().Exit(); e.Code == nil || *e.Code != 3 {
			t.Fatalf("exit %+v", e)
		}
	}
	term := open(t, m, "sh", "-c", `trap '' HUP; sleep 3 & printf "%s" last; kill -9 $$`)
	began := time.Now()
	if out := watch(t, term).rest(); !strings.HasSuffix(out, "last") || time.Since(began) > 2*time.Second+drainQuiet {
		t.Fatalf("%q after %v", out, time.Since(began))
	}
	if e, _ := term.Feed().Exit(); e.Code != nil || e.Signal != "SIGKILL" {
		t.Fatalf("exit %+v", e)
	}
}

// What a program does not read waits, up to a limit, and stops nobody else.
func TestPasteIntoWhoDoesNotRead(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{Grace: [2]time.Duration{100 * time.Millisecond, 300 * time.Millisecond}})
	deaf := open(t, m, "sh", "-c", "stty raw -echo; echo ready; exec sleep 100")
	watch(t, deaf).until("ready")
	other := open(t, m, "cat")
	paste := bytes.Repeat([]byte("0123456789abcdef"), MaxInput/16)
	if err := deaf.Input(t.Context(), paste); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := deaf.Input(ctx, paste); !errors.Is(err, ErrInput) {
		t.Fatalf("a second paste: %v", err)
	}
	if err := deaf.Input(t.Context(), append(paste, 'x')); err == nil {
		t.Fatal("more than the limit was taken")
	}
	began := time.Now()
	typed(t, other, "still here\n")
	watch(t, other).until(`still here\r\nstill here\r\n`)
	if err := deaf.Resize(50, 50); err != nil {
		t.Fatal(err)
	}
	if len(m.List()) != 2 || time.Since(began) > 5*time.Second {
		t.Fatalf("others waited %v", time.Since(began))
	}
	deaf.Close()
	watch(t, deaf).rest()
}

// All of a large paste arrives in order.
func TestPasteArrives(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{})
	term := open(t, m, "sh", "-c", "stty raw -echo; echo ready; head -c 3000000 | cksum")
	s := watch(t, term)
	s.until("ready")
	want := run(0, 3_000_000)
	for p := want; len(p) > 0; p = p[100_000:] {
		if err := term.Input(t.Context(), p[:100_000]); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("cksum")
	cmd.Stdin = bytes.NewReader(want)
	sum, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := s.rest(); !strings.Contains(got, strings.TrimSpace(string(sum))) {
		t.Fatalf("got %q, want %q", got, sum)
	}
}

// Everything of the session ends: what ignores SIGHUP, what ignores SIGTERM too, and what has a group of its own.
func TestCloseEndsEverything(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{Grace: [2]time.Duration{200 * time.Millisecond, 500 * time.Millisecond}})
	for name, script := range map[string]string{
		"plain":         `sleep 100 & echo child $! .; sleep 100`,
		"ignores HUP":   `trap "" HUP; sleep 100 & echo child $! .; sleep 100; sleep 100`,
		"ignores both":  `trap "" HUP TERM; sleep 100 & echo child $! .; while :; do sleep 100; done`,
		"own group":     `set -m; (trap "" HUP TERM; sleep 100; sleep 100) & echo child $! .; wait`,
		"leaves a loop": `(trap "" HUP; sleep 100) & echo child $! .; sleep 0.3; exit 0`,
	} {
		t.Run(name, func(t *testing.T) {
			term := open(t, m, "bash", "-c", script)
			s := watch(t, term)
			child, _ := strconv.Atoi(s.until(`child (\d+) \.`)[1])
			term.Close()
			term.Close()
			began := time.Now()
			s.rest()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("it took %v", took)
			}
			for _, pid := range []int{term.Info().PID, child} {
				for range 200 {
					if syscall.Kill(pid, 0) != nil {
						break
					}
					if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(stat, []byte(") Z")) && pid == child {
						break // nobody here reaps for a foreign parent
					}
					time.Sleep(5 * time.Millisecond)
				}
				if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); len(stat) > 0 && !bytes.Contains(stat, []byte(") Z")) {
					t.Errorf("%d lives on: %s", pid, stat)
				}
			}
		})
	}
}

// A program that ends at once leaves no entry, no zombie and no descriptor.
func TestNoGhostsNoLeaks(t *testing.T) {
	m := manager(t, Config{Linger: time.Millisecond, Max: 1000})
	fds := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Skip("no /proc")
		}
		return len(names)
	}
	run := func(n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				term, err := m.Open(Spec{Path: "/bin/true", Argv: []string{"true"}})
				if err != nil {
					t.Error(err)
					return
				}
				<-term.Feed().Done()
			})
		}
		wg.Wait()
	}
	run(5)
	before := fds()
	run(60)
	for range 400 {
		m.mu.Lock()
		left := len(m.all)
		m.mu.Unlock()
		if left == 0 && fds() <= before {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n := fds(); n > before || len(m.List()) != 0 {
		t.Errorf("%d descriptors, before %d; listed %v", n, before, m.List())
	}
	if out, _ := exec.Command("ps", "--ppid", fmt.Sprint(os.Getpid()), "-o", "stat=,comm=").Output(); regexp.MustCompile(`(?m)^Z.*true`).Match(out) {
		t.Errorf("zombies:\n%s", out)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{Max: 2, Orphan: 300 * time.Millisecond, Grace: [2]time.Duration{50 * time.Millisecond, 100 * time.Millisecond}})
	a, _ := open(t, m, "sleep", "100"), open(t, m, "sleep", "100")
	if _, err := m.Open(Spec{Path: "/bin/true", Argv: []string{"true"}}); !errors.Is(err, ErrTooMany) {
		t.Fatalf("a third: %v", err)
	}
	if _, err := m.Get("x"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	release := a.Hold()
	select {
	case <-a.Feed().Done():
		t.Fatal("a terminal in use was closed")
	case <-time.After(900 * time.Millisecond):
	}
	if n := len(m.List()); n != 1 {
		t.Fatalf("%d terminals, the orphan among them", n)
	}
	release()
	select {
	case <-a.Feed().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("an orphan lives on")
	}
	if _, err := m.Open(Spec{Path: "/nowhere/at/all", Argv: []string{"x"}}); !errors.Is(err, ErrSpawn) {
		t.Fatal(err)
	}
}

// BenchmarkEcho is one key to cat and back: the cost of a terminal alone.
func BenchmarkEcho(b *testing.B) {
	m := manager(b, Config{Grace: [2]time.Duration{10 * time.Millisecond, 20 * time.Millisecond}})
	term := open(b, m, "sh", "-c", "stty raw echo; printf ready.; exec cat >/dev/null")
	v, err := term.Feed().Attach(FromStart, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Detach()
	buf := make([]byte, 4096)
	for got := ""; !strings.Contains(got, "ready."); {
		p, err := v.Next(context.Background(), buf)
		if err != nil {
			b.Fatal(err)
		}
		got += string(p.Data)
	}
	key := []byte("k")
	for b.Loop() {
		if err := term.Input(context.Background(), key); err != nil {
			b.Fatal(err)
		}
		if _, err := v.Next(context.Background(), buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlood is what a program writes as fast as it can.
func BenchmarkFlood(b *testing.B) {
	m := manager(b, Config{Grace: [2]time.Duration{10 * time.Millisecond, 20 * time.Millisecond}})
	term := open(b, m, "sh", "-c", "stty raw; exec cat /dev/zero")
	v, err := term.Feed().Attach(FromStart, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer v.Detach()
	buf := make([]byte, 32<<10)
	b.SetBytes(1 << 20)
	for b.Loop() {
		for n := 0; n < 1<<20; {
			p, err := v.Next(context.Background(), buf)
			if err != nil {
				b.Fatal(err)
			}
			n += len(p.Data)
		}
	}
}
