package links

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"
)

// kept is a store in memory.
type kept struct {
	mu  sync.Mutex
	all map[string]Link
}

func (k *kept) Links() ([]Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.all)), nil
}

func (k *kept) ChangeLinks(_ context.Context, keep []Link, forget []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range keep {
		k.all[l.NodeID] = l
	}
	for _, id := range forget {
		delete(k.all, id)
	}
	return nil
}

func TestMemory(t *testing.T) {
	clock := time.Unix(1_700_000_000, 0)
	store := &kept{all: map[string]Link{}}
	open := func() *Memory {
		m, err := Open(store, func() time.Time { return clock }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	lost := func(m *Memory, credential, address string) string {
		l, ok := m.Lost(credential, address)
		if !ok {
			return ""
		}
		return l.NodeID
	}
	m := open()
	a := Link{NodeID: "a", Credential: "c", Address: "192.0.2.1", Registration: []byte("{}")}
	b := a
	b.NodeID = "b"
	m.Linked(a)
	if got := lost(m, "c", "192.0.2.1"); got != "" {
		t.Errorf("a link that stands is lost: %s", got)
	}
	m.Dropped("a")
	for _, c := range [][3]string{{"c", "192.0.2.1", "a"}, {"d", "192.0.2.1", ""}, {"c", "192.0.2.2", ""}} {
		if got := lost(m, c[0], c[1]); got != c[2] {
			t.Errorf("%v: %q", c, got)
		}
	}
	m.Linked(b)
	m.Dropped("b")
	if got := lost(m, "c", "192.0.2.1"); got != "" {
		t.Errorf("one of two is taken: %s", got)
	}
	m.Linked(b)
	if got := lost(m, "c", "192.0.2.1"); got != "a" {
		t.Errorf("%q", got)
	}
	// A stop, and a crash: what stood then was dropped.
	m.Close()
	m = open()
	if got := lost(m, "c", "192.0.2.1"); got != "" {
		t.Errorf("%q: both were dropped", got)
	}
	m.Linked(a)
	m.wg.Wait()
	clock = clock.Add(KeepFor + time.Second)
	m = open()
	if got := lost(m, "c", "192.0.2.1"); got != "a" {
		t.Errorf("%q after a crash", got)
	}
	clock = clock.Add(KeepFor + time.Second)
	if got := lost(m, "c", "192.0.2.1"); got != "" {
		t.Errorf("%q after a quarter of an hour", got)
	}
	m.Close()
	if len(store.all) != 0 {
		t.Errorf("%v is kept", store.all)
	}
}
