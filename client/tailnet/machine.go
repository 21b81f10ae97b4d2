package tailnet

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// MachineOptions say which machine of a tailnet to be.
type MachineOptions struct {
	// StateDir is where the keys of the machine are; it is made with mode 0700. Whoever has them is the
	// machine. One program may use it at a time.
	StateDir string
	// Name is what the machine asks to be called.
	Name string
	// AuthKey lets the machine in at its first start; later it is not used. Without one somebody has to
	// open the login address.
	AuthKey string
	// ControlURL is the control server, "" for Tailscale's own.
	ControlURL string
	// Tags are what the machine asks to be tagged with.
	Tags []string
	// Ephemeral machines are forgotten by the tailnet soon after they are gone.
	Ephemeral bool
	// Log gets what the network code says, at level debug and without keys; nil drops it.
	Log *slog.Logger
	// Login is told the address that somebody has to open to let the machine in: each one once, from a
	// goroutine of Join.
	Login func(url string)
	// Wait bounds how long Join waits for the machine to be let in and connected, 0 for as long as its
	// context.
	Wait time.Duration
}

// Identity is who the tailnet says is at an address.
type Identity struct {
	// Login is the user whose machine it is, "" for a machine with tags, which belongs to nobody.
	Login string
	// Groups are those of the user that the control server tells of.
	Groups []string
	// Tags are the tags of the machine, with "tag:" in front.
	Tags []string
	// Machine is the full name of the machine, and ID what the tailnet knows it by for good.
	Machine, ID string
}

// Machine is a machine of a tailnet. Join makes it. Its methods may be called concurrently.
type Machine interface {
	// Listen opens a TCP port that only the tailnet reaches.
	Listen(port int) (net.Listener, error)
	// WhoIs says who is at the other end of a connection from that address. It asks what the tailnet says
	// now: an error means that nobody it knows of is there.
	WhoIs(ctx context.Context, from netip.AddrPort) (Identity, error)
	// Members are who has the machines of the tailnet, this one's included, as far as this one may know.
	// Somebody with several machines is there several times.
	Members(ctx context.Context) ([]Identity, error)
	// Addrs are the addresses of the machine, and Name its full name, at the moment.
	Addrs() []netip.Addr
	Name() string
	network
}
