package bindings

// most is the default limit of permits. Windows has no small limit of its own.
func most() int { return maxPermits }
