package schema

import (
	"sync"

	"github.com/hanzoai/hanzod/compat/wire"
)

// A FrameError says why a message is no request frame (protocol.md §2.4).
type FrameError struct {
	NotJSON bool     // not even JSON, or beyond the bounds of wire.Parse: there is no answer to such a message
	ID      wire.Raw // JSON of the id to answer under: the frame's own, whatever it is, or "invalid"
	Text    string   // "invalid request frame: …", "" when NotJSON
}

func (e *FrameError) Error() string {
	if e.NotJSON {
		return "message is not JSON"
	}
	return e.Text
}

var requestRule = sync.OnceValue(func() *rule {
	return compile(wire.MustParse(`{"additionalProperties":false,"type":"object","required":["type","id","method"],` +
		`"properties":{"type":{"const":"req","type":"string"},"id":{"minLength":1,"type":"string"},` +
		`"method":{"minLength":1,"type":"string"},"params":{}}}`))
})

// ParseRequest reads one message of a client. On a failure the error says how to answer.
func ParseRequest(data []byte) (wire.Request, *FrameError) {
	v, err := wire.Parse(data)
	if err != nil {
		return wire.Request{}, &FrameError{NotJSON: true}
	}
	if p := requestRule().problem(v); p != "" {
		id := wire.Raw(`"invalid"`)
		if own, ok := v.Get("id"); ok && !own.IsNull() {
			id = wire.Stringify(own)
		}
		return wire.Request{}, &FrameError{ID: id, Text: "invalid request frame: " + p}
	}
	var r wire.Request
	for k, m := range v.Members() {
		switch k {
		case "id":
			r.ID = m.Str()
		case "method":
			r.Method = m.Str()
		case "params":
			r.Params, r.HasParams = m, true
		}
	}
	return r, nil
}
