package service

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// restartQuestion bounds how long a stop waits for systemd to say whether it is a restart.
const restartQuestion = 300 * time.Millisecond

// Notifier tells systemd how the daemon stands (sd_notify(3)). Its zero value tells nobody.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// Restarting reports whether the stop that was asked for is the first half of a restart. Only the service
// manager knows; where none can be asked, the answer is no.
func (n Notifier) Restarting(ctx context.Context) bool {
	if n.socket == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, restartQuestion)
	defer cancel()
	args := []string{"list-jobs", "--no-legend", "--no-pager", "--plain", Name + ".service"}
	if os.Getppid() != 1 { // the manager of a user started us
		args = append([]string{"--user"}, args...)
	}
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	cmd.WaitDelay = restartQuestion
	out, err := cmd.Output()
	return err == nil && slices.Contains(strings.Fields(string(out)), "restart")
}

// TakeNotifier reads where systemd listens from the environment, and takes it out of there: the commands
// that the daemon runs must not speak for it.
func TakeNotifier() Notifier {
	n := Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	if us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && us > 0 {
		if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
			n.watchdog = time.Duration(us) * time.Microsecond
		}
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "INVOCATION_ID", "JOURNAL_STREAM"} {
		_ = os.Unsetenv(name)
	}
	return n
}

// ErrReloading is, or is wrapped by, the cause with which the context of Run ends when the daemon starts
// anew in this process: the service manager then hears that it reloads, and not that it stops.
var ErrReloading = errors.New("the daemon starts anew")

// Run says when the daemon is ready, while it is well, and when it stops, until ctx ends. probe asks the
// daemon a question as a client would; as long as it fails the watchdog hears nothing and in the end
// starts the daemon anew.
func (n Notifier) Run(ctx context.Context, ready <-chan struct{}, status func() string, probe func(context.Context) error, log *slog.Logger) {
	if n.socket == "" {
		return
	}
	select {
	case <-ready:
		n.say(log, "READY=1\nSTATUS="+status())
	case <-ctx.Done():
		return
	}
	defer func() {
		if errors.Is(context.Cause(ctx), ErrReloading) {
			n.say(log, "RELOADING=1\nMONOTONIC_USEC="+monotonic()+"\nSTATUS=starting anew")
			return
		}
		n.say(log, "STOPPING=1\nSTATUS=stopping")
	}()
	if n.watchdog == 0 {
		<-ctx.Done()
		return
	}
	every := n.watchdog / 3
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		asking, cancel := context.WithTimeout(ctx, every)
		err := probe(asking)
		cancel()
		switch {
		case err == nil:
			n.say(log, "WATCHDOG=1\nSTATUS="+status())
		case ctx.Err() == nil:
			log.Warn("the daemon does not answer itself; the service manager starts it anew if that goes on", "error", err, "after", n.watchdog.String())
		}
	}
}

func (n Notifier) say(log *slog.Logger, text string) {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		_, err = c.Write([]byte(text))
		_ = c.Close()
	}
	if err != nil {
		log.Warn("the service manager was not told", "error", err)
	}
}
