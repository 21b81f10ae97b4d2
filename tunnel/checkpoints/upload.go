package checkpoints

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"os"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/seal"
)

// headerName begins the stream of a sealed checkpoint.
const headerName = "checkpoint.sealed"

// writeSealed writes the objects of an encrypted checkpoint as they are stored.
func (s *Service) writeSealed(ctx context.Context, store objects.Store, cp Checkpoint, w io.Writer) error {
	h := cp.header.Sealed
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&tar.Header{Name: headerName, Mode: 0o600, Size: int64(len(cp.raw))}); err != nil {
		return err
	}
	if _, err := t.Write(cp.raw); err != nil {
		return err
	}
	body, _, err := store.Get(ctx, checkpoint.AttachmentKey(cp.Key, seal.PackName))
	if err != nil {
		return damaged(ctx, cp, err)
	}
	defer func() { _ = body.Close() }()
	if err := t.WriteHeader(&tar.Header{Name: seal.PackName, Mode: 0o600, Size: h.StoredSize}); err != nil {
		return err
	}
	if _, err := io.Copy(t, checkpoint.Verify(body, h.StoredSize, h.StoredSHA256, seal.PackName)); err != nil {
		return damaged(ctx, cp, err)
	}
	return t.Close()
}

// Upload keeps what Download wrote, as a checkpoint of the node that it says it is of, under its own id. It fails with
// ErrExists when that is there. One in clear is encrypted when the configuration says so.
func (s *Service) Upload(ctx context.Context, c identity.Caller, r io.Reader, progress Progress) (cp Checkpoint, err error) {
	tell := &teller{to: progress}
	store, settings, err := s.stores()
	if err != nil {
		return cp, err
	}
	done, err := s.begin("upload " + checkpoint.NewID(s.cfg.Now()))
	if err != nil {
		return cp, err
	}
	defer done()
	f, err := os.CreateTemp(s.cfg.TempDir, "upload-*")
	if err != nil {
		return cp, ErrRoom.Wrap(err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	n, err := io.Copy(f, io.LimitReader(&counted{r: r, t: tell, step: "read"}, objects.MaxSize+1))
	if err != nil {
		return cp, classed(err)
	}
	if n > objects.MaxSize {
		return cp, objects.ErrTooLarge
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return cp, ErrRoom.Wrap(err)
	}
	first, err := tar.NewReader(f).Next()
	if err != nil {
		return cp, ErrUpload
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return cp, ErrRoom.Wrap(err)
	}
	if first.Name == headerName {
		return s.uploadSealed(ctx, c, store, f)
	}
	got, err := checkpoint.Unpack(f, s.cfg.TempDir)
	if err != nil {
		return cp, ErrUpload.Wrap(err)
	}
	defer func() { _ = got.Close() }()
	d := got.Document
	if !ownID.MatchString(d.CheckpointID) || d.SourceInstanceID == "" || len(d.SourceInstanceID) > maxID {
		return cp, ErrUpload.WithText("the checkpoint has no id, or names no node")
	}
	rules, err := compile(settings.Redact)
	if err != nil {
		return cp, err
	}
	if len(rules) > 0 {
		redact(d, rules)
		if got.Raw, err = d.Marshal(); err != nil {
			return cp, err
		}
	}
	to := settings.recipients(c, Node{})
	e := Entry{ID: d.CheckpointID, InstanceID: d.SourceInstanceID, Tenant: c.Tenant, Owner: c.Subject()}
	if err := s.record(ctx, c, e.NodeID(), "checkpoint "+e.ID+" is uploaded"); err != nil {
		return cp, err
	}
	if err := store.Check(ctx); err != nil {
		return cp, err
	}
	return s.keep(ctx, store, settings, got, e, to, tell)
}

// uploadSealed keeps an encrypted checkpoint as it is: its checksums hold outside, and who restores it sees what is
// inside.
func (s *Service) uploadSealed(ctx context.Context, c identity.Caller, store objects.Store, f *os.File) (cp Checkpoint, err error) {
	t := tar.NewReader(f)
	if _, err := t.Next(); err != nil {
		return cp, ErrUpload
	}
	raw, err := io.ReadAll(io.LimitReader(t, seal.MaxHeader+1))
	if err != nil {
		return cp, ErrUpload.Wrap(err)
	}
	h, err := seal.Parse(raw)
	if err != nil {
		return cp, err
	}
	if !ownID.MatchString(h.CheckpointID) || h.SourceInstanceID == "" {
		return cp, ErrUpload.WithText("the checkpoint has no id, or names no node")
	}
	if next, err := t.Next(); err != nil || next.Name != seal.PackName || next.Size != h.Sealed.StoredSize {
		return cp, ErrUpload
	}
	pack, err := os.CreateTemp(s.cfg.TempDir, "sealed-*")
	if err != nil {
		return cp, ErrRoom.Wrap(err)
	}
	defer func() {
		_ = pack.Close()
		_ = os.Remove(pack.Name())
	}()
	if _, err := io.Copy(pack, checkpoint.Verify(t, h.Sealed.StoredSize, h.Sealed.StoredSHA256, seal.PackName)); err != nil {
		if errors.Is(err, checkpoint.ErrDocument) {
			return cp, ErrUpload.Wrap(err)
		}
		return cp, ErrRoom.Wrap(err)
	}
	if _, err := pack.Seek(0, io.SeekStart); err != nil {
		return cp, ErrRoom.Wrap(err)
	}
	h.Sealed.Owner = c.Subject()
	if raw, err = h.Marshal(); err != nil {
		return cp, err
	}
	e := Entry{ID: h.CheckpointID, InstanceID: h.SourceInstanceID, Tenant: c.Tenant, Owner: h.Sealed.Owner}
	e.Key = place(e.Tenant, e.InstanceID) + "/" + e.ID + ".json"
	e.URL = store.URL(e.Key)
	if err := s.record(ctx, c, e.NodeID(), "checkpoint "+e.ID+" is uploaded"); err != nil {
		return cp, err
	}
	if err := store.Check(ctx); err != nil {
		return cp, err
	}
	if _, err := store.Stat(ctx, e.Key); err == nil {
		return cp, ErrExists.With("id", e.ID)
	} else if !errors.Is(err, objects.ErrNotFound) {
		return cp, err
	}
	name := checkpoint.AttachmentKey(e.Key, seal.PackName)
	err = store.Put(ctx, name, pack, objects.Info{Size: h.Sealed.StoredSize, SHA256: h.Sealed.StoredSHA256, ContentType: "application/octet-stream"})
	if err == nil {
		err = put(ctx, store, e.Key, raw)
	}
	if err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearTime)
		defer cancel()
		return cp, errors.Join(err, remove(late, store, e))
	}
	e.Size, e.TotalSize, e.Modified = int64(len(raw)), int64(len(raw))+h.Sealed.StoredSize, s.cfg.Now()
	return Checkpoint{
		Entry: e, Made: h.Time(), SHA256: sumOf(raw), Encrypted: true, Stored: true, header: h,
		Attachments: []Attachment{{seal.PackName, h.Sealed.StoredSize, h.Sealed.StoredSHA256}},
	}, nil
}
