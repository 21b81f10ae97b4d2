package approvals_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/errs"
)

func TestFilesComeFromTheNode(t *testing.T) {
	w, b := bindingWorld(t)
	in := run("a", "/usr/bin/deploy", "x")
	in.Plan.RawCommand, in.Plan.SessionKey = ptr("/usr/bin/deploy x"), ptr("s")
	a := w.ask(in)
	if d := cmp.Diff([]string{`n1 system.run.prepare {"command":["/usr/bin/deploy","x"],"rawCommand":"/usr/bin/deploy x","cwd":"/srv","sessionKey":"s"}`}, b.asked); d != "" {
		t.Error(d)
	}
	shell := approvals.FileIdentity{Path: "/usr/bin/dash", Device: 9, Inode: 13, SHA256: hexSum}
	want := &approvals.Identity{
		Executable: &approvals.FileIdentity{Path: "/usr/bin/deploy", Device: 9, Inode: 12, SHA256: hexSum},
		Directory:  &approvals.FileIdentity{Path: "/srv", Device: 9, Inode: 1<<64 - 1},
		Inner:      []approvals.InnerFile{{Role: "interpreter", FileIdentity: shell}},
		Unbound:    []string{"sh: what its line starts is not in its text"},
	}
	if d := cmp.Diff(want, a.Binding.Identity); d != "" {
		t.Error(d)
	}
	w.restart()
	if stored, err := w.store.Approval("a"); err != nil || !cmp.Equal(stored.Binding, a.Binding) {
		t.Errorf("%v %v", cmp.Diff(a.Binding, stored.Binding), err)
	}
	w.decide("a", approvals.AllowOnce)
	out, refusal := w.use(ann, "n1", `{"runId":"a","approved":true,"binding":{"executable":{"path":"/evil"}}}`)
	var sent struct{ Binding json.RawMessage }
	if err := json.Unmarshal([]byte(out), &sent); err != nil || refusal != "" {
		t.Fatal(err, refusal)
	}
	var got, said any
	if err := errors.Join(json.Unmarshal(sent.Binding, &got), json.Unmarshal([]byte(boundFiles), &said)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(said, got); d != "" {
		t.Error(d)
	}
}

func TestNodesThatBindNothing(t *testing.T) {
	w, b := bindingWorld(t)
	b.old = true
	if a := w.ask(run("old", "x")); a.Binding.Identity != nil || !strings.Contains(a.Binding.Unbound, "does not bind") {
		t.Errorf("%+v", a.Binding)
	}
	b.old, b.away = false, true
	if a := w.ask(run("away", "y")); a.Binding.Identity != nil || !strings.Contains(a.Binding.Unbound, "not connected") {
		t.Errorf("%+v", a.Binding)
	}
	if len(b.asked) > 0 {
		t.Errorf("asked %q", b.asked)
	}
	w.decide("old", approvals.AllowOnce)
	w.decide("away", approvals.AllowOnce)
	b.away = false
	// The node can say now what it would run, and was not asked when somebody decided.
	if out, refusal := w.use(ann, "n1", `{"runId":"away","approved":true}`); refusal != "run_unbound" {
		t.Errorf("%s %s", out, refusal)
	}
	b.old = true
	if out, refusal := w.use(ann, "n1", `{"runId":"old","approved":true}`); refusal != "" || strings.Contains(out, "binding") {
		t.Errorf("%s %s", out, refusal)
	}
}

func TestAnswersThatAreNoBinding(t *testing.T) {
	w, b := bindingWorld(t)
	file := func(text string) string { return prepared(`{"executable":` + text + `}`) }
	for name, answer := range map[string]string{
		"nothing": ``, "no object": `5`, "no binding": `{"plan":{"argv":["x"]}}`, "null": prepared(`null`), "list": prepared(`[]`),
		"unknown member": prepared(`{"Executable":{"path":"/x"}}`), "no path": file(`{"inode":"1"}`), "half a hash": file(`{"path":"/x","sha256":"00"}`),
		"number": file(`{"path":"/x","inode":1}`), "negative": file(`{"path":"/x","inode":"-1"}`), "long": file(`{"path":"` + strings.Repeat("x", 20_000) + `"}`),
		"role of the executable": file(`{"path":"/x","role":"script"}`), "no role": prepared(`{"inner":[{"path":"/x"}]}`),
		"many": prepared(`{"unbound":["` + strings.Repeat(`","`, 100) + `"]}`), "large": strings.Repeat(" ", 2<<20) + prepared(boundFiles),
	} {
		b.answer = answer
		if _, err := w.svc.Request(context.Background(), ann, run("", "x")); code(err) != "node_binding" {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.err = errs.New(errs.Unavailable, "SYSTEM_RUN_DENIED: approval requires a stable executable path")
	if _, err := w.svc.Request(context.Background(), ann, run("", "x")); code(err) != "not_prepared" || !strings.Contains(err.Error(), "stable executable") {
		t.Errorf("%v", err)
	}
	b.err = context.DeadlineExceeded
	if _, err := w.svc.Request(context.Background(), ann, run("", "x")); code(err) != "node_silent" {
		t.Errorf("%v", err)
	}
	if n := w.svc.PendingCount(); n != 0 {
		t.Errorf("%d are pending", n)
	}
}

func TestNamesThatAreOne(t *testing.T) {
	w := newWorld(t)
	in := run("a", "x")
	in.Env = map[string]string{" A": "1", "A": "2"}
	w.ask(in)
	w.decide("a", approvals.AllowOnce)
	if out, refusal := w.use(ann, "n1", `{"runId":"a","approved":true,"env":{" A":"2","A":"1"}}`); refusal != "run_env_twice" {
		t.Errorf("%s %s", out, refusal)
	}
}
