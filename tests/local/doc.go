// Package local tries what programs of one machine do with the daemon of that machine: they find it, start
// it when it is down, and attach to it.
package local
