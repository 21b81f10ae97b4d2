package agent

import (
	"strings"
	"sync"
	"time"
)

// Log remembers what was said and run here, for status.get and for checkpoints (tunnel.md §1.9). Its
// methods may be called concurrently and do not block.
type Log interface {
	// Said is called with both sides of an exchange; id is that of the command.
	Said(id, message, response string)
	// Ran is called with a command that has ended, and the ends of what it wrote.
	Ran(command string, exitCode int, stdout, stderr string)
	// Counts are how many turns, commands and lines there are.
	Counts() (conversation, commands, scrollback int)
	// StartedAt is when the session began.
	StartedAt() time.Time
}

// maxScrollback is how many lines of scrollback count (tunnel.md §1.9).
const maxScrollback = 500

// counts is a Log for who keeps none: it only counts.
type counts struct {
	at time.Time

	mu                       sync.Mutex
	turns, commands, printed int
}

func (c *counts) Said(string, string, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turns += 2
}

func (c *counts) Ran(_ string, _ int, stdout, _ string) {
	pieces := strings.Split(stdout, "\n")
	pieces = pieces[max(0, len(pieces)-20):]
	n := 1
	for _, p := range pieces {
		if strings.TrimSpace(p) != "" {
			n++
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commands++
	c.printed = min(c.printed+n, maxScrollback)
}

func (c *counts) Counts() (conversation, commands, scrollback int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.turns, c.commands, c.printed
}

func (c *counts) StartedAt() time.Time { return c.at }
