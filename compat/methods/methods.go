// Package methods holds the codecs of the legacy door: for each method a struct of its parameters,
// a struct of its result, and the two functions between them and the domain. They are pure: they
// see neither store, clock nor connection, so there is nowhere to put a rule.
//
// Parameters were checked against the frozen schema before they come here. The package imports
// wire and the domains, and owns no goroutine.
package methods

import (
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
)

// ms is a time as Unix milliseconds.
func ms(t time.Time) int64 { return t.UnixMilli() }

// maybeMS is a time that may not have come.
func maybeMS(t time.Time) wire.Opt[int64] {
	if t.IsZero() {
		return wire.Opt[int64]{}
	}
	return wire.Some(ms(t))
}

// null writes a text or null.
func null(s *string) wire.Opt[string] { return wire.SomeOrNull(s) }

// ptr reads a text that may be absent or null.
func ptr(o wire.Opt[string]) *string {
	if s, ok := o.Get(); ok {
		return &s
	}
	return nil
}

// OK is the result {ok:true}.
type OK struct {
	OK bool `json:"ok"`
}
