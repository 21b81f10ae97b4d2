package wire

import (
	"strings"
	"unicode/utf8"
)

// The versions of the protocol that are spoken. Version 3 is the frozen one; version 1 is that of older nodes, written
// in Rust (protocol.md §8).
const (
	Version1 = 1
	Version3 = 3
)

// maxClientID bounds the name that a node of version 1 gives itself. Its default is a UUID.
const maxClientID = 128

// Dialect is how the client of one connection speaks: the negotiated version, and what its family is known to do
// otherwise than the frozen list says. Everything that depends on it is here. The zero value is not usable; see
// Negotiate. It is immutable.
type Dialect struct {
	// Version is 1 or 3.
	Version int
	// ClientID is client.id as it was sent, and signed.
	ClientID string

	own bool // one of the companion apps that carry Hanzo's name
}

// ownClients are the companion apps that carry Hanzo's name, and the name under which an app tries again, each with the
// client of the frozen list that it counts as (protocol.md §9).
var ownClients = map[string]struct {
	as  string
	own bool
}{
	"hanzo-bot-macos": {"openclaw-macos", true}, "bot-macos": {"openclaw-macos", true},
	"hanzo-bot-ios": {"openclaw-ios", true}, "bot-ios": {"openclaw-ios", true},
	"hanzo-bot-android": {"openclaw-android", true}, "bot-android": {"openclaw-android", true},
	"moltbot-ios": {"openclaw-ios", false},
	// The script that moves sessions (tunnel.md §1.11).
	migrateClient: {"cli", false},
}

// migrateClient says no platform.
const migrateClient = "migrate-cli"

// Negotiate reads the parameters of connect. Nodes that offer nothing newer get version 1; all others get version 3,
// whether they offer it or not: the caller refuses those that do not, after the parameters were checked.
func Negotiate(params Value) Dialect {
	d := Dialect{Version: Version3}
	client, _ := params.Get("client")
	id, _ := client.Get("id")
	d.ClientID = id.Str()
	d.own = ownClients[d.ClientID].own
	role, _ := params.Get("role")
	least, _ := params.Get("minProtocol")
	most, _ := params.Get("maxProtocol")
	low, ok := least.Int()
	high, ok2 := most.Int()
	if role.Str() == "node" && ok && ok2 && low <= Version1 && high >= Version1 && high < Version3 {
		d.Version, d.own = Version1, false
	}
	return d
}

// Frozen is the parameters as the frozen schema is asked about them: without what this client may do beyond it. Methods
// read the parameters as they were sent, but for connect, where this is what the client counts as.
func (d Dialect) Frozen(method string, params Value) Value {
	switch method {
	case "connect":
		return d.frozenConnect(params)
	case "node.event":
		if text, _ := params.Get("payloadJSON"); text.IsNull() && (d.own || d.Version == Version1) {
			return edit(params, func(key string, v Value) (Value, bool) { return v, key != "payloadJSON" })
		}
	case "node.invoke.result":
		fault, _ := params.Get("error")
		if _, ok := fault.Get("details"); ok && d.Version == Version1 {
			return edit(params, func(key string, v Value) (Value, bool) {
				if key == "error" {
					v = edit(v, func(key string, v Value) (Value, bool) { return v, key != "details" })
				}
				return v, true
			})
		}
	}
	return params
}

func (d Dialect) frozenConnect(params Value) Value {
	as := ownClients[d.ClientID].as
	switch name := d.ClientID; {
	case d.Version != Version1:
		if as == "" {
			return params
		}
	case name != "" && name == strings.TrimSpace(name) && len(name) <= maxClientID && utf8.ValidString(name):
		as = "node-host"
	default:
		as = name // which the schema refuses
	}
	return edit(params, func(key string, v Value) (Value, bool) {
		switch {
		case v.Kind() != Object:
		case key == "client":
			return d.frozenClient(v, as), true
		case key == "device" && d.Unchallenged():
			if nonce, _ := v.Get("nonce"); nonce.Kind() == Undefined || nonce.Kind() == String && nonce.Str() == "" {
				return set(v, "nonce", absentNonce), true
			}
		}
		return v, true
	})
}

// absentNonce stands for the nonce of who signs without one.
const absentNonce = "-"

// Nonce is a nonce as the client sent it, read from what Frozen returned.
func (d Dialect) Nonce(frozen string) string {
	if d.Unchallenged() && frozen == absentNonce {
		return ""
	}
	return frozen
}

func (d Dialect) frozenClient(client Value, as string) Value {
	if as != d.ClientID {
		client = set(client, "id", as)
	}
	if _, said := client.Get("platform"); !said && d.ClientID == migrateClient {
		client = set(client, "platform", "unknown")
	}
	if d.Version != Version1 {
		return client
	}
	if v, _ := client.Get("version"); v.Kind() == Undefined || v.Kind() == String && v.Str() == "" {
		client = set(client, "version", "0")
	}
	return edit(client, func(key string, v Value) (Value, bool) {
		return v, key != "displayName" || v.Kind() != String || v.Str() != ""
	})
}

// ClientVersion is client.version of a connect as it was sent.
func (d Dialect) ClientVersion(params Value) string {
	client, _ := params.Get("client")
	v, _ := client.Get("version")
	return v.Str()
}

// InstanceID is the instance that a client may name itself by: nodes of version 1 go by their client.id alone, which is
// what they put into their answers.
func (d Dialect) InstanceID(sent string) string {
	if d.Version == Version1 {
		return ""
	}
	return sent
}

// BareHello says that hello-ok must come as a message of its own as well, outside of the answer to connect.
func (d Dialect) BareHello() bool { return d.Version == Version1 }

// InvokeParams is paramsJSON of a request to a node, for params that may be nil. Nodes of version 1 read a string and
// nothing else.
func (d Dialect) InvokeParams(params []byte) []byte {
	if params == nil && d.Version == Version1 {
		return []byte("{}")
	}
	return params
}

// CanvasMarker is what stands before a capability in the canvas URLs that the client knows.
func (d Dialect) CanvasMarker() string {
	if d.own {
		return "/__bot__/cap/"
	}
	return "/__openclaw__/cap/"
}

// Script says that the client is the script that moves sessions. It sends the Origin of Hanzo's web app.
func (d Dialect) Script() bool { return d.ClientID == migrateClient }

// OwnOrigin says that the client sends the gateway's own address as its Origin, though no web page is behind it.
func (d Dialect) OwnOrigin() bool { return d.own && strings.HasSuffix(d.ClientID, "-android") }

// Unchallenged says that the client may sign without the nonce of the challenge (protocol.md §4.5, v1).
func (d Dialect) Unchallenged() bool { return d.own }

// edit returns an object with its members changed or left out.
func edit(object Value, f func(key string, v Value) (Value, bool)) Value {
	out := []byte{'{'}
	for k, v := range object.Members() {
		if v, keep := f(k, v); keep {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = AppendStringify(append(AppendString(out, k), ':'), v)
		}
	}
	v, err := Parse(append(out, '}'))
	if err != nil {
		return object // it was JSON before
	}
	return v
}

// set returns an object with a member that is this text.
func set(object Value, key, text string) Value {
	value := MustParse(string(AppendString(nil, text)))
	found := false
	out := edit(object, func(k string, v Value) (Value, bool) {
		if k == key {
			found = true
			return value, true
		}
		return v, true
	})
	if found {
		return out
	}
	raw := Stringify(out)
	raw = append(raw[:len(raw)-1], ',')
	if out.Len() == 0 {
		raw = raw[:1]
	}
	added, err := Parse(append(AppendStringify(append(AppendString(raw, key), ':'), value), '}'))
	if err != nil {
		return object // it was JSON before
	}
	return added
}
