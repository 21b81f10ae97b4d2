package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/identity/peer"
	"github.com/hanzoai/hanzod/ops"
	"github.com/hanzoai/hanzod/runtime/rest/viewer"
	"github.com/hanzoai/hanzod/runtime/rpc"
	"github.com/hanzoai/hanzod/tunnel/screens"
)

const (
	// screenProtocol is the subprotocol that VNC over a WebSocket has, lookProtocol stands before a token of
	// ScreenService.CreateToken.
	screenProtocol = "binary"
	lookProtocol   = "hanzo-screen."
	// screenCookie begins the name of the cookie that holds the session of a browser; it goes to the pages of the viewer alone.
	screenCookie = "hanzo_screen"
	// maxScreenBody bounds what a page of the viewer sends.
	maxScreenBody = 4 << 10
	// screenPiece is how many bytes of a viewer travel at once.
	screenPiece = 64 << 10
	// statusUnknownNode is a close code of the original (tunnel.md §2.7).
	statusUnknownNode websocket.StatusCode = 4404
)

var (
	errScreenQuery = errs.Define(errs.Invalid, "rest.screen_query", "the query of a screen takes nodeId; secrets do not belong in a URL, where logs keep them")
	errScreenBody  = errs.Define(errs.Invalid, "rest.screen_body", `the body is JSON (Content-Type: application/json) with nodeId, and with token where a token of hanzoctl screen is shown`)
)

// Screens is what the door needs of screens.Service beyond the operations.
type Screens interface {
	Redeem(token, nodeID string) (identity.Caller, error)
	Enter(c identity.Caller, nodeID string) (session string, err error)
	Entered(session, nodeID string, anyScreen bool) (identity.Caller, error)
	Called(token string) (deliver func(screens.Pipe), err error)
}

// isScreen reports whether a path is one of screens.
func isScreen(path string) bool {
	return web.IsVNC(path) || strings.HasPrefix(path, screens.ViewerPath+"/")
}

// screenOf reads the query: the screen that is meant, and nothing else.
func screenOf(r *http.Request) (nodeID string, err error) {
	if carriesToken(r.URL.RawQuery) {
		return "", errQueryToken
	}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", errScreenQuery
	}
	for name, v := range values {
		if (name != "nodeId" && name != "node") || len(v) != 1 || nodeID != "" {
			return "", errScreenQuery
		}
		nodeID = v[0]
	}
	return nodeID, nil
}

// screen answers a request that is no upgrade. None is answered with anything of a screen, or of the viewer, without a
// credential: a bearer token, or the session of a browser that showed one.
func (s *server) screen(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Cache-Control"] = noStore
	h["Cross-Origin-Resource-Policy"] = []string{"same-origin"}
	switch name := strings.TrimPrefix(r.URL.EscapedPath(), screens.ViewerPath+"/"); name {
	case screens.ViewerPath:
		s.viewerPage(w, r)
	case "session", "token":
		if r.Method != http.MethodPost {
			h.Set("Allow", http.MethodPost)
			text(w, http.StatusMethodNotAllowed, "Method Not Allowed")
			return
		}
		if name == "session" {
			s.enterViewer(w, r)
		} else {
			s.lookAgain(w, r)
		}
	case screens.CallPath:
		s.calledBack(w, r)
	case screens.SocketPath:
		if !reads(w, r) {
			return
		}
		if _, err := s.guard(r); err != nil {
			refuse(w, err)
			return
		}
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
		text(w, http.StatusUpgradeRequired, "Upgrade Required: a screen is a WebSocket with the subprotocol "+screenProtocol)
	default:
		if !reads(w, r) {
			return
		}
		if _, err := s.watcher(r, "", true); err != nil {
			refuse(w, err)
			return
		}
		data, kind, ok := viewer.File(name)
		if !ok {
			text(w, http.StatusNotFound, "Not Found")
			return
		}
		h["Content-Type"] = []string{kind}
		if r.Method != http.MethodHead {
			_, _ = w.Write(data) //nolint:gosec // a file that this program holds
		}
	}
}

// viewerPage is the page of a screen; who shows no credential gets, with 401, a page that takes one.
func (s *server) viewerPage(w http.ResponseWriter, r *http.Request) {
	if !reads(w, r) {
		return
	}
	nodeID, err := screenOf(r)
	if err != nil {
		refuse(w, err)
		return
	}
	h, code, page, policy := w.Header(), http.StatusOK, viewer.Page(), viewer.Policy
	if _, err := s.watcher(r, nodeID, false); err != nil {
		// Who followed a link of another site may still log in.
		linked := errors.Is(err, errOrigin) && r.Header.Get("Sec-Fetch-Dest") == "document"
		if errs.ClassOf(err) != errs.Unauthenticated && !linked {
			refuse(w, err)
			return
		}
		code = http.StatusUnauthorized
		page, policy = viewer.SignIn()
	}
	h["Content-Type"] = []string{"text/html; charset=utf-8"}
	h["Content-Security-Policy"] = []string{policy}
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write(page)
	}
}

// screenPages is the facts of the pages of the viewer, which are no RPC: those of a token for them.
var screenPages = &ops.Operation{Role: identity.RoleOperator, Scope: identity.ScopeWrite}

// watcher is who asks for a page of the viewer: whom the session of the browser stands for, else the bearer.
func (s *server) watcher(r *http.Request, nodeID string, anyScreen bool) (identity.Caller, error) {
	from := s.d.Peers.Peer(r)
	if err := s.site(r, from); err != nil {
		return identity.Caller{}, err
	}
	if r.Header["Authorization"] == nil {
		for _, c := range r.Cookies() {
			if !strings.HasPrefix(c.Name, screenCookie) {
				continue
			}
			caller, err := s.d.Screens.Entered(c.Value, nodeID, anyScreen)
			if err == nil {
				peer.Proved(r.Context())
				caller.Door, caller.RemoteIP, caller.Local = identity.DoorREST, from.IP(), false
				return caller, nil
			}
		}
	}
	c, err := s.guard(r)
	if err != nil {
		return c, err
	}
	return c, s.d.Gate.Admit(c, screenPages)
}

// screenBody is what pages of the viewer send.
type screenBody struct {
	NodeID string `json:"nodeId"`
	Token  string `json:"token"`
}

// readScreen reads it. Only a page of this origin, or no page, can send JSON without being asked whether it may.
func readScreen(w http.ResponseWriter, r *http.Request) (b screenBody, err error) {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return b, errScreenBody
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxScreenBody))
	dec.DisallowUnknownFields()
	if dec.Decode(&b) != nil {
		return b, errScreenBody
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return b, errScreenBody
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return b, nil
}

// enterViewer lets a browser in that shows a credential, or a token that was made with one: it gets a session that no
// script can read and no other site can use.
func (s *server) enterViewer(w http.ResponseWriter, r *http.Request) {
	session, nodeID, err := s.newSession(w, r)
	if err != nil {
		refuse(w, err)
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // without TLS, a cookie that is for TLS alone would be lost
		Name: cookieOf(nodeID), Value: session, Path: screens.ViewerPath, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil,
	})
	w.WriteHeader(http.StatusNoContent)
}

// cookieOf is the cookie of a screen, so that a browser can look at several.
func cookieOf(nodeID string) string {
	sum := sha256.Sum256([]byte(nodeID))
	return screenCookie + "_" + hex.EncodeToString(sum[:8])
}

func (s *server) newSession(w http.ResponseWriter, r *http.Request) (session, nodeID string, err error) {
	from := s.d.Peers.Peer(r)
	if err := s.site(r, from); err != nil {
		return "", "", err
	}
	b, err := readScreen(w, r)
	if err != nil {
		return "", "", err
	}
	if b.Token == "" {
		c, err := s.guard(r)
		if err != nil {
			return "", "", err
		}
		// Whether the caller may have a token is what decides.
		out, err := s.screens.CreateToken(rpc.WithCaller(r.Context(), c), &tunnelv1.ScreenServiceCreateTokenRequest{NodeId: b.NodeID})
		if err != nil {
			return "", "", err
		}
		b.Token = out.GetToken()
	}
	c, err := s.d.Screens.Redeem(b.Token, b.NodeID)
	if err != nil {
		return "", "", err
	}
	peer.Proved(r.Context())
	session, err = s.d.Screens.Enter(c, b.NodeID)
	return session, b.NodeID, err
}

// lookAgain makes a token for the page of a browser that was let in.
func (s *server) lookAgain(w http.ResponseWriter, r *http.Request) {
	b, err := readScreen(w, r)
	var c identity.Caller
	if err == nil {
		c, err = s.watcher(r, b.NodeID, false)
	}
	var out *tunnelv1.ScreenServiceCreateTokenResponse
	if err == nil {
		out, err = s.screens.CreateToken(rpc.WithCaller(r.Context(), c), &tunnelv1.ScreenServiceCreateTokenRequest{NodeId: b.NodeID})
	}
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header()["Content-Type"] = jsonType
	body, err := json.Marshal(struct {
		Token string `json:"token"`
	}{out.GetToken()})
	if err == nil {
		_, _ = w.Write(body)
	}
}

// screenSocket shows a screen over a WebSocket (tunnel.md §2.7). It goes through the same handler as gRPC. A viewer
// whose credential counts is let in before its screen is reached, as in the original, and told by how the WebSocket
// closes what went wrong.
func (s *server) screenSocket(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = noStore
	nodeID, err := screenOf(r)
	var c identity.Caller
	if err == nil {
		c, err = s.viewerOf(r, nodeID)
	}
	if err != nil {
		refuse(w, err)
		return
	}
	ctx, cancel := context.WithCancel(rpc.WithCaller(context.WithoutCancel(r.Context()), c))
	defer cancel()
	stream, err := s.screens.Connect(ctx)
	if err == nil {
		err = stream.Send(&tunnelv1.ScreenServiceConnectRequest{Message: &tunnelv1.ScreenServiceConnectRequest_Connect{Connect: &tunnelv1.ScreenConnect{NodeId: nodeID}}})
	}
	if err == nil || errors.Is(err, io.EOF) {
		if md, bad := stream.Header(); bad != nil || len(md.Get(rpc.OpenHeader)) == 0 {
			if _, err = stream.Recv(); err == nil {
				err = bad
			}
		} else {
			err = nil
		}
	}
	if err != nil {
		refuse(w, err)
		return
	}
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // the guard has judged the origin
		CompressionMode:    websocket.CompressionDisabled, Subprotocols: []string{screenProtocol},
	})
	if err != nil {
		return // it has answered
	}
	defer ws.CloseNow() // it was closed with a reason where there is somebody to tell
	ws.SetReadLimit(-1) // messages are passed on in pieces, and none is held
	gone := make(chan struct{})
	go func() { // ends with the connection
		defer close(gone)
		defer cancel()
		pointing(ctx, ws, stream)
	}()
	go keepAlive(ctx, ws)
	s.show(ctx, ws, stream, nodeID)
	cancel()
	_ = ws.CloseNow()
	<-gone
}

// viewerOf is who opens a WebSocket: whom a token among the subprotocols stands for, else the bearer. The session of a
// browser does not count here, because other sites can open WebSockets too.
func (s *server) viewerOf(r *http.Request, nodeID string) (identity.Caller, error) {
	token := lookOf(r.Header)
	if token == "" {
		tokenOf(r.Header)
		return s.guard(r)
	}
	from := s.d.Peers.Peer(r)
	if err := s.site(r, from); err != nil {
		return identity.Caller{}, err
	}
	c, err := s.d.Screens.Redeem(token, nodeID)
	if err != nil {
		return identity.Caller{}, err
	}
	peer.Proved(r.Context())
	c.Door, c.RemoteIP, c.Local = identity.DoorREST, from.IP(), false
	return c, nil
}

// lookOf takes a token out of the subprotocols, so that it goes no further.
func lookOf(h http.Header) (token string) {
	var kept []string
	for _, v := range h["Sec-Websocket-Protocol"] {
		for one := range strings.SplitSeq(v, ",") {
			one = strings.TrimSpace(one)
			if t, ok := strings.CutPrefix(one, lookProtocol); ok {
				token = t
				continue
			}
			kept = append(kept, one)
		}
	}
	if token == "" {
		return ""
	}
	if h.Del("Sec-WebSocket-Protocol"); len(kept) > 0 {
		h["Sec-Websocket-Protocol"] = []string{strings.Join(kept, ", ")}
	}
	return token
}

// show sends what the VNC server says until somebody leaves.
func (s *server) show(ctx context.Context, ws *websocket.Conn, stream tunnelv1.ScreenService_ConnectClient, nodeID string) {
	for {
		m, err := stream.Recv()
		if err != nil {
			if ctx.Err() == nil {
				code, why := screenEnd(err, nodeID)
				_ = ws.Close(code, cutReason(why)) // the connection ends either way
			}
			return
		}
		data, ok := m.GetMessage().(*tunnelv1.ScreenServiceConnectResponse_Data)
		if !ok {
			continue
		}
		// Who takes nothing for so long is gone.
		writing, cancel := context.WithTimeout(ctx, screens.StallTime)
		err = ws.Write(writing, websocket.MessageBinary, data.Data)
		cancel()
		if err != nil {
			return
		}
	}
}

// screenEnd is how the WebSocket of a viewer closes (tunnel.md §2.7).
func screenEnd(err error, nodeID string) (websocket.StatusCode, string) {
	if errors.Is(err, io.EOF) {
		if nodeID == "" {
			return websocket.StatusNormalClosure, "VNC server closed"
		}
		return websocket.StatusNormalClosure, "tunnel closed"
	}
	st := status.Convert(err)
	p := problemOf(st)
	switch p.Code {
	case screens.ErrNodeUnknown.Code:
		return statusUnknownNode, "node " + nodeID + " not in registry"
	case screens.ErrNoServer.Code:
		return websocket.StatusInternalError, "Cannot connect to VNC server at " + p.Fields["address"]
	case screens.ErrCallLate.Code:
		return websocket.StatusInternalError, "tunnel timeout: node did not connect back"
	case screens.ErrCallFailed.Code:
		return websocket.StatusInternalError, "tunnel invoke failed: " + p.Fields["code"]
	case screens.ErrIdle.Code:
		return websocket.StatusNormalClosure, p.Detail
	case screens.ErrStopping.Code, rpc.CodeStopping:
		return websocket.StatusGoingAway, p.Detail
	}
	switch st.Code() {
	case codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition:
		return websocket.StatusPolicyViolation, p.Detail
	case codes.ResourceExhausted:
		return websocket.StatusTryAgainLater, p.Detail
	case codes.Canceled:
		return websocket.StatusNormalClosure, "tunnel closed"
	}
	return websocket.StatusInternalError, p.Detail
}

// pointing hands on what the viewer sends, until it leaves. A server that does not read makes it wait.
func pointing(ctx context.Context, ws *websocket.Conn, stream tunnelv1.ScreenService_ConnectClient) {
	buf := make([]byte, screenPiece)
	for {
		kind, message, err := ws.Reader(ctx)
		if err != nil {
			return // it has left, or the screen has ended
		}
		if kind != websocket.MessageBinary {
			_ = ws.Close(websocket.StatusUnsupportedData, "a screen takes binary messages") // the connection ends either way
			return
		}
		for {
			n, err := message.Read(buf)
			if n > 0 {
				m := &tunnelv1.ScreenServiceConnectRequest{Message: &tunnelv1.ScreenServiceConnectRequest_Data{Data: buf[:n]}}
				if stream.Send(m) != nil {
					return // the reader of the stream knows why
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return
			}
		}
	}
}

// calledBack takes a node of the older kind that comes back with its screen. The token that this daemon made for it,
// for one use, is its credential.
func (s *server) calledBack(w http.ResponseWriter, r *http.Request) {
	w.Header()["Cache-Control"] = noStore
	values, _ := url.ParseQuery(r.URL.RawQuery) // what cannot be read is no token
	token := values.Get("tunnelId")
	if !web.Upgrading(r) {
		code := http.StatusUpgradeRequired
		if token == "" {
			code = http.StatusNotFound
		}
		text(w, code, http.StatusText(code))
		return
	}
	if !web.CheckUpgrade(w, r) {
		return
	}
	deliver, err := s.d.Screens.Called(token)
	if err != nil {
		code := http.StatusForbidden
		if errors.Is(err, screens.ErrCallRequired) {
			code = http.StatusNotFound
		}
		text(w, code, http.StatusText(code))
		return
	}
	peer.Proved(r.Context())
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // no browser has the token
		CompressionMode:    websocket.CompressionDisabled, Subprotocols: []string{screenProtocol},
	})
	if err != nil {
		return // it has answered; who waits for the node hears of it when the time is over
	}
	ws.SetReadLimit(-1) // as above
	//nolint:contextcheck // the connection is no longer the server's
	ctx, cancel := context.WithCancel(context.Background())
	p := &socketPipe{ws: ws, ctx: ctx, cancel: cancel}
	go keepAlive(ctx, ws)
	deliver(p)
	<-ctx.Done()
}

// socketPipe is a WebSocket as a way to a VNC server.
type socketPipe struct {
	ws     *websocket.Conn
	ctx    context.Context //nolint:containedctx // ends with the connection
	cancel context.CancelFunc
	rest   io.Reader // of the message that is read
	once   sync.Once
}

// Read implements screens.Pipe.
func (p *socketPipe) Read(b []byte) (int, error) {
	for {
		if p.rest == nil {
			kind, m, err := p.ws.Reader(p.ctx)
			switch code := websocket.CloseStatus(err); {
			case code == websocket.StatusNormalClosure || code == websocket.StatusGoingAway || code == websocket.StatusNoStatusRcvd:
				return 0, io.EOF
			case err != nil:
				return 0, err
			case kind != websocket.MessageBinary:
				continue // a note; it is no part of the screen
			}
			p.rest = m
		}
		n, err := p.rest.Read(b)
		if errors.Is(err, io.EOF) {
			p.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// Write implements screens.Pipe.
func (p *socketPipe) Write(b []byte) (int, error) {
	if err := p.ws.Write(p.ctx, websocket.MessageBinary, b); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Close implements screens.Pipe.
func (p *socketPipe) Close(err error) error {
	p.once.Do(func() {
		go func() { // a peer that does not answer is waited for, for some seconds
			defer p.cancel()
			code, why := websocket.StatusNormalClosure, "tunnel closed"
			if errors.Is(err, screens.ErrStopping) {
				code, why = websocket.StatusGoingAway, "gateway stopping"
			}
			_ = p.ws.Close(code, why) // the connection ends either way
		}()
	})
	return nil
}
