package migrate

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/push"
)

const (
	partNodes     = "nodes"
	partPush      = "push"
	partVoiceWake = "voicewake"
	pairedNodes   = "nodes/paired.json"
	pendingNodes  = "nodes/pending.json"
	registrations = "push/apns-registrations.json"
	voiceWakeFile = "settings/voicewake.json"
)

// nodeFile is a paired node of the older store (protocol.md §4.11).
type nodeFile struct {
	NodeID          string   `json:"nodeId"`
	Token           string   `json:"token"`
	DisplayName     string   `json:"displayName,omitzero"`
	Platform        string   `json:"platform,omitzero"`
	Version         string   `json:"version,omitzero"`
	CoreVersion     string   `json:"coreVersion,omitzero"`
	UIVersion       string   `json:"uiVersion,omitzero"`
	DeviceFamily    string   `json:"deviceFamily,omitzero"`
	ModelIdentifier string   `json:"modelIdentifier,omitzero"`
	Caps            []string `json:"caps,omitzero"`
	Commands        []string `json:"commands,omitzero"`
	RemoteIP        string   `json:"remoteIp,omitzero"`
	CreatedAtMs     int64    `json:"createdAtMs"`
	ApprovedAtMs    int64    `json:"approvedAtMs"`
	LastConnectedMs int64    `json:"lastConnectedAtMs,omitzero"`
}

func (f nodeFile) pairing() nodes.Pairing {
	return nodes.Pairing{
		Info: nodes.PairingInfo{
			NodeID: f.NodeID, DisplayName: f.DisplayName, Platform: f.Platform, Version: f.Version, CoreVersion: f.CoreVersion, UIVersion: f.UIVersion,
			DeviceFamily: f.DeviceFamily, ModelIdentifier: f.ModelIdentifier, Caps: f.Caps, Commands: f.Commands, RemoteIP: f.RemoteIP,
		},
		Token: f.Token, CreatedAt: moment(f.CreatedAtMs), ApprovedAt: moment(f.ApprovedAtMs), LastConnectedAt: moment(f.LastConnectedMs),
	}
}

func fileOfNode(p nodes.Pairing) nodeFile {
	i := p.Info
	return nodeFile{
		NodeID: i.NodeID, Token: p.Token, DisplayName: i.DisplayName, Platform: i.Platform, Version: i.Version, CoreVersion: i.CoreVersion,
		UIVersion: i.UIVersion, DeviceFamily: i.DeviceFamily, ModelIdentifier: i.ModelIdentifier, Caps: i.Caps, Commands: i.Commands, RemoteIP: i.RemoteIP,
		CreatedAtMs: milliseconds(p.CreatedAt), ApprovedAtMs: milliseconds(p.ApprovedAt), LastConnectedMs: milliseconds(p.LastConnectedAt),
	}
}

// steadyNode is what a pairing is compared by.
func steadyNode(p nodes.Pairing) any {
	f := fileOfNode(p)
	f.LastConnectedMs = 0
	return f
}

// importNodes brings over the pairings of the older store.
func importNodes(ctx context.Context, r *run) error {
	r.requests(partNodes, pendingNodes)
	raw, whole := r.object(partNodes, pairedNodes)
	theirs := map[string]nodes.Pairing{}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		f, ok := decodeRecord[nodeFile](r, partNodes, pairedNodes, name, raw[name])
		if ok && (f.NodeID != name || name == "") {
			r.found(Finding{Part: partNodes, Path: pairedNodes + " " + shown(name), Outcome: Fault, Why: "its id is not its name"})
			ok = false
		}
		if whole = whole && ok; ok {
			theirs[name] = f.pairing()
		}
	}
	_, list, err := r.store.Pairings()
	if err != nil {
		return err
	}
	ours := map[string]nodes.Pairing{}
	for _, p := range list {
		ours[p.Info.NodeID] = p
	}
	return settle(r, partNodes, things(theirs, steadyNode), things(ours, steadyNode), whole, func(put []thing[nodes.Pairing], drop []string) error {
		return r.store.ReplacePairings(ctx, plainOf(put), drop)
	})
}

func exportNodes(_ context.Context, r *run) error {
	_, list, err := r.store.Pairings()
	if err != nil {
		return err
	}
	out := map[string]any{}
	for _, p := range list {
		if out[p.Info.NodeID], err = r.withRest(partNodes, p.Info.NodeID, fileOfNode(p)); err != nil {
			return err
		}
	}
	return r.writeJSON(partNodes, pairedNodes, out, len(out))
}

// pushFile is where pushes for a phone go.
type pushFile struct {
	NodeID      string           `json:"nodeId"`
	Token       string           `json:"token"`
	Topic       string           `json:"topic"`
	Environment push.Environment `json:"environment"`
	UpdatedAtMs int64            `json:"updatedAtMs"`
}

func fileOfPush(p nodes.Registration) pushFile {
	return pushFile{NodeID: p.NodeID, Token: p.Token, Topic: p.Topic, Environment: p.Environment, UpdatedAtMs: milliseconds(p.UpdatedAt)}
}

func importPush(ctx context.Context, r *run) error {
	top, whole := r.object(partPush, registrations)
	var raw map[string]json.RawMessage
	if whole {
		if err := json.Unmarshal(top["registrationsByNodeId"], &raw); err != nil {
			r.found(Finding{Part: partPush, Path: registrations, Outcome: Fault, Why: "it has no registrationsByNodeId"})
			whole = false
		}
	}
	theirs := map[string]nodes.Registration{}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		f, ok := decodeRecord[pushFile](r, partPush, registrations, name, raw[name])
		if ok && (f.NodeID != name || name == "") {
			r.found(Finding{Part: partPush, Path: registrations + " " + shown(name), Outcome: Fault, Why: "its id is not its name"})
			ok = false
		}
		if whole = whole && ok; ok {
			theirs[name] = nodes.Registration{NodeID: f.NodeID, Token: f.Token, Topic: f.Topic, Environment: f.Environment, UpdatedAt: moment(f.UpdatedAtMs)}
		}
	}
	list, err := r.store.Registrations()
	if err != nil {
		return err
	}
	ours := map[string]nodes.Registration{}
	for _, p := range list {
		ours[p.NodeID] = p
	}
	steady := func(p nodes.Registration) any { return fileOfPush(p) }
	return settle(r, partPush, things(theirs, steady), things(ours, steady), whole, func(put []thing[nodes.Registration], drop []string) error {
		return r.store.ReplaceRegistrations(ctx, plainOf(put), drop)
	})
}

func exportPush(_ context.Context, r *run) error {
	list, err := r.store.Registrations()
	if err != nil {
		return err
	}
	out := map[string]any{}
	for _, p := range list {
		if out[p.NodeID], err = r.withRest(partPush, p.NodeID, fileOfPush(p)); err != nil {
			return err
		}
	}
	return r.writeJSON(partPush, registrations, map[string]any{"registrationsByNodeId": out}, len(out))
}

func importVoiceWake(ctx context.Context, r *run) error {
	raw, ok := r.object(partVoiceWake, voiceWakeFile)
	if !ok {
		return nil
	}
	var words []string
	if err := json.Unmarshal(raw["triggers"], &words); err != nil || words == nil {
		r.found(Finding{Part: partVoiceWake, Path: voiceWakeFile, Outcome: Fault, Why: "it has no list of triggers"})
		return nil
	}
	ours, err := r.store.VoiceWake()
	if err != nil {
		return err
	}
	here := map[string][]string{}
	if ours != nil {
		here["triggers"] = ours
	}
	r.rest(partVoiceWake, "updatedAtMs", raw["updatedAtMs"])
	return settle(r, partVoiceWake, map[string][]string{"triggers": words}, here, false, func(put [][]string, _ []string) error {
		return r.store.SetVoiceWake(ctx, put[0])
	})
}

func exportVoiceWake(_ context.Context, r *run) error {
	words, err := r.store.VoiceWake()
	if err != nil || words == nil {
		return err
	}
	at := r.imported.Rest[partVoiceWake]["updatedAtMs"]
	if len(at) == 0 {
		at = json.RawMessage("0") // hanzod keeps none
	}
	return r.writeJSON(partVoiceWake, voiceWakeFile, struct {
		Triggers    []string        `json:"triggers"`
		UpdatedAtMs json.RawMessage `json:"updatedAtMs"`
	}{words, at}, 1)
}
