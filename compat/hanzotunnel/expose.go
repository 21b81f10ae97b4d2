package hanzotunnel

import (
	"strings"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel/bindings"
)

// assigned and failed are the data of expose.assigned and expose.failed (tunnel.md §1.12). A ttl of 0 is for as long
// as the link stands.
type (
	assigned struct {
		Name     string `json:"name"`
		URL      string `json:"url"`
		TTL      int    `json:"ttl"`
		Protocol string `json:"protocol"`
	}
	failed struct {
		Name    string `json:"name"`
		Code    string `json:"code"`
		Message string `json:"message"`
	}
)

// expose takes expose.request and answers it.
func (c *conn) expose(data wire.Raw) {
	v, err := wire.Parse(data)
	text := func(name string) string { m, _ := v.Get(name); return m.Str() }
	in := bindings.CreateIn{
		Name: text("name"), LocalAddr: text("local_addr"), Protocol: bindings.Protocol(text("protocol")), Subdomain: text("subdomain"),
	}
	var out bindings.CreateOut
	if err == nil {
		out, err = c.door.cfg.Bindings.Create(c.ctx, c.caller, in)
	}
	if err != nil {
		_ = c.send(&Event{Event: "expose.failed", Data: wire.MustMarshal(failed{in.Name, codeOf(err), textOf(err)})}) // it has ended
		return
	}
	c.door.cfg.Log.Info("an instance exposes something", "node", c.caller.NodeID, "name", in.Name, "protocol", string(in.Protocol), "url", out.Binding.URL)
	answer := assigned{out.Binding.Name, out.Binding.URL, 0, string(out.Binding.Protocol)}
	_ = c.send(&Event{Event: "expose.assigned", Data: wire.MustMarshal(answer)}) // it has ended
}

// unexpose takes expose.stop.
func (c *conn) unexpose(data wire.Raw) {
	if v, err := wire.Parse(data); err == nil {
		name, _ := v.Get("name")
		c.door.cfg.Bindings.Stop(c.caller, name.Str())
	}
}

// codeOf is the code of an error without its domain.
func codeOf(err error) string {
	e, ok := errs.As(err)
	if !ok || e.Code == "" {
		return "invalid"
	}
	_, code, _ := strings.Cut(e.Code, ".")
	return code
}

// Exposed is what nodes show of bindings.
func Exposed(all []bindings.Binding) []nodes.Exposed {
	out := make([]nodes.Exposed, len(all))
	for i, b := range all {
		out[i] = nodes.Exposed{Name: b.Name, URL: b.URL}
	}
	return out
}
