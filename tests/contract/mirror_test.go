package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A mirror plays the server's half of a recording, with values made up for the marks. Each recording
// must pass against its own mirror, and fail against one that changes a single answer.
type mirror struct {
	s      *scenario
	w      *world
	conns  chan *websocket.Conn
	asked  chan *exchange
	wrong  int    // step whose answer is changed; -1: none
	failed string // what the client did wrong; read after done
	done   chan struct{}
}

// exchange is one HTTP request that waits for its answer.
type exchange struct {
	w    http.ResponseWriter
	done chan struct{}
}

func (m *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		x := &exchange{w, make(chan struct{})}
		select {
		case m.asked <- x:
			<-x.done
		case <-r.Context().Done():
		}
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return
	}
	ws.SetReadLimit(maxMessage)
	select {
	case m.conns <- ws:
	case <-m.done:
		_ = ws.CloseNow()
	}
}

// play goes through the steps as the server. It ends with the steps, or when ctx does.
func (m *mirror) play(ctx context.Context) {
	defer close(m.done)
	open := map[string]*websocket.Conn{}
	defer func() {
		for _, c := range open {
			_ = c.CloseNow()
		}
	}()
	for i, step := range m.s.steps {
		kind, err := action(step)
		if err == nil {
			err = m.turn(ctx, i, kind, step, open)
		}
		if err != nil {
			m.failed = fmt.Sprintf("step %d: %v", i+1, err)
			return
		}
	}
	for _, c := range open { // the client ends them
		_, _, _ = c.Read(ctx)
	}
}

func (m *mirror) turn(ctx context.Context, i int, kind string, step *object, open map[string]*websocket.Conn) error {
	name := step.str(kind)
	c := open[name]
	switch kind {
	case "open":
		select {
		case open[name] = <-m.conns:
		case <-ctx.Done():
			return ctx.Err()
		}
	case "send":
		_, data, err := c.Read(ctx)
		if err != nil {
			return err
		}
		return m.check(step.obj("frame"), data)
	case "recv":
		frame := m.invent(step.obj("frame")).(*object)
		if i == m.wrong {
			frame = frame.without(frame.keys[len(frame.keys)-1])
		}
		return c.Write(ctx, websocket.MessageText, encode(frame))
	case "closed":
		code, _ := step.vals["code"].(json.Number).Int64()
		if i == m.wrong {
			code++
		}
		_ = c.Close(websocket.StatusCode(code), step.str("reason"))
		delete(open, name)
	case "close":
		_, _, _ = c.Read(ctx)
		delete(open, name)
	case "http":
		select {
		case x := <-m.asked:
			defer close(x.done)
			return m.answer(x.w, step, i == m.wrong)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// check compares what the client sent with the recording: marks filled, devices signed.
func (m *mirror) check(frame *object, data []byte) error {
	if frame.vals["$text"] != nil || frame.vals["$binary"] != nil {
		return nil
	}
	got, err := parse(data)
	if err != nil {
		return err
	}
	if strings.Contains(string(data), "$uuid#") || strings.Contains(string(data), "$token#") || strings.Contains(string(data), "$sign") {
		return fmt.Errorf("a mark was sent: %s", data)
	}
	want := m.invent(frame).(*object)
	if p := want.obj("params"); p != nil && p.obj("device") != nil && p.obj("device").vals["$sign"] != nil {
		p.set("device", "$any")
	}
	if d := m.w.matcher(false); !d.value("", want, got) {
		return fmt.Errorf("sent otherwise than recorded\n%s", d.report(want, got))
	}
	return nil
}

func (m *mirror) answer(w http.ResponseWriter, step *object, wrong bool) error {
	if t := step.str("contentType"); t != "" {
		w.Header().Set("Content-Type", t)
	}
	if h := step.obj("responseHeaders"); h != nil {
		for _, k := range h.keys {
			w.Header().Set(k, h.str(k))
		}
	}
	status, err := step.vals["status"].(json.Number).Int64()
	if err != nil {
		return err
	}
	if wrong {
		status++
	}
	w.WriteHeader(int(status))
	body := []byte(step.str("text"))
	if j, ok := step.get("json"); ok {
		body = encode(m.invent(j))
	}
	_, _ = w.Write(body) // fails for HEAD
	return nil
}

// invent makes up values for the marks of a recorded value, the same one for the same mark.
func (m *mirror) invent(v any) any {
	switch x := v.(type) {
	case string:
		switch x {
		case "$port":
			return json.Number(strconv.Itoa(m.w.port))
		case "$ms":
			return json.Number("1700000000000")
		case "$int", "$number":
			return json.Number("3")
		case "$boolean":
			return true
		case "$null":
			return nil
		}
		return markRE.ReplaceAllStringFunc(x, func(mark string) string {
			f := markRE.FindStringSubmatch(mark)
			if v, ok := m.w.known(f, m.w.learned); ok {
				return v
			}
			kind, n, learned := strings.Cut(f[1]+f[2], "#")
			made := map[string]string{
				"uuid": fmt.Sprintf("%012s", n), "hex": "ab" + n, "token": "tok_" + n, "id": "id" + n,
				"ms": "1700000000000", "int": "3", "number": "1.5", "iso": "2026-03-17T10:11:12.123Z",
				"version": "2026.3.17", "clock": "Tue 2026-03-17 10:11 UTC",
			}[kind]
			if kind == "uuid" {
				made = "8c9f9f2e-6f0c-4b3e-9c3c-" + made
			}
			if made == "" {
				made = "anything"
			}
			if learned {
				m.w.learned[f[1]] = made
			}
			return made
		})
	case []any:
		if len(x) == 1 {
			if o, ok := x[0].(*object); ok && len(o.keys) == 1 && o.keys[0] == "$each" {
				return []any{m.invent(o.vals["$each"]), m.invent(o.vals["$each"])}
			}
		}
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = m.invent(e)
		}
		return out
	case *object:
		out := newObject()
		for _, k := range x.keys {
			name, _ := m.invent(k).(string)
			out.set(name, m.invent(x.vals[k]))
		}
		return out
	}
	return v
}

// mirrored replays s against its mirror, with the answer of step wrong changed.
func mirrored(s *scenario, wrong int) (clientDid string, err error) {
	m := &mirror{s: s, conns: make(chan *websocket.Conn), asked: make(chan *exchange), wrong: wrong, done: make(chan struct{})}
	srv := httptest.NewServer(m)
	defer srv.Close()
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	m.w = newWorld("/home/x", port, "box")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go m.play(ctx)
	err = replay(s, newWorld("/home/x", port, "box"))
	if err != nil {
		cancel()
	}
	<-m.done
	return m.failed, err
}

// lastAnswer is the last step whose changed answer must be noticed: not an event that may be passed
// over, and not a frame without anything to leave out.
func lastAnswer(s *scenario) int {
	for i, step := range slices.Backward(s.steps) {
		switch kind, _ := action(step); kind {
		case "http", "closed":
			return i
		case "recv":
			if !anytime[step.obj("frame").str("event")] {
				return i
			}
		}
	}
	return -1
}

func TestMirror(t *testing.T) {
	t.Parallel()
	for _, s := range recordings(t) {
		t.Run(s.title(), func(t *testing.T) {
			t.Parallel()
			if did, err := mirrored(s, -1); err != nil || did != "" {
				t.Fatalf("the recording does not pass against itself: %v %s", err, did)
			}
			i := lastAnswer(s)
			if i < 0 {
				t.Fatal("nothing to change")
			}
			if _, err := mirrored(s, i); err == nil {
				t.Errorf("a wrong answer in step %d was not noticed", i+1)
			} else if !strings.Contains(err.Error(), fmt.Sprintf("step %d: ", i+1)) {
				t.Errorf("the answer of step %d was wrong, the report says %v", i+1, err)
			}
		})
	}
}
