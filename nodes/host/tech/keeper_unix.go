//go:build unix

package tech

import (
	"crypto/rand"
	"io"
	"log/slog"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// keeper ends the programs of a session when this process was killed: a shell that knows what runs and waits for the end of its
// input. It is started before the first of them.
type keeper struct {
	log *slog.Logger

	mu      sync.Mutex
	started bool
	in      io.WriteCloser // nil without one
	cmd     *exec.Cmd
}

func keep(log *slog.Logger) *keeper { return &keeper{log: log} }

// runVariable tells what belongs to a command or a terminal, also where it has left its group and its session, and before its
// number is known here.
const runVariable = "TECH_RUN_ID"

// script takes lines "+ id" and "- id"; an id is a group, or a value of runVariable. At the end it kills what is left of them, and
// on Linux whatever else is of the sessions of these groups: a shell under a terminal puts each of its jobs into a group of its own.
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
	for round in 1 2 3 4 5; do
		found=
		for id in $left; do
			case $id in t*) ;; *) continue ;; esac
			for f in $(grep -lsF "` + runVariable + `=$id" /proc/[0-9]*/environ); do
				f=${f#/proc/}
				kill -s KILL "${f%/environ}" 2>/dev/null && found=1
			done
		done
		[ "$found" ] || break
	done
fi
for id in $left; do
	case $id in t*) ;; *) kill -s KILL -- "-$id" 2>/dev/null ;; esac
done
`

// ready makes sure that there is one, before something is started that it is to know of.
func (k *keeper) ready() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.started {
		return
	}
	k.started = true
	cmd := exec.Command("/bin/sh", "-c", script) //nolint:noctx // it outlives this process
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what ends this process by its terminal does not end the keeper
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		k.log.Warn("programs of a technician session may go on when this process is killed: what would end them could not be started", "err", err)
		return
	}
	k.in, k.cmd = in, cmd
}

// begin tells of something that is about to start, and returns the variable for its environment. started tells its number, and
// ended that it has ended, or did not start.
func (k *keeper) begin() *kept {
	k.ready()
	p := &kept{k: k, id: "t" + rand.Text()}
	k.tell("+ ", p.id)
	return p
}

// kept is something that a keeper knows of.
type kept struct {
	k   *keeper
	id  string
	pid int
}

func (p *kept) variable() string { return runVariable + "=" + p.id }

func (p *kept) started(pid int) {
	p.pid = pid
	p.k.tell("+ ", strconv.Itoa(pid))
}

func (p *kept) ended() {
	p.k.tell("- ", p.id)
	if p.pid != 0 {
		p.k.tell("- ", strconv.Itoa(p.pid))
	}
}

func (k *keeper) tell(op, id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.in != nil {
		_, _ = io.WriteString(k.in, op+id+"\n") // it may have been killed
	}
}

// end is for when all programs have ended.
func (k *keeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.in != nil {
		_ = k.in.Close() // it has nothing left to do
		_ = k.cmd.Wait() // and ends
	}
}

// signalName is what a signal is called, "" for none.
func signalName(n int) string {
	if n <= 0 {
		return ""
	}
	return unix.SignalName(syscall.Signal(n))
}
