package auth

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/hanzodtest"
)

// Connections whose clients have proved who they are last, by each way in, with and without TLS; a
// stranger's does not, whatever it asks for.
func TestProvedConnectionsLast(t *testing.T) {
	const wait = 13 * time.Second
	for _, secure := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "TLS"}[secure], func(t *testing.T) {
			t.Parallel()
			d := hanzodtest.Start(t, hanzodtest.Options{TLS: secure})
			trust := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // the daemon made it
			defer trust.CloseIdleConnections()
			client := &http.Client{Transport: trust}
			ws, urls := "ws://"+d.Addr(), "http://"+d.Addr()
			if secure {
				ws, urls = "wss://"+d.Addr(), "https://"+d.Addr()
			}

			legacy, err := hello{token: d.Token, scopes: allScopes, client: client}.try(ws)
			if err != nil || legacy.refused != "" {
				t.Fatal(err, legacy)
			}
			defer func() { _ = legacy.ws.CloseNow() }()

			ctx, cancel := context.WithTimeout(t.Context(), wait+patience)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, "GET", urls+"/v1/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+d.Token)
			stream, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = stream.Body.Close() }()
			if stream.StatusCode != http.StatusOK {
				t.Fatal(stream.Status)
			}

			// One that is answered, over and over, without proving anything, and one that asks once.
			raw := func() net.Conn {
				c, err := net.Dial("tcp", d.Addr())
				if err != nil {
					t.Fatal(err)
				}
				if secure {
					c = tls.Client(c, trust.TLSClientConfig)
				}
				t.Cleanup(func() { _ = c.Close() })
				return c
			}
			probe := func(c net.Conn) error {
				_ = c.SetDeadline(time.Now().Add(patience))
				if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
					return err
				}
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, resp.Body)
				return err
			}
			once, often := raw(), raw()
			if err := probe(once); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(wait); time.Now().Before(end); time.Sleep(time.Second) {
				if err := probe(often); err != nil {
					t.Fatalf("a monitor is cut off: %v", err)
				}
			}

			if _, msg := legacy.call(t, "health", map[string]any{}); msg != "" {
				t.Errorf("its call: %s", msg)
			}
			next := make(chan error, 1)
			go func() {
				_, err := bufio.NewReader(stream.Body).ReadString('\n')
				next <- err
			}()
			select {
			case err := <-next:
				if err != nil {
					t.Errorf("the stream: %v", err)
				}
			case <-time.After(time.Second): // nothing happens; it is open
			}
			if err := probe(once); err == nil {
				t.Error("a stranger may stay")
			}
			cancel()
			select {
			case <-next:
			case <-time.After(patience):
			}
		})
	}
}
