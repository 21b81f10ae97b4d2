//go:build unix

package proc

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Raw is a legacy client that is nothing but its socket: what is read, and when, is up to the test. It
// is not for concurrent use.
type Raw struct {
	net.Conn
	R *bufio.Reader
}

// ErrRefused says that the gateway answered, and did not let the client in.
var ErrRefused = errors.New("not let in")

// maxRaw bounds a message that a raw client reads.
const maxRaw = 64 << 20

// DialRaw connects and upgrades.
func (d *Daemon) DialRaw(ctx context.Context) (*Raw, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.Addr())
	if err != nil {
		return nil, err
	}
	r := &Raw{nc, bufio.NewReaderSize(nc, 512)}
	if t, ok := ctx.Deadline(); ok {
		_ = nc.SetDeadline(t) // a closed connection fails at its next use
	}
	if err := r.upgrade(); err != nil {
		_ = nc.Close() // the first error counts
		return nil, err
	}
	return r, nil
}

func (r *Raw) upgrade() error {
	const request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	if _, err := io.WriteString(r.Conn, request); err != nil {
		return err
	}
	res, err := http.ReadResponse(r.R, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("the upgrade is answered with %s", res.Status)
	}
	return nil
}

// Send writes a text message.
func (r *Raw) Send(text []byte) error { return r.frame(1, text) }

func (r *Raw) frame(opcode byte, payload []byte) error {
	b := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	// The mask is zero, which leaves the payload as it is.
	_, err := r.Write(append(append(b, 0, 0, 0, 0), payload...))
	return err
}

// Message reads the next message; it answers pings. A close is an error.
func (r *Raw) Message() ([]byte, error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(r.R, head[:]); err != nil {
			return nil, err
		}
		n := uint64(head[1])
		var long [8]byte
		switch n {
		case 126:
			if _, err := io.ReadFull(r.R, long[6:]); err != nil {
				return nil, err
			}
			n = binary.BigEndian.Uint64(long[:])
		case 127:
			if _, err := io.ReadFull(r.R, long[:]); err != nil {
				return nil, err
			}
			n = binary.BigEndian.Uint64(long[:])
		}
		if n > maxRaw {
			return nil, fmt.Errorf("a message of %d bytes", n)
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(r.R, payload); err != nil {
			return nil, err
		}
		switch head[0] & 15 {
		case 1:
			return payload, nil
		case 8:
			return nil, fmt.Errorf("the daemon closed the connection: %q", payload)
		case 9:
			if err := r.frame(10, payload); err != nil {
				return nil, err
			}
		}
	}
}

// RawFrame is a message of the gateway.
type RawFrame struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	OK      bool            `json:"ok"`
	Event   string          `json:"event"`
	Seq     *uint64         `json:"seq"`
	Payload json.RawMessage `json:"payload"`
	Error   json.RawMessage `json:"error"`
}

// Next reads the next message and parses it.
func (r *Raw) Next() (f RawFrame, err error) {
	m, err := r.Message()
	if err == nil {
		err = json.Unmarshal(m, &f)
	}
	return f, err
}

// Hello connects as an operator with the shared secret and returns after the hello.
func (r *Raw) Hello(scopes ...string) error {
	if f, err := r.Next(); err != nil || f.Event != "connect.challenge" {
		return fmt.Errorf("instead of the challenge came %+v, %w", f, err)
	}
	frame := fmt.Sprintf(`{"type":"req","id":"hello","method":"connect","params":{"minProtocol":3,"maxProtocol":3,"role":"operator",`+
		`"scopes":["%s"],"client":{"id":"gateway-client","mode":"backend","version":"1","platform":"linux"},"auth":{"token":%q}}}`,
		strings.Join(scopes, `","`), Token)
	if err := r.Send([]byte(frame)); err != nil {
		return err
	}
	m, err := r.Message()
	if err == nil && !strings.HasPrefix(string(m[:min(len(m), 100)]), `{"type":"res","id":"hello","ok":true,`) {
		err = fmt.Errorf("%w: %.300s", ErrRefused, m)
	}
	return err
}

// Forever takes the deadline away that DialRaw has set.
func (r *Raw) Forever() { _ = r.SetDeadline(time.Time{}) } // a closed connection fails at its next use
