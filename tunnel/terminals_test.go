package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel"
)

const patience = 20 * time.Second

// over runs a test over every kind of link.
func over(t *testing.T, f func(t *testing.T, w *world)) {
	for kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, newWorld(t, kind))
		})
	}
}

// rest reads to the end and returns what was missed.
func rest(t *testing.T, v *tunnel.Viewer, into io.Writer) (missed int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	buf := make([]byte, 32<<10)
	for {
		p, err := v.Next(ctx, buf)
		missed += p.Missed
		_, _ = into.Write(p.Data)
		if errors.Is(err, io.EOF) {
			return missed
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// until reads until the text has come.
func until(t *testing.T, v *tunnel.Viewer, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(all, []byte(text)) {
		p, err := v.Next(ctx, buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all)
		}
		all = append(all, p.Data...)
	}
	return string(all)
}

// sequence is what "seq 1 n" writes to a terminal.
func sequence(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		fmt.Fprintf(&b, "%d\r\n", i+1)
	}
	return b.Bytes()
}

func TestTerminalFromEndToEnd(t *testing.T) {
	over(t, func(t *testing.T, w *world) {
		term := w.open()
		if !term.Connected || term.PID == 0 || term.Owner != "iam:alice" || term.Shell != "/bin/sh" {
			t.Errorf("%+v", term)
		}
		v := w.attach(term.ID)
		if err := v.Input(t.Context(), []byte("stty size; echo X$((40+2)); tty\n")); err != nil {
			t.Fatal(err)
		}
		if got := until(t, v, "/dev/"); !strings.Contains(got, "24 80") || !strings.Contains(got, "X42") {
			t.Errorf("%q", got)
		}
		if err := v.Resize(132, 43); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(t.Context(), alice, tunnel.WriteIn{ID: term.ID, Data: []byte("stty size\n")}); err != nil {
			t.Fatal(err)
		}
		until(t, v, "43 132")
		if l, err := w.List(t.Context(), alice, tunnel.ListIn{}); err != nil || len(l.Terminals) != 1 || l.Terminals[0].Cols != 132 || l.Terminals[0].Viewers != 1 {
			t.Errorf("%+v, %v", l, err)
		}
		if err := v.Input(t.Context(), []byte("exit 7\n")); err != nil {
			t.Fatal(err)
		}
		rest(t, v, io.Discard)
		if e := v.Terminal().Exit; e == nil || e.Code == nil || *e.Code != 7 {
			t.Errorf("%+v", e)
		}
		if err := v.Input(t.Context(), []byte("x")); !errors.Is(err, tunnel.ErrEnded) {
			t.Error(err)
		}
		soon(t, func() bool { return w.Count() == 0 })
		if acts := w.disk.acts(); !slices.Equal(acts, []string{"opened", "ended"}) {
			t.Error(acts)
		}
		if all, _ := w.disk.Terminals(); len(all) != 0 {
			t.Errorf("%+v", all)
		}
	})
}

func soon(t *testing.T, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not become true in time")
}

// TestSlowViewer: one viewer that reads slowly gets every byte in order, and the exit after the last.
func TestSlowViewer(t *testing.T) {
	over(t, func(t *testing.T, w *world) {
		const n = 300_000 // 2 MB
		// It begins when somebody watches: what nobody does goes by.
		v := w.attach(w.open("/bin/sh", "-c", fmt.Sprint("sleep 0.5; exec seq 1 ", n)).ID)
		time.Sleep(600 * time.Millisecond) // the program is stopped meanwhile
		var got bytes.Buffer
		if missed := rest(t, v, &got); missed != 0 || !bytes.Equal(got.Bytes(), sequence(n)) {
			t.Errorf("%d bytes missed, %d came", missed, got.Len())
		}
	})
}

// TestLostLink: a terminal whose link is lost again and again goes on where it was.
func TestLostLink(t *testing.T) {
	over(t, func(t *testing.T, w *world) {
		// It writes slowly, and no more than the ring of the node holds: nobody reads that while the link is lost.
		const n = 30_000
		v := w.attach(w.open("/bin/sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do i=$((i+1)); echo $i; done", n)).ID)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 5 {
				time.Sleep(15 * time.Millisecond)
				w.node.lose()
				time.Sleep(5 * time.Millisecond)
				w.node.link()
			}
		}()
		var got bytes.Buffer
		missed := rest(t, v, &got)
		<-done
		if missed != 0 || !bytes.Equal(got.Bytes(), sequence(n)) {
			t.Errorf("%d bytes missed, %d of %d came", missed, got.Len(), len(sequence(n)))
		}
		if e := v.Terminal().Exit; e == nil || e.Code == nil || *e.Code != 0 {
			t.Errorf("%+v", e)
		}
	})
}

// TestDaemonStartsAgain: the next daemon finds the terminals with their owners.
func TestDaemonStartsAgain(t *testing.T) {
	over(t, func(t *testing.T, w *world) {
		term := w.open("/bin/sh", "-c", "echo first; read x; echo got $x; exit 3")
		until(t, w.attach(term.ID), "first")
		w.node.lose()
		w.Stop()
		w.serve()
		w.node.link()
		soon(t, func() bool {
			l, err := w.List(t.Context(), alice, tunnel.ListIn{})
			return err == nil && len(l.Terminals) == 1 && l.Terminals[0].Connected
		})
		if _, err := w.Attach(t.Context(), identity.Caller{Role: identity.RoleOperator, Scopes: alice.Scopes, Principal: "iam:bob"}, tunnel.AttachIn{ID: term.ID}); !errors.Is(err, tunnel.ErrForeign) {
			t.Error(err)
		}
		v := w.attach(term.ID)
		if err := v.Input(t.Context(), []byte("second\n")); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if missed := rest(t, v, &got); missed != 0 || !strings.Contains(got.String(), "first") || !strings.Contains(got.String(), "got second") {
			t.Errorf("%d missed, %q", missed, got.String())
		}
		if e := v.Terminal().Exit; e == nil || e.Code == nil || *e.Code != 3 {
			t.Errorf("%+v", e)
		}
	})
}

// TestNodeStartsAgain: a program that went with its node has ended, and says why.
func TestNodeStartsAgain(t *testing.T) {
	over(t, func(t *testing.T, w *world) {
		v := w.attach(w.open().ID)
		w.node.restart()
		w.node.link()
		rest(t, v, io.Discard)
		if e := v.Terminal().Exit; e == nil || e.Code != nil || !strings.Contains(e.Reason, "restarted") {
			t.Errorf("%+v", e)
		}
	})
}

// TestViewers: of several viewers a slow one is told what it missed, and the others do not wait for it.
func TestViewers(t *testing.T) {
	w := newWorld(t, "channel")
	const n = 300_000
	term := w.open("/bin/sh", "-c", fmt.Sprintf("read x; exec seq 1 %d", n))
	fast, slow := w.attach(term.ID), w.attach(term.ID, func(in *tunnel.AttachIn) { in.ReadOnly = true })
	if err := slow.Input(t.Context(), []byte("x")); !errors.Is(err, tunnel.ErrReadOnly) {
		t.Error(err)
	}
	if err := fast.Input(t.Context(), []byte("\n")); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	rest(t, fast, &got)
	if !bytes.HasSuffix(got.Bytes(), sequence(n)) {
		t.Errorf("%d bytes", got.Len())
	}
	var late bytes.Buffer
	missed := rest(t, slow, &late)
	if missed == 0 || missed+int64(late.Len()) != int64(got.Len()) || !bytes.HasSuffix(got.Bytes(), late.Bytes()) {
		t.Errorf("%d missed and %d came, of %d", missed, late.Len(), got.Len())
	}
	// A viewer that comes from a number gets what follows it.
	from := int64(got.Len() - 10)
	again := w.attach(term.ID, func(in *tunnel.AttachIn) { in.From = &from })
	late.Reset()
	if missed := rest(t, again, &late); missed != 0 || !bytes.Equal(late.Bytes(), got.Bytes()[from:]) {
		t.Errorf("%d missed, %q", missed, late.Bytes())
	}
}

func TestTerminalOwners(t *testing.T) {
	w := newWorld(t, "channel")
	term := w.open()
	caller := func(who, tenant string, scopes ...identity.Scope) identity.Caller {
		return identity.Caller{Role: identity.RoleOperator, Scopes: scopes, Principal: who, Tenant: tenant}
	}
	for name, c := range map[string]struct {
		who  identity.Caller
		want error
	}{
		"owner":         {alice, nil},
		"another":       {caller("iam:bob", "", identity.ScopeWrite), tunnel.ErrForeign},
		"an admin":      {caller("iam:root", "", identity.ScopeAdmin), nil},
		"without name":  {caller("", "", identity.ScopeWrite), tunnel.ErrForeign},
		"a tenant's":    {caller("iam:eve", "acme", identity.ScopeAdmin), tunnel.ErrUnknown},
		"only a reader": {caller("iam:eve", "", identity.ScopeRead), tunnel.ErrForeign},
	} {
		v, err := w.Attach(t.Context(), c.who, tunnel.AttachIn{ID: term.ID, Record: true})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if v != nil {
			v.Close()
		}
		l, err := w.List(t.Context(), c.who, tunnel.ListIn{NodeID: "n1"})
		if err != nil || (len(l.Terminals) == 1) != (c.want == nil) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	if n := len(slices.DeleteFunc(w.disk.acts(), func(a string) bool { return a != "recorded" })); n != 2 {
		t.Errorf("%d rows of recordings", n)
	}
	if _, err := w.Close(t.Context(), caller("iam:bob", "", identity.ScopeWrite), tunnel.CloseIn{ID: term.ID}); !errors.Is(err, tunnel.ErrForeign) {
		t.Error(err)
	}
	v := w.attach(term.ID)
	if _, err := w.Close(t.Context(), alice, tunnel.CloseIn{ID: term.ID}); err != nil {
		t.Fatal(err)
	}
	rest(t, v, io.Discard)
	if e := v.Terminal().Exit; e == nil || e.Signal == "" && e.Code == nil {
		t.Errorf("%+v", e)
	}
	soon(t, func() bool {
		return slices.Equal(w.disk.acts(), []string{"opened", "recorded", "recorded", "closed", "ended"})
	})
}

func TestTerminalRefusals(t *testing.T) {
	w := newWorld(t, "channel")
	for name, c := range map[string]struct {
		in   tunnel.OpenIn
		want error
	}{
		"no node":     {tunnel.OpenIn{}, tunnel.ErrNodeRequired},
		"zero byte":   {tunnel.OpenIn{NodeID: "n1", Shell: "a\x00b"}, tunnel.ErrSpec},
		"many words":  {tunnel.OpenIn{NodeID: "n1", Argv: make([]string, 257)}, tunnel.ErrSpec},
		"wide window": {tunnel.OpenIn{NodeID: "n1", Cols: 70000}, tunnel.ErrSize},
	} {
		if _, err := w.Open(t.Context(), alice, c.in); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.Open(t.Context(), alice, tunnel.OpenIn{NodeID: "n2"}); errs.ClassOf(err) != errs.NotFound {
		t.Error(err)
	}
	if _, err := w.Open(t.Context(), alice, tunnel.OpenIn{NodeID: "n1", Argv: []string{"/no/such/program"}}); err == nil {
		t.Error("a program that is not there was opened")
	}
	// What is not on disk is not answered, and its program ends.
	w.disk.full = errs.New(errs.Unavailable, "the disk is full")
	if _, err := w.Open(t.Context(), alice, tunnel.OpenIn{NodeID: "n1"}); err == nil {
		t.Error("a terminal was opened that is not on disk")
	}
	soon(t, func() bool { return len(w.node.m.List()) == 0 })
	if n := w.Count(); n != 0 {
		t.Error(n)
	}
}

// TestCrate: the events of a node that knows neither sequence nor credit are bounded, and what has no room is told.
func TestCrate(t *testing.T) {
	w := newWorld(t, "channel")
	w.node.channels, w.node.commands = false, []string{"terminal.open", "terminal.list"}
	v := w.attach(w.open("/bin/cat").ID)
	id := v.Terminal().Session
	piece := strings.Repeat("x", 4096)
	const n = 400
	for range n {
		if !w.Reported("n1", "terminal.output", fmt.Appendf(nil, `{"session_id":%q,"data":%q}`, id, piece)) {
			t.Fatal("the terminal is not known")
		}
	}
	w.Reported("n1", "terminal.exit", fmt.Appendf(nil, `{"session_id":%q,"exit_code":0}`, id))
	if w.Reported("n2", "terminal.output", fmt.Appendf(nil, `{"session_id":%q,"data":"y"}`, id)) {
		t.Error("another node wrote to the terminal")
	}
	var got bytes.Buffer
	missed := rest(t, v, &got)
	if missed == 0 || missed+int64(got.Len()) != n*4096 || strings.Trim(got.String(), "x") != "" {
		t.Errorf("%d missed, %d came", missed, got.Len())
	}
}
