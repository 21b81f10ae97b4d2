package bindings

import (
	"context"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// The modes of bindings of tunnels (tunnel.md §4.3).
const (
	ModeExpose = "expose"
	ModePull   = "pull"
)

// Access says who may visit a binding.
type Access string

// The policies.
const (
	// Public lets everybody in who reaches the address.
	Public Access = "public"
	// Token lets those in who show the secret of the binding.
	Token Access = "token"
	// Operator lets operators of this gateway in who may read.
	Operator Access = "operator"
)

// The limits of bindings of tunnels (tunnel.md §4.10).
const (
	// MaxPerTunnel bounds the bindings of one tunnel, MaxOfTunnels those of all tunnels.
	MaxPerTunnel = 32
	MaxOfTunnels = 256
)

// The errors of Bind. Code has their words on the wire.
var (
	ErrAlreadyBound = errs.Define(errs.Exists, "bindings.already_bound", "another tunnel exposes on that port; ask with takeover, or for another port")
	ErrPortInUse    = errs.Define(errs.Exists, "bindings.port_in_use", "something else listens on that port; ask for another one, or for 0")
	ErrReservedPort = errs.Define(errs.Denied, "bindings.reserved_port", "that port is not given to tunnels; ask for another one, or for 0")
	ErrPrivileged   = errs.Define(errs.Denied, "bindings.privileged_port", "ports below 1024 are not given to tunnels unless the configuration says so; ask for another one, or for 0")
	ErrInvalidHost  = errs.Define(errs.Invalid, "bindings.invalid_host", "a port to pull from listens on 127.0.0.1 or ::1")
	ErrInvalidKind  = errs.Define(errs.Invalid, "bindings.invalid_kind", "tunnels bind http or tcp with expose, and tcp with pull and without takeover")
	ErrBindCap      = errs.Define(errs.Exhausted, "bindings.bind_cap", "no more bindings are possible now; end some")
	ErrAccess       = errs.Define(errs.Invalid, "bindings.access", "access is public, token or operator; a token has 16 to 256 printable characters without spaces")
)

// Code is the word of BIND_ERR for an error of Bind (tunnel.md §4.5).
func Code(err error) string {
	e, _ := errs.As(err)
	if e == nil {
		return wire.Internal
	}
	switch e.Code {
	case ErrAlreadyBound.Code, ErrTaken.Code:
		return wire.AlreadyBound
	case ErrPortInUse.Code:
		return wire.PortInUse
	case ErrReservedPort.Code:
		return wire.ReservedPort
	case ErrPrivileged.Code:
		return wire.PrivilegedPort
	case ErrInvalidHost.Code:
		return wire.InvalidHost
	case ErrInvalidKind.Code, ErrAccess.Code, ErrSubdomain.Code:
		return wire.InvalidKind
	case ErrBindCap.Code:
		return wire.BindCapExceeded
	}
	return wire.Internal
}

// BindIn and BindOut are the arguments and the result of Bind.
type (
	BindIn struct {
		// TunnelID names the tunnel, BindID the binding there.
		TunnelID string
		BindID   int
		// Kind is KindHTTP or KindTCP, Mode is ModeExpose or ModePull.
		Kind string
		Mode string
		// Port is where visitors come to, 0 for any.
		Port int
		// Host is 127.0.0.1 or ::1 for ModePull; empty is the former.
		Host string
		// Label is the name that people give it.
		Label string
		// Takeover takes the port of another tunnel of the same tenant with ModeExpose.
		Takeover bool
		// Subdomain puts an http binding below the address of the daemon, or on a host name, too.
		Subdomain string
		// Access is Public when it is empty. Secret is the token of Token, made when it is empty.
		Access Access
		Secret string
		// Upstream takes the visitors. Raw is asked once.
		Upstream Upstream
		// Revoked is told once when the binding has ended by a takeover or by an operator. It must not block, and
		// not call the service.
		Revoked func(reason string)
	}
	BindOut struct {
		Binding Binding
		// Port is the real one.
		Port int
		// PublicURL is empty where no pattern is configured.
		PublicURL string
		// Secret is the token to visit with. It is a secret, and nothing keeps it.
		Secret string
	}
)

// Bind makes a binding of a tunnel (tunnel.md §4.5). Errors have a Code.
func (s *Service) Bind(_ context.Context, _ identity.Caller, _ BindIn) (BindOut, error) {
	return BindOut{}, ErrInvalidKind
}

// Unbind ends a binding of a tunnel with all its streams: ErrUnknown when there is none.
func (s *Service) Unbind(_ string, _ int) error { return ErrUnknown }

// Park notes that a tunnel has lost its carrier: its ports stay, and visitors are told to come again (tunnel.md
// §4.8).
func (s *Service) Park(_ string) {}

// Resume notes that a parked tunnel is back, with another upstream for each binding.
func (s *Service) Resume(_ string, _ func(bindID int) Upstream) {}

// End ends all bindings of a tunnel.
func (s *Service) End(_ string) {}

// OfTunnel returns the bindings of a tunnel by BindID.
func (s *Service) OfTunnel(_ string) []Binding { return nil }
