package acceptance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// rows are the checks, in order. Several tests may belong to one.
var rows = []struct{ id, about string }{
	{"H1", "registration"},
	{"H2", "ping before register; early frames"},
	{"H3", "command and response, null handling"},
	{"H4", "unknown command, bad params"},
	{"H5", "event streaming"},
	{"H6", "heartbeat"},
	{"H7", "app kinds"},
	{"H8", "JWT and API key; refusal"},
	{"H9", "reconnect"},
	{"H10", "gateway mode"},
	{"H11", "custom transport"},
	{"H12", "exec.run, chat.send, status.get"},
	{"H13", "terminals"},
	{"H14", "terminal output reaches operators"},
	{"H15", "system.info, system.run, dev.launch, dev.status"},
	{"H16", "custom commands"},
	{"H17", "checkpoint to S3"},
	{"H18", "S3 off the main loop"},
	{"H19", "restore with git clone and diff"},
	{"H20", "session.list"},
	{"H21", "migration"},
	{"H22", "expose and unexpose"},
	{"H23", "mDNS"},
	{"H24", "registry types"},
	{"H25", "error types"},
	{"H26", "environment variables, image"},
	{"H27", "swarm"},
	{"H28", "relay and tunnel paths"},
	{"H29", "TLS"},
	{"H30", "cloud agents"},
	{"H31", "no overlay dependency"},
	{"H32", "web UI dispatch"},
	{"H33", "feature switches"},
	{"T1", "technician session: open, status, close"},
	{"T2", "its JWT"},
	{"T3", "its ids"},
	{"T4", "what is not there"},
	{"T5", "ownership"},
	{"T6", "one holds a node"},
	{"T7", "a disk that fails"},
	{"T8", "tables, PostgreSQL"},
	{"T9", "audit"},
	{"T10", "messages on the link of a node"},
	{"T11", "modes of a node"},
	{"T12", "one session at the node"},
	{"T13", "channels at once"},
	{"T14", "cleanup on disconnect"},
	{"T15", "inactivity, rate, directories"},
	{"T16", "injection safety"},
	{"T17", "commands, live output, files"},
	{"T18", "registry, services"},
	{"Y1", "health of tunnels"},
	{"Y2", "lists of tunnels, sessions and bindings"},
	{"Y3", "metrics of tunnels"},
	{"Y4", "connect: subprotocol, HELLO first"},
	{"Y5", "authentication of carriers"},
	{"Y6", "EXPOSE of HTTP and WebSocket"},
	{"Y7", "PULL of TCP"},
	{"Y8", "dial, and EXPOSE of TCP"},
	{"Y9", "several bindings on one tunnel"},
	{"Y10", "life of a session"},
	{"Y11", "orphans, parking, resume"},
	{"Y12", "kill with GOAWAY and grace"},
	{"Y13", "stream cap, descriptor budget"},
	{"Y14", "flow control"},
	{"Y15", "takeover"},
	{"Y16", "several sockets"},
	{"Y17", "lifecycle script"},
	{"Y18", "malformed frames"},
	{"Y19", "speed of tunnels"},
	{"V1", "screens, local and through a node"},
	{"V2", "tenant isolation"},
}

// elsewhere are rows that another suite shows.
var elsewhere = map[string]string{}

var seen = struct {
	sync.Mutex
	failed, passed map[string]bool
	skipped        map[string][]string
}{failed: map[string]bool{}, passed: map[string]bool{}, skipped: map[string][]string{}}

// accept makes a test one of a row. It runs with `make acceptance` only.
func accept(t *testing.T, id string) {
	t.Helper()
	if !slices.ContainsFunc(rows, func(r struct{ id, about string }) bool { return r.id == id }) {
		t.Fatalf("there is no row %s", id)
	}
	if os.Getenv("ACCEPTANCE") == "" {
		t.Skip("one of `make acceptance`")
	}
	t.Cleanup(func() {
		seen.Lock()
		defer seen.Unlock()
		switch {
		case t.Failed():
			seen.failed[id] = true
		case !t.Skipped():
			seen.passed[id] = true
		case len(seen.skipped[id]) == 0: // not by notHere: the table says it all the same
			seen.skipped[id] = append(seen.skipped[id], "see "+t.Name())
		}
	})
}

// notHere ends a test whose row cannot be shown on this machine.
func notHere(t *testing.T, id, reason string) {
	t.Helper()
	seen.Lock()
	seen.skipped[id] = append(seen.skipped[id], reason)
	seen.Unlock()
	t.Skip("not possible here: " + reason)
}

func TestMain(m *testing.M) {
	proc.Main(m, report)
}

// report prints the table and turns a row without a test into a failure.
func report(code int) int {
	if os.Getenv("ACCEPTANCE") == "" || strings.Contains(strings.Join(os.Args, " "), "-test.run=") {
		return code
	}
	for _, r := range rows {
		verdict := "pass"
		switch {
		case seen.failed[r.id]:
			verdict = "FAIL"
		case len(seen.skipped[r.id]) > 0 && seen.passed[r.id]:
			verdict = "pass; a part is not possible here: " + strings.Join(seen.skipped[r.id], "; ")
		case len(seen.skipped[r.id]) > 0:
			verdict = "not possible here: " + strings.Join(seen.skipped[r.id], "; ")
		case elsewhere[r.id] != "":
			verdict = elsewhere[r.id]
		case !seen.passed[r.id]:
			verdict = "FAIL: no test"
		}
		if strings.HasPrefix(verdict, "FAIL") && code == 0 {
			code = 1
		}
		fmt.Printf("%-4s %-50s %s\n", r.id, r.about, verdict)
	}
	return code
}
