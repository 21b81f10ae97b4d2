package rest

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

const (
	// terminalProtocol is the subprotocol of an attached terminal; tokenProtocol stands before a bearer token in
	// base64url without padding, where a web page cannot set a header.
	terminalProtocol = "hanzo.terminal.v1"
	tokenProtocol    = "hanzo.bearer."
	// maxTyped bounds one message of a viewer.
	maxTyped = 64 << 10
	// pingTerminals is how often a viewer is asked for a sign of life, pongTerminals how long it may take: what
	// stands between keeps a connection that is used.
	pingTerminals = 20 * time.Second
	pongTerminals = 30 * time.Second
)

var (
	errTerminalQuery   = errs.Define(errs.Invalid, "rest.terminal_query", "the query of an attachment takes from (a number), from_end, read_only and record (true or false)")
	errTerminalMessage = errs.Define(errs.Invalid, "rest.terminal_message", `a text message of a viewer is {"resize":{"cols":80,"rows":24}} or {"input":"…"} with base64`)
)

// attaches returns the terminal that a path names to be attached, "" for other paths.
func attaches(path string) string {
	rest, ok := strings.CutPrefix(path, "/v1/terminals/")
	if !ok {
		return ""
	}
	id, ok := strings.CutSuffix(rest, "/attach")
	if !ok || strings.Contains(id, "/") {
		return ""
	}
	if plain, err := url.PathUnescape(id); err == nil {
		return plain
	}
	return ""
}

// attachRequired answers a request that is no upgrade where terminals are attached.
func attachRequired(w http.ResponseWriter, r *http.Request) {
	wantUpgrade(w, r, "a terminal is attached with a WebSocket of the subprotocol "+terminalProtocol)
}

// attach joins a terminal over a WebSocket (tunnel.md §5.3 row 12): binary messages are bytes, text messages the
// members of TerminalServiceAttachRequest and -Response that are no bytes, as JSON. It goes through the same
// handler as gRPC.
func (s *server) attach(w http.ResponseWriter, r *http.Request, id string) {
	w.Header()["Cache-Control"] = noStore
	first, err := attachment(id, r.URL.RawQuery)
	if err != nil {
		refuse(w, err)
		return
	}
	tokenOf(r.Header)
	c, err := s.guard(r)
	if err != nil {
		refuse(w, err)
		return
	}
	ctx, cancel := context.WithCancel(rpc.WithCaller(context.WithoutCancel(r.Context()), c))
	defer cancel()
	stream, err := s.terminals.Attach(ctx)
	if err == nil {
		err = stream.Send(&tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Attach{Attach: first}})
	}
	var m *tunnelv1.TerminalServiceAttachResponse
	if err == nil || errors.Is(err, io.EOF) {
		m, err = stream.Recv() // a refusal, too
	}
	if err != nil {
		writeProblem(w, problemOf(status.Convert(err)))
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the guard has judged the origin
		CompressionMode:    websocket.CompressionDisabled, Subprotocols: []string{terminalProtocol},
	})
	if err != nil {
		return // it has answered
	}
	defer ws.CloseNow() // it was closed with a reason where there is somebody to tell
	ws.SetReadLimit(maxTyped)
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		defer cancel()
		if err := typing(ctx, ws, stream); err != nil {
			p := problemOf(status.Convert(err))
			if e, ok := errs.As(err); ok {
				p.Detail = e.Text
			}
			_ = ws.Close(websocket.StatusPolicyViolation, cutReason(p.Detail)) // the connection ends either way
		}
	}()
	go keepAlive(ctx, ws)
	s.watch(ctx, ws, stream, m)
	cancel()
	_ = ws.CloseNow()
	<-gone
}

// attachment reads the query.
func attachment(id, query string) (*tunnelv1.TerminalAttach, error) {
	a := &tunnelv1.TerminalAttach{TerminalId: id}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errTerminalQuery
	}
	for name, v := range values {
		yes, err := strconv.ParseBool(v[0])
		switch name {
		case "from":
			var n int64
			if n, err = strconv.ParseInt(v[0], 10, 64); err == nil && n < 0 {
				err = errTerminalQuery
			}
			a.From = &n
		case "from_end":
			a.FromEnd = yes
		case "read_only":
			a.ReadOnly = yes
		case "record":
			a.Record = yes
		case "token", "access_token":
			return nil, errQueryToken
		default:
			err = errTerminalQuery
		}
		if err != nil || len(v) != 1 {
			return nil, errTerminalQuery
		}
	}
	return a, nil
}

// tokenOf moves a bearer token among the subprotocols into the header, where the guard looks for it. A header that
// is there counts.
func tokenOf(h http.Header) {
	var kept []string
	for _, v := range h["Sec-Websocket-Protocol"] {
		for one := range strings.SplitSeq(v, ",") {
			one = strings.TrimSpace(one)
			coded, ok := strings.CutPrefix(one, tokenProtocol)
			if !ok {
				kept = append(kept, one)
				continue
			}
			token, err := base64.RawURLEncoding.DecodeString(coded)
			if err != nil || len(h["Authorization"]) > 0 {
				h.Add("Authorization", "none") // two, or a bad one: the guard refuses
				continue
			}
			h["Authorization"] = []string{"Bearer " + string(token)}
		}
	}
	if h.Del("Sec-WebSocket-Protocol"); len(kept) > 0 {
		h["Sec-Websocket-Protocol"] = []string{strings.Join(kept, ", ")}
	}
}

// watch sends what comes, beginning with the first message, until the terminal has ended or somebody leaves.
func (s *server) watch(ctx context.Context, ws *websocket.Conn, stream tunnelv1.TerminalService_AttachClient, m *tunnelv1.TerminalServiceAttachResponse) {
	for {
		kind, data := websocket.MessageText, []byte(nil)
		if out := m.GetOutput(); out != nil {
			kind, data = websocket.MessageBinary, out.GetData()
		} else {
			var err error
			if data, err = protojson.Marshal(m); err != nil {
				_ = ws.Close(websocket.StatusInternalError, "internal error") // the connection ends either way
				return
			}
		}
		if ws.Write(ctx, kind, data) != nil {
			return
		}
		if m.GetExit() != nil {
			_ = ws.Close(websocket.StatusNormalClosure, "the terminal has ended") // as above
			return
		}
		var err error
		if m, err = stream.Recv(); err != nil {
			st := status.Convert(err)
			code := websocket.StatusPolicyViolation
			switch st.Code() {
			case codes.Unavailable:
				code = websocket.StatusGoingAway
			case codes.OK, codes.Canceled:
				code = websocket.StatusNormalClosure
			case codes.Internal, codes.Unknown:
				code = websocket.StatusInternalError
			}
			if ctx.Err() == nil {
				_ = ws.Close(code, cutReason(problemOf(st).Detail)) // as above
			}
			return
		}
	}
}

// cutReason is what fits into the reason of a close.
func cutReason(text string) string {
	const most = 120
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

// typing takes what the viewer sends, until it leaves. A program that does not read makes it wait.
func typing(ctx context.Context, ws *websocket.Conn, stream tunnelv1.TerminalService_AttachClient) error {
	for {
		kind, data, err := ws.Read(ctx)
		if err != nil {
			return nil //nolint:nilerr // it has left, or the terminal has ended
		}
		m := &tunnelv1.TerminalServiceAttachRequest{Message: &tunnelv1.TerminalServiceAttachRequest_Input{Input: data}}
		if kind == websocket.MessageText {
			m = &tunnelv1.TerminalServiceAttachRequest{}
			if protojson.Unmarshal(data, m) != nil || m.GetMessage() == nil || m.GetAttach() != nil {
				return errTerminalMessage
			}
		}
		if stream.Send(m) != nil {
			return nil //nolint:nilerr // the reader of the stream knows why
		}
	}
}

// keepAlive asks the viewer for signs of life. That none comes is not the end: one whose input waits for a program
// cannot answer, and the kernel finds out who is gone.
func keepAlive(ctx context.Context, ws *websocket.Conn) {
	tick := time.NewTicker(pingTerminals)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		asked, cancel := context.WithTimeout(ctx, pongTerminals)
		_ = ws.Ping(asked) // as said
		cancel()
	}
}
