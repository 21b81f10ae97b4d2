package config

import (
	"slices"
	"strings"
	"testing"
)

func TestWithoutOwn(t *testing.T) {
	text := `{
  // this stays
  gateway: { port: 18789, grpc: { enabled: true }, tailnet: { enabled: true }, auth: { token: "t" } },
  audit: { maxRows: 5 },
  cron: { enabled: true },
}
`
	out, gone, err := WithoutOwn([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(gone)
	if got := strings.Join(gone, " "); got != "audit gateway.grpc gateway.tailnet" {
		t.Errorf("taken out: %s", got)
	}
	for _, want := range []string{"// this stays", "port: 18789", `token: "t"`, "cron"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s is gone:\n%s", want, out)
		}
	}
	if again, gone, err := WithoutOwn(out); err != nil || len(gone) > 0 || string(again) != string(out) {
		t.Errorf("again: %v %v", gone, err)
	}
}
