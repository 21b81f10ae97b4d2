package host_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/nodes/host"
)

// away is a gateway that is not there, or that refuses.
type away struct{ absent bool }

func (a away) Connect(context.Context, host.Offer, func(host.Link, host.Request)) (host.Link, error) {
	return nil, errors.New("no")
}
func (a away) Explain(*slog.Logger, error) {}
func (a away) Absent(error) bool           { return a.absent }

// TestPauses: a gateway that is not there is tried every few seconds, and one that refuses less and less often.
func TestPauses(t *testing.T) {
	for absent, want := range map[bool][]time.Duration{
		true:  {1 * time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second},
		false: {1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, time.Minute, time.Minute},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var got []time.Duration
		_ = host.Serve(ctx, host.ServeOptions{Host: host.New(host.Config{Policy: policy.Open(filepath.Join(t.TempDir(), "p.json"), policy.Options{})}), Connector: away{absent}, Rand: func() float64 { return 0 }, Wait: func(_ context.Context, d time.Duration) {
			if got = append(got, d); len(got) == len(want) {
				cancel()
			}
		}})
		for i, d := range want {
			if got[i] != d {
				t.Errorf("absent %v: %v", absent, got)
				break
			}
		}
		cancel()
	}
}
