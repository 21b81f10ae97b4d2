// Package interop drives hanzod with programs that are not of this project: the command line and the
// node host of the npm package openclaw, the closest published relative of the original gateway. And
// the other way round: hanzod's node host and Go client against the gateway in that package. The
// package is a black box here: it is run, never read. TestSameAnswers asks both gateways the same in
// thousands of ways and demands the same answers; where they may differ, and why, stands in its
// table.
//
// The TestControlUI tests open the web page of that package in a headless Chromium: every tab beside its
// own gateway's, what an operator does by clicking, what must be refused, and the time to the first live
// data. INTEROP_SHOTS names the directory that keeps pictures; INTEROP_TIME=1 demands the bars of times.
//
// `make interop` runs it, and needs npm and, the first time, its registry. What npm installs is kept
// in the user's cache directory (os.UserCacheDir, below hanzod/interop); removing that folder
// is all it takes to start over. In a plain `go test` everything here is skipped.
//
// Tests that fail show what the client printed and what the daemons logged.
package interop
