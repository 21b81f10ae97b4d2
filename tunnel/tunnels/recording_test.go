package tunnels_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// recorded is a line of a recording of the published driver (tunnel.md §9).
type recorded struct {
	Dir    string
	WS     int
	Frames []struct {
		Type        string
		Stream      uint32
		Len         int
		JSON        map[string]any
		PayloadUTF8 string `json:"payload_utf8"`
	}
	Hex, Note string
}

func recording(t *testing.T, name string) []recorded {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out []recorded
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line recorded
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		out = append(out, line)
	}
	return out
}

// replay plays the driver's part of a recording.
type replay struct {
	t       *testing.T
	w       *world
	p       *peer
	further *peer
	id      string
	nonces  map[int]string
	port    int
	streams map[uint32]uint32 // by the recorded id
	// visitor is the other end of the newest stream.
	visitor  net.Conn
	answered *bufio.Reader
	http     bool
	upgrade  bool
	played   int
}

// What the published driver sent is played against the service, whose answers have the members, in the order, of those
// that the driver accepted.
func TestRecording(t *testing.T) {
	names := []string{"../../fixtures/tunnel/hoody-driver.jsonl"}
	r := &replay{t: t, w: newWorld(t)}
	for _, name := range names {
		for i, line := range recording(t, name) {
			if line.Note == "" || len(line.Frames) == 0 {
				continue
			}
			if line.Dir == "out" {
				r.out(line)
			} else {
				r.in(line)
			}
			if t.Failed() {
				t.Fatalf("line %d: %s", i+1, line.Note)
			}
		}
	}
	if r.id == "" || r.played < 4 {
		t.Error("nothing was played")
	}
}

// out sends what the driver sent, with the ids, ports and nonces of this run.
func (r *replay) out(line recorded) {
	p := r.p
	var message []byte
	raw, _ := hex.DecodeString(strings.TrimSuffix(line.Hex, "…"))
	for _, f := range line.Frames {
		payload := make([]byte, f.Len)
		if len(raw) >= wire.HeaderSize {
			n := copy(payload, raw[wire.HeaderSize:])
			raw = raw[wire.HeaderSize+n:]
		}
		typ := types[f.Type]
		switch typ {
		case wire.Hello:
			if r.p != nil {
				_ = r.p.c.Close(1005, "") // as drivers end
			}
			version, _ := f.JSON["version"].(string)
			r.p = r.w.peer(identity.Caller{}, version)
			p = r.p
			payload = bytes.ReplaceAll(payload, []byte("tok-1"), []byte("secret"))
			r.streams = map[uint32]uint32{}
		case wire.Join:
			index := int(f.JSON["index"].(float64))
			r.further = r.w.peer(identity.Caller{}, wire.V2)
			p = r.further
			payload = wire.Encode(wire.JoinBody{SessionID: r.id, Index: index, Nonce: r.nonces[index]})
		case wire.Bind:
			l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
			if err != nil {
				r.t.Fatal(err)
			}
			r.port = l.Addr().(*net.TCPAddr).Port
			_ = l.Close()
			payload = bytes.ReplaceAll(payload, []byte(strconv.Itoa(int(f.JSON["containerPort"].(float64)))), []byte(strconv.Itoa(r.port)))
		}
		id := f.Stream
		if id != 0 {
			id = r.streams[id]
		}
		message = wire.Append(message, typ, id, payload)
	}
	p.raw(message)
}

// in compares what the service sends to what the driver accepted.
func (r *replay) in(line recorded) {
	for _, f := range line.Frames {
		switch types[f.Type] {
		case wire.HelloOK:
			var ok wire.HelloOKBody
			r.members(r.p.want(wire.HelloOK, &ok), f.JSON)
			r.id, r.nonces = ok.SessionID, map[int]string{}
			for _, k := range ok.JoinTickets {
				r.nonces[k.Index] = k.Nonce
			}
		case wire.BindOK:
			var ok wire.BindOKBody
			r.members(r.p.want(wire.BindOK, &ok), f.JSON)
			if ok.ContainerPort != r.port {
				r.t.Errorf("%+v is not for port %d", ok, r.port)
			}
		case wire.JoinOK:
			r.members(r.further.want(wire.JoinOK, nil), f.JSON)
		case wire.StreamOpen:
			r.visit(f.JSON)
			got := r.next(wire.StreamOpen)
			if got.Stream%2 != 0 || got.Stream == 0 {
				r.t.Errorf("the server opens stream %d", got.Stream)
			}
			r.streams[f.Stream] = got.Stream
			r.played++
			r.members(got, f.JSON)
		case wire.Data:
			if r.upgrade { // nobody sends before the other end has agreed
				if a, err := http.ReadResponse(r.answered, nil); err != nil || a.StatusCode != http.StatusSwitchingProtocols {
					r.t.Fatalf("an upgrade is answered %+v, %v", a, err)
				}
				r.upgrade = false
			}
			if _, err := io.WriteString(r.visitor, f.PayloadUTF8); err != nil {
				r.t.Error(err)
			}
			if got := r.p.want(wire.Data, nil); string(got.Payload) != f.PayloadUTF8 || got.Stream != r.streams[f.Stream] {
				r.t.Errorf("DATA %q on %d", got.Payload, got.Stream)
			}
		case wire.EOF:
			if !r.http { // that of http ends with its request
				_ = r.visitor.(*net.TCPConn).CloseWrite()
			}
			if got := r.p.want(wire.EOF, nil); got.Stream != r.streams[f.Stream] {
				r.t.Errorf("EOF on %d", got.Stream)
			}
		case wire.GoAway:
			if _, err := r.w.s.Kill(context.Background(), admin, tunnels.KillIn{ID: r.id}); err != nil {
				r.t.Error(err)
			}
			r.members(r.next(wire.GoAway), f.JSON)
		case wire.Ping:
		default:
			r.t.Errorf("a %s of the server's is not known to this test", f.Type)
		}
	}
}

// next returns the next frame of a type. Ends of streams before it are no concern: the recording leaves out how they
// end at the server.
func (r *replay) next(typ wire.Type) wire.Frame {
	r.t.Helper()
	for {
		f, err := r.p.frame()
		if err != nil {
			r.t.Fatalf("no 0x%02x: %v", uint8(typ), err)
		}
		switch {
		case f.Type == typ:
			return f
		case f.Type != wire.Reset && f.Type != wire.EOF:
			r.t.Fatalf("not 0x%02x but 0x%02x %s", uint8(typ), uint8(f.Type), f.Payload)
		}
	}
}

// members are those that the driver reads: each is there, with the same value where it does not depend on the run.
func (r *replay) members(got wire.Frame, want map[string]any) {
	r.t.Helper()
	var have map[string]any
	if err := json.Unmarshal(got.Payload, &have); err != nil {
		r.t.Fatalf("%s: %v", got.Payload, err)
	}
	for name, value := range want {
		if _, ok := have[name]; !ok {
			r.t.Errorf("%s lacks %s", got.Payload, name)
		}
		switch name {
		case "resumed", "clientBindRef", "publicUrl", "kind", "method", "target", "isUpgrade", "code", "message", "connectionsGranted":
			if name == "connectionsGranted" {
				value = 3.0 // as asked for; the stand-in granted fewer
			}
			if have[name] != value {
				r.t.Errorf("%s is %v, not %v", name, have[name], value)
			}
		}
	}
}

// visit comes to the port as the one did whose stream was recorded.
func (r *replay) visit(open map[string]any) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.port)), bound)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(bound))
	r.t.Cleanup(func() { _ = c.Close() })
	r.visitor, r.answered = c, bufio.NewReader(c)
	r.http, r.upgrade = open["kind"] == "http", open["isUpgrade"] == true
	if !r.http {
		return
	}
	var b strings.Builder
	b.WriteString(open["method"].(string) + " " + open["target"].(string) + " HTTP/1.1\r\n")
	host := false
	headers, _ := open["headers"].([]any)
	for _, h := range headers {
		pair := h.([]any)
		host = host || strings.EqualFold(pair[0].(string), "host")
		b.WriteString(pair[0].(string) + ": " + pair[1].(string) + "\r\n")
	}
	if !host {
		b.WriteString("host: app.example\r\n")
	}
	_, _ = io.WriteString(c, b.String()+"\r\n")
}

var types = map[string]wire.Type{
	"HELLO": wire.Hello, "HELLO_OK": wire.HelloOK, "BIND": wire.Bind, "BIND_OK": wire.BindOK, "JOIN": wire.Join, "JOIN_OK": wire.JoinOK,
	"STREAM_OPEN": wire.StreamOpen, "DATA": wire.Data, "EOF": wire.EOF, "RESET": wire.Reset, "WINDOW": wire.Window, "STREAM_RESPONSE_HEAD": wire.ResponseHead,
	"PING": wire.Ping, "PONG": wire.Pong, "GOAWAY": wire.GoAway,
}
