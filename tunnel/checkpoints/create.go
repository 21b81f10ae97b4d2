package checkpoints

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/answer"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/seal"
)

// CreateIn names a node.
type CreateIn struct{ NodeID string }

// Create makes a checkpoint of a node's session and keeps it. It is listed once all of it is in the store. A node that
// keeps its checkpoints itself does so; when that is not in the daemon's store, the answer has an URL and is not Stored.
func (s *Service) Create(ctx context.Context, c identity.Caller, in CreateIn, progress Progress) (Checkpoint, error) {
	node, err := s.node(ctx, c, in.NodeID)
	if err != nil {
		return Checkpoint{}, err
	}
	done, err := s.begin(node.ID)
	if err != nil {
		return Checkpoint{}, err
	}
	defer done()
	return s.create(ctx, c, node, progress)
}

func (s *Service) node(ctx context.Context, c identity.Caller, id string) (Node, error) {
	if id = strings.TrimSpace(id); id == "" || len(id) > maxID {
		return Node{}, ErrNodeID
	}
	return s.cfg.Nodes.Node(ctx, c, id)
}

// create does it for a node whose place is taken.
func (s *Service) create(ctx context.Context, c identity.Caller, node Node, progress Progress) (cp Checkpoint, err error) {
	if err := s.record(ctx, c, node.ID, "a checkpoint is made"); err != nil {
		return Checkpoint{}, err
	}
	defer func() {
		if err != nil {
			s.ended(ctx, c, node.ID, "no checkpoint was made", err)
		} else {
			s.ended(ctx, c, node.ID, "checkpoint "+cp.ID+" was made", nil)
		}
	}()
	t := &teller{to: progress, node: node.ID}
	if !slices.Contains(node.Commands, "session.capture") {
		return s.createThere(ctx, c, node, t)
	}
	store, settings, err := s.stores()
	if err != nil {
		return Checkpoint{}, err
	}
	rules, err := compile(settings.Redact)
	if err != nil {
		return Checkpoint{}, err
	}
	to := settings.recipients(c, node)
	if len(to) > 0 {
		if err := seal.Check(to); err != nil {
			return Checkpoint{}, err
		}
	}
	if err := t.say("check", ""); err != nil {
		return Checkpoint{}, err
	}
	if err := store.Check(ctx); err != nil {
		return Checkpoint{}, err
	}
	got, ok, err := s.capture(ctx, c, node, t)
	if err != nil {
		return Checkpoint{}, err
	}
	if !ok {
		return s.createThere(ctx, c, node, t)
	}
	defer func() { _ = got.Close() }()
	tenant := tenantOf(c, node)
	// The node says what it did, and the daemon which node it is.
	d := got.Document
	d.SourceInstanceID = instanceOf(node)
	if !ownID.MatchString(d.CheckpointID) {
		d.CheckpointID = checkpoint.NewID(s.cfg.Now())
	}
	redact(d, rules)
	if got.Raw, err = d.Marshal(); err != nil {
		return Checkpoint{}, err
	}
	e := Entry{ID: d.CheckpointID, InstanceID: d.SourceInstanceID, Tenant: tenant, Owner: c.Subject()}
	cp, err = s.keep(ctx, store, settings, got, e, to, t)
	if err != nil {
		return Checkpoint{}, err
	}
	s.retain(ctx, c, store, settings, cp.Entry, t)
	return cp, nil
}

// tenantOf is whose checkpoint of a node it is: that of who asks, else the node's.
func tenantOf(c identity.Caller, n Node) string {
	if c.Tenant != "" {
		return c.Tenant
	}
	return n.Tenant
}

func (s Settings) recipients(c identity.Caller, n Node) []string {
	if own := s.TenantRecipients[tenantOf(c, n)]; len(own) > 0 {
		return own
	}
	return s.Recipients
}

// capture takes the checkpoint of a node of ours; false when its link carries no channels.
func (s *Service) capture(ctx context.Context, c identity.Caller, node Node, t *teller) (_ *checkpoint.Checkpoint, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, captureTime)
	defer cancel()
	if err := t.say("capture", ""); err != nil {
		return nil, false, err
	}
	ch, answered, ok, err := s.cfg.Nodes.Open(ctx, c, Call{NodeID: node.ID, Command: "session.capture", Params: []byte("{}"), Timeout: captureTime})
	if err != nil || !ok {
		return nil, ok, err
	}
	defer func() { _ = ch.Close(err) }()
	defer context.AfterFunc(ctx, func() { _ = ch.Close(context.Cause(ctx)) })()
	r := &counted{r: ch, t: t, step: "capture"}
	got, err := checkpoint.Unpack(r, s.cfg.TempDir)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // what a tar ends with
	}
	if err == nil {
		_, err = answered(ctx)
		if err == nil {
			return got, true, t.say("capture", "done")
		}
	} else if r.ended {
		err = said(ctx, answered, err)
	}
	if got != nil {
		_ = got.Close()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, true, err
}

// said returns what a node says of a failure, which is better than how the stream ended.
func said(ctx context.Context, answered func(context.Context) ([]byte, error), err error) error {
	ctx, stop := context.WithTimeout(ctx, statusTime)
	defer stop()
	if _, said := answered(ctx); said != nil && ctx.Err() == nil {
		return said
	}
	return err
}

// keep stores a checkpoint: what lies beside the document first, so that nothing is listed before all is there.
func (s *Service) keep(ctx context.Context, store objects.Store, settings Settings, got *checkpoint.Checkpoint, e Entry, to []string, t *teller) (cp Checkpoint, err error) {
	e.Key = place(e.Tenant, e.InstanceID) + "/" + e.ID + ".json"
	e.URL = store.URL(e.Key)
	if _, err := store.Stat(ctx, e.Key); err == nil {
		return cp, ErrExists.With("id", e.ID)
	} else if !errors.Is(err, objects.ErrNotFound) {
		return cp, err
	}
	defer func() {
		if err == nil {
			return
		}
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTime)
		defer cancel()
		if gone := remove(late, store, e); gone != nil {
			s.cfg.Log.Warn("what a broken call left in the store stays until hanzoctl checkpoints prune", "checkpoint", e.ID, "error", gone)
		}
	}()
	cp = Checkpoint{Entry: e, Stored: true, Restorable: true}
	describe(&cp, got.Document)
	doc := got.Raw
	if len(to) > 0 {
		if doc, err = s.seal(ctx, store, got, &cp, to, t); err != nil {
			return cp, err
		}
		cp.Restorable = settings.IdentityFile != ""
	} else if err = s.keepAttachments(ctx, store, got, &cp, t); err != nil {
		return cp, err
	}
	cp.SHA256, cp.Size = sumOf(doc), int64(len(doc))
	cp.TotalSize += cp.Size
	if len(to) == 0 {
		m := answer.Meta{Format: 1, SHA256: cp.SHA256, Owner: e.Owner}.Marshal()
		cp.TotalSize += int64(len(m))
		if err = put(ctx, store, checkpoint.AttachmentKey(e.Key, metaName), m); err != nil {
			return cp, err
		}
	}
	if err = put(ctx, store, e.Key, doc); err != nil {
		return cp, err
	}
	cp.Modified = s.cfg.Now()
	return cp, t.say("store", "done")
}

func put(ctx context.Context, store objects.Store, key string, raw []byte) error {
	return store.Put(ctx, key, bytes.NewReader(raw), objects.Info{Size: int64(len(raw)), SHA256: sumOf(raw), ContentType: "application/json"})
}

// keepAttachments stores what lies beside a document in clear.
func (s *Service) keepAttachments(ctx context.Context, store objects.Store, got *checkpoint.Checkpoint, cp *Checkpoint, t *teller) error {
	var all, done int64
	for _, a := range cp.Attachments {
		all += a.Size
	}
	cp.TotalSize = all
	for _, a := range cp.Attachments {
		inside, _ := got.Document.Attachment(a.Name)
		f, err := got.Open(ctx, inside)
		if err != nil {
			return err
		}
		err = store.Put(ctx, checkpoint.AttachmentKey(cp.Key, a.Name), progressive(f, t, "store", done, all),
			objects.Info{Size: a.Size, SHA256: a.SHA256, ContentType: "application/octet-stream"})
		_ = f.Close()
		if err != nil {
			return err
		}
		done += a.Size
	}
	return nil
}

// seal stores the whole checkpoint encrypted, and returns the header that stands in the place of its document.
func (s *Service) seal(ctx context.Context, store objects.Store, got *checkpoint.Checkpoint, cp *Checkpoint, to []string, t *teller) (_ []byte, err error) {
	f, err := os.OpenFile(filepath.Join(s.cfg.TempDir, "sealed-"+cp.ID), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, ErrRoom.Wrap(err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	outside := &summed{w: f}
	w, err := seal.Seal(outside, to)
	if err != nil {
		return nil, err
	}
	inside := &summed{w: w}
	if err := got.WriteTo(ctx, inside, nil); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, ErrRoom.Wrap(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, ErrRoom.Wrap(err)
	}
	h := seal.Header{
		CheckpointID: cp.ID, SourceInstanceID: cp.InstanceID, Timestamp: got.Document.Timestamp,
		Sealed: seal.Sealed{Size: inside.n, SHA256: inside.sum(), StoredSize: outside.n, StoredSHA256: outside.sum(), Owner: cp.Owner},
	}
	err = store.Put(ctx, checkpoint.AttachmentKey(cp.Key, seal.PackName), progressive(f, t, "store", 0, outside.n),
		objects.Info{Size: outside.n, SHA256: h.Sealed.StoredSHA256, ContentType: "application/octet-stream"})
	if err != nil {
		return nil, err
	}
	// What the store tells of it is told of the answer too.
	made := cp.Made
	*cp = Checkpoint{Entry: cp.Entry, Made: made, Stored: true, Encrypted: true, header: h}
	cp.Attachments = []Attachment{{seal.PackName, outside.n, h.Sealed.StoredSHA256}}
	cp.TotalSize = outside.n
	return h.Marshal()
}

// retain applies the configuration's rules to the checkpoints of one node. A failure leaves them for the next time.
func (s *Service) retain(ctx context.Context, c identity.Caller, store objects.Store, settings Settings, e Entry, t *teller) {
	if settings.KeepLast == 0 && settings.KeepDays == 0 {
		return
	}
	list, _, err := s.list(ctx, identity.Internal(), store, place(e.Tenant, e.InstanceID))
	if err == nil {
		gone := surplus(list, settings.KeepLast, settings.KeepDays, s.cfg.Now())
		for _, old := range gone {
			_ = t.say("prune", old.ID)
		}
		err = s.discard(ctx, c, store, gone, nil)
	}
	if err != nil {
		s.cfg.Log.Warn("old checkpoints could not be removed", "node", e.NodeID(), "error", err)
	}
}

// createThere lets a node keep its own checkpoint.
func (s *Service) createThere(ctx context.Context, c identity.Caller, node Node, t *teller) (Checkpoint, error) {
	if !slices.Contains(node.Commands, "session.checkpoint") {
		return Checkpoint{}, ErrNoCommand.With("node", node.ID, "command", "session.checkpoint")
	}
	if err := t.say("capture", ""); err != nil {
		return Checkpoint{}, err
	}
	raw, err := s.cfg.Nodes.Invoke(ctx, c, Call{NodeID: node.ID, Command: "session.checkpoint", Params: []byte("{}"), Timeout: bridgeCapture})
	if err != nil {
		return Checkpoint{}, err
	}
	a, err := answer.ReadCheckpoint(raw)
	if err != nil || len(raw) > maxMeta {
		return Checkpoint{}, ErrAnswer.With("node", node.ID, "command", "session.checkpoint")
	}
	if a.URL == "" {
		a.URL = a.Key // a key in the node's own bucket (§1.10)
	}
	e := Entry{ID: a.ID, InstanceID: instanceOf(node), Tenant: node.Tenant, Key: a.Key, URL: a.URL}
	cp := Checkpoint{Entry: e, Conversation: a.Stats.Conversation, Commands: a.Stats.Commands, Scrollback: a.Stats.Scrollback}
	if store, settings, err := s.stores(); err == nil && settings.Kind == KindS3 && store.URL(a.Key) == a.URL {
		if o, err := store.Stat(ctx, a.Key); err == nil {
			if found, ok := entryOf(store, o); ok {
				if full, err := s.load(ctx, store, settings, found); err == nil {
					cp = full
				}
			}
		}
	}
	return cp, t.say("capture", "done")
}

// compile reads the rules of redaction.
func compile(patterns []string) ([]*regexp.Regexp, error) {
	var out []*regexp.Regexp
	for _, p := range patterns {
		r, err := regexp.Compile(p)
		if err != nil {
			return nil, ErrRedact.Wrap(err)
		}
		out = append(out, r)
	}
	return out, nil
}

// Redacted stands where a rule found something.
const Redacted = "[redacted]"

// redact takes out what rules find in what was said, run and written.
func redact(d *checkpoint.Document, rules []*regexp.Regexp) {
	clean := func(text *string) {
		for _, r := range rules {
			*text = r.ReplaceAllLiteralString(*text, Redacted)
		}
	}
	for i := range d.Session.Conversation {
		clean(&d.Session.Conversation[i].Content)
	}
	for i := range d.Session.Commands {
		c := &d.Session.Commands[i]
		clean(&c.Cmd)
		clean(&c.Stdout)
		clean(&c.Stderr)
	}
	for i := range d.Session.Scrollback {
		clean(&d.Session.Scrollback[i])
	}
}

// teller tells of steps, of bytes not more often than one can see.
type teller struct {
	to   Progress
	node string
	last time.Time
}

const tellEvery = 100 * time.Millisecond

func (t *teller) say(name, detail string) error { return t.tell(Step{Name: name, Detail: detail}) }

func (t *teller) tell(st Step) error {
	if t.to == nil {
		return nil
	}
	if st.Name != "store" && st.Name != "read" && st.Name != "prune" {
		st.NodeID = t.node
	}
	return t.to(st)
}

func (t *teller) bytes(name string, done, all int64) error {
	if now := time.Now(); now.Sub(t.last) >= tellEvery || done == all {
		t.last = now
		return t.tell(Step{Name: name, Done: done, All: all})
	}
	return nil
}

// counted tells of the bytes that are read.
type counted struct {
	r       io.Reader
	t       *teller
	step    string
	base, n int64
	all     int64
	ended   bool // r has no more
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.ended = err != nil
	if n > 0 {
		if told := c.t.bytes(c.step, c.base+c.n, c.all); told != nil {
			return n, told
		}
	}
	return n, err
}

// countedSeeker can begin again.
type countedSeeker struct {
	*counted
	s io.Seeker
}

func (c countedSeeker) Seek(offset int64, whence int) (int64, error) {
	at, err := c.s.Seek(offset, whence)
	c.n = at
	return at, err
}

func progressive(r io.Reader, t *teller, step string, base, all int64) io.Reader {
	c := &counted{r: r, t: t, step: step, base: base, all: all}
	if s, ok := r.(io.Seeker); ok {
		return countedSeeker{c, s}
	}
	return c
}

// summed counts and hashes what is written.
type summed struct {
	w io.Writer
	n int64
	h interface {
		io.Writer
		Sum([]byte) []byte
	}
}

func (s *summed) Write(p []byte) (int, error) {
	if s.h == nil {
		s.h = sha256.New()
	}
	n, err := s.w.Write(p)
	_, _ = s.h.Write(p[:n]) // never fails
	s.n += int64(n)
	return n, err
}

func (s *summed) sum() string {
	if s.h == nil {
		s.h = sha256.New()
	}
	return hex.EncodeToString(s.h.Sum(nil))
}

func sumOf(raw []byte) string {
	h := sha256.Sum256(raw)
	return hex.EncodeToString(h[:])
}

func madeAt(text string) time.Time {
	t, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", text)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// withoutUser takes credentials out of the URL of a repository.
func withoutUser(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	if _, secret := u.User.Password(); !secret && u.Scheme == "ssh" {
		return text
	}
	u.User = nil
	return u.String()
}

// classed gives an error of the files of this machine a class.
func classed(err error) error {
	if _, ok := errors.AsType[*errs.Error](err); ok || err == nil {
		return err
	}
	if _, ok := errors.AsType[*os.PathError](err); ok {
		return ErrRoom.Wrap(err)
	}
	return err
}
