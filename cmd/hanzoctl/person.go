package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

// maxAnswer bounds what a person types into one line, in bytes.
const maxAnswer = 4096

// errNoAnswer says that a person gave up: end of input, or an interrupt.
var errNoAnswer = errors.New("no answer was given")

// person is whoever sits at the terminal of this process. It is used by one goroutine at a time.
type person struct {
	in, out *os.File
	own     bool // the files are to be closed
	steps   *progress
}

// person finds who can be asked: the terminal of this process, whatever its input and output are connected
// to. It is nil without one, and where neither of them shows that somebody is there.
func (a *app) person() *person {
	if a.silent || !isTerminal(a.stdin) && !isTerminal(a.stderr) {
		return nil
	}
	p := &person{steps: &a.steps}
	if in, out, err := openTerminal(); err == nil {
		p.in, p.out, p.own = in, out, true
	} else if isTerminal(a.stdin) && isTerminal(a.stderr) {
		p.in, p.out = a.stdin, a.stderr
	} else {
		return nil
	}
	p.steps.hold(true)
	return p
}

func (p *person) close() {
	p.steps.hold(false)
	if p.own {
		_ = errors.Join(p.in.Close(), p.out.Close()) // nothing is left in them
	}
}

// say shows a text. What others wrote in it was made safe by the caller.
func (p *person) say(text string) {
	fmt.Fprintln(p.out, text)
}

// line asks for a line.
func (p *person) line(ctx context.Context, question string) (string, error) {
	return p.read(ctx, question, true)
}

// read asks for a line, which is not shown without echo. It reads key by key, so that an interrupt ends it and no more is taken from the terminal than the line.
func (p *person) read(ctx context.Context, question string, echo bool) (string, error) {
	old, err := term.MakeRaw(int(p.in.Fd()))
	if err != nil {
		return "", fmt.Errorf("set up the terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(p.in.Fd()), old) }()
	io.WriteString(p.out, question)
	defer io.WriteString(p.out, "\r\n")
	var line []byte
	buf := make([]byte, 1)
	for {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		ready, err := waitInput(p.in)
		if err != nil {
			return "", err
		}
		if !ready {
			continue
		}
		if n, err := p.in.Read(buf); err != nil || n == 0 {
			return "", errNoAnswer
		}
		switch c := buf[0]; {
		case c == '\r' || c == '\n':
			if echo {
				return strings.TrimSpace(string(line)), nil
			}
			return string(line), nil
		case c == 3 || c == 4 && len(line) == 0:
			return "", errNoAnswer
		case c == 0x7f || c == 8:
			if len(line) == 0 {
				continue
			}
			_, n := utf8.DecodeLastRune(line)
			if line = line[:len(line)-n]; echo {
				io.WriteString(p.out, "\b \b")
			}
		case c == 21: // Ctrl-U
			if echo {
				io.WriteString(p.out, strings.Repeat("\b \b", len(line)))
			}
			line = line[:0]
		case c >= ' ' && len(line) < maxAnswer && (!echo || c < 0x7f):
			line = append(line, c)
			if echo {
				_, _ = p.out.Write(buf) // a terminal that is gone fails in the next read
			}
		}
	}
}
