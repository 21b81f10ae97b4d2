package rest

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

// problem is the body of an error (RFC 9457). Code is stable and says what happened; Fields are the
// facts of the occurrence.
type problem struct {
	Type   string            `json:"type"`
	Title  string            `json:"title"`
	Status int               `json:"status"`
	Detail string            `json:"detail,omitempty"`
	Code   string            `json:"code"`
	Fields map[string]string `json:"fields,omitempty"`
}

const problemType = "application/problem+json"

// statusClientClosed is what logs show for a caller that went away; nobody reads it.
const statusClientClosed = 499

// httpStatus maps gRPC codes. FailedPrecondition is our class conflict.
var httpStatus = map[codes.Code]int{
	codes.Canceled:           statusClientClosed,
	codes.InvalidArgument:    http.StatusBadRequest,
	codes.OutOfRange:         http.StatusBadRequest,
	codes.NotFound:           http.StatusNotFound,
	codes.AlreadyExists:      http.StatusConflict,
	codes.FailedPrecondition: http.StatusConflict,
	codes.Aborted:            http.StatusConflict,
	codes.Unauthenticated:    http.StatusUnauthorized,
	codes.PermissionDenied:   http.StatusForbidden,
	codes.ResourceExhausted:  http.StatusTooManyRequests,
	codes.Unavailable:        http.StatusServiceUnavailable,
	codes.DeadlineExceeded:   http.StatusGatewayTimeout,
	codes.Unimplemented:      http.StatusNotImplemented,
}

// problemOf reads the problem out of a gRPC status.
func problemOf(st *status.Status) problem {
	p := problem{Status: httpStatus[st.Code()], Detail: st.Message()}
	if p.Status == 0 {
		p.Status = http.StatusInternalServerError
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == rpc.ErrorDomain {
			p.Code, p.Fields = info.GetReason(), info.GetMetadata()
		}
	}
	if p.Code == "" {
		p.Code = codeName(st.Code())
	}
	return p
}

// codeName is the code of a problem that no class of ours stands behind: a body that is no JSON, a
// caller that went away.
func codeName(c codes.Code) string {
	switch c {
	case codes.InvalidArgument, codes.OutOfRange:
		return "invalid"
	case codes.Canceled:
		return "canceled"
	case codes.DeadlineExceeded:
		return "deadline"
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return "internal"
	}
	return strings.ToLower(c.String())
}

func (p problem) filled() problem {
	p.Type = "about:blank"
	p.Title = http.StatusText(p.Status)
	if p.Status == statusClientClosed {
		p.Title = "Client Closed Request"
	}
	return p
}

// writeProblem ends a request with a problem.
func writeProblem(w http.ResponseWriter, p problem) {
	body, err := json.Marshal(p.filled())
	if err != nil { // strings and numbers only: cannot happen
		body = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500,"code":"internal"}`)
	}
	h := w.Header()
	h.Set("Content-Type", problemType)
	h["Cache-Control"] = noStore
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="hanzod"`)
	}
	if ms, err := strconv.ParseInt(p.Fields["retryAfterMs"], 10, 64); err == nil && ms > 0 {
		h.Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(body)
}

// refuse ends a request with an error that did not come through the channel.
func refuse(w http.ResponseWriter, err error) {
	p := problemOf(rpc.Status(err))
	if e, ok := errs.As(err); ok && e.Code == errHost.Code {
		p.Status = http.StatusMisdirectedRequest
	}
	writeProblem(w, p)
}
