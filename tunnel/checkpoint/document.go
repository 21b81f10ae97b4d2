package checkpoint

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
)

// Version of the document.
const Version = 1

// Limits of a document.
const (
	// MaxDocument is the size of the largest document that is read.
	MaxDocument = 64 << 20
	// MaxAttachments bounds the attachments of one checkpoint.
	MaxAttachments = 16
	// MaxAttachment is the size of the largest attachment.
	MaxAttachment = 4 << 30
	// MaxDiffText is how many characters of workspace.git_diff there are at most (§1.9).
	MaxDiffText = 8192
)

// ErrDocument is what is wrong with a document that cannot be used.
var ErrDocument = errs.Define(errs.Invalid, "checkpoint.document", "this is not a checkpoint that can be restored")

// Document is a checkpoint. The order of the members is that of the bridge (§1.9).
type Document struct {
	Version           int        `json:"version"`
	CheckpointID      string     `json:"checkpoint_id"`
	SourceInstanceID  string     `json:"source_instance_id"`
	SourceDisplayName string     `json:"source_display_name"`
	Platform          string     `json:"platform"`
	Timestamp         string     `json:"timestamp"`
	Session           Session    `json:"session"`
	Workspace         Workspace  `json:"workspace"`
	Config            Config     `json:"config"`
	Hanzo             *Extension `json:"hanzo,omitempty"`
}

// Session is what was said and done.
type Session struct {
	StartedAt    Seconds   `json:"started_at"`
	Cwd          string    `json:"cwd"`
	Conversation []Message `json:"conversation"`
	Commands     []Command `json:"commands"`
	Scrollback   []string  `json:"scrollback"`
}

// Message is one side of an exchange.
type Message struct {
	Role    string  `json:"role"`
	Content string  `json:"content"`
	TS      Seconds `json:"ts"`
	CmdID   string  `json:"cmd_id"`
}

// Command is one that ended.
type Command struct {
	Cmd      string  `json:"cmd"`
	ExitCode int     `json:"exit_code"`
	Stdout   string  `json:"stdout"`
	TS       Seconds `json:"ts"`
	Stderr   string  `json:"stderr,omitempty"`
}

// Seconds since 1970. A fraction is dropped on reading.
type Seconds int64

// UnmarshalJSON reads a number.
func (s *Seconds) UnmarshalJSON(raw []byte) error {
	var f *float64
	if err := json.Unmarshal(raw, &f); err != nil {
		return err
	}
	if f == nil {
		return nil
	}
	*s = Seconds(min(max(*f, -1e15), 1e15))
	return nil
}

// Workspace is the git work tree in the words of version 1. Outside one, Repository is false and the object empty.
type Workspace struct {
	Repository bool
	Branch     string
	RemoteURL  string
	Log        []string
	Diff       string
	Untracked  []string
}

type workspaceJSON struct {
	Branch    string   `json:"git_branch"`
	RemoteURL string   `json:"git_remote_url"`
	Log       []string `json:"git_log"`
	Diff      string   `json:"git_diff"`
	Untracked []string `json:"git_untracked"`
}

// MarshalJSON writes all members or none.
func (w Workspace) MarshalJSON() ([]byte, error) {
	if !w.Repository {
		return []byte("{}"), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(workspaceJSON{w.Branch, w.RemoteURL, orEmpty(w.Log), w.Diff, orEmpty(w.Untracked)})
	return b.Bytes(), err
}

// UnmarshalJSON reads an object; one with any member is a repository.
func (w *Workspace) UnmarshalJSON(raw []byte) error {
	var any map[string]json.RawMessage
	if err := json.Unmarshal(raw, &any); err != nil {
		return err
	}
	var j workspaceJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return err
	}
	*w = Workspace{len(any) > 0, j.Branch, j.RemoteURL, j.Log, j.Diff, j.Untracked}
	return nil
}

// Config is what the instance registered.
type Config struct {
	Commands     []string `json:"commands"`
	Capabilities []string `json:"capabilities"`
}

// Extension is what version 1 has no place for. Lists are absent when empty.
type Extension struct {
	// Format of this member: 1.
	Format int `json:"format"`
	// Kind is what the workspace was.
	Kind Kind `json:"kind"`
	// ObjectFormat is sha1 or sha256.
	ObjectFormat string `json:"objectFormat,omitempty"`
	// Head is the commit that was checked out, "" on a branch without one; Branch its name, "" when detached.
	Head   string `json:"head,omitempty"`
	Branch string `json:"branch,omitempty"`
	// Upstream is the branch of origin that Branch follows.
	Upstream string `json:"upstream,omitempty"`
	// Needs are commits that the bundle builds on and the remote has; none, and the bundle is complete.
	Needs []string `json:"needs,omitempty"`
	// Branches are the tips of the local branches, Stashes those of the stash, the newest first.
	Branches []Ref `json:"branches,omitempty"`
	Stashes  []Ref `json:"stashes,omitempty"`
	// Shallow are the commits whose parents are not there.
	Shallow []string `json:"shallow,omitempty"`
	// Submodules are named and not saved.
	Submodules []Submodule `json:"submodules,omitempty"`
	// Settings of the repository that decide how files look: core.autocrlf, core.eol, core.fileMode, core.symlinks,
	// core.ignoreCase, and user.name, user.email.
	Settings map[string]string `json:"settings,omitempty"`
	// Exclude is .git/info/exclude.
	Exclude string `json:"exclude,omitempty"`
	// Removed are files that git knows and the work tree has not. Names are as in Paths.
	Removed []Path `json:"removed,omitempty"`
	// IntentToAdd, SkipWorktree and AssumeUnchanged are marks of the index.
	IntentToAdd     []Path `json:"intentToAdd,omitempty"`
	SkipWorktree    []Path `json:"skipWorktree,omitempty"`
	AssumeUnchanged []Path `json:"assumeUnchanged,omitempty"`
	// Files and Tree check a restored workspace: how many files, and the SHA-256 over all (TreeHash).
	Files int    `json:"files"`
	Tree  string `json:"tree,omitempty"`
	// Attachments lie beside the document.
	Attachments []Attachment `json:"attachments,omitempty"`
	// Encryption is "age" when the attachments, and the session in an attachment of its own, can be read with a key
	// only; "" when nothing is encrypted.
	Encryption string `json:"encryption,omitempty"`
	// Notes say what is not in this checkpoint, for people.
	Notes []string `json:"notes,omitempty"`
}

// Kind of a workspace.
type Kind string

// The kinds. Of an outside one nothing is saved beyond version 1.
const (
	KindGit       Kind = "git"
	KindDirectory Kind = "directory"
	KindNone      Kind = "none"
)

// Ref is a name, or the message of a stash, and its commit.
type Ref struct {
	Name   string `json:"name"`
	Commit string `json:"commit"`
}

// Submodule is one in the index.
type Submodule struct {
	Path   Path   `json:"path"`
	Commit string `json:"commit"`
}

// Attachment is an object beside the document. Size and SHA256 are those of its plain content.
type Attachment struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	// StoredSize and StoredSHA256 are those of what is stored, when that is something else because it is
	// encrypted.
	StoredSize   int64  `json:"storedSize,omitempty"`
	StoredSHA256 string `json:"storedSha256,omitempty"`
}

// Path is a name below the top of the workspace, with slashes, as git has it: bytes. In JSON, what is no UTF-8 is
// written as "base64:" and its base64, and so is a name that begins so.
type Path string

// NewID returns the id of a checkpoint made at a time.
func NewID(now time.Time) string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return now.UTC().Format("20060102T150405Z-") + hex.EncodeToString(b[:])
}

// Timestamp writes a time as the document has it: ISO 8601 with microseconds and +00:00.
func Timestamp(now time.Time) string { return now.UTC().Format("2006-01-02T15:04:05.000000+00:00") }

// Key is the key of a document.
func Key(instanceID, checkpointID string) string { return instanceID + "/" + checkpointID + ".json" }

// AttachmentKey is the key of an attachment of the document under key.
func AttachmentKey(key, name string) string { return strings.TrimSuffix(key, ".json") + ".d/" + name }

// URL names a document in a bucket.
func URL(bucket, key string) string { return "s3://" + bucket + "/" + key }

// ParseURL splits s3://bucket/key at the first slash; anything else is a key in the bucket given (§1.10). The error
// is the text of the bridge.
func ParseURL(url, bucket string) (string, string, error) {
	rest, ok := strings.CutPrefix(url, "s3://")
	if !ok {
		return bucket, url, nil
	}
	b, key, ok := strings.Cut(rest, "/")
	if !ok || key == "" {
		return "", "", fmt.Errorf("invalid s3 URI (no key): %s", url)
	}
	return b, key, nil
}

// Marshal writes a document as the bridge does.
func (d *Document) Marshal() ([]byte, error) {
	c := *d
	c.Session.Conversation = orEmpty(c.Session.Conversation)
	c.Session.Commands = orEmpty(c.Session.Commands)
	c.Session.Scrollback = orEmpty(c.Session.Scrollback)
	c.Config.Commands, c.Config.Capabilities = orEmpty(c.Config.Commands), orEmpty(c.Config.Capabilities)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(&c); err != nil {
		return nil, err
	}
	return ascii(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// ascii escapes what Python's json module escapes and Go's does not.
func ascii(in []byte) []byte {
	out := make([]byte, 0, len(in)+len(in)/16)
	for i := 0; i < len(in); {
		if in[i] < 0x7f {
			out = append(out, in[i])
			i++
			continue
		}
		r, n := utf8.DecodeRune(in[i:])
		i += n
		if r >= 0x10000 {
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
			continue
		}
		out = fmt.Appendf(out, `\u%04x`, r)
	}
	return out
}

// VersionError is a document of another version; its text is the bridge's.
type VersionError struct{ Version string }

func (e *VersionError) Error() string {
	return "unsupported checkpoint version: " + e.Version + " (expected 1)"
}

// Parse reads a document. Members that are missing count as empty, and as "?" those that say where it comes from
// (§1.10). Another version is a *VersionError; anything else that is wrong is ErrDocument. The extension is checked:
// names, counts, sizes and checksums are of the form that Capture writes.
func Parse(raw []byte) (*Document, error) {
	if len(raw) > MaxDocument {
		return nil, ErrDocument.Wrap(fmt.Errorf("it is larger than %d bytes", MaxDocument))
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(raw, &members); err != nil {
		return nil, ErrDocument.Wrap(err)
	}
	if v, ok := versionOf(members["version"]); !ok {
		return nil, &VersionError{v}
	}
	members["version"] = json.RawMessage("1")
	d := &Document{Version: Version}
	for name, to := range map[string]any{"session": &d.Session, "workspace": &d.Workspace, "config": &d.Config, "hanzo": &d.Hanzo} {
		if members[name] == nil {
			continue
		}
		if err := json.Unmarshal(members[name], to); err != nil {
			return nil, ErrDocument.Wrap(fmt.Errorf("%s: %w", name, err))
		}
	}
	for name, to := range map[string]*string{
		"checkpoint_id": &d.CheckpointID, "source_instance_id": &d.SourceInstanceID,
		"source_display_name": &d.SourceDisplayName, "platform": &d.Platform, "timestamp": &d.Timestamp,
	} {
		var s *string
		if members[name] == nil || json.Unmarshal(members[name], &s) != nil || s == nil {
			*to = "?"
			continue
		}
		*to = *s
	}
	if err := d.Hanzo.check(); err != nil {
		return nil, ErrDocument.Wrap(err)
	}
	return d, nil
}

// Read is Parse of a stream, which it reads to its end or to MaxDocument.
func Read(r io.Reader) (*Document, error) {
	raw, err := io.ReadAll(io.LimitReader(r, MaxDocument+1))
	if err != nil {
		return nil, err
	}
	return Parse(raw)
}

// versionOf says whether a version is 1, and otherwise what Python calls it.
func versionOf(raw json.RawMessage) (string, bool) {
	var v any
	if raw != nil && json.Unmarshal(raw, &v) != nil {
		return string(raw), false
	}
	switch v := v.(type) {
	case nil:
		return "None", false
	case bool:
		if v {
			return "True", true // equal to 1 there
		}
		return "False", false
	case float64:
		return strings.TrimSpace(string(raw)), v == Version
	case string:
		return v, false
	}
	return strings.TrimSpace(string(raw)), false
}

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// Attachment returns one by its name.
func (d *Document) Attachment(name string) (Attachment, bool) {
	if d.Hanzo != nil {
		for _, a := range d.Hanzo.Attachments {
			if a.Name == name {
				return a, true
			}
		}
	}
	return Attachment{}, false
}
