package config

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// largeText is a configuration of about so many bytes, with a comment at every entry.
func largeText(bytes int) string {
	var b strings.Builder
	b.WriteString("// large\n{\n  agents: {\n    list: [\n")
	for i := 0; b.Len() < bytes; i++ {
		fmt.Fprintf(&b, "      // agent %d\n      {\n        id: 'agent-%d', // its id\n        name: 'Agent %d of many',\n        workspace: '/srv/agents/%d',\n"+
			"        identity: { name: 'N%d', theme: 'a theme of some length for the sake of it', emoji: 'x' },\n        tools: { allow: ['read', 'write'], exec: { security: 'allowlist' } },\n      },\n", i, i, i, i, i)
	}
	b.WriteString("    ],\n  },\n  commands: {native: 'auto', nativeSkills: 'auto', restart: true, ownerDisplay: 'raw'},\n  logging: { level: 'info' }, // last\n}\n")
	return b.String()
}

// TestLargeEdit changes one key of a large file: every comment stays, and time and memory are bounded.
func TestLargeEdit(t *testing.T) {
	size, limit := 1<<20, 20*time.Second
	if os.Getenv("ROBUST") != "" {
		size = 10 << 20
	}
	text := largeText(size)
	b := newBench(t, text)
	hash := b.hash()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	e, err := Prepare(b.opts, EditIn{Kind: EditPatch, Raw: "{logging:{level:'debug'}}", BaseHash: hash, Version: "1", Now: start})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes: %v, %d MB allocated, %d MB in use", len(text), took, (after.TotalAlloc-before.TotalAlloc)>>20, after.HeapInuse>>20)
	if took > limit {
		t.Errorf("took %v", took)
	}
	got := string(e.Text)
	if want := strings.Count(text, "//"); strings.Count(got, "//") != want {
		t.Errorf("%d comments, want %d", strings.Count(got, "//"), want)
	}
	if !strings.Contains(got, "level: 'debug' }, // last") || len(e.Changed) != 1 {
		t.Error("the change is not there")
	}
	// And all of it sent back as clients are shown it changes nothing.
	v, err := Look(b.opts)
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	e, err = Prepare(b.opts, EditIn{Kind: EditSet, Raw: *v.Raw, BaseHash: hash})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("as shown: %v", time.Since(start))
	if len(e.Changed) != 0 || strings.Count(string(e.Text), "//") != strings.Count(text, "//") {
		t.Errorf("%d changes", len(e.Changed))
	}
}
