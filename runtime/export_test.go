package runtime

// Announce looks after the discovery files, as the daemon does from time to time.
func (d *Daemon) Announce() { d.announce() }
