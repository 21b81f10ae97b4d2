package runtime

import "github.com/hanzoai/hanzod/store"

// Store is the state of the daemon, for tests of what happens around a disk that hangs.
func (d *Daemon) Store() *store.Store { return d.store }
