package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// socket is a WebSocket client as light as one can be: frames are masked with the key zero, which
// leaves the payload as it is, answers are not parsed, and every message is one write. It is not
// for concurrent use, but one goroutine may read while another writes.
type socket struct {
	nc  net.Conn
	r   *bufio.Reader
	in  []byte
	out []byte
}

// maxMessage bounds what a socket reads: a hello with a full presence table is below it.
const maxMessage = 4 << 20

const upgrade = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// dialSocket connects and upgrades. The deadline of ctx holds for everything done on the socket.
func dialSocket(ctx context.Context, addr string) (*socket, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &socket{nc: nc, r: bufio.NewReader(nc)}
	if t, ok := ctx.Deadline(); ok {
		_ = nc.SetDeadline(t) // a closed connection fails at the next use
	}
	if err := s.upgrade(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) upgrade() error {
	if _, err := io.WriteString(s.nc, upgrade); err != nil {
		return err
	}
	for first := true; ; first = false {
		line, err := s.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 101")) {
			return fmt.Errorf("the upgrade was answered with %q", bytes.TrimSpace(line))
		}
		if len(line) <= 2 {
			return nil
		}
	}
}

func (s *socket) close() { _ = s.nc.Close() }

// write sends one text message.
func (s *socket) write(payload []byte) error { return s.frame(1, payload) }

func (s *socket) frame(opcode byte, payload []byte) error {
	b := append(s.out[:0], 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0)
	b = append(b, payload...)
	s.out = b
	_, err := s.nc.Write(b)
	return err
}

// read returns the next message, valid until the next read.
func (s *socket) read() ([]byte, error) {
	for {
		head, err := s.r.Peek(2)
		if err != nil {
			return nil, err
		}
		opcode, n, skip := head[0]&15, uint64(head[1]&127), 2
		switch n {
		case 126:
			skip = 4
		case 127:
			skip = 10
		}
		if head, err = s.r.Peek(skip); err != nil {
			return nil, err
		}
		switch skip {
		case 4:
			n = uint64(binary.BigEndian.Uint16(head[2:]))
		case 10:
			n = binary.BigEndian.Uint64(head[2:])
		}
		if n > maxMessage {
			return nil, fmt.Errorf("a message of %d bytes came; at most %d are read", n, maxMessage)
		}
		if _, err := s.r.Discard(skip); err != nil {
			return nil, err
		}
		if uint64(cap(s.in)) < n {
			s.in = make([]byte, n)
		}
		s.in = s.in[:n]
		if _, err := io.ReadFull(s.r, s.in); err != nil {
			return nil, err
		}
		switch opcode {
		case 1:
			return s.in, nil
		case 8:
			return nil, fmt.Errorf("the daemon closed the connection: %q", s.in)
		case 9:
			if err := s.frame(10, s.in); err != nil {
				return nil, err
			}
		}
	}
}

// answer returns the next response and skips events.
func (s *socket) answer() ([]byte, error) {
	for {
		m, err := s.read()
		if err != nil {
			return nil, err
		}
		if isAnswer(m) {
			return m, nil
		}
	}
}

var (
	answerHead = []byte(`{"type":"res","id":"`)
	okMark     = []byte(`","ok":true`)
)

func isAnswer(m []byte) bool { return bytes.HasPrefix(m, answerHead) }

// idOf is the id of a response, checked to be a success.
func idOf(m []byte) ([]byte, error) {
	rest := m[len(answerHead):]
	end := bytes.IndexByte(rest, '"')
	if end < 0 || !bytes.HasPrefix(rest[end:], okMark) {
		return nil, fmt.Errorf("a call failed: %.300s", m)
	}
	return rest[:end], nil
}

// call sends a frame and waits for its answer.
func (s *socket) call(frame []byte) error {
	if err := s.write(frame); err != nil {
		return err
	}
	m, err := s.answer()
	if err != nil {
		return err
	}
	_, err = idOf(m)
	return err
}

// who is what a socket says of itself.
type who struct {
	ID, Mode, Role, Instance string
	Scopes, Commands         []string
	Key                      ed25519.PrivateKey // nil connects without a device
}

var (
	operator = who{ID: "gateway-client", Mode: "backend", Role: "operator", Scopes: []string{"operator.admin"}}
	// paired is an operator whose device is paired at its first connection: the id test is no
	// backend, which would skip the pairing.
	paired = who{ID: "test", Mode: "test", Role: "operator", Scopes: []string{"operator.admin"}}
)

const clientVersion, clientPlatform = "1", "linux"

// connect dials and goes through the handshake. It returns after the hello.
func connect(ctx context.Context, addr, token string, w who) (*socket, error) {
	s, err := dialSocket(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := s.handshake(token, w); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) handshake(token string, w who) error {
	m, err := s.read()
	if err != nil {
		return err
	}
	nonce := between(m, `"nonce":"`)
	if nonce == nil {
		return fmt.Errorf("no challenge came: %.200s", m)
	}
	return s.call(connectFrame(token, w, string(nonce)))
}

func connectFrame(token string, w who, nonce string) []byte {
	client := map[string]any{"id": w.ID, "mode": w.Mode, "version": clientVersion, "platform": clientPlatform}
	if w.Instance != "" {
		client["instanceId"] = w.Instance
	}
	params := map[string]any{
		"minProtocol": 3, "maxProtocol": 3, "client": client, "role": w.Role, "auth": map[string]string{"token": token},
	}
	if w.Scopes != nil {
		params["scopes"] = w.Scopes
	}
	if w.Commands != nil {
		params["commands"] = w.Commands
	}
	if w.Key != nil {
		params["device"] = proof(token, w, nonce)
	}
	b, err := json.Marshal(map[string]any{"type": "req", "id": "connect", "method": "connect", "params": params})
	if err != nil {
		panic(err) // maps of strings always marshal
	}
	return b
}

func proof(token string, w who, nonce string) map[string]any {
	pub, _ := w.Key.Public().(ed25519.PublicKey)
	f := identity.Signed{
		DeviceID: identity.DeviceID(pub), ClientID: w.ID, ClientMode: w.Mode, Role: identity.Role(w.Role),
		SignedAt: time.Now().UnixMilli(), Token: token, Nonce: nonce, Platform: clientPlatform,
	}
	for _, x := range w.Scopes {
		f.Scopes = append(f.Scopes, identity.Scope(x))
	}
	return map[string]any{
		"id": f.DeviceID, "publicKey": identity.EncodeKey(pub), "nonce": nonce, "signedAt": f.SignedAt,
		"signature": base64.RawURLEncoding.EncodeToString(ed25519.Sign(w.Key, []byte(f.Payload("v3")))),
	}
}

// between is the text after a mark up to the next quote, nil when the mark is not there.
func between(m []byte, mark string) []byte {
	at := bytes.Index(m, []byte(mark))
	if at < 0 {
		return nil
	}
	rest := m[at+len(mark):]
	before, _, ok := bytes.Cut(rest, []byte{'"'})
	if !ok {
		return nil
	}
	return before
}

// numbered is a request whose id, and every other place of the mark, is a number of fixed width
// that is written in place.
type numbered struct {
	text []byte
	at   []int
}

// numberMark stands in a template where the number goes.
const numberMark = "########"

func newNumbered(template string) *numbered {
	n := &numbered{text: []byte(template)}
	for from := 0; ; {
		i := bytes.Index(n.text[from:], []byte(numberMark))
		if i < 0 {
			break
		}
		n.at = append(n.at, from+i)
		from += i + len(numberMark)
	}
	return n
}

// with returns the request with a number, valid until the next use.
func (n *numbered) with(v uint32) []byte {
	for _, at := range n.at {
		x := v
		for i := len(numberMark) - 1; i >= 0; i-- {
			n.text[at+i] = "0123456789abcdef"[x&15]
			x >>= 4
		}
	}
	return n.text
}

var errBadID = errors.New("an answer came with an id that was not asked")

// number reads the number back from the id of an answer.
func number(id []byte) (uint32, error) {
	if len(id) != len(numberMark) {
		return 0, errBadID
	}
	var v uint32
	for _, c := range id {
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | uint32(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | uint32(c-'a'+10)
		default:
			return 0, errBadID
		}
	}
	return v, nil
}
