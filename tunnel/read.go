package tunnel

import "encoding/json"

// fields are the members of what a node says. What is not of the kind that is asked for counts as absent.
type fields map[string]json.RawMessage

// read fails with ErrAnswer for what is no object.
func read(payload []byte) (fields, error) {
	var f fields
	if err := json.Unmarshal(payload, &f); err != nil || f == nil {
		return nil, ErrAnswer
	}
	return f, nil
}

func (f fields) has(name string) bool {
	raw := f[name]
	return len(raw) > 0 && string(raw) != "null"
}

func (f fields) text(name string) (out string) {
	if json.Unmarshal(f[name], &out) != nil {
		return ""
	}
	return out
}

func (f fields) number(name string) (out int64) {
	if json.Unmarshal(f[name], &out) != nil {
		return 0
	}
	return out
}

// bytes reads base64.
func (f fields) bytes(name string) (out []byte) {
	if json.Unmarshal(f[name], &out) != nil {
		return nil
	}
	return out
}
