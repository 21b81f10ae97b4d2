package host

// BeforeSpawn is called when all checks but the last are done.
func (h *Host) BeforeSpawn(fn func()) { h.beforeSpawn = fn }
