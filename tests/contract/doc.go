// Package contract replays recorded traffic of the original gateway against a
// real hanzod process and compares every answer with the recording.
//
// The package holds tests only: it builds ./cmd/hanzod once per run, starts one
// daemon per configuration in a fresh home, and drives it over the wire as any
// client would. It imports nothing of the module, so that it cannot share a
// mistake with the code under test.
//
// TestContract replays fixtures/gateway and guards fixtures/passed.txt,
// TestParity prints the parity checklist of fixtures/parity.yaml. How to run
// them, and which environment variables they read, is in fixtures/README.md.
//
// Goroutines: each connection owns its reader, each daemon the goroutine that
// waits for the process, and the replay a bounded number of workers. All are
// waited for before a test ends.
package contract
