package methods

import (
	"maps"
	"slices"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/identity"
)

// texts writes roles and scopes.
func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}

type pairingShape struct {
	RequestID    string            `json:"requestId"`
	DeviceID     string            `json:"deviceId"`
	PublicKey    string            `json:"publicKey"`
	DisplayName  wire.Opt[string]  `json:"displayName,omitzero"`
	Platform     wire.Opt[string]  `json:"platform,omitzero"`
	DeviceFamily wire.Opt[string]  `json:"deviceFamily,omitzero"`
	ClientID     wire.Opt[string]  `json:"clientId,omitzero"`
	ClientMode   wire.Opt[string]  `json:"clientMode,omitzero"`
	Role         string            `json:"role"`
	Roles        []string          `json:"roles,omitempty"`
	Scopes       wire.List[string] `json:"scopes"`
	RemoteIP     wire.Opt[string]  `json:"remoteIp,omitzero"`
	Silent       bool              `json:"silent"`
	IsRepair     bool              `json:"isRepair"`
	TS           int64             `json:"ts"`
}

func pairingToLegacy(p identity.Pairing) pairingShape {
	return pairingShape{
		RequestID: p.RequestID, DeviceID: p.DeviceID, PublicKey: p.PublicKey,
		DisplayName: wire.NonZero(p.DisplayName), Platform: wire.NonZero(p.Platform),
		DeviceFamily: wire.NonZero(p.DeviceFamily), ClientID: wire.NonZero(p.ClientID),
		ClientMode: wire.NonZero(p.ClientMode), Role: string(p.Role), Roles: texts(p.Roles), Scopes: texts(p.Scopes),
		RemoteIP: wire.NonZero(p.RemoteIP), Silent: p.Silent, IsRepair: p.Repair, TS: ms(p.At),
	}
}

// PairingRequestedToLegacy writes the payload of the event device.pair.requested.
func PairingRequestedToLegacy(e identity.PairingRequested) any { return pairingToLegacy(e.Pairing) }

type pairingResolvedShape struct {
	RequestID string `json:"requestId"`
	DeviceID  string `json:"deviceId"`
	Decision  string `json:"decision"`
	TS        int64  `json:"ts"`
}

// PairingResolvedToLegacy writes the payload of the event device.pair.resolved.
func PairingResolvedToLegacy(e identity.PairingResolved) any {
	return pairingResolvedShape{RequestID: e.RequestID, DeviceID: e.DeviceID, Decision: e.Decision, TS: ms(e.At)}
}

type deviceTokenShape struct {
	Role         string            `json:"role"`
	Scopes       wire.List[string] `json:"scopes"`
	CreatedAtMs  int64             `json:"createdAtMs"`
	RotatedAtMs  wire.Opt[int64]   `json:"rotatedAtMs,omitzero"`
	RevokedAtMs  wire.Opt[int64]   `json:"revokedAtMs,omitzero"`
	LastUsedAtMs wire.Opt[int64]   `json:"lastUsedAtMs,omitzero"`
}

type deviceShape struct {
	DeviceID     string             `json:"deviceId"`
	PublicKey    string             `json:"publicKey"`
	DisplayName  wire.Opt[string]   `json:"displayName,omitzero"`
	Platform     wire.Opt[string]   `json:"platform,omitzero"`
	DeviceFamily wire.Opt[string]   `json:"deviceFamily,omitzero"`
	ClientID     wire.Opt[string]   `json:"clientId,omitzero"`
	ClientMode   wire.Opt[string]   `json:"clientMode,omitzero"`
	Role         string             `json:"role"`
	Roles        []string           `json:"roles,omitempty"`
	Scopes       wire.List[string]  `json:"scopes"`
	RemoteIP     wire.Opt[string]   `json:"remoteIp,omitzero"`
	CreatedAtMs  int64              `json:"createdAtMs"`
	ApprovedAtMs int64              `json:"approvedAtMs"`
	Tokens       []deviceTokenShape `json:"tokens,omitempty"`
}

// deviceToLegacy writes a paired device. Neither its tokens nor what was approved for it are shown.
func deviceToLegacy(d identity.Device) deviceShape {
	out := deviceShape{
		DeviceID: d.ID, PublicKey: d.PublicKey,
		DisplayName: wire.NonZero(d.DisplayName), Platform: wire.NonZero(d.Platform),
		DeviceFamily: wire.NonZero(d.DeviceFamily), ClientID: wire.NonZero(d.ClientID),
		ClientMode: wire.NonZero(d.ClientMode), Role: string(d.Role), Roles: texts(d.Roles), Scopes: texts(d.Scopes),
		RemoteIP: wire.NonZero(d.RemoteIP), CreatedAtMs: ms(d.CreatedAt), ApprovedAtMs: ms(d.ApprovedAt),
	}
	for _, role := range slices.Sorted(maps.Keys(d.Tokens)) {
		t := d.Tokens[role]
		out.Tokens = append(out.Tokens, deviceTokenShape{
			Role: string(t.Role), Scopes: texts(t.Scopes), CreatedAtMs: ms(t.CreatedAt),
			RotatedAtMs: maybeMS(t.RotatedAt), RevokedAtMs: maybeMS(t.RevokedAt), LastUsedAtMs: maybeMS(t.LastUsedAt),
		})
	}
	return out
}

type deviceListResult struct {
	Pending wire.List[pairingShape] `json:"pending"`
	Paired  wire.List[deviceShape]  `json:"paired"`
}

// DeviceListToLegacy writes the result of device.pair.list.
func DeviceListToLegacy(out identity.ListOut) any {
	r := deviceListResult{}
	for _, p := range out.Pending {
		r.Pending = append(r.Pending, pairingToLegacy(p))
	}
	for _, d := range out.Devices {
		r.Paired = append(r.Paired, deviceToLegacy(d))
	}
	return r
}

// DeviceApproveFromLegacy reads device.pair.approve.
func DeviceApproveFromLegacy(p wire.Value) (identity.ApproveIn, error) {
	var in requestIDParams
	err := wire.Decode(p, &in)
	return identity.ApproveIn(in), err
}

type deviceApproveResult struct {
	RequestID string      `json:"requestId"`
	Device    deviceShape `json:"device"`
}

// DeviceApproveToLegacy writes the result of device.pair.approve.
func DeviceApproveToLegacy(out identity.ApproveOut) any {
	return deviceApproveResult{RequestID: out.RequestID, Device: deviceToLegacy(out.Device)}
}

// DeviceRejectFromLegacy reads device.pair.reject.
func DeviceRejectFromLegacy(p wire.Value) (identity.RejectIn, error) {
	var in requestIDParams
	err := wire.Decode(p, &in)
	return identity.RejectIn(in), err
}

type deviceRejectResult struct {
	RequestID string `json:"requestId"`
	DeviceID  string `json:"deviceId"`
}

// DeviceRejectToLegacy writes the result of device.pair.reject.
func DeviceRejectToLegacy(out identity.RejectOut) any { return deviceRejectResult(out) }

type deviceIDShape struct {
	DeviceID string `json:"deviceId"`
}

// DeviceRemoveFromLegacy reads device.pair.remove.
func DeviceRemoveFromLegacy(p wire.Value) (identity.RemoveIn, error) {
	var in deviceIDShape
	err := wire.Decode(p, &in)
	return identity.RemoveIn(in), err
}

// DeviceRemoveToLegacy writes the result of device.pair.remove.
func DeviceRemoveToLegacy(out identity.RemoveOut) any { return deviceIDShape(out) }

type tokenRotateParams struct {
	DeviceID string           `json:"deviceId"`
	Role     string           `json:"role"`
	Scopes   []identity.Scope `json:"scopes"`
}

// TokenRotateFromLegacy reads device.token.rotate.
func TokenRotateFromLegacy(p wire.Value) (identity.RotateIn, error) {
	var in tokenRotateParams
	err := wire.Decode(p, &in)
	return identity.RotateIn{DeviceID: in.DeviceID, Role: identity.Role(in.Role), Scopes: in.Scopes}, err
}

type tokenRotateResult struct {
	DeviceID    string            `json:"deviceId"`
	Role        string            `json:"role"`
	Token       string            `json:"token"`
	Scopes      wire.List[string] `json:"scopes"`
	RotatedAtMs int64             `json:"rotatedAtMs"`
}

// TokenRotateToLegacy writes the result of device.token.rotate.
func TokenRotateToLegacy(out identity.RotateOut) any {
	return tokenRotateResult{
		DeviceID: out.DeviceID, Role: string(out.Role), Token: out.Token, Scopes: texts(out.Scopes), RotatedAtMs: ms(out.RotatedAt),
	}
}

type tokenRevokeParams struct {
	DeviceID string `json:"deviceId"`
	Role     string `json:"role"`
}

// TokenRevokeFromLegacy reads device.token.revoke.
func TokenRevokeFromLegacy(p wire.Value) (identity.RevokeIn, error) {
	var in tokenRevokeParams
	err := wire.Decode(p, &in)
	return identity.RevokeIn{DeviceID: in.DeviceID, Role: identity.Role(in.Role)}, err
}

type tokenRevokeResult struct {
	DeviceID    string `json:"deviceId"`
	Role        string `json:"role"`
	RevokedAtMs int64  `json:"revokedAtMs"`
}

// TokenRevokeToLegacy writes the result of device.token.revoke.
func TokenRevokeToLegacy(out identity.RevokeOut) any {
	return tokenRevokeResult{DeviceID: out.DeviceID, Role: string(out.Role), RevokedAtMs: ms(out.RevokedAt)}
}
