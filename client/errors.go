package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/errs"
)

// Codes of failures that this package finds by itself; all others are the daemon's.
const (
	CodeCanceled        = "client.canceled"         // the caller gave up
	CodeTimeout         = "client.timeout"          // the caller's own deadline passed
	CodeLost            = "client.connection_lost"  // the daemon went away during a call
	CodeForeignSocket   = "client.foreign_socket"   // the socket belongs to another user
	CodeNodeRequired    = "client.node_required"    // no node was named
	CodeNodeUnknown     = "client.node_unknown"     // no node has that name
	CodeNodeAmbiguous   = "client.node_ambiguous"   // several nodes have that name
	CodeDeviceUnknown   = "client.device_unknown"   // no device has that id
	CodePairingUnknown  = "client.pairing_unknown"  // no request has that id
	CodeWaitingUnknown  = "client.waiting_unknown"  // no node waits under that name
	CodeApprovalDenied  = "client.approval_denied"  // an approver said no
	CodeApprovalExpired = "client.approval_expired" // nobody answered in time
	CodeBadAnswer       = "client.bad_answer"       // the node's answer is not understood
	CodeOutcomeUnknown  = "client.outcome_unknown"  // the command may or may not have run
)

// Class says what kind of failure an error is; the classes are those of errs.
type Class = errs.Class

// The classes, for programs that import this package alone.
const (
	Internal        = errs.Internal
	Invalid         = errs.Invalid
	NotFound        = errs.NotFound
	Exists          = errs.Exists
	Conflict        = errs.Conflict
	Unauthenticated = errs.Unauthenticated
	Denied          = errs.Denied
	Exhausted       = errs.Exhausted
	Unavailable     = errs.Unavailable
	Deadline        = errs.Deadline
	Unknown         = errs.Unknown
)

// Error is a call that failed. Find it with errors.As.
type Error struct {
	// Code is the daemon's stable name for the failure ("nodes.not_connected"), or one of the
	// constants above. It is empty when the daemon gave none.
	Code string
	// Class says what kind of failure it is.
	Class Class
	// Message is for people.
	Message string
	// Fields are facts about this occurrence.
	Fields map[string]string
	// Err is the cause, a gRPC status or a context error; nil for failures found here.
	Err error

	// away says that nothing answered, so the call was not sent, and that something may later.
	away bool
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// NotRunning says that nothing answers. The call was not sent.
type NotRunning struct {
	// Socket is the path of the local socket, or the host:port of a daemon on another machine.
	Socket string
	// Remote says which of the two it is.
	Remote bool
	// Reason is what the system said.
	Reason string
}

func (e *NotRunning) Error() string {
	if e.Remote {
		return fmt.Sprintf("no daemon answers at %s (%s); look whether it runs, listens beyond its own machine (gateway.bind) and is not behind a firewall", e.Socket, e.Reason)
	}
	return fmt.Sprintf(`no daemon answers at %s; start it with "hanzod run"`, e.Socket)
}

// The marks of errors that come from dialling. gRPC passes on their text, not their type.
const (
	dialMark    = "hanzod-client-dial: "
	refusedMark = "hanzod-client-refused: "
)

// stopping is the code of calls that a stopping daemon ends.
const stopping = "rpc.stopping"

// classes maps gRPC codes to classes; runtime/rpc maps them the other way.
var classes = map[codes.Code]errs.Class{
	codes.InvalidArgument:    errs.Invalid,
	codes.OutOfRange:         errs.Invalid,
	codes.NotFound:           errs.NotFound,
	codes.AlreadyExists:      errs.Exists,
	codes.FailedPrecondition: errs.Conflict,
	codes.Aborted:            errs.Conflict,
	codes.Unauthenticated:    errs.Unauthenticated,
	codes.PermissionDenied:   errs.Denied,
	codes.ResourceExhausted:  errs.Exhausted,
	codes.Unavailable:        errs.Unavailable,
	codes.DeadlineExceeded:   errs.Deadline,
	codes.Unknown:            errs.Unknown,
	codes.DataLoss:           errs.Unknown,
}

// translate turns what a call returned into an error of this package.
func (c *Client) translate(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	out := &Error{Class: classes[st.Code()], Message: st.Message(), Err: err}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			out.Code, out.Fields = info.GetReason(), info.GetMetadata()
			if out.Code == stopping {
				// A daemon that stops ends its calls; the next one is asked again.
				out.Code = CodeLost
			}
			return out
		}
	}
	switch {
	case ctx.Err() != nil && st.Code() == codes.Canceled:
		out.Code, out.Class, out.Message, out.Err = CodeCanceled, errs.Deadline, "canceled", ctx.Err()
	case st.Code() == codes.DeadlineExceeded:
		out.Code, out.Message, out.Err = CodeTimeout, "the daemon did not answer in time", context.DeadlineExceeded
	case st.Code() == codes.Canceled:
		// The daemon ended the call: it is stopping.
		out.Code, out.Class = CodeLost, errs.Unavailable
	case st.Code() == codes.Unavailable:
		if reason, found := marked(st.Message(), refusedMark); found {
			e := parseRefused(reason)
			out.Code, out.Class, out.Message = e.code, e.class, e.text
			out.away = c.via != nil && e.class == errs.Unavailable
			return out
		}
		if reason, found := marked(st.Message(), dialMark); found {
			switch {
			case c.via != nil:
				return &NotRunning{Socket: c.via.Target(), Remote: true, Reason: reason}
			case c.remote != nil:
				return &NotRunning{Socket: c.remote.address, Remote: true, Reason: reason}
			}
			return &NotRunning{Socket: c.socket, Reason: reason}
		}
		out.Code = CodeLost
		out.Message = "the connection to the daemon was lost"
	}
	return out
}

// marked returns what stands behind a mark in the text of a status, which gRPC quotes for failed
// handshakes and leaves alone elsewhere.
func marked(text, mark string) (string, bool) {
	_, rest, found := strings.Cut(text, mark)
	if !found {
		return "", false
	}
	if plain, err := strconv.Unquote(`"` + rest); err == nil {
		return plain, true
	}
	return strings.TrimSuffix(rest, `"`), true
}

// code is the code of an Error, "" for other errors.
func code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
