package rest_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/runtime/rest"
)

// A connection that has sent nothing, or half a request, does not hold up a stop; a request that is
// being answered does.
func TestStopCutsHalfSentRequests(t *testing.T) {
	began, finish := make(chan struct{}), make(chan struct{})
	srv := rest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(began)
		<-finish
		w.WriteHeader(http.StatusNoContent)
	}), slog.New(slog.DiscardHandler))
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	dial := func(text string) net.Conn {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		return c
	}
	half := []net.Conn{dial(""), dial("GET / HTTP/1.1\r\nHost: x\r\n")}
	whole := dial("GET / HTTP/1.1\r\nHost: x\r\n\r\n") // accepted after the others
	<-began
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	at := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Shutdown(ctx) }()
	for _, c := range half {
		c.SetReadDeadline(at.Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || ctx.Err() != nil {
			t.Errorf("read %d, %v", n, err)
		}
	}
	close(finish)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took := time.Since(at); took > 2500*time.Millisecond {
		t.Errorf("the stop took %v", took)
	}
	if answer, err := io.ReadAll(whole); err != nil || len(answer) < 12 || string(answer[9:12]) != "204" {
		t.Errorf("%q, %v", answer, err)
	}
	<-served
}
