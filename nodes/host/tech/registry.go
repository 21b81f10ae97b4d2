package tech

import (
	"context"

	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// registry serves a channel for the registry of Windows.
func (c *served) registry(ctx context.Context) error {
	return c.each(ctx, func(context.Context, message.Message) error { return ErrMessage })
}
