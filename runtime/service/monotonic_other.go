//go:build !linux

package service

// monotonic has no meaning where systemd is not.
func monotonic() string { return "0" }
