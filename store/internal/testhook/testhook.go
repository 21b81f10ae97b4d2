// Package testhook lets store/storetest open a store that does not sync. It imports the standard
// library only and owns no goroutine.
package testhook

import "context"

type noSync struct{}

// WithoutSync marks the context: a store opened with it acknowledges before the data is on disk.
func WithoutSync(ctx context.Context) context.Context {
	return context.WithValue(ctx, noSync{}, true)
}

// NoSync reports whether the context is marked.
func NoSync(ctx context.Context) bool { return ctx.Value(noSync{}) != nil }
