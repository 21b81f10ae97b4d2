//go:build unix

package mux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/hanzoai/hanzod/tunnel/wire"
)

// FuzzServer and FuzzClient run programs of hostile frames and of what the own side does meanwhile against an engine
// without goroutines, with real sockets where streams have some, and check after each step that no byte and no credit
// is lost, doubled or held back.
func FuzzServer(f *testing.F) { fuzz(f, false) }

// FuzzClient is FuzzServer for the other role.
func FuzzClient(f *testing.F) { fuzz(f, true) }

// What one program may do, so that it stays short.
const (
	fuzzSteps = 64
	fuzzBytes = 1 << 20
)

// fuzzConfigs are windows below a frame, small ones, those of published drivers, and ones whose credit is gathered.
var fuzzConfigs = [...]Config{
	{StreamWindow: 4096, SessionWindow: 8192},
	{StreamWindow: 4096, SessionWindow: 8192, Hanzod1: true},
	{StreamWindow: wire.MinStreamWindow, SessionWindow: 4 * wire.MinStreamWindow},
	{StreamWindow: wire.MinStreamWindow, SessionWindow: 4 * wire.MinStreamWindow, Hanzod1: true},
	{},
	{StreamWindow: 256 << 10, SessionWindow: 1 << 20, PeerStreamWindow: 1 << 20, PeerSessionWindow: 4 << 20, Hanzod1: true},
	{StreamWindow: 256 << 10, SessionWindow: 300 << 10, PeerStreamWindow: 70_000, PeerSessionWindow: 100_000, Hanzod1: true},
	{StreamWindow: 1 << 20, SessionWindow: 8 << 20, Hanzod1: true},
}

// noise is what streams carry: what stands at an offset of a stream stands at the same of noise, and of the period.
var noise = func() []byte {
	b := make([]byte, 512<<10)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return append(b, b...)
}()

func noisy(at, n int) []byte {
	at %= len(noise) / 2
	return noise[at : at+n]
}

// fuzzer runs one program after the other.
type fuzzer struct {
	t      *testing.T
	client bool
	// outlets are sockets that streams are written to, each with little room.
	outlets [2]outlet
	scratch []byte
	message []byte
	out     []byte

	s    *Session
	l    *link
	held []*fuzzStream
	byID map[uint32]*fuzzStream
	// sent is what the peer has sent on each stream, spare memory for it.
	sent  map[uint32][]byte
	spare [][]byte
	done  int
}

// fuzzStream is what is known of a stream from outside.
type fuzzStream struct {
	st *Stream
	id uint32
	// got is how much came out of what the peer sent, written what went in at this side and left what of it went over
	// the wire.
	got, written, left int
	outlet             *outlet
	// credit is what the peer was given.
	credit int64

	// ended and reset are that EOF or RESET went, and that the latter did.
	ended, reset bool
}

// outlet is a socket with a descriptor at the other end.
type outlet struct {
	c     *net.UnixConn
	fd    int
	taken bool
}

func newOutlet(t testing.TB) outlet {
	c, fd := socketWithEnd(t)
	_ = c.SetWriteBuffer(1) // as little as there may be
	return outlet{c: c, fd: fd}
}

func socketWithEnd(t testing.TB) (*net.UnixConn, int) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := syscall.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
		syscall.CloseOnExec(fd)
	}
	f := os.NewFile(uintptr(fds[0]), "")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return c.(*net.UnixConn), fds[1]
}

// drain reads what is in the socket.
func (o *outlet) drain(into []byte) []byte {
	for {
		n, err := syscall.Read(o.fd, into[len(into):cap(into)])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if n <= 0 {
			return into
		}
		into = into[:len(into)+n]
	}
}

// Read, Write, Close and RemoteAddr make the fuzzer the session's carrier. Write looks at what the session sends.
func (z *fuzzer) Read(context.Context) ([]byte, error) { return nil, io.EOF }
func (z *fuzzer) Close(int, string) error              { return nil }
func (z *fuzzer) RemoteAddr() string                   { return "" }
func (z *fuzzer) Write(parts net.Buffers) error {
	z.message = z.message[:0]
	for _, p := range parts {
		z.message = append(z.message, p...)
	}
	r, err := wire.Read(z.message, true)
	for err == nil {
		var f wire.Frame
		if f, err = r.Next(); err != nil {
			break
		}
		fs := z.byID[f.Stream]
		if fs == nil {
			if f.Stream != 0 && f.Type != wire.Reset {
				z.t.Errorf("a frame %#x of stream %d, which is not known", f.Type, f.Stream)
			}
			continue
		}
		switch f.Type {
		case wire.Data:
			if fs.left+len(f.Payload) > fs.written || !bytes.Equal(f.Payload, noisy(fs.left, len(f.Payload))) {
				z.t.Errorf("stream %d sends other bytes than were written at %d, %d long, of %d", f.Stream, fs.left, len(f.Payload), fs.written)
			}
			if fs.ended {
				z.t.Errorf("stream %d sends DATA behind its end", f.Stream)
			}
			fs.left += len(f.Payload)
		case wire.EOF, wire.Reset:
			// A stream that said EOF may still be reset, to stop the other end.
			if fs.reset || fs.ended && f.Type == wire.EOF {
				z.t.Errorf("stream %d ends twice", f.Stream)
			}
			if f.Type == wire.EOF && fs.left != fs.written {
				z.t.Errorf("stream %d ends at %d of %d bytes", f.Stream, fs.left, fs.written)
			}
			fs.ended, fs.reset = true, f.Type == wire.Reset
		case wire.Window:
			if fs.reset {
				z.t.Errorf("stream %d is reset and gives credit", f.Stream)
			}
			fs.credit += int64(wire.ParseWindow(f.Payload))
		}
	}
	if !errors.Is(err, io.EOF) {
		z.t.Errorf("a message that cannot be read: %v", err)
	}
	return nil
}

// add begins to look after a stream.
func (z *fuzzer) add(st *Stream) *fuzzStream {
	fs := &fuzzStream{st: st, id: st.id, credit: int64(z.s.cfg.StreamWindow)}
	z.held = append(z.held, fs)
	z.byID[st.id] = fs
	return fs
}

// attach has the stream's bytes go to a socket, as WriteTo does while nothing waits.
func (z *fuzzer) attach(fs *fuzzStream) {
	for i := range z.outlets {
		if o := &z.outlets[i]; !o.taken && fs.outlet == nil {
			o.taken, fs.outlet = true, o
			z.s.mu.Lock()
			fs.st.sink = newDirect(o.c)
			z.s.mu.Unlock()
		}
	}
}

// took checks bytes that came out of a stream.
func (z *fuzzer) took(fs *fuzzStream, b []byte) {
	if sent := z.sent[fs.id]; fs.got+len(b) > len(sent) || !bytes.Equal(b, sent[fs.got:fs.got+len(b)]) {
		z.t.Fatalf("stream %d: %d bytes at %d of %d are others than were sent", fs.id, len(b), fs.got, len(sent))
	}
	fs.got += len(b)
}

// feed gives the session a message, and notes what streams should get of it.
func (z *fuzzer) feed(m []byte) error {
	r, err := wire.Read(m, z.s.cfg.Hanzod1)
	for err == nil {
		var f wire.Frame
		if f, err = r.Next(); err == nil && f.Type == wire.Data {
			sent, ok := z.sent[f.Stream]
			if n := len(z.spare); !ok && n > 0 {
				sent, z.spare = z.spare[n-1][:0], z.spare[:n-1]
			}
			z.sent[f.Stream] = append(sent, f.Payload...)
		}
	}
	buf := newBuffer(len(m))
	copy(buf.b, m)
	err = z.l.message(buf.b[:len(m)], buf)
	buf.release()
	return err
}

// settle writes what there is to write, and checks the books. over says that the session has ended.
func (z *fuzzer) settle(over bool) {
	s, l := z.s, z.l
	s.mu.Lock()
	defer s.mu.Unlock()
	for !over && s.err == nil && l.pending() {
		l.write()
	}
	for _, fs := range z.held {
		if fs.outlet != nil {
			z.took(fs, fs.outlet.drain(z.out[:0]))
		}
	}
	if over || s.err != nil {
		return
	}
	window := int64(s.cfg.SessionWindow)
	if s.recvLeft+s.recvPend+s.held != window {
		z.t.Fatalf("credit of the session: %d left, %d to return, %d held", s.recvLeft, s.recvPend, s.held)
	}
	if s.recvPend > 0 && (!s.cfg.Hanzod1 || s.recvLeft < window/2) || s.recvPend >= together(s.cfg.SessionWindow) {
		z.t.Fatalf("credit of the session is held back: %d left, %d to return", s.recvLeft, s.recvPend)
	}
	if s.sendLeft < 0 {
		z.t.Fatalf("%d bytes were sent beyond the session's credit", -s.sendLeft)
	}
	for _, st := range s.streams {
		fs := z.byID[st.id]
		if st.sendLeft < 0 {
			z.t.Fatalf("stream %d: %d bytes were sent beyond its credit", st.id, -st.sendLeft)
		}
		if len(st.control) > 0 || !st.out.empty() && s.allowed(st) > 0 {
			z.t.Fatalf("stream %d has bytes and credit for %d, and does not send", st.id, s.allowed(st))
		}
		if st.recvEOF || st.closed {
			continue
		}
		if st.recvLeft+st.recvPend+st.inBytes != int64(s.cfg.StreamWindow) {
			z.t.Fatalf("credit of stream %d: %d left, %d to return, %d held", st.id, st.recvLeft, st.recvPend, st.inBytes)
		}
		if st.recvPend > 0 && (!s.cfg.Hanzod1 || st.recvLeft < wire.MaxPayload) {
			z.t.Fatalf("credit of stream %d is held back: %d left, %d to return, %d wait to be read", st.id, st.recvLeft, st.recvPend, st.inBytes)
		}
		if have := fs.credit - int64(st.gotBytes); have != st.recvLeft {
			z.t.Fatalf("stream %d: the other end has credit for %d bytes, and should have %d", st.id, have, st.recvLeft)
		}
		if fs.got+int(st.inBytes) != int(st.gotBytes) {
			z.t.Fatalf("stream %d: %d bytes came, %d were read, %d wait", st.id, st.gotBytes, fs.got, st.inBytes)
		}
	}
}

// may is how many bytes may be written to a stream without waiting.
func (z *fuzzer) may(fs *fuzzStream) int {
	z.s.mu.Lock()
	defer z.s.mu.Unlock()
	st := fs.st
	if st.gone || st.closed || st.sendClosed || z.s.err != nil || st.queued > 0 {
		return 0
	}
	return max(0, min(maxQueued, int(z.s.allowed(st))))
}

// ahead queues bytes that there is no credit for, as when others took it meanwhile.
func (z *fuzzer) ahead(fs *fuzzStream, n int) {
	z.s.mu.Lock()
	defer z.s.mu.Unlock()
	st := fs.st
	if n = min(n, maxQueued-st.queued); n <= 0 || st.gone || st.closed || st.sendClosed || z.s.err != nil {
		return
	}
	st.out.fill(noisy(fs.written, n), wire.HeaderSize, st.queued)
	st.enqueued(n)
	fs.written += n
}

// fromSocket has a stream send what a socket has.
func (z *fuzzer) fromSocket(fs *fuzzStream, n int) {
	// Sending takes of the stream's share of the session's credit too, and the end is found with some left.
	n = min(n, z.may(fs)/2-1, 160<<10)
	if n <= 0 {
		return
	}
	c, fd := socketWithEnd(z.t)
	defer c.Close()
	b := noisy(fs.written, n)
	for len(b) > 0 {
		m, err := syscall.Write(fd, b)
		if m <= 0 || err != nil {
			break // it holds no more
		}
		b = b[m:]
	}
	n -= len(b)
	_ = syscall.Close(fd) // nothing is written any more
	fs.written += n
	if m, err := fs.st.ReadFrom(c); err != nil || m != int64(n) {
		z.t.Fatalf("%d of %d bytes came from a socket: %v", m, n, err)
	}
}

func (z *fuzzer) run(t *testing.T, input []byte) {
	z.t = t
	next := func() int {
		if len(input) == 0 {
			return 0
		}
		b := input[0]
		input = input[1:]
		return int(b)
	}
	word := func() int { return next()<<8 | next() }
	cfg := fuzzConfigs[next()%len(fuzzConfigs)]
	cfg.Client, cfg.MaxStreams = z.client, 4
	cfg.Open = func(st *Stream, body wire.StreamOpenBody) error {
		switch body.Kind {
		case "http":
			return errors.New("no")
		case "dial":
			_ = st.Accept("x")
		}
		z.attach(z.add(st))
		return nil
	}
	z.held, z.done = z.held[:0], 0
	clear(z.byID)
	for _, b := range z.sent {
		z.spare = append(z.spare, b)
	}
	clear(z.sent)
	for i := range z.outlets {
		z.outlets[i].taken = false
	}
	z.s = New(cfg)
	s := z.s
	s.mu.Lock()
	z.l = s.link(0, z)
	z.l.scratch = z.scratch[:0]
	l := z.l
	s.mu.Unlock()
	own, err := s.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"})
	if err != nil {
		t.Fatal(err)
	}
	z.add(own)
	pick := func() *fuzzStream { return z.held[next()%len(z.held)] }
	for step := 0; step < fuzzSteps && len(input) > 0 && err == nil && z.done < fuzzBytes; step++ {
		switch op := next(); op % 12 {
		case 0: // any message
			n := min(word(), len(input))
			err = z.feed(input[:n])
			input = input[n:]
		case 1, 2: // much DATA
			fs, n := pick(), word()+1
			z.done += n
			err = z.feed(wire.Append(z.out[:0], wire.Data, fs.id, noisy(len(z.sent[fs.id]), n)))
		case 3: // DATA of several streams in a message
			b := z.out[:0]
			for range op/12%8 + 2 {
				fs, n := pick(), next()*16+1
				z.done += n
				b = wire.Append(b, wire.Data, fs.id, noisy(len(z.sent[fs.id]), n))
			}
			err = z.feed(b)
		case 4: // a stream more
			id := s.maxPeer + 2
			if s.maxPeer == 0 {
				if id = 1; z.client {
					id = 2
				}
			}
			err = z.feed(wire.Append(z.out[:0], wire.StreamOpen, id, []byte([...]string{`{"kind":"tcp"}`, `{"kind":"dial"}`, `{"kind":"http"}`, `{`}[next()%4])))
		case 5: // credit, most often what was sent
			fs, b := pick(), z.out[:0]
			n := next()
			give := uint32(n)
			if n%4 != 0 {
				s.mu.Lock()
				give = uint32(int64(s.cfg.PeerStreamWindow) - fs.st.sendLeft)
				s.mu.Unlock()
			}
			if n%4 != 1 && give > 0 {
				b = wire.AppendWindow(b, fs.id, give)
			}
			s.mu.Lock()
			if give = uint32(int64(s.cfg.PeerSessionWindow) - s.sendLeft); n%4 == 3 {
				give /= 2
			}
			s.mu.Unlock()
			if give > 0 {
				b = wire.AppendWindow(b, 0, give)
			}
			if len(b) > 0 {
				err = z.feed(b)
			}
		case 6: // an end of a stream, by the other side
			fs := pick()
			if next()%2 == 0 {
				err = z.feed(wire.AppendHeader(z.out[:0], wire.EOF, fs.id, 0))
			} else {
				err = z.feed(wire.AppendReset(z.out[:0], fs.id, wire.CodeCancel, ""))
			}
		case 7: // reading
			fs, n := pick(), word()+1
			s.mu.Lock()
			some := !fs.st.in.empty() && !fs.st.closed
			s.mu.Unlock()
			if some {
				// Sockets take what they got before anybody else reads.
				if fs.outlet != nil {
					z.took(fs, fs.outlet.drain(z.out[:0]))
				}
				m, readErr := fs.st.Read(z.out[:n])
				if readErr != nil {
					t.Fatal(readErr)
				}
				z.took(fs, z.out[:m])
			}
		case 8: // writing
			fs, n := pick(), word()*4+1
			if op/12%2 == 1 {
				z.done += n
				z.ahead(fs, n)
			} else if n = min(n, z.may(fs)); n > 0 {
				z.done += n
				b := noisy(fs.written, n)
				fs.written += n
				if m, err := fs.st.Write(b); err != nil || m != n {
					t.Fatalf("wrote %d of %d bytes: %v", m, n, err)
				}
			}
		case 9: // a socket
			fs, n := pick(), word()*4
			z.done += n / 2
			z.fromSocket(fs, n)
		case 10: // an end of a stream, by this side
			fs := pick()
			switch next() % 4 {
			case 0:
				_ = fs.st.Reset(wire.CodeCancel, "")
			case 1:
				_ = fs.st.Close()
			default:
				_ = fs.st.CloseWrite()
			}
		case 11: // all sorts
			switch next() % 4 {
			case 0:
				_ = pick().st.SendControl([]byte("{}"))
			case 1:
				_ = pick().st.SendHead(wire.ResponseHeadBody{Status: 200, Final: true})
			case 2:
				s.PingAll()
			case 3:
				if st, err := s.Open(t.Context(), wire.StreamOpenBody{Kind: "tcp"}); err == nil {
					z.add(st)
				}
			}
		}
		z.settle(err != nil)
	}
	if err == nil {
		err = io.EOF
	}
	s.mu.Lock()
	l.lost(err)
	s.mu.Unlock()
	for _, fs := range z.held {
		_ = fs.st.Reset(wire.CodeCancel, "")
		if fs.outlet != nil {
			fs.outlet.drain(z.out[:0])
		}
	}
	_ = s.Close(0, "")
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.late != nil {
		l.late.Stop()
	}
	if s.slots != 0 || len(s.streams) != 0 || s.held != 0 || s.queued != 0 || s.busy != 0 || !s.starved.empty() || !s.holding.empty() || !l.ready.empty() || !l.windows.empty() {
		t.Fatalf("left: %d slots, %d streams, %d held, %d queued", s.slots, len(s.streams), s.held, s.queued)
	}
}

func fuzz(f *testing.F, client bool) {
	id := byte(1)
	if client {
		id = 2
	}
	// A step that feeds a message.
	anything := func(frames ...[]byte) []byte {
		m := bytes.Join(frames, nil)
		return append(binary.BigEndian.AppendUint16([]byte{0}, uint16(len(m))), m...)
	}
	peer, own := uint32(id), uint32(3-id)
	for cfg := range byte(len(fuzzConfigs)) {
		f.Add(append([]byte{cfg}, anything(open(peer), frame(wire.Data, peer, "hello"), frame(wire.EOF, peer, ""))...))
		f.Add(append(append([]byte{cfg}, anything(open(peer), frame(wire.Ping, 0, "12345678"))...), anything(frame(wire.Reset, peer, "\x00\x01no"), open(peer+2), frame(wire.StreamControl, peer+2, "{}"), frame(wire.StreamAccept, peer+2, "{}"))...))
		f.Add(append([]byte{cfg}, anything(frame(wire.ResponseHead, own, `{"status":200,"headers":[["a","b"]],"final":true}`), wire.AppendWindow(nil, own, 5), frame(wire.Data, own, "x"))...))
		f.Add(append([]byte{cfg}, anything(frame(wire.GoAway, 0, `{"code":0}`), open(peer), wire.AppendWindow(nil, 0, 3))...))
		// Two streams; DATA to sockets, more than they take at once; reading the rest; sending from sockets; credit; ends.
		f.Add([]byte{cfg, 20, 0, 0x7f, 0xff, 4, 0, 20, 1, 0x7f, 0xff, 5, 0, 2, 20, 1, 0x7f, 0xff, 5, 1, 0, 5, 0, 3, 5, 1, 2, 5, 0, 2, 10, 0, 2, 5, 0, 2, 5, 1, 2})
		f.Add([]byte{cfg, 4, 0, 4, 1, 1, 1, 0xff, 0xff, 1, 1, 0x80, 0, 7, 1, 0xff, 0xff, 7, 1, 0xff, 0xff, 3, 1, 9, 2, 9, 8, 0, 0x40, 0, 9, 1, 0x80, 0, 5, 1, 2, 9, 2, 0xff, 0xff, 10, 1, 2, 6, 1, 0, 10, 0, 1, 6, 2, 1})
	}
	z := &fuzzer{client: client, byID: map[uint32]*fuzzStream{}, sent: map[uint32][]byte{}, scratch: make([]byte, 0, scratchSize), message: make([]byte, 0, wire.MaxMessage), out: make([]byte, 0, 2*wire.MaxMessage)}
	for i := range z.outlets {
		z.outlets[i] = newOutlet(f)
	}
	f.Cleanup(func() {
		for _, o := range z.outlets {
			_, _ = o.c.Close(), syscall.Close(o.fd)
		}
	})
	f.Fuzz(func(t *testing.T, input []byte) { z.run(t, input) })
}
