// Package ssh reaches a daemon on another machine by SSH: whoever can log in there as the account that the
// daemon runs under needs no token. It is a client.Way.
//
// The client is in this process: it reads the user's own ssh_config and known_hosts, uses the agent and the
// key files, goes through jump hosts, and opens the daemon's socket there as a channel of the connection.
// Where a server forwards no sockets, it runs "hanzod connect --stdio" there instead. What it cannot do
// itself, such as ProxyCommand, Match exec and keys in hardware, it leaves to the user's ssh program, in the
// same way.
//
// It imports client, errs and x/crypto/ssh, and does nothing before Connect is called. A Host owns its
// connections with their goroutines, and the processes of the ssh program, and ends them in Close.
package ssh
