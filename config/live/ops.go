package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/schema"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// The refusals of a change, in the order in which they are looked for (control-plane.md §4 "Optimistic
// lock"); their texts are the original's.
var (
	ErrTooLarge   = errs.Define(errs.Invalid, "config.too_large", "the configuration is too large")
	ErrHashNeeded = errs.Define(errs.Invalid, "config.hash_needed", "config base hash required; re-run config.get and retry")
	ErrConflict   = errs.Define(errs.Conflict, "config.conflict", "config changed since last load; re-run config.get and retry")
	ErrBroken     = errs.Define(errs.Conflict, "config.broken", "invalid config; fix before patching")
	ErrSyntax     = errs.Define(errs.Invalid, "config.syntax", "the text is not JSON5")
	ErrNoObject   = errs.Define(errs.Invalid, "config.no_object", "config.patch raw must be an object")
	ErrSentinel   = errs.Define(errs.Invalid, "config.sentinel", "the sign for a hidden secret stands where no secret is")
	ErrInvalid    = errs.Define(errs.Invalid, "config.invalid", "invalid config")
)

var reasons = map[config.EditReason]*errs.Error{
	config.EditTooLarge: ErrTooLarge, config.EditHashNeeded: ErrHashNeeded, config.EditConflict: ErrConflict, config.EditBaseBroken: ErrBroken,
	config.EditSyntax: ErrSyntax, config.EditNoObject: ErrNoObject, config.EditSentinel: ErrSentinel, config.EditInvalid: ErrInvalid,
}

// Issues are what is wrong with a configuration that was refused with ErrInvalid.
func Issues(err error) []config.Issue {
	e, ok := errs.As(err)
	if !ok {
		return nil
	}
	issues, _ := e.Fields["issues"].([]config.Issue)
	return issues
}

// maxListed bounds the issues that the text of an error names.
const maxListed = 20

// withIssues names what is wrong in the text, and all of it as a fact.
func withIssues(of *errs.Error, issues []config.Issue) error {
	var text strings.Builder
	text.WriteString(of.Text)
	for i, is := range issues {
		if i == maxListed {
			fmt.Fprintf(&text, "\n- and %d more", len(issues)-i)
			break
		}
		text.WriteString("\n- " + is.String())
	}
	return of.WithText(text.String()).With("issues", issues)
}

// refusal classes what config says of an edit.
func refusal(err error) error {
	if e, ok := errors.AsType[*config.EditError](err); ok {
		if of, ok := reasons[e.Reason]; ok {
			if len(e.Issues) > 0 {
				return withIssues(of, e.Issues)
			}
			return of.WithText(e.Text)
		}
	}
	if e, ok := errors.AsType[*config.Invalid](err); ok {
		return withIssues(ErrInvalid, e.Issues)
	}
	if e, ok := errors.AsType[*config.Refused](err); ok {
		return withIssues(ErrInvalid, []config.Issue{{Message: e.Text}})
	}
	return ErrRead.Wrap(pathless(err))
}

// pathless is an error of the file system without the path, which not everybody may see.
func pathless(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", e.Op, e.Err)
	}
	return err
}

// GetIn asks for the configuration.
type GetIn struct {
	// Key is that of the value that is wanted, such as "gateway.port"; "" is all.
	Key string
}

// GetOut is the result of Get.
type GetOut struct {
	// View is the file as clients may see it; Text is its text with the secrets hidden, comments and all,
	// nil when the file is not there or is no JSON5.
	View config.View
	Text *string
	// Value is what stands at the key, with defaults; nil when there is nothing.
	Value *json5.Node
	// Warnings are what holds and does not count as it stands.
	Warnings []config.Issue
	// Running is the hash of the configuration in force.
	Running string
	// Fault says why the configuration in force is not that of the file, "" when it is.
	Fault string
	// Waiting are the keys that count after a restart.
	Waiting []string
	// Pending is the change that undoes itself unless it is confirmed, nil without one.
	Pending *Pending
}

// Get reads the file anew and shows what it says, and how the configuration in force differs. Secrets are
// hidden (control-plane.md §4 "config.get"). It fails with ErrRead.
func (s *Service) Get(_ context.Context, c identity.Caller, in GetIn) (GetOut, error) {
	v, err := config.Look(s.load)
	if err != nil {
		return GetOut{}, ErrRead.Wrap(pathless(err))
	}
	out := GetOut{View: v, Running: s.Current().Hash, Fault: s.Fault().What, Waiting: s.Waiting()}
	if v.Valid {
		out.Value = valueAt(v.Config, in.Key)
	}
	if out.Fault != "" && v.Valid {
		out.Warnings = append(out.Warnings, config.Issue{Message: out.Fault})
	}
	if text, ok := config.HiddenText(s.load); ok && c.Has(identity.ScopeAdmin) {
		out.Text = &text
	}
	if s.until.Load() != nil {
		if p, ok, err := LoadPending(s.load.StateDir); err == nil && ok {
			p.Before = nil // it holds secrets
			out.Pending = &p
		}
	}
	return out, nil
}

// keyParts splits a key: names with dots between them, numbers of items, and names with dots as ["name"].
func keyParts(key string) []string {
	var out []string
	for key != "" {
		if rest, ok := strings.CutPrefix(key, `["`); ok {
			if name, after, ok := strings.Cut(rest, `"]`); ok {
				out, key = append(out, name), strings.TrimPrefix(after, ".")
				continue
			}
		}
		if rest, ok := strings.CutPrefix(key, "["); ok {
			name, after, _ := strings.Cut(rest, "]")
			out, key = append(out, name), strings.TrimPrefix(after, ".")
			continue
		}
		at := strings.IndexAny(key, ".[")
		if at < 0 {
			at = len(key)
		}
		out, key = append(out, key[:at]), strings.TrimPrefix(key[at:], ".")
	}
	return out
}

// valueAt finds a key; items of lists are named by their number.
func valueAt(n *json5.Node, key string) *json5.Node {
	if key == "" {
		return n
	}
	for _, part := range keyParts(key) {
		if n != nil && n.Kind == json5.Array {
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(n.Items) {
				return nil
			}
			n = n.Items[i]
			continue
		}
		n = n.Get(part)
	}
	return n
}

// CheckIn is a text that may become the file.
type CheckIn struct{ Raw string }

// CheckOut says what is wrong with a text, or what it would do.
type CheckOut struct {
	Issues  []config.Issue
	Written *SetOut
}

// Check says what a text would do as the configuration file, and does nothing. A text that could not be it is
// no error.
func (s *Service) Check(ctx context.Context, c identity.Caller, in CheckIn) (CheckOut, error) {
	out, err := s.change(ctx, c, change{kind: config.EditText, raw: in.Raw, anyHash: true, check: true})
	if err == nil {
		return CheckOut{Written: &out}, nil
	}
	if issues := Issues(err); len(issues) > 0 {
		return CheckOut{Issues: issues}, nil
	}
	if e, ok := errs.As(err); ok && (e.Code == ErrSyntax.Code || e.Code == ErrSentinel.Code || e.Code == ErrInvalid.Code || e.Code == ErrTooLarge.Code) {
		return CheckOut{Issues: []config.Issue{{Message: e.Text}}}, nil
	}
	return CheckOut{}, err
}

// SetIn replaces the configuration.
type SetIn struct {
	// Raw is JSON5 text; the sentinel in it stands for the secret that is there now. BaseHash is the hash
	// of the file that it was made from.
	Raw, BaseHash string
	// Text says that Raw is the text of the file, with comments, $include and ${NAME}, and not the
	// configuration that clients are shown.
	Text bool
	// Check looks at the change and makes none.
	Check bool
}

// SetOut says what became of a change.
type SetOut struct {
	// Path is the file, Hash that of its new text.
	Path, Hash string
	// View is the configuration as clients see it (control-plane.md §4).
	View *json5.Node
	// Changed are the keys that differ from before, without their secrets.
	Changed []config.Change
	// Plan is what the change takes.
	Plan Plan
	// Flattened says that included files are part of the file now.
	Flattened bool
}

// Set replaces the configuration. It returns when the file is on disk; what can count without a restart
// does so right away, and else a restart is planned, as gateway.reload.mode says. It fails with the refusals
// above, ErrPending and ErrNotWritten; then nothing has changed.
func (s *Service) Set(ctx context.Context, c identity.Caller, in SetIn) (SetOut, error) {
	kind := config.EditSet
	if in.Text {
		kind = config.EditText
	}
	return s.change(ctx, c, change{kind: kind, raw: in.Raw, hash: in.BaseHash, check: in.Check, what: "set"})
}

// EditIn changes single keys.
type EditIn struct {
	// Patch is a JSON5 object that is laid over the configuration (RFC 7396): null removes a key.
	Patch string
	// BaseHash may be empty: single keys need not know the rest.
	BaseHash string
	Check    bool
}

// Edit changes single keys, as Set would; the rest of the file stays as it is, comments included. Unlike
// Patch it plans a restart only where the change takes one.
func (s *Service) Edit(ctx context.Context, c identity.Caller, in EditIn) (SetOut, error) {
	return s.change(ctx, c, change{kind: config.EditPatch, raw: in.Patch, hash: in.BaseHash, anyHash: in.BaseHash == "", check: in.Check, bare: true, what: "edit"})
}

// ApplyIn replaces or patches the configuration and starts the daemon anew.
type ApplyIn struct {
	SetIn
	// SessionKey is told after the restart, Note is what; both may be empty.
	SessionKey, Note string
	// Delay is how long the restart waits, RestartDelay when nil.
	Delay *time.Duration
	// Confirm undoes the change unless Confirm is called within it; 0 keeps the change.
	Confirm time.Duration
}

// ApplyOut is the result of Apply and Patch.
type ApplyOut struct {
	SetOut
	Restart Restart
	// Sentinel is the note to the daemon after the restart, SentinelPath its file, "" when it was not
	// written.
	Sentinel     Sentinel
	SentinelPath string
	// Pending is set where the change has to be confirmed.
	Pending *Pending
}

// Apply replaces the configuration and plans a restart in any case (control-plane.md §4). It fails as Set
// does, and with ErrWindow.
func (s *Service) Apply(ctx context.Context, c identity.Caller, in ApplyIn) (ApplyOut, error) {
	kind := config.EditApply
	if in.Text {
		kind = config.EditText
	}
	return s.apply(ctx, c, in, kind, "config-apply", "config.apply")
}

// Patch lays an object over the configuration (RFC 7396) and plans a restart in any case. It fails as
// Apply does.
func (s *Service) Patch(ctx context.Context, c identity.Caller, in ApplyIn) (ApplyOut, error) {
	return s.apply(ctx, c, in, config.EditPatch, "config-patch", "config.patch")
}

func (s *Service) apply(ctx context.Context, c identity.Caller, in ApplyIn, kind config.EditKind, what, mode string) (ApplyOut, error) {
	if in.Confirm != 0 && (in.Confirm < MinConfirm || in.Confirm > MaxConfirm) {
		return ApplyOut{}, ErrWindow
	}
	ch := change{kind: kind, raw: in.Raw, hash: in.BaseHash, check: in.Check, confirm: in.Confirm, restarts: true, what: strings.TrimPrefix(mode, "config.")}
	var out ApplyOut
	ch.then = func(set SetOut, p *Pending) {
		note := Sentinel{Kind: what, Status: "ok", At: s.cfg.Now(), SessionKey: in.SessionKey, Mode: mode}
		if in.Note != "" {
			note.Message = &in.Note
		}
		hint := "Run: hanzoctl doctor"
		note.Hint = &hint
		path, err := writeSentinel(s.load.StateDir, note)
		if err != nil {
			s.cfg.Log.Warn("the note for after the restart was not written", "error", err)
			path = ""
		}
		out.Sentinel, out.SentinelPath, out.Pending = note, path, p
		out.Restart = s.restart(RestartIn{Delay: in.Delay, Reason: mode})
	}
	set, err := s.change(ctx, c, ch)
	out.SetOut = set
	return out, err
}

// change is one change of the file.
type change struct {
	kind     config.EditKind
	raw      string
	hash     string
	anyHash  bool // the hash of now does
	check    bool
	bare     bool // defaults stay out of the file
	confirm  time.Duration
	restarts bool // a restart follows in any case
	what     string
	then     func(SetOut, *Pending)
}

func (s *Service) change(ctx context.Context, c identity.Caller, ch change) (SetOut, error) {
	if err := may(c); err != nil {
		return SetOut{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch.anyHash {
		text, exists, err := readText(s.load.Path)
		if err != nil {
			return SetOut{}, ErrRead.Wrap(pathless(err))
		}
		if exists {
			ch.hash = hashOf(text)
		}
	}
	e, err := config.Prepare(s.load, config.EditIn{Kind: ch.kind, Raw: ch.raw, BaseHash: ch.hash, Version: s.cfg.Version, Now: s.cfg.Now(), Bare: ch.bare})
	if err != nil {
		return SetOut{}, refusal(err)
	}
	next := e.Config
	load := s.load
	load.Source = &config.Source{Exists: true, Text: e.Text}
	if full, err := config.Load(load); err == nil { // with the secrets that stand elsewhere
		if err := startable(full); err != nil {
			return SetOut{}, refusal(err)
		}
		next = full
	}
	out := SetOut{Path: e.Path, Hash: e.Hash, View: e.View, Changed: e.Changed, Flattened: e.Flattened}
	out.Plan = planBetween(s.Current(), next)
	if ch.restarts {
		out.Plan.Effect = EffectRestart
	}
	if ch.check {
		return out, nil
	}
	if s.until.Load() != nil {
		return SetOut{}, ErrPending
	}
	pending, err := s.write(ctx, c, ch, e)
	if err != nil {
		return SetOut{}, err
	}
	if ch.then != nil {
		ch.then(out, pending)
		s.await(out.Plan.Changed, "the configuration was written; the daemon starts anew")
	} else {
		s.reloadLocked(ctx)
	}
	return out, nil
}

// write puts an edit on disk: first what undoes it, then the row of the audit log, then the file.
func (s *Service) write(ctx context.Context, c identity.Caller, ch change, e config.Edited) (*Pending, error) {
	now := s.cfg.Now().Round(0)
	if err := s.cfg.Record(ctx, Change{At: now, By: c.Subject(), What: describe(ch, e)}); err != nil {
		return nil, err
	}
	var p *Pending
	if ch.confirm > 0 {
		// Until the change is in force, the time to start anew is added.
		p = &Pending{
			Path: e.Path, Existed: e.Before != nil, Before: e.Before, BeforeHash: hashOf(e.Before), Hash: e.Hash, By: c.Subject(), At: now,
			Window: ch.confirm, Deadline: now.Add(ch.confirm + MaxRestartDelay + restartCooldown + maxHold),
		}
		if err := savePending(s.load.StateDir, *p); err != nil {
			return nil, ErrNotWritten.Wrap(pathless(err))
		}
	}
	if err := save(e); err != nil {
		if p != nil {
			if err := dropPending(s.load.StateDir); err != nil {
				s.cfg.Log.Warn("what would undo a change that was not made stays until the next start", "error", err)
			}
		}
		if errors.Is(err, ErrConflict) {
			return nil, err
		}
		return nil, ErrNotWritten.Wrap(pathless(err))
	}
	s.failed = nil // it was written on purpose: it is tried again
	s.note(p)
	if p != nil {
		p.Before = nil
	}
	return p, nil
}

// save writes an edit, unless the file became another one meanwhile.
func save(e config.Edited) error {
	now, exists, err := readText(e.Path)
	if err != nil {
		return err
	}
	if exists != (e.Before != nil) || !bytes.Equal(now, e.Before) {
		return ErrConflict
	}
	return replaceFile(e.Path, e.Text)
}

// maxTold bounds the keys that a row of the audit log names.
const maxTold = 20

// describe names what was changed, and no value.
func describe(ch change, e config.Edited) string {
	keys := make([]string, 0, maxTold)
	for i, c := range e.Changed {
		if i == maxTold {
			keys = append(keys, fmt.Sprintf("and %d more", len(e.Changed)-i))
			break
		}
		keys = append(keys, c.Path)
	}
	what := "config " + ch.what + ": "
	if len(keys) == 0 {
		what += "no key changed"
	}
	what += strings.Join(keys, ", ") + "; " + short(hashOf(e.Before)) + " became " + short(e.Hash)
	if ch.confirm > 0 {
		what += "; to be confirmed within " + ch.confirm.String()
	}
	return what
}

func short(hash string) string { return hash[:min(12, len(hash))] }

// Confirm keeps the change that waits for an answer. It returns when that is on disk, and fails with
// ErrNotPending.
func (s *Service) Confirm(ctx context.Context, c identity.Caller, _ struct{}) (Pending, error) {
	if err := may(c); err != nil {
		return Pending{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok, err := LoadPending(s.load.StateDir)
	if err != nil {
		return Pending{}, ErrNotWritten.Wrap(err)
	}
	if !ok {
		return Pending{}, ErrNotPending
	}
	if err := s.cfg.Record(ctx, Change{At: s.cfg.Now(), By: c.Subject(), What: "config confirm: the change of " + p.At.UTC().Format(time.RFC3339) + " by " + p.By + " stays"}); err != nil {
		return Pending{}, err
	}
	if err := dropPending(s.load.StateDir); err != nil {
		return Pending{}, ErrNotWritten.Wrap(pathless(err))
	}
	s.note(nil)
	s.cfg.Log.Info("the configuration is confirmed", "by", c.Subject())
	p.Before = nil
	return p, nil
}

// Revert undoes the change that waits for an answer, now. It fails with ErrNotPending.
func (s *Service) Revert(ctx context.Context, c identity.Caller, _ struct{}) (Pending, error) {
	if err := may(c); err != nil {
		return Pending{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok, err := LoadPending(s.load.StateDir)
	if err != nil {
		return Pending{}, ErrNotWritten.Wrap(err)
	}
	if !ok {
		return Pending{}, ErrNotPending
	}
	s.cfg.Log.Warn("the configuration is undone", "by", c.Subject())
	if err := s.back(ctx, p, "undone by "+c.Subject()); err != nil {
		return Pending{}, ErrNotWritten.Wrap(pathless(err))
	}
	p.Before = nil
	return p, nil
}

// Restart plans a restart of the daemon without a change.
func (s *Service) Restart(ctx context.Context, c identity.Caller, in RestartIn) (Restart, error) {
	if err := may(c); err != nil {
		return Restart{}, err
	}
	if err := s.cfg.Record(ctx, Change{At: s.cfg.Now(), By: c.Subject(), What: "a restart was asked for: " + in.Reason}); err != nil {
		return Restart{}, err
	}
	in.Urgent = false
	return s.restart(in), nil
}

// SchemaOut describes every key of the configuration (control-plane.md §4 "schema").
type SchemaOut struct {
	// Schema is a JSON Schema (draft 07), Hints are labels and help by path.
	Schema  *json5.Node
	Hints   []schema.Hint
	Version string
	At      time.Time
}

// Schema describes every key of the configuration. It never fails.
func (s *Service) Schema(context.Context, identity.Caller, struct{}) (SchemaOut, error) {
	return SchemaOut{Schema: schema.Root().JSONSchema(), Hints: schema.Hints(config.SecretAt), Version: s.cfg.Version, At: s.started}, nil
}

// LookupIn names a key.
type LookupIn struct{ Path string }

// ErrNoKey is for a path that the configuration does not have.
var ErrNoKey = errs.Define(errs.NotFound, "config.no_key", "config schema path not found")

// maxPath bounds the path of a key (control-plane.md §4).
const maxPath = 1024

// Lookup describes one key and names those below it; an empty path is the root. It fails with ErrNoKey.
func (s *Service) Lookup(_ context.Context, _ identity.Caller, in LookupIn) (schema.Lookup, error) {
	if len(in.Path) > maxPath {
		return schema.Lookup{}, ErrNoKey
	}
	if in.Path == "" {
		out := schema.Lookup{Schema: &json5.Node{Kind: json5.Object}}
		for _, f := range schema.Root().Fields {
			found, ok := schema.Find(f.Key, config.SecretAt)
			if !ok {
				continue
			}
			c := schema.Child{Key: f.Key, Path: f.Key, Required: f.Required, Hint: found.Hint, HasChildren: len(found.Children) > 0}
			if t := found.Schema.Get("type"); t != nil {
				c.Type = t.Str
			}
			out.Children = append(out.Children, c)
		}
		return out, nil
	}
	out, ok := schema.Find(in.Path, config.SecretAt)
	if !ok {
		return schema.Lookup{}, ErrNoKey
	}
	return out, nil
}
