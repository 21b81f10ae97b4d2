package live

import (
	"sync"
	"time"
)

const (
	// RestartDelay is how long a restart waits when nobody says, so that the answer to who asked for it
	// arrives; MaxRestartDelay is the longest that somebody may say (control-plane.md §4 "R").
	RestartDelay    = 2 * time.Second
	MaxRestartDelay = time.Minute
	// restartCooldown is the least time between two restarts.
	restartCooldown = 30 * time.Second
	// maxHold is how long a restart that is due waits for work in flight, holdPoll how often it looks.
	maxHold  = 30 * time.Second
	holdPoll = 500 * time.Millisecond
)

// RestartIn asks for a restart.
type RestartIn struct {
	// Delay is RestartDelay when nil; it is cut to 0..MaxRestartDelay.
	Delay *time.Duration
	// Reason is for people and for the clients that are told.
	Reason string
	// Urgent waits neither for the distance from the restart before nor for work in flight: somebody may
	// be cut off.
	Urgent bool
}

// Restart is a restart that was scheduled (control-plane.md §4 "R").
type Restart struct {
	PID   int
	Delay time.Duration
	// Reason is that of the restart that will happen, which may be an earlier one's.
	Reason string
	// Coalesced says that a restart was due already and does for this one too.
	Coalesced bool
	// Cooldown is how much of Delay keeps the distance from the restart before.
	Cooldown time.Duration
}

// Restarts schedules the restarts of one process: never two at once, never two within half a minute, and
// not while work is in flight, for as long as that may hold one up. It outlives the daemons that it ends.
// Its methods may be called concurrently; the zero value is not usable.
type Restarts struct {
	pid int

	mu      sync.Mutex
	timer   *time.Timer
	due     time.Time // of the pending restart, zero without one
	reason  string
	urgent  bool
	last    time.Time
	running func(reason string) // ends the daemon that serves, nil while none does
	busy    func() int
	hold    chan struct{} // closed when the daemon that a restart waits for is gone
}

// NewRestarts returns the schedule of a process.
func NewRestarts(pid int) *Restarts { return &Restarts{pid: pid} }

// Bind names the daemon that serves: how much work it has in flight, and what ends it for a restart. The
// function that it returns takes the daemon's leave; a restart that is pending then is forgotten, because
// the daemon ends anyway.
func (r *Restarts) Bind(busy func() int, restart func(reason string)) (leave func()) {
	gone := make(chan struct{})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running, r.busy, r.hold = restart, busy, gone
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		select {
		case <-gone:
			return
		default:
		}
		close(gone)
		if r.timer != nil {
			r.timer.Stop()
		}
		r.timer, r.due, r.running, r.busy = nil, time.Time{}, nil, nil
	}
}

// Schedule plans a restart. One that is pending is brought forward, where this one is due earlier, and
// else does for both.
func (r *Restarts) Schedule(in RestartIn) Restart {
	delay := RestartDelay
	if in.Delay != nil {
		delay = min(max(*in.Delay, 0), MaxRestartDelay)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.urgent = r.urgent && !r.due.IsZero() || in.Urgent
	out := Restart{PID: r.pid, Reason: in.Reason}
	if !r.last.IsZero() && !in.Urgent {
		out.Cooldown = max(0, restartCooldown-now.Sub(r.last))
	}
	due := now.Add(delay + out.Cooldown)
	if !r.due.IsZero() {
		if !due.Before(r.due) {
			out.Delay, out.Reason, out.Coalesced = max(0, r.due.Sub(now)), r.reason, true
			return out
		}
		r.timer.Stop()
	}
	r.due, r.reason, out.Delay = due, in.Reason, due.Sub(now)
	if r.running == nil {
		// Between two daemons: the one that starts reads what there is anyway.
		r.due = time.Time{}
		return out
	}
	gone := r.hold
	r.timer = time.AfterFunc(out.Delay, func() { r.fire(gone) })
	return out
}

// Pending reports when a restart is due.
func (r *Restarts) Pending() (due time.Time, reason string, pending bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.due, r.reason, !r.due.IsZero()
}

// fire waits for the work in flight and ends the daemon. It runs in the goroutine of a timer.
func (r *Restarts) fire(gone <-chan struct{}) {
	tick := time.NewTicker(holdPoll)
	defer tick.Stop()
	limit := time.NewTimer(maxHold)
	defer limit.Stop()
	for {
		r.mu.Lock()
		busy, urgent := r.busy, r.urgent
		r.mu.Unlock()
		if urgent || busy == nil || busy() == 0 {
			break
		}
		select {
		case <-tick.C:
			continue
		case <-limit.C:
		case <-gone:
			return
		}
		break
	}
	r.mu.Lock()
	restart, reason := r.running, r.reason
	select {
	case <-gone:
		restart = nil
	default:
	}
	if restart != nil {
		r.last = time.Now()
	}
	r.mu.Unlock()
	if restart != nil {
		restart(reason)
	}
}
