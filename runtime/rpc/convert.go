package rpc

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/identity"
)

// nothing is the In of operations that take none.
func nothing[R any](R) (struct{}, error) { return struct{}{}, nil }

// without gives a domain method that takes no In the shape that call wants.
func without[Out any](do func(context.Context, identity.Caller) (Out, error)) func(context.Context, identity.Caller, struct{}) (Out, error) {
	return func(ctx context.Context, c identity.Caller, _ struct{}) (Out, error) { return do(ctx, c) }
}

// timeToProto leaves out the zero time.
func timeToProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// durationFromProto keeps absent and zero apart. A duration that Go cannot hold is an error.
func durationFromProto(d *durationpb.Duration) (*time.Duration, error) {
	if d == nil {
		return nil, nil
	}
	if err := d.CheckValid(); err != nil {
		return nil, errDuration.Wrap(err)
	}
	v := d.AsDuration()
	return &v, nil
}

// cleanText makes text carriable: protobuf refuses a message with text that is not UTF-8.
func cleanText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// cleanTexts and cleanOpt do the same for lists and for text that may be absent; cleanKeys for the
// keys of a map.
func cleanTexts[T ~string](in []T) []string {
	if in == nil {
		return nil
	}
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = cleanText(string(s))
	}
	return out
}

func cleanOpt(s *string) *string {
	if s == nil || utf8.ValidString(*s) {
		return s
	}
	clean := cleanText(*s)
	return &clean
}

func cleanKeys(in map[string]bool) map[string]bool {
	if in == nil {
		return nil
	}
	out := make(map[string]bool, len(in))
	for k, v := range in {
		out[cleanText(k)] = v
	}
	return out
}

// textToProto refuses text that protobuf could not carry, instead of changing it.
func textToProto(s *string) (*string, error) {
	if s != nil && !utf8.ValidString(*s) {
		return nil, errUTF8
	}
	return s, nil
}

// absentWhenEmpty is for plain proto3 strings, where empty and absent are one.
func absentWhenEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
