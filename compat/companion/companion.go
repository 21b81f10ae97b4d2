// Package companion is the local socket between a node host and the app that a person of the same
// machine answers its questions with (nodes-approvals.md §3.19): Ask is the half of the node host, Serve
// the half of the app. Both speak the frozen dialect, one JSON object a line and one question a
// connection, so each works with the other half of the original too.
//
// The socket is for one user. Ask sends nothing before it has seen that the socket and the process
// behind it belong to the user it runs as, and Serve hears nobody else. The token is a second proof,
// which keeps out the programs of the same user that may not read the exec approvals file.
//
// It imports identity/peer/owner and the standard library. Ask owns no goroutine beyond its call; Serve owns
// one for each connection and waits for them.
package companion

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"time"
)

// Limits.
const (
	// MaxLine bounds a line, in bytes, without its end (nodes-approvals.md §3.19).
	MaxLine = 256_000
	// Wait is how long Ask waits for the answer when nothing else is said, as the original does.
	Wait = 15 * time.Second
	// MaxWait bounds it: a gateway has given a run up long before.
	MaxWait = 10 * time.Minute
	// maxSkipped is how many lines that mean nothing either half reads before it gives up.
	maxSkipped = 64
	// maxPeers is how many questions an app holds at once; node hosts run fewer commands than that.
	maxPeers = 32
	// hearWait is how long an app waits for the question of a connection, and for the reader of its
	// answer: both are on this machine.
	hearWait = 5 * time.Second
)

// Decision is an answer.
type Decision string

// The decisions.
const (
	AllowOnce   Decision = "allow-once"
	AllowAlways Decision = "allow-always"
	Deny        Decision = "deny"
)

func (d Decision) valid() bool { return d == AllowOnce || d == AllowAlways || d == Deny }

// Prompt is what the person is asked. Command is the text of what would run; empty texts say nothing.
type Prompt struct {
	// ID is made up by Ask; it names the question to people only.
	ID           string
	Command      string
	Cwd          string
	Host         string
	Security     string
	Ask          string
	AgentID      string
	ResolvedPath string
	SessionKey   string
}

// The errors of Ask.
var (
	// ErrAbsent says that no app is there: no socket, or nobody listening on it.
	ErrAbsent = errors.New("no companion app is running")
	// ErrUnsafe says that the socket is not this user's alone. Nothing was sent.
	ErrUnsafe = errors.New("the socket of the companion app is not safe to use")
	// ErrSilent says that the app gave no answer: the time passed, or it hung up.
	ErrSilent = errors.New("the companion app gave no answer")
)

// ErrUnsupported says that this system cannot tell who is at the other end of a local socket.
var ErrUnsupported = errors.New("this system has no companion socket")

// frame is any line of either half. Fields of other kinds of lines stay empty.
type frame struct {
	Type     string    `json:"type"`
	Token    string    `json:"token,omitempty"`
	ID       string    `json:"id"`
	Request  *request  `json:"request,omitempty"`
	Decision Decision  `json:"decision,omitempty"`
	OK       *bool     `json:"ok,omitempty"`
	Error    *refusing `json:"error,omitempty"`
}

// request is the question as it is written: what is not known is null.
type request struct {
	Command      string  `json:"command"`
	Cwd          *string `json:"cwd"`
	Host         *string `json:"host"`
	Security     *string `json:"security"`
	Ask          *string `json:"ask"`
	AgentID      *string `json:"agentId"`
	ResolvedPath *string `json:"resolvedPath"`
	SessionKey   *string `json:"sessionKey"`
}

// refusing is why an exec request is not served.
type refusing struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Reason  string `json:"reason,omitempty"`
}

func (p Prompt) request() *request {
	opt := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	return &request{
		Command: p.Command, Cwd: opt(p.Cwd), Host: opt(p.Host), Security: opt(p.Security), Ask: opt(p.Ask),
		AgentID: opt(p.AgentID), ResolvedPath: opt(p.ResolvedPath), SessionKey: opt(p.SessionKey),
	}
}

func (r *request) prompt(id string) Prompt {
	text := func(s *string) string {
		if s == nil {
			return ""
		}
		return *s
	}
	return Prompt{
		ID: id, Command: r.Command, Cwd: text(r.Cwd), Host: text(r.Host), Security: text(r.Security), Ask: text(r.Ask),
		AgentID: text(r.AgentID), ResolvedPath: text(r.ResolvedPath), SessionKey: text(r.SessionKey),
	}
}

// errLine is a line that is longer than MaxLine.
var errLine = errors.New("a line is too long")

// lines reads the frames of a connection, at most maxSkipped that want takes no interest in.
func lines(r io.Reader, want func(frame) bool) (frame, error) {
	in := bufio.NewReaderSize(r, MaxLine+2)
	for range maxSkipped {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) || len(line) > MaxLine+1 {
			return frame{}, errLine
		}
		if err != nil {
			return frame{}, err
		}
		var f frame
		if json.Unmarshal(line, &f) == nil && want(f) {
			return f, nil
		}
	}
	return frame{}, errors.New("too many lines that mean nothing")
}

// same compares two secrets in a time that does not depend on them.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func encode(f frame) ([]byte, error) {
	line, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	if len(line) > MaxLine {
		return nil, errLine
	}
	return append(line, '\n'), nil
}
