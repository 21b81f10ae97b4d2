package driver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// wait bounds every wait of these tests.
const wait = 20 * time.Second

type (
	// line is one of a recording (tunnel.md §9), whose direction is that of the driver.
	line struct {
		Dir    string
		WS     int
		Frames []frame
		Hex    string
		Note   string
	}
	frame struct {
		Type      string
		Code      string
		Stream    uint32
		Len       int
		JSON      json.RawMessage
		Increment uint32
		Text      string `json:"payload_utf8"`
		ResetCode uint16 `json:"reset_code"`
		Reason    string
	}
)

func (f frame) kind() wire.Type {
	n, err := strconv.ParseUint(f.Code, 0, 8)
	if err != nil {
		panic(err)
	}
	return wire.Type(n)
}

// payload is what the frame holds, made up behind what a shortened recording says.
func (f frame) payload() []byte {
	switch {
	case f.kind() == wire.Window:
		return binary.BigEndian.AppendUint32(nil, f.Increment)
	case f.kind() == wire.Reset:
		return append(binary.BigEndian.AppendUint16(nil, f.ResetCode), f.Reason...)
	case f.JSON != nil:
		var out bytes.Buffer
		if err := json.Compact(&out, f.JSON); err != nil {
			panic(err)
		}
		return out.Bytes()
	}
	p := []byte(f.Text)
	for len(p) < f.Len {
		last := byte('z')
		if len(p) > 0 {
			last = p[len(p)-1]
		}
		p = append(p, last)
	}
	return p[:f.Len]
}

// message is the whole message of a line, and whether it is exactly the recorded one.
func (l line) message(t *testing.T) (raw []byte, exact bool) {
	if !strings.HasSuffix(l.Hex, "…") {
		raw, err := hex.DecodeString(l.Hex)
		if err != nil {
			t.Fatal(err)
		}
		return raw, true
	}
	for _, f := range l.Frames {
		raw = wire.Append(raw, f.kind(), f.Stream, f.payload())
	}
	return raw, false
}

func recordings() []string {
	out := []string{filepath.Join("..", "..", "fixtures", "tunnel", "hoody-driver.jsonl")}
	if more := os.Getenv("CARRIER_FIXTURES"); more != "" {
		out = append(out, filepath.SplitList(more)...)
	}
	return out
}

// TestRecordedTraffic plays the server's part of recordings of the published driver: what a session without the
// capability hanzod.1 sends is what that driver sent. Bytes of a stream may come in other pieces, and credit for them
// in other portions; everything else is equal byte by byte.
func TestRecordedTraffic(t *testing.T) {
	for _, path := range recordings() {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var sessions [][]line
		for text := range strings.Lines(string(raw)) {
			if strings.TrimSpace(text) == "" {
				continue
			}
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if l.Dir == "out" && l.WS == 0 && len(l.Frames) > 0 && l.Frames[0].kind() == wire.Hello {
				sessions = append(sessions, nil)
			}
			if len(sessions) == 0 {
				t.Fatalf("%s begins without HELLO", path)
			}
			sessions[len(sessions)-1] = append(sessions[len(sessions)-1], l)
		}
		for i, lines := range sessions {
			t.Run(fmt.Sprintf("%s/%d %s", filepath.Base(path), i, lines[0].Note), func(t *testing.T) { play(t, lines) })
		}
	}
}

// key is where frames are compared: a stream of a socket.
type key struct {
	ws     int
	stream uint32
}

// heard is what was sent on one: frames in order without DATA and WINDOW, which are added up.
type heard struct {
	frames []string
	data   []byte
	credit uint64
}

func (h *heard) add(f wire.Frame) {
	switch f.Type {
	case wire.Data:
		h.data = append(h.data, f.Payload...)
		if len(h.frames) == 0 || h.frames[len(h.frames)-1] != "data" {
			h.frames = append(h.frames, "data")
		}
	case wire.Window:
		h.credit += uint64(binary.BigEndian.Uint32(f.Payload))
	default:
		h.frames = append(h.frames, fmt.Sprintf("0x%02x %s", byte(f.Type), f.Payload))
	}
}

// upTo reports whether h has all of want.
func (h *heard) upTo(want *heard) bool {
	return h != nil && len(h.frames) >= len(want.frames) && len(h.data) >= len(want.data) && h.credit >= want.credit
}

// stage plays the server and the local services of one recorded session.
type stage struct {
	t     *testing.T
	lines []line

	mu      sync.Mutex
	changed chan struct{}
	ends    map[int]mux.Carrier
	got     map[key]*heard
	dialled int
	scripts [][]event // of local services, in the order of STREAM_OPEN
	wg      sync.WaitGroup
}

// event is what a local service sees or does.
type event struct {
	kind string // recv, end, head, data, close
	data []byte
	head wire.ResponseHeadBody
}

func (s *stage) poke() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// until waits until ok, which is called with the lock held.
func (s *stage) until(what string, ok func() bool) {
	s.t.Helper()
	late := time.After(wait)
	for {
		s.mu.Lock()
		fine, changed := ok(), s.changed
		s.mu.Unlock()
		if fine {
			return
		}
		select {
		case <-changed:
		case <-late:
			s.mu.Lock()
			defer s.mu.Unlock()
			for k, h := range s.got {
				s.t.Logf("socket %d stream %d: %q, %d bytes, credit %d", k.ws, k.stream, h.frames, len(h.data), h.credit)
			}
			s.t.Fatalf("waited too long for %s", what)
		}
	}
}

func (s *stage) dial(_ context.Context, index int) (mux.Carrier, error) {
	near, far := mux.Pipe()
	s.mu.Lock()
	s.ends[index] = far
	s.poke()
	s.mu.Unlock()
	s.wg.Go(func() {
		for {
			m, err := far.Read(s.t.Context())
			if err != nil {
				return
			}
			s.mu.Lock()
			for len(m) > 0 {
				var f wire.Frame
				if f, m, err = wire.Next(m); err != nil {
					s.t.Errorf("the driver sent what is no message: %v", err)
					break
				}
				k := key{index, f.Stream}
				if s.got[k] == nil {
					s.got[k] = &heard{}
				}
				s.got[k].add(f)
			}
			s.poke()
			s.mu.Unlock()
		}
	})
	return near, nil
}

// script is what the local service of a stream does, as the lines say.
func (s *stage) script(k key, from int) (events []event, refused bool) {
	http := false
	for _, l := range s.lines[from:] {
		if l.WS != k.ws {
			continue
		}
		for _, f := range l.Frames {
			if f.Stream != k.stream {
				continue
			}
			switch kind := f.kind(); {
			case l.Dir == "in" && kind == wire.StreamOpen:
				var o wire.StreamOpenBody
				if wire.Decode(f.payload(), &o) == nil && o.Kind == "http" && !o.IsUpgrade {
					http = true
				}
			case l.Dir == "in" && kind == wire.Data:
				events = append(events, event{kind: "recv", data: f.payload()})
			case l.Dir == "in" && kind == wire.EOF && !http:
				events = append(events, event{kind: "end"})
			case l.Dir == "in" && kind == wire.EOF:
				events = append(events, event{kind: "whole"})
			case l.Dir == "out" && kind == wire.ResponseHead:
				var h wire.ResponseHeadBody
				if err := wire.Decode(f.payload(), &h); err != nil {
					s.t.Fatal(err)
				}
				events = append(events, event{kind: "head", head: h})
			case l.Dir == "out" && kind == wire.Data:
				events = append(events, event{kind: "data", data: f.payload()})
			case l.Dir == "out" && kind == wire.EOF:
				events = append(events, event{kind: "close"})
			case l.Dir == "out" && kind == wire.Reset:
				return events, true
			}
		}
	}
	return events, false
}

var errNobody = errors.New("nobody is there")

// local is Options.Local: the next service.
func (s *stage) local(context.Context, string, string) (net.Conn, error) {
	s.mu.Lock()
	var events []event
	if s.dialled < len(s.scripts) {
		events = s.scripts[s.dialled]
	}
	s.dialled++
	s.poke()
	s.mu.Unlock()
	if events == nil {
		return nil, errNobody
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := l.Accept()
	if err != nil {
		return nil, err
	}
	s.wg.Go(func() { s.serve(far.(*net.TCPConn), events) })
	return near, nil
}

// serve is a local service.
func (s *stage) serve(c *net.TCPConn, events []event) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(wait))
	r := bufio.NewReader(c)
	var body io.Reader = r
	var out io.Writer = c
	var chunks io.WriteCloser
	http := false
	for _, e := range events {
		http = http || e.kind == "head"
	}
	if http {
		chunked := false
		for {
			text, err := r.ReadString('\n')
			if err != nil {
				s.t.Errorf("the local service got no request: %v", err)
				return
			}
			chunked = chunked || strings.EqualFold(strings.TrimSpace(text), "transfer-encoding: chunked")
			if text == "\r\n" {
				break
			}
		}
		if chunked {
			body = httputil.NewChunkedReader(r)
		}
	}
	for _, e := range events {
		switch e.kind {
		case "recv":
			got := make([]byte, len(e.data))
			if _, err := io.ReadFull(body, got); err != nil || !bytes.Equal(got, e.data) {
				s.t.Errorf("the local service got %.40q and %v, not %.40q", got, err, e.data)
				return
			}
		case "end":
			if n, err := io.Copy(io.Discard, body); n != 0 || err != nil {
				s.t.Errorf("the local service got %d bytes and %v, not the end", n, err)
			}
		case "whole":
			if body != r {
				if n, err := io.Copy(io.Discard, body); n != 0 || err != nil {
					s.t.Errorf("the local service got %d bytes more and %v, not the end of the body", n, err)
				}
			}
		case "head":
			var b strings.Builder
			fmt.Fprintf(&b, "HTTP/1.1 %d Whatever\r\n", e.head.Status)
			framed := e.head.Status == 101
			for _, h := range e.head.Headers {
				fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
				framed = framed || strings.EqualFold(h[0], "content-length")
			}
			if !framed { // headers of the hop, which the driver removes
				b.WriteString("Keep-Alive: timeout=5\r\nTransfer-Encoding: chunked\r\n")
				chunks = httputil.NewChunkedWriter(c)
				out = chunks
			}
			if e.head.Status != 101 {
				b.WriteString("Connection: keep-alive\r\n")
			}
			_, _ = io.WriteString(c, b.String()+"\r\n")
		case "data":
			if _, err := out.Write(e.data); err != nil {
				s.t.Errorf("the local service could not answer: %v", err)
				return
			}
		case "close":
			if chunks != nil {
				_ = chunks.Close()
				_, _ = io.WriteString(c, "\r\n")
			}
			_ = c.CloseWrite()
		}
	}
	_, _ = io.Copy(io.Discard, body)
}

func play(t *testing.T, lines []line) {
	s := &stage{t: t, lines: lines, changed: make(chan struct{}), ends: map[int]mux.Carrier{}, got: map[key]*heard{}}
	var hello wire.HelloBody
	if err := wire.Decode(lines[0].Frames[0].payload(), &hello); err != nil {
		t.Fatal(err)
	}
	o := driver.Options{
		Dial: s.dial, Local: s.local, Version: hello.Version, MaxConnections: hello.MaxConnections, Plain: true, Grace: -1,
	}
	if hello.Auth != nil {
		o.Token = hello.Auth.Token
	}
	if hello.Resume != nil {
		o.Resume = hello.Resume.SessionID
	}
	// Connecting ends once the tickets of HELLO_OK were used, which the lines may not tell the end of.
	opened := make(chan *driver.Session, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.wg.Go(func() {
		session, err := driver.Connect(ctx, o)
		if err != nil && ctx.Err() == nil {
			t.Errorf("connect: %v", err)
		}
		opened <- session
	})
	var session *driver.Session
	get := func() *driver.Session {
		if session == nil {
			select {
			case session = <-opened:
			case <-time.After(wait):
				t.Fatal("the session was not opened")
			}
			if session == nil {
				t.FailNow()
			}
		}
		return session
	}
	want := map[key]*heard{}
	bound := map[int]*driver.Binding{}
	var mu sync.Mutex
	away := false
	for i, l := range lines {
		raw, exact := l.message(t)
		if l.Dir == "in" {
			opens := 0
			for _, f := range l.Frames {
				switch f.kind() {
				case wire.StreamOpen:
					events, refused := s.script(key{l.WS, f.Stream}, i)
					if refused && len(events) == 0 {
						events = nil
					}
					s.mu.Lock()
					s.scripts = append(s.scripts, events)
					opens = len(s.scripts)
					s.mu.Unlock()
				case wire.GoAway:
					away = true
				}
			}
			s.until("socket "+strconv.Itoa(l.WS), func() bool { return s.ends[l.WS] != nil })
			s.mu.Lock()
			end := s.ends[l.WS]
			s.mu.Unlock()
			if err := end.Write(net.Buffers{raw}); err != nil {
				t.Fatalf("line %d (%s): %v", i, l.Note, err)
			}
			if opens > 0 { // the next line may be another stream
				k := key{l.WS, l.Frames[0].Stream}
				s.until("the local service", func() bool { return s.dialled >= opens || s.got[k] != nil && len(s.got[k].frames) > 0 })
			}
			continue
		}
		for rest := raw; len(rest) > 0; {
			var f wire.Frame
			var err error
			if f, rest, err = wire.Next(rest); err != nil {
				t.Fatalf("line %d (%s): %v", i, l.Note, err)
			}
			k := key{l.WS, f.Stream}
			if want[k] == nil {
				want[k] = &heard{}
			}
			want[k].add(f)
			switch f.Type {
			case wire.Bind:
				var b wire.BindBody
				if err := wire.Decode(f.Payload, &b); err != nil {
					t.Fatal(err)
				}
				d := get()
				s.wg.Go(func() {
					var got *driver.Binding
					var err error
					if b.Mode == "expose" {
						got, err = d.Expose(ctx, driver.ExposeIn{Target: "8080", Port: b.ContainerPort, Label: b.Label, Takeover: b.Takeover != nil && *b.Takeover})
					} else {
						got, err = d.Pull(ctx, driver.PullIn{Target: "8080", Port: b.ContainerPort, Label: b.Label, Host: b.Host})
					}
					var refused *driver.BindError
					if err != nil && !errors.As(err, &refused) && ctx.Err() == nil {
						t.Errorf("bind: %v", err)
					}
					mu.Lock()
					if err == nil {
						bound[got.Info().ID] = got
					}
					mu.Unlock()
				})
			case wire.Unbind:
				var u wire.UnbindBody
				if err := wire.Decode(f.Payload, &u); err != nil {
					t.Fatal(err)
				}
				d := get()
				mu.Lock()
				b := bound[u.BindID]
				mu.Unlock()
				if b != nil {
					s.wg.Go(func() { _ = d.Unbind(ctx, b) }) // the lines say what comes of it
				}
			}
		}
		if !exact && l.Frames[0].JSON != nil {
			t.Logf("line %d (%s) is shortened and is compared as JSON.stringify would write it", i, l.Note)
		}
		s.until(fmt.Sprintf("line %d (%s)", i, l.Note), func() bool {
			for _, f := range l.Frames {
				k := key{l.WS, f.Stream}
				if !s.got[k].upTo(want[k]) {
					return false
				}
			}
			return true
		})
	}
	s.mu.Lock()
	for k, w := range want {
		g := s.got[k]
		if strings.Join(g.frames, "\n") != strings.Join(w.frames, "\n") {
			t.Errorf("socket %d stream %d: frames\n%s\nnot\n%s", k.ws, k.stream, strings.Join(g.frames, "\n"), strings.Join(w.frames, "\n"))
		}
		if !bytes.Equal(g.data, w.data) {
			t.Errorf("socket %d stream %d: other bytes than recorded", k.ws, k.stream)
		}
		if g.credit != w.credit {
			t.Errorf("socket %d stream %d: credit %d, not %d", k.ws, k.stream, g.credit, w.credit)
		}
	}
	s.mu.Unlock()
	d := get()
	if away {
		select {
		case <-d.Done():
			var why *driver.GoAwayError
			if err := d.Err(); !errors.As(err, &why) {
				t.Errorf("after GOAWAY the session ended with %v", err)
			}
		case <-time.After(wait):
			t.Error("the session goes on after GOAWAY")
		}
	}
	cancel()
	s.mu.Lock()
	for _, end := range s.ends {
		s.wg.Go(func() { _ = end.Close(1000, "") })
	}
	s.mu.Unlock()
	_ = d.Close()
	s.wg.Wait()
}
