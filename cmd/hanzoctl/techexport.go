package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

// techSchema are the tables of technician sessions (tunnel.md §3.3), with the columns that the daemon has beyond them. Ids
// are kept by value: deleting a person, a node or a session deletes nothing of what was done.
const techSchema = `CREATE TABLE IF NOT EXISTS tech_sessions (
  id serial PRIMARY KEY,
  session_id varchar(36) NOT NULL UNIQUE,
  tech_id uuid NOT NULL,
  agent_id uuid NOT NULL,
  opened_at timestamptz NOT NULL DEFAULT now(),
  last_activity timestamptz NOT NULL DEFAULT now(),
  closed_at timestamptz,
  status varchar(20) NOT NULL DEFAULT 'active',
  owner text NOT NULL DEFAULT '',
  owner_name text NOT NULL DEFAULT '',
  node_id text NOT NULL DEFAULT '',
  tenant text NOT NULL DEFAULT '',
  reason text NOT NULL DEFAULT '',
  closed_by text NOT NULL DEFAULT '',
  read_only boolean NOT NULL DEFAULT false,
  commands bigint NOT NULL DEFAULT 0,
  bytes_in bigint NOT NULL DEFAULT 0,
  bytes_out bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS tech_sessions_active ON tech_sessions (tech_id, agent_id, status) WHERE status = 'active';
CREATE UNIQUE INDEX IF NOT EXISTS tech_sessions_held ON tech_sessions (agent_id) WHERE status = 'active';
CREATE INDEX IF NOT EXISTS tech_sessions_tech ON tech_sessions (tech_id);
CREATE INDEX IF NOT EXISTS tech_sessions_agent ON tech_sessions (agent_id);
CREATE INDEX IF NOT EXISTS tech_sessions_status ON tech_sessions (status);
CREATE TABLE IF NOT EXISTS tunnel_audit (
  id bigint PRIMARY KEY,
  session_id varchar(36) NOT NULL,
  channel_id varchar(36),
  operation varchar(50),
  details jsonb,
  created_at timestamptz DEFAULT now(),
  node_id text NOT NULL DEFAULT '',
  subject text NOT NULL DEFAULT '',
  tenant text NOT NULL DEFAULT '',
  outcome text NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS tunnel_audit_session ON tunnel_audit (session_id);
CREATE INDEX IF NOT EXISTS tunnel_audit_created ON tunnel_audit (created_at);
`

func (a *app) techExportCmd() *cobra.Command {
	var format string
	c := &cobra.Command{Use: "export", Short: "Write all sessions and their audit, for PostgreSQL or as lines of JSON", Args: cobra.NoArgs,
		Long: `Write all technician sessions and the rows of their audit. It takes the scope operator.admin.

--format postgres is a script for psql, in one transaction: it makes the tables where they are not
there, and what is there already is brought up to date, so that it can be loaded again and again.`,
		Example: `  hanzoctl tech export --format postgres | psql -v ON_ERROR_STOP=1 support
  hanzoctl tech export --format jsonl > sessions.jsonl`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "postgres" && format != "jsonl" {
				return usagef("--format %q is neither postgres nor jsonl", format)
			}
			a.timeoutSet = false
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error {
				stream, err := c.Technicians.Export(ctx, &tunnelv1.TechSessionServiceExportRequest{})
				if err != nil {
					return err
				}
				w := bufio.NewWriterSize(a.stdout, 1<<16)
				next := func() (*tunnelv1.TechSessionServiceExportResponse, error) { return stream.Recv() }
				if format == "postgres" {
					err = writePostgres(w, next)
				} else {
					err = a.writeExport(next)
				}
				return errors.Join(err, w.Flush())
			})
		}}
	c.Flags().StringVar(&format, "format", "postgres", "postgres or jsonl")
	must(c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"postgres", "jsonl"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

func (a *app) writeExport(next func() (*tunnelv1.TechSessionServiceExportResponse, error)) error {
	a.output = "jsonl"
	for {
		m, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = a.printValue(m)
		}
		if err != nil {
			return err
		}
	}
}

// writePostgres writes a script for psql.
func writePostgres(w io.Writer, next func() (*tunnelv1.TechSessionServiceExportResponse, error)) error {
	// Text is read as it stands between the quotes, whatever the server's defaults are.
	_, err := io.WriteString(w, "BEGIN;\nSET LOCAL client_encoding = 'UTF8';\nSET LOCAL standard_conforming_strings = on;\n"+techSchema)
	for err == nil {
		var m *tunnelv1.TechSessionServiceExportResponse
		if m, err = next(); err != nil {
			break
		}
		if s := m.GetSession(); s != nil {
			_, err = io.WriteString(w, sessionSQL(s))
		} else if r := m.GetRow(); r != nil {
			var text string
			if text, err = rowSQL(r); err == nil {
				_, err = io.WriteString(w, text)
			}
		}
	}
	if !errors.Is(err, io.EOF) {
		return err // without its COMMIT the script changes nothing
	}
	_, err = io.WriteString(w, "COMMIT;\n")
	return err
}

func sessionSQL(s *tunnelv1.TechSession) string {
	status, closed := "active", "NULL"
	if s.GetStatus() == tunnelv1.TechStatus_TECH_STATUS_CLOSED {
		status, closed = "closed", moment(s.GetClosedAt().AsTime())
	}
	columns := []string{
		sqlText(s.GetSessionId()), sqlText(asUUID(s.GetOwner())), sqlText(asUUID(s.GetNodeId())), moment(s.GetOpenedAt().AsTime()), moment(s.GetLastActivity().AsTime()), closed,
		sqlText(status), sqlText(s.GetOwner()), sqlText(s.GetOwnerName()), sqlText(s.GetNodeId()), sqlText(s.GetTenant()), sqlText(s.GetReason()), sqlText(s.GetClosedBy()),
		fmt.Sprint(s.GetReadOnly()), fmt.Sprint(s.GetCommands()), fmt.Sprint(s.GetBytesIn()), fmt.Sprint(s.GetBytesOut()),
	}
	before := ""
	if status == "active" {
		// The row of the one that held the node at an earlier load is brought up to date elsewhere in the script, before or
		// after this one: until then it must not hold the node too.
		before = "UPDATE tech_sessions SET status = 'closed', closed_at = coalesce(closed_at, " + moment(s.GetOpenedAt().AsTime()) + ") WHERE agent_id = " + sqlText(asUUID(s.GetNodeId())) +
			" AND status = 'active' AND session_id <> " + sqlText(s.GetSessionId()) + ";\n"
	}
	return before + "INSERT INTO tech_sessions (session_id, tech_id, agent_id, opened_at, last_activity, closed_at, status, owner, owner_name, node_id, tenant, reason, closed_by, read_only, commands, bytes_in, bytes_out) VALUES (" +
		strings.Join(columns, ", ") + ") ON CONFLICT (session_id) DO UPDATE SET last_activity = EXCLUDED.last_activity, closed_at = EXCLUDED.closed_at, status = EXCLUDED.status, " +
		"reason = EXCLUDED.reason, closed_by = EXCLUDED.closed_by, commands = EXCLUDED.commands, bytes_in = EXCLUDED.bytes_in, bytes_out = EXCLUDED.bytes_out;\n"
}

func rowSQL(r *tunnelv1.TechAuditRow) (string, error) {
	detail, err := json.Marshal(storable(r.GetDetail().AsMap()))
	if err != nil {
		return "", err
	}
	channel := "NULL"
	if r.GetChannelId() != "" {
		channel = sqlText(r.GetChannelId())
	}
	return "INSERT INTO tunnel_audit (id, session_id, channel_id, operation, details, created_at, node_id, subject, tenant, outcome) VALUES (" + strings.Join([]string{
		fmt.Sprint(r.GetRowId()), sqlText(r.GetSessionId()), channel, sqlText(r.GetOperation()), sqlText(string(detail)), moment(r.GetAt().AsTime()), sqlText(r.GetNodeId()),
		sqlText(r.GetSubject()), sqlText(r.GetTenant()), sqlText(r.GetOutcome()),
	}, ", ") + ") ON CONFLICT (id) DO NOTHING;\n", nil
}

// storable is a value of JSON that PostgreSQL can keep: its text has no zero bytes, so that what holds some stands in base64.
func storable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, one := range v {
			k = strings.ReplaceAll(k, "\x00", "\uFFFD")
			if s, ok := one.(string); ok && strings.ContainsRune(s, 0) {
				out[k+"_b64"] = base64.StdEncoding.EncodeToString([]byte(s))
				continue
			}
			out[k] = storable(one)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, one := range v {
			out[i] = storable(one)
		}
		return out
	case string:
		if strings.ContainsRune(v, 0) {
			return map[string]any{"b64": base64.StdEncoding.EncodeToString([]byte(v))}
		}
	}
	return v
}

// sqlText is a text as a constant of SQL with standard strings.
func sqlText(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

func moment(t time.Time) string { return "'" + t.UTC().Format("2006-01-02 15:04:05.999999") + "+00'" }

// techSpace is the name space of ids that are no UUID by themselves.
var techSpace = uuid.MustParse("6b1f0d3e-6f0a-4d6e-9a53-0c7d7d1f5a11")

// asUUID is an id as the column of a UUID takes it: itself, or one made of it, always the same.
func asUUID(id string) string {
	if u, err := uuid.Parse(id); err == nil && len(id) == 36 {
		return u.String()
	}
	return uuid.NewSHA1(techSpace, []byte(id)).String()
}
