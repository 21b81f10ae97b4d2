package hanzotunnel_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	"github.com/hanzoai/hanzod/hanzodtest"
)

type object = map[string]any

// instance is one that the test plays.
type instance struct {
	t  *testing.T
	ws *websocket.Conn
}

func dial(t *testing.T, d *hanzodtest.Daemon, token string) *instance {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), d.WS()+"/v1/tunnel", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(2 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &instance{t, ws}
}

func (i *instance) send(frame any) error {
	text, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	return i.ws.Write(context.Background(), websocket.MessageText, text)
}

func (i *instance) receive() (object, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, text, err := i.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	var f object
	return f, json.Unmarshal(text, &f)
}

func (i *instance) register(id string, more object) {
	i.t.Helper()
	f := object{"type": "register", "instance_id": id, "app_kind": "dev", "version": "0.2.0", "platform": "linux-x86_64", "commands": []string{"exec.run", "status.get", "my.command"}}
	maps.Copy(f, more)
	if err := i.send(f); err != nil {
		i.t.Fatal(err)
	}
	if f, err := i.receive(); err != nil || f["type"] != "registered" || f["instance_id"] != id {
		i.t.Fatalf("%v, %v", f, err)
	}
}

func (i *instance) ends(code websocket.StatusCode, reason string) {
	i.t.Helper()
	f, err := i.receive()
	var end websocket.CloseError
	if !errors.As(err, &end) || end.Code != code || !strings.Contains(end.Reason, reason) {
		i.t.Errorf("got %v, %v; want the end with %d %q", f, err, code, reason)
	}
}

func start(t *testing.T) (*hanzodtest.Daemon, *client.Client) {
	t.Helper()
	d := hanzodtest.Start(t, hanzodtest.Options{})
	c, err := client.Dial(t.Context(), client.Options{Socket: d.Socket(), ClientName: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return d, c
}

// key makes a link key.
func key(t *testing.T, c *client.Client, tenant string) (secret, id string) {
	t.Helper()
	out, err := c.Devices.CreateLinkKey(t.Context(), &devicesv1.CreateLinkKeyRequest{Name: fmt.Sprint("key-", time.Now().UnixNano()), Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	return out.GetSecret(), out.GetKey().GetKeyId()
}

func TestRegistrations(t *testing.T) {
	t.Parallel()
	d, c := start(t)
	secret, _ := key(t, c, "")
	for name, frame := range map[string]object{
		"an id with a slash":      {"instance_id": "acme/agent"},
		"an id with a line":       {"instance_id": "a\nb"},
		"a long id":               {"instance_id": strings.Repeat("x", 201)},
		"the id of a device":      {"instance_id": strings.Repeat("ab", 32)},
		"an id that is no text":   {"instance_id": 7},
		"commands that are none":  {"instance_id": "a", "commands": "exec.run"},
		"a long command":          {"instance_id": "a", "commands": []string{strings.Repeat("x", 129)}},
		"a long name":             {"instance_id": "a", "display_name": strings.Repeat("x", 257)},
		"too much metadata":       {"instance_id": "a", "metadata": strings.Repeat("x", 17<<10)},
		"too many capabilities":   {"instance_id": "a", "capabilities": make([]string, 513)},
		"a kind that is no text":  {"instance_id": "a", "app_kind": []int{}},
		"a directory of any size": {"instance_id": "a", "cwd": strings.Repeat("x", 4097)},
	} {
		i := dial(t, d, secret)
		frame["type"] = "register"
		if err := i.send(frame); err != nil {
			t.Error(err)
		}
		i.ends(websocket.StatusPolicyViolation, "register")
		if out, err := c.Nodes.ListNodes(t.Context(), &nodesv1.ListNodesRequest{}); err != nil || len(out.GetNodes()) != 0 {
			t.Errorf("%s: %v, %v", name, out, err)
		}
	}
	big := dial(t, d, secret)
	_ = big.send(object{"type": "register", "metadata": strings.Repeat("x", 65<<10)}) // it is not read to its end
	big.ends(websocket.StatusMessageTooBig, "")
}

// A command to the bridge stays below its limit, and whoever asked for more is told; others take more.
func TestSizes(t *testing.T) {
	t.Parallel()
	d, c := start(t)
	secret, _ := key(t, c, "")
	bridge, other := dial(t, d, secret), dial(t, d, secret)
	bridge.register("bridge", nil)
	other.ws.SetReadLimit(20 << 20)
	other.register("other", object{"version": "1.0.0"})
	ask := func(id string, size int) error {
		params, err := structpb.NewValue(object{"command": strings.Repeat("x", size)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: id, Command: "exec.run", Params: params})
		return err
	}
	answer := func(i *instance) {
		f, err := i.receive()
		if err == nil {
			err = i.send(object{"type": "response", "id": f["id"], "ok": true})
		}
		if err != nil {
			t.Error(err)
		}
	}
	if err := ask("bridge", 1<<20); status.Code(err) != codes.InvalidArgument || !strings.Contains(status.Convert(err).Message(), "1048575") {
		t.Errorf("%v", err)
	}
	go answer(bridge)
	if err := ask("bridge", 1<<20-200); err != nil {
		t.Errorf("a request below the limit: %v", err)
	}
	go answer(other)
	if err := ask("other", 2<<20); err != nil {
		t.Errorf("another instance: %v", err)
	}
	if err := ask("other", 10<<20); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%v", err)
	}
	// What comes from an instance has a limit as well.
	if err := other.ws.Write(t.Context(), websocket.MessageText, []byte(`{"type":"event","event":"x","data":"`+strings.Repeat("x", 10<<20)+`"}`)); err == nil {
		other.ends(websocket.StatusMessageTooBig, "")
	}
}

// An instance that answers for another, floods events or never answers harms nobody else.
func TestHostileInstances(t *testing.T) {
	t.Parallel()
	d, c := start(t)
	secret, _ := key(t, c, "")
	good, bad := dial(t, d, secret), dial(t, d, secret)
	good.register("good", nil)
	bad.register("bad", object{"version": "9"})
	stop := make(chan struct{})
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if bad.send(object{"type": "event", "event": "chat.delta", "data": object{"n": n}}) != nil {
				return
			}
		}
	}()
	began := time.Now()
	for n := range 20 {
		done := make(chan error, 1)
		go func() {
			out, err := c.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: "good", Command: "status.get"})
			if err == nil && out.GetPayload().GetStructValue().GetFields()["n"].GetNumberValue() != float64(n) {
				err = fmt.Errorf("got %v", out)
			}
			done <- err
		}()
		f, err := good.receive()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := f["params"].(object); !ok || len(p) != 0 {
			t.Errorf("params %v", f["params"])
		}
		// The other one answers first, with the right id.
		if err := bad.send(object{"type": "response", "id": f["id"], "ok": true, "data": object{"n": -1}}); err != nil {
			t.Error(err)
		}
		if err := good.send(object{"type": "response", "id": f["id"], "ok": true, "data": object{"n": n}}); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	close(stop)
	_ = bad.ws.CloseNow()
	<-flooded
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("twenty calls took %v", took)
	}
}

// Failures have the words of the instance, and what JavaScript takes for false is no payload.
func TestAnswers(t *testing.T) {
	t.Parallel()
	d, c := start(t)
	secret, _ := key(t, c, "")
	i := dial(t, d, secret)
	i.register("a", object{"version": "9"})
	for text, want := range map[string]string{
		`"ok":true,"data":{"b":1,"a":1.0}`:                  `{"b":1,"a":1}`,
		`"ok":true`:                                         "",
		`"ok":true,"data":null`:                             "",
		`"ok":true,"data":0`:                                "",
		`"ok":true,"data":""`:                               "",
		`"ok":true,"data":false`:                            "",
		`"ok":true,"data":[]`:                               "[]",
		`"ok":true,"data":"x"`:                              `"x"`,
		`"ok":false,"error":"no"`:                           "error: no",
		`"ok":false,"error":null,"data":{"error":"inside"}`: "error: inside",
		`"ok":false`:                                        "error: ",
	} {
		type ended struct {
			out *nodesv1.InvokeResponse
			err error
		}
		done := make(chan ended, 1)
		go func() {
			out, err := c.Nodes.Invoke(t.Context(), &nodesv1.InvokeRequest{NodeId: "a", Command: "status.get"})
			done <- ended{out, err}
		}()
		f, err := i.receive()
		if err != nil {
			t.Fatal(err)
		}
		answer := fmt.Sprintf(`{"type":"response","id":%q,%s}`, f["id"], text)
		if err := i.ws.Write(t.Context(), websocket.MessageText, []byte(answer)); err != nil {
			t.Fatal(err)
		}
		got := <-done
		if failure, fails := strings.CutPrefix(want, "error: "); fails {
			if got.err == nil || !strings.Contains(status.Convert(got.err).Message(), failure) {
				t.Errorf("%s: %+v", text, got)
			}
			continue
		}
		if got.err != nil || got.out.GetPayloadJson() != want {
			t.Errorf("%s: got %q, %v, want %q", text, got.out.GetPayloadJson(), got.err, want)
		}
	}
}
