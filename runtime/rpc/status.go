package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/errs"
)

// ErrorDomain is the domain of the ErrorInfo that every error of hanzod carries. Its reason is the
// code of the error ("nodes.not_connected"), its metadata the facts of the occurrence as text.
const ErrorDomain = "hanzod"

// grpcCodes maps every class of error to its gRPC code.
var grpcCodes = [...]codes.Code{
	errs.Internal:        codes.Internal,
	errs.Invalid:         codes.InvalidArgument,
	errs.NotFound:        codes.NotFound,
	errs.Exists:          codes.AlreadyExists,
	errs.Conflict:        codes.FailedPrecondition,
	errs.Unauthenticated: codes.Unauthenticated,
	errs.Denied:          codes.PermissionDenied,
	errs.Exhausted:       codes.ResourceExhausted,
	errs.Unavailable:     codes.Unavailable,
	errs.Deadline:        codes.DeadlineExceeded,
	errs.Unknown:         codes.Unknown,
}

// The texts that stand for what the caller is not told.
const (
	internalText = "internal error; the log of the daemon says more"
	unknownText  = "; the outcome is unknown: look at the current state before you try again"
)

// Status maps an error of another door that speaks gRPC's statuses too; nil stays nil.
func Status(err error) *status.Status {
	st, _ := statusOf(err)
	return st
}

// statusOf maps an error to what the caller gets and to the class that metrics count it under. The
// status is nil for success.
func statusOf(err error) (*status.Status, string) {
	if err == nil {
		return nil, "ok"
	}
	if e, ok := errs.As(err); ok {
		return classed(e), e.Class.String()
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the caller went away"), "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the deadline of the call passed"), errs.Deadline.String()
	}
	if st, ok := status.FromError(err); ok { // the standard services and gRPC itself
		return st, classOfCode(st.Code())
	}
	return withInfo(status.New(codes.Internal, internalText), "internal", nil), errs.Internal.String()
}

func classed(e *errs.Error) *status.Status {
	text := e.Text
	switch e.Class {
	case errs.Internal:
		text = internalText
	case errs.Unknown:
		text += unknownText
	case errs.Invalid, errs.Conflict: // the cause says what is wrong with the request
		text = e.Error()
	}
	code := codes.Internal
	if int(e.Class) < len(grpcCodes) {
		code = grpcCodes[e.Class]
	}
	reason, fields := e.Code, e.Fields
	switch {
	case e.Class == errs.Internal:
		reason, fields = "internal", nil
	case reason == "":
		reason = strings.ReplaceAll(e.Class.String(), " ", "_")
	}
	return withInfo(status.New(code, strings.ToValidUTF8(text, "\uFFFD")), reason, fields)
}

func withInfo(st *status.Status, reason string, fields map[string]any) *status.Status {
	info := &errdetails.ErrorInfo{Reason: reason, Domain: ErrorDomain}
	for k, v := range fields {
		if text, ok := fieldText(v); ok {
			if info.Metadata == nil {
				info.Metadata = make(map[string]string, len(fields))
			}
			info.Metadata[k] = strings.ToValidUTF8(text, "\uFFFD")
		}
	}
	with, err := st.WithDetails(info)
	if err != nil { // only for a status of OK
		return st
	}
	return with
}

// fieldText writes a fact of an error as text, false for one that is absent.
func fieldText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case *string:
		if v == nil {
			return "", false
		}
		return *v, true
	case error:
		return v.Error(), true
	case fmt.Stringer:
		return v.String(), true
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", false
	}
	return string(b), true
}

func classOfCode(code codes.Code) string {
	if code == codes.Canceled {
		return "canceled"
	}
	for class, c := range grpcCodes {
		if c == code {
			return errs.Class(class).String()
		}
	}
	return errs.Invalid.String() // Unimplemented and OutOfRange: asked for what is not there
}
