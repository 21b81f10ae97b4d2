package store

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/tunnel"
)

// terminalRecord is a terminal that is open at a node.
type terminalRecord struct {
	Node     string    `json:"node,omitzero"`
	Session  string    `json:"session,omitzero"`
	Owner    string    `json:"owner,omitzero"`
	Tenant   string    `json:"tenant,omitzero"`
	Shell    string    `json:"shell,omitzero"`
	Argv     []string  `json:"argv,omitempty"`
	Cwd      string    `json:"cwd,omitzero"`
	PID      int64     `json:"pid,omitzero"`
	Cols     int       `json:"cols,omitzero"`
	Rows     int       `json:"rows,omitzero"`
	OpenedAt time.Time `json:"opened_at,omitzero"`
}

// Terminals implements tunnel.Store.
func (s *Store) Terminals() ([]tunnel.Record, error) {
	return every(s, bucketTerminals, func(key, value []byte) (tunnel.Record, error) {
		var r terminalRecord
		if err := decode(bucketTerminals, key, value, &r); err != nil {
			return tunnel.Record{}, err
		}
		return tunnel.Record{
			ID: string(key), NodeID: r.Node, Session: r.Session, Owner: r.Owner, Tenant: r.Tenant, Shell: r.Shell, Argv: r.Argv, Cwd: r.Cwd, PID: r.PID,
			Cols: r.Cols, Rows: r.Rows, Opened: utc(r.OpenedAt),
		}, nil
	})
}

// ChangeTerminal implements tunnel.Store.
func (s *Store) ChangeTerminal(ctx context.Context, id string, keep *tunnel.Record, rows ...tunnel.Audit) error {
	key, err := keyOf(id)
	if err != nil {
		return err
	}
	var value []byte
	if keep != nil {
		if value, err = encode(terminalRecord{
			Node: keep.NodeID, Session: keep.Session, Owner: keep.Owner, Tenant: keep.Tenant, Shell: keep.Shell, Argv: keep.Argv, Cwd: keep.Cwd, PID: keep.PID,
			Cols: keep.Cols, Rows: keep.Rows, OpenedAt: utc(keep.Opened),
		}); err != nil {
			return err
		}
	}
	links := make([]auditLink, len(rows))
	for i, r := range rows {
		if links[i], err = linkOf(AuditRow{
			At: r.At, Kind: "terminal." + r.Act, Subject: r.Subject, RequestID: r.TerminalID, NodeID: r.NodeID, Command: r.Command, Argv: r.Argv,
			Cwd: r.Cwd, Detail: r.Detail,
		}); err != nil {
			return err
		}
	}
	return s.w.do(ctx, func(t *txn) error {
		switch {
		case keep != nil:
			if err := t.put(bucketTerminals, key, value); err != nil {
				return err
			}
		case t.get(bucketTerminals, key) != nil:
			if err := t.delete(bucketTerminals, key); err != nil {
				return err
			}
		}
		for _, l := range links {
			if err := t.appendAudit(l); err != nil {
				return err
			}
		}
		return nil
	})
}

var _ tunnel.Store = (*Store)(nil)
