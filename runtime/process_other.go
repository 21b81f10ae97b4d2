//go:build !linux

package runtime

// residentSize is 0: nobody says here.
func residentSize() uint64 { return 0 }

// openDescriptors is 0: nobody says here.
func openDescriptors() int { return 0 }
