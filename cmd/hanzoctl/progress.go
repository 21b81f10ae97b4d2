package main

import (
	"io"
	"os"
	"sync"
	"time"
)

// progressAfter is how long a connection may take before the terminal says what it is about.
const progressAfter = 400 * time.Millisecond

// progress shows on a terminal where a slow connection is. The zero value shows nothing. Its methods may be
// called by several goroutines.
type progress struct {
	mu    sync.Mutex
	out   *os.File // nil while nothing is to be shown
	timer *time.Timer
	text  string
	shown bool
	held  bool // a person is being asked, on the same terminal
}

// begin shows steps on a terminal from now on, once it has taken some time; the returned function ends it.
func (p *progress) begin(out *os.File, text string) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out, p.text = out, text
	p.timer = time.AfterFunc(progressAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.out == out {
			p.shown = true
			p.draw()
		}
	})
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.timer.Stop()
		p.erase()
		p.out, p.shown = nil, false
	}
}

// step says what is being done.
func (p *progress) step(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.text = text; p.shown {
		p.draw()
	}
}

// clear takes the line away for something else that is to be shown; the next step brings it back.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

// hold shows nothing while a person is asked.
func (p *progress) hold(held bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if held {
		p.erase()
	}
	p.held = held
}

func (p *progress) draw() {
	if p.out != nil && !p.held {
		w, _ := screenSize(p.out)
		io.WriteString(p.out, "\r\x1b[K"+clip(Text(p.text), w-1))
	}
}

func (p *progress) erase() {
	if p.out != nil && p.shown && !p.held {
		io.WriteString(p.out, "\r\x1b[K")
	}
}
