//go:build unix

package tech

import (
	"io"
	"log/slog"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// keeper ends the programs of a session when this process was killed: a shell that knows their groups and waits for the
// end of its input.
type keeper struct {
	mu  *sync.Mutex
	in  io.WriteCloser // nil without one
	cmd *exec.Cmd
}

// script takes lines "+ group" and "- group". At the end it kills the groups that are left, and on Linux whatever else is of
// their sessions: a shell under a terminal puts each of its jobs into a group of its own.
const script = `set -f
left=' '
while read -r op id; do
	case $op in
	+) left="$left$id " ;;
	-) case $left in *" $id "*) left="${left%%" $id "*} ${left#*" $id "}" ;; esac ;;
	esac
done
[ "$left" = ' ' ] && exit
if [ -r /proc/self/stat ]; then
	set +f
	for f in /proc/[0-9]*; do
		read -r line 2>/dev/null <"$f/stat" || continue
		set -f
		set -- ${line##*)}
		case $left in *" $4 "*) kill -s KILL "${f#/proc/}" 2>/dev/null ;; esac
		set +f
	done
fi
for id in $left; do kill -s KILL -- "-$id" 2>/dev/null; done
`

func keep(log *slog.Logger) keeper {
	k := keeper{mu: &sync.Mutex{}}
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:noctx // it outlives this process
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends this process by its terminal does not end the keeper
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		log.Warn("programs of a technician session may go on when this process is killed: what would end them could not be started", "err", err)
		return k
	}
	k.in, k.cmd = in, cmd
	return k
}

func (k keeper) add(pid int) { k.tell("+ ", pid) }

func (k keeper) remove(pid int) { k.tell("- ", pid) }

func (k keeper) tell(op string, pid int) {
	if k.in == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_, _ = io.WriteString(k.in, op+strconv.Itoa(pid)+"\n") // it may have been killed
}

// end is for when all programs have ended.
func (k keeper) end() {
	if k.in == nil {
		return
	}
	_ = k.in.Close() // it has nothing left to do
	_ = k.cmd.Wait() // and ends
}

// signalName is what a signal is called, "" for none.
func signalName(n int) string {
	if n <= 0 {
		return ""
	}
	return unix.SignalName(syscall.Signal(n))
}
