package door

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/client"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

// What happens is told by every door alike: system events, wakes, heartbeats and what begins a turn.
func TestWhatHappens(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{
		"agents": map[string]any{"defaults": map[string]any{"heartbeat": map[string]any{"every": "30m"}}},
	}})
	var mu sync.Mutex
	var seen []string
	heard := func(name string, _ object) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, name)
	}
	all := []string{"operator.admin", "operator.read", "operator.write"}
	url := "ws" + strings.TrimPrefix("http://"+d.Addresses()[0], "http")
	op, hello := connect(t, url, params("operator", d.Token, all, nil), heard)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	count := func(name string) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range seen {
			if s == name {
				n++
			}
		}
		return n
	}
	// Presence is announced before the answer, which the reader of this connection sees in that order.
	before := count("presence")
	if f := op.call("system-event", object{"text": "the deploy finished", "host": "build-box", "roles": []any{"node", 5}}); f["ok"] != true {
		t.Errorf("%v", f)
	}
	if count("presence") != before+1 {
		t.Errorf("%d announcements before the answer", count("presence")-before)
	}
	if f := op.call("wake", object{"mode": "next-heartbeat", "text": "  "}); f["ok"] != true || f["payload"].(object)["ok"] != false {
		t.Errorf("a blank wake: %v", f)
	}
	// No agent runs: a heartbeat says so, and is told.
	c, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ran, err := c.System.RunHeartbeat(ctx, &systemv1.RunHeartbeatRequest{})
	if err != nil || ran.GetStatus() != "skipped" || !strings.Contains(ran.GetReason(), "agents do not run") {
		t.Errorf("%v %v", ran, err)
	}
	last := op.call("last-heartbeat", object{})
	report, _ := last["payload"].(object)
	if report["status"] != "skipped" || report["reason"] != ran.GetReason() || count("heartbeat") != 1 {
		t.Errorf("%v, %d events", last, count("heartbeat"))
	}
	// A wake now asks for one, merged with the others of its quarter of a second.
	for range 5 {
		if f := op.call("wake", object{"mode": "now", "text": "look"}); f["ok"] != true {
			t.Fatalf("%v", f)
		}
	}
	for deadline := time.Now().Add(patience); count("heartbeat") < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no heartbeat after a wake")
		}
	}
	st, err := c.System.GetStatus(ctx, &systemv1.GetStatusRequest{})
	if q := st.GetQueuedSystemEvents(); err != nil || len(q) != 2 || q[0] != "the deploy finished" || q[1] != "look" {
		t.Errorf("%v %v", q, err)
	}
	// What begins a turn is refused, what ends one finds none.
	for _, q := range []struct {
		method string
		params object
		want   string
	}{
		{"chat.send", object{"sessionKey": "main", "message": "hi", "idempotencyKey": "k"}, "agents do not run on this hanzod yet"},
		{"chat.send", object{"sessionKey": "main", "message": "a\x00", "idempotencyKey": "k"}, "message must not contain null bytes"},
		{"agent", object{"message": "hi", "agentId": "missing", "idempotencyKey": "k"}, `invalid agent params: unknown agent id "missing"`},
		{"agent", object{"message": "hi", "sessionKey": "agent:", "idempotencyKey": "k"}, `invalid agent params: malformed session key "agent:"`},
		{"browser.request", object{"method": "PATCH", "path": "/"}, "method must be GET, POST, or DELETE"},
		{"browser.request", object{"method": "GET", "path": "/"}, "browser control is disabled"},
	} {
		if _, text := failure(op.call(q.method, q.params)); !strings.HasPrefix(text, q.want) {
			t.Errorf("%s %v: %q", q.method, q.params, text)
		}
	}
	for _, q := range []object{
		op.call("chat.send", object{"sessionKey": "main", "message": "please stop", "idempotencyKey": "k"}), op.call("chat.abort", object{"sessionKey": "main"}),
	} {
		p, _ := q["payload"].(object)
		if ids, _ := p["runIds"].([]any); p["ok"] != true || p["aborted"] != false || ids == nil || len(ids) != 0 {
			t.Errorf("%v", q)
		}
	}
	// A web client is told that there is no phone before its parameters are looked at.
	page := &http.Client{Transport: from{origin: "http://" + d.Addresses()[0]}}
	web, hello := connectBy(t, page, url, params("operator", d.Token, all, object{"client": object{"id": "webchat-ui", "version": "1", "platform": "web", "mode": "webchat"}}), nil)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	if _, text := failure(web.call("talk.mode", object{})); text != "talk disabled: no connected iOS/Android nodes" {
		t.Errorf("%q", text)
	}
	if _, text := failure(op.call("talk.mode", object{})); text != "invalid talk.mode params: must have required property 'enabled'" {
		t.Errorf("%q", text)
	}
}

// from makes requests as the page of an origin does.
type from struct{ origin string }

func (f from) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Origin", f.origin)
	return http.DefaultTransport.RoundTrip(r)
}

// Speech is asked for over HTTP, and its key is nowhere but there.
func TestSpeech(t *testing.T) {
	const key = "sk-door-0123456789abcdef"
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+key {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "audio")
	}))
	defer srv.Close()
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{
		"messages": map[string]any{"tts": map[string]any{"openai": map[string]any{"apiKey": key, "baseUrl": srv.URL}}},
	}})
	c, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := c.Talk.ConvertSpeech(ctx, &talkv1.ConvertSpeechRequest{Text: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(out.GetAudioPath()); err != nil || string(data) != "audio" || !strings.HasPrefix(out.GetAudioPath(), d.StateDir) {
		t.Errorf("%v: %q %v", out, data, err)
	}
	st, err := c.Talk.GetSpeechStatus(ctx, &talkv1.GetSpeechStatusRequest{})
	if err != nil || st.GetProvider() != "openai" || !st.GetHasOpenaiKey() || strings.Contains(st.String(), key) {
		t.Errorf("%v %v", st, err)
	}
}

// The log is followed over REST, line by line as it is written.
func TestFollowLogsByREST(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addresses()[0]+"/v1/logs:follow?lines=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+d.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	if res.StatusCode != http.StatusOK || !lines.Scan() {
		t.Fatalf("%s %v", res.Status, lines.Err())
	}
	d.Log().Info("a line of this test")
	for lines.Scan() {
		if strings.Contains(lines.Text(), "a line of this test") {
			return
		}
	}
	t.Fatal(lines.Err())
}
