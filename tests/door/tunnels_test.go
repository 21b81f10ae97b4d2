package door

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hanzoai/hanzod/client"
	"github.com/hanzoai/hanzod/compat/hoody"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
	"github.com/hanzoai/hanzod/tunnel/driver"
	"github.com/hanzoai/hanzod/tunnel/mux"
	"github.com/hanzoai/hanzod/tunnel/wire"
)

// tunnelWorld is a daemon with a tunnel that exposes, pulls and dials.
type tunnelWorld struct {
	*terminalWorld // for its requests; it has no node
	s              *driver.Session
	expose, pull   *driver.Binding
	echo           string // where a service answers what it is told
}

func newTunnelWorld(t *testing.T, config map[string]any) *tunnelWorld {
	t.Helper()
	d := hanzodtest.Start(t, hanzodtest.Options{Config: config})
	c, err := client.Dial(t.Context(), client.Options{Socket: d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w := &tunnelWorld{terminalWorld: &terminalWorld{t: t, d: d, c: c}, echo: echoes(t)}
	w.s = w.connect(wire.V2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if w.expose, err = w.s.Expose(ctx, driver.ExposeIn{Target: w.echo, TCP: true, Label: "shop"}); err != nil {
		t.Fatal(err)
	}
	if w.pull, err = w.s.Pull(ctx, driver.PullIn{Target: w.echo}); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(w.echo)
	number, _ := strconv.Atoi(port)
	if _, err = w.s.DialBinding(ctx, driver.DialIn{Host: host, Port: number}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *tunnelWorld) connect(version string) *driver.Session {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	s, err := driver.Connect(ctx, driver.Options{
		Version: version, Grace: -1,
		Dial: func(ctx context.Context, _ int) (mux.Carrier, error) {
			return hoody.Dial(ctx, "ws://"+w.d.Addr(), w.d.Token, version, hoody.DialOptions{})
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Close() })
	return s
}

// echoes answers connections with what they send.
func echoes(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

// visit sends a line to a port of the daemon and reads it back; the connection stays.
func (w *tunnelWorld) visit(port int) net.Conn {
	w.t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), patience)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		w.t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != "hello\n" {
		w.t.Fatalf("%q %v", line, err)
	}
	return c
}

// within waits until ok says yes.
func (w *tunnelWorld) within(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("in vain: %s", what)
		}
	}
}

// bare asks without a credential.
func (w *tunnelWorld) bare(method, path string, header ...string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.d.Addr()+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

type list = []map[string]any

// The same tunnel by gRPC, by REST and by the endpoints of hoody-tunnel in both shapes (tunnel.md §4.2, §5.3).
func TestTunnelsByEveryDoor(t *testing.T) {
	w := newTunnelWorld(t, nil)
	id := w.s.ID()
	w.visit(w.expose.Info().Port)
	w.visit(w.pull.Info().Port)

	byGRPC, err := w.c.Tunnels.List(t.Context(), &tunnelv1.TunnelServiceListRequest{})
	if err != nil || len(byGRPC.GetTunnels()) != 1 {
		t.Fatal(byGRPC, err)
	}
	one := byGRPC.GetTunnels()[0]
	if one.GetTunnelId() != id || one.GetProtocol() != wire.V2 || one.GetCarrier() != "websocket" || one.GetActiveStreams() != 2 || len(one.GetBindings()) != 3 ||
		one.GetPeerAddress() == "" || one.GetParked() || one.GetCreatedAt() == nil || one.GetPermitsUsed() == 0 || byGRPC.GetTotals().GetBindings() != 3 {
		t.Errorf("%v", byGRPC)
	}
	var raw json.RawMessage
	w.rest("GET", "/v1/tunnels", "", 200, &raw)
	byREST := &tunnelv1.TunnelServiceListResponse{}
	if err := protojson.Unmarshal(raw, byREST); err != nil || len(byREST.GetTunnels()) != 1 || byREST.GetTunnels()[0].GetTunnelId() != id {
		t.Errorf("%s %v", raw, err)
	}
	w.rest("GET", "/v1/tunnels/"+id, "", 200, &raw)
	got, err := w.c.Tunnels.Get(t.Context(), &tunnelv1.TunnelServiceGetRequest{TunnelId: id})
	if err != nil || got.GetTunnel().GetTunnelId() != id {
		t.Error(got, err)
	}
	w.rest("GET", "/v1/tunnels/nope", "", 404, nil)

	bound, err := w.c.Tunnels.ListBindings(t.Context(), &tunnelv1.ListBindingsRequest{TunnelId: id})
	if err != nil || len(bound.GetBindings()) != 3 {
		t.Fatal(bound, err)
	}
	var modes []string
	for _, b := range bound.GetBindings() {
		modes = append(modes, b.GetMode().String())
		switch b.GetMode() {
		case tunnelv1.BindingMode_BINDING_MODE_EXPOSE:
			if b.GetName() != "shop" || int(b.GetPort()) != w.expose.Info().Port || b.GetBindingId() == "" || b.GetKind() != tunnelv1.BindingKind_BINDING_KIND_TCP {
				t.Errorf("%v", b)
			}
		case tunnelv1.BindingMode_BINDING_MODE_PULL:
			if int(b.GetPort()) != w.pull.Info().Port || b.GetHost() != "127.0.0.1" {
				t.Errorf("%v", b)
			}
		default:
			if b.GetTarget() != w.echo || b.GetPort() != 0 || b.GetBindingId() != "" {
				t.Errorf("%v", b)
			}
		}
	}
	if slices.Sort(modes); strings.Join(modes, " ") != "BINDING_MODE_DIAL BINDING_MODE_EXPOSE BINDING_MODE_PULL" {
		t.Error(modes)
	}
	w.rest("GET", "/v1/bindings?node_id=nope", "", 200, &raw)
	if text := strings.ReplaceAll(string(raw), " ", ""); text != `{"bindings":[]}` {
		t.Error(text)
	}

	var seed list
	w.rest("GET", "/api/v1/tunnel/tunnels", "", 200, &seed)
	if len(seed) != 1 || seed[0]["session_id"] != id || seed[0]["stream_count"] != 2.0 || len(seed[0]["bindings"].([]any)) != 3 || seed[0]["container_id"] == "" ||
		seed[0]["protocol_version"] != wire.V2 {
		t.Errorf("%v", seed)
	}
	var sessions list
	w.rest("GET", "/api/v1/tunnel/sessions", "", 200, &sessions)
	if len(sessions) != 1 || sessions[0]["max_streams"] != float64(one.GetMaxStreams()) {
		t.Errorf("%v", sessions)
	}
	var rows list
	w.rest("GET", "/api/v1/tunnel/bindings", "", 200, &rows)
	var words []string
	for _, r := range rows {
		words = append(words, fmt.Sprint(r["bind_id"], " ", r["kind"], " ", r["mode"], " ", r["direction"], " ", r["bindAddr"]))
	}
	if slices.Sort(words); strings.Join(words, "; ") != "bind_dial_003 PULL tcp outbound <nil>; bind_expose_001 EXPOSE tcp <nil> <nil>; bind_pull_002 PULL tcp <nil> 127.0.0.1" {
		t.Error(words)
	}
	var kit map[string]any
	w.rest("GET", "/api/v1/tunnel/tunnels?shape=kit", "", 200, &kit)
	if kit["totalStreams"] != 2.0 || kit["totalBindings"] != 3.0 || kit["orphanedSessions"] != 0.0 || kit["fdPermitsAvailable"] != float64(byGRPC.GetTotals().GetPermitsAvailable()) {
		t.Errorf("%v", kit)
	}

	// Health: real figures, with and without a credential.
	for _, path := range []string{"/api/v1/tunnel/health", "/api/v1/tunnel/health?shape=kit"} {
		code, text := w.bare("GET", path)
		var h map[string]any
		if err := json.Unmarshal([]byte(text), &h); err != nil || code != 200 || len(h) != 9 || h["ip"] != "127.0.0.1" || !strings.HasPrefix(fmt.Sprint(h["userAgent"]), "hoody-tunnel/") {
			t.Errorf("%d %s", code, text)
		}
	}
	w.rest("GET", "/v1/tunnels:health", "", 200, &raw)
	health, err := w.c.Tunnels.Health(t.Context(), &tunnelv1.TunnelServiceHealthRequest{})
	if err != nil || health.GetStatus() != "ready" || health.GetTotals().GetTunnels() != 1 || health.GetMemoryHeapUsed() == 0 || health.GetIp() != "127.0.0.1" {
		t.Error(health, err)
	}

	// Everything else needs a credential; what is not there is not there.
	for path, want := range map[string]int{
		"GET /api/v1/tunnel/tunnels": 401, "GET /api/v1/tunnel/sessions": 401, "GET /api/v1/tunnel/bindings": 401, "GET /api/v1/tunnel/metrics": 401,
		"DELETE /api/v1/tunnel/sessions/x": 401, "GET /api/v1/tunnel/nope": 404, "GET /api/v1/tunnel": 404, "GET /api/v1/tunnel/sessions/x/y": 404,
		"POST /api/v1/tunnel/tunnels": 405, "GET /api/v1/tunnel/connect": 426,
	} {
		method, p, _ := strings.Cut(path, " ")
		if code, text := w.bare(method, p); code != want {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}

// metricsOf reads the page: names with labels, and their values.
func (w *tunnelWorld) metricsOf(path string) (map[string]float64, string) {
	w.t.Helper()
	_, text := w.bare("GET", path, "Authorization", "Bearer "+w.d.Token)
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && (strings.HasPrefix(name, "hoody_tunnel_") || strings.HasPrefix(name, "hanzod_tunnel_")) {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				w.t.Fatalf("%q: %v", line, err)
			}
			out[name] = n
		}
	}
	return out, text
}

// The figures are those of the lists (tunnel.md §4.11).
func TestTunnelMetrics(t *testing.T) {
	w := newTunnelWorld(t, nil)
	w.visit(w.expose.Info().Port)
	w.visit(w.pull.Info().Port)
	w.visit(w.pull.Info().Port)
	for _, path := range []string{"/api/v1/tunnel/metrics", "/metrics"} {
		m, text := w.metricsOf(path)
		sum := func(prefix string) (n float64) {
			for name, v := range m {
				if name == prefix || strings.HasPrefix(name, prefix+"{") {
					n += v
				}
			}
			return n
		}
		out, err := w.c.Tunnels.List(t.Context(), &tunnelv1.TunnelServiceListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		totals := out.GetTotals()
		for name, want := range map[string]uint32{
			"hoody_tunnel_sessions_active": totals.GetTunnels() - totals.GetParked(), "hoody_tunnel_orphans": totals.GetParked(), "hoody_tunnel_bindings_active": totals.GetBindings(),
			"hoody_tunnel_streams_active": totals.GetActiveStreams(), "hoody_tunnel_fd_permits_permit_count": totals.GetPermitsUsed(),
			"hoody_tunnel_fd_permits_available": totals.GetPermitsAvailable(),
		} {
			if got, ok := sum(name), strings.Contains(text, "# TYPE "+name+" gauge\n"); got != float64(want) || !ok {
				t.Errorf("%s: %s is %v, want %d", path, name, got, want)
			}
		}
		if totals.GetActiveStreams() != 3 || m[`hoody_tunnel_bindings_active{kind="http",mode="expose"}`] != 0 || m[`hoody_tunnel_bindings_active{kind="tcp",mode="pull"}`] != 1 {
			t.Errorf("%v", m)
		}
		for _, name := range []string{
			"streams_total", "bytes_total", "window_stall_seconds_total", "resumes_total", "takeovers_total", "kills_total",
		} {
			if !strings.Contains(text, "# TYPE hoody_tunnel_"+name+" counter\n") {
				t.Errorf("%s lacks %s", path, name)
			}
		}
		for _, direction := range []string{"in", "out"} {
			if n := m[`hoody_tunnel_bytes_total{direction="`+direction+`"}`]; n < 18 {
				t.Errorf("%s: %v bytes went %s", path, n, direction)
			}
		}
		if open, all := m[`hoody_tunnel_streams_by_state{state="open"}`], sum("hoody_tunnel_streams_by_state"); open != 3 || all != 3 {
			t.Errorf("%s: %v streams are open, of %v", path, open, all)
		}
		if n := sum("hanzod_tunnel_streams_by_state"); n != 3 || !strings.Contains(text, `,state="open",tunnel="`+w.s.ID()+`"} 3`+"\n") {
			t.Errorf("%s: %v streams are in the states of the tunnels: %v", path, n, m)
		}
		// What is said of each tunnel and binding adds up to the figures of all.
		if !strings.Contains(text, `,tunnel="`+w.s.ID()+`"} 3`+"\n") {
			t.Errorf("%s does not say that the tunnel has three streams: %v", path, m)
		}
		if a, b, c := sum("hanzod_tunnel_open_streams"), sum("hanzod_tunnel_binding_open_streams"), sum("hanzod_tunnel_state"); a != 3 || b != 3 || c != float64(totals.GetTunnels()) {
			t.Errorf("%s: %v streams of tunnels, %v of bindings, %v tunnels", path, a, b, c)
		}
		for _, name := range []string{"hanzod_tunnel_transferred_bytes_total", "hanzod_tunnel_binding_transferred_bytes_total"} {
			if got := sum(name); got != sum("hoody_tunnel_bytes_total") {
				t.Errorf("%s: %s is %v: %v", path, name, got, m)
			}
		}
		promtool(t, text)
	}
	// What is refused is counted by its code.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := w.s.Expose(ctx, driver.ExposeIn{Target: w.echo, Port: 22}); err == nil {
		t.Fatal("a reserved port is given away")
	}
	w.s.Close()
	w.within("a tunnel is gone", func() bool {
		m, _ := w.metricsOf("/metrics")
		return m["hoody_tunnel_sessions_active"] == 0 && m[`hoody_tunnel_binds_rejected_total{code="RESERVED_PORT"}`] == 1 && m[`hoody_tunnel_streams_active{kind="tcp"}`] == 0
	})
}

// promtool judges a page. The name of the permits in use is that of the original, which promtool takes for a part
// of a histogram; there is nothing else.
func promtool(t *testing.T, text string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	out, _ := cmd.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "hoody_tunnel_fd_permits_permit_count non-histogram and non-summary metrics should not have \"_count\" suffix") {
			t.Errorf("promtool: %s", line)
		}
	}
}

// Everybody may read the figures where the configuration says so.
func TestPublicTunnelMetrics(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{Config: map[string]any{"tunnel": map[string]any{"metricsPublic": true}}})
	w := &tunnelWorld{terminalWorld: &terminalWorld{t: t, d: d}}
	if code, text := w.bare("GET", "/api/v1/tunnel/metrics"); code != 200 || !strings.Contains(text, "\nhoody_tunnel_sessions_active 0\n") || strings.Contains(text, "go_goroutines") || strings.Contains(text, "\nhanzod_tunnel_") {
		t.Errorf("%d %s", code, text)
	}
	if code, _ := w.bare("GET", "/metrics"); code != 401 {
		t.Errorf("the other page: %d", code)
	}
}

// A kill by each door (tunnel.md §4.8, §4.12).
func TestKillTunnelsByEveryDoor(t *testing.T) {
	w := newTunnelWorld(t, nil)
	first := w.s.ID()
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+first+"?session_id=other", "", 400, nil)
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+first+"?grace_ms=5001", "", 400, nil)
	var closing map[string]any
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+first+"?session_id="+first, "", 202, &closing)
	if len(closing) != 3 || closing["session_id"] != first || closing["sessionId"] != first || closing["status"] != "closing" {
		t.Error(closing)
	}
	var left list
	w.rest("GET", "/api/v1/tunnel/tunnels", "", 200, &left)
	if len(left) != 0 {
		t.Errorf("a tunnel that was killed is listed: %v", left)
	}
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+first, "", 404, nil)
	select {
	case <-w.s.Done():
	case <-time.After(patience):
		t.Fatal("the client does not learn of it")
	}

	second := w.connect(wire.V1)
	w.rest("DELETE", "/v1/tunnels/"+second.ID()+"?grace_ms=5001", "", 400, nil)
	w.rest("DELETE", "/v1/tunnels/"+second.ID()+"?grace_ms=0", "", 200, nil)
	w.rest("DELETE", "/v1/tunnels/"+second.ID(), "", 404, nil)
	third := w.connect(wire.V1)
	if _, err := w.c.Tunnels.Kill(t.Context(), &tunnelv1.TunnelServiceKillRequest{TunnelId: third.ID()}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.c.Tunnels.Kill(t.Context(), &tunnelv1.TunnelServiceKillRequest{TunnelId: third.ID()}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if m, _ := w.metricsOf("/metrics"); m["hoody_tunnel_kills_total"] != 3 {
		t.Errorf("%v", m)
	}
}

// A kill lets a stream finish, and the lists do not have the tunnel meanwhile.
func TestKillDrains(t *testing.T) {
	w := newTunnelWorld(t, nil)
	c := w.visit(w.pull.Info().Port)
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+w.s.ID()+"?grace_ms=5000", "", 202, nil)
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+w.s.ID(), "", 404, nil)
	if _, err := io.WriteString(c, "more\n"); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "more\n" {
		t.Fatalf("%q %v", line, err)
	}
	var sessions list
	if w.rest("GET", "/api/v1/tunnel/sessions", "", 200, &sessions); len(sessions) != 0 {
		t.Error(sessions)
	}
	_ = c.Close()
}

// A watch shows what moves, by gRPC and as server-sent events.
func TestWatchTunnels(t *testing.T) {
	w := newTunnelWorld(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := w.c.Tunnels.Watch(ctx, &tunnelv1.TunnelServiceWatchRequest{Interval: durationpb.New(250 * time.Millisecond)})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || len(m.GetTunnels()) != 1 {
		t.Fatal(m, err)
	}
	c := w.visit(w.expose.Info().Port)
	for moved := false; !moved; {
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		moved = len(m.GetTunnels()) == 1 && m.GetTunnels()[0].GetRateOut() > 0 && m.GetTunnels()[0].GetRateIn() > 0
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.d.Addr()+"/v1/tunnels:watch?interval=0.25s", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.d.Token)
	req.Header.Set("Accept", "text/event-stream")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Error(ct)
	}
	lines, seen := bufio.NewReader(res.Body), 0
	for seen < 2 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "data: ") && strings.Contains(line, w.s.ID()) {
			seen++
		}
	}
}

// Peers are asked for by gRPC and REST; how long to wait is bounded.
func TestPeers(t *testing.T) {
	w := &tunnelWorld{terminalWorld: &terminalWorld{t: t, d: hanzodtest.Start(t, hanzodtest.Options{})}}
	c, err := client.Dial(t.Context(), client.Options{Socket: w.d.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w.rest("GET", "/v1/discovery/peers?wait=11s", "", 400, nil)
	_, err = c.Discovery.ListPeers(t.Context(), &tunnelv1.ListPeersRequest{Wait: durationpb.New(100 * time.Millisecond)})
	if code := status.Code(err); code == codes.Unavailable {
		t.Skip("this machine has no network to ask:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	w.rest("GET", "/v1/discovery/peers?wait=0.1s", "", 200, &out)
	if _, ok := out["peers"].([]any); !ok {
		t.Error(out)
	}
}

// A tunnel that has lost its carrier is an orphan in all lists and in the figures until it ends (tunnel.md §4.8).
func TestOrphans(t *testing.T) {
	d := hanzodtest.Start(t, hanzodtest.Options{})
	w := &tunnelWorld{terminalWorld: &terminalWorld{t: t, d: d}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	carriers := make(chan mux.Carrier, 1)
	s, err := driver.Connect(ctx, driver.Options{Version: wire.V1, Grace: -1, Dial: func(ctx context.Context, _ int) (mux.Carrier, error) {
		c, err := hoody.Dial(ctx, "ws://"+d.Addr(), d.Token, wire.V1, hoody.DialOptions{})
		if err == nil {
			carriers <- c
		}
		return c, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Pull(ctx, driver.PullIn{Target: "1"}); err != nil {
		t.Fatal(err)
	}
	_ = (<-carriers).Close(0, "") // cut, without a close frame
	var seed list
	w.within("the tunnel is parked", func() bool {
		w.rest("GET", "/api/v1/tunnel/tunnels", "", 200, &seed)
		return len(seed) == 1 && seed[0]["orphan_count"] == 1.0
	})
	var kit map[string]any
	if w.rest("GET", "/api/v1/tunnel/tunnels?shape=kit", "", 200, &kit); kit["orphanedSessions"] != 1.0 || kit["totalBindings"] != 1.0 {
		t.Errorf("%v", kit)
	}
	var native struct {
		Tunnels []struct {
			Parked      bool
			ParkedUntil time.Time
			Bindings    []struct{ Parked bool }
		}
	}
	if w.rest("GET", "/v1/tunnels", "", 200, &native); len(native.Tunnels) != 1 || !native.Tunnels[0].Parked || native.Tunnels[0].ParkedUntil.Before(time.Now()) || !native.Tunnels[0].Bindings[0].Parked {
		t.Errorf("%+v", native)
	}
	if m, _ := w.metricsOf("/metrics"); m["hoody_tunnel_orphans"] != 1 || m["hoody_tunnel_sessions_active"] != 0 || m[`hoody_tunnel_bindings_active{kind="tcp",mode="pull"}`] != 1 {
		t.Errorf("%v", m)
	}
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+s.ID(), "", 202, nil)
	w.within("what is killed is gone", func() bool {
		m, _ := w.metricsOf("/metrics")
		return m["hoody_tunnel_orphans"] == 0 && m[`hoody_tunnel_bindings_active{kind="tcp",mode="pull"}`] == 0
	})
	w.rest("DELETE", "/api/v1/tunnel/sessions/"+s.ID(), "", 404, nil)
}

// An operator exposes what a node reaches, by gRPC and by REST, and ends it (tunnel.md §5.3 rows 21 and 35).
func TestExposeNodesByEveryDoor(t *testing.T) {
	w := &tunnelWorld{terminalWorld: newTerminalWorld(t), echo: echoes(t)}
	made, err := w.c.Tunnels.CreateBinding(t.Context(), &tunnelv1.CreateBindingRequest{
		NodeId: w.node, Target: w.echo, Kind: tunnelv1.BindingKind_BINDING_KIND_TCP, Access: tunnelv1.BindingAccess_BINDING_ACCESS_PUBLIC, Name: "by grpc",
	})
	if err != nil {
		t.Fatal(err)
	}
	var rest struct {
		Binding struct {
			BindingID, NodeID, Target, Name, Owner string
			Port                                   int
		}
	}
	w.rest("POST", "/v1/bindings", `{"nodeId":"`+w.node+`","target":"`+w.echo+`","kind":"BINDING_KIND_TCP","access":"BINDING_ACCESS_PUBLIC"}`, 200, &rest)
	b := rest.Binding
	if b.BindingID == "" || b.NodeID != w.node || b.Target != w.echo || b.Name != w.echo || b.Port == 0 || b.Owner == "" {
		t.Errorf("%+v", b)
	}
	w.visit(int(made.GetBinding().GetPort()))
	w.visit(b.Port)
	bound, err := w.c.Tunnels.ListBindings(t.Context(), &tunnelv1.ListBindingsRequest{NodeId: w.node})
	if err != nil || len(bound.GetBindings()) != 2 || bound.GetBindings()[0].GetName() != "by grpc" {
		t.Errorf("%v %v", bound, err)
	}
	// The tunnel of the node is the node's, in the endpoints too.
	var seed list
	if w.rest("GET", "/api/v1/tunnel/tunnels", "", 200, &seed); len(seed) != 1 || seed[0]["container_id"] != w.node {
		t.Errorf("%v", seed)
	}
	w.rest("DELETE", "/v1/bindings/"+made.GetBinding().GetBindingId(), "", 200, nil)
	w.rest("DELETE", "/v1/bindings/"+made.GetBinding().GetBindingId(), "", 404, nil)
	if _, err := w.c.Tunnels.DeleteBinding(t.Context(), &tunnelv1.DeleteBindingRequest{BindingId: b.BindingID}); err != nil {
		t.Error(err)
	}
	w.rest("POST", "/v1/bindings", `{"nodeId":"nope","target":"`+w.echo+`"}`, 404, nil)
	w.rest("POST", "/v1/bindings", `{"nodeId":"`+w.node+`","target":"no port"}`, 400, nil)
	w.rest("POST", "/v1/bindings", `{"nodeId":"`+w.node+`","target":"192.0.2.1:80"}`, 503, nil) // the node refuses what is not its own machine
}
