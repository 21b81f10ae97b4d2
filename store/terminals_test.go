package store

import (
	"reflect"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel"
)

func TestTerminals(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_000_000, time.UTC)
	r := tunnel.Record{
		ID: "t1", NodeID: "acme/n1", Session: "s1", Owner: "iam:alice", Shell: "/bin/sh", Argv: []string{"/bin/sh", "-c", "a\x01b"}, Cwd: "/", PID: 7,
		Cols: 80, Rows: 24, Opened: at,
	}
	row := func(act string) tunnel.Audit {
		return tunnel.Audit{At: at, Act: act, Subject: "iam:alice", TerminalID: "t1", NodeID: "acme/n1", Command: "/bin/sh", Argv: r.Argv, Cwd: "/", Detail: "x"}
	}
	if err := s.ChangeTerminal(t.Context(), "t1", &r, row("opened")); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeTerminal(t.Context(), "t2", nil); err != nil {
		t.Error("a terminal that is not there was not forgotten:", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if all, err := s.Terminals(); err != nil || len(all) != 1 || !reflect.DeepEqual(all[0], r) {
		t.Errorf("%+v, %v", all, err)
	}
	if err := s.ChangeTerminal(t.Context(), "t1", nil, row("ended")); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Terminals(); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	rows, err := s.Audit(0, 9)
	if err != nil || len(rows) != 2 || rows[0].Kind != "terminal.opened" || rows[1].Kind != "terminal.ended" || rows[1].RequestID != "t1" || rows[1].Subject != "iam:alice" {
		t.Errorf("%+v, %v", rows, err)
	}
}
