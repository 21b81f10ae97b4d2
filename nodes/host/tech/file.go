package tech

import (
	"context"

	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// file serves a channel for files.
func (c *served) file(ctx context.Context) error {
	return c.each(ctx, func(context.Context, message.Message) error { return ErrMessage })
}
