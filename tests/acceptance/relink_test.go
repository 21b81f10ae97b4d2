//go:build unix

package acceptance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/tests/robustness/proc"
)

func TestH9Reconnect(t *testing.T) {
	accept(t, "H9")
	d := linkDaemon(t, nil)
	a := agent(t, "H9", "agent-a", "ws://x:"+proc.Token+"@"+d.Addr()+"/v1/tunnel")
	joined(t, d, "agent-a")
	// Another credential, so that the agent's link is none of those that may be taken for the crate's.
	key, err := d.Client(t).Devices.CreateLinkKey(t.Context(), &devicesv1.CreateLinkKeyRequest{Name: "crate"})
	if err != nil {
		t.Fatal(err)
	}
	header := bearer(key.GetSecret())
	rc := dialLink(t, d, "/v1/relay", header)
	rc.send(object{"type": "ping"})
	rc.want("pong")
	rc.send(object{"type": "register", "instance_id": "crate-a", "app_kind": "node", "display_name": "", "capabilities": []string{}, "version": "0.1.1", "platform": "linux-x86_64", "commands": []string{"system.info"}, "metadata": nil})
	rc.want("registered")
	for round, kill := range []bool{false, true} {
		if kill {
			d.Kill()
		} else {
			d.Stop()
			rc.closed(websocket.StatusGoingAway, "service restart", time.Second)
		}
		d.Start()
		up := time.Now()
		proc.UntilFor(t, 5*time.Second, "the agent is back", func() bool {
			return strings.Count(a.Stdout.String(), "Connected!") == round+2
		})
		t.Logf("the agent was back %v after the start", time.Since(up).Round(time.Millisecond))
		if listed(t, d)["agent-a"] == nil {
			t.Error("its node is missing")
		}
		rc = dialLink(t, d, "/v1/relay", header)
		rc.send(object{"type": "ping"})
		rc.want("pong")
		if f := rc.want("registered"); f["instance_id"] != "crate-a" {
			t.Errorf("round %d: %v", round, f)
		}
		if n := listed(t, d)["crate-a"]; n == nil || n["version"] != "0.1.1" {
			t.Errorf("round %d: %v", round, n)
		}
		go rc.serve(func(object) object { return object{"ok": true, "data": object{"os": "linux"}} })
		if code, out := rest(t, d, "POST", "/v1/nodes/crate-a/invoke", object{"command": "system.info"}); code != 200 {
			t.Errorf("round %d: %d %v", round, code, out)
		}
	}
}

// Fifty forced drops, by the end of the network connection and by a newer one: the node is there after each, once.
func TestH9Drops(t *testing.T) {
	accept(t, "H9")
	d := linkDaemon(t, nil)
	var old *link
	for i := range 50 {
		l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
		l.send(register("dropped", nil))
		l.want("registered")
		if i%2 == 0 && old != nil {
			_ = old.ws.CloseNow() // while the newer one stands
		}
		if n := listed(t, d); n["dropped"] == nil || len(n) != 1 {
			t.Fatalf("after %d drops: %v", i, n)
		}
		go l.serve(func(object) object { return object{"ok": true, "data": object{"round": i}} })
		code, out := rest(t, d, "POST", "/v1/nodes/dropped/invoke", object{"command": "status.get"})
		if p, _ := out["payload"].(object); code != 200 || p["round"] != float64(i) {
			t.Fatalf("after %d drops: %d %v", i, code, out)
		}
		if i%2 == 1 {
			_ = l.ws.CloseNow()
			proc.Until(t, "the node is gone", func() bool { return listed(t, d)["dropped"] == nil })
		}
		old = l
	}
	_ = old.ws.CloseNow()
	proc.Until(t, "no ghost is left", func() bool { return len(listed(t, d)) == 0 })
}

func TestH10GatewayMode(t *testing.T) {
	accept(t, "H10")
	for name, auth := range map[string]object{"token": {"token": proc.Token}, "password": {"password": proc.Token}} {
		t.Run(name, func(t *testing.T) {
			d := linkDaemon(t, object{"gateway": object{
				"auth": object{"mode": name, name: proc.Token}, "nodes": object{"allowCommands": []string{"terminal.list"}},
			}})
			connect := func(auth object) *link {
				l := dialLink(t, d, "/", nil)
				if f := l.want("event"); f["event"] != "connect.challenge" {
					t.Fatal(f)
				}
				l.send(object{"type": "req", "id": "c1", "method": "connect", "params": object{
					"minProtocol": 1, "maxProtocol": 1,
					"client": object{"id": "8f6f0a52-6a2b-4f2c-9a4e-0d0c5f6f4b1e", "displayName": "crate", "version": "0.1.1", "platform": "linux-x86_64", "mode": "node"},
					"caps":   []string{}, "commands": []string{"terminal.list"}, "role": "node", "auth": auth,
				}})
				return l
			}
			bad := connect(object{name: "wrong"})
			f := bad.want("res")
			e, _ := f["error"].(object)
			if f["ok"] != false || f["id"] != "c1" || !strings.Contains(fmt.Sprint(e["message"]), "unauthorized") {
				t.Errorf("%v", f)
			}
			l := connect(auth)
			var bare, res object
			for bare == nil || res == nil {
				f, err := l.receive(10 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				switch f["type"] {
				case "hello-ok":
					bare = f
				case "res":
					res = f
				}
			}
			server, _ := bare["server"].(object)
			if bare["protocol"] != 1.0 || server["connId"] == nil || res["ok"] != true {
				t.Errorf("%v %v", bare, res)
			}
			go func() {
				for {
					f, err := l.receive(time.Minute)
					if err != nil {
						return
					}
					if f["event"] != "node.invoke.request" {
						continue
					}
					p := f["payload"].(object)
					l.send(object{"type": "req", "id": "req-1", "method": "node.invoke.result", "params": object{
						"id": p["id"], "nodeId": p["nodeId"], "ok": true, "payloadJSON": "[]", "error": nil,
					}})
					l.send(object{"type": "req", "id": "req-2", "method": "node.event", "params": object{"event": "terminal.exit", "payloadJSON": nil}})
				}
			}()
			var id string
			proc.Until(t, "the node is linked", func() bool {
				for n := range listed(t, d) {
					id = n
				}
				return id != ""
			})
			code, out := rest(t, d, "POST", "/v1/nodes/"+id+"/invoke", object{"command": "terminal.list"})
			if list, ok := out["payload"].([]any); code != 200 || !ok || len(list) != 0 {
				t.Errorf("%d %v", code, out)
			}
		})
	}
}

// swarm links n instances at once and returns them with the time that it took.
func swarm(t *testing.T, d *proc.Daemon, n int, more object) []*link {
	t.Helper()
	links := make([]*link, n)
	var wg sync.WaitGroup
	var failed atomic.Int64
	places := make(chan struct{}, 64)
	for i := range n {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			l, err := tryLink(t, d.WS()+"/v1/tunnel", bearer(proc.Token), nil)
			if err == nil {
				l.send(register(fmt.Sprintf("swarm-agent-%d", i), more))
				_, err = l.receive(20 * time.Second)
			}
			if err != nil {
				failed.Add(1)
				return
			}
			links[i] = l
		})
	}
	wg.Wait()
	if f := failed.Load(); f > 0 {
		t.Fatalf("%d of %d did not get in", f, n)
	}
	return links
}

func TestH27Swarm(t *testing.T) {
	accept(t, "H27")
	d := linkDaemon(t, object{"tunnel": object{"maxPerTenant": 3}})
	for i := range 4 {
		agent(t, "H27", fmt.Sprintf("swarm-py-%d", i), withToken(d, "/v1/tunnel", proc.Token))
	}
	began := time.Now()
	links := swarm(t, d, 500, nil)
	n := listed(t, d)
	took := time.Since(began)
	t.Logf("500 instances were listed after %v", took.Round(time.Millisecond))
	if took > 8*time.Second || len(n) < 500 {
		t.Errorf("%d nodes after %v", len(n), took)
	}
	var wg sync.WaitGroup
	for i, l := range links {
		wg.Add(1)
		go l.serve(func(object) object {
			return object{"ok": true, "data": object{"status": "running", "i": i}, "error": nil}
		})
		go func() {
			defer wg.Done()
			code, out := rest(t, d, "POST", fmt.Sprintf("/v1/nodes/swarm-agent-%d/invoke", i), object{"command": "status.get"})
			if p, _ := out["payload"].(object); code != 200 || p["i"] != float64(i) {
				t.Errorf("%d: %d %v", i, code, out)
			}
		}()
		if i%50 == 49 {
			wg.Wait()
		}
	}
	wg.Wait()
	for i := range 4 {
		id := fmt.Sprintf("swarm-py-%d", i)
		joined(t, d, id)
		if code, out := rest(t, d, "POST", "/v1/nodes/"+id+"/invoke", object{"command": "status.get"}); code != 200 {
			t.Errorf("%s: %d %v", id, code, out)
		}
	}
	// The bound of a tenant.
	key, err := d.Client(t).Devices.CreateLinkKey(t.Context(), &devicesv1.CreateLinkKeyRequest{Name: "k", Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		l := dialLink(t, d, "/v1/tunnel", bearer(key.GetSecret()))
		l.send(register(fmt.Sprint("tenant-", i), nil))
		if i < 3 {
			l.want("registered")
			continue
		}
		l.closed(websocket.StatusPolicyViolation, "maxPerTenant", 5*time.Second)
	}
}

// Links that do nothing cost little.
func TestH27Idle(t *testing.T) {
	accept(t, "H27")
	const n, bar = 5000, 200 << 20
	d := linkDaemon(t, nil)
	swarm(t, d, n, nil)
	time.Sleep(3 * time.Second) // what the registrations took is given back
	used := proc.Private(t, d.PID())
	t.Logf("%d idle links take %d MiB", n, used>>20)
	if used > bar && !proc.Race {
		t.Errorf("%d idle links take %d MiB, want at most %d", n, used>>20, bar>>20)
	}
}

// certificates are a private authority and a certificate of it for 127.0.0.1, as files.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		notHere(t, "H29", "openssl is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) {
		c := exec.Command("openssl", args...)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("openssl %v: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ext"), []byte("subjectAltName=IP:127.0.0.1,DNS:box.test\nbasicConstraints=CA:FALSE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority", "-days", "2")
	run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem", "-out", "req.pem", "-subj", "/CN=box.test")
	run("x509", "-req", "-in", "req.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "cert.pem", "-days", "2", "-extfile", "ext")
	return filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
}

func TestH29TLS(t *testing.T) {
	accept(t, "H29")
	ca, cert, key := certificates(t)
	d := proc.New(t, proc.Options{Config: object{"gateway": object{
		"auth": object{"mode": "token", "token": proc.Token},
		"tls":  object{"enabled": true, "certPath": cert, "keyPath": key},
	}}})
	d.Spawn()
	pem, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	named := func(name string, roots *x509.CertPool) *http.Client {
		return &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: name},
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, d.Addr())
			},
		}}
	}
	url := "wss://box.test/v1/tunnel"
	var l *link
	proc.Until(t, "the daemon listens", func() bool {
		l, err = tryLink(t, url, bearer(proc.Token), named("box.test", roots))
		return err == nil
	})
	l.send(register("secure", nil))
	l.want("registered")
	if _, err := tryLink(t, url, bearer(proc.Token), named("other.test", roots)); err == nil || !strings.Contains(err.Error(), "other.test") {
		t.Errorf("a wrong name: %v", err)
	}
	if _, err := tryLink(t, url, bearer(proc.Token), named("box.test", x509.NewCertPool())); err == nil {
		t.Error("an unknown authority is taken")
	}
	a := agent(t, "H29", "agent-tls", "wss://x:"+proc.Token+"@"+d.Addr()+"/v1/tunnel", "CA_FILE="+ca)
	proc.Until(t, "the agent is linked", func() bool { return strings.Contains(a.Stdout.String(), "Connected!") })
	b := agent(t, "H29", "agent-other", "wss://x:"+proc.Token+"@"+strings.Replace(d.Addr(), "127.0.0.1", "localhost", 1)+"/v1/tunnel", "CA_FILE="+ca)
	proc.Until(t, "the agent refuses the name", func() bool {
		return strings.Contains(b.Stdout.String()+b.Stderr.String(), "CERTIFICATE_VERIFY_FAILED")
	})
	if strings.Contains(b.Stdout.String(), "Connected!") {
		t.Error("a wrong name is taken")
	}
	var nodes struct{ Nodes []struct{ NodeID string } }
	text := d.Ctl("nodes", "list", "-o", "json").Wait(t, 10*time.Second).Stdout.String()
	if err := json.Unmarshal([]byte(text), &nodes); err != nil || len(nodes.Nodes) != 2 {
		t.Errorf("%v %s", err, text)
	}
}

func TestH22Expose(t *testing.T) {
	accept(t, "H22")
	d := linkDaemon(t, nil)
	open := func(id string) *link {
		l := dialLink(t, d, "/v1/tunnel", bearer(proc.Token))
		l.send(object{"type": "register", "instance_id": id, "app_kind": "node", "display_name": "", "capabilities": []string{}, "metadata": nil})
		l.want("registered")
		return l
	}
	ask := func(l *link, data object) object {
		l.send(object{"type": "event", "event": "expose.request", "data": data})
		return l.want("event")
	}
	exposed := func() (out []any) {
		_, n := rest(t, d, "GET", "/v1/nodes/exposer/instance", nil)
		out, _ = n["exposed"].([]any)
		return out
	}
	l := open("exposer")
	urls := map[string]string{}
	for protocol, scheme := range map[string]string{"http": "http://", "web_socket": "ws://", "tcp": "tcp://"} {
		f := ask(l, object{"name": "my " + protocol, "local_addr": "127.0.0.1:3000", "protocol": protocol})
		data, _ := f["data"].(object)
		url, _ := data["url"].(string)
		if f["event"] != "expose.assigned" || data["name"] != "my "+protocol || data["ttl"] != 0.0 || data["protocol"] != protocol || !strings.HasPrefix(url, scheme) {
			t.Errorf("%s: %v", protocol, f)
		}
		urls[protocol] = url
	}
	if got := exposed(); len(got) != 3 {
		t.Errorf("%v", got)
	}
	visit := func(url string) (int, string, object) {
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var body object
		_ = json.NewDecoder(res.Body).Decode(&body) // compared
		return res.StatusCode, res.Header.Get("Retry-After"), body
	}
	if code, after, body := visit(urls["http"] + "deep/path?x=1"); code != 503 || after != "5" || body["code"] != "no_carrier" {
		t.Errorf("%d %q %v", code, after, body)
	}
	if _, err := tryLink(t, urls["web_socket"], nil, nil); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("%v", err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(urls["tcp"], "tcp://")); err != nil {
		t.Error(err)
	} else {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%d %v", n, err)
		}
		_ = c.Close()
	}
	// A subdomain is one node's.
	if f := ask(l, object{"name": "site", "local_addr": "127.0.0.1:3000", "protocol": "http", "subdomain": "site-1"}); f["event"] != "expose.assigned" {
		t.Error(f)
	}
	other := open("other")
	for code, data := range map[string]object{
		"subdomain_taken": {"name": "site", "local_addr": "127.0.0.1:3000", "protocol": "http", "subdomain": "site-1"},
		"subdomain":       {"name": "site", "local_addr": "127.0.0.1:3000", "protocol": "http", "subdomain": "Site"},
		"protocol":        {"name": "site", "local_addr": "127.0.0.1:3000", "protocol": "websocket"},
		"local_addr":      {"name": "site", "local_addr": "nonsense", "protocol": "http"},
		"name":            {"local_addr": "127.0.0.1:3000", "protocol": "http"},
	} {
		f := ask(other, data)
		if got, _ := f["data"].(object); f["event"] != "expose.failed" || got["code"] != code || got["message"] == "" {
			t.Errorf("%s: %v", code, f)
		}
	}
	l.send(object{"type": "event", "event": "expose.stop", "data": object{"name": "my http"}})
	proc.Until(t, "the binding is gone", func() bool { return len(exposed()) == 3 })
	if code, _, body := visit(urls["http"]); code != 404 {
		t.Errorf("%d %v", code, body)
	}
	// The end of the link parks what is left; who comes back has it.
	_ = l.ws.CloseNow()
	proc.Until(t, "the node is gone", func() bool { return listed(t, d)["exposer"] == nil })
	if code, _, _ := visit(strings.Replace(urls["web_socket"], "ws://", "http://", 1)); code != 503 {
		t.Error(code)
	}
	open("exposer")
	if got := exposed(); len(got) != 3 {
		t.Errorf("%v", got)
	}
}
