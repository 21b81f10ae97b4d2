//go:build !unix

package eager

import "errors"

const able = false

// Read is not for this system.
func Read(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
