//go:build unix

package acceptance

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// passes runs tests of a package and demands that some of them passed.
func passes(t *testing.T, pkg, run string, least int) {
	t.Helper()
	cmd := exec.Command("go", "test", pkg, "-count=1", "-v", "-run", run)
	cmd.Dir, cmd.WaitDelay = proc.Root(t), time.Second
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), "--- PASS: "); err != nil || n < least {
		t.Errorf("%s: %d passed, %v\n%s", pkg, n, err, out)
	}
}

// A disk cannot be made to fail from outside: the tests of the domain inject it.
func TestT7FailingDisk(t *testing.T) {
	accept(t, "T7")
	passes(t, "./tunnel/tech", "Fail|Disk", 1)
}

func TestT8Tables(t *testing.T) {
	accept(t, "T8")
	passes(t, "./store", "Tech", 3)
	port := postgres(t)
	h := newTechHouse(t, "T8", nil)
	h.bridge()
	id := h.open(h.ann)
	nasty := `printf '%s' "it's \\ :x $$ ; DROP TABLE tech_sessions; --` + "\u202e\u0001\t" + `"`
	body, err := json.Marshal(object{"command": nasty})
	if err != nil {
		t.Fatal(err)
	}
	if code, out := h.curl(h.ann, "POST", id+"/command", string(body)); code != 200 {
		t.Fatal(code, out)
	}
	h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`)
	second := h.open(h.bob) // closing lets it be opened again
	psql := func(input string, args ...string) (string, int) {
		t.Helper()
		args = append([]string{"-h", "127.0.0.1", "-p", fmt.Sprint(port), "-U", "bench", "-d", "postgres", "-v", "ON_ERROR_STOP=1"}, args...)
		c := exec.Command("psql", args...)
		c.Stdin = strings.NewReader(input)
		out, err := c.CombinedOutput()
		if err != nil && c.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), c.ProcessState.ExitCode()
	}
	load := func() {
		t.Helper()
		dump := h.Ctl("tech", "export").Wait(t, proc.Patience)
		if dump.Code != 0 {
			t.Fatalf("export: %d %s", dump.Code, dump.Stderr)
		}
		if out, code := psql(dump.Stdout.String(), "-q"); code != 0 {
			t.Fatalf("psql: %s", out)
		}
	}
	load()
	if out, _ := psql("", "-c", `\d tech_sessions`); !strings.Contains(out, `UNIQUE, btree (tech_id, agent_id, status) WHERE status::text = 'active'::text`) {
		t.Errorf("the partial index is not there:\n%s", out)
	}
	if out, _ := psql("", "-Atc", "select status from tech_sessions where session_id='"+id+"'"); strings.TrimSpace(out) != "closed" {
		t.Errorf("status %q", out)
	}
	if out, _ := psql("", "-Atc", "select details->>'command' from tunnel_audit where operation='command' and session_id='"+id+"'"); strings.TrimSuffix(out, "\n") != nasty {
		t.Errorf("the command came back as %q, was %q", out, nasty)
	}
	if out, _ := psql("", "-Atc", "select count(*) from tunnel_audit where session_id='"+id+"'"); strings.TrimSpace(out) != fmt.Sprint(len(h.audit(h.ann, id))) {
		t.Errorf("%s rows of %d", out, len(h.audit(h.ann, id)))
	}
	// The node is held once, also there.
	if out, code := psql("", "-c", "insert into tech_sessions (session_id, tech_id, agent_id) select 'x', tech_id, agent_id from tech_sessions where session_id='"+second+"'"); code == 0 {
		t.Errorf("a second active session was taken: %s", out)
	}
	// Loaded again it is brought up to date, and nothing is there twice.
	h.curl(h.bob, "POST", "close", `{"session_id":"`+second+`"}`)
	load()
	load()
	if out, _ := psql("", "-Atc", "select count(*), count(*) filter (where status='closed') from tech_sessions"); strings.TrimSpace(out) != "2|2" {
		t.Errorf("sessions: %s", out)
	}
	// What was done outlasts the session.
	if out, code := psql("", "-c", "delete from tech_sessions"); code != 0 {
		t.Errorf("%s", out)
	}
	if out, _ := psql("", "-Atc", "select count(*) > 5 from tunnel_audit"); strings.TrimSpace(out) != "t" {
		t.Errorf("the audit went with its sessions: %s", out)
	}
}
