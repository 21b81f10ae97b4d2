package migrate

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"maps"
	"slices"

	"github.com/hanzoai/hanzod/identity"
)

const (
	partDevices    = "devices"
	pairedDevices  = "devices/paired.json"
	pendingDevices = "devices/pending.json"
)

// deviceFile is a paired device as the original keeps it (protocol.md §4.11).
type deviceFile struct {
	DeviceID       string               `json:"deviceId"`
	PublicKey      string               `json:"publicKey"`
	DisplayName    string               `json:"displayName,omitzero"`
	Platform       string               `json:"platform,omitzero"`
	DeviceFamily   string               `json:"deviceFamily,omitzero"`
	ClientID       string               `json:"clientId,omitzero"`
	ClientMode     string               `json:"clientMode,omitzero"`
	Role           identity.Role        `json:"role,omitzero"`
	Roles          []identity.Role      `json:"roles,omitzero"`
	Scopes         []identity.Scope     `json:"scopes,omitzero"`
	ApprovedScopes []identity.Scope     `json:"approvedScopes,omitzero"`
	RemoteIP       string               `json:"remoteIp,omitzero"`
	Tokens         map[string]tokenFile `json:"tokens,omitzero"`
	CreatedAtMs    int64                `json:"createdAtMs"`
	ApprovedAtMs   int64                `json:"approvedAtMs"`
}

type tokenFile struct {
	Token        string           `json:"token"`
	Role         identity.Role    `json:"role"`
	Scopes       []identity.Scope `json:"scopes"`
	CreatedAtMs  int64            `json:"createdAtMs"`
	RotatedAtMs  int64            `json:"rotatedAtMs,omitzero"`
	RevokedAtMs  int64            `json:"revokedAtMs,omitzero"`
	LastUsedAtMs int64            `json:"lastUsedAtMs,omitzero"`
}

func (f deviceFile) device() identity.Device {
	d := identity.Device{
		ID: f.DeviceID, PublicKey: f.PublicKey, DisplayName: f.DisplayName, Platform: f.Platform, DeviceFamily: f.DeviceFamily,
		ClientID: f.ClientID, ClientMode: f.ClientMode, Role: f.Role, Roles: f.Roles, Scopes: f.Scopes, ApprovedScopes: f.ApprovedScopes,
		RemoteIP: f.RemoteIP, CreatedAt: moment(f.CreatedAtMs), ApprovedAt: moment(f.ApprovedAtMs),
	}
	for role, t := range f.Tokens {
		if d.Tokens == nil {
			d.Tokens = map[identity.Role]identity.DeviceToken{}
		}
		d.Tokens[identity.Role(role)] = identity.DeviceToken{
			Token: t.Token, Role: t.Role, Scopes: t.Scopes, CreatedAt: moment(t.CreatedAtMs), RotatedAt: moment(t.RotatedAtMs),
			RevokedAt: moment(t.RevokedAtMs), LastUsedAt: moment(t.LastUsedAtMs),
		}
	}
	return d
}

func fileOfDevice(d identity.Device) deviceFile {
	f := deviceFile{
		DeviceID: d.ID, PublicKey: d.PublicKey, DisplayName: d.DisplayName, Platform: d.Platform, DeviceFamily: d.DeviceFamily,
		ClientID: d.ClientID, ClientMode: d.ClientMode, Role: d.Role, Roles: d.Roles, Scopes: d.Scopes, ApprovedScopes: d.ApprovedScopes,
		RemoteIP: d.RemoteIP, CreatedAtMs: milliseconds(d.CreatedAt), ApprovedAtMs: milliseconds(d.ApprovedAt),
	}
	for role, t := range d.Tokens {
		if f.Tokens == nil {
			f.Tokens = map[string]tokenFile{}
		}
		scopes := t.Scopes
		if scopes == nil {
			scopes = []identity.Scope{}
		}
		f.Tokens[string(role)] = tokenFile{
			Token: t.Token, Role: t.Role, Scopes: scopes, CreatedAtMs: milliseconds(t.CreatedAt), RotatedAtMs: milliseconds(t.RotatedAt),
			RevokedAtMs: milliseconds(t.RevokedAt), LastUsedAtMs: milliseconds(t.LastUsedAt),
		}
	}
	return f
}

// wrongDevice says why a device would never be let in, "" for one that is.
func wrongDevice(name string, f deviceFile) string {
	key, err := base64.RawURLEncoding.DecodeString(f.PublicKey)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return "its publicKey is none"
	}
	sum := sha256.Sum256(key)
	if hex.EncodeToString(sum[:]) != f.DeviceID || name != f.DeviceID {
		return "its id is not that of its key"
	}
	for role, t := range f.Tokens {
		if t.Role != "" && string(t.Role) != role {
			return "a token stands under the role of another"
		}
	}
	return ""
}

// steadyDevice is what a device is compared by.
func steadyDevice(d identity.Device) any {
	f := fileOfDevice(d)
	for role, t := range f.Tokens {
		t.LastUsedAtMs = 0
		f.Tokens[role] = t
	}
	return []any{f, d.Tenant}
}

// importDevices brings over paired devices with their tokens: what they hold lets them in as before. What was revoked
// stays so, and what was removed since the last time goes.
func importDevices(ctx context.Context, r *run) error {
	r.requests(partDevices, pendingDevices)
	raw, whole := r.object(partDevices, pairedDevices)
	theirs := map[string]identity.Device{}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		f, ok := decodeRecord[deviceFile](r, partDevices, pairedDevices, name, raw[name])
		if why := wrongDevice(name, f); ok && why != "" {
			r.found(Finding{Part: partDevices, Path: pairedDevices + " " + shown(name), Outcome: Fault, Why: why})
			ok = false
		}
		if whole = whole && ok; ok {
			theirs[name] = f.device()
		}
	}
	list, err := r.store.Devices()
	if err != nil {
		return err
	}
	ours := map[string]identity.Device{}
	for _, d := range list {
		ours[d.ID] = d
	}
	return settle(r, partDevices, things(theirs, steadyDevice), things(ours, steadyDevice), whole, func(put []thing[identity.Device], drop []string) error {
		return r.store.ChangeDevices(ctx, func(tx identity.Tx) error {
			for _, d := range plainOf(put) {
				if err := errors.Join(tx.PutDevice(d), r.auditDevice(tx, "device.import", d.ID)); err != nil {
					return err
				}
			}
			for _, id := range drop {
				if err := errors.Join(tx.DeleteDevice(id), r.auditDevice(tx, "device.remove", id)); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// auditDevice writes down who was let in, or kept out, by a migration.
func (r *run) auditDevice(tx identity.Tx, kind, id string) error {
	return tx.Audit(identity.Audit{At: r.Now(), Kind: kind, Subject: "migration", DeviceID: id, Detail: r.Source})
}

// exportDevices leaves out devices of tenants: the original knows none, and would let them have everything.
func exportDevices(_ context.Context, r *run) error {
	list, err := r.store.Devices()
	if err != nil {
		return err
	}
	out := map[string]any{}
	for _, d := range list {
		if d.Tenant != "" {
			r.found(Finding{Part: partDevices, Path: pairedDevices + " " + shown(d.ID), Outcome: Left, Why: "it belongs to a tenant, of which the original knows nothing"})
			continue
		}
		if out[d.ID], err = r.withRest(partDevices, d.ID, fileOfDevice(d)); err != nil {
			return err
		}
	}
	return r.writeJSON(partDevices, pairedDevices, out, len(out))
}

// requests says that requests to be paired stay behind: they end after five minutes, and clients ask again.
func (r *run) requests(part, name string) {
	if _, err := r.source.Lstat(name); err != nil {
		return
	}
	raw, ok := r.object(part, name)
	if ok && len(raw) > 0 {
		r.found(Finding{Part: part, Path: name, Outcome: Left, Count: len(raw), Why: "requests to be paired end after five minutes; who still wants to asks again"})
	}
}
