package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// barEvery is how often the line of a copy is drawn.
const barEvery = 100 * time.Millisecond

// copyBar shows on a terminal how far a copy is: bytes, rate and the time that is left. Elsewhere it shows
// nothing.
type copyBar struct {
	a     *app
	began time.Time

	mu         sync.Mutex
	all, done  int64
	name, said string
	shown      bool
	ended      bool
	quit, over chan struct{}
}

func newCopyBar(a *app) *copyBar {
	b := &copyBar{a: a, began: time.Now(), quit: make(chan struct{}), over: make(chan struct{})}
	if a.quiet || a.output != "table" || !isTerminal(a.stderr) {
		close(b.over)
		return b
	}
	go b.run()
	return b
}

func (b *copyBar) run() {
	defer close(b.over)
	tick := time.NewTicker(barEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.quit:
			b.mu.Lock()
			if b.shown {
				b.draw()
				io.WriteString(b.a.stderr, "\n")
			}
			b.mu.Unlock()
			return
		case <-tick.C:
			b.mu.Lock()
			b.draw()
			b.mu.Unlock()
		}
	}
}

// draw writes the line. The caller holds mu.
func (b *copyBar) draw() {
	b.shown = true
	w, _ := screenSize(b.a.stderr)
	io.WriteString(b.a.stderr, "\r\x1b[K"+clip(Text(b.line(time.Since(b.began))), w-1))
}

func (b *copyBar) line(took time.Duration) string {
	rate := float64(b.done) / max(took.Seconds(), 0.001)
	percent := int64(100)
	if b.all > 0 {
		percent = b.done * 100 / b.all
	}
	left := "-"
	if b.said != "" {
		left = b.said
	} else if rate > 0 {
		left = time.Duration(float64(b.all-b.done) / rate * float64(time.Second)).Round(time.Second).String()
	}
	const width = 20
	full := int(percent) * width / 100
	return fmt.Sprintf("%3d%% [%s%s] %s of %s  %s/s  %s  %s", percent, strings.Repeat("#", full), strings.Repeat(".", width-full),
		byteText(b.done), byteText(b.all), byteText(int64(rate)), left, b.name)
}

// byteText is a number of bytes in three or four digits.
func byteText(n int64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "B" || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// expect says that more is to be copied.
func (b *copyBar) expect(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all += n
}

// add says that more has arrived.
func (b *copyBar) add(n int64, from spot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	b.name = from.base()
	if n > 0 {
		b.said = ""
	}
}

// note says why nothing arrives.
func (b *copyBar) note(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = text
}

func (b *copyBar) stop() {
	b.mu.Lock()
	if !b.ended {
		b.ended = true
		close(b.quit)
	}
	b.mu.Unlock()
	<-b.over
}
