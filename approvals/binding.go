package approvals

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// Limits of what a node may say about its files.
const (
	// bindTimeout is how long a node may take to read them: it reads up to 1 GiB each.
	bindTimeout = 15 * time.Second
	// maxBindingBytes, maxBindingFiles and maxBindingText bound one answer.
	maxBindingBytes = 256 << 10
	maxBindingFiles = 64
	maxBindingText  = 16 << 10
)

// Why an approval covers no files.
const (
	unboundByNode = "this node does not bind files"
	unboundAway   = "the node was not connected when the approval was asked for, so it covers no files"
)

// bind asks the node which files a run would open, and puts the answer into the binding. What the
// requester says about files does not count. A node that binds none leaves the approval as it is, with
// the reason; one that binds files and does not say which is an error. The question is the plan's, so
// that a requester cannot show one command and have the files of another bound.
func (s *Service) bind(ctx context.Context, a *Approval) error {
	if a.Binding == nil || a.NodeID == nil || a.Plan == nil || s.nodes == nil {
		return nil
	}
	switch connected, binds := s.nodes.Binds(*a.NodeID); {
	case !connected:
		a.Binding.Unbound = unboundAway
		return nil
	case !binds:
		a.Binding.Unbound = unboundByNode
		return nil
	}
	params, err := planParams(*a.Plan)
	if err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, bindTimeout)
	defer cancel()
	answer, err := s.nodes.InvokeInternal(asked, *a.NodeID, "system.run.prepare", params)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return ErrNodeSilent
	case err != nil:
		if e, ok := errs.As(err); ok && e.Class != errs.Internal {
			return ErrNotPrepared.WithText("the node would not run this: " + e.Text)
		}
		return err
	}
	identity, err := readPrepared(answer)
	if err != nil {
		return ErrNodeBinding.Wrap(err)
	}
	a.Binding.Identity = identity
	return nil
}

// planParams are the parameters of system.run.prepare that give this plan again.
func planParams(p Plan) ([]byte, error) {
	r := runParams{raw: map[string]json.RawMessage{}}
	if err := r.set("command", p.Argv); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		key string
		v   *string
	}{{"rawCommand", p.RawCommand}, {"cwd", p.Cwd}, {"agentId", p.AgentID}, {"sessionKey", p.SessionKey}} {
		if err := r.setOr(f.key, f.v); err != nil {
			return nil, err
		}
	}
	return r.encode(), nil
}

// An object is a JSON object read by the exact names of its members: those of Go's own decoder match
// in any case, and what one reader takes for a member another must not miss.
type object map[string]json.RawMessage

func readObject(raw []byte) (object, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil || o == nil {
		return nil, errors.New("it is no object")
	}
	return o, nil
}

// only fails when the object has members beside these.
func (o object) only(names ...string) error {
	for k := range o {
		if !slices.Contains(names, k) {
			return fmt.Errorf("its member %.40q is not known", k)
		}
	}
	return nil
}

func (o object) str(name string) (*string, error) {
	raw, ok := o[name]
	if !ok || string(bytes.TrimSpace(raw)) == "null" {
		return nil, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("its %s is no text", name)
	}
	if len(s) > maxBindingText {
		return nil, fmt.Errorf("its %s is too long", name)
	}
	return &s, nil
}

// readPrepared reads the answer to system.run.prepare of a node that binds files.
func readPrepared(answer []byte) (*Identity, error) {
	if len(answer) > maxBindingBytes+2*maxCommandBytes {
		return nil, errors.New("it is too large")
	}
	o, err := readObject(answer)
	if err != nil {
		return nil, err
	}
	return readIdentity(o["binding"])
}

func readIdentity(raw json.RawMessage) (*Identity, error) {
	if len(raw) > maxBindingBytes {
		return nil, errors.New("its binding is too large")
	}
	o, err := readObject(raw)
	if err != nil {
		return nil, fmt.Errorf("its binding: %w", err)
	}
	if err := o.only("executable", "script", "directory", "inner", "unbound"); err != nil {
		return nil, err
	}
	out := &Identity{}
	for name, to := range map[string]**FileIdentity{"executable": &out.Executable, "script": &out.Script, "directory": &out.Directory} {
		if raw, ok := o[name]; ok {
			f, _, err := readFile(raw, false)
			if err != nil {
				return nil, fmt.Errorf("its %s: %w", name, err)
			}
			*to = &f
		}
	}
	var inner []json.RawMessage
	if raw, ok := o["inner"]; ok {
		if err := json.Unmarshal(raw, &inner); err != nil || len(inner) > maxBindingFiles {
			return nil, errors.New("its inner files are no list, or too many")
		}
	}
	for _, raw := range inner {
		f, role, err := readFile(raw, true)
		if err != nil {
			return nil, fmt.Errorf("an inner file: %w", err)
		}
		out.Inner = append(out.Inner, InnerFile{Role: role, FileIdentity: f})
	}
	if raw, ok := o["unbound"]; ok {
		if err := json.Unmarshal(raw, &out.Unbound); err != nil || len(out.Unbound) > maxBindingFiles {
			return nil, errors.New("what it does not bind is no list of texts, or too long")
		}
	}
	return out, nil
}

func readFile(raw json.RawMessage, inner bool) (f FileIdentity, role string, err error) {
	o, err := readObject(raw)
	if err != nil {
		return f, "", err
	}
	names := []string{"path", "device", "inode", "sha256"}
	if inner {
		names = append(names, "role")
	}
	if err := o.only(names...); err != nil {
		return f, "", err
	}
	var texts [5]string
	for i, name := range append(names[:4:4], "role") {
		s, err := o.str(name)
		if err != nil {
			return f, "", err
		}
		if s != nil {
			texts[i] = *s
		}
	}
	f.Path, f.SHA256 = texts[0], texts[3]
	if f.Path == "" || inner && texts[4] == "" || f.SHA256 != "" && len(f.SHA256) != 64 {
		return f, "", errors.New("it has no path, no role or no whole hash")
	}
	for i, to := range []*uint64{&f.Device, &f.Inode} {
		if s := texts[1+i]; s != "" {
			if *to, err = strconv.ParseUint(s, 10, 64); err != nil {
				return f, "", fmt.Errorf("its %s is no number", names[1+i])
			}
		}
	}
	return f, texts[4], nil
}

// encodeIdentity writes a binding as a node reads it: the numbers as text, because readers of JSON
// round large ones.
func encodeIdentity(id Identity) map[string]any {
	file := func(f FileIdentity) map[string]any {
		out := map[string]any{"path": f.Path}
		if f.Device != 0 {
			out["device"] = strconv.FormatUint(f.Device, 10)
		}
		if f.Inode != 0 {
			out["inode"] = strconv.FormatUint(f.Inode, 10)
		}
		if f.SHA256 != "" {
			out["sha256"] = f.SHA256
		}
		return out
	}
	out := map[string]any{}
	for name, f := range map[string]*FileIdentity{"executable": id.Executable, "script": id.Script, "directory": id.Directory} {
		if f != nil {
			out[name] = file(*f)
		}
	}
	var inner []any
	for _, f := range id.Inner {
		one := file(f.FileIdentity)
		one["role"] = f.Role
		inner = append(inner, one)
	}
	if inner != nil {
		out["inner"] = inner
	}
	if id.Unbound != nil {
		out["unbound"] = id.Unbound
	}
	return out
}
