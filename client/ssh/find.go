package ssh

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/hanzoai/hanzod/client"
)

// place is where the daemon is on the machine.
type place struct {
	socket string // "" when only hanzod there can tell
	// program is the daemon's own program, as its discovery file names it.
	program string
	port    int
	// about says for people where was looked.
	about string
	// none says that nothing is at the socket, and foreign why it is not to be trusted.
	none    bool
	foreign string
	// shell says that there is a POSIX shell.
	shell bool
}

// questions is the script that tells where the daemon is. A POSIX shell reads it as its input, so that the
// login shell there, whatever it is, only has to start "sh". It prints facts between two marks, because
// login shells may print something too. It follows the rule of client.Find.
const questions = `
echo "$mark"
home=$HOME
test -n "$dir" || for v in "$HANZOD_STATE_DIR" "$OPENCLAW_STATE_DIR" "$CLAWDBOT_STATE_DIR"; do
  test -n "$dir" || dir=$v
done
named=$dir
case "$dir" in
"") dir=$home/.hanzo/hanzod ;;
"~") dir=$home ;;
"~/"*) dir=$home/${dir#"~/"} ;;
esac
test -n "$given" || given=$HANZOD_SOCKET
file=$dir/daemon.json
uid=$(id -u)
run=${XDG_RUNTIME_DIR:-/run/user/$uid}
if test -z "$named$given" && ! test -S "$dir/hanzod.sock" && ! test -f "$file"; then
  for f in "$run/hanzod/daemon.json" "$home/Library/Caches/hanzod/daemon.json"; do
    if test -f "$f" && test -O "$f"; then file=$f; break; fi
  done
fi
echo "uid=$uid"
echo "given=$given"
echo "dir=$dir"
look=$given
if test -z "$look"; then
  look=$(sed -n 's/.*"socket"[[:space:]]*:[[:space:]]*"\([^"]*\)".*/\1/p' "$file" 2>/dev/null | head -n 1)
  test -n "$look" || look=$dir/hanzod.sock
fi
echo "look=$look"
echo "socket=$(ls -ldnL "$look" 2>/dev/null)"
echo "parent=$(ls -ldnL "${look%/*}" 2>/dev/null)"
if test -z "$given" && test -f "$file"; then
  echo "file"
  head -c 16384 "$file"
  echo
fi
echo "$mark"
`

// find asks the machine where the daemon is, with one program that is run there.
func (h *Host) find(ctx context.Context) (*place, error) {
	h.d.tell(StepFind, "the daemon's socket on "+h.d.plan.target().name())
	mark := "hanzod-" + nonce()
	script := "mark=" + mark + "\ndir=" + quote(h.dir) + "\ngiven=" + quote(h.socket) + "\n" + questions
	out, err := h.run(ctx, "sh", script)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code != CodeRefused {
		return nil, err
	}
	facts, ok := between(out, mark)
	if !ok {
		// There is no POSIX shell, or no program may be run.
		return &place{socket: h.socket, about: "its socket"}, nil
	}
	return h.readFacts(facts)
}

// run runs a program there with an input, and returns what it prints, bounded.
func (h *Host) run(ctx context.Context, command, input string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	l, ch, reqs, err := h.session(ctx)
	if err != nil {
		return nil, err
	}
	l.spawn(func() {
		defer l.free()
		ssh.DiscardRequests(reqs)
	})
	l.spawn(func() { _, _ = io.Copy(io.Discard, ch.Stderr()) }) // what a login shell says there is of no use
	stop := l.limit(ctx, ch)
	defer func() {
		stop()
		_ = ch.Close() // it has ended
	}()
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{command})); err != nil || !ok {
		return nil, err // refused: it prints nothing
	}
	l.spawn(func() {
		_, _ = io.WriteString(ch, input) // a program that does not read it prints no facts
		_ = ch.CloseWrite()              // the same
	})
	out, err := io.ReadAll(io.LimitReader(ch, maxFacts))
	if ctx.Err() != nil {
		return nil, with(fail(StepFind, CodeUnreachable, client.Unavailable, fmt.Sprintf(
			"%s did not say within %s where its daemon is; look whether the login shell there waits for something, or name the socket",
			h.d.plan.target().name(), openTime)), ctx.Err())
	}
	return out, err
}

// between returns the lines between two marks.
func between(out []byte, mark string) (string, bool) {
	_, rest, ok := bytes.Cut(out, []byte(mark+"\n"))
	if !ok {
		return "", false
	}
	facts, _, ok := bytes.Cut(rest, []byte("\n"+mark))
	return string(facts), ok
}

// readFacts reads what the script printed.
func (h *Host) readFacts(facts string) (*place, error) {
	p := &place{shell: true}
	head, file, _ := strings.Cut(facts+"\n", "\nfile\n")
	got := map[string]string{}
	for line := range strings.Lines(head) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		got[key] = value
	}
	p.socket = got["look"]
	p.about = plain(p.socket)
	if d, err := client.ParseDiscovery([]byte(file)); file != "" && err == nil {
		p.port = d.Port
		// A program of another name has the daemon inside it, and may do anything with our arguments.
		if path.Base(d.Executable) == "hanzod" {
			p.program = d.Executable
		}
		if got["given"] == "" {
			p.socket = d.Socket
		}
	}
	if p.socket != got["look"] || !path.IsAbs(p.socket) || len(p.socket) > maxSocket {
		p.socket = "" // hanzod there knows by which rule it is to be found
		return p, nil
	}
	self := got["uid"]
	// A socket in the short form of a long path may be below a directory that everybody can write.
	switch kind, owner, ok := listed(got["socket"]); {
	case !ok:
		p.none = true
	case kind != 's':
		p.foreign = p.about + " is no socket"
	case owner != self && owner != "0":
		p.foreign = p.about + " belongs to user " + owner
	default:
		if _, above, ok := listed(got["parent"]); ok && above != self && above != "0" {
			p.foreign = "the directory of " + p.about + " belongs to user " + above
		}
	}
	return p, nil
}

// listed reads a line of "ls -ldn": the kind of the file and its owner, by number.
func listed(line string) (kind byte, owner string, ok bool) {
	f := strings.Fields(line)
	if len(f) < 4 || len(f[0]) < 10 {
		return 0, "", false
	}
	if _, err := strconv.ParseUint(f[2], 10, 32); err != nil {
		return 0, "", false
	}
	return f[0][0], f[2], true
}

// quote makes one word of a text for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func nonce() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}
