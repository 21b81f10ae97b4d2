package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

const (
	// maxUnsent bounds what was typed and not sent yet. Of a person, what is beyond it is dropped and told; a file is not
	// read further.
	maxUnsent = 1 << 20
	// typedPiece is how much is sent at once.
	typedPiece = 16 << 10
	// scriptPatience is how long a lost daemon is waited for when nobody sits here to leave.
	scriptPatience = time.Minute
	// resetScreen takes back what a program may have set and not reset: colours, a hidden cursor, the mouse, keys of
	// its own, bracketed paste.
	resetScreen = "\x1b[0m\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1l\x1b>\x1b[?2004l"
	// leaveScreen leaves the screen of full-screen programs.
	leaveScreen = "\x1b[?1049l"
)

// terminalView joins this process to a terminal of a node.
type terminalView struct {
	a        *app
	c        *client.Client
	id       string
	from     *int64 // nil is all that is kept
	fromEnd  bool
	readOnly bool
	rec      *recording
	escape   byte // 0 is none

	raw    bool
	screen screenState

	mu    sync.Mutex
	typed []byte // waits for the daemon
	room  chan struct{}
	news  chan struct{}
	lost  bool // some of what was typed was dropped, and that was told

	end context.CancelCauseFunc
}

// Why a view ended on this side.
var (
	errLeft = errors.New("left")
	errHung = errors.New("the terminal of this program is gone")
)

// run joins the terminal until its program ends, the person leaves, or nothing can be reached any more. The
// terminal of this process is as it was before when it returns, and also when something panics.
func (v *terminalView) run(ctx context.Context) (err error) {
	ctx, v.end = context.WithCancelCause(ctx)
	defer v.end(nil)
	v.room, v.news = make(chan struct{}, 1), make(chan struct{}, 1)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	go func() {
		select {
		case <-hup:
			v.end(errHung)
		case <-ctx.Done():
		}
	}()

	in := v.a.stdin
	if isTerminal(in) && !v.readOnly {
		old, err := term.MakeRaw(int(in.Fd()))
		if err != nil {
			return fmt.Errorf("set up the terminal: %w", err)
		}
		v.raw = true
		defer func() { _ = term.Restore(int(in.Fd()), old) }() // nothing else can be done about it
	}
	if isTerminal(v.a.stdout) {
		defer func() {
			switch {
			case v.screen.alternate:
				io.WriteString(v.a.stdout, leaveScreen+resetScreen)
			case err != nil || context.Cause(ctx) != nil: // the program has not put it in order itself
				io.WriteString(v.a.stdout, resetScreen)
			}
		}()
	}
	if !v.readOnly {
		go v.guard(func() { v.keys(ctx) })
	}
	exit, err := v.follow(ctx)
	v.rec.flush()
	switch cause := context.Cause(ctx); {
	case exit != nil:
		return exitOfTerminal(exit)
	case errors.Is(cause, errLeft), errors.Is(cause, errHung):
		v.note("left; the program goes on")
		v.hint()
		if errors.Is(cause, errHung) {
			return &codeError{code: exitSignal + signals["HUP"]}
		}
		return nil
	case errors.As(cause, new(*panicked)):
		return cause
	case ctx.Err() != nil:
		v.note("interrupted; the program goes on")
		v.hint()
		return &codeError{code: exitInt}
	}
	return err
}

func (v *terminalView) hint() {
	short := shortID(v.id)
	v.note(fmt.Sprintf("join it again with: %s terminal attach %s", v.a.again(), short))
	v.note(fmt.Sprintf("end it with: %s terminal kill %s", v.a.again(), short))
}

// note tells the person something, on a line of its own.
func (v *terminalView) note(text string) {
	if v.raw {
		fmt.Fprintf(v.a.stderr, "\r\n[%s]\r\n", text)
		return
	}
	fmt.Fprintln(v.a.stderr, text)
}

// panicked is a panic in a goroutine of a view.
type panicked struct{ text string }

func (e *panicked) Error() string { return e.text }

// guard turns a panic into the end of the view, so that the terminal is restored before the program ends.
func (v *terminalView) guard(f func()) {
	defer func() {
		if p := recover(); p != nil {
			v.end(&panicked{fmt.Sprintf("a fault of hanzoctl: %v\n%s", p, debug.Stack())})
		}
	}()
	f()
}

func exitOfTerminal(e *tunnelv1.TerminalExit) error {
	switch {
	case e.Code != nil && e.GetCode() == 0:
		return nil
	case e.Code != nil:
		return &codeError{code: int(e.GetCode()) & 0xff, final: true}
	case e.GetSignal() != "":
		return &codeError{code: exitSignal + signalNumber(e.GetSignal()), text: "the program was ended by " + Text(e.GetSignal()), final: true}
	case e.GetReason() != "":
		return &codeError{code: exitUnknown, text: "nobody knows how the program ended: " + Text(e.GetReason())}
	}
	return &codeError{code: exitUnknown, text: "nobody knows how the program ended"}
}

// follow stays joined, also over connections that are lost.
func (v *terminalView) follow(ctx context.Context) (*tunnelv1.TerminalExit, error) {
	pause, since := resumeFirst, time.Time{}
	for {
		joined := false
		exit, err := v.join(ctx, func() {
			joined = true
			if !since.IsZero() {
				v.note("joined again")
			}
		})
		if exit != nil || ctx.Err() != nil {
			return exit, err
		}
		if !client.Passing(err) {
			return nil, err
		}
		if joined {
			pause, since = resumeFirst, time.Time{}
		}
		switch {
		case since.IsZero():
			since = time.Now()
			how := ""
			if v.raw && v.escape != 0 {
				how = fmt.Sprintf(", or leave with %s.", escapeName(v.escape))
			}
			v.note("the connection to the daemon was lost; waiting for it to come back" + how)
		case !v.raw && time.Since(since) > scriptPatience:
			return nil, err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
		pause = min(2*pause, resumeMax)
	}
}

// join is one connection. It returns the exit of the program, or why the connection ended.
func (v *terminalView) join(ctx context.Context, joined func()) (*tunnelv1.TerminalExit, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	s, err := v.c.Terminals.Attach(ctx)
	if err != nil {
		return nil, err
	}
	first := &tunnelv1.TerminalAttach{TerminalId: v.id, From: v.from, FromEnd: v.fromEnd, ReadOnly: v.readOnly, Record: v.rec != nil}
	if err := s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Attach{Attach: first}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = &client.Error{Code: client.CodeLost, Class: client.Unavailable, Message: "the daemon ended the connection"}
			}
			return nil, err
		}
		switch m := m.GetMessage().(type) {
		case *tunnelv1.TerminalServiceAttachResponse_Attached:
			joined()
			seq := m.Attached.GetSeq()
			v.from, v.fromEnd = &seq, false
			if !v.readOnly {
				wg.Go(func() { v.guard(func() { v.send(ctx, s) }) })
			}
		case *tunnelv1.TerminalServiceAttachResponse_Output:
			if err := v.output(m.Output); err != nil {
				return nil, err
			}
		case *tunnelv1.TerminalServiceAttachResponse_Missed:
			v.note(fmt.Sprintf("%d bytes of output were lost: this program was too slow or too long away", m.Missed.GetBytes()))
		case *tunnelv1.TerminalServiceAttachResponse_Link:
			if m.Link.GetConnected() {
				v.note("the node is back")
			} else {
				v.note("the node is not connected; waiting for it to come back")
			}
		case *tunnelv1.TerminalServiceAttachResponse_Exit:
			return m.Exit, nil
		}
	}
}

func (v *terminalView) output(o *tunnelv1.TerminalOutput) error {
	b := o.GetData()
	if err := v.rec.output(b); err != nil {
		return &codeError{code: exitFailed, text: "the recording cannot be written: " + err.Error()}
	}
	v.screen.see(b)
	if _, err := v.a.stdout.Write(b); err != nil {
		return &codeError{code: exitFailed, text: "the output cannot be written: " + err.Error()}
	}
	next := o.GetSeq() + int64(len(b))
	v.from = &next
	return nil
}

// send sends what is typed, and sizes, until ctx ends or the connection does, which the reader sees.
func (v *terminalView) send(ctx context.Context, s tunnelv1.TerminalService_AttachClient) {
	sizes, stop := resizes()
	defer stop()
	resize := func() error {
		if !isTerminal(v.a.stdin) && !isTerminal(v.a.stdout) {
			return nil
		}
		cols, rows := v.a.size()
		v.rec.resize(cols, rows)
		return s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Resize{Resize: &tunnelv1.TerminalSize{Cols: uint32(cols), Rows: uint32(rows)}}})
	}
	err := resize()
	for err == nil {
		v.mu.Lock()
		p := v.typed[:min(len(v.typed), typedPiece)]
		if v.typed = v.typed[len(p):]; len(v.typed) == 0 {
			v.typed = nil
		}
		v.mu.Unlock()
		if len(p) > 0 {
			poke(v.room)
			err = s.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Input{Input: p}})
			continue
		}
		select {
		case <-v.news:
		case <-sizes:
			err = resize()
		case <-ctx.Done():
			return
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// keys reads what is typed here until ctx ends.
func (v *terminalView) keys(ctx context.Context) {
	esc := escapes{char: v.escape, fresh: true}
	if !v.raw {
		esc.char = 0
	}
	buf := make([]byte, typedPiece)
	last := byte('\n')
	for ctx.Err() == nil {
		if v.raw {
			if ready, err := waitInput(v.a.stdin); err == nil && !ready {
				continue
			}
		}
		n, err := v.a.stdin.Read(buf)
		if n > 0 {
			text, act := esc.take(buf[:n])
			if len(text) > 0 {
				last = text[len(text)-1]
				v.add(ctx, text)
			}
			switch act {
			case escapeLeave:
				v.end(errLeft)
				return
			case escapeHelp:
				c := escapeName(v.escape)
				v.note(strings.Join([]string{c + ".  leave; the program goes on", c + "?  this help", c + c + "  type " + c}, "]\r\n["))
			}
		}
		if err != nil {
			if v.raw {
				v.end(errHung)
				return
			}
			// The end of a file is what a person types as the end of input; after a line that is not complete it takes
			// two.
			end := []byte{4}
			if last != '\n' {
				end = []byte{4, 4}
			}
			v.add(ctx, end)
			return
		}
	}
}

// add queues what was typed.
func (v *terminalView) add(ctx context.Context, text []byte) {
	for {
		v.mu.Lock()
		fits := len(v.typed)+len(text) <= maxUnsent
		if fits {
			v.typed = append(v.typed, text...)
			v.lost = false
		}
		tell := !fits && v.raw && !v.lost
		v.lost = v.lost || tell
		v.mu.Unlock()
		switch {
		case fits:
			poke(v.news)
			return
		case tell:
			v.note("the program does not read; what is typed now is dropped")
			return
		case v.raw:
			return
		}
		select {
		case <-v.room:
		case <-ctx.Done():
			return
		}
	}
}

// What the person wants of this program.
const (
	escapeNone = iota
	escapeLeave
	escapeHelp
)

// escapes finds the commands to this program in what is typed, as ssh does: behind the character at the start of
// a line.
type escapes struct {
	char  byte
	fresh bool // a line begins
	held  bool // the character was typed
}

// take returns what is to be sent of b, and the first command in it; what follows a command that leaves is
// dropped.
func (e *escapes) take(b []byte) (text []byte, act int) {
	if e.char == 0 {
		return b, escapeNone
	}
	for _, c := range b {
		if e.held {
			e.held = false
			switch c {
			case '.':
				return text, escapeLeave
			case '?':
				act, e.fresh = escapeHelp, true
				continue
			case e.char:
				text, e.fresh = append(text, c), false
				continue
			}
			text = append(text, e.char)
		} else if e.fresh && c == e.char {
			e.held = true
			continue
		}
		text = append(text, c)
		e.fresh = c == '\r' || c == '\n'
	}
	return text, act
}

func escapeName(c byte) string {
	if c < ' ' {
		return "^" + string(rune(c+'@'))
	}
	return string(rune(c))
}

// screenState follows whether a program has taken the whole screen.
type screenState struct {
	alternate bool
	tail      []byte // of the output before, where a sequence may begin
}

func (s *screenState) see(b []byte) {
	const longest = len("\x1b[?1049h")
	if len(s.tail) == 0 && bytes.IndexByte(b, 0x1b) < 0 {
		return
	}
	all := append(s.tail, b...)
	on, off := -1, -1
	for _, n := range []string{"1049", "1047", "47"} {
		on = max(on, bytes.LastIndex(all, []byte("\x1b[?"+n+"h")))
		off = max(off, bytes.LastIndex(all, []byte("\x1b[?"+n+"l")))
	}
	if on >= 0 || off >= 0 {
		s.alternate = on > off
	}
	s.tail = s.tail[:0]
	if i := bytes.LastIndexByte(all, 0x1b); i >= 0 && len(all)-i < longest {
		s.tail = append([]byte(nil), all[i:]...)
	}
}
