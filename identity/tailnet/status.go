package tailnet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// maxStatus bounds the list of the machines of a tailnet, about a kilobyte each.
	maxStatus = 32 << 20
	// statusTimeout bounds how long the list may take; that of a large tailnet has megabytes.
	statusTimeout = 10 * time.Second
	// running is the state of a service that is logged in and connected.
	running = "Running"
)

// Peer is a machine of a tailnet.
type Peer struct {
	// Name is the full name that the tailnet has given to it, in lower case and without the last dot:
	// box.tail1.ts.net. What a machine calls itself is not looked at.
	Name string
	// Addrs are its addresses.
	Addrs []netip.Addr
	// Online says that it is connected to the tailnet, as far as is known.
	Online bool
}

// Status is what the service knows of its tailnet.
type Status struct {
	// State is Running when this machine is in the tailnet.
	State string
	// Suffix is what the full names of the machines of this tailnet end in, without a dot in front.
	Suffix string
	Self   Peer
	Peers  []Peer
}

// Running reports whether this machine is in the tailnet.
func (s Status) Running() bool { return s.State == running }

// ErrNoPeer says that no machine of the tailnet has a name or an address.
var ErrNoPeer = errors.New("no machine of the tailnet has that name or address")

// Find returns the machine with the name or address, this one included. A name is the full one, or
// its first part for a machine of this tailnet; what machines call themselves is nothing to go by. Its
// error is ErrNoPeer.
func (s Status) Find(host string) (Peer, error) {
	all := append([]Peer{s.Self}, s.Peers...)
	if a, err := netip.ParseAddr(host); err == nil {
		for _, p := range all {
			for _, b := range p.Addrs {
				if a.Unmap() == b {
					return p, nil
				}
			}
		}
		return Peer{}, ErrNoPeer
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if !strings.Contains(name, ".") && s.Suffix != "" {
		name += "." + s.Suffix
	}
	for _, p := range all {
		if name != "" && p.Name == name {
			return p, nil
		}
	}
	return Peer{}, ErrNoPeer
}

// Contains reports whether an address is one that tailnets use. It says nothing of whose it is.
func Contains(a netip.Addr) bool { return inTailnet(a.Unmap()) }

// Status asks for the machines of the tailnet. It fails where there is no service, or one that says
// nothing.
func (c *Client) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://local-tailscaled.sock/localapi/v0/status", nil)
	if err != nil {
		return Status{}, err
	}
	slow := *c.http
	slow.Timeout = statusTimeout
	resp, err := slow.Do(req)
	if err != nil {
		return Status{}, fmt.Errorf("ask the Tailscale service of this machine: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return Status{}, fmt.Errorf("the Tailscale service answers %s", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxStatus+1))
	switch {
	case err != nil:
		return Status{}, fmt.Errorf("read the answer of the Tailscale service: %w", err)
	case len(body) > maxStatus:
		return Status{}, errors.New("the answer of the Tailscale service is too long")
	}
	return parseStatus(body)
}

type peerStatus struct {
	DNSName      string
	TailscaleIPs []netip.Addr
	Online       bool
}

func (p *peerStatus) peer() Peer {
	if p == nil {
		return Peer{}
	}
	out := Peer{Name: strings.ToLower(strings.TrimSuffix(p.DNSName, ".")), Online: p.Online}
	for _, a := range p.TailscaleIPs {
		if Contains(a) { // nothing else is reached through the tailnet for certain
			out.Addrs = append(out.Addrs, a.Unmap())
		}
	}
	return out
}

func parseStatus(body []byte) (Status, error) {
	var in struct {
		BackendState   string
		Self           *peerStatus
		MagicDNSSuffix string
		CurrentTailnet *struct{ MagicDNSSuffix string }
		Peer           map[string]*peerStatus
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return Status{}, fmt.Errorf("read the answer of the Tailscale service: %w", err)
	}
	out := Status{State: in.BackendState, Suffix: in.MagicDNSSuffix, Self: in.Self.peer()}
	if in.CurrentTailnet != nil {
		out.Suffix = in.CurrentTailnet.MagicDNSSuffix
	}
	out.Suffix = strings.ToLower(strings.Trim(out.Suffix, "."))
	for _, p := range in.Peer {
		out.Peers = append(out.Peers, p.peer())
	}
	return out, nil
}

// Dial has the service connect to a TCP port of a machine of the tailnet: it goes through the tailnet
// or not at all, also where the addresses of the tailnet are none of this machine's system.
func (c *Client) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	if !Contains(to.Addr()) {
		return nil, fmt.Errorf("%s is no address of a tailnet", to.Addr())
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the Tailscale service of this machine: %w", err)
	}
	out, err := upgrade(ctx, conn, to)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return out, nil
}

// upgrade turns a connection to the service into one to a machine of the tailnet.
func upgrade(ctx context.Context, conn net.Conn, to netip.AddrPort) (net.Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	ask := "POST /localapi/v0/dial HTTP/1.1\r\nHost: local-tailscaled.sock\r\nUpgrade: ts-dial\r\nConnection: upgrade\r\n" +
		"Dial-Host: " + to.Addr().String() + "\r\nDial-Port: " + strconv.Itoa(int(to.Port())) + "\r\nContent-Length: 0\r\n\r\n"
	if _, err := io.WriteString(conn, ask); err != nil {
		return nil, fmt.Errorf("ask the Tailscale service of this machine: %w", cause(ctx, err))
	}
	br := bufio.NewReaderSize(conn, 4<<10)
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodPost})
	if err != nil {
		return nil, fmt.Errorf("read the answer of the Tailscale service: %w", cause(ctx, err))
	}
	defer func() { _ = resp.Body.Close() }() // an upgrade has none
	if resp.StatusCode != http.StatusSwitchingProtocols {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it only adds to the error
		if resp.StatusCode == http.StatusOK {
			why = []byte("the address is not reached through the tailnet")
		}
		return nil, fmt.Errorf("the Tailscale service does not connect to %s: %s", to, strings.TrimSpace(resp.Status+" "+string(why)))
	}
	if !stop() { // ctx ended, and the deadline is past
		return nil, cause(ctx, net.ErrClosed)
	}
	return &buffered{conn, br}, nil
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// buffered is a connection of which something was read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }
