package methods

import (
	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/identity"
)

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

// PairingRequestedToLegacy writes the payload of the event device.pair.requested.
func PairingRequestedToLegacy(e identity.PairingRequested) any {
	p := e.Pairing
	out := pairingShape{
		RequestID: p.RequestID, DeviceID: p.DeviceID, PublicKey: p.PublicKey,
		DisplayName: wire.NonZero(p.DisplayName), Platform: wire.NonZero(p.Platform),
		DeviceFamily: wire.NonZero(p.DeviceFamily), ClientID: wire.NonZero(p.ClientID),
		ClientMode: wire.NonZero(p.ClientMode), Role: string(p.Role), RemoteIP: wire.NonZero(p.RemoteIP),
		Silent: p.Silent, IsRepair: p.Repair, TS: ms(p.At),
	}
	for _, r := range p.Roles {
		out.Roles = append(out.Roles, string(r))
	}
	for _, s := range p.Scopes {
		out.Scopes = append(out.Scopes, string(s))
	}
	return out
}

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
