package tech

import (
	"context"

	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// terminal serves a channel for commands and for one terminal.
func (c *served) terminal(ctx context.Context) error {
	return c.each(ctx, func(context.Context, message.Message) error { return ErrMessage })
}
