package agents_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/agents"
	"github.com/hanzoai/hanzod/config"
)

func thousand() string {
	var b strings.Builder
	b.WriteString(`{agents: {list: [`)
	for i := range 1000 {
		fmt.Fprintf(&b, "{id: \"agent-%d\", name: \"Agent %d\", workspace: \"$home/ws/%d\", identity: {emoji: \"x\", avatar: \"a.png\"}},\n", i, i, i)
	}
	b.WriteString(`]}}`)
	return b.String()
}

// A thousand agents cost little to load, to list and to look at; the bars leave room for a busy machine.
func TestThousandAgents(t *testing.T) {
	w := newWorld(t, thousand())
	timed := func(what string, bar time.Duration, f func()) {
		t.Helper()
		best := time.Hour
		for range 3 {
			began := time.Now()
			f()
			best = min(best, time.Since(began))
		}
		t.Logf("%s: %v", what, best)
		if best > bar {
			t.Errorf("%s takes %v, want at most %v", what, best, bar)
		}
	}
	timed("load the configuration", 2*time.Second, func() {
		if _, err := config.Load(config.Options{Path: w.file, StateDir: w.state, Env: func(k string) string { return map[string]string{"HOME": w.home}[k] }}); err != nil {
			t.Fatal(err)
		}
	})
	timed("look at it", 400*time.Millisecond, func() { agents.Look(w.live.Current()) })
	timed("list", 400*time.Millisecond, func() {
		if out, err := w.List(context.Background(), admin, struct{}{}); err != nil || len(out.Agents) != 1000 {
			t.Fatal(len(out.Agents), err)
		}
	})
	i := 0
	timed("change one", 4*time.Second, func() {
		if _, err := w.Update(context.Background(), admin, agents.UpdateIn{AgentID: "agent-500", Name: fmt.Sprint("n", i)}); err != nil {
			t.Fatal(err)
		}
		i++
	})
}
