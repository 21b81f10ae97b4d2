// Package tunnel is what can be done with nodes beyond commands: their files, for callers of all doors
// (tunnel.md §5).
//
// It imports leaves and its own sub-packages; nodes are reached through interfaces that runtime satisfies.
package tunnel
