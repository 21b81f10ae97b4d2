// Package tech is the HTTP endpoints of technician sessions as the original has them (tunnel.md §3.2): open, close, status
// and command below /api/v1/tunnel, with its statuses and texts.
package tech

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/gate"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/tunnel/tech"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	base          = "/api/v1/tunnel/"
	openPath      = base + "open"
	closePath     = base + "close"
	statusPrefix  = base + "status/"
	commandSuffix = "/command"
)

const (
	// maxBody bounds the body of a request in bytes, bodyTime how long it may take to arrive.
	maxBody  = 64 << 10
	bodyTime = 30 * time.Second
	// answerTime is how long a reader may leave an answer lying.
	answerTime = 30 * time.Second
	// maxOutput bounds, in bytes, what an answer has of stdout and of stderr; watchers of the session see all of it.
	maxOutput = 1 << 20
)

// The operations that the endpoints are, by their names at the gate.
const (
	opOpen   = "/hanzo.tunnel.v1.TechSessionService/Open"
	opClose  = "/hanzo.tunnel.v1.TechSessionService/Close"
	opStatus = "/hanzo.tunnel.v1.TechSessionService/Get"
	opRun    = "/hanzo.tunnel.v1.TechSessionService/Run"
)

// The texts of the original, and those that it has no words for.
const (
	textAgentID   = "Invalid agent_id format"
	textSessionID = "Invalid session_id format"
	textOffline   = "Agent not connected"
	textHeld      = "Active session already exists for this agent"
	textForeign   = "Session not found or not owned by user"
	textUnknown   = "Session not found"
	textClosed    = "Session is closed"
	textInternal  = "internal error; the log of the daemon says more"
)

var (
	errAgentID   = errs.Define(errs.Invalid, "compat.tech.agent_id", textAgentID)
	errSessionID = errs.Define(errs.Invalid, "compat.tech.session_id", textSessionID)
	errBody      = errs.Define(errs.Invalid, "compat.tech.body", "the body is one JSON object")
	errCommand   = errs.Define(errs.Invalid, "compat.tech.command", "command is a string")
	errUTF8      = errs.Define(errs.Invalid, "compat.tech.utf8", "the body is not UTF-8")
)

// Sessions is what the endpoints need of tech.Service.
type Sessions interface {
	Open(context.Context, identity.Caller, tech.OpenIn) (tech.Session, error)
	Close(ctx context.Context, c identity.Caller, id string) (tech.Session, error)
	Get(ctx context.Context, c identity.Caller, id string) (tech.Session, error)
	Run(ctx context.Context, c identity.Caller, in tech.RunIn, each func(channelID string, out message.Output) error) error
}

// Config is what New needs. All of it is required.
type Config struct {
	Sessions  Sessions
	Catalogue *ops.Catalogue
	Gate      *gate.Gate
}

// Endpoints are the four of the original. It is safe for concurrent use and owns no goroutine.
type Endpoints struct{ cfg Config }

// New returns them.
func New(cfg Config) *Endpoints { return &Endpoints{cfg} }

// taken are names that stand where a command has its session: they are endpoints of their own, here and of carriers.
var taken = map[string]bool{
	"open": true, "close": true, "status": true, "health": true, "tunnels": true, "sessions": true, "bindings": true, "metrics": true, "connect": true,
}

// at is what a path, as it was sent, asks for: an operation, and the session that it names.
func at(path string) (op, session string) {
	switch path {
	case openPath:
		return opOpen, ""
	case closePath:
		return opClose, ""
	}
	if id, ok := strings.CutPrefix(path, statusPrefix); ok {
		if id == "" || strings.Contains(id, "/") {
			return "", ""
		}
		return opStatus, plain(id)
	}
	rest, ok := strings.CutPrefix(path, base)
	if !ok {
		return "", ""
	}
	id, ok := strings.CutSuffix(rest, commandSuffix)
	if !ok || id == "" || strings.Contains(id, "/") || taken[id] {
		return "", ""
	}
	return opRun, plain(id)
}

// plain is a segment of a path without its escapes; what has bad ones is no id.
func plain(segment string) string {
	if p, err := url.PathUnescape(segment); err == nil {
		return p
	}
	return segment
}

// Serves reports whether a path, as it was sent, is one of Endpoints.
func Serves(path string) bool {
	op, _ := at(path)
	return op != ""
}

// Serve answers a request for one of the endpoints. who says whose it is.
func (e *Endpoints) Serve(w http.ResponseWriter, r *http.Request, who func(*http.Request) (identity.Caller, error)) {
	w.Header().Set("Cache-Control", "no-store")
	op, session := at(r.URL.EscapedPath())
	method := http.MethodPost
	if op == opStatus {
		method = http.MethodGet
	}
	if r.Method != method && (method != http.MethodGet || r.Method != http.MethodHead) {
		if method == http.MethodGet {
			method += ", " + http.MethodHead
		}
		w.Header().Set("Allow", method)
		reply(w, r, http.StatusMethodNotAllowed, failure{"method not allowed; this path takes " + method, "invalid"})
		return
	}
	c, err := who(r)
	if err == nil {
		f, _ := e.cfg.Catalogue.ByMethod(op)
		err = e.cfg.Gate.Admit(c, f)
	}
	var out any
	if err == nil {
		switch op {
		case opOpen:
			out, err = e.open(w, r, c)
		case opClose:
			out, err = e.close(w, r, c)
		case opStatus:
			out, err = e.status(r, c, session)
		default:
			out, err = e.command(w, r, c, session)
		}
	}
	if err != nil {
		if r.Context().Err() != nil {
			return // nobody reads it
		}
		fail(w, r, err)
		return
	}
	reply(w, r, http.StatusOK, out)
}

// The ids of nodes are UUIDs, or those of devices; the ids of sessions are UUIDs.
var (
	uuidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)
	nodeForm = regexp.MustCompile(`^(?:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|[0-9a-fA-F]{64})$`)
)

type opened struct {
	SessionID string `json:"session_id"`
	Status    string `json:"status"`
}

func (e *Endpoints) open(w http.ResponseWriter, r *http.Request, c identity.Caller) (any, error) {
	var in struct {
		AgentID json.RawMessage `json:"agent_id"`
	}
	if err := read(w, r, &in); err != nil {
		return nil, err
	}
	id, ok := text(in.AgentID)
	if !ok || !nodeForm.MatchString(id) {
		return nil, errAgentID
	}
	s, err := e.cfg.Sessions.Open(r.Context(), c, tech.OpenIn{NodeID: id})
	return opened{s.ID, string(s.Status)}, err
}

type closed struct {
	Status string `json:"status"`
}

// close ends a session. One that is closed already is as the caller wants it.
func (e *Endpoints) close(w http.ResponseWriter, r *http.Request, c identity.Caller) (any, error) {
	var in struct {
		SessionID json.RawMessage `json:"session_id"`
	}
	if err := read(w, r, &in); err != nil {
		return nil, err
	}
	id, ok := text(in.SessionID)
	if !ok || !uuidForm.MatchString(id) {
		return nil, errSessionID
	}
	id = strings.ToLower(id)
	_, err := e.cfg.Sessions.Close(r.Context(), c, id)
	if errors.Is(err, tech.ErrEnded) {
		err = nil
	}
	return closed{string(tech.Closed)}, err
}

// record is a session as the original's table has it.
type record struct {
	SessionID    string  `json:"session_id"`
	TechID       string  `json:"tech_id"`
	AgentID      string  `json:"agent_id"`
	OpenedAt     string  `json:"opened_at"`
	LastActivity string  `json:"last_activity"`
	ClosedAt     *string `json:"closed_at"`
	Status       string  `json:"status"`
	Reason       string  `json:"reason,omitempty"`
}

func (e *Endpoints) status(r *http.Request, c identity.Caller, id string) (any, error) {
	if !uuidForm.MatchString(id) {
		return nil, errSessionID
	}
	s, err := e.cfg.Sessions.Get(r.Context(), c, strings.ToLower(id))
	if err != nil {
		return nil, err
	}
	out := record{
		SessionID: s.ID, TechID: s.Owner, AgentID: s.NodeID, OpenedAt: moment(s.OpenedAt), LastActivity: moment(s.LastActivity), Status: string(s.Status), Reason: string(s.Reason),
	}
	if c.Tenant != "" { // it has never named the node otherwise
		out.AgentID = strings.TrimPrefix(s.NodeID, c.Tenant+"/")
	}
	if !s.ClosedAt.IsZero() {
		at := moment(s.ClosedAt)
		out.ClosedAt = &at
	}
	return out, nil
}

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// ran is what a command has written, and how it ended. What is not UTF-8 stands in the members _b64 as well.
type ran struct {
	SessionID string `json:"session_id"`
	ChannelID string `json:"channel_id"`
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	StdoutB64 []byte `json:"stdout_b64,omitempty"`
	StderrB64 []byte `json:"stderr_b64,omitempty"`
	ExitCode  *int   `json:"exit_code"`
	Signal    string `json:"signal,omitempty"`
	TimedOut  bool   `json:"timed_out,omitempty"`
	Truncated bool   `json:"truncated,omitempty"`
}

// command runs a command line and answers when it has ended; who watches the session sees its output as it comes.
func (e *Endpoints) command(w http.ResponseWriter, r *http.Request, c identity.Caller, id string) (any, error) {
	if !uuidForm.MatchString(id) {
		return nil, errSessionID
	}
	var in struct {
		Command   json.RawMessage `json:"command"`
		Cwd       string          `json:"cwd"`
		TimeoutMS int64           `json:"timeout_ms"`
	}
	if err := read(w, r, &in); err != nil {
		return nil, err
	}
	line, ok := text(in.Command)
	if !ok {
		return nil, errCommand
	}
	out := ran{SessionID: strings.ToLower(id)}
	var stdout, stderr []byte
	err := e.cfg.Sessions.Run(r.Context(), c, tech.RunIn{
		SessionID: out.SessionID, Command: message.Command{Command: line, Cwd: in.Cwd, TimeoutMS: in.TimeoutMS},
	}, func(channelID string, o message.Output) error {
		out.ChannelID, out.ExitCode, out.Signal = channelID, o.ExitCode, o.Signal
		out.TimedOut = out.TimedOut || o.TimedOut
		out.Truncated = out.Truncated || o.Truncated
		stdout = out.keep(stdout, o.Stdout, o.StdoutB64)
		stderr = out.keep(stderr, o.Stderr, o.StderrB64)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out.Stdout, out.StdoutB64 = shown(stdout)
	out.Stderr, out.StderrB64 = shown(stderr)
	return out, nil
}

// keep adds a piece as far as there is room.
func (o *ran) keep(all []byte, plain string, b64 []byte) []byte {
	piece := b64
	if len(piece) == 0 {
		piece = []byte(plain)
	}
	if room := maxOutput - len(all); len(piece) > room {
		piece, o.Truncated = piece[:room], true
	}
	return append(all, piece...)
}

func shown(all []byte) (plain string, exact []byte) {
	if utf8.Valid(all) {
		return string(all), nil
	}
	return strings.ToValidUTF8(string(all), "\uFFFD"), all
}

// text is the string that a member is; false for what is none.
func text(member json.RawMessage) (string, bool) {
	var s *string
	if len(member) == 0 || json.Unmarshal(member, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

// read reads the body, one JSON object. Members that it has no use for are left alone.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		w.Header().Set("Connection", "close") // the rest of the body may still be under way
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			return errBody.WithText("the body is larger than " + strconv.Itoa(maxBody) + " bytes")
		case errors.Is(err, os.ErrDeadlineExceeded):
			return errBody.WithText("the body took longer than " + bodyTime.String())
		}
		return errBody.WithText("the body could not be read")
	}
	_ = rc.SetReadDeadline(time.Time{})
	body = bytes.TrimSpace(body)
	switch {
	case !utf8.Valid(body):
		return errUTF8
	case len(body) == 0 || body[0] != '{' || json.Unmarshal(body, into) != nil:
		return errBody
	}
	return nil
}

// failure is the body of every answer that is none (tunnel.md §3.2).
type failure struct {
	Error string `json:"error"`
	Code  string `json:"code"`
}

// class is how a class of errors is answered. Others are faults of the daemon, which say nothing of the inside.
type class struct {
	status int
	code   string
}

var classes = map[errs.Class]class{
	errs.Invalid: {http.StatusBadRequest, "invalid"}, errs.Unauthenticated: {http.StatusUnauthorized, "unauthenticated"}, errs.Denied: {http.StatusForbidden, "denied"},
	errs.NotFound: {http.StatusNotFound, "not_found"}, errs.Conflict: {http.StatusConflict, "conflict"}, errs.Exists: {http.StatusConflict, "conflict"},
	errs.Exhausted: {http.StatusTooManyRequests, "exhausted"}, errs.Unavailable: {http.StatusServiceUnavailable, "unavailable"}, errs.Deadline: {http.StatusGatewayTimeout, "deadline"},
}

// words are what the original says of our errors.
var words = []struct {
	err  *errs.Error
	text string
}{
	{tech.ErrNode, textAgentID}, {tech.ErrOffline, textOffline}, {tech.ErrHeld, textHeld}, {tech.ErrSession, textSessionID},
	{tech.ErrForeign, textForeign}, {tech.ErrUnknown, textUnknown}, {tech.ErrEnded, textClosed},
}

func fail(w http.ResponseWriter, r *http.Request, err error) {
	status, out := http.StatusInternalServerError, failure{textInternal, "internal"}
	if e, ok := errs.As(err); ok {
		if known, ok := classes[e.Class]; ok {
			status, out = known.status, failure{e.Text, known.code}
		}
		for _, one := range words {
			if errors.Is(err, one.err) {
				out.Error = one.text
			}
		}
		if ms, ok := e.Fields["retryAfterMs"].(int64); ok && ms > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
		}
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="hanzod"`)
	}
	reply(w, r, status, out)
}

func reply(w http.ResponseWriter, r *http.Request, status int, v any) {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil { // strings, numbers and bytes only: cannot happen
		status = http.StatusInternalServerError
		body.Reset()
		body.WriteString(`{"error":"` + textInternal + `","code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTime))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(bytes.TrimSuffix(body.Bytes(), []byte("\n")))
	}
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
}
