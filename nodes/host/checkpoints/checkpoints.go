// Package checkpoints serves session.* of a node: the commands of the agent bridge with its texts, which keep
// checkpoints in a bucket that the environment of the node names (tunnel.md §1.5, §1.9, §1.10), and session.capture and
// session.apply, which hand one to the gateway and take one from it over a channel.
//
// It imports the errs leaf, nodes/host and tunnel/checkpoint with its stores, and owns no goroutine beyond a call.
// What git may do here is decided by a host.Policy.
package checkpoints

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/nodes/host"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
)

// Limits.
const (
	// MaxTransfers is how many checkpoints are made, sent or restored at once; further ones wait.
	MaxTransfers = 4
	// MaxListed is how many keys session.list answers with.
	MaxListed = 50_000
	// fetchTime bounds what session.restore gets from a remote; the whole command has 150 s (§5.2).
	fetchTime = 60 * time.Second
	// drain is how much is read behind the end of a stream.
	drain = 1 << 20
)

const noCredentials = "S3_ACCESS_KEY and S3_SECRET_KEY env vars required"

// Instance is what a node registered.
type Instance struct {
	ID, DisplayName, Platform string
	Commands, Capabilities    []string
}

// Settings are what the person of this machine has set. The zero value is the defaults of package checkpoint.
type Settings struct {
	// Protocols are those by which remotes are reached.
	Protocols []string
	Limits    checkpoint.Limits
}

// Config of New. Policy and Session are required.
type Config struct {
	Policy host.Policy
	// Session keeps what was said and run.
	Session *checkpoint.Log
	// Dir is the workspace.
	Dir func() string
	// Writable says whether the workspace may be written; nil does not ask.
	Writable func(ctx context.Context, dir string) error
	// Env is the environment of git, os.Environ when nil.
	Env func() []string
	// Getenv reads S3_ENDPOINT_URL, S3_ACCESS_KEY, S3_SECRET_KEY, S3_BUCKET and S3_CREATE_BUCKET; os.Getenv when nil.
	Getenv func(string) string
	// Instance describes the node. An empty ID is the node id of the request, an empty Platform this machine's.
	Instance func() Instance
	// Settings are asked for at each use; nil are the defaults.
	Settings func() Settings
	// Temp is where attachments are kept while they travel; "" is the system's.
	Temp string
	Log  *slog.Logger
	Now  func() time.Time
}

// Module is the host.Module. Its methods may be called concurrently.
type Module struct {
	c     Config
	slots chan struct{}
}

// New returns it.
func New(c Config) *Module {
	if c.Env == nil {
		c.Env = os.Environ
	}
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	if c.Settings == nil {
		c.Settings = func() Settings { return Settings{} }
	}
	if c.Instance == nil {
		c.Instance = func() Instance { return Instance{} }
	}
	if c.Writable == nil {
		c.Writable = func(context.Context, string) error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Module{c: c, slots: make(chan struct{}, MaxTransfers)}
}

var commands = map[string]func(*Module, context.Context, host.Request, params) host.Result{
	"session.checkpoint": (*Module).checkpoint, "session.restore": (*Module).restore, "session.list": (*Module).list,
	"session.capture": (*Module).capture, "session.apply": (*Module).apply,
}

// Commands implements host.Module.
func (m *Module) Commands() []string {
	return []string{"session.checkpoint", "session.restore", "session.list", "session.capture", "session.apply"}
}

// Caps implements host.Module.
func (m *Module) Caps() []string { return []string{"checkpoints"} }

// Handle implements host.Module.
func (m *Module) Handle(ctx context.Context, r host.Request) host.Result {
	serve := commands[r.Command]
	if serve == nil {
		return failed("INVALID_REQUEST", "unknown command: "+r.Command)
	}
	var p params
	if r.ParamsJSON != nil && strings.TrimSpace(*r.ParamsJSON) != "" {
		if err := json.Unmarshal([]byte(*r.ParamsJSON), &p.members); err != nil || p.members == nil {
			p.other = pythonType(strings.TrimSpace(*r.ParamsJSON))
		}
	}
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return failed("UNAVAILABLE", "the command was ended with the link")
	}
	return serve(m, ctx, r, p)
}

// params are the members of the parameters, or the type of what is no object.
type params struct {
	members map[string]json.RawMessage
	other   string
}

// raised is what the bridge says of parameters that are no object.
func (p params) raised() *host.Result {
	if p.other == "" {
		return nil
	}
	r := failed("RAISED", "'"+p.other+"' object has no attribute 'get'")
	return &r
}

func (p params) isTrue(name string) bool { return string(p.members[name]) == "true" }

// str is a member that is text; false when it is something that Python takes for true and no text.
func (p params) str(name string) (string, bool) {
	var s string
	raw := p.members[name]
	if json.Unmarshal(raw, &s) == nil {
		return s, true
	}
	switch string(raw) {
	case "", "null", "false", "0", "[]", "{}", "0.0":
		return "", true
	}
	return "", false
}

func pythonType(raw string) string {
	switch {
	case raw == "null":
		return "NoneType"
	case raw == "true" || raw == "false":
		return "bool"
	case strings.HasPrefix(raw, `"`):
		return "str"
	case strings.HasPrefix(raw, "["):
		return "list"
	case strings.ContainsAny(raw, ".eE"):
		return "float"
	}
	return "int"
}

func failed(code, message string) host.Result {
	return host.Result{Error: &host.Error{Code: code, Message: message}}
}

func done(answer any) host.Result {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(answer); err != nil {
		return failed("UNAVAILABLE", err.Error())
	}
	s := strings.TrimSuffix(b.String(), "\n")
	return host.Result{OK: true, PayloadJSON: &s}
}

// store is the bucket that the environment names.
func (m *Module) store(bucket string) (*objects.S3, error) {
	c, err := objects.FromEnv(m.c.Getenv)
	if err != nil {
		return nil, err
	}
	if bucket != "" {
		c.Bucket = bucket
	}
	c.CreateBucket = slices.Contains([]string{"1", "true", "yes", "on"}, strings.ToLower(m.c.Getenv("S3_CREATE_BUCKET")))
	return objects.NewS3(c)
}

// credentials says whether the environment has any (§1.5: before anything else).
func (m *Module) credentials() *host.Result {
	if m.c.Getenv("S3_ACCESS_KEY") != "" && m.c.Getenv("S3_SECRET_KEY") != "" {
		return nil
	}
	r := failed("UNAVAILABLE", noCredentials)
	return &r
}

// instance is what this node registered.
func (m *Module) instance(r host.Request) Instance {
	i := m.c.Instance()
	if i.ID == "" {
		i.ID = r.NodeID
	}
	if i.Platform == "" {
		i.Platform = platform()
	}
	return i
}

// platform is <system>-<machine> as the bridge writes it (§1.3).
func platform() string {
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}[runtime.GOARCH]
	switch {
	case runtime.GOARCH == "arm64" && runtime.GOOS != "linux":
		machine = "arm64"
	case machine == "":
		machine = runtime.GOARCH
	}
	return runtime.GOOS + "-" + machine
}

type stats struct {
	Conversation int `json:"conversation_count"`
	Commands     int `json:"command_count"`
	Scrollback   int `json:"scrollback_count"`
}

func statsOf(s checkpoint.Session) stats {
	return stats{len(s.Conversation), len(s.Commands), len(s.Scrollback)}
}

// progress is the event session.progress.
type progress struct {
	ID     string               `json:"id"`
	Step   string               `json:"step"`
	State  checkpoint.StepState `json:"state"`
	Detail string               `json:"detail,omitempty"`
}

// tell sends what is done as an event.
func tell(r host.Request) func(checkpoint.Step) {
	if r.Emit == nil || r.Exact {
		return nil
	}
	return func(s checkpoint.Step) {
		raw, err := json.Marshal(progress{r.ID, s.Name, s.State, s.Detail})
		if err == nil {
			r.Emit("session.progress", string(raw))
		}
	}
}

func (m *Module) take(ctx context.Context, r host.Request, p params, lenient bool) (*checkpoint.Checkpoint, error) {
	i := m.instance(r)
	return checkpoint.Capture(ctx, checkpoint.CaptureOptions{
		Dir: m.c.Dir(), Instance: i.ID, DisplayName: i.DisplayName, Platform: i.Platform, Commands: i.Commands, Capabilities: i.Capabilities,
		Session: m.c.Session.Session(m.c.Dir()), Archive: p.isTrue("archive"), Whole: p.isTrue("whole"), Lenient: lenient,
		Limits: m.c.Settings().Limits, Temp: m.c.Temp, Env: m.c.Env(), Progress: tell(r), Now: m.c.Now,
	})
}

// checkpoint is session.checkpoint.
func (m *Module) checkpoint(ctx context.Context, r host.Request, p params) host.Result {
	if refused := m.credentials(); refused != nil {
		return *refused
	}
	fail := func(err error) host.Result { return failed("UNAVAILABLE", "checkpoint failed: "+err.Error()) }
	store, err := m.store("")
	if err != nil {
		return fail(err)
	}
	c, err := m.take(ctx, r, p, true)
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	if err := store.Check(ctx); err != nil {
		return fail(err)
	}
	key := checkpoint.Key(c.Document.SourceInstanceID, c.Document.CheckpointID)
	// What lies beside the document goes first: a document that is listed is whole.
	var put []string
	undo := func(err error) host.Result {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		for _, key := range put {
			if e := store.Delete(late, key); e != nil {
				m.c.Log.Warn("what a failed checkpoint stored could not be removed", "key", key, "err", e)
			}
		}
		return fail(err)
	}
	if c.Document.Hanzo != nil {
		for _, a := range c.Document.Hanzo.Attachments {
			at := checkpoint.AttachmentKey(key, a.Name)
			f, err := c.Open(ctx, a)
			if err != nil {
				return undo(err)
			}
			put = append(put, at)
			err = store.Put(ctx, at, f, objects.Info{Size: a.Size, SHA256: a.SHA256, ContentType: "application/octet-stream"})
			_ = f.Close() // only read
			if err != nil {
				return undo(err)
			}
		}
	}
	if err := store.Put(ctx, key, strings.NewReader(string(c.Raw)), objects.Info{Size: int64(len(c.Raw)), ContentType: "application/json"}); err != nil {
		return undo(err)
	}
	return done(struct {
		ID    string `json:"checkpoint_id"`
		URL   string `json:"checkpoint_url"`
		Key   string `json:"key"`
		Stats stats  `json:"session_stats"`
	}{c.Document.CheckpointID, store.URL(key), key, statsOf(c.Document.Session)})
}

// restored is the answer to session.restore and to session.apply.
type restored struct {
	From      string `json:"restored_from"`
	Platform  string `json:"source_platform"`
	ID        string `json:"checkpoint_id"`
	Timestamp string `json:"timestamp"`
	stats
	Git *checkpoint.GitRestore `json:"git_restore,omitempty"`
	// Those of session.apply.
	*applied
}

type applied struct {
	OK         bool              `json:"ok"`
	DryRun     bool              `json:"dry_run"`
	RolledBack bool              `json:"rolled_back"`
	Steps      []checkpoint.Step `json:"steps"`
	Notes      []string          `json:"notes,omitempty"`
}

func answerOf(d *checkpoint.Document) restored {
	a := restored{From: d.SourceInstanceID, Platform: d.Platform, ID: d.CheckpointID, Timestamp: d.Timestamp, stats: statsOf(d.Session)}
	a.Scrollback = min(a.Scrollback, checkpoint.ScrollbackLines)
	return a
}

// restore is session.restore.
func (m *Module) restore(ctx context.Context, r host.Request, p params) host.Result {
	if refused := m.credentials(); refused != nil {
		return *refused
	}
	if raised := p.raised(); raised != nil {
		return *raised
	}
	fail := func(err error) host.Result { return failed("UNAVAILABLE", "restore failed: "+err.Error()) }
	url, ok := p.str("checkpoint_url")
	switch {
	case !ok:
		return failed("INVALID_PARAMS", "restore failed: checkpoint_url is no text")
	case url == "":
		return failed("INVALID_PARAMS", "no checkpoint_url provided")
	}
	store, err := m.store("")
	if err != nil {
		return fail(err)
	}
	bucket, key, err := checkpoint.ParseURL(url, store.Bucket())
	if err != nil {
		return fail(err)
	}
	if store, err = m.store(bucket); err != nil {
		return fail(err)
	}
	body, _, err := store.Get(ctx, key)
	if err != nil {
		return fail(err)
	}
	d, err := checkpoint.Read(body)
	_ = body.Close() // only read
	if v, ok := errors.AsType[*checkpoint.VersionError](err); ok {
		return failed("INVALID_PARAMS", v.Error())
	}
	if err != nil {
		return fail(err)
	}
	if d.Hanzo != nil && d.Hanzo.Encryption != "" {
		return fail(errors.New("this checkpoint is encrypted: restore it through the daemon that holds the key"))
	}
	if err := m.c.Session.Replace(d.Session); err != nil {
		return fail(err)
	}
	a := answerOf(d)
	a.Git = checkpoint.RestoreLikeBridge(ctx, checkpoint.RestoreOptions{
		Dir: m.c.Dir(), Document: d, FetchTime: fetchTime, Temp: m.c.Temp, Env: m.c.Env(), Protocols: m.c.Settings().Protocols, Progress: tell(r),
		Allow: m.allow(ctx, p),
		Open: func(ctx context.Context, a checkpoint.Attachment) (io.ReadCloser, error) {
			body, _, err := store.Get(ctx, checkpoint.AttachmentKey(key, a.Name))
			return body, err
		},
	})
	if r.Exact && a.Git != nil {
		a.Git.Steps = nil
	}
	return done(a)
}

// allow asks the policy of this machine, and whether the workspace is one of the directories that it offers.
func (m *Module) allow(ctx context.Context, p params) func([]string) error {
	return func(argv []string) error {
		if err := m.c.Writable(ctx, m.c.Dir()); err != nil {
			return err
		}
		var agent *string
		if id, _ := p.str("agentId"); id != "" {
			agent = &id
		}
		env, _ := m.c.Policy.Environment(m.c.Env(), nil, false)
		path := ""
		for _, kv := range env {
			if k, v, _ := strings.Cut(kv, "="); strings.EqualFold(k, "PATH") {
				path = v
			}
		}
		approved := p.isTrue("approved")
		_, _, reason, message, err := m.c.Policy.Admit(agent, argv, m.c.Dir(), path, approved)
		if reason != "" {
			return errors.New(message)
		}
		if err != nil {
			return err
		}
		return m.c.Policy.Record(agent, argv, m.c.Dir(), path, strings.Join(argv, " "), false)
	}
}

type listed struct {
	Key      string `json:"key"`
	Size     int64  `json:"size"`
	Modified string `json:"last_modified"`
}

// list is session.list.
func (m *Module) list(ctx context.Context, _ host.Request, p params) host.Result {
	if refused := m.credentials(); refused != nil {
		return *refused
	}
	if raised := p.raised(); raised != nil {
		return *raised
	}
	fail := func(err error) host.Result { return failed("UNAVAILABLE", "list failed: "+err.Error()) }
	prefix, ok := p.str("instance_id")
	if !ok {
		return failed("INVALID_PARAMS", "list failed: instance_id is no text")
	}
	store, err := m.store("")
	if err != nil {
		return fail(err)
	}
	if err := store.Check(ctx); err != nil {
		return fail(err)
	}
	found := []listed{}
	for o, err := range store.List(ctx, prefix) {
		if err != nil {
			return fail(err)
		}
		if !strings.HasSuffix(o.Key, ".json") {
			continue
		}
		if len(found) == MaxListed {
			return fail(fmt.Errorf("there are more than %d checkpoints: name an instance_id", MaxListed))
		}
		found = append(found, listed{o.Key, o.Size, isoTime(o.Modified)})
	}
	return done(struct {
		Checkpoints []listed `json:"checkpoints"`
		Count       int      `json:"count"`
		Bucket      string   `json:"bucket"`
	}{found, len(found), store.Bucket()})
}

// isoTime is Python's isoformat of a time.
func isoTime(t time.Time) string {
	if t = t.UTC().Truncate(time.Microsecond); t.Nanosecond() == 0 {
		return t.Format("2006-01-02T15:04:05+00:00")
	}
	return checkpoint.Timestamp(t)
}

// channel opens the one that a request names.
func channel(ctx context.Context, r host.Request, p params) (host.Channel, *host.Result) {
	name, _ := p.str("channel")
	if name == "" || r.Channel == nil {
		r := failed("UNAVAILABLE", r.Command+" needs a channel, which this link does not carry; use session.checkpoint and session.restore")
		return nil, &r
	}
	ch, err := r.Channel(ctx, name)
	if err != nil {
		r := failed("UNAVAILABLE", "the channel could not be opened: "+err.Error())
		return nil, &r
	}
	return ch, nil
}

// capture is session.capture {channel, archive?, whole?}: the checkpoint goes over the channel, as
// checkpoint.WritePack writes it.
func (m *Module) capture(ctx context.Context, r host.Request, p params) host.Result {
	ch, refused := channel(ctx, r, p)
	if refused != nil {
		return *refused
	}
	defer context.AfterFunc(ctx, func() { _ = ch.Close(context.Cause(ctx)) })() // what waits in it fails
	c, err := m.take(ctx, r, p, false)
	if err != nil {
		_ = ch.Close(err) // the answer says it
		return failed("UNAVAILABLE", err.Error())
	}
	defer c.Close()
	n := int64(0)
	if err = c.WriteTo(ctx, pieces{ch}, func(sent int64) { n = sent }); err == nil {
		err = ch.CloseWrite()
	}
	if err != nil {
		_ = ch.Close(err)
		return failed("UNAVAILABLE", "the checkpoint could not be sent: "+err.Error())
	}
	_ = ch.Close(nil) // what was written arrives
	var notes []string
	if c.Document.Hanzo != nil {
		notes = c.Document.Hanzo.Notes
	}
	return done(struct {
		ID    string   `json:"checkpoint_id"`
		Stats stats    `json:"session_stats"`
		Bytes int64    `json:"bytes"`
		Notes []string `json:"notes,omitempty"`
	}{c.Document.CheckpointID, statsOf(c.Document.Session), n, notes})
}

// pieces writes what a channel takes at once.
type pieces struct{ ch host.Channel }

func (p pieces) Write(b []byte) (int, error) {
	done := 0
	for len(b) > 0 {
		n, err := p.ch.Write(b[:min(len(b), host.MaxChannelWrite)])
		done += n
		if err != nil {
			return done, err
		}
		b = b[n:]
	}
	return done, nil
}

// apply is session.apply {channel, force?, dryRun?}: a checkpoint comes over the channel and is restored. Which step
// failed stands in the answer; the session is replaced when none did.
func (m *Module) apply(ctx context.Context, r host.Request, p params) host.Result {
	ch, refused := channel(ctx, r, p)
	if refused != nil {
		return *refused
	}
	defer context.AfterFunc(ctx, func() { _ = ch.Close(context.Cause(ctx)) })() // as above
	c, err := checkpoint.Unpack(ch, m.c.Temp)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(ch, drain)) // what a tar ends with
		if err != nil {
			_ = c.Close()
		}
	}
	if err != nil {
		_ = ch.Close(err)
		return failed("INVALID_PARAMS", "the checkpoint cannot be taken: "+err.Error())
	}
	defer c.Close()
	_ = ch.CloseWrite()
	defer func() { _ = ch.Close(nil) }()
	a := answerOf(c.Document)
	report, err := checkpoint.Restore(ctx, checkpoint.RestoreOptions{
		Dir: m.c.Dir(), Document: c.Document, Open: c.Open, Force: p.isTrue("force"), DryRun: p.isTrue("dryRun"), Allow: m.allow(ctx, p),
		Protocols: m.c.Settings().Protocols, Temp: m.c.Temp, Env: m.c.Env(), Progress: tell(r),
	})
	a.applied = &applied{OK: err == nil, DryRun: report.DryRun, RolledBack: report.RolledBack, Steps: report.Steps, Notes: report.Notes}
	if err != nil && report.Failed() == nil {
		a.Steps = append(a.Steps, checkpoint.Step{Name: "restore", State: checkpoint.StepFailed, Detail: err.Error()})
	}
	if err == nil && !report.DryRun {
		step := checkpoint.Step{Name: "session", State: checkpoint.StepOK}
		if err := m.c.Session.Replace(c.Document.Session); err != nil {
			a.OK, step.State, step.Detail = false, checkpoint.StepFailed, err.Error()
		}
		a.Steps = append(a.Steps, step)
	}
	return done(a)
}
