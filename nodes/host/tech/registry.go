package tech

import (
	"context"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// maxKey bounds a key of the registry in bytes, maxValueName the name of a value.
const (
	maxKey       = 4 << 10
	maxValueName = 16 << 10
)

// registry serves a channel for the registry of Windows. Each request is answered, one after the other.
func (c *served) registry(ctx context.Context) error {
	return c.each(ctx, func(ctx context.Context, m message.Message) error {
		var p message.RegistryCall
		if m.Type != message.TypeRegistry {
			return ErrMessage
		}
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		switch p.Op {
		case "get", "list":
		case "set", "delete":
			if err := c.h.mayChange(); err != nil {
				return err
			}
		default:
			return errs.New(errs.Invalid, "op is get, set, delete or list")
		}
		if p.Key == "" || len(p.Key) > maxKey || len(p.Name) > maxValueName {
			return errs.New(errs.Invalid, "key is missing, or it or name is too long")
		}
		answer, err := callRegistry(p)
		if err != nil {
			return err
		}
		return c.send(ctx, message.TypeRegistryResult, answer, nil)
	})
}
