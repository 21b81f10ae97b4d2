package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/schema"
)

// EditKind says what a submitted text does.
type EditKind uint8

// The kinds of edits.
const (
	// EditSet and EditApply replace the configuration by the submitted one (control-plane.md §4). What
	// clients were shown of defaults does not get into the file by that.
	EditSet EditKind = iota
	EditApply
	// EditPatch lays the submitted object over the configuration: null removes, objects with an id in a
	// list are told apart by it, other lists are replaced (RFC 7396).
	EditPatch
	// EditText replaces the text of the file, as a person writes it: with comments, $include and ${NAME}.
	EditText
)

// EditIn is a change of the configuration file.
type EditIn struct {
	Kind EditKind
	// Raw is JSON5 text, at most 16 MiB. Sentinel in it stands for the secret that is there now.
	Raw string
	// BaseHash is the hash of the file that the change was made for. It must be there where the file is.
	BaseHash string
	// Version and Now go into meta.lastTouchedVersion and meta.lastTouchedAt; without a Version the file
	// keeps what it has.
	Version string
	Now     time.Time
	// Bare keeps defaults out of the file that the original writes there, for clients that are not the original's.
	Bare bool
}

// Edited is what an edit comes to. Nothing is written yet.
type Edited struct {
	// Text is the new content of the file, Hash its hash, as config.get would show it.
	Text []byte
	Hash string
	// Path is the file. Before is its content now, nil where there is none.
	Path   string
	Before []byte
	// View is the submitted configuration as clients see it, with defaults and without secrets.
	View *json5.Node
	// Changed are the paths that change, without those of meta; see Diff.
	Changed []Change
	// Flattened tells that files which Path includes are part of Text now, because the change could not
	// be made beside them.
	Flattened bool
	// Config is the configuration that Text gives, as Load would, but for secrets that stand elsewhere.
	Config *Config
}

// EditError is the refusal of an edit. Issues are set when the configuration would not hold.
type EditError struct {
	Reason EditReason
	Text   string
	Issues []Issue
}

func (e *EditError) Error() string {
	if len(e.Issues) == 0 {
		return e.Text
	}
	var b strings.Builder
	b.WriteString(e.Text + ":")
	for _, i := range e.Issues {
		b.WriteString("\n- " + i.String())
	}
	return b.String()
}

// EditReason says why an edit is refused.
type EditReason uint8

// The reasons, in the order in which they are looked for.
const (
	EditTooLarge   EditReason = iota + 1 // the text is larger than a configuration file may be
	EditHashNeeded                       // there is a file, and no base hash
	EditConflict                         // the file is not the one that the base hash names
	EditBaseBroken                       // the file does not hold, so that nothing can be laid over it
	EditSyntax                           // the text is not JSON5
	EditNoObject                         // the text of a patch is no object
	EditSentinel                         // Sentinel stands where no secret is
	EditInvalid                          // the configuration would not hold; see Issues
)

func refuseEdit(reason EditReason, format string, args ...any) error {
	return &EditError{Reason: reason, Text: fmt.Sprintf(format, args...)}
}

// Prepare checks an edit against the file as it is now and makes the new text of it, in which comments,
// order and layout stay where they can. It writes nothing. The error is an *EditError where the edit is
// refused, an *Invalid where what comes of it could not be read back, and another one where the file
// cannot be read.
//
// The caller must keep the file from changing until it has written Text: compare Before.
func Prepare(opts Options, in EditIn) (Edited, error) {
	if len(in.Raw) > maxFileBytes {
		return Edited{}, refuseEdit(EditTooLarge, "config is larger than %d bytes", maxFileBytes)
	}
	opts.Unresolved = true // who only writes needs no secrets that stand elsewhere
	l, text, err := find(opts)
	if err != nil {
		return Edited{}, err
	}
	e := &editing{opts: opts, in: in, l: l, text: text}
	if err := e.base(); err != nil {
		return Edited{}, err
	}
	submitted, err := json5.Parse([]byte(in.Raw))
	if err != nil {
		return Edited{}, refuseEdit(EditSyntax, "SyntaxError: %v", err)
	}
	if in.Kind == EditPatch && submitted.Kind != json5.Object {
		return Edited{}, refuseEdit(EditNoObject, "config.patch raw must be an object")
	}
	if in.Kind != EditPatch && submitted.Kind != json5.Object && submitted.Kind != json5.Array {
		return Edited{}, refuseEdit(EditInvalid, "invalid config")
	}
	if in.Kind == EditText {
		return e.whole(submitted)
	}
	return e.merged(submitted)
}

// editing is the work of one Prepare.
type editing struct {
	opts Options
	in   EditIn
	l    *loader
	text []byte
}

// base checks what the edit is based on.
func (e *editing) base() error {
	c := e.l.config
	if c.Exists {
		switch strings.TrimSpace(e.in.BaseHash) {
		case "":
			return refuseEdit(EditHashNeeded, "config base hash required; re-run config.get and retry")
		case c.Hash:
		default:
			return refuseEdit(EditConflict, "config changed since last load; re-run config.get and retry")
		}
	}
	if e.in.Kind == EditPatch && !e.holds() {
		return refuseEdit(EditBaseBroken, "invalid config; fix before patching")
	}
	return nil
}

func (e *editing) holds() bool { return len(e.l.issues) == 0 && len(e.l.legacy) == 0 }

// shown is the configuration with defaults, secrets in plain text; empty when the file does not hold.
func (e *editing) shown() *json5.Node {
	if !e.holds() {
		return &json5.Node{Kind: json5.Object}
	}
	return withDefaults(e.l.config.tree)
}

// merged is Prepare for what replaces or patches the configuration as clients see it.
func (e *editing) merged(submitted *json5.Node) (Edited, error) {
	shown := e.shown()
	if e.in.Kind == EditPatch {
		submitted = mergePatch(shown, submitted)
	}
	r := restorer{filled: e.l.filled}
	submitted, err := r.restore(submitted, shown, nil, "")
	if err != nil {
		return Edited{}, err
	}
	if e.in.Kind == EditPatch {
		submitted, _ = Migrate(submitted)
	}
	if issues := e.check(submitted); len(issues) > 0 {
		return Edited{}, &EditError{Reason: EditInvalid, Text: "invalid config", Issues: issues}
	}
	resolved := &json5.Node{Kind: json5.Object}
	if e.holds() {
		resolved = e.l.config.tree
	}
	// Only what differs from what clients were shown gets into the file.
	want := schema.Root().Ordered(applyDiff(resolved, shown, submitted), !e.in.Bare)
	text, flat, err := e.write(want, resolved)
	if err != nil {
		return Edited{}, err
	}
	return e.result(text, flat, resultView(submitted))
}

// check is what is wrong with a configuration that is no file's.
func (e *editing) check(n *json5.Node) []Issue {
	l := &loader{config: &Config{Path: e.l.config.Path, StateDir: e.l.config.StateDir, Home: e.l.config.Home}, env: e.l.env, origin: map[*json5.Node]string{}, filled: map[*json5.Node]bool{}}
	if l.issues = legacyIssues(l, n); len(l.issues) == 0 {
		l.validate(n)
	}
	for i := range l.issues {
		// Places are those of a text that nobody sees.
		l.issues[i].Line, l.issues[i].Col = 0, 0
	}
	return l.issues
}

// whole is Prepare for the text of a file.
func (e *editing) whole(submitted *json5.Node) (Edited, error) {
	stored := &json5.Node{Kind: json5.Object}
	if e.l.config.Exists {
		if n, err := json5.Parse(e.text); err == nil {
			stored = n
		}
	}
	r := restorer{filled: map[*json5.Node]bool{}}
	want, err := r.restore(submitted, stored, nil, "")
	if err != nil {
		return Edited{}, err
	}
	if want.Kind != json5.Object {
		return Edited{}, &EditError{Reason: EditInvalid, Text: "invalid config", Issues: e.check(want)}
	}
	text := []byte(e.in.Raw)
	if r.restored > 0 {
		if text, err = json5.Rewrite(text, want); err != nil {
			return Edited{}, err
		}
	}
	if text, err = e.stamp(text); err != nil {
		return Edited{}, err
	}
	l, err := e.reload(text)
	if err != nil {
		return Edited{}, err
	}
	if len(l.issues) > 0 {
		return Edited{}, &EditError{Reason: EditInvalid, Text: "invalid config", Issues: l.issues}
	}
	return e.finish(text, false, l, hider{filled: l.filled}.hide(withDefaults(l.config.tree), nil))
}

// reload reads a text as it would be read as the file.
func (e *editing) reload(text []byte) (*loader, error) {
	opts := e.opts
	opts.Source = &Source{Exists: true, Text: text, Includes: e.l.config.source.Includes}
	l, _, err := find(opts)
	return l, err
}

// result reads the new text back, so that what is acknowledged is what the file says.
func (e *editing) result(text []byte, flat bool, view *json5.Node) (Edited, error) {
	l, err := e.reload(text)
	if err != nil {
		return Edited{}, err
	}
	if len(l.issues) > 0 {
		return Edited{}, &EditError{Reason: EditInvalid, Text: "invalid config", Issues: l.issues}
	}
	return e.finish(text, flat, l, hider{filled: e.l.filled}.hide(view, nil))
}

func (e *editing) finish(text []byte, flat bool, l *loader, view *json5.Node) (Edited, error) {
	if len(text) > maxFileBytes {
		return Edited{}, refuseEdit(EditTooLarge, "config would be larger than %d bytes", maxFileBytes)
	}
	old := &json5.Node{Kind: json5.Object}
	if e.holds() {
		old = e.l.config.tree
	}
	out := Edited{
		Text: text, Hash: textHash(text), Path: e.l.config.Path, View: view, Flattened: flat, Config: l.config,
		Changed: diffTrees(old, l.config.tree, e.l.filled, l.filled),
	}
	if e.l.config.Exists {
		out.Before = e.text
	}
	return out, nil
}

func textHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// stamp notes in a text who changed it last.
func (e *editing) stamp(text []byte) ([]byte, error) {
	if e.in.Version == "" {
		return text, nil
	}
	out, err := json5.Set(text, []string{"meta", "lastTouchedVersion"}, e.in.Version)
	if err != nil {
		return nil, err
	}
	return json5.Set(out, []string{"meta", "lastTouchedAt"}, isoTime(e.in.Now))
}

func isoTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// stamped is want with the new meta: where it was, else at the end.
func (e *editing) stamped(want *json5.Node) *json5.Node {
	if e.in.Version == "" {
		return want
	}
	out := owned(want)
	meta := under(out, "meta")
	put(meta, "lastTouchedVersion", e.in.Version)
	put(meta, "lastTouchedAt", isoTime(e.in.Now))
	return out
}

// put sets a text of an object that may be changed.
func put(o *json5.Node, key, v string) {
	n := &json5.Node{Kind: json5.String, Str: v}
	for i := range o.Members {
		if o.Members[i].Key == key {
			o.Members[i].Value = n
			return
		}
	}
	o.Members = append(o.Members, json5.Member{Key: key, Value: n})
}

// write makes the text of a file that says want. resolved is what the file says now, after includes and
// variables.
func (e *editing) write(want, resolved *json5.Node) (text []byte, flat bool, err error) {
	want = e.stamped(want)
	base := e.text
	source, err := json5.Parse(e.text)
	if err != nil || source.Kind != json5.Object {
		return []byte(json5.Format(want) + "\n"), false, nil //nolint:nilerr // nothing to keep
	}
	if !e.holds() {
		resolved = nil
	}
	if e.in.Kind != EditPatch && json5.HasComments([]byte(e.in.Raw)) && len(e.l.config.Includes) == 0 {
		// Whoever sends comments wants those.
		base = []byte(e.in.Raw)
	}
	f := &filer{}
	if len(e.l.config.Includes) > 0 {
		f.include = e.included
	}
	inFile, ok := f.own(source, resolved, want, "")
	if !ok {
		flat = true
		inFile, _ = (&filer{flat: true}).own(source, resolved, want, "")
	}
	var moved []string
	if e.in.Version != "" && source.Get("meta") != nil && lastKey(source) == "meta" {
		moved = []string{"meta"} // the original has it in front from the second write on
	}
	text, err = json5.Rewrite(base, inFile, moved...)
	if err != nil {
		return []byte(json5.Format(inFile) + "\n"), flat, nil
	}
	if f.include != nil && !flat {
		// Read back: what the included files add must give exactly what was asked for.
		l, err := e.reload(text)
		if err != nil {
			return nil, false, err
		}
		if len(l.issues) > 0 || !json5.Equal(l.config.tree, want) {
			inFile, _ = (&filer{flat: true}).own(source, resolved, want, "")
			flat = true
			if text, err = json5.Rewrite(e.text, inFile, moved...); err != nil {
				return []byte(json5.Format(inFile) + "\n"), true, nil
			}
		}
	}
	return text, flat, nil
}

func lastKey(n *json5.Node) string {
	if len(n.Members) == 0 {
		return ""
	}
	return n.Members[len(n.Members)-1].Key
}

// included is what the files that an object includes hold together, or nil.
func (e *editing) included(directive *json5.Node, path string) *json5.Node {
	c := &Config{
		Path: e.l.config.Path, StateDir: e.l.config.StateDir, Home: e.l.config.Home, EnvVars: e.l.config.EnvVars,
		source: &Source{Includes: map[string][]byte{}},
	}
	l := &loader{config: c, env: e.l.env, given: e.l.config.source, origin: map[*json5.Node]string{}, filled: map[*json5.Node]bool{}}
	empty := &json5.Node{Kind: json5.Object}
	out := l.included(empty, directive, includeSite{file: e.l.config.Path, path: path})
	if out == nil || len(l.issues) > 0 {
		return nil
	}
	l.substitute(out, path)
	if len(l.issues) > 0 {
		return nil
	}
	return out
}

// filer turns a configuration back into what the main file must say for it: texts with variables stay
// where the value is the same, and so do includes.
type filer struct {
	// include resolves a directive; nil when the file has none.
	include func(directive *json5.Node, path string) *json5.Node
	// flat takes included files into the main one.
	flat bool
}

// own returns what source must become so that it reads as want; resolved is how source reads now. ok is
// false when an include is in the way.
func (f *filer) own(source, resolved, want *json5.Node, path string) (out *json5.Node, ok bool) {
	if source == nil {
		return want, true
	}
	if !f.flat && resolved != nil && json5.Equal(resolved, want) {
		return source, true
	}
	if source.Kind == json5.Object && source.Get(includeKey) != nil && resolved != nil {
		if !f.flat {
			return f.beside(source, resolved, want, path)
		}
		without := *source
		without.Members = nil
		for _, m := range source.Members {
			if m.Key != includeKey {
				without.Members = append(without.Members, m)
			}
		}
		source = &without
	}
	if resolved == nil || source.Kind != resolved.Kind || source.Kind != want.Kind {
		return want, true
	}
	switch source.Kind {
	case json5.String:
		if want.Str == resolved.Str || want.Str == source.Str {
			return source, true
		}
		return want, true
	case json5.Array:
		res := *want
		res.Items = make([]*json5.Node, len(want.Items))
		same := len(source.Items) == len(resolved.Items)
		for i, item := range want.Items {
			var from, read *json5.Node
			if same {
				from, read = partner(source.Items, resolved.Items, item, i)
			}
			if res.Items[i], ok = f.own(from, read, item, join(path, strconv.Itoa(i))); !ok {
				return nil, false
			}
		}
		return &res, true
	case json5.Object:
		res := *want
		res.Members = make([]json5.Member, len(want.Members))
		from, read := source.Index(), resolved.Index()
		for i, m := range want.Members {
			v, ok := f.own(from.Get(m.Key), read.Get(m.Key), m.Value, join(path, m.Key))
			if !ok {
				return nil, false
			}
			res.Members[i] = json5.Member{Key: m.Key, Value: v}
		}
		return &res, true
	}
	return want, true
}

// partner is the item of a list that an item of the new one comes from: the equal one, that of the same
// id, or that of the same place.
func partner(source, resolved []*json5.Node, item *json5.Node, i int) (from, read *json5.Node) {
	if i < len(resolved) && json5.Equal(resolved[i], item) {
		return source[i], resolved[i]
	}
	if id := item.Get("id"); id != nil {
		for j, r := range resolved {
			if other := r.Get("id"); other != nil && json5.Equal(other, id) {
				return source[j], r
			}
		}
		return nil, nil
	}
	if item.Kind == json5.String {
		for j, r := range resolved {
			if json5.Equal(r, item) {
				return source[j], r
			}
		}
	}
	if i < len(resolved) {
		return source[i], resolved[i]
	}
	return nil, nil
}

// beside keeps an include and says beside it what differs.
func (f *filer) beside(source, resolved, want *json5.Node, path string) (*json5.Node, bool) {
	if f.include == nil || want.Kind != json5.Object {
		return nil, false
	}
	directive := source.Get(includeKey)
	inc := f.include(directive, path)
	if inc == nil || inc.Kind != json5.Object {
		return nil, false
	}
	rest, ok := f.unmerge(inc, source, resolved, want, path)
	if !ok {
		return nil, false
	}
	// The directive stays in its place.
	out := &json5.Node{Kind: json5.Object, Members: []json5.Member{{Key: includeKey, Value: directive}}}
	out.Members = append(out.Members, rest.Members...)
	return out, true
}

// unmerge is the object that, laid over inc, gives want.
func (f *filer) unmerge(inc, source, resolved, want *json5.Node, path string) (*json5.Node, bool) {
	out := &json5.Node{Kind: json5.Object}
	has, base, from, read := want.Index(), inc.Index(), source.Index(), resolved.Index()
	for _, m := range inc.Members {
		if has.Get(m.Key) == nil {
			return nil, false // nothing beside an include takes a key of it away
		}
	}
	for _, m := range want.Members {
		below := join(path, m.Key)
		under, own := base.Get(m.Key), from.Get(m.Key)
		switch {
		case under == nil:
			v, ok := f.own(own, read.Get(m.Key), m.Value, below)
			if !ok {
				return nil, false
			}
			out.Members = append(out.Members, json5.Member{Key: m.Key, Value: v})
		case own == nil && json5.Equal(under, m.Value):
		case under.Kind == json5.Object && m.Value.Kind == json5.Object:
			if own == nil {
				own = &json5.Node{Kind: json5.Object}
			}
			if own.Kind != json5.Object || own.Get(includeKey) != nil {
				return nil, false
			}
			v, ok := f.unmerge(under, own, read.Get(m.Key), m.Value, below)
			if !ok {
				return nil, false
			}
			if len(v.Members) > 0 || from.Get(m.Key) != nil {
				out.Members = append(out.Members, json5.Member{Key: m.Key, Value: v})
			}
		case under.Kind == json5.Array && m.Value.Kind == json5.Array:
			// Lists are put one behind the other.
			n := len(under.Items)
			if len(m.Value.Items) < n {
				return nil, false
			}
			for i, item := range under.Items {
				if !json5.Equal(item, m.Value.Items[i]) {
					return nil, false
				}
			}
			rest := *m.Value
			rest.Items = m.Value.Items[n:]
			var tail *json5.Node
			if r := read.Get(m.Key); own != nil && r != nil && r.Kind == json5.Array && len(r.Items) >= n {
				cut := *r
				cut.Items = r.Items[n:]
				tail = &cut
			}
			v, ok := f.own(own, tail, &rest, below)
			if !ok {
				return nil, false
			}
			if len(rest.Items) > 0 || own != nil {
				out.Members = append(out.Members, json5.Member{Key: m.Key, Value: v})
			}
		default:
			v, ok := f.own(own, read.Get(m.Key), m.Value, below)
			if !ok {
				return nil, false
			}
			out.Members = append(out.Members, json5.Member{Key: m.Key, Value: v})
		}
	}
	return out, true
}

// mergePatch lays patch over base (RFC 7396); of lists whose items all have a text as id, those of the same
// id are merged and others appended.
func mergePatch(base, patch *json5.Node) *json5.Node {
	if patch.Kind != json5.Object {
		return patch
	}
	out := &json5.Node{Kind: json5.Object}
	if base != nil && base.Kind == json5.Object {
		out.Members = append(out.Members, base.Members...)
	}
	index := make(map[string]int, len(out.Members))
	for i, m := range out.Members {
		index[m.Key] = i
	}
	gone := map[int]bool{}
	for _, m := range patch.Members {
		i, ok := index[m.Key]
		switch {
		case m.Value.Kind == json5.Null:
			if ok {
				gone[i] = true
			}
		case !ok:
			index[m.Key] = len(out.Members)
			out.Members = append(out.Members, json5.Member{Key: m.Key, Value: mergePatch(nil, m.Value)})
		case m.Value.Kind == json5.Object:
			out.Members[i].Value = mergePatch(out.Members[i].Value, m.Value)
		case m.Value.Kind == json5.Array && named(out.Members[i].Value):
			out.Members[i].Value = mergeNamed(out.Members[i].Value, m.Value)
		default:
			out.Members[i].Value = m.Value
		}
	}
	if len(gone) > 0 {
		kept := make([]json5.Member, 0, len(out.Members))
		for i, m := range out.Members {
			if !gone[i] {
				kept = append(kept, m)
			}
		}
		out.Members = kept
	}
	return out
}

// named reports a list whose items are all objects with a text as id.
func named(n *json5.Node) bool {
	if n == nil || n.Kind != json5.Array {
		return false
	}
	for _, item := range n.Items {
		if itemID(item) == "" {
			return false
		}
	}
	return true
}

func itemID(n *json5.Node) string {
	if id := n.Get("id"); id != nil && id.Kind == json5.String {
		return id.Str
	}
	return ""
}

func mergeNamed(base, patch *json5.Node) *json5.Node {
	out := &json5.Node{Kind: json5.Array, Items: append([]*json5.Node(nil), base.Items...)}
	at := make(map[string]int, len(base.Items))
	for i, item := range base.Items {
		at[itemID(item)] = i
	}
	for _, item := range patch.Items {
		id := itemID(item)
		if i, ok := at[id]; ok && id != "" {
			out.Items[i] = mergePatch(out.Items[i], item)
			continue
		}
		if id != "" {
			at[id] = len(out.Items)
		}
		out.Items = append(out.Items, item)
	}
	return out
}

// applyDiff is resolved with what differs between shown and submitted, so that defaults which clients were
// shown and send back do not get into the file.
func applyDiff(resolved, shown, submitted *json5.Node) *json5.Node {
	if submitted.Kind != json5.Object || shown == nil || shown.Kind != json5.Object {
		return submitted
	}
	out := &json5.Node{Kind: json5.Object}
	was, is := shown.Index(), resolved.Index()
	for _, m := range submitted.Members {
		before, stored := was.Get(m.Key), is.Get(m.Key)
		switch {
		case before == nil:
			out.Members = append(out.Members, m)
		case json5.Equal(m.Value, before):
			if stored != nil {
				out.Members = append(out.Members, json5.Member{Key: m.Key, Value: stored})
			}
		case m.Value.Kind == json5.Object && before.Kind == json5.Object:
			part := applyDiff(stored, before, m.Value)
			if stored == nil && len(part.Members) == 0 && len(m.Value.Members) > 0 {
				continue // nothing but defaults
			}
			out.Members = append(out.Members, json5.Member{Key: m.Key, Value: part})
		default:
			out.Members = append(out.Members, m)
		}
	}
	return out
}

// restorer puts stored secrets where clients send Sentinel back.
type restorer struct {
	filled   map[*json5.Node]bool
	restored int
}

// restore returns n with what is stored at the same place for every Sentinel. at is the path for people.
func (r *restorer) restore(n, stored *json5.Node, path []string, at string) (*json5.Node, error) {
	switch n.Kind {
	case json5.String:
		if n.Str != Sentinel {
			return n, nil
		}
		if stored == nil || stored.Kind == json5.Object || stored.Kind == json5.Array || stored.Kind == json5.Null ||
			stored.Kind == json5.String && stored.Str == Sentinel || !secretAt(path) && !r.filled[stored] {
			return nil, refuseEdit(EditSentinel, "Sentinel value %q in key %s is not valid as real data", Sentinel, at)
		}
		r.restored++
		return stored, nil
	case json5.Array:
		out := n
		for i, item := range n.Items {
			var old *json5.Node
			if stored != nil && stored.Kind == json5.Array && i < len(stored.Items) {
				old = stored.Items[i]
			}
			v, err := r.restore(item, old, path, at+"[]")
			if err != nil {
				return nil, err
			}
			if v == item {
				continue
			}
			if out == n {
				c := *n
				c.Items = slices.Clone(n.Items)
				out = &c
			}
			out.Items[i] = v
		}
		return out, nil
	case json5.Object:
		out, index := n, stored.Index()
		for i, m := range n.Members {
			v, err := r.restore(m.Value, index.Get(m.Key), append(slices.Clip(path), m.Key), join(at, m.Key))
			if err != nil {
				return nil, err
			}
			if v == m.Value {
				continue
			}
			if out == n {
				out = owned(n)
			}
			out.Members[i].Value = v
		}
		return out, nil
	}
	return n, nil
}
