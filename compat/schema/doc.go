// Package schema holds the frozen list of legacy methods and judges what clients send: request frames and the
// parameters of every method, in the words, the order and with the repeats removed that the original's validator
// used, because clients read those texts (protocol.md §2.3).
//
// The list is frozen.json: every method with role, scope and parameter schema in the original order, and the events
// of hello-ok. It is read on first use, each schema on the first call of its method; nothing happens at program
// start. The package imports compat/wire and the standard library, and starts no goroutines.
package schema
