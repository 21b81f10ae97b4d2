//go:build !linux && !windows

package tech

import "context"

func openServices(context.Context, string) (services, error) { return nil, notHere() }
