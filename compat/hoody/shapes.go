package hoody

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/tunnel"
	"github.com/hanzoai/hanzod/tunnel/bindings"
	"github.com/hanzoai/hanzod/tunnel/tunnels"
	frames "github.com/hanzoai/hanzod/tunnel/wire"
)

// shape is one of the two forms of the answers (tunnel.md §4.2). Arrays of the seed are objects with arrays in the
// kit. Objects that are in both have the members of both, those of the shape that was asked for first and, where
// the two use a name differently, alone.
type shape bool

const (
	seed shape = false
	kit  shape = true
)

// What asks for the shape of the kit.
const (
	clientID   = "X-Hoody-Client-ID"
	clientName = "X-Hoody-Client-Name"
	kitType    = "application/vnd.hoody.kit+json"
)

// shapeOf finds the shape that a request asks for: the query says it, or who asks.
func shapeOf(r *http.Request) (shape, error) {
	switch v := r.URL.Query()["shape"]; {
	case len(v) == 0:
	case len(v) == 1 && v[0] == "kit":
		return kit, nil
	case len(v) == 1 && v[0] == "seed":
		return seed, nil
	default:
		return seed, errShape
	}
	if len(r.Header.Values(clientID)) > 0 || len(r.Header.Values(clientName)) > 0 {
		return kit, nil
	}
	for _, v := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(v, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), kitType) {
				return kit, nil
			}
		}
	}
	return seed, nil
}

// of returns the members of both shapes in the order of this one.
func (s shape) of(inSeed, inKit object) object {
	if s == kit {
		return inKit.and(inSeed)
	}
	return inSeed.and(inKit)
}

// object is a JSON object whose members stay in order.
type object []member

type member struct {
	name  string
	value any
}

// and adds the members of other that o has not.
func (o object) and(other object) object {
	out := append(make(object, 0, len(o)+len(other)), o...)
	for _, m := range other {
		if !o.has(m.name) {
			out = append(out, m)
		}
	}
	return out
}

func (o object) has(name string) bool {
	for i := range o {
		if o[i].name == name {
			return true
		}
	}
	return false
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	out := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			out = append(out, ',')
		}
		var err error
		if out, err = wire.AppendValue(out, m.name); err != nil {
			return nil, err
		}
		out = append(out, ':')
		if out, err = wire.AppendValue(out, m.value); err != nil {
			return nil, err
		}
	}
	return append(out, '}'), nil
}

// timestamp is a time as the seed writes it, null when nobody knows.
func timestamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// positive is null when nobody knows.
func positive[N int | uint64](n N) any {
	if n == 0 {
		return nil
	}
	return n
}

// healthOf has nine members in both shapes.
func healthOf(s shape, p tunnel.Process) object {
	status := "ready"
	switch {
	case !p.Ready:
		status = "closing"
	case s == kit:
		status = "ok"
	}
	var memory any = s.of(
		object{{"rss", positive(p.RSS)}, {"heapTotal", p.HeapTotal}, {"heapUsed", p.HeapUsed}},
		object{{"heap", p.HeapUsed}, {"rss", positive(p.RSS)}},
	)
	if s == kit && p.RSS == 0 {
		memory = nil
	}
	return object{
		{"status", status}, {"service", "hoody-tunnel"}, {"built", timestamp(p.Built)}, {"started", timestamp(p.Started)}, {"memory", memory},
		{"fds", positive(p.Descriptors)}, {"pid", p.PID}, {"ip", p.Address}, {"userAgent", "hoody-tunnel/" + p.Version},
	}
}

// bindingOf is a row of a binding. The seed says EXPOSE or PULL and the transport, the kit http or tcp and the
// mode; what the client dials is a PULL of the seed that goes outward (tunnel.md §4.3).
func bindingOf(s shape, b *tunnels.Binding) object {
	kind := "PULL"
	if b.Mode == bindings.ModeExpose {
		kind = "EXPOSE"
	}
	row := s.of(
		object{{"bind_id", fmt.Sprintf("bind_%s_%03d", b.Mode, b.ID)}, {"kind", kind}, {"port", b.Port}, {"mode", bindings.KindTCP}},
		object{{"bindId", b.ID}, {"kind", b.Kind}, {"mode", b.Mode}, {"containerPort", b.Port}},
	)
	if b.Mode == tunnel.ModeDial {
		row = append(row, member{"direction", "outbound"})
	}
	return row
}

func bindingRows(s shape, all []tunnels.Binding, want func(*tunnels.Binding) bool) []object {
	rows := []object{}
	for i := range all {
		if want(&all[i]) {
			rows = append(rows, bindingOf(s, &all[i]))
		}
	}
	return rows
}

func anyBinding(*tunnels.Binding) bool { return true }
func exposes(b *tunnels.Binding) bool  { return b.Mode == bindings.ModeExpose }
func pulls(b *tunnels.Binding) bool    { return b.Mode != bindings.ModeExpose }

// portRows are rows of the kit's lists of tunnels: which binding, and its port, come first.
func portRows(all []tunnels.Binding, want func(*tunnels.Binding) bool) []object {
	rows := []object{}
	for i := range all {
		if b := &all[i]; want(b) {
			rows = append(rows, object{{"bindId", b.ID}, {"containerPort", b.Port}}.and(bindingOf(kit, b)))
		}
	}
	return rows
}

func container(t *tunnels.Tunnel, daemon string) string {
	if t.NodeID != "" {
		return t.NodeID
	}
	return daemon
}

// beginning is what rows of tunnels and of sessions of the seed have in common.
func beginning(s shape, t *tunnels.Tunnel, daemon string) object {
	return object{
		{"session_id", t.ID}, {"container_id", container(t, daemon)}, {"protocol_version", t.Version}, {"created_at", timestamp(t.CreatedAt)},
		{"bindings", bindingRows(s, t.Bindings, anyBinding)}, {"stream_count", t.Streams},
	}
}

func orphans(t *tunnels.Tunnel) int {
	if t.Parked {
		return 1
	}
	return 0
}

// tunnelsOf is the list of tunnels.
func tunnelsOf(s shape, out tunnels.ListOut, daemon string) any {
	rows := make([]object, len(out.Tunnels))
	for i := range out.Tunnels {
		t := &out.Tunnels[i]
		rows[i] = s.of(
			append(beginning(s, t, daemon), object{
				{"orphan_count", orphans(t)}, {"fd_budget", object{{"used", t.Permits}, {"limit", t.PermitLimit}}},
			}...),
			object{
				{"sessionId", t.ID}, {"peerAddr", t.PeerAddr}, {"protocol", t.Version}, {"connectionsGranted", t.Granted}, {"activeStreams", t.Streams},
				{"exposeBindings", portRows(t.Bindings, exposes)}, {"pullBindings", portRows(t.Bindings, pulls)},
			},
		)
	}
	if s == seed {
		return rows
	}
	sum := tunnel.TotalsOf(out.Tunnels, out.Permits)
	return object{
		{"fdPermitsAvailable", max(0, out.Permits.Limit-out.Permits.Used)}, {"orphanedSessions", sum.Parked}, {"sessions", rows},
		{"totalBindings", sum.Bindings}, {"totalStreams", sum.Streams},
	}
}

// sessionsOf is the list of sessions.
func sessionsOf(s shape, out tunnels.ListOut, daemon string) any {
	rows := make([]object, len(out.Tunnels))
	for i := range out.Tunnels {
		t := &out.Tunnels[i]
		rows[i] = s.of(
			append(beginning(s, t, daemon), member{"max_streams", t.MaxStreams}),
			object{
				{"sessionId", t.ID}, {"peerAddr", t.PeerAddr}, {"isV2", t.Version == frames.V2}, {"connectionsGranted", t.Granted}, {"activeStreams", t.Streams},
				{"maxStreams", t.MaxStreams}, {"bindings", bindingRows(s, t.Bindings, anyBinding)},
			},
		)
	}
	if s == seed {
		return rows
	}
	return object{{"sessions", rows}, {"total", len(rows)}}
}

// bindingsOf is the list of bindings.
func bindingsOf(s shape, out tunnels.ListOut) any {
	rows := []object{}
	for i := range out.Tunnels {
		t := &out.Tunnels[i]
		for j := range t.Bindings {
			b := &t.Bindings[j]
			one := bindingOf(s, b)
			row := object{{"session_id", t.ID}}.and(one).and(object{{"sessionId", t.ID}})
			if s == kit {
				row = object{{"sessionId", t.ID}, {"bindId", b.ID}, {"kind", b.Kind}, {"mode", b.Mode}, {"port", b.Port}}
			}
			if b.Mode == bindings.ModePull {
				row = append(row, member{"bindAddr", b.Host})
			}
			rows = append(rows, row.and(one).and(object{{"session_id", t.ID}}))
		}
	}
	if s == seed {
		return rows
	}
	return object{{"bindings", rows}, {"total", len(rows)}}
}
