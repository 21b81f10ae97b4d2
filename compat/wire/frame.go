package wire

import (
	"errors"
	"strconv"
)

// A Request is a request frame that passed the frame schema (protocol.md §2.1). Package schema parses it.
type Request struct {
	ID        string
	Method    string
	Params    Value // Undefined when the frame has none
	HasParams bool  // the frame has params, be they null
}

var emptyObject = MustParse("{}")

// EmptyObject is {}.
func EmptyObject() Value { return emptyObject }

// ParamsOrEmpty is the parameters, or {} when they are missing or null: what a method sees after the handshake
// (protocol.md §2.4).
func (r Request) ParamsOrEmpty() Value {
	if !r.Params.Exists() || r.Params.IsNull() {
		return emptyObject
	}
	return r.Params
}

// ErrorShape is the error of a response (protocol.md §2.1, §2.2).
type ErrorShape struct {
	Code         string
	Message      string
	Details      Raw   // empty: left out
	Retryable    bool  // false: left out
	RetryAfterMs int64 // 0: left out
}

// StateVersion is the pair of counters that some events carry.
type StateVersion struct {
	Presence uint64
	Health   uint64
}

// AppendResult appends a successful response; a nil payload is left out.
func AppendResult(dst []byte, id string, payload []byte) []byte {
	dst = append(dst, `{"type":"res","id":`...)
	dst = AppendString(dst, id)
	dst = append(dst, `,"ok":true`...)
	if payload != nil {
		dst = append(dst, `,"payload":`...)
		dst = append(dst, payload...)
	}
	return append(dst, '}')
}

// AppendError appends a failed response.
func AppendError(dst []byte, id string, e ErrorShape) []byte {
	dst = append(dst, `{"type":"res","id":`...)
	return appendErrorTail(AppendString(dst, id), nil, e)
}

// AppendErrorPayload appends a failed response that carries a payload too; a nil payload is left out.
func AppendErrorPayload(dst []byte, id string, payload []byte, e ErrorShape) []byte {
	dst = append(dst, `{"type":"res","id":`...)
	return appendErrorTail(AppendString(dst, id), payload, e)
}

// AppendErrorRawID appends a failed response whose id is the JSON of whatever a bad frame had as its id
// (protocol.md §2.4).
func AppendErrorRawID(dst []byte, id Raw, e ErrorShape) []byte {
	dst = append(dst, `{"type":"res","id":`...)
	return appendErrorTail(append(dst, id...), nil, e)
}

func appendErrorTail(dst, payload []byte, e ErrorShape) []byte {
	dst = append(dst, `,"ok":false`...)
	if payload != nil {
		dst = append(dst, `,"payload":`...)
		dst = append(dst, payload...)
	}
	dst = append(dst, `,"error":`...)
	return append(AppendErrorShape(dst, e), '}')
}

// AppendErrorShape appends the error object alone. Clients drop a frame with an empty message, so the code stands in.
func AppendErrorShape(dst []byte, e ErrorShape) []byte {
	if e.Message == "" {
		e.Message = e.Code
	}
	dst = AppendString(append(dst, `{"code":`...), e.Code)
	dst = AppendString(append(dst, `,"message":`...), e.Message)
	if len(e.Details) > 0 {
		dst = append(append(dst, `,"details":`...), e.Details...)
	}
	if e.Retryable {
		dst = append(dst, `,"retryable":true`...)
	}
	if e.RetryAfterMs > 0 {
		dst = strconv.AppendInt(append(dst, `,"retryAfterMs":`...), e.RetryAfterMs, 10)
	}
	return append(dst, '}')
}

// AppendEvent appends an event; a nil payload and an absent seq or state are left out.
func AppendEvent(dst []byte, name string, payload []byte, seq Opt[uint64], state Opt[StateVersion]) []byte {
	dst = AppendString(append(dst, `{"type":"event","event":`...), name)
	if payload != nil {
		dst = append(append(dst, `,"payload":`...), payload...)
	}
	if n, ok := seq.Get(); ok {
		dst = strconv.AppendUint(append(dst, `,"seq":`...), n, 10)
	}
	if s, ok := state.Get(); ok {
		dst = strconv.AppendUint(append(dst, `,"stateVersion":{"presence":`...), s.Presence, 10)
		dst = strconv.AppendUint(append(dst, `,"health":`...), s.Health, 10)
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// AppendRequest appends a request, for the client side; nil params are left out.
func AppendRequest(dst []byte, id, method string, params []byte) []byte {
	dst = AppendString(append(dst, `{"type":"req","id":`...), id)
	dst = AppendString(append(dst, `,"method":`...), method)
	if params != nil {
		dst = append(append(dst, `,"params":`...), params...)
	}
	return append(dst, '}')
}

// A Frame is a response or an event as a client receives it.
type Frame struct {
	Type string // "res" or "event"

	ID    string // res
	OK    bool
	Error ErrorShape // res, when OK is false

	Event string // event
	Seq   Opt[uint64]
	State Opt[StateVersion]

	Payload Value // Undefined when left out
}

// ErrFrame is what ParseFrame wraps when a text is JSON but no response or event.
var ErrFrame = errors.New("not a response or event frame")

// ParseFrame reads a frame from a gateway. It is tolerant: unknown keys are ignored, and optional members of the
// wrong type count as absent.
func ParseFrame(data []byte) (Frame, error) {
	v, err := Parse(data)
	if err != nil {
		return Frame{}, err
	}
	var f Frame
	var state, fault Value
	ok := false
	for k, m := range v.Members() {
		switch k {
		case "type":
			f.Type = m.Str()
		case "id":
			f.ID = m.Str()
		case "ok":
			f.OK, ok = m.Bool(), m.Kind() == Bool
		case "error":
			fault = m
		case "event":
			f.Event = m.Str()
		case "payload":
			f.Payload = m
		case "seq":
			if n, whole := m.Int(); whole && n >= 0 {
				f.Seq = Some(uint64(n))
			}
		case "stateVersion":
			state = m
		}
	}
	switch {
	case f.Type == "res" && f.ID != "" && ok:
		if !f.OK {
			f.Error = errorShape(fault)
		}
	case f.Type == "event" && f.Event != "":
		p, h := uintMember(state, "presence"), uintMember(state, "health")
		if p.state == optSome && h.state == optSome {
			f.State = Some(StateVersion{p.value, h.value})
		}
	default:
		return Frame{}, ErrFrame
	}
	return f, nil
}

func errorShape(v Value) (e ErrorShape) {
	for k, m := range v.Members() {
		switch k {
		case "code":
			e.Code = m.Str()
		case "message":
			e.Message = m.Str()
		case "details":
			e.Details = Raw(m.Raw())
		case "retryable":
			e.Retryable = m.Bool()
		case "retryAfterMs":
			if n, ok := m.Int(); ok && n > 0 {
				e.RetryAfterMs = n
			}
		}
	}
	return e
}

func uintMember(v Value, key string) Opt[uint64] {
	if m, ok := v.Get(key); ok {
		if n, whole := m.Int(); whole && n >= 0 {
			return Some(uint64(n))
		}
	}
	return Opt[uint64]{}
}
