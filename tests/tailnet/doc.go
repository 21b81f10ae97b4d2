// Package tailnet runs daemons and clients as machines of a tailnet, with the control server that
// comes with Tailscale's own tests, a relay and a STUN server, all on loopback. Its tests need the
// build tag "tailnet": make tailnet.
package tailnet
