package tech

import (
	"context"

	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// service serves a channel for the service manager.
func (c *served) service(ctx context.Context) error {
	return c.each(ctx, func(context.Context, message.Message) error { return ErrMessage })
}
