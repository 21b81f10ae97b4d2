package hanzotunnel_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes/host"
)

// server is the other half of a link, over any carrier.
type server struct {
	*testing.T
	c hanzotunnel.Carrier
}

func (s *server) say(text string) {
	s.Helper()
	if err := s.c.Write(s.Context(), []byte(text)); err != nil {
		s.Fatal(err)
	}
}

func (s *server) hear() string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
	defer cancel()
	data, err := s.c.Read(ctx)
	if err != nil {
		s.Fatal(err)
	}
	return string(data)
}

func (s *server) want(text string) {
	s.Helper()
	if got := s.hear(); got != text {
		s.Errorf("got  %s\nwant %s", got, text)
	}
}

// carriers make both ends of a link. The suite runs over each of them (tunnel.md §6, H11).
var carriers = map[string]func(*testing.T) (open func(context.Context) (hanzotunnel.Carrier, error), accept <-chan *server){
	"memory": func(t *testing.T) (func(context.Context) (hanzotunnel.Carrier, error), <-chan *server) {
		accept := make(chan *server, 4)
		return func(context.Context) (hanzotunnel.Carrier, error) {
			a, b := hanzotunnel.Pipe()
			accept <- &server{t, b}
			return a, nil
		}, accept
	},
	"websocket": func(t *testing.T) (func(context.Context) (hanzotunnel.Carrier, error), <-chan *server) {
		url, accept := listen(t)
		return func(ctx context.Context) (hanzotunnel.Carrier, error) {
			ws, _, err := websocket.Dial(ctx, url, nil)
			if err != nil {
				return nil, err
			}
			return hanzotunnel.OverWebSocket(ws, 1<<20), nil
		}, accept
	},
}

func listen(t *testing.T) (url string, accept <-chan *server) {
	t.Helper()
	all, ended := make(chan *server, 4), make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		all <- &server{t, hanzotunnel.OverWebSocket(ws, 1<<20)}
		<-ended
	}))
	t.Cleanup(func() {
		close(ended)
		h.CloseClientConnections()
		h.Close()
	})
	return "ws" + strings.TrimPrefix(h.URL, "http"), all
}

// module answers with what it was asked.
type module struct {
	release chan struct{}

	mu    sync.Mutex
	emit  func(event, payload string) error
	ended <-chan struct{}
}

func (m *module) Commands() []string {
	return []string{"terminal.list", "status.get", "exec.run", "chat.send", "my.command", "slow"}
}
func (m *module) Caps() []string { return nil }
func (m *module) Linked(emit func(event, payload string) error, ended <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.emit, m.ended = emit, ended
}

func (m *module) Handle(ctx context.Context, r host.Request) host.Result {
	got := "none"
	if r.ParamsJSON != nil {
		got = *r.ParamsJSON
	}
	switch {
	case r.Command == "slow":
		select {
		case <-m.release:
		case <-ctx.Done():
		}
	case strings.Contains(got, "fail"):
		return host.Result{Error: &host.Error{Code: "X", Message: `it "fails"`}}
	case strings.Contains(got, "raise"):
		return host.Result{Error: &host.Error{Code: "RAISED", Message: "raised"}}
	case strings.Contains(got, "empty"):
		return host.Result{OK: true}
	}
	payload, _ := json.Marshal(map[string]any{"params": got, "exact": r.Exact})
	text := string(payload)
	return host.Result{OK: true, PayloadJSON: &text}
}

// policy is needed by the host and asked nothing here.
type policy struct{ host.Policy }

func (policy) Environment(base []string, _ map[string]string, _ bool) (env, dropped []string) {
	return base, nil
}

// serve keeps an instance linked while the test runs.
func serve(t *testing.T, m *module, d *hanzotunnel.Dialler, change func(*host.ServeOptions)) {
	t.Helper()
	o := host.ServeOptions{
		Host: host.New(host.Config{Policy: policy{}, Modules: []host.Module{m}}), Connector: d,
		Wait: func(ctx context.Context, _ time.Duration) {},
	}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = host.Serve(ctx, o) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

var self = hanzotunnel.Instance{
	ID: "agent-a", AppKind: "dev", DisplayName: "agent@host-a", Version: "1.2", Platform: "linux-x86_64", Cwd: "/workspace",
	Capabilities: []string{"chat", "exec", "tools", "terminal"},
}

func dialler(t *testing.T, o hanzotunnel.DialOptions) *hanzotunnel.Dialler {
	t.Helper()
	o.Instance = self
	d, err := hanzotunnel.NewDialler(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestInstanceOverEveryCarrier(t *testing.T) {
	for name, carrier := range carriers {
		t.Run(name, func(t *testing.T) {
			open, accept := carrier(t)
			m := &module{release: make(chan struct{})}
			d := dialler(t, hanzotunnel.DialOptions{Open: open, Commands: []string{"my.command", "slow", "terminal.list", "status.get", "exec.run"}})
			serve(t, m, d, nil)
			s := <-accept
			s.want(`{"type":"register","instance_id":"agent-a","app_kind":"dev","display_name":"agent@host-a","capabilities":["chat","exec","tools","terminal"],"commands":["exec.run","status.get","my.command","slow","terminal.list"],"version":"1.2","platform":"linux-x86_64","cwd":"/workspace"}`)
			s.say(`{"type":"ping"}`) // the originals would end here
			s.want(`{"type":"pong"}`)
			s.say(`{"type":"hello"}`)
			s.say(`no JSON`)
			s.say(`{"type":"registered","instance_id":"agent-a","session_url":null}`)

			s.say(`{"type":"command","id":"slow1","method":"slow","params":{}}`)
			s.say(`{"type":"pong"}`)
			s.say(`{"type":"event","event":"expose.assigned","data":{}}`)
			s.say(`[1]`)
			s.say(`{"type":"command","id":7,"method":"exec.run"}`)
			s.say(`{"type":"ping"}`)
			s.want(`{"type":"pong"}`) // while a command runs

			for _, x := range []struct{ method, params, answer string }{
				{"exec.run", ``, `"ok":true,"data":{"exact":true,"params":"none"},"error":null`},
				{"exec.run", `,"params":null`, `"ok":true,"data":{"exact":true,"params":"null"},"error":null`},
				{"exec.run", `,"params":{"a":"fail"}`, `"ok":false,"data":{"error":"it \"fails\""},"error":"it \"fails\""`},
				{"exec.run", `,"params":"raise"`, `"ok":false,"error":"raised"`},
				{"terminal.list", ``, `"ok":true,"data":{"exact":false,"params":"{}"}`},
				{"terminal.list", `,"params":null`, `"ok":true,"data":{"exact":false,"params":"{}"}`},
				{"terminal.list", `,"params":{"a":"empty"}`, `"ok":true`},
				{"my.command", `,"params":{"a":"fail"}`, `"ok":false,"error":"it \"fails\""`},
				{"does.not.exist", `,"params":{}`, `"ok":false,"data":{"error":"unknown command: does.not.exist"},"error":"unknown command: does.not.exist"`},
				{"chat.send", `,"params":{}`, `"ok":false,"data":{"error":"unknown command: chat.send"},"error":"unknown command: chat.send"`}, // not offered
			} {
				s.say(`{"type":"command","id":"c","method":"` + x.method + `"` + x.params + `}`)
				s.want(`{"type":"response","id":"c",` + x.answer + `}`)
			}
			close(m.release)
			s.want(`{"type":"response","id":"slow1","ok":true,"data":{"exact":false,"params":"{}"}}`)

			m.mu.Lock()
			emit, ended := m.emit, m.ended
			m.mu.Unlock()
			for i := range 3 {
				if err := emit("terminal.output", `{"n":`+strconv.Itoa(i)+`}`); err != nil {
					t.Fatal(err)
				}
				s.want(`{"type":"event","event":"terminal.output","data":{"n":` + strconv.Itoa(i) + `}}`)
			}

			if err := s.c.Close(1001, "bye"); err != nil {
				t.Fatal(err)
			}
			<-ended
			if emit("x", "{}") == nil {
				t.Error("an event over a link that is gone was not refused")
			}
			again := <-accept // with the same id
			if got := again.hear(); !strings.Contains(got, `"instance_id":"agent-a"`) {
				t.Error(got)
			}
		})
	}
}

// A slow server slows who makes events, and nothing is lost.
func TestEventsWaitForASlowServer(t *testing.T) {
	for name, carrier := range carriers {
		t.Run(name, func(t *testing.T) {
			open, accept := carrier(t)
			m := &module{}
			up := make(chan struct{})
			serve(t, m, dialler(t, hanzotunnel.DialOptions{Open: open, OnRegistered: func(string, string) { close(up) }}), nil)
			s := <-accept
			s.hear()
			s.say(`{"type":"registered","instance_id":"agent-a"}`)
			<-up
			var emit func(string, string) error
			for emit == nil {
				m.mu.Lock()
				emit = m.emit
				m.mu.Unlock()
			}
			const n = 2000
			data := `"` + strings.Repeat("x", 8000) + `"`
			sent := make(chan int, n)
			go func() {
				for i := range n {
					if emit("terminal.output", data) != nil {
						return
					}
					sent <- i
				}
			}()
			time.Sleep(200 * time.Millisecond)
			if len(sent) == n {
				t.Error("all events were taken with nobody reading")
			}
			for range n {
				s.hear()
			}
		})
	}
}

func header(r *http.Request) string { return r.Header.Get("Authorization") + "|" + r.URL.RawQuery }

// The token goes as the address says, and into no log and no error.
func TestTokens(t *testing.T) {
	seen := make(chan string, 8)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- header(r)
		w.WriteHeader(http.StatusForbidden)
	}))
	defer h.Close()
	at := strings.TrimPrefix(h.URL, "http://")
	var logged strings.Builder
	log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for _, x := range []struct{ url, token, want string }{
		{"ws://" + at + "/v1/tunnel", "hk-secret", "Bearer hk-secret|"},
		{"ws://name:hk-secret@" + at + "/v1/tunnel", "", "Basic bmFtZTpoay1zZWNyZXQ=|"},
		{"ws://" + at + "/v1/tunnel?token=hk-secret", "", "|token=hk-secret"},
	} {
		d := dialler(t, hanzotunnel.DialOptions{URL: x.url, Token: x.token, Log: log})
		_, err := d.Connect(t.Context(), host.Offer{}, nil)
		if got := <-seen; got != x.want {
			t.Errorf("%s: %q, want %q", x.url, got, x.want)
		}
		d.Explain(log, err)
		log.Info("x", "err", err, "server", d.Server())
	}
	// Nobody there.
	d := dialler(t, hanzotunnel.DialOptions{URL: "ws://name:hk-secret@127.0.0.1:1/v1/tunnel?token=hk-secret", Log: log})
	_, err := d.Connect(t.Context(), host.Offer{}, nil)
	d.Explain(log, err)
	if strings.Contains(logged.String(), "hk-secret") || !strings.Contains(logged.String(), "refused the token") {
		t.Errorf("the log says\n%s", &logged)
	}
	for _, url := range []string{"http://x", "ws://", "::", "ws://name:hk-secret@example.com/v1/tunnel", "ws://example.com/?token=hk-secret"} {
		if _, err := hanzotunnel.NewDialler(hanzotunnel.DialOptions{URL: url}); errs.ClassOf(err) != errs.Invalid || strings.Contains(err.Error(), "hk-secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// A server that refuses, or does not answer, ends the attempt with what it said.
func TestRefused(t *testing.T) {
	url, accept := listen(t)
	d := dialler(t, hanzotunnel.DialOptions{URL: url})
	got := make(chan error, 1)
	go func() {
		_, err := d.Connect(t.Context(), host.Offer{}, nil)
		got <- err
	}()
	s := <-accept
	s.hear()
	_ = s.c.Close(1008, "invalid token")
	var closed *hanzotunnel.CloseError
	if err := <-got; !errors.As(err, &closed) || closed.Code != 1008 || closed.Reason != "invalid token" {
		t.Errorf("%v", err)
	}
}

// notes is a log that is read while it is written.
type notes struct {
	mu  sync.Mutex
	all strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all.String()
}

// TestExposuresAreLogged: an instance says what address its services got, and why they got none.
func TestExposuresAreLogged(t *testing.T) {
	open, accept := carriers["memory"](t)
	log := &notes{}
	serve(t, &module{release: make(chan struct{})}, dialler(t, hanzotunnel.DialOptions{Open: open, Log: slog.New(slog.NewTextHandler(log, nil))}), nil)
	s := <-accept
	s.hear()
	s.say(`{"type":"registered","instance_id":"agent-a"}`)
	s.say(`{"type":"event","event":"expose.assigned","data":{"name":"web","url":"http://gw/exposed/web/","ttl":0,"protocol":"http"}}`)
	s.say(`{"type":"event","event":"expose.failed","data":{"name":"db","code":"subdomain_taken","message":"` + strings.Repeat("x", 4000) + `"}}`)
	s.say(`{"type":"event","event":"another","data":{"name":"unheard"}}`)
	s.say(`{"type":"ping"}`)
	for s.hear() != `{"type":"pong"}` {
	}
	text := log.String()
	for _, want := range []string{"event=expose.assigned name=web url=http://gw/exposed/web/ protocol=http", "level=WARN", "event=expose.failed name=db code=subdomain_taken reason=xxx"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "unheard") || len(text) > 3000 {
		t.Errorf("the log has too much:\n%s", text)
	}
}
