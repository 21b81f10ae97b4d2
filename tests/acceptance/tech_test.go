//go:build unix

package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

// agentID is a node of the rows of technician sessions: their compatibility paths want a UUID.
const agentID = "0f9d2c3a-5b1e-4c77-9d0a-8a1c5f6b7e21"

// issuer is an identity service on loopback that signs tokens.
type issuer struct {
	t      *testing.T
	url    string
	signer jose.Signer
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var s *httptest.Server
	s = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(object{"issuer": s.URL, "jwks_uri": s.URL + "/jwks"})
		case "/jwks":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(s.Close)
	i := &issuer{t: t, url: s.URL}
	i.signer = i.sign(key)
	return i
}

func (i *issuer) sign(key *ecdsa.PrivateKey) jose.Signer {
	i.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		i.t.Fatal(err)
	}
	return signer
}

// token is a JWT of a person.
func (i *issuer) token(sub string, change object) string { return i.by(i.signer, sub, change) }

func (i *issuer) by(signer jose.Signer, sub string, change object) string {
	i.t.Helper()
	claims := object{"iss": i.url, "aud": []string{"gw"}, "sub": sub, "exp": time.Now().Add(24 * time.Hour).Unix()}
	maps.Copy(claims, change)
	text, err := json.Marshal(claims)
	if err != nil {
		i.t.Fatal(err)
	}
	jws, err := i.signer.Sign(text)
	if signer != i.signer {
		jws, err = signer.Sign(text)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return out
}

// techHouse is a daemon whose technicians are ann, bob and cleo of an identity service.
type techHouse struct {
	*proc.Daemon
	t              *testing.T
	row            string
	is             *issuer
	ann, bob, cleo string // ann and bob administer, cleo reads and writes
}

func newTechHouse(t *testing.T, row string, tech object) *techHouse {
	t.Helper()
	if tech == nil {
		tech = object{}
	}
	h := &techHouse{t: t, row: row, is: newIssuer(t)}
	h.Daemon = proc.Start(t, proc.Options{Config: object{
		"gateway": object{"auth": object{
			"mode": "iam", "token": proc.Token, "iam": object{"serverUrl": h.is.url, "clientId": "gw", "superAdmins": []string{"ann", "bob"}},
		}},
		"tunnel": object{"tech": tech},
	}})
	h.ann, h.bob, h.cleo = h.is.token("ann", nil), h.is.token("bob", nil), h.is.token("cleo", nil)
	return h
}

// bridge starts the unmodified agent bridge under a UUID.
func (h *techHouse) bridge() *proc.Command {
	h.t.Helper()
	c := agent(h.t, h.row, agentID, withToken(h.Daemon, "/v1/tunnel", proc.Token))
	joined(h.t, h.Daemon, agentID)
	return c
}

// curl asks one of the compatibility paths, as a person with a token would.
func (h *techHouse) curl(token, method, path, body string) (int, object) {
	h.t.Helper()
	args := []string{"-sS", "-X", method, "-w", "\n%{http_code}", h.URL() + "/api/v1/tunnel/" + path}
	if token != "" {
		args = append(args, "-H", "Authorization: Bearer "+token)
	}
	if body != "" {
		args = append(args, "-H", "Content-Type: application/json", "--data-binary", "@-")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "curl", args...)
	c.Stdin = strings.NewReader(body)
	out, err := c.Output()
	if err != nil {
		h.t.Fatal(err, string(out))
	}
	cut := bytes.LastIndexByte(out, '\n')
	var code int
	if _, err := fmt.Sscan(string(out[cut+1:]), &code); err != nil {
		h.t.Fatal(err)
	}
	var answer object
	if err := json.Unmarshal(out[:cut], &answer); err != nil {
		h.t.Fatalf("%s %s: %d %q", method, path, code, out[:cut])
	}
	return code, answer
}

func (h *techHouse) open(token string) string {
	h.t.Helper()
	code, out := h.curl(token, "POST", "open", `{"agent_id":"`+agentID+`"}`)
	id, _ := out["session_id"].(string)
	if code != 200 || out["status"] != "active" || id == "" {
		h.t.Fatalf("open: %d %v", code, out)
	}
	return id
}

// audit are the operations of a session.
func (h *techHouse) audit(token, id string) (rows []object) {
	h.t.Helper()
	code, out := restAs(h.t, h.Daemon, token, "GET", "/v1/tech-sessions/"+id+"/audit", nil)
	if code != 200 {
		h.t.Fatal(code, out)
	}
	for _, r := range slicesOf(out["rows"]) {
		rows = append(rows, r.(object))
	}
	return rows
}

func has(rows []object, operation string, fits func(object) bool) bool {
	for _, r := range rows {
		if r["operation"] == operation && (fits == nil || fits(r)) {
			return true
		}
	}
	return false
}

func TestT1Life(t *testing.T) {
	accept(t, "T1")
	h := newTechHouse(t, "T1", nil)
	h.bridge()
	id := h.open(h.ann)
	if code, out := h.curl(h.ann, "GET", "status/"+id, ""); code != 200 || out["status"] != "active" || out["session_id"] != id || out["agent_id"] != agentID || out["closed_at"] != nil {
		t.Errorf("status: %d %v", code, out)
	}
	if code, out := h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`); code != 200 || out["status"] != "closed" {
		t.Errorf("close: %d %v", code, out)
	}
	// The original answers 403 here.
	code, out := h.curl(h.ann, "GET", "status/"+id, "")
	closed, _ := out["closed_at"].(string)
	opened, _ := out["opened_at"].(string)
	a, errA := time.Parse(time.RFC3339, opened)
	b, errB := time.Parse(time.RFC3339, closed)
	if code != 200 || out["status"] != "closed" || errA != nil || errB != nil || b.Before(a) {
		t.Errorf("status after the close: %d %v", code, out)
	}
}

func TestT2JWT(t *testing.T) {
	accept(t, "T2")
	h := newTechHouse(t, "T2", nil)
	h.bridge()
	id := h.open(h.ann)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(3 * time.Second)
	used := h.is.token("ann", object{"exp": soon.Unix()})
	if code, out := h.curl(used, "GET", "status/"+id, ""); code != 200 {
		t.Fatalf("a token that still holds: %d %v", code, out)
	}
	bad := map[string]string{
		"none": "", "expired": h.is.token("ann", object{"exp": time.Now().Add(-time.Minute).Unix()}), "wrong key": h.is.by(h.is.sign(stranger), "ann", nil),
		"of another gateway": h.is.token("ann", object{"aud": "other"}), "of another issuer": h.is.token("ann", object{"iss": "https://evil.example"}),
		"unsigned": "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"ann","aud":"gw","iss":"`+h.is.url+`"}`)) + ".", "changed": h.ann[:len(h.ann)-4] + "AAAA",
	}
	check := func(name, token string) {
		for _, ask := range [][3]string{
			{"POST", "open", `{"agent_id":"` + agentID + `"}`}, {"POST", "close", `{"session_id":"` + id + `"}`}, {"GET", "status/" + id, ""},
			{"POST", id + "/command", `{"command":"id"}`},
		} {
			if code, out := h.curl(token, ask[0], ask[1], ask[2]); code != 401 || out["error"] == "" {
				t.Errorf("%s, %s: %d %v", name, ask[1], code, out)
			}
		}
	}
	for name, token := range bad {
		check(name, token)
	}
	proc.Until(t, "the token to expire", func() bool { return time.Now().After(soon.Add(1500 * time.Millisecond)) })
	check("used before, expired now", used)
	if code, out := h.curl(h.ann, "GET", "status/"+id, ""); code != 200 || out["status"] != "active" {
		t.Errorf("%d %v", code, out)
	}
}

func TestT3UUID(t *testing.T) {
	accept(t, "T3")
	h := newTechHouse(t, "T3", nil)
	for _, id := range []string{"invalid-uuid", "", "0f9d2c3a5b1e", agentID + "x", "0f9d2c3a-5b1e-4c77-9d0a-8a1c5f6b7e2\u0261", "../" + agentID, agentID + "\x00", "' OR 1=1 --"} {
		body, _ := json.Marshal(object{"agent_id": id})
		if code, out := h.curl(h.ann, "POST", "open", string(body)); code != 400 || out["error"] != "Invalid agent_id format" {
			t.Errorf("%q: %d %v", id, code, out)
		}
		body, _ = json.Marshal(object{"session_id": id})
		if code, out := h.curl(h.ann, "POST", "close", string(body)); code != 400 {
			t.Errorf("close %q: %d %v", id, code, out)
		}
	}
	for _, body := range []string{"", "[]", "null", `{"agent_id":5}`, `{"agent_id":null}`, "{", `{"agent_id":"` + strings.Repeat("a", 100_000) + `"}`} {
		if code, out := h.curl(h.ann, "POST", "open", body); code != 400 && code != 413 {
			t.Errorf("%.40q: %d %v", body, code, out)
		}
	}
	if code, out := h.curl(h.ann, "GET", "status/not-a-uuid", ""); code != 400 {
		t.Errorf("%d %v", code, out)
	}
}

func TestT4NotFound(t *testing.T) {
	accept(t, "T4")
	h := newTechHouse(t, "T4", nil)
	if code, out := h.curl(h.ann, "POST", "open", `{"agent_id":"`+agentID+`"}`); code != 404 || out["error"] != "Agent not connected" {
		t.Errorf("%d %v", code, out)
	}
	for _, ask := range [][3]string{{"GET", "status/" + agentID, ""}, {"POST", "close", `{"session_id":"` + agentID + `"}`}, {"POST", agentID + "/command", `{"command":"id"}`}} {
		if code, out := h.curl(h.ann, ask[0], ask[1], ask[2]); code != 404 {
			t.Errorf("%s: %d %v", ask[1], code, out)
		}
	}
}

func TestT5Ownership(t *testing.T) {
	accept(t, "T5")
	h := newTechHouse(t, "T5", nil)
	h.bridge()
	id := h.open(h.ann)
	for _, ask := range [][3]string{{"GET", "status/" + id, ""}, {"POST", "close", `{"session_id":"` + id + `"}`}, {"POST", id + "/command", `{"command":"id"}`}} {
		if code, out := h.curl(h.cleo, ask[0], ask[1], ask[2]); code != 403 || out["error"] != "Session not found or not owned by user" {
			t.Errorf("cleo, %s: %d %v", ask[1], code, out)
		}
	}
	// Who administers looks and closes; to work in it, it takes it over.
	if code, out := h.curl(h.bob, "POST", id+"/command", `{"command":"id"}`); code != 403 {
		t.Errorf("bob: %d %v", code, out)
	}
	if code, out := h.curl(h.ann, "GET", "status/"+id, ""); code != 200 || out["status"] != "active" {
		t.Errorf("%d %v", code, out)
	}
}

func TestT6OneHolds(t *testing.T) {
	accept(t, "T6")
	h := newTechHouse(t, "T6", nil)
	h.bridge()
	id := h.open(h.ann)
	for name, token := range map[string]string{"ann again": h.ann, "bob": h.bob} {
		if code, out := h.curl(token, "POST", "open", `{"agent_id":"`+agentID+`"}`); code != 409 {
			t.Errorf("%s: %d %v", name, code, out)
		}
	}
	if code, _ := h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`); code != 200 {
		t.Fatal(code)
	}
	for round := range 5 {
		var ok, held atomic.Int32
		var holder atomic.Value
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 50 {
			wg.Go(func() {
				<-start
				token := h.ann
				if i%2 == 1 {
					token = h.bob
				}
				code, out := h.curl(token, "POST", "open", `{"agent_id":"`+agentID+`"}`)
				switch code {
				case 200:
					ok.Add(1)
					holder.Store([2]string{token, out["session_id"].(string)})
				case 409:
					held.Add(1)
				default:
					t.Errorf("open: %d %v", code, out)
				}
			})
		}
		close(start)
		wg.Wait()
		if ok.Load() != 1 || held.Load() != 49 {
			t.Fatalf("round %d: %d hold the node, %d were refused", round, ok.Load(), held.Load())
		}
		who := holder.Load().([2]string)
		if code, out := h.curl(who[0], "POST", "close", `{"session_id":"`+who[1]+`"}`); code != 200 {
			t.Fatalf("close: %d %v", code, out)
		}
	}
	// An explicit takeover ends the other session.
	id = h.open(h.ann)
	code, out := restAs(t, h.Daemon, h.bob, "POST", "/v1/tech-sessions", object{"node_id": agentID, "takeover": true})
	if code != 200 {
		t.Fatal(code, out)
	}
	if code, out := h.curl(h.ann, "GET", "status/"+id, ""); code != 200 || out["status"] != "closed" {
		t.Errorf("%d %v", code, out)
	}
	if rows := h.audit(h.ann, id); !has(rows, "close", func(r object) bool { return fmt.Sprint(r["detail"]) == "map[reason:taken_over]" }) {
		t.Errorf("the takeover is not in the audit: %v", rows)
	}
	if code, out := restAs(t, h.Daemon, h.cleo, "POST", "/v1/tech-sessions", object{"node_id": agentID, "takeover": true}); code != 403 {
		t.Errorf("cleo takes over: %d %v", code, out)
	}
}

func TestT9Audit(t *testing.T) {
	accept(t, "T9")
	h := newTechHouse(t, "T9", nil)
	h.bridge()
	id := h.open(h.ann)
	if code, out := h.curl(h.ann, "POST", id+"/command", `{"command":"echo to the audit; exit 4"}`); code != 200 || out["exit_code"] != 4.0 {
		t.Fatalf("%d %v", code, out)
	}
	if code, _ := h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`); code != 200 {
		t.Fatal(code)
	}
	rows := h.audit(h.ann, id)
	for _, op := range []string{"open", "channel_open", "command", "command_end", "channel_close", "close"} {
		if !has(rows, op, func(r object) bool {
			channel, _ := r["channelId"].(string)
			subject, _ := r["subject"].(string)
			return r["nodeId"] == agentID && subject != "" && r["outcome"] == "ok" && (channel != "") == (op != "open" && op != "close")
		}) {
			t.Errorf("no row %s of channel, operator, node and outcome in %v", op, rows)
		}
	}
	if !has(rows, "command", func(r object) bool { return r["detail"].(object)["command"] == "echo to the audit; exit 4" }) {
		t.Errorf("the command is not in %v", rows)
	}
	// The chained log has them too, and holds.
	if out := h.Ctl("audit", "verify").Wait(t, proc.Patience); out.Code != 0 {
		t.Errorf("the chain: %d %s%s", out.Code, out.Stdout, out.Stderr)
	}
}

func TestT11Mode(t *testing.T) {
	accept(t, "T11")
	h := newTechHouse(t, "T11", nil)
	h.bridge()
	mode := func() (string, any) {
		code, out := rest(t, h.Daemon, "GET", "/v1/nodes/"+agentID, nil)
		n, _ := out["node"].(object)
		if n == nil {
			n = out
		}
		if code != 200 {
			t.Fatal(code, out)
		}
		m, _ := n["mode"].(string)
		return m, n["connectedAt"]
	}
	before, since := mode()
	id := h.open(h.ann)
	during, still := mode()
	if code, _ := h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`); code != 200 {
		t.Fatal(code)
	}
	after, end := mode()
	if before != "heartbeat" || during != "tunnel" || after != "heartbeat" || since != still || still != end {
		t.Errorf("modes %q, %q, %q; connected %v, %v, %v", before, during, after, since, still, end)
	}
}

func TestT14Cleanup(t *testing.T) {
	accept(t, "T14")
	h := newTechHouse(t, "T14", nil)
	bridge := h.bridge()
	id := h.open(h.ann)
	if err := syscall.Kill(bridge.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	proc.UntilFor(t, 65*time.Second, "the session to be closed", func() bool {
		code, out := h.curl(h.ann, "GET", "status/"+id, "")
		return code == 200 && out["status"] == "closed"
	})
	if rows := h.audit(h.ann, id); !has(rows, "close", func(r object) bool { return fmt.Sprint(r["detail"]) == "map[reason:node_disconnected]" }) {
		t.Errorf("%v", rows)
	}
	// The daemon dies: the node of ours is free again, what it ran is gone, and the row is closed at the next start.
	home := proc.Dir(t)
	node := proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + h.Socket(), "SHELL=/bin/sh"}, "node", "--state-dir", filepath.Join(home, "node"), "--display-name", "box")
	var box string
	find := func() {
		proc.Until(t, "the node", func() bool {
			for name, n := range listed(t, h.Daemon) {
				if n["displayName"] == "box" {
					box = name
					return true
				}
			}
			return false
		})
	}
	find()
	code, out := restAs(t, h.Daemon, h.ann, "POST", "/v1/tech-sessions", object{"node_id": box})
	if code != 200 {
		t.Fatal(code, out)
	}
	id = out["session"].(object)["sessionId"].(string)
	mark := filepath.Join(home, "mark")
	go func() { // ends with the daemon
		body, _ := json.Marshal(object{"command": "echo $$ > " + mark + "; exec sleep 600"})
		req, err := http.NewRequest("POST", h.URL()+"/v1/tech-sessions/"+id+"/command", bytes.NewReader(body))
		if err == nil {
			req.Header.Set("Authorization", "Bearer "+h.ann)
			if res, err := http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
		}
	}()
	var pid int
	proc.Until(t, "the command to run", func() bool {
		b, _ := os.ReadFile(mark)
		_, err := fmt.Sscan(string(b), &pid)
		return err == nil
	})
	h.Kill()
	proc.UntilFor(t, 20*time.Second, "the command to end", func() bool { return syscall.Kill(pid, 0) != nil })
	h.Start()
	find()
	if code, out := h.curl(h.ann, "GET", "status/"+id, ""); code != 200 || out["status"] != "closed" {
		t.Errorf("after the restart: %d %v", code, out)
	}
	if rows := h.audit(h.ann, id); !has(rows, "close", func(r object) bool { return fmt.Sprint(r["detail"]) == "map[reason:daemon_restarted]" }) {
		t.Errorf("%v", rows)
	}
	proc.Until(t, "the node to be free", func() bool {
		code, _ := restAs(t, h.Daemon, h.ann, "POST", "/v1/tech-sessions", object{"node_id": box})
		return code == 200
	})
	if node.Ended() {
		t.Error("the node has ended")
	}
}

func TestT15Limits(t *testing.T) {
	accept(t, "T15")
	dir := t.TempDir()
	h := newTechHouse(t, "T15", object{"directories": []string{dir}})
	h.bridge()
	id := h.open(h.ann)
	code := 0
	ran := 0
	for range 101 {
		if code, _ = h.curl(h.ann, "POST", id+"/command", `{"command":"true","cwd":"`+dir+`"}`); code != 200 {
			break
		}
		ran++
	}
	if ran != 100 || code != 429 {
		t.Errorf("%d commands ran, then %d", ran, code)
	}
	if rows := h.audit(h.ann, id); !has(rows, "refused", nil) {
		t.Errorf("the refusal is not in the audit")
	}
	h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`)
	if code, out := restAs(t, h.Daemon, h.bob, "POST", "/v1/tech-sessions", object{"node_id": agentID, "directories": []string{"/"}}); code != 403 {
		t.Errorf("wider directories than those of the configuration: %d %v", code, out)
	}
	id = h.open(h.bob)
	for _, cwd := range []string{"/etc", dir + "/../..", dir + "x", "relative"} {
		body, _ := json.Marshal(object{"command": "id", "cwd": cwd})
		if code, out := h.curl(h.bob, "POST", id+"/command", string(body)); code != 403 && code != 400 {
			t.Errorf("%s: %d %v", cwd, code, out)
		}
	}
	if rows := h.audit(h.bob, id); !has(rows, "refused", func(r object) bool { return r["detail"].(object)["cwd"] == "/etc" }) {
		t.Errorf("no row of the refused directory in %v", rows)
	}
}

func TestT16Injection(t *testing.T) {
	accept(t, "T16")
	h := newTechHouse(t, "T16", nil)
	h.bridge()
	id := h.open(h.ann)
	for _, command := range []string{
		`printf '%s' "it's \"quoted\" \\ $(echo sub)"`, "printf 'a\tb\001\033[31mred'", "printf '%s' '; DROP TABLE tech_sessions; --'", "printf \u202eabc\u200b", "printf 'l\u0456ke'",
	} {
		want, err := exec.Command("/bin/sh", "-c", command).Output()
		if err != nil {
			t.Fatal(err)
		}
		body, _ := json.Marshal(object{"command": command})
		code, out := h.curl(h.ann, "POST", id+"/command", string(body))
		if code != 200 || out["stdout"] != string(want) {
			t.Errorf("%q: %d %q, want %q", command, code, out["stdout"], want)
		}
		if rows := h.audit(h.ann, id); !has(rows, "command", func(r object) bool { return r["detail"].(object)["command"] == command }) {
			t.Errorf("%q is not in the audit as it was sent", command)
		}
	}
	if code, out := h.curl(h.ann, "POST", id+"/command", `{"command":"a\u0000b"}`); code != 400 {
		t.Errorf("a zero byte: %d %v", code, out)
	}
}

func TestT17Command(t *testing.T) {
	accept(t, "T17")
	h := newTechHouse(t, "T17", nil)
	h.bridge()
	id := h.open(h.ann)
	if code, out := h.curl(h.ann, "POST", id+"/command", `{"command":"echo out; echo err >&2; exit 3"}`); code != 200 || out["stdout"] != "out\n" || out["stderr"] != "err\n" || out["exit_code"] != 3.0 {
		t.Errorf("%d %v", code, out)
	}
	h.curl(h.ann, "POST", "close", `{"session_id":"`+id+`"}`)

	// A node of ours shows lines as they are printed, also to who looks on.
	home := proc.Dir(t)
	proc.Run(t, home, proc.Build(t, "hanzod", proc.Tested), []string{"HANZOD_SOCKET=" + h.Socket(), "SHELL=/bin/sh"}, "node", "--state-dir", filepath.Join(home, "node"), "--display-name", "box")
	var box string
	proc.Until(t, "the node", func() bool {
		for name, n := range listed(t, h.Daemon) {
			if n["displayName"] == "box" {
				box = name
			}
		}
		return box != ""
	})
	code, out := restAs(t, h.Daemon, h.ann, "POST", "/v1/tech-sessions", object{"node_id": box})
	if code != 200 {
		t.Fatal(code, out)
	}
	id = out["session"].(object)["sessionId"].(string)
	stream := func(method, path string, body any) *bufio.Scanner {
		text, _ := json.Marshal(body)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		t.Cleanup(cancel)
		req, err := http.NewRequestWithContext(ctx, method, h.URL()+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+h.ann)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return bufio.NewScanner(res.Body)
	}
	watch := stream("GET", "/v1/tech-sessions/"+id+"/events", nil)
	if !watch.Scan() || !strings.Contains(watch.Text(), "watcher_joined") {
		t.Fatalf("the watcher sees %q, %v", watch.Text(), watch.Err())
	}
	began := time.Now()
	lines := stream("POST", "/v1/tech-sessions/"+id+"/command", object{"command": "echo one; sleep 1; echo two; sleep 1; echo three"})
	var at []time.Duration
	var text strings.Builder
	for lines.Scan() {
		var m struct {
			Stdout   []byte
			ExitCode *int
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		if len(m.Stdout) > 0 {
			text.Write(m.Stdout)
			at = append(at, time.Since(began))
		}
	}
	if text.String() != "one\ntwo\nthree\n" || len(at) != 3 || at[0] > 900*time.Millisecond || at[1] < 900*time.Millisecond || at[2] < 1900*time.Millisecond {
		t.Errorf("%q came at %v", text.String(), at)
	}
	seen := ""
	for watch.Scan() && !strings.Contains(watch.Text(), `"exit"`) {
		var e struct {
			Type string
			Data []byte
		}
		if json.Unmarshal(watch.Bytes(), &e) == nil && e.Type == "output" {
			seen += string(e.Data)
		}
	}
	if seen != "one\ntwo\nthree\n" {
		t.Errorf("the watcher saw %q", seen)
	}
}
