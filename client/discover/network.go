package discover

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	port = 5353
	// maxMessage is the size of a message of multicast DNS (RFC 6762 §17), in bytes.
	maxMessage = 9000
	// maxWaiting bounds the messages that wait to be looked at; what comes beyond is lost, as any
	// datagram may be.
	maxWaiting = 64
	// maxInterfaces bounds the networks that are followed. Machines with hundreds of virtual ones exist.
	maxInterfaces = 32
	// maxAddresses bounds the addresses of one interface, or of one machine that answers.
	maxAddresses = 16
	// readPause keeps a socket that fails at once from taking a processor.
	readPause = 100 * time.Millisecond
	// sendTime bounds how long a message may wait for the system.
	sendTime = time.Second
)

var (
	group4 = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: port}
	group6 = &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: port}
)

// network is an interface as it was when it was looked at.
type network struct {
	net.Interface
	prefixes []netip.Prefix // with the addresses of this machine
}

// same says that nothing of an interface changed that others see.
func (n network) same(o network) bool {
	return n.Index == o.Index && n.Name == o.Name && slices.Equal(n.prefixes, o.prefixes)
}

// near says that an address is of a neighbour: who asks from further away is not answered (RFC 6762 §11).
func (n network) near(a netip.Addr) bool {
	return a.Is6() && a.IsLinkLocalUnicast() || slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Masked().Contains(a) })
}

// networks are the interfaces that are up, carry multicast and have an address.
func networks() ([]network, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []network
	for _, i := range all {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagMulticast == 0 || i.Flags&(net.FlagLoopback|net.FlagPointToPoint) != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away meanwhile
		}
		n := network{Interface: i}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && len(n.prefixes) < maxAddresses {
				n.prefixes = append(n.prefixes, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()))
			}
		}
		if len(n.prefixes) == 0 {
			continue
		}
		slices.SortFunc(n.prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		if out = append(out, n); len(out) == maxInterfaces {
			break
		}
	}
	return out, nil
}

// packet is a message with where it came from.
type packet struct {
	message
	from      netip.AddrPort
	index     int  // of the interface; 0 where the system does not tell
	multicast bool // it was sent to the group, as far as the system tells
}

// conn is the pair of sockets of this machine on the group. Its methods may be called at once.
type conn struct {
	v4 *ipv4.PacketConn
	v6 *ipv6.PacketConn
	in chan packet
	wg sync.WaitGroup
	// done is closed at the end.
	done chan struct{}

	mu     sync.Mutex // the interface that the next message leaves by is a state of the socket
	joined map[string]bool
}

// open takes part in the group. Other programs of this machine may do so at the same time.
func open() (*conn, error) {
	c := &conn{in: make(chan packet, maxWaiting), done: make(chan struct{}), joined: map[string]bool{}}
	u4, err4 := net.ListenUDP("udp4", group4)
	if err4 == nil {
		c.v4 = ipv4.NewPacketConn(u4)
		// Where the system cannot tell the interface, the address of who asks does.
		_ = c.v4.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true)
		_ = c.v4.SetMulticastTTL(255)
		_ = c.v4.SetMulticastLoopback(true) // other programs of this machine listen too
	}
	u6, err6 := net.ListenUDP("udp6", group6)
	if err6 == nil {
		c.v6 = ipv6.NewPacketConn(u6)
		_ = c.v6.SetControlMessage(ipv6.FlagInterface|ipv6.FlagDst, true)
		_ = c.v6.SetMulticastHopLimit(255)
		_ = c.v6.SetMulticastLoopback(true)
	}
	if err4 != nil && err6 != nil {
		return nil, errors.Join(err4, err6)
	}
	if c.v4 != nil {
		c.wg.Go(func() {
			c.read(func(b []byte) (int, int, bool, net.Addr, error) {
				n, cm, from, err := c.v4.ReadFrom(b)
				if cm == nil {
					return n, 0, true, from, err
				}
				return n, cm.IfIndex, cm.Dst == nil || cm.Dst.IsMulticast(), from, err
			})
		})
	}
	if c.v6 != nil {
		c.wg.Go(func() {
			c.read(func(b []byte) (int, int, bool, net.Addr, error) {
				n, cm, from, err := c.v6.ReadFrom(b)
				if cm == nil {
					return n, 0, true, from, err
				}
				return n, cm.IfIndex, cm.Dst == nil || cm.Dst.IsMulticast(), from, err
			})
		})
	}
	return c, nil
}

// close ends both sockets and waits for their readers.
func (c *conn) close() {
	close(c.done)
	if c.v4 != nil {
		_ = c.v4.Close() // nothing is lost: there is no answer to wait for
	}
	if c.v6 != nil {
		_ = c.v6.Close()
	}
	c.wg.Wait()
}

func (c *conn) read(from func([]byte) (n, index int, multicast bool, addr net.Addr, err error)) {
	buf := make([]byte, maxMessage)
	for {
		n, index, multicast, addr, err := from(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		udp, ok := addr.(*net.UDPAddr)
		if err != nil || !ok {
			select {
			case <-c.done:
			case <-time.After(readPause):
			}
			continue
		}
		m, ok := parse(buf[:n])
		if !ok {
			continue
		}
		at := udp.AddrPort()
		select {
		case c.in <- packet{m, netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port()), index, multicast}:
		default:
		}
	}
}

// join lets the system deliver what is sent to the group on an interface. What was joined and is there
// still stays joined; an interface that went away and came back is another one.
func (c *conn) join(all []network) {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]bool{}
	for _, n := range all {
		key := n.Name + "/" + strconv.Itoa(n.Index)
		if seen[key] = true; c.joined[key] {
			continue
		}
		// It may be joined already, and may have no address of one version: both are no failure.
		if c.v4 != nil {
			_ = c.v4.JoinGroup(&n.Interface, group4)
		}
		if c.v6 != nil {
			_ = c.v6.JoinGroup(&n.Interface, group6)
		}
	}
	c.joined = seen
}

// multicast sends a message to everybody on an interface, over both versions that it has.
func (c *conn) multicast(b []byte, n network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err4, err6 error
	sent := false
	at := time.Now().Add(sendTime)
	if c.v4 != nil && slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Addr().Is4() }) {
		if err4 = c.v4.SetMulticastInterface(&n.Interface); err4 == nil {
			_ = c.v4.SetWriteDeadline(at)
			_, err4 = c.v4.WriteTo(b, nil, group4)
		}
		sent = sent || err4 == nil
	}
	if c.v6 != nil && slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err6 = c.v6.SetMulticastInterface(&n.Interface); err6 == nil {
			_ = c.v6.SetWriteDeadline(at)
			_, err6 = c.v6.WriteTo(b, nil, group6)
		}
		sent = sent || err6 == nil
	}
	if sent {
		return nil
	}
	return errors.Join(err4, err6)
}

// unicast answers one neighbour.
func (c *conn) unicast(b []byte, n network, to netip.AddrPort) {
	addr := net.UDPAddrFromAddrPort(to)
	at := time.Now().Add(sendTime)
	// Who asks and does not hear asks again.
	switch {
	case to.Addr().Is4() && c.v4 != nil:
		_ = c.v4.SetWriteDeadline(at)
		_, _ = c.v4.WriteTo(b, nil, addr)
	case to.Addr().Is6() && c.v6 != nil:
		addr.Zone = n.Name
		_ = c.v6.SetWriteDeadline(at)
		_, _ = c.v6.WriteTo(b, nil, addr)
	}
}

// where is the network of a packet, if it is one of those given and the sender is a neighbour there.
func where(p packet, all []network) (network, bool) {
	for _, n := range all {
		if (p.index == n.Index || p.index == 0) && n.near(p.from.Addr()) {
			return n, true
		}
	}
	return network{}, false
}
