package contract

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// replayer runs the steps of one scenario against one daemon.
type replayer struct {
	w     *world
	addr  string
	conns map[string]*conn
	old   []*conn // replaced by a later open of the same name
	// mute are response ids that must not come, by connection (noResponse).
	mute map[*conn][]any
	// slack is the longest timeoutMs that the scenario has asked for: an answer may take as long.
	slack time.Duration
}

// replay runs s against the daemon at 127.0.0.1:w.port. The error names the step.
func replay(s *scenario, w *world) error {
	r := &replayer{
		w:     w,
		addr:  net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port)),
		conns: map[string]*conn{},
		mute:  map[*conn][]any{},
	}
	defer r.close()
	for i, step := range s.steps {
		if err := r.step(step); err != nil {
			return fmt.Errorf("%s step %d: %w", s.title(), i+1, err)
		}
	}
	for c := range r.mute {
		if err := r.muted(c); err != nil {
			return fmt.Errorf("%s at the end: %w", s.title(), err)
		}
	}
	return nil
}

// close ends all connections together and waits for them.
func (r *replayer) close() {
	var wg sync.WaitGroup
	for _, c := range r.conns {
		wg.Go(c.close)
	}
	for _, c := range r.old {
		wg.Go(c.close)
	}
	wg.Wait()
}

func (r *replayer) step(step *object) error {
	kind, err := action(step)
	if err != nil {
		return err
	}
	switch kind {
	case "open":
		return r.open(step)
	case "wait":
		d, err := millis(step.vals["wait"])
		if err != nil {
			return err
		}
		<-time.After(d)
		return nil
	case "http":
		return r.http(step)
	}
	name := step.str(kind)
	c := r.conns[name]
	if c == nil {
		return fmt.Errorf("connection %q is not open", name)
	}
	switch kind {
	case "send":
		err = r.send(c, step.vals["frame"])
	case "recv":
		err = r.recv(c, step)
	case "closed":
		err = r.closed(c, step)
	case "silent":
		err = r.silent(c, step)
	case "noResponse":
		r.mute[c] = append(r.mute[c], step.vals["id"])
		c.until(quietWindow, func() bool { return c.ended })
		err = r.muted(c)
	case "close":
		c.close()
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, name, err)
	}
	return nil
}

func millis(v any) (time.Duration, error) {
	n, _ := v.(json.Number)
	ms, err := n.Int64()
	d := time.Duration(ms) * time.Millisecond
	if err != nil || d < 0 || d > maxWait {
		return 0, fmt.Errorf("%v is not a number of milliseconds up to %v", v, maxWait)
	}
	return d, nil
}

// headers puts the marks of a headers object.
func (r *replayer) headers(o *object) (http.Header, error) {
	h := http.Header{}
	if o == nil {
		return h, nil
	}
	for _, k := range o.keys {
		values, ok := o.vals[k].([]any)
		if !ok {
			values = []any{o.vals[k]}
		}
		for _, e := range values {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("header %s is not a text", k)
			}
			s, err := r.w.text(s)
			if err != nil {
				return nil, err
			}
			h.Add(k, s)
		}
	}
	return h, nil
}

func (r *replayer) open(step *object) error {
	name := step.str("open")
	h, err := r.headers(step.obj("headers"))
	if err != nil {
		return err
	}
	path, err := r.w.text(step.str("path"))
	if err != nil {
		return err
	}
	if path == "" {
		path = "/"
	}
	c, err := dial(r.addr, path, h)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if was := r.conns[name]; was != nil {
		r.old = append(r.old, was)
	}
	r.conns[name] = c
	return nil
}

func (r *replayer) send(c *conn, frame any) error {
	if f, ok := frame.(*object); ok {
		if text, ok := f.get("$text"); ok {
			s, err := r.rawText(text)
			if err != nil {
				return err
			}
			return c.send(websocket.MessageText, []byte(s))
		}
		if text, ok := f.get("$binary"); ok {
			s, _ := text.(string)
			data, err := hex.DecodeString(s)
			if err != nil {
				return err
			}
			return c.send(websocket.MessageBinary, data)
		}
	}
	filled, err := r.w.fill(frame)
	if err != nil {
		return err
	}
	if f, ok := filled.(*object); ok {
		if p := f.obj("params"); p != nil {
			if d, err := millis(p.vals["timeoutMs"]); err == nil {
				r.slack = max(r.slack, d)
			}
			c.until(recvTimeout, func() bool { return c.nonce != "" || c.ended || p.obj("device") == nil })
			c.mu.Lock()
			nonce := c.nonce
			c.mu.Unlock()
			if err := sign(p, nonce, time.Now()); err != nil {
				return err
			}
		}
	}
	return c.send(websocket.MessageText, encode(filled))
}

// rawText is the text of {"$text":s} or {"$text":{"$repeat":c,"times":n}}.
func (r *replayer) rawText(v any) (string, error) {
	switch x := v.(type) {
	case string:
		return r.w.text(x)
	case *object:
		n, _ := x.vals["times"].(json.Number)
		times, err := n.Int64()
		if err != nil || times < 0 || times > maxMessage || x.str("$repeat") == "" {
			return "", fmt.Errorf("$text: cannot repeat as %s says", shown(x))
		}
		return strings.Repeat(x.str("$repeat"), int(times)), nil
	}
	return "", fmt.Errorf("$text: %s is not a text", shown(v))
}

// anytime are events that come at any time: those that do not fit are passed over.
var anytime = map[string]bool{"tick": true, "health": true, "presence": true}

// bare is a frame without what is not compared: seq and stateVersion of an event.
func bare(frame *object) *object {
	if frame.str("type") != "event" {
		return frame
	}
	return frame.without("seq", "stateVersion")
}

// recv takes the next frame that fits and compares it whole. A difference leaves what was learned as it was.
func (r *replayer) recv(c *conn, step *object) error {
	want := step.obj("frame")
	if want == nil {
		return errors.New("the frame is not an object")
	}
	loose, _ := step.vals["loose"].(bool)
	event := want.str("event")
	limit := recvTimeout + r.slack
	if event == "tick" {
		limit = tickTimeout
	}
	want = bare(want)
	found := false
	wrong := "" // how the last frame that fits differs
	c.until(limit, func() bool {
		for i := 0; i < len(c.queue) && !found; {
			got := c.queue[i]
			if !r.fits(want, got) {
				i++
				continue
			}
			c.queue = slices.Delete(c.queue, i, i+1)
			got = bare(got)
			m := r.w.matcher(loose)
			if m.value("", want, got) {
				m.accept()
				found, wrong = true, ""
				break
			}
			found, wrong = !anytime[event], m.report(want, got)
		}
		return found || c.ended
	})
	switch {
	case wrong != "":
		return errors.New("the frame differs from the recording\n" + wrong)
	case !found:
		return fmt.Errorf("no such frame (limit %v)\n  want %s%s", limit, shown(want), c.seen())
	}
	return nil
}

// fits tells whether got is the frame that want speaks of: a response by its id, an event by its name
// and by payload.runId and payload.action where want has them.
func (r *replayer) fits(want, got *object) bool {
	if event, ok := want.get("event"); ok {
		if got.str("type") != "event" || got.vals["event"] != event {
			return false
		}
		wp, gp := want.obj("payload"), got.obj("payload")
		if wp == nil {
			return true
		}
		for _, k := range []string{"runId", "action"} {
			w, ok := wp.get(k)
			if !ok {
				continue
			}
			if gp == nil {
				return false
			}
			g, ok := gp.get(k)
			if !ok || !r.w.matcher(true).value("", w, g) {
				return false
			}
		}
		return true
	}
	id, ok := got.get("id")
	return ok && got.str("type") == "res" && r.w.matcher(false).value("", want.vals["id"], id)
}

func (r *replayer) closed(c *conn, step *object) error {
	if !c.until(closeTimeout, func() bool { return c.ended }) {
		return fmt.Errorf("still open after %v%s", closeTimeout, c.seen())
	}
	if err := r.muted(c); err != nil {
		return err
	}
	if c.code == -1 {
		return fmt.Errorf("the connection ended without a close frame: %w", c.err)
	}
	got := newObject()
	got.set("code", json.Number(strconv.Itoa(c.code)))
	got.set("reason", c.reason)
	want := step.without("closed")
	m := r.w.matcher(false)
	if !m.value("", want, got) {
		return errors.New("closed differently\n" + m.report(want, got))
	}
	m.accept()
	return nil
}

// silent also counts an event that came before the step and that nothing has taken.
func (r *replayer) silent(c *conn, step *object) error {
	d, err := millis(step.vals["ms"])
	if err != nil {
		return err
	}
	event := step.str("event")
	var got *object
	c.until(d, func() bool {
		for _, f := range c.queue {
			if f.str("type") == "event" && f.str("event") == event {
				got = f
				return true
			}
		}
		return false
	})
	if got != nil {
		return fmt.Errorf("no event %s was to come\n  got  %s", event, shown(got))
	}
	return nil
}

// muted fails when a response has come that a noResponse step forbids.
func (r *replayer) muted(c *conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range r.mute[c] {
		for _, f := range c.queue {
			if f.str("type") == "res" && equal(f.vals["id"], id) {
				return fmt.Errorf("no response to %s was to come\n  got  %s", shown(id), shown(f))
			}
		}
	}
	return nil
}

func (r *replayer) http(step *object) error {
	ask := step.obj("http")
	if ask == nil {
		return errors.New("http is not an object")
	}
	name := ask.str("method") + " " + ask.str("path")
	path, err := r.w.text(ask.str("path"))
	if err != nil {
		return err
	}
	h, err := r.headers(ask.obj("headers"))
	if err != nil {
		return err
	}
	var body io.Reader
	if b, ok := ask.get("body"); ok {
		filled, err := r.w.fill(b)
		if err != nil {
			return err
		}
		data := []byte(nil)
		if s, ok := filled.(string); ok { // a text is sent as it is, anything else as JSON
			data = []byte(s)
		} else {
			data = encode(filled)
		}
		body = bytes.NewReader(data)
	}
	ctx, cancel := context.WithTimeout(context.Background(), httpTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, ask.str("method"), "http://"+r.addr+path, body)
	if err != nil {
		return err
	}
	req.Header = h
	if host := h.Get("Host"); host != "" {
		req.Host = host
		h.Del("Host")
	}
	client := http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("http %s: %w", name, err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return fmt.Errorf("http %s: %w", name, err)
	}
	if err := r.answer(step, res, data); err != nil {
		return fmt.Errorf("http %s: %w", name, err)
	}
	return nil
}

// recordedText is how much of a text the recordings keep.
const recordedText = 300

// answer compares an HTTP answer. The bodies of HTML answers are not compared (protocol.md §1.7), nor
// those of event streams, whose recorded text holds the ids and times of its day.
func (r *replayer) answer(step *object, res *http.Response, body []byte) error {
	want, got := newObject(), newObject()
	for _, k := range []string{"status", "contentType"} {
		if v, ok := step.get(k); ok {
			want.set(k, v)
		}
	}
	got.set("status", json.Number(strconv.Itoa(res.StatusCode)))
	if _, ok := want.get("contentType"); ok {
		got.set("contentType", res.Header.Get("Content-Type"))
	}
	if hs := step.obj("responseHeaders"); hs != nil {
		have := newObject()
		for _, k := range hs.keys {
			have.set(k, res.Header.Get(k))
		}
		want.set("responseHeaders", hs)
		got.set("responseHeaders", have)
	}
	kind := step.str("contentType")
	if text, ok := step.get("text"); ok && !strings.HasPrefix(kind, "text/html") && !strings.HasPrefix(kind, "text/event-stream") {
		s := string(body)
		if t, _ := text.(string); len(t) == recordedText && len(s) > recordedText {
			s = s[:recordedText]
		}
		want.set("text", text)
		got.set("text", s)
	}
	if j, ok := step.get("json"); ok {
		v, err := parse(body)
		if err != nil {
			return fmt.Errorf("status %d, the body is not JSON (%w)\n  want %s\n  got  %s", res.StatusCode, err, shown(j), shown(string(body)))
		}
		want.set("json", j)
		got.set("json", v)
	}
	loose, _ := step.vals["loose"].(bool)
	m := r.w.matcher(loose)
	if !m.value("", want, got) {
		return errors.New("the answer differs from the recording\n" + m.report(want, got))
	}
	m.accept()
	return nil
}
