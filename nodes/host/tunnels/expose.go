package tunnels

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/tunnel/driver"
)

// Exposure is a local service that a linked machine asks its server to expose (tunnel.md §1.12).
type Exposure struct {
	// Name is unique among those of the machine. Address is host:port.
	Name, Address string
	// Protocol is http, web_socket or tcp.
	Protocol string
}

// maxName bounds the name of an exposure, in bytes.
const maxName = 63

// ParseExposure reads NAME=PROTOCOL:HOST:PORT, in which HOST may be left out: NAME=http:8080.
func ParseExposure(text string) (Exposure, error) {
	name, rest, named := strings.Cut(text, "=")
	protocol, address, ok := strings.Cut(rest, ":")
	switch {
	case !named || !ok || name == "" || len(name) > maxName:
		return Exposure{}, fmt.Errorf("%q names no service: give NAME=http:HOST:PORT, NAME=web_socket:HOST:PORT or NAME=tcp:HOST:PORT", text)
	case protocol != "http" && protocol != "web_socket" && protocol != "tcp":
		return Exposure{}, fmt.Errorf("a service is exposed as http, web_socket or tcp, not as %q", protocol)
	}
	h, port, err := driver.SplitTarget(address)
	if err != nil {
		return Exposure{}, err
	}
	return Exposure{Name: name, Address: net.JoinHostPort(h, strconv.Itoa(port)), Protocol: protocol}, nil
}

// Linked implements host.Follower: it asks for the exposures of this node.
func (m *Module) Linked(emit func(event, payloadJSON string) error, _ <-chan struct{}) {
	if len(m.c.Exposed) == 0 {
		return
	}
	m.wg.Go(func() {
		for _, x := range m.c.Exposed {
			raw, _ := json.Marshal(struct {
				Name      string `json:"name"`
				LocalAddr string `json:"local_addr"`
				Protocol  string `json:"protocol"`
			}{x.Name, x.Address, x.Protocol}) // of texts
			if err := emit("expose.request", string(raw)); err != nil {
				m.c.Log.Warn("a service could not be exposed", "name", x.Name, "err", err)
				return
			}
			m.c.Log.Info("the server is asked to expose a service", "name", x.Name, "target", x.Address, "protocol", x.Protocol)
		}
	})
}
