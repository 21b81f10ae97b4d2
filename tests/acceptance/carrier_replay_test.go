//go:build unix

package acceptance

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
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hanzoai/hanzod/compat/hoody"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
)

// The frames, in numbers of the test's own (tunnel.md §4.4).
const (
	tHello, tHelloOK, tBind, tBindOK, tBindErr          = 0x01, 0x02, 0x03, 0x04, 0x05
	tUnbind, tUnbindOK, tUnbindErr                      = 0x06, 0x07, 0x08
	tJoin, tJoinOK, tJoinErr                            = 0x09, 0x0a, 0x0b
	tOpen, tData, tEOF, tReset, tWindow, tHead          = 0x10, 0x12, 0x13, 0x14, 0x15, 0x16
	tPing, tPong, tGoAway, tRevoked                     = 0x20, 0x21, 0x30, 0x40
	frameHeader, maxFramePayload, maxFrames, maxMessage = 9, 65536, 64, 262144
)

// tframe is a frame of a carrier.
type tframe struct {
	typ     byte
	stream  uint32
	payload []byte
}

func (f tframe) append(b []byte) []byte {
	b = append(b, f.typ)
	b = binary.BigEndian.AppendUint32(b, f.stream)
	b = binary.BigEndian.AppendUint32(b, uint32(len(f.payload)))
	return append(b, f.payload...)
}

func (f tframe) json() (out object) {
	_ = json.Unmarshal(f.payload, &out) // nil is compared
	return out
}

func (f tframe) String() string {
	return fmt.Sprintf("type 0x%02x stream %d %.300q", f.typ, f.stream, f.payload)
}

func jframe(typ byte, body any) tframe {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err)
	}
	return tframe{typ: typ, payload: text}
}

func u32(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// parseFrames takes a message apart.
func parseFrames(m []byte) (out []tframe, err error) {
	if len(m) > maxMessage {
		return nil, fmt.Errorf("a message of %d bytes", len(m))
	}
	for len(m) > 0 {
		if len(m) < frameHeader {
			return nil, fmt.Errorf("%d bytes are left over", len(m))
		}
		n := int(binary.BigEndian.Uint32(m[5:]))
		if n > maxFramePayload || len(m) < frameHeader+n {
			return nil, fmt.Errorf("a frame of %d bytes in %d", n, len(m))
		}
		out = append(out, tframe{m[0], binary.BigEndian.Uint32(m[1:]), bytes.Clone(m[frameHeader : frameHeader+n])})
		m = m[frameHeader+n:]
	}
	if len(out) == 0 || len(out) > maxFrames {
		return nil, fmt.Errorf("%d frames in a message", len(out))
	}
	return out, nil
}

// rawCarrier is one socket of a tunnel, frame by frame. It answers PING.
type rawCarrier struct {
	tb     testing.TB
	ws     *websocket.Conn
	frames chan tframe
	done   chan struct{}
	end    error // holds when done is closed
	early  []tframe
	wrote  sync.Mutex
}

func newRawCarrier(tb testing.TB, ws *websocket.Conn) *rawCarrier {
	ws.SetReadLimit(maxMessage)
	c := &rawCarrier{tb: tb, ws: ws, frames: make(chan tframe, 65536), done: make(chan struct{})}
	go func() {
		defer close(c.done)
		for {
			typ, m, err := ws.Read(context.Background())
			if err != nil {
				c.end = err
				return
			}
			all, err := parseFrames(m)
			if err != nil || typ != websocket.MessageBinary {
				c.end = fmt.Errorf("a message of %v: %w", typ, err)
				tb.Error(c.end)
				return
			}
			for _, f := range all {
				if f.typ == tPing {
					c.write(tframe{typ: tPong, payload: f.payload})
					continue
				}
				c.frames <- f
			}
		}
	}()
	tb.Cleanup(func() {
		_ = ws.CloseNow()
		<-c.done
	})
	return c
}

// openCarrier opens a socket at a daemon.
func openCarrier(tb testing.TB, d *proc.Daemon, version string, header http.Header) *rawCarrier {
	tb.Helper()
	c, _, err := tryCarrier(tb, d.WS()+"/api/v1/tunnel/connect", version, header)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func tryCarrier(tb testing.TB, url, version string, header http.Header) (*rawCarrier, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	o := &websocket.DialOptions{HTTPHeader: header}
	if version != "" {
		o.Subprotocols = []string{version}
	}
	ws, res, err := websocket.Dial(ctx, url, o)
	if err != nil {
		return nil, res, err
	}
	return newRawCarrier(tb, ws), res, nil
}

func (c *rawCarrier) write(frames ...tframe) {
	var m []byte
	for _, f := range frames {
		m = f.append(m)
	}
	c.wrote.Lock()
	defer c.wrote.Unlock()
	_ = c.ws.Write(context.Background(), websocket.MessageBinary, m) // who reads says that it is gone
}

// expect is the next frame that ok takes; others stay for who wants them.
func (c *rawCarrier) expect(what string, ok func(tframe) bool) tframe {
	c.tb.Helper()
	f, err := c.await(proc.Patience, ok)
	if err != nil {
		c.tb.Fatalf("no %s: %v; so far: %.2000s", what, err, fmt.Sprint(c.early))
	}
	return f
}

func (c *rawCarrier) await(limit time.Duration, ok func(tframe) bool) (tframe, error) {
	if i := slices.IndexFunc(c.early, ok); i >= 0 {
		f := c.early[i]
		c.early = slices.Delete(c.early, i, i+1)
		return f, nil
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	for {
		select {
		case f := <-c.frames:
			if ok(f) {
				return f, nil
			}
			c.early = append(c.early, f)
			continue
		default:
		}
		select {
		case f := <-c.frames:
			if ok(f) {
				return f, nil
			}
			c.early = append(c.early, f)
		case <-c.done:
			select {
			case f := <-c.frames:
				if ok(f) {
					return f, nil
				}
				c.early = append(c.early, f)
			default:
				return tframe{}, fmt.Errorf("the socket ended: %w", c.end)
			}
		case <-late.C:
			return tframe{}, fmt.Errorf("waited %v", limit)
		}
	}
}

// want is the next frame of a type.
func (c *rawCarrier) want(typ byte) tframe {
	c.tb.Helper()
	return c.expect(fmt.Sprintf("frame 0x%02x", typ), func(f tframe) bool { return f.typ == typ })
}

// ended waits for the end of the socket and returns its close code, 1006 for none at all, and the reason.
func (c *rawCarrier) ended(limit time.Duration) (int, string) {
	c.tb.Helper()
	select {
	case <-c.done:
	case <-time.After(limit):
		c.tb.Fatalf("the socket is still there after %v", limit)
	}
	if e, ok := errors.AsType[websocket.CloseError](c.end); ok {
		return int(e.Code), e.Reason
	}
	return 1006, ""
}

// carrierLine is a line of a recording of a carrier.
type carrierLine struct {
	Dir    string
	WS     int
	Hex    string
	Note   string
	Frames []struct {
		Type    string
		Code    string
		Stream  uint32
		Len     int
		JSON    json.RawMessage `json:"json"`
		Payload *string         `json:"payload_utf8"`
		Nonce   string          `json:"nonce_hex"`
	}
}

// whole are the frames of a line. Where the bytes are cut, the rest is filled up with the last one shown.
func (l carrierLine) whole(t *testing.T) (out []tframe) {
	t.Helper()
	if !strings.Contains(l.Hex, "…") {
		b, err := hex.DecodeString(l.Hex)
		if err == nil {
			out, err = parseFrames(b)
		}
		if err != nil {
			t.Fatalf("%s: %v", l.Note, err)
		}
		return out
	}
	for _, f := range l.Frames {
		code, err := strconv.ParseUint(strings.TrimPrefix(f.Code, "0x"), 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		p := []byte(f.JSON)
		if f.Payload != nil {
			p = []byte(*f.Payload)
		}
		if f.Nonce != "" {
			p, _ = hex.DecodeString(f.Nonce)
		}
		if f.JSON == nil {
			for len(p) < f.Len {
				p = append(p, p[len(p)-1])
			}
		}
		out = append(out, tframe{byte(code), f.Stream, p})
	}
	return out
}

// carrierFixtures are the recordings: that of the repository, and those that CARRIER_FIXTURES names.
func carrierFixtures() []string {
	out := []string{"../../fixtures/tunnel/hoody-driver.jsonl"}
	if more := os.Getenv("CARRIER_FIXTURES"); more != "" {
		out = append(out, filepath.SplitList(more)...)
	}
	return out
}

// carrierRuns are the sessions of a recording: each begins with a HELLO.
func carrierRuns(t *testing.T, file string) (out [][]carrierLine) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var l carrierLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		if l.Dir == "out" && l.WS == 0 && slices.ContainsFunc(l.whole(t), func(f tframe) bool { return f.typ == tHello }) || len(out) == 0 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], l)
	}
	if len(out) == 0 {
		t.Fatalf("%s holds nothing", file)
	}
	return out
}

// eachRun calls f for the sessions of all recordings.
func eachRun(t *testing.T, f func(t *testing.T, lines []carrierLine)) {
	for _, file := range carrierFixtures() {
		for i, lines := range carrierRuns(t, file) {
			t.Run(fmt.Sprintf("%s %d %s", filepath.Base(file), i+1, lines[0].Note), func(t *testing.T) { f(t, lines) })
		}
	}
}

// helloOf is the HELLO of a session, with its version and its token, "" when it has none.
func helloOf(t *testing.T, lines []carrierLine) (hello object, version, token string) {
	t.Helper()
	for _, f := range lines[0].whole(t) {
		if f.typ == tHello {
			hello = f.json()
		}
	}
	version, _ = hello["version"].(string)
	if a, ok := hello["auth"].(object); ok {
		token, _ = a["token"].(string)
	}
	if version == "" {
		t.Fatalf("the session does not begin with HELLO: %v", lines[0])
	}
	return hello, version, token
}

// carrierDaemon runs a daemon for tunnels.
func carrierDaemon(t *testing.T, token string, tunnel object) *proc.Daemon {
	t.Helper()
	config := object{"gateway": object{"auth": object{"mode": "token", "token": token}}}
	if tunnel != nil {
		config["tunnel"] = tunnel
	}
	return proc.Start(t, proc.Options{Config: config})
}

// visit is the visitor of a recorded stream.
type visit struct {
	kind    string
	id      uint32 // the daemon's
	conn    net.Conn
	upgrade bool
	method  string
	// in is how much the visitor is to send in all.
	in   int
	head object
	out  []byte
	eof  bool
	r    *bufio.Reader
}

// The daemon hears what the recorded driver sent, and says what the driver took.
func TestY6Recordings(t *testing.T) {
	accept(t, "Y6")
	eachRun(t, func(t *testing.T, lines []carrierLine) {
		_, _, token := helloOf(t, lines)
		if token == "" {
			token = proc.Token
		}
		replayOut(t, carrierDaemon(t, token, nil), token, lines)
	})
}

// replayOut plays the driver's side of a session.
func replayOut(t *testing.T, d *proc.Daemon, token string, lines []carrierLine) {
	hello, version, own := helloOf(t, lines)
	var header http.Header
	if own == "" {
		header = bearer(token)
	}
	socks := map[int]*rawCarrier{0: openCarrier(t, d, version, header)}
	var (
		session string
		tickets []any
		visits  = map[uint32]*visit{}
		ports   = map[float64]int{}    // by clientBindRef
		ids     = map[float64]any{}    // bind ids of the recording to those of the daemon
		binds   = map[float64]object{} // by clientBindRef
		byKind  = map[string]int{}
		killed  bool
	)
	defer func() {
		for _, v := range visits {
			if v.conn != nil {
				_ = v.conn.Close()
			}
		}
	}()
	sock := func(l carrierLine) *rawCarrier {
		if socks[l.WS] == nil {
			socks[l.WS] = openCarrier(t, d, version, header)
		}
		return socks[l.WS]
	}
	for n, l := range lines {
		c := sock(l)
		if l.Dir == "out" {
			var send []tframe
			for _, f := range l.whole(t) {
				switch f.typ {
				case tBind:
					b := f.json()
					binds[b["clientBindRef"].(float64)] = b
					if p, _ := b["containerPort"].(float64); p != 0 {
						free, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p))))
						if err != nil {
							b["containerPort"] = proc.FreePort(t) // somebody has it on this machine
							f = jframe(tBind, b)
						} else {
							_ = free.Close()
						}
					}
				case tUnbind:
					b := f.json()
					if id, ok := ids[b["bindId"].(float64)]; ok {
						b["bindId"] = id
					}
					f = jframe(tUnbind, b)
				case tJoin:
					b := f.json()
					b["sessionId"] = session
					for _, x := range tickets {
						if k := x.(object); k["index"] == b["index"] {
							b["nonce"] = k["nonce"]
						}
					}
					f = jframe(tJoin, b)
				case tPong:
					continue // the socket answers what was asked
				}
				if f.stream != 0 {
					v := visits[f.stream]
					if v == nil {
						t.Logf("%s: left out, the stream %d is not of the recording", l.Note, f.stream)
						continue
					}
					switch f.typ {
					case tHead:
						v.head = f.json()
					case tData:
						v.out = append(v.out, f.payload...)
					case tEOF:
						v.eof = true
					}
					f.stream = v.id
				}
				send = append(send, f)
			}
			if len(send) > 0 {
				c.write(send...)
			}
			for _, f := range l.whole(t) {
				if v := visits[f.stream]; f.stream != 0 && v != nil {
					v.told(t, l.Note, f)
				}
			}
			continue
		}
		for _, f := range l.whole(t) {
			switch f.typ {
			case tHelloOK:
				got := c.want(tHelloOK).json()
				want := f.json()
				for k, x := range want {
					if reflect.TypeOf(got[k]) != reflect.TypeOf(x) {
						t.Errorf("%s: %s is %v, recorded %v", l.Note, k, got[k], x)
					}
				}
				if got["resumed"] != want["resumed"] && want["resumed"] == false {
					t.Errorf("%s: resumed is %v", l.Note, got["resumed"])
				}
				if w, _ := got["streamWindow"].(float64); w < 131072 {
					t.Errorf("%s: the window of a stream is %v", l.Note, w)
				}
				session, _ = got["sessionId"].(string)
				tickets, _ = got["joinTickets"].([]any)
				if !strings.HasPrefix(session, "S-") || len(session) != 38 {
					t.Errorf("%s: the session is %q", l.Note, session)
				}
				granted, _ := got["connectionsGranted"].(float64)
				if most, _ := hello["maxConnections"].(float64); version == "hoody-tunnel.v2" && (granted < 1 || granted > max(most, 1) || len(tickets) != int(granted)-1) {
					t.Errorf("%s: granted %v with %d tickets", l.Note, granted, len(tickets))
				}
			case tBindOK, tBindErr:
				ref := f.json()["clientBindRef"]
				got := c.expect("answer to BIND", func(x tframe) bool {
					return (x.typ == tBindOK || x.typ == tBindErr) && x.json()["clientBindRef"] == ref
				})
				if got.typ != f.typ || f.typ == tBindErr && got.json()["code"] != f.json()["code"] {
					t.Fatalf("%s: the answer is %v, recorded %v", l.Note, got, f)
				}
				if f.typ == tBindErr {
					continue
				}
				b := got.json()
				port := int(b["containerPort"].(float64))
				ports[ref.(float64)] = port
				ids[f.json()["bindId"].(float64)] = b["bindId"]
				byKind[binds[ref.(float64)]["kind"].(string)] = port
				if u, ok := b["publicUrl"]; !ok || u != nil {
					t.Errorf("%s: publicUrl is %v", l.Note, u)
				}
			case tUnbindOK, tUnbindErr:
				got := c.expect("answer to UNBIND", func(x tframe) bool { return x.typ == tUnbindOK || x.typ == tUnbindErr })
				if got.typ != f.typ {
					t.Errorf("%s: the answer is %v", l.Note, got)
				}
			case tJoinOK, tJoinErr:
				got := c.expect("answer to JOIN", func(x tframe) bool { return x.typ == tJoinOK || x.typ == tJoinErr })
				if got.typ != f.typ {
					t.Errorf("%s: the answer is %v", l.Note, got)
				}
			case tPong:
				got := c.want(tPong)
				if !bytes.Equal(got.payload, f.payload) {
					t.Errorf("%s: %v", l.Note, got)
				}
			case tGoAway:
				if code := f.json()["code"]; code != 0.0 || killed {
					t.Logf("%s: left out, nothing here makes it", l.Note)
					continue
				}
				killed = true
				if status, body := restAs(t, d, token, "DELETE", "/api/v1/tunnel/sessions/"+session+"?session_id="+session, nil); status != 202 {
					t.Errorf("%s: %d %v", l.Note, status, body)
				}
				if got := c.want(tGoAway).json(); got["code"] != 0.0 || got["message"] == "" {
					t.Errorf("%s: %v", l.Note, got)
				}
			case tOpen:
				v := &visit{}
				for _, later := range lines[n:] {
					for _, x := range later.whole(t) {
						if later.Dir == "in" && x.typ == tData && x.stream == f.stream {
							v.in += len(x.payload)
						}
					}
				}
				visits[f.stream] = v
				v.open(t, l.Note, f.json(), byKind)
				got := c.want(tOpen)
				v.id = got.stream
				if v.id%2 != 0 {
					t.Errorf("%s: the daemon opened stream %d", l.Note, v.id)
				}
				sameOpen(t, l.Note, got.json(), f.json())
			case tData, tEOF, tReset:
				v := visits[f.stream]
				if v == nil {
					t.Logf("%s: left out, the stream %d is not of the recording", l.Note, f.stream)
					continue
				}
				v.says(t, c, l.Note, f)
			case tWindow:
				// Ours comes when the visitor has taken the bytes, in other amounts.
			}
		}
	}
	if !killed {
		_ = socks[0].ws.Close(websocket.StatusNormalClosure, "")
	}
}

// open begins the visit that a STREAM_OPEN came of.
func (v *visit) open(t *testing.T, note string, o object, ports map[string]int) {
	t.Helper()
	v.kind, _ = o["kind"].(string)
	port, ok := ports[v.kind]
	if !ok {
		t.Fatalf("%s: a stream without a binding", note)
	}
	var err error
	if v.conn, err = net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second); err != nil {
		t.Fatalf("%s: %v", note, err)
	}
	_ = v.conn.SetDeadline(time.Now().Add(time.Minute)) // a socket has deadlines
	v.r = bufio.NewReader(v.conn)
	if v.kind != "http" {
		return
	}
	v.upgrade, _ = o["isUpgrade"].(bool)
	v.method, _ = o["method"].(string)
	text := fmt.Sprintf("%s %s HTTP/1.1\r\n", v.method, o["target"])
	has := map[string]bool{}
	for _, h := range slicesOf(o["headers"]) {
		pair := slicesOf(h)
		text += fmt.Sprintf("%s: %s\r\n", pair[0], pair[1])
		has[strings.ToLower(fmt.Sprint(pair[0]))] = true
	}
	if !has["host"] {
		text += "Host: app.example\r\n"
	}
	if v.upgrade && !has["connection"] {
		text += "Connection: Upgrade\r\n"
	}
	if v.upgrade && !has["upgrade"] {
		text += "Upgrade: websocket\r\n"
	}
	if !v.upgrade && v.in > 0 && !has["content-length"] && !has["transfer-encoding"] {
		text += fmt.Sprintf("Content-Length: %d\r\n", v.in)
	}
	if _, err := io.WriteString(v.conn, text+"\r\n"); err != nil {
		t.Fatal(err)
	}
}

// sameOpen compares what matters of STREAM_OPEN; hanzod adds members, and headers of proxies.
func sameOpen(t *testing.T, note string, got, want object) {
	t.Helper()
	for k, x := range want {
		if k != "headers" && !reflect.DeepEqual(got[k], x) {
			t.Errorf("%s: %s is %v, recorded %v", note, k, got[k], x)
		}
	}
	for _, h := range slicesOf(want["headers"]) {
		pair := slicesOf(h)
		name := strings.ToLower(fmt.Sprint(pair[0]))
		if !slices.ContainsFunc(slicesOf(got["headers"]), func(x any) bool {
			p := slicesOf(x)
			return strings.EqualFold(fmt.Sprint(p[0]), name) && (fmt.Sprint(p[1]) == fmt.Sprint(pair[1]) || name == "connection" || name == "upgrade" || name == "content-length" || name == "transfer-encoding")
		}) && !slices.Contains([]string{"transfer-encoding", "content-length", "keep-alive", "te", "trailer", "proxy-authenticate", "proxy-authorization", "connection"}, name) {
			t.Errorf("%s: the header %v is missing in %v", note, pair, got["headers"])
		}
	}
}

// says lets the visitor do what the recorded kit passed on, and demands it of the daemon.
func (v *visit) says(t *testing.T, c *rawCarrier, note string, f tframe) {
	t.Helper()
	mine := func(typ byte) func(tframe) bool {
		return func(x tframe) bool { return x.stream == v.id && x.typ == typ }
	}
	switch f.typ {
	case tData:
		if _, err := v.conn.Write(f.payload); err != nil {
			t.Fatalf("%s: %v", note, err)
		}
		for n := 0; n < len(f.payload); {
			got := c.expect("DATA", mine(tData))
			if !bytes.HasPrefix(f.payload[n:], got.payload) {
				t.Fatalf("%s: %v", note, got)
			}
			n += len(got.payload)
		}
	case tEOF:
		if w, ok := v.conn.(*net.TCPConn); ok && (v.kind != "http" || v.upgrade) {
			_ = w.CloseWrite()
		}
		c.expect("EOF", mine(tEOF))
	case tReset:
		if w, ok := v.conn.(*net.TCPConn); ok {
			_ = w.SetLinger(0)
		}
		_ = v.conn.Close()
		c.expect("RESET", mine(tReset))
	}
}

// told demands that the visitor gets what the driver sent.
func (v *visit) told(t *testing.T, note string, f tframe) {
	t.Helper()
	switch f.typ {
	case tHead:
		if !v.upgrade {
			return // with its end
		}
		v.response(t, note)
	case tData:
		if v.kind == "http" && !v.upgrade {
			return
		}
		got := make([]byte, len(f.payload))
		if _, err := io.ReadFull(v.r, got); err != nil || !bytes.Equal(got, f.payload) {
			t.Errorf("%s: the visitor got %.100q, %v", note, got, err)
		}
	case tEOF:
		if v.kind == "http" && !v.upgrade {
			v.response(t, note)
			_ = v.conn.Close()
			return
		}
		if rest, err := io.ReadAll(v.r); err != nil || len(rest) > 0 {
			t.Errorf("%s: the visitor got %.100q, %v, and no end", note, rest, err)
		}
	case tReset:
		if v.head != nil {
			return
		}
		if v.kind != "http" {
			if rest, err := io.ReadAll(v.r); err == nil && len(rest) > 0 {
				t.Errorf("%s: the visitor got %.100q", note, rest)
			}
			return
		}
		res, err := http.ReadResponse(v.r, &http.Request{Method: v.method})
		if err != nil || res.StatusCode != http.StatusBadGateway {
			t.Errorf("%s: %v, %v; want 502", note, res, err)
		}
	}
}

// response reads what the visitor gets, and compares it.
func (v *visit) response(t *testing.T, note string) {
	t.Helper()
	res, err := http.ReadResponse(v.r, &http.Request{Method: v.method})
	if err != nil {
		t.Fatalf("%s: the visitor got no response: %v", note, err)
	}
	if float64(res.StatusCode) != v.head["status"] {
		t.Errorf("%s: status %d, recorded %v", note, res.StatusCode, v.head["status"])
	}
	for _, h := range slicesOf(v.head["headers"]) {
		pair := slicesOf(h)
		name, value := fmt.Sprint(pair[0]), fmt.Sprint(pair[1])
		if !slices.Contains(res.Header.Values(name), value) && !slices.Contains([]string{"connection", "keep-alive", "transfer-encoding", "date"}, strings.ToLower(name)) &&
			(!strings.EqualFold(name, "content-length") || fmt.Sprint(res.ContentLength) != value) {
			t.Errorf("%s: the header %v came as %v", note, pair, res.Header)
		}
	}
	if v.upgrade {
		return
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Equal(body, v.out) {
		t.Errorf("%s: %d bytes came, %v; %d were sent", note, len(body), err, len(v.out))
	}
}

// Our driver hears what the recorded kit sent, and says what the published driver did.
func TestY6RecordingsOfTheServer(t *testing.T) {
	accept(t, "Y6")
	eachRun(t, replayIn)
}

// wants is what a recorded driver sent on one stream.
type wants struct {
	head object
	data []byte
	open object
	// steps are what its local side heard and said.
	steps []step
}

type step struct {
	hear            int
	say             []byte
	hearEOF, sayEOF bool
}

func replayIn(t *testing.T, lines []carrierLine) {
	hello, version, token := helloOf(t, lines)
	if r, ok := hello["resume"].(object); ok && len(lines) > 1 {
		t.Logf("resumes %v", r["sessionId"])
	}
	streams := map[uint32]*wants{}
	for _, l := range lines {
		for _, f := range l.whole(t) {
			switch {
			case l.Dir == "in" && f.typ == tOpen:
				streams[f.stream] = &wants{open: f.json()}
			case f.stream != 0 && streams[f.stream] != nil:
				w, out := streams[f.stream], l.Dir == "out"
				switch {
				case out && f.typ == tHead:
					w.head = f.json()
				case out && f.typ == tData:
					w.data = append(w.data, f.payload...)
					w.steps = append(w.steps, step{say: f.payload})
				case out && f.typ == tEOF:
					w.steps = append(w.steps, step{sayEOF: true})
				case f.typ == tData:
					w.steps = append(w.steps, step{hear: len(f.payload)})
				case f.typ == tEOF:
					w.steps = append(w.steps, step{hearEOF: true})
				}
			}
		}
	}
	web := localHTTP(t, streams)
	tcp := localTCP(t, streams)
	// The kit: it takes sockets and says what was recorded.
	conns := make(chan *rawCarrier, 16)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var hooks sync.WaitGroup
	kit := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{version}})
		if err != nil {
			return
		}
		c := newRawCarrier(t, ws)
		conns <- c
		<-c.done
	})}
	hooks.Go(func() { _ = kit.Serve(l) })
	t.Cleanup(func() {
		_ = kit.Close()
		hooks.Wait()
	})
	o := driver.Options{
		Version: version, Token: token, Plain: true, Grace: -1,
		Dial: func(ctx context.Context, _ int) (mux.Carrier, error) {
			return hoody.Dial(ctx, "ws://"+l.Addr().String(), "", version, hoody.DialOptions{})
		},
	}
	if n, ok := hello["maxConnections"].(float64); ok {
		o.MaxConnections = int(n)
	}
	if r, ok := hello["resume"].(object); ok {
		o.Resume, _ = r["sessionId"].(string)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var s *driver.Session
	var work sync.WaitGroup
	defer work.Wait()
	type opening struct {
		s   *driver.Session
		err error
	}
	connected := make(chan opening, 1)
	work.Go(func() {
		opened, err := driver.Connect(ctx, o)
		connected <- opening{opened, err}
	})
	next := func() *rawCarrier {
		select {
		case c := <-conns:
			return c
		case <-time.After(proc.Patience):
			t.Fatal("no socket")
			return nil
		}
	}
	socks := map[int]*rawCarrier{0: next()}
	bound := make(chan error, 16)
	wait := func(note string) {
		t.Helper()
		if s != nil {
			return
		}
		select {
		case o := <-connected:
			if s = o.s; o.err != nil {
				t.Fatalf("%s: %v", note, o.err)
			}
		case <-time.After(proc.Patience):
			t.Fatalf("%s: no session", note)
		}
	}
	defer func() {
		cancel()
		if s != nil {
			_ = s.Close()
		}
	}()
	for _, line := range lines {
		if socks[line.WS] == nil {
			socks[line.WS] = next()
		}
		c := socks[line.WS]
		if line.Dir == "in" {
			c.write(line.whole(t)...)
			for _, f := range line.whole(t) {
				switch f.typ {
				case tBindOK, tBindErr:
					if err := <-bound; (err != nil) != (f.typ == tBindErr) {
						t.Errorf("%s: %v", line.Note, err)
					}
				case tGoAway:
					wait(line.Note)
					select {
					case <-s.Done():
					case <-time.After(proc.Patience):
						t.Errorf("%s: the session goes on", line.Note)
					}
				}
			}
			continue
		}
		for _, f := range line.whole(t) {
			switch f.typ {
			case tHello, tJoin:
				got := c.want(f.typ).json()
				if !reflect.DeepEqual(got, f.json()) {
					t.Errorf("%s:\n got %v\nwant %v", line.Note, got, f.json())
				}
			case tBind:
				b := f.json()
				wait(line.Note)
				work.Go(func() {
					port, _ := b["containerPort"].(float64)
					label, _ := b["label"].(string)
					var err error
					if b["mode"] == "pull" {
						host, _ := b["host"].(string)
						_, err = s.Pull(ctx, driver.PullIn{Target: tcp, Port: int(port), Label: label, Host: host})
					} else {
						target, take := web, b["takeover"] == true
						if b["kind"] == "tcp" {
							target = tcp
						}
						_, err = s.Expose(ctx, driver.ExposeIn{Target: target, Port: int(port), Label: label, Takeover: take, TCP: b["kind"] == "tcp"})
					}
					bound <- err
				})
				got := c.want(tBind).json()
				if _, ok := b["takeover"]; !ok {
					delete(got, "takeover")
				}
				if !reflect.DeepEqual(got, b) {
					t.Errorf("%s:\n got %v\nwant %v", line.Note, got, b)
				}
			case tPong:
				if got := c.want(tPong); !bytes.Equal(got.payload, f.payload) {
					t.Errorf("%s: %v", line.Note, got)
				}
			case tHead:
				got := c.expect("STREAM_RESPONSE_HEAD", func(x tframe) bool { return x.typ == tHead && x.stream == f.stream }).json()
				sameHead(t, line.Note, got, f.json())
			case tEOF, tReset:
				got := c.expect("the end of the stream", func(x tframe) bool { return (x.typ == tEOF || x.typ == tReset) && x.stream == f.stream })
				if got.typ != f.typ {
					t.Errorf("%s: %v", line.Note, got)
				}
			case tData:
				for n := 0; n < len(f.payload); {
					got := c.expect("DATA", func(x tframe) bool { return x.typ == tData && x.stream == f.stream })
					rest := f.payload[n:]
					if len(got.payload) > len(rest) { // in other pieces
						c.early = slices.Insert(c.early, 0, tframe{tData, f.stream, got.payload[len(rest):]})
						got.payload = got.payload[:len(rest)]
					}
					if !bytes.HasPrefix(rest, got.payload) {
						t.Fatalf("%s: %v", line.Note, got)
					}
					n += len(got.payload)
				}
			case tWindow:
				want := int(binary.BigEndian.Uint32(f.payload))
				for n := 0; n < want; {
					got := c.expect("WINDOW", func(x tframe) bool { return x.typ == tWindow && x.stream == f.stream })
					n += int(binary.BigEndian.Uint32(got.payload))
					if n > want {
						t.Errorf("%s: %d of credit, recorded %d", line.Note, n, want)
					}
				}
			}
		}
	}
	wait("the end")
}

func sameHead(t *testing.T, note string, got, want object) {
	t.Helper()
	lower := func(o object) (out []string) {
		for _, h := range slicesOf(o["headers"]) {
			p := slicesOf(h)
			if name := strings.ToLower(fmt.Sprint(p[0])); name != "date" {
				out = append(out, name+": "+fmt.Sprint(p[1]))
			}
		}
		slices.Sort(out)
		return out
	}
	if got["status"] != want["status"] || got["final"] != want["final"] || !slices.Equal(lower(got), lower(want)) {
		t.Errorf("%s:\n got %v\nwant %v", note, got, want)
	}
}

// localHTTP is the local service of the recorded driver.
func localHTTP(t *testing.T, streams map[uint32]*wants) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	pending := maps.Clone(streams)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != l.Addr().String() {
			t.Errorf("Host is %q", r.Host)
		}
		mu.Lock()
		var found *wants
		for _, id := range slices.Sorted(maps.Keys(pending)) {
			if x := pending[id]; x.open["method"] == r.Method && x.open["target"] == r.URL.RequestURI() {
				found = x
				delete(pending, id)
				break
			}
		}
		mu.Unlock()
		if found == nil || found.head == nil {
			panic(http.ErrAbortHandler)
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(rw, "HTTP/1.1 %v Local\r\n", found.head["status"])
		sized := false
		for _, h := range slicesOf(found.head["headers"]) {
			p := slicesOf(h)
			fmt.Fprintf(rw, "%s: %s\r\n", p[0], p[1])
			sized = sized || strings.EqualFold(fmt.Sprint(p[0]), "content-length")
		}
		if found.head["status"] != 101.0 && !sized {
			fmt.Fprint(rw, "Connection: close\r\n")
		}
		fmt.Fprint(rw, "\r\n")
		if found.head["status"] != 101.0 {
			_, _ = rw.Write(found.data)
			_ = rw.Flush()
			return
		}
		_ = rw.Flush()
		_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a socket has deadlines
		talk(conn, rw, found)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// talk says what a driver's local side said, in the order in which it was said and heard.
func talk(c net.Conn, r io.Reader, w *wants) {
	for _, s := range w.steps {
		switch {
		case s.hear > 0:
			if _, err := io.CopyN(io.Discard, r, int64(s.hear)); err != nil {
				return
			}
		case s.hearEOF:
			_, _ = io.Copy(io.Discard, r)
		case s.sayEOF:
			if half, ok := c.(*net.TCPConn); ok {
				_ = half.CloseWrite()
			}
		default:
			if _, err := c.Write(s.say); err != nil {
				return
			}
		}
	}
}

// localTCP is the local service of recorded bytes.
func localTCP(t *testing.T, streams map[uint32]*wants) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mine []*wants
	for _, id := range slices.Sorted(maps.Keys(streams)) {
		if streams[id].open["kind"] != "http" {
			mine = append(mine, streams[id])
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if i < len(mine) {
				_ = c.SetDeadline(time.Now().Add(time.Minute)) // a socket has deadlines
				talk(c, c, mine[i])
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}
