package agents

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/identity"
)

// CreateIn makes an agent. Its id is made of the name. Workspace is absolute, or relative to where the
// daemon runs; ~ is its home. Emoji, avatar and model may be "".
type CreateIn struct{ Name, Workspace, Emoji, Avatar, Model string }

// CreateOut is the agent that was made.
type CreateOut struct{ AgentID, Name, Workspace string }

// UpdateIn changes what is not "".
type UpdateIn struct{ AgentID, Name, Workspace, Model, Avatar string }

// UpdateOut says which agent was changed.
type UpdateOut struct{ AgentID string }

// DeleteIn removes an agent; KeepFiles leaves its workspace and its directories where they are.
type DeleteIn struct {
	AgentID   string
	KeepFiles bool
}

// DeleteOut says what was removed. Trash is where the files are now, "" where none were moved; Kept are
// directories that were left where they are, because others use them, too.
type DeleteOut struct {
	AgentID         string
	RemovedBindings int
	Trash           string
	Kept            []string
}

// Create makes an agent: its workspace with the files it begins with, its directories, its entry in
// agents.list. The entry is on disk on return.
// Errors: ErrReserved, ErrExists, ErrTooMany, ErrTooLong, ErrIncluded, ErrWorkspace, and those of ConfigFile.
func (s *Service) Create(ctx context.Context, c identity.Caller, in CreateIn) (CreateOut, error) {
	out := CreateOut{Name: strings.TrimSpace(in.Name)}
	out.AgentID = config.AgentID(out.Name)
	if out.AgentID == Main {
		return CreateOut{}, ErrReserved.With("name", Main)
	}
	emoji, avatar, model := strings.TrimSpace(in.Emoji), strings.TrimSpace(in.Avatar), strings.TrimSpace(in.Model)
	if err := fitsAll(out.Name, emoji, in.Workspace, model, avatar); err != nil {
		return CreateOut{}, err
	}
	s.edits.Lock()
	defer s.edits.Unlock()
	v := s.view()
	if v.Agent(out.AgentID) != nil {
		return CreateOut{}, ErrExists.With("agent", out.AgentID)
	}
	if out.Workspace = expand(v.Config.Home, in.Workspace); out.Workspace == "" {
		out.Workspace = v.Config.Workspace(out.AgentID)
	}
	if err := s.seed(out.Workspace, !v.skipBootstrap); err != nil {
		return CreateOut{}, err
	}
	for _, dir := range []string{AgentDir(v.Config.StateDir, out.AgentID), SessionsDir(v.Config.StateDir, out.AgentID)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return CreateOut{}, workspaceFault(err)
		}
	}
	fields := []field{
		{"name", out.Name}, {"workspace", out.Workspace}, {"agentDir", AgentDir(v.Config.StateDir, out.AgentID)}, {"model", model},
	}
	err := s.edit(ctx, c, "the agent "+out.AgentID+" is made", func(l *entries) error {
		if at := l.find(out.AgentID); at >= 0 {
			if s.late == nil {
				return ErrExists.With("agent", out.AgentID)
			}
			return l.change(at, fields...)
		}
		return l.add(out.AgentID, v.DefaultID, fields...)
	})
	if err != nil {
		return CreateOut{}, err
	}
	return out, s.introduce(out.Workspace, Persona{Name: out.Name, Emoji: emoji, Avatar: avatar})
}

// Update changes an agent of the list. A new workspace is made like that of a new agent.
// Errors: ErrNotFound, ErrTooLong, ErrIncluded, ErrWorkspace, and those of ConfigFile.
func (s *Service) Update(ctx context.Context, c identity.Caller, in UpdateIn) (UpdateOut, error) {
	id := config.AgentID(in.AgentID)
	name, model, avatar := strings.TrimSpace(in.Name), strings.TrimSpace(in.Model), strings.TrimSpace(in.Avatar)
	if err := fitsAll(name, "", in.Workspace, model, avatar); err != nil {
		return UpdateOut{}, err
	}
	s.edits.Lock()
	defer s.edits.Unlock()
	v := s.view()
	a := v.Agent(id)
	if a == nil {
		return UpdateOut{}, ErrNotFound.With("agent", id)
	}
	workspace := expand(v.Config.Home, in.Workspace)
	if workspace != "" {
		if err := s.seed(workspace, !v.skipBootstrap); err != nil {
			return UpdateOut{}, err
		}
	}
	err := s.edit(ctx, c, "the agent "+id+" is changed", func(l *entries) error {
		at := l.find(id)
		if at < 0 {
			return ErrNotFound.With("agent", id)
		}
		return l.change(at, field{"name", name}, field{"workspace", workspace}, field{"model", model})
	})
	if err != nil {
		return UpdateOut{}, err
	}
	if avatar != "" {
		if workspace == "" {
			workspace = a.Workspace
		}
		if err := s.introduce(workspace, Persona{Avatar: avatar}); err != nil {
			return UpdateOut{}, err
		}
	}
	return UpdateOut{AgentID: id}, nil
}

// Delete removes an agent from the list, with the bindings that lead to it, and moves its files to the
// trash in the state directory, from where they can be taken back.
// Errors: ErrMain, ErrNotFound, ErrIncluded, ErrTrash, and those of ConfigFile.
func (s *Service) Delete(ctx context.Context, c identity.Caller, in DeleteIn) (DeleteOut, error) {
	id := config.AgentID(in.AgentID)
	if id == Main {
		return DeleteOut{}, ErrMain.With("agent", Main)
	}
	s.edits.Lock()
	defer s.edits.Unlock()
	v := s.view()
	a := v.Agent(id)
	if a == nil {
		return DeleteOut{}, ErrNotFound.With("agent", id)
	}
	if !in.KeepFiles {
		if err := s.emptyTrash(v.Config.StateDir); err != nil {
			return DeleteOut{}, err
		}
	}
	out := DeleteOut{AgentID: id}
	err := s.edit(ctx, c, "the agent "+id+" is removed", func(l *entries) error {
		at := l.find(id)
		if at < 0 {
			return ErrNotFound.With("agent", id)
		}
		var err error
		out.RemovedBindings, err = l.remove(at, id)
		return err
	})
	if err != nil {
		return DeleteOut{}, err
	}
	if !in.KeepFiles {
		out.Trash, out.Kept = s.discard(v, a, s.dropSessions(ctx, id))
	}
	return out, nil
}

func fitsAll(name, emoji, workspace, model, avatar string) error {
	if err := fits(maxName, name, emoji); err != nil {
		return err
	}
	if err := fits(maxPath, workspace, model); err != nil {
		return err
	}
	return fits(maxAvatar, avatar)
}

// edit changes agents.list in the file.
func (s *Service) edit(ctx context.Context, c identity.Caller, what string, change func(*entries) error) error {
	base := s.cfg.Current()
	shown := s.Current()
	now, err := s.cfg.File.Rewrite(ctx, c, what, func(text []byte, now *config.Config) ([]byte, error) {
		l, err := readEntries(text, now)
		if err != nil {
			return nil, err
		}
		if err := change(l); err != nil {
			return nil, err
		}
		return l.text, nil
	})
	if err != nil {
		return err
	}
	if s.late != nil {
		s.late.hold(shown)
	}
	s.made.Store(&made{base: base, now: now})
	return nil
}

// field is a key of an entry and its value; "" leaves the key as it is.
type field struct{ key, value string }

// entries are agents.list in the text of the file.
type entries struct {
	text []byte
	root *json5.Node
	ids  []string
}

func readEntries(text []byte, now *config.Config) (*entries, error) {
	l := &entries{text: text, root: &json5.Node{Kind: json5.Object}}
	if now.Exists {
		root, err := json5.Parse(text)
		if err != nil {
			return nil, err
		}
		l.root = root
	}
	for _, n := range items(l.root.At("agents", "list")) {
		l.ids = append(l.ids, config.AgentID(stringOf(n.Get("id"))))
	}
	// What the file says after its includes and variables has to be what stands in it.
	loaded := items(now.Section("agents").Get("list"))
	if len(loaded) != len(l.ids) {
		return nil, ErrIncluded
	}
	for i, n := range loaded {
		l.ids[i] = config.AgentID(stringOf(n.Get("id")))
	}
	return l, nil
}

func stringOf(n *json5.Node) string {
	if n == nil {
		return ""
	}
	return n.Str
}

func items(n *json5.Node) []*json5.Node {
	if n == nil || n.Kind != json5.Array {
		return nil
	}
	return n.Items
}

func (l *entries) find(id string) int { return slices.Index(l.ids, id) }

func (l *entries) set(value any, path ...string) (err error) {
	l.text, err = json5.Set(l.text, path, value)
	return err
}

// add appends an entry; the default agent comes first into a list that was empty.
func (l *entries) add(id, defaultID string, fields ...field) error {
	if len(l.ids) >= maxAgents {
		return ErrTooMany
	}
	entry := object(append([]field{{"id", id}}, fields...)...)
	if len(l.ids) > 0 {
		return l.set(entry, "agents", "list", strconv.Itoa(len(l.ids)))
	}
	list := &json5.Node{Kind: json5.Array}
	if id != defaultID {
		list.Items = append(list.Items, object(field{"id", defaultID}))
	}
	list.Items = append(list.Items, entry)
	return l.set(list, "agents", "list")
}

func object(fields ...field) *json5.Node {
	n := &json5.Node{Kind: json5.Object}
	for _, f := range fields {
		if f.value != "" {
			n.Members = append(n.Members, json5.Member{Key: f.key, Value: &json5.Node{Kind: json5.String, Str: f.value}})
		}
	}
	return n
}

func (l *entries) change(at int, fields ...field) error {
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		path := []string{"agents", "list", strconv.Itoa(at), f.key}
		if f.key == "model" && l.root.At("agents", "list") != nil {
			// An object keeps its fallbacks.
			if m := l.root.At("agents", "list").Items[at].Get("model"); m != nil && m.Kind == json5.Object {
				path = append(path, "primary")
			}
		}
		if err := l.set(f.value, path...); err != nil {
			return err
		}
	}
	return nil
}

// remove takes out an entry, its bindings and its name from tools.agentToAgent.allow.
func (l *entries) remove(at int, id string) (bindings int, err error) {
	drop := func(path ...string) {
		if err == nil {
			l.text, err = json5.Delete(l.text, path)
		}
	}
	if len(l.ids) == 1 {
		drop("agents", "list")
	} else {
		drop("agents", "list", strconv.Itoa(at))
	}
	list := items(l.root.Get("bindings"))
	for i, n := range slices.Backward(list) {
		if of := n.Get("agentId"); of != nil && config.AgentID(of.Str) == id {
			drop("bindings", strconv.Itoa(i))
			bindings++
		}
	}
	allow := items(l.root.At("tools", "agentToAgent", "allow"))
	for i, n := range slices.Backward(allow) {
		if n.Kind == json5.String && n.Str == id {
			drop("tools", "agentToAgent", "allow", strconv.Itoa(i))
		}
	}
	return bindings, err
}
