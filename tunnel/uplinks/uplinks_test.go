package uplinks_test

import (
	"context"
	"errors"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/uplinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type world struct {
	*testing.T
	s  *uplinks.Service
	mu sync.Mutex
	in map[string]uplinks.Entry
	// running counts the runs of each that have not ended; two at once are a fault.
	running map[string]int
	began   chan string
	fail    error
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, in: map[string]uplinks.Entry{}, running: map[string]int{}, began: make(chan string, 64)}
	w.s = uplinks.New(uplinks.Config{
		List: func() map[string]uplinks.Entry {
			w.mu.Lock()
			defer w.mu.Unlock()
			out := map[string]uplinks.Entry{}
			maps.Copy(out, w.in)
			return out
		},
		Run: func(ctx context.Context, name string, tell func(uplinks.Report)) error {
			w.mu.Lock()
			w.running[name]++
			if w.running[name] > 1 {
				w.Errorf("two runs of %s at once", name)
			}
			fail := w.fail
			w.mu.Unlock()
			defer func() {
				w.mu.Lock()
				w.running[name]--
				w.mu.Unlock()
			}()
			tell(uplinks.Report{Phase: uplinks.Connected, SessionURL: "https://x/" + name})
			w.began <- name
			if fail != nil {
				return fail
			}
			<-ctx.Done()
			return nil
		},
	})
	t.Cleanup(w.s.Close)
	return w
}

func (w *world) put(name, mark string, enabled bool) {
	w.mu.Lock()
	w.in[name] = uplinks.Entry{Uplink: uplinks.Uplink{Name: name, Enabled: enabled}, Mark: mark}
	w.mu.Unlock()
	w.s.Reload()
}

func (w *world) want(name string, phase uplinks.Phase) uplinks.State {
	w.Helper()
	var st uplinks.State
	for range 200 {
		var err error
		if st, err = w.s.Status(w.Context(), identity.Caller{}, uplinks.NameIn{Name: name}); err != nil {
			w.Fatal(err)
		}
		if st.Phase == phase {
			return st
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.Fatalf("%s is %s, want %s", name, st.Phase, phase)
	return st
}

func TestUplinks(t *testing.T) {
	w := newWorld(t)
	ctx, who := t.Context(), identity.Caller{}
	w.put("a", "token 1", true)
	w.put("off", "", false)
	<-w.began
	if st := w.want("a", uplinks.Connected); st.SessionURL != "https://x/a" {
		t.Errorf("%+v", st)
	}
	w.want("off", uplinks.Stopped)

	w.s.Reload() // nothing changed: nothing starts anew
	if _, err := w.s.Stop(ctx, who, uplinks.NameIn{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	w.want("a", uplinks.Stopped)
	w.put("off", "new", false) // a change of another one starts it not
	w.want("a", uplinks.Stopped)
	for _, name := range []string{"a", "off"} {
		if _, err := w.s.Start(ctx, who, uplinks.NameIn{Name: name}); err != nil {
			t.Fatal(err)
		}
		if <-w.began != name {
			t.Error("another one started")
		}
		w.want(name, uplinks.Connected)
	}
	for i := range 20 { // each change starts it anew, never two at once
		w.put("a", string(rune('a'+i)), true)
	}
	w.want("a", uplinks.Connected)
	out, err := w.s.List(ctx, who)
	if err != nil || len(out.Uplinks) != 2 || out.Uplinks[0].Name != "a" {
		t.Errorf("%v %v", out, err)
	}
	w.mu.Lock()
	delete(w.in, "a")
	w.mu.Unlock()
	w.s.Reload()
	if _, err := w.s.Status(ctx, who, uplinks.NameIn{Name: "a"}); !errors.Is(err, uplinks.ErrUnknown) {
		t.Errorf("%v", err)
	}

	w.mu.Lock()
	w.fail = errors.New("no such host")
	w.mu.Unlock()
	w.put("b", "", true)
	if st := w.want("b", uplinks.Failed); st.Error != "no such host" {
		t.Errorf("%+v", st)
	}

	other := identity.Caller{Tenant: "acme"}
	if _, err := w.s.Start(ctx, other, uplinks.NameIn{Name: "off"}); !errors.Is(err, uplinks.ErrTenant) {
		t.Errorf("a tenant starts it: %v", err)
	}
	if _, err := w.s.List(ctx, other); !errors.Is(err, uplinks.ErrTenant) {
		t.Errorf("a tenant sees it: %v", err)
	}
	w.s.Close()
	if _, err := w.s.Start(ctx, who, uplinks.NameIn{Name: "b"}); !errors.Is(err, uplinks.ErrClosed) {
		t.Errorf("%v", err)
	}
}
