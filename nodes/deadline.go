package nodes

import (
	"encoding/json"
	"strings"
	"time"
)

// Deadlines of commands of linked machines, from the moment in which they are sent (tunnel.md §5.2;
// frozen).
var deadlines = map[string]time.Duration{
	"status.get": 15 * time.Second, "session.list": 15 * time.Second, "system.info": 15 * time.Second,
	"exec.run": 45 * time.Second, "chat.send": 130 * time.Second,
	"session.checkpoint": 90 * time.Second, "session.restore": 150 * time.Second,
}

const (
	terminalDeadline = 15 * time.Second // of terminal.* and dev.*
	// runDefault is the timeout_ms of a system.run that has none, runMargin what the answer may take
	// beyond it.
	runDefault = 30 * time.Second
	runMargin  = 5 * time.Second
)

// limitOf is how long the answer to a call is waited for whose caller names no time. Nodes that speak the
// gateway protocol keep DefaultTimeout for what the original let them do.
func limitOf(n Node, in InvokeIn) time.Duration {
	if in.Command == "system.run" {
		d, says := runTime(in.Params)
		if !says && n.Link != LinkTunnel {
			return DefaultTimeout
		}
		return min(d+runMargin, MaxTimeout)
	}
	if d, ok := deadlines[in.Command]; ok {
		return d
	}
	if strings.HasPrefix(in.Command, "terminal.") || strings.HasPrefix(in.Command, "dev.") {
		return terminalDeadline
	}
	return DefaultTimeout
}

// runTime is the timeout_ms of a system.run, the way in which linked machines write it (tunnel.md §1.6).
func runTime(params []byte) (_ time.Duration, says bool) {
	var p map[string]json.RawMessage
	var ms float64
	if json.Unmarshal(params, &p) != nil || json.Unmarshal(p["timeout_ms"], &ms) != nil || ms <= 0 {
		return runDefault, false
	}
	return time.Duration(min(ms, float64(MaxTimeout/time.Millisecond))) * time.Millisecond, true
}
