package scale

import (
	"os"
	"testing"
	"time"
)

// TestFill fills a small state, and one that is named, for looking at by hand.
func TestFill(t *testing.T) {
	dir, size := os.Getenv("SCALE_DIR"), Large
	if dir == "" {
		dir, size = t.TempDir(), Size{3, 30, 3, 3}
	}
	began := time.Now()
	if err := size.Fill(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if err := size.Config(dir, map[string]any{"gateway": map[string]any{"auth": map[string]any{"mode": "token", "token": "test-token-0123456789"}}}); err != nil {
		t.Fatal(err)
	}
	t.Logf("filled in %v", time.Since(began))
}
