package checkpoints

import (
	"cmp"
	"context"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoint"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/answer"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/seal"
)

// Entry is a checkpoint as the store lists it.
type Entry struct {
	// ID is the checkpoint's; InstanceID and Tenant are the node's.
	ID, InstanceID, Tenant string
	// Key is the document's; URL names it for session.restore.
	Key, URL string
	// Size is that of the document in bytes, TotalSize with what lies beside it.
	Size, TotalSize int64
	// Modified is when it was stored.
	Modified time.Time
	// Owner made it; empty in lists, and when nobody knows.
	Owner string
}

// NodeID is the registry's id of the node.
func (e Entry) NodeID() string { return place(e.Tenant, e.InstanceID) }

// Checkpoint is one, with what its document says.
type Checkpoint struct {
	Entry
	// Made is when it was made, zero when its document does not say it.
	Made time.Time
	// SHA256 is the checksum of the document as it is stored, in hex.
	SHA256 string
	// Encrypted checkpoints say nothing of what follows.
	Encrypted          bool
	Platform           string
	DisplayName        string
	Cwd                string
	Conversation       int
	Commands           int
	Scrollback         int
	Branch, RemoteURL  string
	Untracked          int
	Attachments        []Attachment
	Notes              []string
	Stored, Restorable bool // Stored: the daemon's store has it. Restorable: the daemon can open it.
	header             seal.Header
	document           *checkpoint.Document
	raw                []byte
}

// Attachment is an object beside a document. Size and SHA256 are those of what is stored.
type Attachment struct {
	Name   string
	Size   int64
	SHA256 string
}

// metaName names the facts that the daemon keeps beside a document.
const metaName = "checkpoint.meta"

// ownID is the form of the ids of checkpoints (tunnel.md §1.9).
var ownID = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$`)

// split takes the key of a document apart; false for keys of anything else.
func split(key string) (at, id string, ok bool) {
	rest, ok := strings.CutSuffix(key, ".json")
	if !ok {
		return "", "", false
	}
	if i := strings.LastIndexByte(rest, '/'); i >= 0 {
		at, rest = rest[:i], rest[i+1:]
	}
	// What lies beside a document is none.
	return at, rest, rest != "" && !besides(at)
}

// besides reports whether a directory is that of attachments.
func besides(at string) bool {
	id, ok := strings.CutSuffix(at[strings.LastIndexByte(at, '/')+1:], ".d")
	return ok && ownID.MatchString(id)
}

// documentOf is the key of the document that an object lies beside.
func documentOf(key string) (string, bool) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 || !besides(key[:i]) {
		return "", false
	}
	return strings.TrimSuffix(key[:i], ".d") + ".json", true
}

func entryOf(store objects.Store, o objects.Object) (Entry, bool) {
	at, id, ok := split(o.Key)
	if !ok {
		return Entry{}, false
	}
	e := Entry{ID: id, Key: o.Key, URL: store.URL(o.Key), Size: o.Size, TotalSize: o.Size, Modified: o.Modified}
	e.Tenant, e.InstanceID = placed(at)
	return e, true
}

// ListIn and ListOut are the arguments and the result of List.
type (
	ListIn struct {
		// NodeID is the registry's, exactly; empty for all.
		NodeID string
	}
	ListOut struct {
		// Checkpoints are sorted by time, the newest first.
		Checkpoints []Entry
		// Truncated says that there are more than MaxListed.
		Truncated bool
		// Bucket is the S3 bucket, empty for other stores.
		Bucket string
	}
)

// List lists what is in the store and in the caller's reach. Objects that are no documents are left out.
func (s *Service) List(ctx context.Context, c identity.Caller, in ListIn) (ListOut, error) {
	if len(in.NodeID) > maxID {
		return ListOut{}, ErrNodeID
	}
	store, _, err := s.stores()
	if err != nil {
		return ListOut{}, err
	}
	var out ListOut
	if b, ok := store.(*objects.S3); ok {
		out.Bucket = b.Bucket()
	}
	for _, at := range placesOf(c, in.NodeID) {
		list, _, err := s.list(ctx, c, store, at)
		if err != nil {
			return ListOut{}, err
		}
		out.Checkpoints = append(out.Checkpoints, list...)
		if len(list) > 0 && in.NodeID != "" {
			break
		}
	}
	newestFirst(out.Checkpoints)
	if len(out.Checkpoints) > MaxListed {
		out.Checkpoints, out.Truncated = out.Checkpoints[:MaxListed], true
	}
	return out, nil
}

func newestFirst(list []Entry) {
	slices.SortFunc(list, func(a, b Entry) int {
		return cmp.Or(b.Modified.Compare(a.Modified), strings.Compare(b.ID, a.ID), strings.Compare(a.Key, b.Key))
	})
}

// placesOf are where the checkpoints of a node may be, the likeliest first; one empty place for all nodes that the
// caller may know of. A caller with a tenant finds those of its own.
func placesOf(c identity.Caller, nodeID string) []string {
	nodeID = strings.TrimSpace(nodeID)
	if nodeID == "" {
		return []string{""}
	}
	if t, i, ok := strings.Cut(nodeID, "/"); ok && i != "" {
		out := []string{nodeID}
		if at := place(c.Tenant, nodeID); at != nodeID {
			out = append(out, at)
		}
		if u := place(unescaped(t), i); u != nodeID {
			out = append(out, u)
		}
		return out
	}
	return []string{place(c.Tenant, nodeID)}
}

func unescaped(t string) string {
	tenant, _ := placed(t + "/x")
	return tenant
}

// list returns the documents at a place, all of them when that is empty, in the caller's reach, and the objects beside
// documents that are not there.
func (s *Service) list(ctx context.Context, c identity.Caller, store objects.Store, at string) (list []Entry, orphans []objects.Object, err error) {
	prefix := ""
	switch {
	case at != "":
		prefix = at + "/"
	case c.Tenant != "":
		prefix = place(c.Tenant, "")
	}
	extra := map[string][]objects.Object{} // by the key of their document
	for o, err := range store.List(ctx, prefix) {
		if err != nil {
			return nil, nil, err
		}
		if doc, ok := documentOf(o.Key); ok {
			extra[doc] = append(extra[doc], o)
			continue
		}
		e, ok := entryOf(store, o)
		if !ok || !reaches(c, e.Tenant) {
			continue
		}
		if in, _, _ := split(o.Key); at != "" && in != at {
			continue
		}
		list = append(list, e)
	}
	for i, e := range list {
		for _, o := range extra[e.Key] {
			list[i].TotalSize += o.Size
		}
		delete(extra, e.Key)
	}
	for doc, os := range extra {
		if in, _, _ := split(doc); at == "" || in == at {
			if t, _ := placed(in); reaches(c, t) {
				orphans = append(orphans, os...)
			}
		}
	}
	return list, orphans, nil
}

// find returns the entry of an id: a checkpoint's, or NODE/ID.
func (s *Service) find(ctx context.Context, c identity.Caller, store objects.Store, id, nodeID string) (Entry, error) {
	id = strings.TrimSuffix(strings.TrimSpace(id), ".json")
	if id == "" || len(id)+len(nodeID) > maxID {
		return Entry{}, ErrID
	}
	if i := strings.LastIndexByte(id, '/'); i >= 0 && nodeID == "" {
		nodeID, id = id[:i], id[i+1:]
	}
	if nodeID != "" && !strings.Contains(id, "/") {
		for _, at := range placesOf(c, nodeID) {
			if t, _ := placed(at); !reaches(c, t) {
				continue
			}
			o, err := store.Stat(ctx, at+"/"+id+".json")
			if errors.Is(err, objects.ErrNotFound) || errors.Is(err, objects.ErrKey) {
				continue
			}
			if err != nil {
				return Entry{}, err
			}
			if e, ok := entryOf(store, o); ok {
				return e, nil
			}
		}
		return Entry{}, ErrUnknown.With("id", id, "node", nodeID)
	}
	list, _, err := s.list(ctx, c, store, "")
	if err != nil {
		return Entry{}, err
	}
	var found []Entry
	for _, e := range list {
		if e.ID == id {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return Entry{}, ErrUnknown.With("id", id)
	case 1:
		return found[0], nil
	default:
		return Entry{}, ErrAmbiguous.With("id", id)
	}
}

// readAll reads an object that may have at most so many bytes.
func readAll(ctx context.Context, store objects.Store, key string, most int64) ([]byte, objects.Object, error) {
	r, o, err := store.Get(ctx, key)
	if err != nil {
		return nil, o, err
	}
	defer func() { _ = r.Close() }()
	if o.Size > most {
		return nil, o, ErrDamaged.WithText("the stored object is larger than it can be")
	}
	raw, err := io.ReadAll(r)
	return raw, o, err
}

// load reads what is known of a checkpoint and checks the document.
func (s *Service) load(ctx context.Context, store objects.Store, settings Settings, e Entry) (Checkpoint, error) {
	raw, o, err := readAll(ctx, store, e.Key, checkpoint.MaxDocument)
	if errors.Is(err, objects.ErrNotFound) {
		return Checkpoint{}, ErrUnknown.With("id", e.ID)
	}
	if err != nil {
		return Checkpoint{}, err
	}
	cp := Checkpoint{Entry: e, SHA256: sumOf(raw), raw: raw, Stored: true, Restorable: true}
	if o.SHA256 != "" && o.SHA256 != cp.SHA256 {
		return Checkpoint{}, ErrDamaged.With("id", e.ID)
	}
	if seal.IsHeader(raw) {
		h, err := seal.Parse(raw)
		if err != nil {
			return Checkpoint{}, err
		}
		cp.Encrypted, cp.header, cp.Made, cp.Owner = true, h, h.Time(), h.Sealed.Owner
		cp.Restorable = settings.IdentityFile != ""
		cp.Attachments = []Attachment{{seal.PackName, h.Sealed.StoredSize, h.Sealed.StoredSHA256}}
		return cp, nil
	}
	m, err := s.meta(ctx, store, e)
	if err != nil {
		return Checkpoint{}, err
	}
	if m.SHA256 != "" && m.SHA256 != cp.SHA256 {
		return Checkpoint{}, ErrDamaged.With("id", e.ID)
	}
	d, err := checkpoint.Parse(raw)
	if err != nil {
		return Checkpoint{}, err
	}
	cp.Owner, cp.document = m.Owner, d
	describe(&cp, d)
	return cp, nil
}

// describe copies what a document says.
func describe(cp *Checkpoint, d *checkpoint.Document) {
	cp.Made = madeAt(d.Timestamp)
	cp.Platform, cp.DisplayName, cp.Cwd = d.Platform, d.SourceDisplayName, d.Session.Cwd
	cp.Conversation, cp.Commands, cp.Scrollback = len(d.Session.Conversation), len(d.Session.Commands), len(d.Session.Scrollback)
	cp.Branch, cp.RemoteURL, cp.Untracked = d.Workspace.Branch, withoutUser(d.Workspace.RemoteURL), len(d.Workspace.Untracked)
	cp.Attachments = nil
	if d.Hanzo == nil {
		return
	}
	cp.Notes = d.Hanzo.Notes
	for _, a := range d.Hanzo.Attachments {
		size, sum := stored(a)
		cp.Attachments = append(cp.Attachments, Attachment{a.Name, size, sum})
	}
}

func stored(a checkpoint.Attachment) (int64, string) {
	if a.StoredSHA256 != "" {
		return a.StoredSize, a.StoredSHA256
	}
	return a.Size, a.SHA256
}

// meta reads the facts beside a document; none are no error.
func (s *Service) meta(ctx context.Context, store objects.Store, e Entry) (answer.Meta, error) {
	if !ownID.MatchString(e.ID) {
		return answer.Meta{}, nil
	}
	raw, _, err := readAll(ctx, store, checkpoint.AttachmentKey(e.Key, metaName), maxMeta)
	if errors.Is(err, objects.ErrNotFound) {
		return answer.Meta{}, nil
	}
	if err != nil {
		return answer.Meta{}, err
	}
	m, err := answer.ReadMeta(raw)
	if err != nil {
		return answer.Meta{}, ErrDamaged.With("id", e.ID)
	}
	return m, nil
}

// GetIn names a checkpoint: its id, or NODE/ID.
type GetIn struct{ ID, NodeID string }

// Get describes one checkpoint. It reads the document.
func (s *Service) Get(ctx context.Context, c identity.Caller, in GetIn) (Checkpoint, error) {
	store, settings, err := s.stores()
	if err != nil {
		return Checkpoint{}, err
	}
	e, err := s.find(ctx, c, store, in.ID, in.NodeID)
	if err != nil {
		return Checkpoint{}, err
	}
	return s.load(ctx, store, settings, e)
}

// Delete removes a checkpoint with all that lies beside it: from the first moment on it is listed no more.
func (s *Service) Delete(ctx context.Context, c identity.Caller, in GetIn) (Entry, error) {
	store, settings, err := s.stores()
	if err != nil {
		return Entry{}, err
	}
	e, err := s.find(ctx, c, store, in.ID, in.NodeID)
	if err != nil {
		return Entry{}, err
	}
	if !c.Has(identity.ScopeAdmin) {
		cp, err := s.load(ctx, store, settings, e)
		if err != nil {
			return Entry{}, err
		}
		if e = cp.Entry; !mayHave(c, e) {
			return Entry{}, ErrNotOwner.With("id", e.ID)
		}
	}
	if err := s.record(ctx, c, e.NodeID(), "checkpoint "+e.ID+" is deleted"); err != nil {
		return Entry{}, err
	}
	return e, remove(ctx, store, e)
}

// remove deletes the document first.
func remove(ctx context.Context, store objects.Store, e Entry) error {
	if err := store.Delete(ctx, e.Key); err != nil {
		return err
	}
	if !ownID.MatchString(e.ID) {
		return nil
	}
	var keys []string
	for o, err := range store.List(ctx, strings.TrimSuffix(e.Key, ".json")+".d/") {
		if err != nil {
			return err
		}
		keys = append(keys, o.Key)
	}
	for _, k := range keys {
		if err := store.Delete(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// PruneIn and PruneOut are the arguments and the result of Prune.
type (
	PruneIn struct {
		// NodeID is empty for all nodes in the caller's reach.
		NodeID string
		// KeepLast and KeepDays replace the configuration's when one of them is positive.
		KeepLast, KeepDays int
		DryRun             bool
	}
	PruneOut struct {
		Removed []Entry
		Bytes   int64
		// Orphans counts the objects that broken calls left behind and that went too.
		Orphans int
	}
)

// Prune removes what the rules do not keep: of each node, what is not among its last KeepLast, and what is older than
// KeepDays, but never its newest.
func (s *Service) Prune(ctx context.Context, c identity.Caller, in PruneIn) (PruneOut, error) {
	store, settings, err := s.stores()
	if err != nil {
		return PruneOut{}, err
	}
	if in.KeepLast < 0 || in.KeepDays < 0 || len(in.NodeID) > maxID {
		return PruneOut{}, ErrKeep
	}
	if in.KeepLast == 0 && in.KeepDays == 0 {
		in.KeepLast, in.KeepDays = settings.KeepLast, settings.KeepDays
	}
	if in.KeepLast == 0 && in.KeepDays == 0 {
		return PruneOut{}, ErrKeep.WithText(ErrKeep.Text + ": the configuration says neither (checkpoints.retention)")
	}
	var list []Entry
	var orphans []objects.Object
	for _, at := range placesOf(c, in.NodeID) {
		l, o, err := s.list(ctx, c, store, at)
		if err != nil {
			return PruneOut{}, err
		}
		list, orphans = append(list, l...), append(orphans, o...)
	}
	now := s.cfg.Now()
	var out PruneOut
	out.Removed = surplus(list, in.KeepLast, in.KeepDays, now)
	for _, e := range out.Removed {
		out.Bytes += e.TotalSize
	}
	orphans = slices.DeleteFunc(orphans, func(o objects.Object) bool { return now.Sub(o.Modified) < orphanAge })
	out.Orphans = len(orphans)
	if in.DryRun || len(out.Removed)+len(orphans) == 0 {
		return out, nil
	}
	return out, s.discard(ctx, c, store, out.Removed, orphans)
}

func (s *Service) discard(ctx context.Context, c identity.Caller, store objects.Store, list []Entry, orphans []objects.Object) error {
	for _, e := range list {
		if err := s.record(ctx, c, e.NodeID(), "checkpoint "+e.ID+" is deleted because no rule keeps it"); err != nil {
			return err
		}
		if err := remove(ctx, store, e); err != nil {
			return err
		}
	}
	for _, o := range orphans {
		if err := store.Delete(ctx, o.Key); err != nil {
			return err
		}
	}
	return nil
}

// surplus returns what no rule keeps. Documents whose names are not those of checkpoints belong to somebody else.
func surplus(list []Entry, last, days int, now time.Time) []Entry {
	list = slices.DeleteFunc(slices.Clone(list), func(e Entry) bool { return !ownID.MatchString(e.ID) })
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Or(strings.Compare(b.ID, a.ID), strings.Compare(a.Key, b.Key)) })
	seen := map[string]int{}
	var out []Entry
	for _, e := range list {
		at, _, _ := split(e.Key)
		rank := seen[at]
		seen[at]++
		made, err := time.Parse("20060102T150405Z", e.ID[:16])
		if err != nil {
			made = e.Modified
		}
		old := days > 0 && now.Sub(made) > time.Duration(days)*24*time.Hour
		if rank > 0 && (last > 0 && rank >= last || old) {
			out = append(out, e)
		}
	}
	return out
}
