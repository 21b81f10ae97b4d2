package listen

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func closeAll(t *testing.T, ls ...net.Listener) {
	t.Helper()
	for _, l := range ls {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTCPSharesAnEphemeralPort(t *testing.T) {
	ls, err := TCP(t.Context(), []string{"127.0.0.1", "::1"}, 0, Use{"ws://", "--port or gateway.port"}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, ls...)
	for _, l := range ls {
		if got, want := l.Addr().(*net.TCPAddr).Port, ls[0].Addr().(*net.TCPAddr).Port; got != want {
			t.Errorf("port %d, want %d", got, want)
		}
	}
}

func TestTCPAliasFailureIsAWarning(t *testing.T) {
	var text strings.Builder
	ls, err := TCP(t.Context(), []string{"127.0.0.1", "203.0.113.1"}, 0, Use{"ws://", "--port or gateway.port"}, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, ls...)
	if len(ls) != 1 || !strings.Contains(text.String(), "203.0.113.1") {
		t.Errorf("%d listeners, log %q", len(ls), text.String())
	}
}

func TestTCPBusyPort(t *testing.T) {
	var lc net.ListenConfig
	held, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := held.Addr().(*net.TCPAddr).Port
	begin := time.Now()
	_, err = TCP(t.Context(), []string{"127.0.0.1"}, port, Use{"ws://", "--port or gateway.port"}, quiet())
	if err == nil || !strings.Contains(err.Error(), "another gateway instance is already listening on ws://"+held.Addr().String()) || !strings.Contains(err.Error(), "--port or gateway.port") {
		t.Errorf("got %v", err)
	}
	if time.Since(begin) < busyTries*busyWait {
		t.Error("gave up early")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := TCP(ctx, []string{"127.0.0.1"}, port, Use{"ws://", "--port or gateway.port"}, quiet()); err == nil {
		t.Error("a cancelled start went on")
	}

	// A predecessor that stops in time is waited for.
	time.AfterFunc(busyWait/2, func() { closeAll(t, held) })
	ls, err := TCP(t.Context(), []string{"127.0.0.1"}, port, Use{"ws://", "--port or gateway.port"}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	closeAll(t, ls...)
}

func TestTCPBadAddress(t *testing.T) {
	if _, err := TCP(t.Context(), nil, 0, Use{"ws://", "--port or gateway.port"}, quiet()); err == nil {
		t.Error("no host is taken")
	}
	if _, err := TCP(t.Context(), []string{"203.0.113.1"}, 0, Use{"ws://", "--port or gateway.port"}, quiet()); err == nil || !strings.Contains(err.Error(), "203.0.113.1") {
		t.Errorf("got %v", err)
	}
}
