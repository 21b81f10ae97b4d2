package peer

import "context"

type provedKey struct{}

// WithProved returns a context for the requests of a connection whose client is a stranger until one
// of them calls Proved. f may be called more than once.
func WithProved(ctx context.Context, f func()) context.Context {
	return context.WithValue(ctx, provedKey{}, f)
}

// Proved says that the client of a request has proved that it may make it: its connection is no
// stranger's any more, and may last. ctx is that of the request.
func Proved(ctx context.Context) {
	if f, ok := ctx.Value(provedKey{}).(func()); ok {
		f()
	}
}

// Prover returns a function that says what Proved says, for who does not keep the request. It is nil
// where nobody wants to know.
func Prover(ctx context.Context) func() {
	f, _ := ctx.Value(provedKey{}).(func())
	return f
}
