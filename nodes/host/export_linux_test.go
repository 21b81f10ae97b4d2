package host

// RunFolder is what the names of the folders of runs begin with.
func RunFolder() string { return runFolder() }
