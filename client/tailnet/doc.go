// Package tailnet makes a program a machine of its own on a tailnet, the daemon to be reached there and
// hanzoctl to reach it. It is part of builds with the tag tailnet.
package tailnet
