package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// techProtocol is the subprotocol of a channel of a technician session.
	techProtocol = "hanzo.tech.v1"
	// maxEnvelope bounds one message of an operator in bytes: payload, data in base64, and what is around them.
	maxEnvelope = message.MaxPayload + message.MaxData/3*4 + 4<<10
)

var (
	errTechQuery  = errs.Define(errs.Invalid, "rest.tech_query", "the query of a channel takes kind: terminal, file, registry or service")
	errTechBinary = errs.Define(errs.Invalid, "rest.tech_binary", `a message of a channel is a text {"type","payload"}; bytes stand in the payload as data_b64`)
)

// techKindNames are the kinds of channels in a query.
var techKindNames = map[string]tunnelv1.TechKind{
	string(message.Terminal): tunnelv1.TechKind_TECH_KIND_TERMINAL, string(message.File): tunnelv1.TechKind_TECH_KIND_FILE,
	string(message.Registry): tunnelv1.TechKind_TECH_KIND_REGISTRY, string(message.Service): tunnelv1.TechKind_TECH_KIND_SERVICE,
}

// techChannelOf returns the session and the channel that a path names, empty for other paths.
func techChannelOf(path string) (session, channel string) {
	rest, ok := strings.CutPrefix(path, "/v1/tech-sessions/")
	if !ok {
		return "", ""
	}
	session, channel, ok = strings.Cut(rest, "/channels/")
	if !ok || session == "" || channel == "" || strings.Contains(session, "/") || strings.Contains(channel, "/") {
		return "", ""
	}
	session, err1 := url.PathUnescape(session)
	channel, err2 := url.PathUnescape(channel)
	if err1 != nil || err2 != nil {
		return "", ""
	}
	return session, channel
}

func isTechChannel(path string) bool {
	session, _ := techChannelOf(path)
	return session != ""
}

// techRequired answers a request that is no upgrade where channels are opened.
func techRequired(w http.ResponseWriter, r *http.Request) {
	wantUpgrade(w, r, "a channel of a technician session is a WebSocket of the subprotocol "+techProtocol)
}

// techChannel is one channel of a technician session over a WebSocket (tunnel.md §5.3 row 29): the envelopes of §3.4 as
// text messages. It goes through the same handler as gRPC: it is open when the WebSocket is, and a side that does not
// read stops the other.
func (s *server) techChannel(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = noStore
	join := new(tunnelv1.TechJoin)
	join.SessionId, join.ChannelId = techChannelOf(r.URL.EscapedPath())
	kind, err := techQuery(r.URL.RawQuery)
	if err != nil {
		refuse(w, err)
		return
	}
	join.Kind = kind
	tokenOf(r.Header)
	c, err := s.guard(r)
	if err != nil {
		refuse(w, err)
		return
	}
	ctx, cancel := context.WithCancel(rpc.WithCaller(context.WithoutCancel(r.Context()), c))
	defer cancel()
	stream, err := s.techs.Channel(ctx)
	if err == nil {
		err = stream.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Join{Join: join}})
	}
	if err == nil || errors.Is(err, io.EOF) {
		_, err = stream.Recv() // a refusal, too
	}
	if err != nil {
		writeProblem(w, problemOf(status.Convert(err)))
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the guard has judged the origin
		CompressionMode:    websocket.CompressionDisabled, Subprotocols: []string{techProtocol},
	})
	if err != nil {
		return // it has answered
	}
	defer ws.CloseNow() // it was closed with a reason where there is somebody to tell
	ws.SetReadLimit(maxEnvelope)
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		defer cancel()
		if err := asking(ctx, ws, stream); err != nil {
			_ = ws.Close(websocket.StatusPolicyViolation, cutReason(problemOf(rpc.Status(err)).Detail)) // the connection ends either way
		}
	}()
	go keepAlive(ctx, ws)
	answering(ctx, ws, stream)
	cancel()
	_ = ws.CloseNow()
	<-gone
}

// techQuery reads the kind of a channel.
func techQuery(query string) (tunnelv1.TechKind, error) {
	if carriesToken(query) {
		return 0, errQueryToken
	}
	values, err := url.ParseQuery(query)
	kind, ok := techKindNames[values.Get("kind")]
	if err != nil || !ok || len(values) != 1 || len(values["kind"]) != 1 {
		return 0, errTechQuery
	}
	return kind, nil
}

// asking takes what the operator sends, until it leaves. What is no message it is told, and goes on.
func asking(ctx context.Context, ws *websocket.Conn, stream tunnelv1.TechSessionService_ChannelClient) error {
	for {
		kind, data, err := ws.Read(ctx)
		if err != nil {
			return nil //nolint:nilerr // it has left, or the channel has ended
		}
		if kind != websocket.MessageText {
			return errTechBinary
		}
		m, err := message.FromEnvelope(data)
		if err != nil {
			text, err := message.Envelope(message.Of(message.TypeError, message.Failure{Code: "invalid", Error: err.Error()}, nil))
			if err != nil || ws.Write(ctx, websocket.MessageText, text) != nil {
				return nil //nolint:nilerr // it has left
			}
			continue
		}
		if stream.Send(&tunnelv1.TechSessionServiceChannelRequest{Item: &tunnelv1.TechSessionServiceChannelRequest_Message{
			Message: &tunnelv1.TechMessage{Type: m.Type, Payload: m.Payload, Data: m.Data},
		}}) != nil {
			return nil //nolint:nilerr // the reader of the stream knows why
		}
	}
}

// answering sends what the node says, until the channel has ended or somebody leaves.
func answering(ctx context.Context, ws *websocket.Conn, stream tunnelv1.TechSessionService_ChannelClient) {
	for {
		r, err := stream.Recv()
		if err != nil {
			st := status.Convert(err)
			code, reason := websocket.StatusPolicyViolation, cutReason(problemOf(st).Detail)
			switch {
			case errors.Is(err, io.EOF):
				code, reason = websocket.StatusNormalClosure, "the channel has ended"
			case st.Code() == codes.Canceled:
				code = websocket.StatusNormalClosure
			case st.Code() == codes.Unavailable:
				code = websocket.StatusGoingAway
			case st.Code() == codes.Internal, st.Code() == codes.Unknown:
				code = websocket.StatusInternalError
			}
			if ctx.Err() == nil {
				_ = ws.Close(code, reason) // the connection ends either way
			}
			return
		}
		m := r.GetMessage()
		text, err := message.Envelope(message.Message{Type: m.GetType(), Payload: m.GetPayload(), Data: m.GetData()})
		if err != nil {
			_ = ws.Close(websocket.StatusInternalError, "the node sent no message") // as above
			return
		}
		if ws.Write(ctx, websocket.MessageText, text) != nil {
			return
		}
	}
}
