//go:build !linux

package service

import (
	"context"
	"log/slog"
)

// Reap has nothing to do here: hanzod is never the first process.
func Reap(context.Context, *slog.Logger) {}
