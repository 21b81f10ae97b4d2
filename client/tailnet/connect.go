package tailnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/identity/tailnet"
)

// Scheme is that of the addresses of daemons on a tailnet.
const Scheme = "tailnet"

// DefaultPort is the TCP port of the gRPC door on a tailnet.
const DefaultPort = 18790

const (
	// greetTime is how long the machine that was reached may take to speak HTTP/2. A server of another
	// kind waits for its client.
	greetTime = 5 * time.Second
	// dialTime bounds one connection through the tailnet: the first one to a machine may have to find a
	// way through firewalls.
	dialTime = 20 * time.Second
)

// Codes of errors of this package; they are *client.Error.
const (
	// CodeNoService says that this machine is in no tailnet, and this build can make it none.
	CodeNoService = "client.tailnet_no_service"
	// CodeNoPeer says that the tailnet has no such machine.
	CodeNoPeer = "client.tailnet_no_peer"
	// CodeOther says that the machine serves something else there.
	CodeOther = "client.tailnet_other"
	// CodeLogin says that nobody let this machine into the tailnet in time.
	CodeLogin = "client.tailnet_login"
	// CodeBusy says that another program uses the state of this machine in the tailnet.
	CodeBusy = "client.tailnet_busy"
)

// Options say which daemon to reach, and how.
type Options struct {
	// Address is tailnet://host[:port] or host[:port]. The host is a name of the tailnet, short or full, or
	// an address of it.
	Address string
	// Progress is told what happens, a line each, in the goroutine of Connect; nil tells nobody. A login
	// address that somebody has to open in a browser comes here too.
	Progress func(line string)
	// Socket is where the Tailscale service of this machine answers, "" for where it is on this system.
	Socket string
	// Own is the machine that a build with the tag makes where there is no service that is logged in:
	// hanzoctl keeps it in ~/.hanzo/hanzoctl/tailnet. A StateDir that is empty goes without. A name, key and
	// control server that are empty are hanzoctl- and the host name, HANZOD_TS_AUTHKEY or TS_AUTHKEY, and
	// HANZOD_TS_CONTROL_URL.
	Own MachineOptions
}

// Host is a daemon on the tailnet. It is a client.Way and safe for concurrent use.
type Host struct {
	host  string
	port  uint16
	net   network
	route string
}

// network is a way into a tailnet.
type network interface {
	Status(ctx context.Context) (tailnet.Status, error)
	Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error)
	Close() error
}

type service struct{ *tailnet.Client }

func (service) Close() error { return nil }

// ParseAddress reads tailnet://host[:port] or host[:port]. The port is DefaultPort when there is none.
func ParseAddress(address string) (host string, port uint16, err error) {
	rest := address
	if scheme, after, ok := strings.Cut(address, "://"); ok {
		if scheme != Scheme {
			return "", 0, fmt.Errorf("%q is no address of a machine on a tailnet; write %s://host or %s://host:port", address, Scheme, Scheme)
		}
		rest = after
	}
	bad := fmt.Errorf("%q is no address of a machine on a tailnet; write %s://host or %s://host:port", address, Scheme, Scheme)
	if a, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		if a.Zone() != "" {
			return "", 0, bad
		}
		return a.Unmap().String(), DefaultPort, nil
	}
	u, err := url.Parse(Scheme + "://" + rest)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return "", 0, bad
	}
	host, port = strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")), DefaultPort
	if text := u.Port(); text != "" || strings.HasSuffix(u.Host, ":") {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return "", 0, bad
		}
		port = uint16(n)
	}
	if host == "" || strings.HasPrefix(host, ".") || strings.HasSuffix(host, ".") || strings.Contains(host, "..") || strings.ContainsAny(host, " \t/\\@%") {
		return "", 0, bad
	}
	return host, port, nil
}

// Connect finds a way into the tailnet: through the Tailscale service of this machine when that is
// logged in, else, in builds with the tag, by a machine of its own. It does not connect to the daemon
// yet. Its errors are *client.Error, or of ctx. The caller closes the Host, or gives it to
// client.Dial, whose client does.
func Connect(ctx context.Context, o Options) (*Host, error) {
	host, port, err := ParseAddress(o.Address)
	if err != nil {
		return nil, &client.Error{Class: client.Invalid, Message: err.Error(), Err: err}
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	h := &Host{host: host, port: port}
	installed := tailnet.New(o.Socket, time.Now)
	st, err := installed.Status(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil && st.Running():
		h.net, h.route = service{installed}, "through the Tailscale service of this machine"
		return h, nil
	}
	why := "no Tailscale service answers on this machine"
	switch {
	case err == nil:
		why = "the Tailscale service of this machine is not connected (" + st.State + "); run \"tailscale up\""
	case errors.Is(err, os.ErrPermission):
		why = "the Tailscale service of this machine does not answer this user"
	}
	own, err := join(ctx, o, why)
	if err != nil {
		return nil, err
	}
	h.net, h.route = own, "by a machine of its own on the tailnet"
	return h, nil
}

// Other returns another daemon by the same way into the tailnet. Closing either of them closes the way.
func (h *Host) Other(address string) (*Host, error) {
	host, port, err := ParseAddress(address)
	if err != nil {
		return nil, &client.Error{Class: client.Invalid, Message: err.Error(), Err: err}
	}
	return &Host{host: host, port: port, net: h.net, route: h.route}, nil
}

// Target implements client.Way.
func (h *Host) Target() string {
	if h.port == DefaultPort {
		if strings.Contains(h.host, ":") {
			return Scheme + "://[" + h.host + "]"
		}
		return Scheme + "://" + h.host
	}
	return Scheme + "://" + net.JoinHostPort(h.host, strconv.Itoa(int(h.port)))
}

// Route says for people how the daemon is reached.
func (h *Host) Route() string { return h.route }

// Close implements client.Way.
func (h *Host) Close() error { return h.net.Close() }

// Dial implements client.Way: it connects to the gRPC door of the daemon. WireGuard encrypts, and only
// the machine that the tailnet has under that name or address can answer; what speaks something else
// than HTTP/2 there is told apart.
func (h *Host) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := h.DialPort(ctx, int(h.port))
	if err != nil {
		return nil, err
	}
	out, err := h.greeted(ctx, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return out, nil
}

// DialPort connects to a TCP port of the machine, through the tailnet or not at all.
func (h *Host) DialPort(ctx context.Context, port int) (net.Conn, error) {
	if port < 1 || port > 65535 {
		return nil, &client.Error{Class: client.Invalid, Message: fmt.Sprintf("%d is no TCP port", port)}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	st, err := h.net.Status(ctx)
	if err != nil {
		return nil, err
	}
	peer, err := st.Find(h.host)
	if err != nil || len(peer.Addrs) == 0 {
		return nil, &client.Error{
			Code: CodeNoPeer, Class: client.NotFound,
			Message: "no machine of the tailnet is called " + h.host + " or has that address; \"tailscale status\" lists those that this machine may see",
		}
	}
	for _, a := range peer.Addrs {
		var conn net.Conn
		if conn, err = h.net.Dial(ctx, netip.AddrPortFrom(a, uint16(port))); err == nil {
			return conn, nil
		}
	}
	if !peer.Online {
		err = fmt.Errorf("%s seems to be offline: %w", h.host, err)
	}
	return nil, err
}

// settings is the type of the frame that a server of HTTP/2 begins with.
const settings = 4

// greeted waits for the first frame of the server: gRPC needs it anyway, and a port that speaks TLS
// or something else never sends one.
func (h *Host) greeted(ctx context.Context, conn net.Conn) (net.Conn, error) {
	limit := time.Now().Add(greetTime)
	if at, ok := ctx.Deadline(); ok && at.Before(limit) {
		limit = at
	}
	_ = conn.SetReadDeadline(limit)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	head := make([]byte, 9)
	if _, err := io.ReadFull(conn, head); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
			return nil, h.other()
		}
		return nil, fmt.Errorf("the connection to %s ended before it was answered: %w", h.Target(), err)
	}
	if head[3] != settings {
		return nil, h.other()
	}
	if !stop() {
		return nil, ctx.Err()
	}
	_ = conn.SetReadDeadline(time.Time{})
	return &begun{Conn: conn, first: bytes.NewReader(head)}, nil
}

func (h *Host) other() error {
	return &client.Error{
		Code: CodeOther, Class: client.Unavailable,
		Message: fmt.Sprintf("what listens at %s is no daemon that runs with --tailnet; one that listens on the tailnet with TLS (\"hanzod run --bind tailnet\") is hanzod://%s",
			h.Target(), net.JoinHostPort(h.host, strconv.Itoa(int(h.port)))),
	}
}

// begun is a connection of which the first bytes were read already.
type begun struct {
	net.Conn
	first *bytes.Reader
}

func (b *begun) Read(p []byte) (int, error) {
	if b.first.Len() > 0 {
		return b.first.Read(p)
	}
	return b.Conn.Read(p)
}
