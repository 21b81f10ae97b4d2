package runtime_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/runtime"
)

// A gateway that no start could reach is refused at once and is not what the next start uses.
func TestNodeStoresNoWrongGateway(t *testing.T) {
	for name, o := range map[string]runtime.NodeOptions{
		"plain text to another machine": {Host: "box.example"},
		"fingerprint":                   {Host: "box.example", Fingerprint: "12"},
	} {
		t.Run(name, func(t *testing.T) {
			o.StateDir, o.Token, o.Console = t.TempDir(), "secret", io.Discard
			err := runtime.RunNode(context.Background(), o)
			if errs.ClassOf(err) != errs.Invalid {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(o.StateDir, "node.json"))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "box.example") {
				t.Errorf("stored: %s", text)
			}
		})
	}
}
