// Package wire is the frames of the tunnel: hoody-tunnel v1 and v2 with hanzod's own additions (tunnel.md §4.4,
// §4.5, §4.13). Messages are made of whole frames; what carries messages is no concern of this package.
//
// It imports the standard library only, and nothing in it keeps state.
package wire

import (
	"encoding/binary"
	"errors"
	"io"
	"strconv"
)

// The subprotocols, which HELLO repeats.
const (
	V1 = "hoody-tunnel.v1"
	V2 = "hoody-tunnel.v2"
)

// The capabilities of HELLO and HELLO_OK.
const (
	// MultiWS is of clients that can use several carriers.
	MultiWS = "multi-ws"
	// Hanzod1 is of peers that know STREAM_ACCEPT, STREAM_CONTROL and BINDINGS, raw streams for http bindings, and
	// streams that the client opens (tunnel.md §4.13).
	Hanzod1 = "hanzod.1"
)

// Limits of the format.
const (
	// HeaderSize is how many bytes stand in front of a payload.
	HeaderSize = 9
	// MaxPayload is the largest payload of a frame in bytes, MaxMessage the largest message, MaxFrames the most
	// frames in one.
	MaxPayload = 65_536
	MaxMessage = 262_144
	MaxFrames  = 64
	// MaxControl is the largest payload of STREAM_CONTROL.
	MaxControl = 4 << 10
	// MinStreamWindow is the smallest window that the published drivers work with: they wait for a whole chunk of
	// credit (tunnel.md §4.7). MinSessionWindow goes with it.
	MinStreamWindow  = 131_072
	MinSessionWindow = 4 * MinStreamWindow
	// StreamWindow and SessionWindow are the default windows, which are also what HELLO_OK without them means.
	StreamWindow  = 1 << 20
	SessionWindow = 16 << 20
)

// Type is the kind of a frame.
type Type uint8

// The frames (tunnel.md §4.4, §4.13). ShardMap and ReissueTicket are reserved names whose payload is not known: they
// are skipped and never sent.
const (
	Hello         Type = 0x01
	HelloOK       Type = 0x02
	Bind          Type = 0x03
	BindOK        Type = 0x04
	BindErr       Type = 0x05
	Unbind        Type = 0x06
	UnbindOK      Type = 0x07
	UnbindErr     Type = 0x08
	Join          Type = 0x09
	JoinOK        Type = 0x0A
	JoinErr       Type = 0x0B
	ShardMap      Type = 0x0C
	ReissueTicket Type = 0x0D
	StreamOpen    Type = 0x10
	Data          Type = 0x12
	EOF           Type = 0x13
	Reset         Type = 0x14
	Window        Type = 0x15
	ResponseHead  Type = 0x16
	Ping          Type = 0x20
	Pong          Type = 0x21
	GoAway        Type = 0x30
	BindRevoked   Type = 0x40
	StreamAccept  Type = 0x41
	StreamControl Type = 0x42
	Bindings      Type = 0x43
	// FirstExtension and LastExtension are the range whose unknown frames are skipped.
	FirstExtension Type = 0x40
	LastExtension  Type = 0x7F
)

// Code says why something ended: in RESET and in GOAWAY.
type Code uint16

// The codes.
const (
	CodeNone         Code = 0
	CodeProtocol     Code = 1
	CodeInternal     Code = 2
	CodeFlowControl  Code = 3
	CodeStreamClosed Code = 4
	CodeFrameSize    Code = 5
	CodeRefused      Code = 6
	CodeCancel       Code = 7
	CodeCalm         Code = 8
	CodeBind         Code = 9
	CodeIdle         Code = 10
	CodeAuth         Code = 11
	CodeVersion      Code = 12
	CodeTakeover     Code = 13
	CodeExhausted    Code = 14
)

var codeNames = [...]string{
	"no error", "protocol error", "internal error", "flow control error", "stream closed", "frame size error", "refused stream", "cancel",
	"enhance your calm", "bind error", "idle timeout", "auth error", "version mismatch", "bind takeover", "resource exhausted",
}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "code " + strconv.Itoa(int(c))
}

// The errors of reading a message.
var (
	ErrShort   = errors.New("a frame is cut off")
	ErrSize    = errors.New("a frame or a message is larger than allowed")
	ErrFrames  = errors.New("more than 64 frames in a message, or none")
	ErrUnknown = errors.New("a frame of an unknown type")
	ErrStream  = errors.New("a frame with a stream that it cannot have")
	ErrPayload = errors.New("a frame with a payload that it cannot have")
)

// Frame is one frame of a message. Payload points into the message.
type Frame struct {
	Type    Type
	Stream  uint32
	Payload []byte
}

// AppendHeader appends the header of a frame with n bytes of payload, 0 to MaxPayload.
func AppendHeader(b []byte, t Type, stream uint32, n int) []byte {
	b = append(b, byte(t))
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// Append appends a whole frame, whose payload is at most MaxPayload bytes.
func Append(b []byte, t Type, stream uint32, payload []byte) []byte {
	return append(AppendHeader(b, t, stream, len(payload)), payload...)
}

// Next takes the first frame off a message. It checks sizes only: ErrShort and ErrSize. It does not allocate.
func Next(message []byte) (f Frame, rest []byte, err error) {
	if len(message) < HeaderSize {
		return Frame{}, nil, ErrShort
	}
	n := binary.BigEndian.Uint32(message[5:])
	if n > MaxPayload {
		return Frame{}, nil, ErrSize
	}
	if uint32(len(message)-HeaderSize) < n {
		return Frame{}, nil, ErrShort
	}
	end := HeaderSize + int(n)
	return Frame{Type(message[0]), binary.BigEndian.Uint32(message[1:]), message[HeaderSize:end:end]}, message[end:], nil
}

// Reader takes the frames off one message and checks what can be checked without knowing the connection: sizes, how
// many frames there are, types, which of them have a stream, the lengths of payloads. It does not allocate.
type Reader struct {
	rest    []byte
	frames  int
	hanzod1 bool
}

// Read returns a Reader of a message. Without hanzod1 all of the extension range but BIND_REVOKED is unknown, and
// skipped by Next of the Reader.
func Read(message []byte, hanzod1 bool) (Reader, error) {
	if len(message) > MaxMessage {
		return Reader{}, ErrSize
	}
	if len(message) == 0 {
		return Reader{}, ErrFrames
	}
	return Reader{rest: message, hanzod1: hanzod1}, nil
}

// Next returns the next frame that is to be handled, and io.EOF behind the last one. The other errors are those of
// this package, and CodeOf has their codes.
func (r *Reader) Next() (Frame, error) {
	for {
		if len(r.rest) == 0 {
			return Frame{}, io.EOF
		}
		if r.frames == MaxFrames {
			return Frame{}, ErrFrames
		}
		r.frames++
		f, rest, err := Next(r.rest)
		if err != nil {
			return Frame{}, err
		}
		r.rest = rest
		skip, err := check(f, r.hanzod1)
		if err != nil {
			return Frame{}, err
		}
		if !skip {
			return f, nil
		}
	}
}

// Rest returns the frames of the message that Next has not returned yet.
func (r *Reader) Rest() []byte { return r.rest }

// CodeOf is the code of GOAWAY for an error of this package.
func CodeOf(err error) Code {
	if errors.Is(err, ErrSize) {
		return CodeFrameSize
	}
	return CodeProtocol
}

func check(f Frame, hanzod1 bool) (skip bool, err error) {
	session, size := true, true
	switch f.Type {
	case Hello, HelloOK, Bind, BindOK, BindErr, Unbind, UnbindOK, UnbindErr, Join, JoinOK, JoinErr, GoAway, BindRevoked:
	case ShardMap, ReissueTicket:
		skip = true
	case Ping, Pong:
		size = len(f.Payload) == 8
	case Window:
		// On any stream. An increment of nothing is an error.
		if len(f.Payload) != 4 || binary.BigEndian.Uint32(f.Payload) == 0 {
			return false, ErrPayload
		}
		return false, nil
	case StreamOpen, Data, ResponseHead:
		session = false
	case EOF:
		session, size = false, len(f.Payload) == 0
	case Reset:
		session, size = false, len(f.Payload) >= 2
	case StreamAccept, StreamControl, Bindings:
		if !hanzod1 {
			return true, nil
		}
		session, size = f.Type == Bindings, f.Type != StreamControl || len(f.Payload) <= MaxControl
	default:
		if f.Type >= FirstExtension && f.Type <= LastExtension {
			return true, nil
		}
		return false, ErrUnknown
	}
	if session != (f.Stream == 0) {
		return false, ErrStream
	}
	if !size {
		return false, ErrPayload
	}
	return skip, nil
}
