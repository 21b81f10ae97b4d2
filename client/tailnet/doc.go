// Package tailnet reaches a daemon through a tailnet, and makes a program a machine of its own there.
//
// A daemon that runs with --tailnet asks the tailnet who is calling, so a client brings no token:
//
//	host, err := tailnet.Connect(ctx, tailnet.Options{Address: "tailnet://box"})
//	c, err := client.Dial(ctx, client.Options{Via: host})
//
// Being a machine of a tailnet by itself takes the build tag "tailnet", because of what it links. Builds
// without it go through the Tailscale service that is installed on the machine, and say so where there
// is none.
//
// It imports client, identity/tailnet and, with the tag, tailscale.com, and does nothing when it is
// linked. A Host and a Machine own the goroutines of their connections and end them in Close.
package tailnet
