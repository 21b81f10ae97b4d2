package door

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/identity"
	ports "github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/runtime/rpc"
)

// remoteDoor is gRPC over TLS, and a connection to it.
type remoteDoor struct {
	cert *ports.Certificate
	addr string
	conn *grpc.ClientConn
}

func openRemote(t *testing.T, s *rpc.Server) *remoteDoor {
	t.Helper()
	f := ports.TLSFiles{Generate: true}
	f.Cert, f.Key = ports.DefaultTLSFiles(t.TempDir())
	cert, err := ports.LoadCertificate(f, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := s.Remote(ports.RemoteCredentials(cert))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(ports.Limit(l)) // it ends with Stop
	}()
	r := &remoteDoor{cert: cert, addr: l.Addr().String()}
	r.conn, err = grpc.NewClient("passthrough:///"+r.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.conn.Close()
		g.Stop()
		<-done
	})
	return r
}

func bearer(token string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
}

// TestRemoteStranger: without credentials nothing answers, not even the standard health service
// (R23), and what is not there looks like what is.
func TestRemoteStranger(t *testing.T) {
	h := newHouse(t)
	methods := []string{
		"/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/no.such.Service/Method", "/", "//", "/hanzo.system.v1.SystemService/",
	}
	for _, op := range h.catalogue.All() {
		if op.Method != "" {
			methods = append(methods, op.Method)
		}
	}
	refused := 0
	for _, m := range methods {
		for name, md := range map[string]metadata.MD{
			"nothing":        {},
			"a wrong token":  {"authorization": {"Bearer wrong"}},
			"an empty token": {"authorization": {"Bearer "}},
			"no bearer":      {"authorization": {"Basic " + secretText}},
			"the bare token": {"authorization": {secretText}},
			"two tokens":     {"authorization": {"Bearer wrong", "Bearer " + secretText}},
			"in another key": {"x-authorization": {"Bearer " + secretText}, "token": {secretText}},
			"role and name":  {"x-hanzo-role": {"node"}, "x-hanzo-client": {"me"}, "x-forwarded-for": {"127.0.0.1"}},
		} {
			if refused++; refused%4 == 0 { // a connection bears eight in a row
				h.remote.known(t)
			}
			ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), md), patience)
			err := h.remote.conn.Invoke(ctx, m, &systemv1.GetHealthRequest{}, &systemv1.GetHealthResponse{})
			cancel()
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with %s: %v", m, name, err)
			}
		}
	}
	// With credentials the health service answers, and an unknown method is no secret to be had.
	if _, err := healthpb.NewHealthClient(h.remote.conn).Check(bearer(secretText), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	err := h.remote.conn.Invoke(bearer(secretText), "/no.such.Service/Method", &systemv1.GetHealthRequest{}, &systemv1.GetHealthResponse{})
	if code := status.Code(err); code != codes.Unimplemented && code != codes.PermissionDenied {
		t.Errorf("an unknown method: %v", err)
	}
}

// known makes a call that is let in.
func (r *remoteDoor) known(t *testing.T) {
	t.Helper()
	if err := r.conn.Invoke(bearer(secretText), systemv1.SystemService_GetHealth_FullMethodName, &systemv1.GetHealthRequest{}, &systemv1.GetHealthResponse{}); err != nil {
		t.Fatal(err)
	}
}

// TestRemoteRole: who may do everything may be a node instead; everybody else has the role of the
// credentials and no other.
func TestRemoteRole(t *testing.T) {
	h := newHouse(t)
	token := map[string]string{"secret": secretText}
	for _, k := range h.kinds {
		token[k.name] = k.token
	}
	list := func(who, role string) error {
		_, err := nodesv1.NewNodeServiceClient(h.remote.conn).ListNodes(metadata.AppendToOutgoingContext(bearer(token[who]), "x-hanzo-role", role), &nodesv1.ListNodesRequest{})
		return err
	}
	for _, tc := range []struct {
		who, role string
		code      codes.Code
		text      string
	}{
		{"secret", "operator", codes.OK, ""},
		{"secret", "node", codes.PermissionDenied, "the role node"}, // it is one, and nodes list nothing
		{"secret", "admin", codes.PermissionDenied, "another role"},
		{"secret", "", codes.PermissionDenied, "another role"},
		{"secret", "invited", codes.PermissionDenied, "another role"},
		{string(identity.ScopeAdmin), "operator", codes.OK, ""},
		{string(identity.ScopeAdmin), "node", codes.PermissionDenied, "another role"},
		{string(identity.ScopeRead), "node", codes.PermissionDenied, "another role"},
		{"node", "node", codes.PermissionDenied, "the role node"},
		{"node", "operator", codes.PermissionDenied, "another role"},
	} {
		if err := list(tc.who, tc.role); status.Code(err) != tc.code || !strings.Contains(status.Convert(err).Message(), tc.text) {
			t.Errorf("%s as %q: %v", tc.who, tc.role, err)
		}
	}
}

// TestRemoteBodyBeforeCredentials: a stranger's call is refused by its header. The daemon neither
// waits for the body nor takes it.
func TestRemoteBodyBeforeCredentials(t *testing.T) {
	h := newHouse(t)
	c, err := tls.Dial("tcp", h.remote.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(c, c)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, hf := range [][2]string{
		{":method", "POST"}, {":scheme", "https"}, {":path", systemv1.SystemService_GetHealth_FullMethodName}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"authorization", "Bearer wrong"},
	} {
		_ = enc.WriteField(hpack.HeaderField{Name: hf[0], Value: hf[1]})
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	// A message of 20 MiB is announced and does not come.
	prefix := make([]byte, 5)
	binary.BigEndian.PutUint32(prefix[1:], 20<<20)
	if err := f.WriteData(1, false, prefix); err != nil {
		t.Fatal(err)
	}
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("no refusal came: %v", err)
		}
		hf, ok := fr.(*http2.HeadersFrame)
		if !ok {
			continue
		}
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(hf.HeaderBlockFragment())
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range fields {
			if field.Name == "grpc-status" && field.Value != "16" {
				t.Errorf("status %s", field.Value)
			}
		}
		return
	}
}

// TestRemoteManyRefusals: a connection that goes on with wrong credentials is closed.
func TestRemoteManyRefusals(t *testing.T) {
	h := newHouse(t)
	lost := 0
	for range 40 {
		err := h.remote.conn.Invoke(bearer("wrong"), systemv1.SystemService_GetHealth_FullMethodName, &systemv1.GetHealthRequest{}, &systemv1.GetHealthResponse{})
		switch status.Code(err) {
		case codes.Unauthenticated:
		case codes.Unavailable: // it was closed, and the client has dialled again
			lost++
		default:
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.remote.known(t)
	t.Logf("%d calls met the end of their connection", lost)
}

// TestTLSPort: with gateway.tls, REST and the legacy door speak TLS on their port, and plain HTTP is
// told so.
func TestTLSPort(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{TLS: true, GRPC: true})
	cfg := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		if got := client.Fingerprint(s.PeerCertificates[0].Raw); got != d.TLSFingerprint() {
			return errors.New("another certificate: " + got)
		}
		return nil
	}}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}, Timeout: patience}
	defer web.CloseIdleConnections()
	get := func(c *http.Client, url string) (int, string) {
		t.Helper()
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	if code, text := get(web, d.URL()+"/health"); code != 200 || text != `{"ok":true,"status":"live"}` {
		t.Errorf("%d %s", code, text)
	}
	plain := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer plain.CloseIdleConnections()
	if code, text := get(plain, "http://"+d.Addr()+"/health"); code != 400 || !strings.Contains(text, "HTTPS") {
		t.Errorf("%d %s", code, text)
	}
	if code, text := get(plain, "http://"+d.GRPCAddress()+"/health"); code != 400 || !strings.Contains(text, "gRPC over TLS") {
		t.Errorf("%d %s", code, text)
	}
	old := cfg.Clone()
	old.MaxVersion = tls.VersionTLS12
	for _, addr := range []string{d.Addr(), d.GRPCAddress()} {
		if c, err := tls.Dial("tcp", addr, old); err == nil {
			_ = c.Close()
			t.Errorf("%s speaks TLS 1.2", addr)
		}
	}
	// The legacy door.
	c, hello := connectBy(t, &http.Client{Transport: &http.Transport{TLSClientConfig: cfg}}, d.WS(), params("operator", d.Token, []string{"operator.read"}, nil), nil)
	if hello["ok"] != true {
		t.Fatalf("%v", hello)
	}
	if r := c.call("health", object{}); r["ok"] != true {
		t.Errorf("%v", r)
	}
	// gRPC, by the client that hanzoctl uses.
	cl, err := client.Dial(t.Context(), client.Options{Host: d.Host(), TLSFingerprint: d.TLSFingerprint(), Token: d.Token})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	s, err := cl.System.GetStatus(t.Context(), &systemv1.GetStatusRequest{})
	if err != nil || s.GetStateDir() == "" {
		t.Errorf("%v, %v", s, err)
	}
	// The secret is shown on the socket alone.
	if _, err := cl.System.GetSharedSecret(t.Context(), &systemv1.GetSharedSecretRequest{}); err == nil {
		t.Error("the secret is shown to another machine")
	}
}
