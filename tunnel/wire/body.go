package wire

import (
	"encoding/binary"
	"encoding/json"
)

// Encode returns the JSON of a payload of this package.
func Encode(body any) []byte {
	b, err := json.Marshal(body)
	if err != nil {
		// The bodies have strings, numbers, booleans and lists only.
		panic("wire: " + err.Error())
	}
	return b
}

// Decode reads the JSON of a payload into a body of this package; members that it does not know are ignored.
// ErrPayload.
func Decode(payload []byte, body any) error {
	if json.Unmarshal(payload, body) != nil {
		return ErrPayload
	}
	return nil
}

// AppendBody appends a frame with the JSON of body.
func AppendBody(b []byte, t Type, stream uint32, body any) []byte {
	return Append(b, t, stream, Encode(body))
}

// AppendWindow appends WINDOW.
func AppendWindow(b []byte, stream, increment uint32) []byte {
	return binary.BigEndian.AppendUint32(AppendHeader(b, Window, stream, 4), increment)
}

// AppendReset appends RESET, with a reason cut to 1,024 bytes.
func AppendReset(b []byte, stream uint32, code Code, reason string) []byte {
	reason = reason[:min(len(reason), 1024)]
	b = binary.BigEndian.AppendUint16(AppendHeader(b, Reset, stream, 2+len(reason)), uint16(code))
	return append(b, reason...)
}

// ParseReset reads the payload of RESET, which has at least two bytes.
func ParseReset(payload []byte) (Code, string) {
	return Code(binary.BigEndian.Uint16(payload)), string(payload[2:])
}
