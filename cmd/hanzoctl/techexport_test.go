package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
)

// unquoted reads one constant of SQL at the begin of s, as a server with standard strings does, and returns what is behind it.
func unquoted(s string) (text, rest string, ok bool) {
	if !strings.HasPrefix(s, "'") {
		return "", s, false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] != '\'':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i++
		default:
			return b.String(), s[i+1:], true
		}
	}
	return "", s, false
}

// kept is what a column of text holds of s: PostgreSQL has neither zero bytes nor what is no UTF-8.
func kept(s string) string {
	return strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
}

// outside is a statement without its constants.
func outside(t testing.TB, s string) string {
	t.Helper()
	var b strings.Builder
	for s != "" {
		i := strings.IndexByte(s, '\'')
		if i < 0 {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:i])
		_, rest, ok := unquoted(s[i:])
		if !ok {
			t.Fatalf("a constant has no end: %q", s[i:])
		}
		b.WriteByte('?')
		s = rest
	}
	return b.String()
}

// nasty are texts that a careless script would read as something else.
var nasty = []string{
	"", "plain", "it's", "''", "'; DROP TABLE tunnel_audit; --", `\`, `\'`, `\\'; --`, "\\.", "\\q\n\\! id\n", "$$ $x$", ":name :'name' :\"name\"", "/* */ --", "E'\\x27'", "a\r\nb\rc\n", "\t\v\f\b\x01\x1a\x1b[31m\x7f",
	"zero\x00byte", "\x00", "\xff\xfe'\xc3", "é'\u2019\uFF07\uFFFD", "\u202e\u200b", "\U0001F600", "{\"a\": 1}", "\\u0000", "%s%n", "\uFEFF", strings.Repeat("'\\", 300),
}

func nastyRow(id uint64, s string) *tunnelv1.TechAuditRow {
	detail, err := structpb.NewStruct(map[string]any{"command": kept(s), "zero": strings.ToValidUTF8(s, "\uFFFD"), "list": []any{kept(s), 1.5, true, nil}})
	if err != nil {
		panic(err)
	}
	return &tunnelv1.TechAuditRow{
		RowId: id, At: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)), SessionId: "6b1f0d3e-6f0a-4d6e-9a53-0c7d7d1f5a00", Operation: "command",
		NodeId: s, Subject: s, Tenant: s, Outcome: s, Detail: detail,
	}
}

func FuzzSQLText(f *testing.F) {
	for _, s := range nasty {
		f.Add(s)
	}
	rows := outside(f, mustRow(f, nastyRow(1, "plain")))
	sessions := outside(f, sessionSQL(&tunnelv1.TechSession{}))
	f.Fuzz(func(t *testing.T, s string) {
		q := sqlText(s)
		if !utf8.ValidString(q) || strings.ContainsRune(q, 0) {
			t.Fatalf("%q is no text for a script", q)
		}
		got, rest, ok := unquoted(q)
		if !ok || rest != "" || got != kept(s) {
			t.Fatalf("%q is read back as %q, with %q behind it", s, got, rest)
		}
		// Whatever the texts are, the statements around them stay the same.
		if got := outside(t, mustRow(t, nastyRow(1, s))); got != rows {
			t.Fatalf("%q makes another statement: %q", s, got)
		}
		if got := outside(t, sessionSQL(&tunnelv1.TechSession{SessionId: s, Owner: s, OwnerName: s, NodeId: s, Tenant: s, Reason: s, ClosedBy: s})); got != sessions {
			t.Fatalf("%q makes another statement: %q", s, got)
		}
	})
}

func mustRow(t testing.TB, r *tunnelv1.TechAuditRow) string {
	t.Helper()
	s, err := rowSQL(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func export(items ...*tunnelv1.TechSessionServiceExportResponse) func() (*tunnelv1.TechSessionServiceExportResponse, error) {
	return func() (*tunnelv1.TechSessionServiceExportResponse, error) {
		if len(items) == 0 {
			return nil, io.EOF
		}
		m := items[0]
		items = items[1:]
		return m, nil
	}
}

func exported(t *testing.T, items ...*tunnelv1.TechSessionServiceExportResponse) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writePostgres(&b, export(items...)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An export that is cut off changes nothing.
func TestExportCutOff(t *testing.T) {
	var b bytes.Buffer
	err := writePostgres(&b, func() (*tunnelv1.TechSessionServiceExportResponse, error) { return nil, io.ErrUnexpectedEOF })
	if err == nil || strings.Contains(b.String(), "COMMIT") {
		t.Errorf("%v, %s", err, b.String())
	}
}

// postgresServer starts a server that is reached by a socket in its directory only; sql runs a script there.
func postgresServer(t *testing.T) (sql func(script []byte) (string, error)) {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Skip("there is no PostgreSQL server (apt-get install postgresql)")
	}
	bin := bins[len(bins)-1]
	dir, err := os.MkdirTemp("", "pg") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	run := func(name string, args ...string) *exec.Cmd {
		if os.Geteuid() != 0 {
			return exec.Command(filepath.Join(bin, name), args...)
		}
		return exec.Command("setpriv", append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups", filepath.Join(bin, name)}, args...)...)
	}
	if os.Geteuid() == 0 { // the server refuses to be root
		if out, err := exec.Command("chown", "postgres", dir).CombinedOutput(); err != nil {
			t.Skipf("there is no user for PostgreSQL: %s", out)
		}
	}
	data := filepath.Join(dir, "data")
	initdb := run("initdb", "-D", data, "-A", "trust", "-U", "support", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	server := run("postgres", "-D", data, "-c", "listen_addresses=", "-k", dir, "-F")
	server.Dir = dir
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt) // it ends without waiting for clients
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = server.Process.Kill()
			<-ended
		}
	})
	sql = func(script []byte) (string, error) {
		c := exec.Command("psql", "-X", "-h", dir, "-U", "support", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-v", "name=replaced", "-qAt")
		c.Stdin = bytes.NewReader(script)
		out, err := c.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := sql([]byte("SELECT 1;")); err == nil {
			return sql
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("postgres: %v: %s", err, log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL does not come")
		}
	}
}

// The script loads into a server, again and again, and the rows there are those of the daemon.
func TestExportPostgreSQL(t *testing.T) {
	sql := postgresServer(t)
	load := func(items ...*tunnelv1.TechSessionServiceExportResponse) {
		t.Helper()
		if out, err := sql(exported(t, items...)); err != nil || out != "" && !strings.Contains(out, "already exists, skipping") {
			t.Fatalf("%v: %s", err, out)
		}
	}
	want := func(query, answer string) {
		t.Helper()
		if out, err := sql([]byte(query + ";")); err != nil || out != answer {
			t.Errorf("%s: %.300q, %v, want %.300q", query, out, err, answer)
		}
	}
	id := func(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }
	opened := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
	session := func(n int, closed time.Time) *tunnelv1.TechSessionServiceExportResponse {
		s := &tunnelv1.TechSession{
			SessionId: id(n), NodeId: strings.Repeat("ab", 32), Owner: "operator:o'hara", OwnerName: nasty[n%len(nasty)], Status: tunnelv1.TechStatus_TECH_STATUS_ACTIVE,
			OpenedAt: timestamppb.New(opened), LastActivity: timestamppb.New(opened.Add(time.Minute)), Commands: 3, BytesIn: 1 << 40, BytesOut: 5, ReadOnly: true,
		}
		if !closed.IsZero() {
			s.Status, s.Reason, s.ClosedBy, s.ClosedAt = tunnelv1.TechStatus_TECH_STATUS_CLOSED, "taken_over", "o'hara", timestamppb.New(closed)
		}
		return &tunnelv1.TechSessionServiceExportResponse{Item: &tunnelv1.TechSessionServiceExportResponse_Session{Session: s}}
	}
	row := func(n int, s string) *tunnelv1.TechSessionServiceExportResponse {
		return &tunnelv1.TechSessionServiceExportResponse{Item: &tunnelv1.TechSessionServiceExportResponse_Row{Row: nastyRow(uint64(n), s)}}
	}

	// Nothing at all makes the tables.
	load()
	want("SELECT count(*) FROM tech_sessions", "0")

	items := []*tunnelv1.TechSessionServiceExportResponse{session(5, time.Time{})}
	for i, s := range nasty {
		items = append(items, row(i+1, s))
	}
	for range 2 {
		load(items...)
	}
	want("SELECT count(*) FROM tunnel_audit", fmt.Sprint(len(nasty)))
	var lines []string
	for _, s := range nasty {
		text := hex.EncodeToString([]byte(kept(s)))
		if strings.ContainsRune(s, 0) { // kept has taken the zero bytes out of the command already
			lines = append(lines, strings.Repeat(text+"|", 4))
		} else {
			lines = append(lines, strings.Repeat(text+"|", 4)+text)
		}
	}
	column := func(c string) string { return "encode(convert_to(" + c + ", 'UTF8'), 'hex')" }
	out, err := sql([]byte("SELECT " + column("subject") + ", " + column("outcome") + ", " + column("node_id") + ", " + column("tenant") +
		", CASE WHEN NOT details ? 'zero_b64' THEN " + column("details->>'command'") + " END FROM tunnel_audit ORDER BY id;"))
	if got := strings.Split(out, "\n"); err != nil || len(got) != len(lines) {
		t.Errorf("%d rows, %v, want %d", len(got), err, len(lines))
	} else {
		for i, want := range lines {
			if got[i] != want {
				t.Errorf("%q: %s, want %s", nasty[i], got[i], want)
			}
		}
	}
	// What has a zero byte stands in base64, and nothing of it is lost.
	out, err = sql([]byte("SELECT details->>'zero_b64' FROM tunnel_audit WHERE details ? 'zero_b64' ORDER BY id;"))
	if err != nil || out != "emVybwBieXRl\nAA==" {
		t.Errorf("%q, %v", out, err)
	}
	want("SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM tunnel_audit WHERE id = 1", "2026-01-02 03:04:05.678901")
	want("SELECT status, commands, bytes_in, read_only, closed_at IS NULL, owner, last_activity - opened_at FROM tech_sessions", "active|3|1099511627776|t|t|operator:o'hara|00:01:00")
	want("SELECT count(DISTINCT tech_id), count(DISTINCT agent_id) FROM tech_sessions", "1|1")

	// A session that began after the other had ended on the same node comes before it, as its id does.
	later := []*tunnelv1.TechSessionServiceExportResponse{session(2, time.Time{}), session(5, opened.Add(time.Hour))}
	for range 2 {
		load(later...)
	}
	want("SELECT session_id, status, reason, to_char(closed_at AT TIME ZONE 'UTC', 'HH24:MI:SS') FROM tech_sessions ORDER BY id", id(5)+"|closed|taken_over|04:04:05\n"+id(2)+"|active||")
	want("SELECT convert_to(owner_name, 'UTF8') = '\\x"+hex.EncodeToString([]byte(kept(nasty[2])))+"' FROM tech_sessions WHERE status = 'active'", "t")

	// One session at a time holds a node.
	if out, err := sql([]byte("INSERT INTO tech_sessions (session_id, tech_id, agent_id) SELECT '" + id(9) + "', tech_id, agent_id FROM tech_sessions LIMIT 1;")); err == nil || !strings.Contains(out, "duplicate key") {
		t.Errorf("a second session holds the node: %s, %v", out, err)
	}
	// The audit outlasts what it is of.
	want("DELETE FROM tech_sessions", "")
	want("SELECT count(*) FROM tunnel_audit", fmt.Sprint(len(nasty)))

	// What goes wrong within changes nothing.
	script := bytes.Replace(exported(t, session(7, time.Time{})), []byte("COMMIT;"), []byte("SELECT 1/0;\nCOMMIT;"), 1)
	if out, err := sql(script); err == nil || !strings.Contains(out, "division by zero") {
		t.Errorf("%s, %v", out, err)
	}
	want("SELECT count(*) FROM tech_sessions", "0")
}
