package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxReason is how much of a reason RESET takes, in bytes.
const maxReason = 1 << 10

// Encode returns the JSON of a body of this package. Lists that a reader expects are there even when they are nil.
func Encode(body any) []byte {
	switch b := body.(type) {
	case StreamOpenBody:
		return b.AppendJSON(nil)
	case *StreamOpenBody:
		return b.AppendJSON(nil)
	case ResponseHeadBody:
		return b.AppendJSON(nil)
	case *ResponseHeadBody:
		return b.AppendJSON(nil)
	case *HelloBody:
		return Encode(*b)
	case HelloBody:
		b.Capabilities = orEmpty(b.Capabilities)
		body = b
	case *HelloOKBody:
		return Encode(*b)
	case HelloOKBody:
		b.ResumedBinds = orEmpty(b.ResumedBinds)
		body = b
	case *BindingsBody:
		return Encode(*b)
	case BindingsBody:
		b.Bindings = orEmpty(b.Bindings)
		body = b
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		// The bodies have strings, numbers, booleans and lists only.
		panic("wire: " + err.Error())
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// Decode reads the JSON of a payload into a body of this package; members that it does not know are ignored.
// ErrPayload.
func Decode(payload []byte, body any) error {
	switch b := body.(type) {
	case *StreamOpenBody:
		if b.decode(payload) {
			return nil
		}
		*b = StreamOpenBody{}
		if !pairs(payload) {
			return ErrPayload
		}
	case *ResponseHeadBody:
		if b.decode(payload) {
			return nil
		}
		*b = ResponseHeadBody{}
		if !pairs(payload) {
			return ErrPayload
		}
	}
	if json.Unmarshal(payload, body) != nil {
		return ErrPayload
	}
	return nil
}

// pairs tells whether each header is a name and a value, which encoding/json does not mind.
func pairs(payload []byte) bool {
	var of struct{ Headers [][]string }
	if json.Unmarshal(payload, &of) != nil {
		return false
	}
	for _, pair := range of.Headers {
		if len(pair) != 2 {
			return false
		}
	}
	return true
}

// AppendBody appends a frame with the JSON of body. ErrSize when that is larger than a payload may be.
func AppendBody(b []byte, t Type, stream uint32, body any) ([]byte, error) {
	at := len(b)
	b = AppendHeader(b, t, stream, 0)
	switch v := body.(type) {
	case *StreamOpenBody:
		b = v.AppendJSON(b)
	case *ResponseHeadBody:
		b = v.AppendJSON(b)
	default:
		b = append(b, Encode(body)...)
	}
	n := len(b) - at - HeaderSize
	if n > MaxPayload {
		return b[:at], ErrSize
	}
	binary.BigEndian.PutUint32(b[at+5:], uint32(n))
	return b, nil
}

// AppendWindow appends WINDOW.
func AppendWindow(b []byte, stream, increment uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendHeader(b, Window, stream, 4), increment)
}

// ParseWindow reads the payload of WINDOW.
func ParseWindow(payload []byte) uint32 { return binary.BigEndian.Uint32(payload) }

// AppendReset appends RESET, with a reason cut to 1,024 bytes.
func AppendReset(b []byte, stream uint32, code Code, reason string) []byte {
	reason = strings.ToValidUTF8(reason, "\uFFFD")
	for i := 0; len(reason) > maxReason || i > 0 && !utf8.ValidString(reason); i++ {
		reason = reason[:min(len(reason)-1, maxReason)]
	}
	b = binary.BigEndian.AppendUint16(AppendHeader(b, Reset, stream, 2+len(reason)), uint16(code))
	return append(b, reason...)
}

// ParseReset reads the payload of RESET, which has at least two bytes.
func ParseReset(payload []byte) (Code, string) {
	return Code(binary.BigEndian.Uint16(payload)), string(bytes.ToValidUTF8(payload[2:], []byte("\uFFFD")))
}

// AppendJSON appends the payload of STREAM_OPEN.
func (o *StreamOpenBody) AppendJSON(b []byte) []byte {
	b = appendString(append(b, `{"kind":`...), o.Kind)
	if o.Kind == "http" || o.Method != "" || o.Target != "" || len(o.Headers) > 0 || o.IsUpgrade {
		b = appendString(append(b, `,"method":`...), o.Method)
		b = appendString(append(b, `,"target":`...), o.Target)
		b = appendHeaders(append(b, `,"headers":`...), o.Headers)
		b = strconv.AppendBool(append(b, `,"isUpgrade":`...), o.IsUpgrade)
	}
	if o.BindID != 0 {
		b = strconv.AppendInt(append(b, `,"bindId":`...), int64(o.BindID), 10)
	}
	if o.RemoteAddr != "" {
		b = appendString(append(b, `,"remoteAddr":`...), o.RemoteAddr)
	}
	if o.Host != "" {
		b = appendString(append(b, `,"host":`...), o.Host)
	}
	if o.Port != 0 {
		b = strconv.AppendInt(append(b, `,"port":`...), int64(o.Port), 10)
	}
	return append(b, '}')
}

// MarshalJSON is AppendJSON for those that marshal bodies themselves.
func (o *StreamOpenBody) MarshalJSON() ([]byte, error) { return o.AppendJSON(nil), nil }

// AppendJSON appends the payload of STREAM_RESPONSE_HEAD.
func (h *ResponseHeadBody) AppendJSON(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"status":`...), int64(h.Status), 10)
	b = appendHeaders(append(b, `,"headers":`...), h.Headers)
	b = strconv.AppendBool(append(b, `,"final":`...), h.Final)
	return append(b, '}')
}

func appendHeaders(b []byte, headers [][2]string) []byte {
	b = append(b, '[')
	for i := range headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(append(b, '['), headers[i][0])
		b = appendString(append(b, ','), headers[i][1])
		b = append(b, ']')
	}
	return append(b, ']')
}

const hexDigits = "0123456789abcdef"

// appendString appends a JSON string as JSON.stringify writes it.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		case '\b':
			b = append(b, `\b`...)
		case '\f':
			b = append(b, `\f`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// scanner reads the plain JSON that programs write: no spaces, no escapes, members that are known. Whatever else
// comes makes it give up, and encoding/json reads the whole again: it is the only judge of what is valid.
type scanner struct {
	b []byte
	// ok is false once something was not plain.
	ok bool
}

func (s *scanner) take(c byte) bool {
	if len(s.b) > 0 && s.b[0] == c {
		s.b = s.b[1:]
		return true
	}
	return false
}

func (s *scanner) need(c byte) {
	if !s.take(c) {
		s.ok = false
	}
}

// bytes returns a string that points into what is read.
func (s *scanner) bytes() []byte {
	if !s.take('"') {
		s.ok = false
		return nil
	}
	for i, c := range s.b {
		if c == '"' {
			out := s.b[:i]
			s.b = s.b[i+1:]
			return out
		}
		if c < ' ' || c == '\\' || c >= utf8.RuneSelf {
			break
		}
	}
	s.ok = false
	return nil
}

func (s *scanner) bool() bool {
	switch {
	case bytes.HasPrefix(s.b, []byte("true")):
		s.b = s.b[4:]
		return true
	case bytes.HasPrefix(s.b, []byte("false")):
		s.b = s.b[5:]
		return false
	}
	s.ok = false
	return false
}

// int reads up to nine digits.
func (s *scanner) int() int {
	n, i := 0, 0
	for i < len(s.b) && i < 10 && s.b[i] >= '0' && s.b[i] <= '9' {
		n = n*10 + int(s.b[i]-'0')
		i++
	}
	if i == 0 || i == 10 || i > 1 && s.b[0] == '0' || i == len(s.b) || s.b[i] != ',' && s.b[i] != '}' {
		s.ok = false
		return 0
	}
	s.b = s.b[i:]
	return n
}

// headers reads the list. All names and values share one string.
func (s *scanner) headers() [][2]string {
	s.need('[')
	if !s.ok {
		return nil
	}
	if s.take(']') {
		return [][2]string{}
	}
	text := string(s.b)
	at := func() int { return len(text) - len(s.b) }
	out := make([][2]string, 0, min(bytes.Count(s.b, []byte(`],[`))+1, 64))
	for s.ok {
		s.need('[')
		start := at() + 1
		name := s.bytes()
		s.need(',')
		valueAt := at() + 1
		value := s.bytes()
		s.need(']')
		if !s.ok {
			return nil
		}
		out = append(out, [2]string{text[start : start+len(name)], text[valueAt : valueAt+len(value)]})
		if s.take(']') {
			return out
		}
		s.need(',')
	}
	return nil
}

// object reads members until the end of what is read; member reads the value of one, each at most once.
func (s *scanner) object(member func(s *scanner, name []byte) (bit uint)) bool {
	s.ok = true
	s.need('{')
	if s.take('}') {
		return s.ok && len(s.b) == 0
	}
	var seen uint
	for s.ok {
		name := s.bytes()
		s.need(':')
		if !s.ok {
			return false
		}
		bit := member(s, name)
		if bit == 0 || seen&bit != 0 {
			return false
		}
		seen |= bit
		if s.take('}') {
			return s.ok && len(s.b) == 0
		}
		s.need(',')
	}
	return false
}

func (o *StreamOpenBody) decode(payload []byte) bool {
	s := scanner{b: payload}
	return s.object(func(s *scanner, name []byte) uint {
		switch string(name) {
		case "kind":
			o.Kind = known(s.bytes())
			return 1
		case "method":
			o.Method = known(s.bytes())
			return 2
		case "target":
			o.Target = string(s.bytes())
			return 4
		case "headers":
			o.Headers = s.headers()
			return 8
		case "isUpgrade":
			o.IsUpgrade = s.bool()
			return 16
		case "bindId":
			o.BindID = s.int()
			return 32
		case "remoteAddr":
			o.RemoteAddr = string(s.bytes())
			return 64
		case "host":
			o.Host = string(s.bytes())
			return 128
		case "port":
			o.Port = s.int()
			return 256
		}
		return 0
	})
}

func (h *ResponseHeadBody) decode(payload []byte) bool {
	s := scanner{b: payload}
	return s.object(func(s *scanner, name []byte) uint {
		switch string(name) {
		case "status":
			h.Status = s.int()
			return 1
		case "headers":
			h.Headers = s.headers()
			return 2
		case "final":
			h.Final = s.bool()
			return 4
		}
		return 0
	})
}

// known spares the copies of words that come all the time.
func known(b []byte) string {
	switch string(b) {
	case "http":
		return "http"
	case "tcp":
		return "tcp"
	case "dial":
		return "dial"
	case "GET":
		return "GET"
	case "POST":
		return "POST"
	}
	return string(b)
}
