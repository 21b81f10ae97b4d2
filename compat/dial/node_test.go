//go:build !windows

package dial

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
)

func testHost(tb testing.TB) *host.Host {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "exec-approvals.json")
	if err := os.WriteFile(path, []byte(`{"version":1,"defaults":{"security":"full","ask":"off"}}`), 0o600); err != nil {
		tb.Fatal(err)
	}
	return host.New(host.Config{Policy: policy.Open(path, policy.Options{})})
}

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// runNode runs a node against a fake gateway until stop is called.
func runNode(tb testing.TB, o NodeOptions, serve func(p *peer)) (log *logBuffer, stop func()) {
	tb.Helper()
	log = &logBuffer{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	if o.Dial.URL == "" {
		o.Dial.URL = gateway(tb, serve)
	}
	o.Dial.Client = Client{ID: "node-host", Mode: "node", Version: "1", Platform: "linux"}
	if o.Host == nil {
		o.Host = testHost(tb)
	}
	ctx, cancel := context.WithCancel(tb.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := RunNode(ctx, o); !errors.Is(err, context.Canceled) {
			tb.Errorf("ended with %v", err)
		}
	}()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); within(tb, "end of RunNode", done) }) }
	tb.Cleanup(stop)
	return log, stop
}

func invoke(id, command, params string) string {
	return fmt.Sprintf(`{"type":"event","event":"node.invoke.request","payload":{"id":%q,"nodeId":"N","command":%q,%s}}`, id, command, params)
}

func TestNodeServesInvokes(t *testing.T) {
	type got struct{ params, event, result, which, unknown string }
	answers := make(chan got, 1)
	_, stop := runNode(t, NodeOptions{}, func(p *peer) {
		var g got
		g.params = string(p.greet(hello))
		p.send(`%s`, `{"type":"event","event":"node.invoke.request","payload":{"id":" ","nodeId":"N","command":"system.run"}}`) // ignored
		p.send(`%s`, `{"type":"event","event":"node.invoke.request","payload":7}`)
		p.send(`%s`, invoke("I1", "system.run", `"paramsJSON":"{\"command\":[\"echo\",\"hi\"],\"runId\":\"A1\"}","timeoutMs":5,"idempotencyKey":"k"`))
		for _, dst := range []*string{&g.event, &g.result} {
			r, _ := p.recv()
			*dst = r.Method + " " + string(r.Params)
		}
		p.send(`%s`, invoke("I2", "system.which", `"params":{"bins":["sh"]},"paramsJSON":null`))
		r, _ := p.recv()
		g.which = string(r.Params)
		p.send(`%s`, invoke("I3", "nope", `"paramsJSON":null`))
		r, _ = p.recv()
		g.unknown = string(r.Params)
		answers <- g
		p.wait()
	})
	g := <-answers
	stop()
	if !strings.Contains(g.params, `"role":"node","scopes":[],"caps":["system","system.binding"],"commands":["system.run.prepare","system.run","system.run.kill","system.which","system.execApprovals.get","system.execApprovals.set"],"pathEnv":`) {
		t.Errorf("connect %s", g.params)
	}
	if want := `node.event {"event":"exec.finished","payloadJSON":"{\"sessionKey\":\"node\",\"runId\":\"A1\",\"host\":\"node\",\"command\":\"echo hi\",\"exitCode\":0,\"timedOut\":false,\"success\":true,\"output\":\"hi\"}"}`; g.event != want {
		t.Errorf("event  %s\nwant %s", g.event, want)
	}
	if want := `node.invoke.result {"id":"I1","nodeId":"N","ok":true,"payloadJSON":"{\"exitCode\":0,\"timedOut\":false,\"success\":true,\"stdout\":\"hi\\n\",\"stderr\":\"\",\"error\":null}"}`; g.result != want {
		t.Errorf("result %s\nwant %s", g.result, want)
	}
	if !strings.HasPrefix(g.which, `{"id":"I2","nodeId":"N","ok":true,"payloadJSON":"{\"bins\":{\"sh\":\"/`) {
		t.Errorf("which %s", g.which)
	}
	if want := `{"id":"I3","nodeId":"N","ok":false,"error":{"code":"UNAVAILABLE","message":"command not supported"}}`; g.unknown != want {
		t.Errorf("unknown %s", g.unknown)
	}
}

func TestNodeReconnects(t *testing.T) {
	const attempts = 9
	clock := make(chan time.Time, 1)
	clock <- time.UnixMilli(0)
	now := func() time.Time { v := <-clock; clock <- v; return v }
	waits := make(chan time.Duration, attempts)
	var mu sync.Mutex
	var states []Phase
	o := NodeOptions{
		Rand:    func() float64 { return 0.5 },
		OnState: func(s State) { mu.Lock(); states = append(states, s.Phase); mu.Unlock() },
		Wait: func(ctx context.Context, d time.Duration) {
			select {
			case waits <- d:
			default:
				<-ctx.Done()
			}
		},
	}
	o.Dial.Now = now
	connected := make(chan struct{})
	o2 := o.OnState
	o.OnState = func(s State) {
		o2(s)
		if s.Phase == Connected {
			connected <- struct{}{}
		}
	}
	_, stop := runNode(t, o, func(p *peer) {
		if p.index != attempts-2 {
			p.ws.Close(1012, "service restart")
			return
		}
		p.greet(hello) // a healthy connection starts the count anew
		<-connected
		v := <-clock
		clock <- v.Add(time.Minute) // what a healthy link stands
		p.ws.Close(1012, "service restart")
	})
	var got []time.Duration
	for range attempts {
		got = append(got, <-waits)
	}
	stop()
	var want []time.Duration
	// A gateway that restarts is asked again soon; how long the pauses grow where one refuses is tested in nodes/host.
	for _, s := range []float64{1, 2, 3, 3, 3, 3, 3, 1, 2} {
		want = append(want, time.Duration(s*0.75*float64(time.Second)))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("waits %v, want %v", got, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if s := fmt.Sprint(states[:4]); s != "[connecting waiting connecting waiting]" {
		t.Errorf("states %s", s)
	}
}

func quick(ctx context.Context, _ time.Duration) {
	select {
	case <-time.After(time.Millisecond):
	case <-ctx.Done():
	}
}

// What no retry mends ends the node; what may mend itself does not.
func TestNodePermanentErrors(t *testing.T) {
	for name, d := range map[string]Options{
		"plain to another machine": {URL: "ws://192.0.2.1:18789"},
		"other scheme":             {URL: "http://127.0.0.1:1"},
		"no address":               {},
		"user in the address":      {URL: "wss://u:p@127.0.0.1:1"},
		"short fingerprint":        {URL: "wss://127.0.0.1:1", TLSFingerprint: "12"},
	} {
		o := NodeOptions{Dial: d, Host: testHost(t), Wait: func(context.Context, time.Duration) { t.Errorf("%s: is tried again", name) }}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		if err := RunNode(ctx, o); errs.ClassOf(err) != errs.Invalid || ctx.Err() != nil {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	waited := make(chan struct{}, 1)
	o := NodeOptions{Wait: func(ctx context.Context, _ time.Duration) { waited <- struct{}{}; <-ctx.Done() }}
	o.Dial.URL = "ws://127.0.0.1:1" // nobody listens there
	_, stop := runNode(t, o, nil)
	within(t, "another attempt", waited)
	stop()
}

func TestNodeDeviceToken(t *testing.T) {
	tokens := &Tokens{Path: filepath.Join(t.TempDir(), "identity", "device-auth.json"), DeviceID: testIdentity().ID}
	auth := func(raw json.RawMessage) string {
		var p struct {
			Auth json.RawMessage `json:"auth"`
		}
		json.Unmarshal(raw, &p)
		return string(p.Auth)
	}
	seen := make(chan string, 8)
	o := NodeOptions{Tokens: tokens, Wait: quick}
	o.Dial.Device = testIdentity()
	o.Dial.Auth.Token = "shared"
	welcome := strings.Replace(hello, `"policy"`, `"auth":{"deviceToken":"DT","role":"node","scopes":[]},"policy"`, 1)
	_, stop := runNode(t, o, func(p *peer) {
		switch p.index {
		case 0: // pairs and gets a token
			seen <- auth(p.greet(welcome))
			p.send(`%s`, invoke("I", "x", `"paramsJSON":null`))
			p.recv()
		case 1: // the token was revoked
			p.refuse(1008, `{"code":"INVALID_REQUEST","message":"unauthorized: device token mismatch (rotate/reissue device token)","details":{"code":"AUTH_DEVICE_TOKEN_MISMATCH"}}`)
		default:
			seen <- auth(p.greet(hello))
			p.wait()
		}
	})
	if got := <-seen; got != `{"token":"shared"}` {
		t.Errorf("first %s", got)
	}
	if got := <-seen; got != `{"token":"shared"}` {
		t.Errorf("after the mismatch %s", got)
	}
	stop()
	// Without a shared secret the stored token is all there is: it is used, and kept.
	if err := tokens.Put("node", "DT2", nil, time.UnixMilli(5)); err != nil {
		t.Fatal(err)
	}
	o.Dial.Auth.Token = ""
	waited := make(chan struct{}, 1)
	o.Wait = func(ctx context.Context, _ time.Duration) { waited <- struct{}{}; <-ctx.Done() }
	log, stop := runNode(t, o, func(p *peer) {
		p.send(`{"type":"event","event":"connect.challenge","payload":{"nonce":"n","ts":1}}`)
		r, _ := p.recv()
		seen <- auth(r.Params)
		p.send(`{"type":"res","id":%q,"ok":false,"error":{"code":"INVALID_REQUEST","message":"m","details":{"code":"AUTH_DEVICE_TOKEN_MISMATCH"}}}`, r.ID)
		p.ws.Close(1008, "m")
	})
	if got := <-seen; got != `{"token":"DT2","deviceToken":"DT2"}` {
		t.Errorf("alone %s", got)
	}
	<-waited
	stop()
	if got, err := tokens.Get("node"); got != "DT2" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if s := log.String(); !strings.Contains(s, "pair this machine again") || strings.Contains(s, "DT2") {
		t.Errorf("log %s", s)
	}
}

func TestNodeSaysWhatToDo(t *testing.T) {
	for detail, want := range map[string]string{
		`{"code":"PAIRING_REQUIRED","requestId":"R1","reason":"not-paired"}`: " request=R1 ",
		`{"code":"AUTH_TOKEN_MISMATCH"}`:                                     "current token or password",
		`{"code":"AUTH_RATE_LIMITED"}`:                                       "locked out",
		`{"code":"DEVICE_AUTH_SIGNATURE_EXPIRED"}`:                           "set the clock",
		`{"code":"OTHER"}`:                                                   "detail=OTHER",
	} {
		waited := make(chan struct{}, 1)
		o := NodeOptions{Wait: func(ctx context.Context, _ time.Duration) { waited <- struct{}{}; <-ctx.Done() }}
		o.Dial.Auth.Token = "secret-token"
		log, stop := runNode(t, o, func(p *peer) { p.refuse(1008, `{"code":"C","message":"m","details":`+detail+`}`) })
		<-waited
		stop()
		if s := log.String(); !strings.Contains(s, want) || strings.Contains(s, "secret-token") {
			t.Errorf("%s: %s", detail, s)
		}
	}
}

func TestLostLinkKillsCommand(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	pids := make(chan int, 1)
	log, _ := runNode(t, NodeOptions{Wait: quick}, func(p *peer) {
		p.greet(hello)
		if p.index > 0 {
			p.wait()
			return
		}
		p.send(`%s`, invoke("I1", "system.run", fmt.Sprintf(`"params":{"command":["/bin/sh","-c","echo $$ >%s.tmp; mv %s.tmp %s; exec sleep 300"]}`, file, file, file)))
		pids <- pidIn(t, file)
		p.ws.CloseNow()
	})
	pid := <-pids
	eventually(t, "the command is gone", func() bool { return syscall.Kill(pid, 0) != nil })
	eventually(t, "a line about the result", func() bool {
		return strings.Contains(log.String(), "could not be delivered to the gateway and is dropped")
	})
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatal("never happened: " + what)
		}
	}
}

func pidIn(tb testing.TB, file string) (pid int) {
	eventually(tb, "pid in "+file, func() bool {
		b, _ := os.ReadFile(file)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0
	})
	return pid
}

func TestTooManyInvokes(t *testing.T) {
	refused := make(chan string, 1)
	_, stop := runNode(t, NodeOptions{}, func(p *peer) {
		p.greet(hello)
		for i := range MaxInvokes + 1 { // the first ones run, the next are refused by the host, the last by the node
			p.send(`%s`, invoke(fmt.Sprint("I", i), "system.run", `"params":{"command":["/bin/sh","-c","sleep 60"]}`))
		}
		for {
			r, ok := p.recv()
			if !ok {
				return
			}
			if strings.Contains(string(r.Params), "UNAVAILABLE") {
				select {
				case refused <- string(r.Params):
				default:
				}
			}
		}
	})
	if s := <-refused; !strings.Contains(s, "try again") {
		t.Errorf("%s", s)
	}
	stop()
}

func FuzzInvoke(f *testing.F) {
	f.Add([]byte(`{"id":"I","nodeId":"N","command":"system.which","paramsJSON":"{\"bins\":[1]}"}`))
	f.Add([]byte(`{"id":"I","nodeId":"N","command":"system.run.prepare","params":{"command":["a"],"cwd":"/"}}`))
	h := testHost(f)
	f.Fuzz(func(t *testing.T, payload []byte) {
		r, ok := parseInvoke(Event{Payload: payload})
		if !ok || r.Command == "system.run" {
			return
		}
		res := h.Handle(t.Context(), r)
		if res.OK == (res.Error != nil) || res.PayloadJSON != nil && !json.Valid([]byte(*res.PayloadJSON)) {
			t.Errorf("%+v", res)
		}
	})
}
