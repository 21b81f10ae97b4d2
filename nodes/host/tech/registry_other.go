//go:build !windows

package tech

import "github.com/hanzoai/hanzod/tunnel/tech/message"

func callRegistry(message.RegistryCall) (message.RegistryResult, error) {
	return message.RegistryResult{}, notHere()
}
