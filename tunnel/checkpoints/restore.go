package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/answer"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/seal"
)

// RestoreIn names a checkpoint and the node that takes it.
type RestoreIn struct {
	// ID is the checkpoint's, or NODE/ID; FromNodeID says of which node, and may be empty.
	ID, FromNodeID string
	NodeID         string
	// Force lets the node replace a workspace that is neither empty nor clean.
	Force bool
	// DryRun asks what would happen.
	DryRun bool
}

// Restored is what a node says of a restore.
type Restored struct {
	NodeID       string
	CheckpointID string
	RestoredFrom string
	Platform     string
	Timestamp    string
	Conversation int
	Commands     int
	Scrollback   int
	// Steps are those of the workspace, in order.
	Steps []Step
	// OK says that no step failed.
	OK     bool
	DryRun bool
	// Answer is the node's, as JSON text.
	Answer []byte
}

// Restore brings a checkpoint to a node. Nothing reaches the node before all of it was read and its checksums held.
func (s *Service) Restore(ctx context.Context, c identity.Caller, in RestoreIn, progress Progress) (Restored, error) {
	node, err := s.node(ctx, c, in.NodeID)
	if err != nil {
		return Restored{}, err
	}
	store, settings, err := s.stores()
	if err != nil {
		return Restored{}, err
	}
	e, err := s.find(ctx, c, store, in.ID, in.FromNodeID)
	if err != nil {
		return Restored{}, err
	}
	done, err := s.begin(node.ID)
	if err != nil {
		return Restored{}, err
	}
	defer done()
	cp, err := s.load(ctx, store, settings, e)
	if err != nil {
		return Restored{}, err
	}
	if !mayHave(c, cp.Entry) {
		return Restored{}, ErrNotOwner.With("id", e.ID)
	}
	return s.restore(ctx, c, cp, node, in, progress)
}

// restore does it for a node whose place is taken.
func (s *Service) restore(ctx context.Context, c identity.Caller, cp Checkpoint, node Node, in RestoreIn, progress Progress) (out Restored, err error) {
	what := "checkpoint " + cp.ID + " of " + cp.NodeID()
	if !in.DryRun {
		if err := s.record(ctx, c, node.ID, what+" is restored"); err != nil {
			return out, err
		}
		defer func() {
			switch {
			case err != nil:
				s.ended(ctx, c, node.ID, what+" was not restored", err)
			case !out.OK:
				s.ended(ctx, c, node.ID, what+" was restored, and a step failed", nil)
			default:
				s.ended(ctx, c, node.ID, what+" was restored", nil)
			}
		}()
	}
	t := &teller{to: progress, node: node.ID}
	raw, err := s.apply(ctx, c, cp, node, in, t)
	if err != nil {
		return out, err
	}
	out, err = restored(raw, node.ID)
	if err != nil {
		return out, err
	}
	out.DryRun = in.DryRun
	for _, st := range out.Steps {
		if err := t.tell(st); err != nil {
			return out, err
		}
	}
	verdict := "done"
	if !out.OK {
		verdict = "a step failed"
	}
	return out, t.tell(Step{Name: "restore", Detail: verdict, Failed: !out.OK})
}

func (s *Service) apply(ctx context.Context, c identity.Caller, cp Checkpoint, node Node, in RestoreIn, t *teller) ([]byte, error) {
	if cp.Stored && slices.Contains(node.Commands, "session.apply") {
		raw, ok, err := s.applyHere(ctx, c, cp, node, in, t)
		if ok || err != nil {
			return raw, err
		}
	}
	store, settings, err := s.stores()
	switch {
	case !slices.Contains(node.Commands, "session.restore"):
		return nil, ErrNoCommand.With("node", node.ID, "command", "session.restore")
	case cp.Encrypted:
		return nil, ErrSealed.With("node", node.ID)
	case cp.Stored && err != nil:
		return nil, err
	case cp.Stored && settings.Kind != KindS3:
		return nil, ErrElsewhere.With("node", node.ID)
	case in.DryRun:
		return nil, ErrDryRun.With("node", node.ID)
	}
	url := cp.URL
	if cp.Stored {
		url = store.URL(cp.Key)
		// The node reads the attachments from the same bucket, and the document that is there now.
		if err := s.verify(ctx, store, cp, t); err != nil {
			return nil, err
		}
	}
	if err := t.say("restore", ""); err != nil {
		return nil, err
	}
	return s.cfg.Nodes.Invoke(ctx, c, Call{NodeID: node.ID, Command: "session.restore", Params: answer.RestoreParams(url), Timeout: bridgeApply})
}

// applyHere sends a checkpoint over a channel; false when the node's link has none.
func (s *Service) applyHere(ctx context.Context, c identity.Caller, cp Checkpoint, node Node, in RestoreIn, t *teller) (raw []byte, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	store, settings, err := s.stores()
	if err != nil {
		return nil, true, err
	}
	got, err := s.fetch(ctx, store, settings, cp, t)
	if err != nil {
		return nil, true, err
	}
	defer func() { _ = got.Close() }()
	if err := t.say("send", ""); err != nil {
		return nil, true, err
	}
	ch, answered, ok, err := s.cfg.Nodes.Open(ctx, c, Call{NodeID: node.ID, Command: "session.apply", Params: answer.ApplyParams(in.Force, in.DryRun), Timeout: applyTime})
	if err != nil || !ok {
		return nil, ok, err
	}
	defer func() { _ = ch.Close(err) }()
	defer context.AfterFunc(ctx, func() { _ = ch.Close(context.Cause(ctx)) })()
	var all int64
	for _, a := range cp.Attachments {
		all += a.Size
	}
	var told error
	sent := got.WriteTo(ctx, ch, func(n int64) { told = errors.Join(told, t.bytes("send", n, all)) })
	if sent = errors.Join(sent, told); sent == nil {
		sent = ch.CloseWrite()
	}
	if told != nil || ctx.Err() != nil {
		return nil, true, errors.Join(told, context.Cause(ctx))
	}
	if sent == nil {
		if err := t.say("restore", ""); err != nil {
			return nil, true, err
		}
	}
	// A node that refuses stops reading, and its answer says why.
	raw, err = answered(ctx)
	if err == nil && sent != nil {
		err = sent
	}
	return raw, true, err
}

// fetch reads a checkpoint whole and in clear. What it returns is what was stored, and is to be closed.
func (s *Service) fetch(ctx context.Context, store objects.Store, settings Settings, cp Checkpoint, t *teller) (*checkpoint.Checkpoint, error) {
	if cp.Encrypted {
		return s.unseal(ctx, store, settings, cp, t)
	}
	var all int64
	for _, a := range cp.Attachments {
		all += a.Size
	}
	r, w := io.Pipe()
	written := make(chan struct{})
	go func() {
		defer close(written)
		var told error
		err := checkpoint.WritePack(ctx, w, cp.raw, cp.document, opener(store, cp), func(n int64) { told = errors.Join(told, t.bytes("read", n, all)) })
		_ = w.CloseWithError(errors.Join(err, told))
	}()
	got, err := checkpoint.Unpack(r, s.cfg.TempDir)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	_ = r.CloseWithError(err)
	<-written
	if err != nil {
		if got != nil {
			_ = got.Close()
		}
		return nil, damaged(ctx, cp, err)
	}
	return got, nil
}

func opener(store objects.Store, cp Checkpoint) checkpoint.Opener {
	return func(ctx context.Context, a checkpoint.Attachment) (io.ReadCloser, error) {
		r, _, err := store.Get(ctx, checkpoint.AttachmentKey(cp.Key, a.Name))
		return r, err
	}
}

// damaged words what a checkpoint's own faults are.
func damaged(ctx context.Context, cp Checkpoint, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, checkpoint.ErrDocument), errors.Is(err, objects.ErrNotFound), errors.Is(err, seal.ErrDamaged):
		return ErrDamaged.With("id", cp.ID).Wrap(err)
	}
	return classed(err)
}

// unseal is fetch of an encrypted one: the checksums hold outside and inside.
func (s *Service) unseal(ctx context.Context, store objects.Store, settings Settings, cp Checkpoint, t *teller) (*checkpoint.Checkpoint, error) {
	h := cp.header.Sealed
	if settings.IdentityFile == "" {
		return nil, seal.ErrNoKey
	}
	body, _, err := store.Get(ctx, checkpoint.AttachmentKey(cp.Key, seal.PackName))
	if err != nil {
		return nil, damaged(ctx, cp, err)
	}
	defer func() { _ = body.Close() }()
	outside := checkpoint.Verify(&counted{r: body, t: t, step: "read", all: h.StoredSize}, h.StoredSize, h.StoredSHA256, seal.PackName)
	plain, err := seal.Open(outside, settings.IdentityFile)
	if err != nil {
		return nil, err
	}
	inside := checkpoint.Verify(plain, h.Size, h.SHA256, seal.PackName)
	got, err := checkpoint.Unpack(inside, s.cfg.TempDir)
	if err == nil {
		_, err = io.Copy(io.Discard, inside)
	}
	if err == nil {
		_, err = io.Copy(io.Discard, outside)
	}
	if err == nil && (got.Document.CheckpointID != cp.header.CheckpointID || got.Document.SourceInstanceID != cp.header.SourceInstanceID) {
		err = ErrDamaged.WithText("the header is of another checkpoint than the one inside")
	}
	if err != nil {
		if got != nil {
			_ = got.Close()
		}
		return nil, damaged(ctx, cp, err)
	}
	return got, nil
}

// verify reads all attachments and checks them.
func (s *Service) verify(ctx context.Context, store objects.Store, cp Checkpoint, t *teller) error {
	if cp.document == nil || len(cp.Attachments) == 0 {
		return nil
	}
	var all int64
	for _, a := range cp.Attachments {
		all += a.Size
	}
	var told error
	err := checkpoint.WritePack(ctx, io.Discard, cp.raw, cp.document, opener(store, cp), func(n int64) { told = errors.Join(told, t.bytes("read", n, all)) })
	if err == nil {
		return told
	}
	return damaged(ctx, cp, err)
}

// restored reads the answer to session.restore and session.apply (tunnel.md §1.5, §1.10).
func restored(raw []byte, nodeID string) (Restored, error) {
	a, err := answer.ReadRestore(raw)
	if err != nil {
		return Restored{}, ErrAnswer.With("node", nodeID, "command", "session.restore").Wrap(err)
	}
	out := Restored{
		NodeID: nodeID, CheckpointID: a.ID, RestoredFrom: a.From, Platform: a.Platform, Timestamp: a.Timestamp,
		Conversation: a.Conversation, Commands: a.Commands, Scrollback: a.Scrollback, OK: a.OK == nil || *a.OK, Answer: raw,
	}
	add := func(name, text string, ok bool) {
		out.Steps = append(out.Steps, Step{Name: name, NodeID: nodeID, Detail: strings.TrimSpace(text), Failed: !ok})
		out.OK = out.OK && ok
	}
	for _, st := range a.Steps {
		add(st.Name, orState(st.Detail, st.State), st.State != string(checkpoint.StepFailed))
	}
	if len(a.Steps) == 0 && a.Git != nil {
		if a.Git.Clone != "" {
			add("git.clone", a.Git.Clone, a.Git.Clone == "ok" || strings.HasPrefix(a.Git.Clone, "skipped"))
		}
		if a.Git.Apply != nil {
			add("git.apply", *a.Git.Apply, *a.Git.Apply == "ok")
		}
	}
	return out, nil
}

func orState(detail, state string) string {
	if detail == "" {
		return state
	}
	return detail
}

// MigrateIn names two nodes.
type MigrateIn struct {
	From, To string
	Force    bool
}

// Migrated is what a migration did.
type Migrated struct {
	Checkpoint Checkpoint
	Restored   Restored
	// Status is the answer of the target to status.get, as JSON text; nil when it does not know the command.
	Status []byte
}

// Migrate makes a checkpoint of one node, brings it to another and asks that how it is. The first stays as it was.
func (s *Service) Migrate(ctx context.Context, c identity.Caller, in MigrateIn, progress Progress) (Migrated, error) {
	from, err := s.node(ctx, c, in.From)
	if err != nil {
		return Migrated{}, err
	}
	to, err := s.node(ctx, c, in.To)
	if err != nil {
		return Migrated{}, err
	}
	if from.ID == to.ID {
		return Migrated{}, ErrSameNode
	}
	if !slices.Contains(to.Commands, "session.apply") && !slices.Contains(to.Commands, "session.restore") {
		// Before anything is made of it.
		return Migrated{}, ErrNoCommand.With("node", to.ID, "command", "session.restore")
	}
	done, err := s.begin(from.ID, to.ID)
	if err != nil {
		return Migrated{}, err
	}
	defer done()
	var out Migrated
	if out.Checkpoint, err = s.create(ctx, c, from, progress); err != nil {
		return out, err
	}
	if out.Checkpoint.Stored {
		// What is restored is what is in the store.
		store, settings, err := s.stores()
		if err != nil {
			return out, err
		}
		if out.Checkpoint, err = s.load(ctx, store, settings, out.Checkpoint.Entry); err != nil {
			return out, err
		}
	}
	if out.Restored, err = s.restore(ctx, c, out.Checkpoint, to, RestoreIn{Force: in.Force}, progress); err != nil {
		return out, err
	}
	if !slices.Contains(to.Commands, "status.get") {
		return out, nil
	}
	t := &teller{to: progress, node: to.ID}
	if err := t.say("status", ""); err != nil {
		return out, err
	}
	if out.Status, err = s.cfg.Nodes.Invoke(ctx, c, Call{NodeID: to.ID, Command: "status.get", Params: []byte("{}"), Timeout: statusTime}); err != nil {
		return out, err
	}
	return out, t.say("status", statusText(out.Status))
}

// statusText says how a node is.
func statusText(raw []byte) string {
	a, err := answer.ReadStatus(raw)
	if err != nil {
		return "unknown"
	}
	return fmt.Sprintf("%s, %d messages, %d commands", a.Status, a.Session.Conversation, a.Session.Commands)
}

// DownloadIn names a checkpoint.
type DownloadIn struct {
	ID, NodeID string
	// Sealed leaves an encrypted checkpoint as it is stored.
	Sealed bool
}

// Download writes a checkpoint as one stream, a tar that Upload takes back: in clear, unless it is encrypted and Sealed
// is asked for. What was written is whole once it has returned nil; begin hears of it before the first byte.
func (s *Service) Download(ctx context.Context, c identity.Caller, in DownloadIn, begin func(Checkpoint) error, w io.Writer) error {
	store, settings, err := s.stores()
	if err != nil {
		return err
	}
	e, err := s.find(ctx, c, store, in.ID, in.NodeID)
	if err != nil {
		return err
	}
	done, err := s.begin("download " + e.Key)
	if err != nil {
		return err
	}
	defer done()
	cp, err := s.load(ctx, store, settings, e)
	if err != nil {
		return err
	}
	if !mayHave(c, cp.Entry) {
		return ErrNotOwner.With("id", e.ID)
	}
	if err := s.record(ctx, c, e.NodeID(), "checkpoint "+e.ID+" is downloaded"); err != nil {
		return err
	}
	t := &teller{}
	if cp.Encrypted && in.Sealed {
		if err := begin(cp); err != nil {
			return err
		}
		return s.writeSealed(ctx, store, cp, w)
	}
	got, err := s.fetch(ctx, store, settings, cp, t)
	if err != nil {
		return err
	}
	defer func() { _ = got.Close() }()
	if err := begin(cp); err != nil {
		return err
	}
	return got.WriteTo(ctx, w, nil)
}
