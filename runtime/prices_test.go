package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions/usage"
)

func TestPricesOfTheConfiguration(t *testing.T) {
	load := func(text string) *config.Config {
		t.Helper()
		dir := t.TempDir()
		path := filepath.Join(dir, "config.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(config.Options{Path: path, StateDir: dir, Env: func(string) string { return "" }})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const head, tail = `{models:{providers:{Own:{baseUrl:"http://127.0.0.1:1",models:[{id:"Big",name:"B",cost:{`, `}},{id:"free",name:"F"}]}}}}`
	now := load(head + `input:1,output:2.5,cacheRead:0,cacheWrite:3` + tail)
	price := priceIn(func() *config.Config { return now })
	if p, ok := price("own", "big"); !ok || p != (usage.Price{Input: 1, Output: 2.5, CacheWrite: 3}) {
		t.Errorf("%+v %v", p, ok)
	}
	for _, m := range [][2]string{{"own", "free"}, {"own", "none"}, {"other", "big"}, {"", ""}} {
		if p, ok := price(m[0], m[1]); ok {
			t.Errorf("%v: %+v", m, p)
		}
	}
	now = load(head + `input:7,output:0,cacheRead:0,cacheWrite:0` + tail)
	if p, ok := price("own", "big"); !ok || p.Input != 7 {
		t.Errorf("the configuration changed: %+v %v", p, ok)
	}
	now = load(`{}`)
	if _, ok := price("own", "big"); ok {
		t.Error("it has no prices any more")
	}
}
