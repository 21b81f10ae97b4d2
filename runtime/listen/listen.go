// Package listen opens the ways into the daemon: the local socket, whose peer credentials say who
// is calling, and the TCP port.
//
// It imports the standard library, gRPC's credentials and the system call packages, and owns no
// goroutine.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
)

// Limits of opening listeners.
const (
	// busyTries and busyWait are how often and how far apart a busy port is tried again: a
	// predecessor that is stopping gets two seconds (protocol.md §1.1).
	busyTries = 4
	busyWait  = 500 * time.Millisecond
	// probeWait is how long another daemon may take to accept on its socket before the socket
	// counts as alive but stuck.
	probeWait = time.Second
)

// PeerInfo is what the kernel says of the process at the other end of the local socket. gRPC hands
// it to interceptors as the AuthInfo of the peer.
type PeerInfo struct {
	// User is the user id in digits, on Windows the security identifier.
	User string
	// PID is the process, 0 where the system does not tell.
	PID int
	// Own says that the peer runs as the daemon's own user. Nobody else is served.
	Own bool
	// Principal is "local:" and User, made once per connection.
	Principal string

	conn *guarded // nil outside Watch
}

// Called says that the peer has made a call: its handshakes are done.
func (p PeerInfo) Called() { p.conn.proved() }

// Conn tells the connection of the peer from all others; nil outside Watch.
func (p PeerInfo) Conn() any { return p.conn.same() }

// AuthType names the kind of authentication.
func (PeerInfo) AuthType() string { return "peercred" }

func newPeerInfo(user string, pid int, own bool) PeerInfo {
	return PeerInfo{User: user, PID: pid, Own: own, Principal: "local:" + user}
}

// PeerCredentials returns transport credentials that take the caller's identity from the socket
// itself. They work on connections accepted from Unix only. A peer of another user completes the
// handshake, so that it can be told why each of its calls is refused: PeerInfo.Own is false for it.
func PeerCredentials() credentials.TransportCredentials { return peerCredentials{} }

type peerCredentials struct{}

// ServerHandshake reads the credentials of the peer. An error closes the connection.
func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	g, watched := c.(*guarded)
	socket := c
	if watched {
		socket = g.Conn
	}
	info, err := peer(socket)
	if err != nil {
		return nil, nil, fmt.Errorf("read the peer credentials of the local socket: %w", err)
	}
	if watched {
		info.conn = g
	}
	return c, info, nil
}

// ClientHandshake always fails: these credentials are for servers.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for the server side")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

func (peerCredentials) OverrideServerName(string) error { return nil }

// Use is what a port is for: for the error when another process has it.
type Use struct {
	Scheme  string // of addresses on it: "ws://"
	Setting string // what chooses another one: "--port or gateway.port"
}

// TCP listens on the port of each host. The first host must succeed; failure of a further one is
// logged as a warning (protocol.md §1.1: the ::1 alias). With port 0 the system chooses one port,
// which all hosts share. A busy port is tried again for two seconds. ctx ends the wait.
func TCP(ctx context.Context, hosts []string, port int, use Use, log *slog.Logger) ([]net.Listener, error) {
	if len(hosts) == 0 {
		return nil, errors.New("no address to listen on is given")
	}
	first, err := listenPatiently(ctx, hosts[0], port, use)
	if err != nil {
		return nil, err
	}
	out := []net.Listener{first}
	if a, ok := first.Addr().(*net.TCPAddr); ok {
		port = a.Port
	}
	var lc net.ListenConfig
	for _, host := range hosts[1:] {
		l, err := lc.Listen(ctx, network(host), address(host, port))
		if err != nil {
			log.WarnContext(ctx, "cannot listen on a further address", "address", address(host, port), "error", err)
			continue
		}
		out = append(out, l)
	}
	return out, nil
}

func listenPatiently(ctx context.Context, host string, port int, use Use) (net.Listener, error) {
	var lc net.ListenConfig
	for try := 0; ; try++ {
		l, err := lc.Listen(ctx, network(host), address(host, port))
		switch {
		case err == nil:
			return l, nil
		case !isBusy(err):
			return nil, fmt.Errorf("cannot listen on %s: %w", address(host, port), err)
		case try == busyTries:
			return nil, fmt.Errorf("another gateway instance is already listening on %s%s; stop it, or choose another port with %s: %w",
				use.Scheme, address(host, port), use.Setting, err)
		}
		wait := time.NewTimer(busyWait)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, ctx.Err()
		}
	}
}

// network keeps 0.0.0.0 from being every address of IPv6 too, which it is for "tcp".
func network(host string) string {
	if ip := net.ParseIP(host); ip != nil && ip.To4() != nil {
		return "tcp4"
	}
	return "tcp"
}

func address(host string, port int) string {
	return net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(port))
}
