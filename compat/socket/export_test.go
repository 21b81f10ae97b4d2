package socket

import "net"

// ForTest makes an end of a connection whose handshake is over.
func ForTest(nc net.Conn, limit int, client bool) *Conn {
	c, err := newConn(nc, nc, Options{MaxMessage: limit}, client)
	if err != nil {
		panic(err)
	}
	return c
}
