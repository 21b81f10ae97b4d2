package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/config/schema"
	"github.com/hanzoai/hanzod/errs"
	configv1 "github.com/hanzoai/hanzod/gen/hanzo/config/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Live is what the door needs of live.Service.
type Live interface {
	Get(context.Context, identity.Caller, live.GetIn) (live.GetOut, error)
	Set(context.Context, identity.Caller, live.SetIn) (live.SetOut, error)
	Edit(context.Context, identity.Caller, live.EditIn) (live.SetOut, error)
	Apply(context.Context, identity.Caller, live.ApplyIn) (live.ApplyOut, error)
	Patch(context.Context, identity.Caller, live.ApplyIn) (live.ApplyOut, error)
	Check(context.Context, identity.Caller, live.CheckIn) (live.CheckOut, error)
	Confirm(context.Context, identity.Caller, struct{}) (live.Pending, error)
	Revert(context.Context, identity.Caller, struct{}) (live.Pending, error)
	Schema(context.Context, identity.Caller, struct{}) (live.SchemaOut, error)
	Lookup(context.Context, identity.Caller, live.LookupIn) (schema.Lookup, error)
	Updates
}

type configServer struct {
	configv1.UnimplementedConfigServiceServer
	s *Server
}

func (c *configServer) GetConfig(ctx context.Context, req *configv1.GetConfigRequest) (*configv1.GetConfigResponse, error) {
	return call(ctx, req, getConfigFromProto, c.s.d.Config.Get, getConfigToProto)
}

func (c *configServer) SetConfig(ctx context.Context, req *configv1.SetConfigRequest) (*configv1.SetConfigResponse, error) {
	return call(ctx, req, setConfigFromProto, c.s.d.Config.Set, setConfigToProto)
}

func (c *configServer) EditConfig(ctx context.Context, req *configv1.EditConfigRequest) (*configv1.EditConfigResponse, error) {
	return call(ctx, req, editConfigFromProto, c.s.d.Config.Edit, editConfigToProto)
}

func (c *configServer) PatchConfig(ctx context.Context, req *configv1.PatchConfigRequest) (*configv1.PatchConfigResponse, error) {
	return call(ctx, req, patchConfigFromProto, c.s.d.Config.Patch, patchConfigToProto)
}

func (c *configServer) ApplyConfig(ctx context.Context, req *configv1.ApplyConfigRequest) (*configv1.ApplyConfigResponse, error) {
	return call(ctx, req, applyConfigFromProto, c.s.d.Config.Apply, applyConfigToProto)
}

func (c *configServer) CheckConfig(ctx context.Context, req *configv1.CheckConfigRequest) (*configv1.CheckConfigResponse, error) {
	return call(ctx, req, checkConfigFromProto, c.s.d.Config.Check, checkConfigToProto)
}

func (c *configServer) ConfirmConfig(ctx context.Context, req *configv1.ConfirmConfigRequest) (*configv1.ConfirmConfigResponse, error) {
	return call(ctx, req, nothing, c.s.d.Config.Confirm, confirmConfigToProto)
}

func (c *configServer) RevertConfig(ctx context.Context, req *configv1.RevertConfigRequest) (*configv1.RevertConfigResponse, error) {
	return call(ctx, req, nothing, c.s.d.Config.Revert, revertConfigToProto)
}

func (c *configServer) GetSchema(ctx context.Context, req *configv1.GetSchemaRequest) (*configv1.GetSchemaResponse, error) {
	return call(ctx, req, nothing, c.s.d.Config.Schema, schemaToProto)
}

func (c *configServer) LookupSchema(ctx context.Context, req *configv1.LookupSchemaRequest) (*configv1.LookupSchemaResponse, error) {
	return call(ctx, req, lookupFromProto, c.s.d.Config.Lookup, lookupToProto)
}

func getConfigFromProto(r *configv1.GetConfigRequest) (live.GetIn, error) {
	return live.GetIn{Key: r.GetKey()}, nil
}

func getConfigToProto(o live.GetOut) (*configv1.GetConfigResponse, error) {
	v := o.View
	r := &configv1.GetConfigResponse{
		Path: cleanText(v.Path), Exists: v.Exists, Hash: v.Hash, Valid: v.Valid, Issues: issuesToProto(v.Issues), Warnings: issuesToProto(o.Warnings),
		RunningHash: o.Running, Fault: cleanText(o.Fault), Waiting: cleanTexts(o.Waiting), Text: cleanOpt(o.Text), Pending: pendingToProto(o.Pending),
	}
	var err error
	if r.Config, err = treeToProto(o.Value); err != nil {
		return nil, err
	}
	return r, nil
}

// treeToProto leaves out a value that is not there.
func treeToProto(n *json5.Node) (*structpb.Value, error) {
	if n == nil {
		return nil, nil
	}
	v, err := valueOf(cleanTree(n.Value()), 0)
	if err != nil {
		return nil, errs.Wrap(errs.Internal, "show the configuration", err)
	}
	return v, nil
}

// cleanTree makes the texts of a value carriable.
func cleanTree(v any) any {
	switch v := v.(type) {
	case string:
		return cleanText(v)
	case []any:
		for i := range v {
			v[i] = cleanTree(v[i])
		}
	case map[string]any:
		for k, x := range v {
			if c := cleanText(k); c != k {
				delete(v, k)
				k = c
			}
			v[k] = cleanTree(x)
		}
	}
	return v
}

func structToProto(n *json5.Node) (*structpb.Struct, error) {
	v, err := treeToProto(n)
	return v.GetStructValue(), err
}

func issuesToProto(in []config.Issue) []*configv1.Issue {
	out := make([]*configv1.Issue, len(in))
	for i, is := range in {
		out[i] = &configv1.Issue{
			Path: cleanText(is.Path), Message: cleanText(is.Message), AllowedValues: cleanTexts(is.AllowedValues), File: cleanText(is.File),
			Line: clampInt32(is.Line), Column: clampInt32(is.Col),
		}
	}
	return out
}

func pendingToProto(p *live.Pending) *configv1.PendingChange {
	if p == nil {
		return nil
	}
	return &configv1.PendingChange{
		By: cleanText(p.By), At: timeToProto(p.At), Deadline: timeToProto(p.Deadline), Begun: p.Begun, Window: durationpb.New(p.Window),
	}
}

func setConfigFromProto(r *configv1.SetConfigRequest) (live.SetIn, error) {
	return live.SetIn{Raw: r.GetRaw(), BaseHash: r.GetBaseHash(), Text: r.GetText()}, nil
}

func writtenToProto(o live.SetOut) (*configv1.Written, error) {
	view, err := treeToProto(o.View)
	if err != nil {
		return nil, err
	}
	w := &configv1.Written{
		Path: cleanText(o.Path), Hash: o.Hash, Flattened: o.Flattened, Config: view, Changes: make([]*configv1.Change, len(o.Changed)),
		Plan: &configv1.Plan{Effect: effects[o.Plan.Effect], Restart: cleanTexts(o.Plan.Restart), Mode: o.Plan.Mode},
	}
	for i, c := range o.Changed {
		w.Changes[i] = &configv1.Change{Path: cleanText(c.Path), Before: textOf(c.Old), After: textOf(c.New)}
	}
	return w, nil
}

var effects = map[live.Effect]configv1.Effect{
	live.EffectNone: configv1.Effect_EFFECT_NONE, live.EffectHot: configv1.Effect_EFFECT_HOT, live.EffectRestart: configv1.Effect_EFFECT_RESTART,
}

// textOf is a value as JSON text, nil for none.
func textOf(n *json5.Node) *string {
	if n == nil {
		return nil
	}
	text := cleanText(json5.Format(n))
	return &text
}

func setConfigToProto(o live.SetOut) (*configv1.SetConfigResponse, error) {
	w, err := writtenToProto(o)
	return &configv1.SetConfigResponse{Written: w}, err
}

func editConfigFromProto(r *configv1.EditConfigRequest) (live.EditIn, error) {
	return live.EditIn{Patch: r.GetPatch(), BaseHash: r.GetBaseHash()}, nil
}

func editConfigToProto(o live.SetOut) (*configv1.EditConfigResponse, error) {
	w, err := writtenToProto(o)
	return &configv1.EditConfigResponse{Written: w}, err
}

// applying reads what apply and patch have in common.
func applying(in live.ApplyIn, delay, confirm *durationpb.Duration) (live.ApplyIn, error) {
	var err error
	if in.Delay, err = durationFromProto(delay); err != nil {
		return in, err
	}
	window, err := durationFromProto(confirm)
	if err != nil {
		return in, err
	}
	if window != nil {
		if in.Confirm = *window; in.Confirm == 0 {
			in.Confirm = -time.Nanosecond // no time at all is too little
		}
	}
	return in, nil
}

func patchConfigFromProto(r *configv1.PatchConfigRequest) (live.ApplyIn, error) {
	return applying(live.ApplyIn{
		SetIn: live.SetIn{Raw: r.GetRaw(), BaseHash: r.GetBaseHash()}, SessionKey: r.GetSessionKey(), Note: r.GetNote(),
	}, r.GetRestartDelay(), r.GetConfirm())
}

func applyConfigFromProto(r *configv1.ApplyConfigRequest) (live.ApplyIn, error) {
	return applying(live.ApplyIn{
		SetIn: live.SetIn{Raw: r.GetRaw(), BaseHash: r.GetBaseHash(), Text: r.GetText()}, SessionKey: r.GetSessionKey(), Note: r.GetNote(),
	}, r.GetRestartDelay(), r.GetConfirm())
}

func restartToProto(r live.Restart) *configv1.Restart {
	return &configv1.Restart{Delay: durationpb.New(r.Delay), Reason: cleanText(r.Reason), Coalesced: r.Coalesced, Cooldown: durationpb.New(r.Cooldown)}
}

func patchConfigToProto(o live.ApplyOut) (*configv1.PatchConfigResponse, error) {
	w, err := writtenToProto(o.SetOut)
	return &configv1.PatchConfigResponse{Written: w, Restart: restartToProto(o.Restart), Pending: pendingToProto(o.Pending)}, err
}

func applyConfigToProto(o live.ApplyOut) (*configv1.ApplyConfigResponse, error) {
	w, err := writtenToProto(o.SetOut)
	return &configv1.ApplyConfigResponse{Written: w, Restart: restartToProto(o.Restart), Pending: pendingToProto(o.Pending)}, err
}

func checkConfigFromProto(r *configv1.CheckConfigRequest) (live.CheckIn, error) {
	return live.CheckIn{Raw: r.GetRaw()}, nil
}

func checkConfigToProto(o live.CheckOut) (*configv1.CheckConfigResponse, error) {
	r := &configv1.CheckConfigResponse{Issues: issuesToProto(o.Issues)}
	if o.Written == nil {
		return r, nil
	}
	var err error
	r.Written, err = writtenToProto(*o.Written)
	return r, err
}

func confirmConfigToProto(p live.Pending) (*configv1.ConfirmConfigResponse, error) {
	return &configv1.ConfirmConfigResponse{Change: pendingToProto(&p)}, nil
}

func revertConfigToProto(p live.Pending) (*configv1.RevertConfigResponse, error) {
	return &configv1.RevertConfigResponse{Change: pendingToProto(&p)}, nil
}

func schemaToProto(o live.SchemaOut) (*configv1.GetSchemaResponse, error) {
	tree, err := structToProto(o.Schema)
	if err != nil {
		return nil, err
	}
	hints := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(o.Hints))}
	for _, h := range o.Hints {
		hints.Fields[h.Path] = structpb.NewStructValue(hintToProto(&h))
	}
	return &configv1.GetSchemaResponse{Schema: tree, UiHints: hints, Version: o.Version, GeneratedAt: timeToProto(o.At)}, nil
}

// hintToProto has the keys that the older clients know (control-plane.md §4 "uiHints").
func hintToProto(h *schema.Hint) *structpb.Struct {
	if h == nil {
		return nil
	}
	f := map[string]*structpb.Value{}
	text := func(key, v string) {
		if v != "" {
			f[key] = structpb.NewStringValue(v)
		}
	}
	text("label", h.Label)
	text("help", h.Help)
	text("group", h.Group)
	if h.Order != 0 {
		f["order"] = structpb.NewNumberValue(float64(h.Order))
	}
	if h.Advanced {
		f["advanced"] = structpb.NewBoolValue(true)
	}
	if h.Sensitive {
		f["sensitive"] = structpb.NewBoolValue(true)
	}
	if len(h.Tags) > 0 {
		list := &structpb.ListValue{}
		for _, t := range h.Tags {
			list.Values = append(list.Values, structpb.NewStringValue(t))
		}
		f["tags"] = structpb.NewListValue(list)
	}
	return &structpb.Struct{Fields: f}
}

func lookupFromProto(r *configv1.LookupSchemaRequest) (live.LookupIn, error) {
	return live.LookupIn{Path: r.GetPath()}, nil
}

func lookupToProto(l schema.Lookup) (*configv1.LookupSchemaResponse, error) {
	tree, err := structToProto(l.Schema)
	if err != nil {
		return nil, err
	}
	r := &configv1.LookupSchemaResponse{Path: cleanText(l.Path), Schema: tree, Hint: hintToProto(l.Hint), Values: l.Values, Children: make([]*configv1.SchemaChild, len(l.Children))}
	if l.Hint != nil {
		r.HintPath = l.Hint.Path
	}
	for i, c := range l.Children {
		r.Children[i] = &configv1.SchemaChild{Key: c.Key, Path: cleanText(c.Path), Type: c.Type, Required: c.Required, HasChildren: c.HasChildren, Hint: hintToProto(c.Hint), Values: c.Values}
		if c.Hint != nil {
			r.Children[i].HintPath = c.Hint.Path
		}
	}
	return r, nil
}
