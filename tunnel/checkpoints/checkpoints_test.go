package checkpoints

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/seal"
)

var (
	owner    = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "local:1"}
	alice    = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "alice"}
	bob      = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeWrite}, Principal: "bob"}
	acme     = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "iam:ann", Tenant: "acme"}
	other    = identity.Caller{Role: identity.RoleOperator, Scopes: []identity.Scope{identity.ScopeAdmin}, Principal: "iam:eve", Tenant: "other"}
	errNode  = errs.New(errs.Unavailable, "the disk of the node is full")
	errNoOne = errs.New(errs.NotFound, "no such node")
)

// pipe is a channel between daemon and node.
type pipe struct {
	r *io.PipeReader
	w *io.PipeWriter
}

func (p pipe) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p pipe) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipe) CloseWrite() error           { return p.w.Close() }
func (p pipe) Close(err error) error {
	if err == nil {
		err = io.ErrClosedPipe
	}
	_ = p.r.CloseWithError(err)
	return p.w.CloseWithError(err)
}

func pipes() (a, b pipe) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return pipe{ar, aw}, pipe{br, bw}
}

// machines are nodes in this process.
type machines struct {
	t   *testing.T
	mu  sync.Mutex
	all map[string]*machine
}

type machine struct {
	Node
	pack    []byte // what it captures
	capture func(ch Channel) error
	applied [][]byte
	params  []string
	calls   []string
	fail    error
	answer  string
}

func (m *machines) Node(_ context.Context, c identity.Caller, id string) (Node, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n := m.all[id]; n != nil && reaches(c, n.Tenant) {
		return n.Node, nil
	}
	return Node{}, errNoOne
}

func (m *machines) Invoke(_ context.Context, _ identity.Caller, call Call) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.all[call.NodeID]
	n.calls = append(n.calls, call.Command+" "+string(call.Params))
	if n.fail != nil {
		return nil, n.fail
	}
	return []byte(n.answer), nil
}

func (m *machines) Open(ctx context.Context, _ identity.Caller, call Call) (Channel, func(context.Context) ([]byte, error), bool, error) {
	m.mu.Lock()
	n := m.all[call.NodeID]
	n.calls = append(n.calls, call.Command)
	n.params = append(n.params, string(call.Params))
	m.mu.Unlock()
	mine, theirs := pipes()
	type result struct {
		raw []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		switch {
		case call.Command == "session.capture" && n.capture != nil:
			r.err = n.capture(theirs)
		case call.Command == "session.capture":
			_, r.err = theirs.Write(n.pack)
		default:
			var got []byte
			if n.fail == nil {
				got, r.err = io.ReadAll(theirs)
			}
			if r.err == nil && n.fail == nil {
				var c *checkpoint.Checkpoint
				if c, r.err = checkpoint.Unpack(bytes.NewReader(got), m.t.TempDir()); r.err == nil {
					_ = c.Close()
					m.mu.Lock()
					n.applied = append(n.applied, got)
					m.mu.Unlock()
				}
			}
		}
		if r.err == nil {
			r.err = n.fail
		}
		r.raw = []byte(n.answer)
		if r.err != nil {
			_ = theirs.Close(r.err)
		} else {
			_ = theirs.CloseWrite()
		}
		done <- r
	}()
	return mine, func(ctx context.Context) ([]byte, error) {
		select {
		case r := <-done:
			done <- r
			return r.raw, r.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}, true, nil
}

// packOf makes what a node captures: a document with one attachment of some size.
func packOf(t *testing.T, instance, said string, size int) []byte {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	d := &checkpoint.Document{
		Version: 1, CheckpointID: checkpoint.NewID(time.Now()), SourceInstanceID: instance, Platform: "linux-x86_64", Timestamp: checkpoint.Timestamp(time.Now()),
		Session: checkpoint.Session{
			Conversation: []checkpoint.Message{{Role: "user", Content: said}},
			Commands:     []checkpoint.Command{{Cmd: "echo " + said, Stdout: said, Stderr: said}},
			Scrollback:   []string{"$ echo " + said},
		},
		Hanzo: &checkpoint.Extension{
			Format: 1, Kind: checkpoint.KindDirectory, Attachments: []checkpoint.Attachment{{Name: checkpoint.AttachFiles, Size: int64(size), SHA256: sumOf(content)}},
		},
	}
	raw, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	open := func(context.Context, checkpoint.Attachment) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}
	if err := checkpoint.WritePack(t.Context(), &b, raw, d, open, nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type world struct {
	*Service
	nodes    *machines
	settings Settings
	acts     []string
	dir      string
	refuse   error // of the audit log
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{nodes: &machines{t: t, all: map[string]*machine{}}, dir: t.TempDir()}
	w.settings = Settings{Kind: KindOwn, Dir: filepath.Join(w.dir, "store")}
	var mu sync.Mutex
	w.Service = New(Config{
		Settings: func() Settings { return w.settings }, Nodes: w.nodes, TempDir: filepath.Join(w.dir, "tmp"), Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Record: func(_ context.Context, c identity.Caller, a Act) error {
			mu.Lock()
			defer mu.Unlock()
			w.acts = append(w.acts, c.Subject()+" "+a.NodeID+" "+a.Detail+" "+a.Reason)
			return w.refuse
		},
	})
	t.Cleanup(func() {
		if left, _ := os.ReadDir(filepath.Join(w.dir, "tmp")); len(left) > 0 {
			t.Errorf("left on disk: %v", left)
		}
	})
	return w
}

func (w *world) add(t *testing.T, id, tenant string, commands ...string) *machine {
	if len(commands) == 0 {
		commands = []string{"session.apply", "session.capture", "session.checkpoint", "session.restore", "status.get"}
	}
	at := id
	if tenant != "" {
		at = tenant + "/" + id
	}
	m := &machine{
		Node: Node{ID: at, Tenant: tenant, Commands: commands, Connected: true}, pack: packOf(t, "somebody-else", "hello", 100_000),
		answer: `{"restored_from":"a","checkpoint_id":"x","conversation_count":1,"command_count":1,"scrollback_count":1,"steps":[{"name":"files","state":"ok","detail":"1 file"}]}`,
	}
	w.nodes.all[at] = m
	return m
}

func (w *world) listed(t *testing.T, c identity.Caller, node string) []string {
	t.Helper()
	out, err := w.List(t.Context(), c, ListIn{NodeID: node})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, e := range out.Checkpoints {
		ids = append(ids, e.NodeID()+"/"+e.ID)
	}
	return ids
}

func steps(names *[]string) Progress {
	return func(s Step) error {
		if n := len(*names); n == 0 || (*names)[n-1] != s.Name {
			*names = append(*names, s.Name)
		}
		return nil
	}
}

func TestRound(t *testing.T) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keys, []byte(key.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sealed := range []bool{false, true} {
		t.Run(fmt.Sprint("sealed ", sealed), func(t *testing.T) {
			w := newWorld(t)
			a, b := w.add(t, "a", ""), w.add(t, "b", "")
			a.pack = packOf(t, "liar", "the password is sk-abcdef", 40_000)
			w.settings.Redact = []string{`sk-[a-z]+`}
			if sealed {
				w.settings.Recipients, w.settings.IdentityFile = []string{key.Recipient().String()}, keys
			}
			var seen []string
			cp, err := w.Create(t.Context(), alice, CreateIn{NodeID: "a"}, steps(&seen))
			if err != nil {
				t.Fatal(err)
			}
			if cp.InstanceID != "a" || cp.Encrypted != sealed || !cp.Restorable || cp.Owner != "alice" || !ownID.MatchString(cp.ID) {
				t.Errorf("%+v", cp)
			}
			if want := []string{"check", "capture", "store"}; !slices.Equal(seen, want) {
				t.Errorf("steps %v", seen)
			}
			if got := w.listed(t, bob, "a"); !slices.Equal(got, []string{"a/" + cp.ID}) {
				t.Errorf("listed %v", got)
			}
			got, err := w.Get(t.Context(), bob, GetIn{ID: cp.ID})
			if err != nil || got.SHA256 != cp.SHA256 || got.TotalSize != 0 && got.Owner != "alice" || got.Made.IsZero() {
				t.Errorf("%+v %v", got, err)
			}
			// Nothing of it is in clear when it is sealed, and what the rules find never.
			for k, raw := range objectsOf(t, w) {
				if bytes.Contains(raw, []byte("sk-abcdef")) {
					t.Errorf("%s holds the secret", k)
				}
				if bytes.Contains(raw, []byte("the password")) == sealed && strings.HasSuffix(k, ".json") {
					t.Errorf("%s in clear: %v", k, !sealed)
				}
				if sealed && bytes.Contains(raw, []byte("0123456789abcdef0123456789abcdef")) {
					t.Errorf("%s holds files in clear", k)
				}
			}
			if _, err := w.Restore(t.Context(), bob, RestoreIn{ID: cp.ID, NodeID: "b"}, nil); !errors.Is(err, ErrNotOwner) {
				t.Errorf("somebody else's: %v", err)
			}
			out, err := w.Restore(t.Context(), alice, RestoreIn{ID: "a/" + cp.ID, NodeID: "b", Force: true}, steps(&seen))
			if err != nil || !out.OK || out.Conversation != 1 || len(b.applied) != 1 || b.params[0] != `{"dryRun":false,"force":true}` {
				t.Fatalf("%+v %v %v", out, err, b.params)
			}
			c, err := checkpoint.Unpack(bytes.NewReader(b.applied[0]), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if s := c.Document.Session; s.Conversation[0].Content != "the password is [redacted]" || s.Commands[0].Stdout != s.Conversation[0].Content ||
				s.Commands[0].Cmd != "echo the password is [redacted]" || s.Commands[0].Stderr != s.Commands[0].Stdout || s.Scrollback[0] != "$ "+s.Commands[0].Cmd {
				t.Errorf("%+v", s)
			}
			// There and back.
			for _, as := range []bool{false, true} {
				var pack bytes.Buffer
				if err := w.Download(t.Context(), bob, DownloadIn{ID: cp.ID}, nil, &pack); !errors.Is(err, ErrNotOwner) {
					t.Errorf("download of somebody else's: %v", err)
				}
				if err := w.Download(t.Context(), alice, DownloadIn{ID: cp.ID, Sealed: as}, func(Checkpoint) error { return nil }, &pack); err != nil {
					t.Fatal(err)
				}
				raw := pack.Bytes()
				if _, err := w.Upload(t.Context(), owner, bytes.NewReader(raw), nil); !errors.Is(err, ErrExists) {
					t.Errorf("the same id again: %v", err)
				}
				if _, err := w.Delete(t.Context(), bob, GetIn{ID: cp.ID}); !errors.Is(err, ErrNotOwner) {
					t.Errorf("delete of somebody else's: %v", err)
				}
				if _, err := w.Delete(t.Context(), alice, GetIn{ID: cp.ID, NodeID: "a"}); err != nil {
					t.Fatal(err)
				}
				if left := objectsOf(t, w); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
				for i := 0; i < len(raw); i += len(raw)/5 + 1 {
					if _, err := w.Upload(t.Context(), owner, bytes.NewReader(raw[:i]), nil); err == nil {
						t.Errorf("the first %d bytes were taken", i)
					}
				}
				if left := objectsOf(t, w); len(left) != 0 {
					t.Errorf("left of broken uploads: %d", len(left))
				}
				again, err := w.Upload(t.Context(), alice, bytes.NewReader(raw), nil)
				if err != nil || again.ID != cp.ID || again.InstanceID != "a" || again.Encrypted != sealed {
					t.Fatalf("%+v %v", again, err)
				}
			}
			if out, err := w.Restore(t.Context(), alice, RestoreIn{ID: cp.ID, NodeID: "b", DryRun: true}, nil); err != nil || !out.DryRun {
				t.Fatalf("%+v %v", out, err)
			}
			// Whatever byte of the store changes, nothing reaches the node.
			if sealed {
				w.settings.IdentityFile = ""
				if _, err := w.Restore(t.Context(), alice, RestoreIn{ID: cp.ID, NodeID: "b"}, nil); !errors.Is(err, seal.ErrNoKey) {
					t.Errorf("without the key: %v", err)
				}
				w.settings.IdentityFile = keys
			}
			n := len(b.applied)
			for k, raw := range objectsOf(t, w) {
				for i := 0; i < len(raw); i += len(raw)/4 + 1 {
					bad := bytes.Clone(raw)
					bad[i] ^= 0x20
					overwrite(t, w, k, bad)
					if _, err := w.Restore(t.Context(), owner, RestoreIn{ID: cp.ID, NodeID: "b"}, nil); err == nil && !harmless(k, raw, i) {
						t.Errorf("%s changed at %d and was restored", k, i)
					}
				}
				overwrite(t, w, k, raw[:len(raw)/2])
				if _, err := w.Restore(t.Context(), owner, RestoreIn{ID: cp.ID, NodeID: "b"}, nil); err == nil {
					t.Errorf("%s was cut and restored", k)
				}
				overwrite(t, w, k, raw)
			}
			if sealed && len(b.applied) > n+4 || !sealed && len(b.applied) != n {
				t.Errorf("damaged checkpoints reached the node %d times", len(b.applied)-n)
			}
			if b.calls = nil; w.acts[0] != "alice a a checkpoint is made " || w.acts[1] != "alice a checkpoint "+cp.ID+" was made " {
				t.Errorf("%q", w.acts[:2])
			}
		})
	}
}

// harmless are changes of a header's own facts, which are not part of what is restored.
func harmless(k string, raw []byte, _ int) bool {
	return strings.HasSuffix(k, ".json") && seal.IsHeader(raw) || strings.HasSuffix(k, metaName)
}

func objectsOf(t *testing.T, w *world) map[string][]byte {
	t.Helper()
	store, _, err := w.stores()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for o, err := range store.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		raw, _, err := readAll(t.Context(), store, o.Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		out[o.Key] = raw
	}
	return out
}

func overwrite(t *testing.T, w *world, key string, raw []byte) {
	t.Helper()
	store, _, err := w.stores()
	if err == nil {
		err = store.Put(t.Context(), key, bytes.NewReader(raw), objects.Info{Size: int64(len(raw))})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTenants(t *testing.T) {
	w := newWorld(t)
	w.add(t, "dev", "acme")
	w.add(t, "dev", "")
	w.add(t, "dev", "other")
	mine, err := w.Create(t.Context(), acme, CreateIn{NodeID: "acme/dev"}, nil)
	if err != nil || mine.Tenant != "acme" || mine.InstanceID != "dev" || mine.Key != "acme/dev/"+mine.ID+".json" {
		t.Fatalf("%+v %v", mine, err)
	}
	theirs, err := w.Create(t.Context(), owner, CreateIn{NodeID: "other/dev"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	common, err := w.Create(t.Context(), owner, CreateIn{NodeID: "dev"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.listed(t, acme, ""); !slices.Equal(got, []string{"acme/dev/" + mine.ID}) {
		t.Errorf("acme sees %v", got)
	}
	for _, name := range []string{"dev", "acme/dev"} {
		if got := w.listed(t, acme, name); !slices.Equal(got, []string{"acme/dev/" + mine.ID}) {
			t.Errorf("acme sees %v of %s", got, name)
		}
	}
	if got := w.listed(t, acme, "other/dev"); len(got) != 0 {
		t.Errorf("acme sees %v", got)
	}
	if got := w.listed(t, owner, ""); len(got) != 3 {
		t.Errorf("the owner sees %v", got)
	}
	if got := w.listed(t, owner, "dev"); !slices.Equal(got, []string{"dev/" + common.ID}) {
		t.Errorf("the owner sees %v of dev", got)
	}
	for _, id := range []string{theirs.ID, "other/dev/" + theirs.ID, common.ID, "dev/" + common.ID} {
		if _, err := w.Get(t.Context(), acme, GetIn{ID: id}); !errors.Is(err, ErrUnknown) {
			t.Errorf("get %s: %v", id, err)
		}
		if _, err := w.Delete(t.Context(), acme, GetIn{ID: id}); !errors.Is(err, ErrUnknown) {
			t.Errorf("delete %s: %v", id, err)
		}
		if _, err := w.Restore(t.Context(), acme, RestoreIn{ID: id, NodeID: "acme/dev"}, nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("restore %s: %v", id, err)
		}
	}
	if _, err := w.Create(t.Context(), acme, CreateIn{NodeID: "other/dev"}, nil); !errors.Is(err, errNoOne) {
		t.Errorf("%v", err)
	}
	for range 3 {
		if _, err := w.Create(t.Context(), acme, CreateIn{NodeID: "acme/dev"}, nil); err != nil && !errors.Is(err, ErrExists) {
			t.Fatal(err)
		}
		w.nodes.all["acme/dev"].pack = packOf(t, "x", "again", 10)
	}
	if out, err := w.Prune(t.Context(), acme, PruneIn{KeepLast: 1}); err != nil || len(out.Removed) == 0 {
		t.Errorf("%+v %v", out, err)
	}
	if got := w.listed(t, owner, ""); len(got) != 3 {
		t.Errorf("after acme's prune: %v", got)
	}
	_ = other
}

func TestFailures(t *testing.T) {
	w := newWorld(t)
	a := w.add(t, "a", "")
	good := a.pack
	for name, c := range map[string]struct {
		do   func(ch Channel) error
		want error
	}{
		"no pack":          {func(ch Channel) error { _, err := ch.Write([]byte("nonsense")); return err }, checkpoint.ErrDocument},
		"half of it":       {func(ch Channel) error { _, err := ch.Write(good[:len(good)/2]); return err }, nil},
		"a changed byte":   {func(ch Channel) error { p := bytes.Clone(good); p[len(p)/2] ^= 1; _, err := ch.Write(p); return err }, checkpoint.ErrDocument},
		"the node refuses": {func(Channel) error { return errNode }, errNode},
	} {
		a.capture = c.do
		if _, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left := objectsOf(t, w); len(left) != 0 {
			t.Errorf("%s left %d objects", name, len(left))
		}
	}
	// One at a time, and cancelled calls end.
	began, wait := make(chan struct{}), make(chan struct{})
	a.capture = func(ch Channel) error {
		close(began)
		<-wait
		return errNode
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.Create(ctx, owner, CreateIn{NodeID: "a"}, nil)
		ended <- err
	}()
	<-began
	if _, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("two at a time: %v", err)
	}
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a cancelled call goes on")
	}
	close(wait)
	a.capture = nil
	// What cannot be recorded is not done.
	w.refuse = errors.New("the disk is full")
	a.calls = nil
	if _, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil); err == nil || len(a.calls) != 0 {
		t.Errorf("%v %v", err, a.calls)
	}
	w.refuse = nil
	w.settings.Recipients = []string{"nonsense"}
	if _, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil); !errors.Is(err, seal.ErrRecipient) || len(a.calls) != 0 {
		t.Errorf("%v %v", err, a.calls)
	}
	w.settings.Recipients = nil
	w.settings.Redact = []string{"("}
	if _, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil); !errors.Is(err, ErrRedact) {
		t.Errorf("%v", err)
	}
	w.settings.Redact = nil
	// A node that refuses says why.
	cp, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.fail = errNode
	if _, err := w.Restore(t.Context(), owner, RestoreIn{ID: cp.ID, NodeID: "a"}, nil); !errors.Is(err, errNode) {
		t.Errorf("%v", err)
	}
	a.fail, a.answer = nil, `{"steps":[{"name":"git","state":"failed","detail":"no such branch"}]}`
	if out, err := w.Restore(t.Context(), owner, RestoreIn{ID: cp.ID, NodeID: "a"}, nil); err != nil || out.OK || !out.Steps[0].Failed {
		t.Errorf("%+v %v", out, err)
	}
	if last := w.acts[len(w.acts)-1]; !strings.Contains(last, "a step failed") {
		t.Errorf("%q", last)
	}
}

func TestBridges(t *testing.T) {
	w := newWorld(t)
	bridge := []string{"session.checkpoint", "session.list", "session.restore", "status.get"}
	a, b := w.add(t, "a", "", bridge...), w.add(t, "b", "", bridge...)
	w.add(t, "c", "", "exec.run")
	a.answer = `{"checkpoint_id":"20250101T000001Z-00000001","checkpoint_url":"s3://bridges/a/20250101T000001Z-00000001.json","key":"a/20250101T000001Z-00000001.json","session_stats":{"conversation_count":4,"command_count":6,"scrollback_count":11}}`
	cp, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil)
	if err != nil || cp.Stored || cp.URL != "s3://bridges/a/20250101T000001Z-00000001.json" || cp.Commands != 6 {
		t.Fatalf("%+v %v", cp, err)
	}
	b.answer = `{"status":"running","restored_from":"a","git_restore":{"attempted":true,"clone":"ok","apply_diff":"error: corrupt patch at line 7\n"},"conversation_count":4,"session":{"command_count":6}}`
	var seen []Step
	out, err := w.Migrate(t.Context(), owner, MigrateIn{From: "a", To: "b"}, func(s Step) error { seen = append(seen, s); return nil })
	if err != nil || out.Restored.OK || out.Restored.RestoredFrom != "a" || out.Restored.Conversation != 4 {
		t.Fatalf("%+v %v", out, err)
	}
	if want := []string{`session.restore {"checkpoint_url":"s3://bridges/a/20250101T000001Z-00000001.json"}`, "status.get {}"}; !slices.Equal(b.calls, want) {
		t.Errorf("%q", b.calls)
	}
	if !slices.ContainsFunc(seen, func(s Step) bool { return s.Name == "git.apply" && s.Failed }) {
		t.Errorf("%+v", seen)
	}
	for _, in := range []MigrateIn{{From: "a", To: "a"}, {From: "a", To: "c"}, {From: "c", To: "a"}} {
		if _, err := w.Migrate(t.Context(), owner, in, nil); !errors.Is(err, ErrSameNode) && !errors.Is(err, ErrNoCommand) {
			t.Errorf("%+v: %v", in, err)
		}
	}
	// What the daemon keeps in a directory, a bridge cannot read.
	w.add(t, "ours", "")
	own, err := w.Create(t.Context(), owner, CreateIn{NodeID: "ours"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Restore(t.Context(), owner, RestoreIn{ID: own.ID, NodeID: "b"}, nil); !errors.Is(err, ErrElsewhere) {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{"null", "[]", "{}", "nonsense"} {
		if a.answer = bad; true {
			if _, err := w.Create(t.Context(), owner, CreateIn{NodeID: "a"}, nil); !errors.Is(err, ErrAnswer) {
				t.Errorf("answer %s: %v", bad, err)
			}
		}
	}
}

func TestMigrate(t *testing.T) {
	w := newWorld(t)
	a, b := w.add(t, "a", ""), w.add(t, "b", "")
	b.answer = `{"status":"running","restored_from":"a","steps":[],"session":{"command_count":2}}`
	var names []string
	out, err := w.Migrate(t.Context(), alice, MigrateIn{From: "a", To: "b"}, steps(&names))
	if err != nil || !out.Restored.OK || !json.Valid(out.Status) || len(b.applied) != 1 || len(a.applied) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if want := []string{"check", "capture", "store", "read", "send", "restore", "status"}; !slices.Equal(names, want) {
		t.Errorf("steps %v", names)
	}
}

func TestRetention(t *testing.T) {
	w := newWorld(t)
	w.add(t, "a", "")
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	at := func(instance string, days int, n string) string {
		return instance + "/" + now.AddDate(0, 0, -days).Format("20060102T150405Z-") + strings.Repeat(n, 8) + ".json"
	}
	keys := []string{at("a", 1, "1"), at("a", 5, "2"), at("a", 40, "3"), at("b", 50, "4"), "b/notes.json", "b/readme.txt", "a/" + "20250101T000001Z-00000001.d/files.tar.gz"}
	for _, k := range keys {
		overwrite(t, w, k, []byte(`{"version":1}`))
	}
	w.cfg.Now = func() time.Time { return now }
	for _, c := range []struct {
		in   PruneIn
		want int
	}{
		{PruneIn{KeepLast: 5, DryRun: true}, 0}, {PruneIn{KeepLast: 2, DryRun: true}, 1}, {PruneIn{KeepLast: 1, DryRun: true}, 2},
		{PruneIn{KeepDays: 30, DryRun: true}, 1}, {PruneIn{KeepDays: 3, DryRun: true}, 2}, {PruneIn{KeepLast: 1, NodeID: "b", DryRun: true}, 0},
	} {
		out, err := w.Prune(t.Context(), owner, c.in)
		if err != nil || len(out.Removed) != c.want {
			t.Errorf("%+v: %d, %v", c.in, len(out.Removed), err)
		}
	}
	if got := len(objectsOf(t, w)); got != len(keys) {
		t.Errorf("dry runs removed something: %d", got)
	}
	if _, err := w.Prune(t.Context(), owner, PruneIn{}); !errors.Is(err, ErrKeep) {
		t.Errorf("no rule: %v", err)
	}
	w.cfg.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	if out, err := w.Prune(t.Context(), owner, PruneIn{KeepLast: 1}); err != nil || len(out.Removed) != 2 || out.Orphans != 1 {
		t.Errorf("%+v %v", out, err)
	}
	if got := w.listed(t, owner, ""); len(got) != 3 {
		t.Errorf("%v", got)
	}
	// And with each Create.
	w.settings.KeepLast, w.cfg.Now = 1, time.Now
	cp, err := w.Create(t.Context(), alice, CreateIn{NodeID: "a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.listed(t, owner, "a"); !slices.Equal(got, []string{"a/" + cp.ID}) {
		t.Errorf("%v", got)
	}
	if got := w.listed(t, owner, "b"); len(got) != 2 {
		t.Errorf("another node's: %v", got)
	}
}

func TestPlaces(t *testing.T) {
	for _, c := range [][2]string{{"", "agent-1"}, {"acme", "agent-1"}, {"", "a/b"}, {"ac me/x", "a/b"}, {"", "100%"}, {"", "a%2Fb"}} {
		at := place(c[0], c[1])
		if tenant, instance := placed(at); tenant != c[0] || instance != c[1] {
			t.Errorf("%q is at %q, which is %q of %q", c, at, instance, tenant)
		}
	}
	if place("", "acme/x") == place("acme", "x") {
		t.Error("an instance can stand where a tenant's is")
	}
}

func FuzzKeys(f *testing.F) {
	for _, k := range []string{"a/b.json", "a/20250101T000001Z-00000001.d/x", ".json", "a/.json", "t/a/b.json", "%2F/x.json"} {
		f.Add(k)
	}
	f.Fuzz(func(t *testing.T, k string) {
		at, id, ok := split(k)
		if doc, beside := documentOf(k); beside && (ok || doc == k) {
			t.Errorf("%q is a document and lies beside %q", k, doc)
		}
		if ok && at+"/"+id+".json" != k && id+".json" != k && "/"+id+".json" != k {
			t.Errorf("%q is %q and %q", k, at, id)
		}
		_, _ = placed(at)
	})
}
