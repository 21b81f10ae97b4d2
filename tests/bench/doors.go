package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	nodesv1 "github.com/hanzoai/hanzod/gen/hanzo/nodes/v1"
	systemv1 "github.com/hanzoai/hanzod/gen/hanzo/system/v1"
)

// both measures an operation one at a time and with several in flight, and records it under
// name/p50 and so on, and name+workers/rate.
func (b *bench) both(ctx context.Context, d *daemon, name string, workers int, op func(worker int) func() error) error {
	err := b.load(d, name, func(p plan) ([]sample, error) { return p.serial(ctx, op(workers)) })
	if err != nil {
		return err
	}
	return b.load(d, fmt.Sprintf("%s%d", name, workers), func(p plan) ([]sample, error) {
		return p.parallel(ctx, workers, op)
	})
}

// grpc measures the local socket with the client that programs use.
func (b *bench) grpc(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	c, err := client.Dial(ctx, client.Options{Socket: d.socket, ClientName: "bench"})
	if err != nil {
		return err
	}
	defer c.Close()
	err = b.both(ctx, d, "grpc/health", manyClients, func(int) func() error {
		return func() error {
			_, err := c.System.GetHealth(ctx, &systemv1.GetHealthRequest{})
			return err
		}
	})
	if err != nil {
		return err
	}
	err = b.both(ctx, d, "grpc/list", inFlight, func(int) func() error {
		return func() error {
			_, err := c.Nodes.ListNodes(ctx, &nodesv1.ListNodesRequest{})
			return err
		}
	})
	if err != nil {
		return err
	}
	params, err := structpb.NewValue(map[string]any{"title": "bench", "body": "hello"})
	if err != nil {
		return err
	}
	return b.both(ctx, d, "grpc/invoke", inFlight, func(w int) func() error {
		n := 0
		return func() error {
			n++
			_, err := c.Nodes.Invoke(ctx, &nodesv1.InvokeRequest{
				NodeId: nodeID, Command: nodeCommand, Params: params, IdempotencyKey: fmt.Sprintf("g%d-%d", w, n),
			})
			return err
		}
	})
}

// page is a connection that sends prepared HTTP requests.
type page struct {
	nc net.Conn
	r  *bufio.Reader
}

func dialPage(ctx context.Context, addr string) (*page, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if t, ok := ctx.Deadline(); ok {
		_ = nc.SetDeadline(t) // a closed connection fails at the next use
	}
	return &page{nc, bufio.NewReader(nc)}, nil
}

func (p *page) call(request []byte) error {
	if _, err := p.nc.Write(request); err != nil {
		return err
	}
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func httpRequest(method, path, body string) []byte {
	head := method + " " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " + token + "\r\n"
	if body != "" {
		head += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	return []byte(head + "\r\n" + body)
}

// rest measures the REST door with connections that are kept.
func (b *bench) rest(ctx context.Context) error {
	d, err := b.loaded(ctx)
	if err != nil {
		return err
	}
	pages := make([]*page, inFlight+1)
	for i := range pages {
		if pages[i], err = dialPage(ctx, d.addr); err != nil {
			return err
		}
		defer pages[i].nc.Close()
	}
	invoke := `{"command":"` + nodeCommand + `","params":{"title":"bench","body":"hello"},"idempotencyKey":"`
	for _, x := range []struct{ name, method, path, body string }{
		{"rest/health", "GET", "/v1/health", ""}, {"rest/list", "GET", "/v1/nodes", ""},
		{"rest/invoke", "POST", "/v1/nodes/" + nodeID + ":invoke", invoke},
	} {
		err := b.both(ctx, d, x.name, inFlight, func(w int) func() error {
			req := newNumbered(string(httpRequest(x.method, x.path, x.body)))
			if x.body != "" {
				req = newNumbered(string(httpRequest(x.method, x.path, x.body+fmt.Sprintf(`r%d-########"}`, w))))
			}
			n := uint32(time.Now().UnixMilli())
			return func() error {
				n++
				return pages[w].call(req.with(n))
			}
		})
		if err != nil {
			return fmt.Errorf("%s: %w", x.path, err)
		}
	}
	return nil
}
