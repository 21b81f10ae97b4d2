package store

import (
	"context"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// deviceRecord is a paired device. It holds secrets: it is never logged.
type deviceRecord struct {
	PublicKey      string                              `json:"public_key,omitzero"`
	DisplayName    string                              `json:"display_name,omitzero"`
	Platform       string                              `json:"platform,omitzero"`
	DeviceFamily   string                              `json:"device_family,omitzero"`
	ClientID       string                              `json:"client_id,omitzero"`
	ClientMode     string                              `json:"client_mode,omitzero"`
	Role           identity.Role                       `json:"role,omitzero"`
	Roles          []identity.Role                     `json:"roles,omitzero"`
	Scopes         []identity.Scope                    `json:"scopes,omitzero"`
	ApprovedScopes []identity.Scope                    `json:"approved_scopes,omitzero"`
	RemoteIP       string                              `json:"remote_ip,omitzero"`
	Tokens         map[identity.Role]deviceTokenRecord `json:"tokens,omitzero"`
	CreatedAt      time.Time                           `json:"created_at,omitzero"`
	ApprovedAt     time.Time                           `json:"approved_at,omitzero"`
}

type deviceTokenRecord struct {
	Token      string           `json:"token,omitzero"`
	Role       identity.Role    `json:"role,omitzero"`
	Scopes     []identity.Scope `json:"scopes,omitzero"`
	CreatedAt  time.Time        `json:"created_at,omitzero"`
	RotatedAt  time.Time        `json:"rotated_at,omitzero"`
	RevokedAt  time.Time        `json:"revoked_at,omitzero"`
	LastUsedAt time.Time        `json:"last_used_at,omitzero"`
}

func encodeDevice(d identity.Device) ([]byte, error) {
	rec := deviceRecord{
		PublicKey: d.PublicKey, DisplayName: d.DisplayName, Platform: d.Platform,
		DeviceFamily: d.DeviceFamily, ClientID: d.ClientID, ClientMode: d.ClientMode,
		Role: d.Role, Roles: d.Roles, Scopes: d.Scopes, ApprovedScopes: d.ApprovedScopes,
		RemoteIP: d.RemoteIP, CreatedAt: utc(d.CreatedAt), ApprovedAt: utc(d.ApprovedAt),
	}
	if d.Tokens != nil {
		rec.Tokens = make(map[identity.Role]deviceTokenRecord, len(d.Tokens))
	}
	for role, t := range d.Tokens {
		rec.Tokens[role] = deviceTokenRecord{
			Token: t.Token, Role: t.Role, Scopes: t.Scopes,
			CreatedAt: utc(t.CreatedAt), RotatedAt: utc(t.RotatedAt),
			RevokedAt: utc(t.RevokedAt), LastUsedAt: utc(t.LastUsedAt),
		}
	}
	return encode(rec)
}

func decodeDevice(key, value []byte) (identity.Device, error) {
	var rec deviceRecord
	if err := decode(bucketDevices, key, value, &rec); err != nil {
		return identity.Device{}, err
	}
	d := identity.Device{
		ID: string(key), PublicKey: rec.PublicKey, DisplayName: rec.DisplayName,
		Platform: rec.Platform, DeviceFamily: rec.DeviceFamily, ClientID: rec.ClientID,
		ClientMode: rec.ClientMode, Role: rec.Role, Roles: rec.Roles, Scopes: rec.Scopes,
		ApprovedScopes: rec.ApprovedScopes, RemoteIP: rec.RemoteIP,
		CreatedAt: utc(rec.CreatedAt), ApprovedAt: utc(rec.ApprovedAt),
	}
	if rec.Tokens != nil {
		d.Tokens = make(map[identity.Role]identity.DeviceToken, len(rec.Tokens))
	}
	for role, t := range rec.Tokens {
		d.Tokens[role] = identity.DeviceToken{
			Token: t.Token, Role: t.Role, Scopes: t.Scopes,
			CreatedAt: utc(t.CreatedAt), RotatedAt: utc(t.RotatedAt),
			RevokedAt: utc(t.RevokedAt), LastUsedAt: utc(t.LastUsedAt),
		}
	}
	return d, nil
}

// Device implements identity.Store.
func (s *Store) Device(id string) (d identity.Device, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		v := tx.Bucket(bucketDevices).Get([]byte(id))
		if v == nil {
			return nil
		}
		d, err = decodeDevice([]byte(id), v)
		ok = err == nil
		return err
	})
	return d, ok, err
}

// Devices implements identity.Store. The devices come in the order of their ids.
func (s *Store) Devices() ([]identity.Device, error) {
	var all []identity.Device
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketDevices).ForEach(func(k, v []byte) error {
			d, err := decodeDevice(k, v)
			all = append(all, d)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// UpdateDevice implements identity.Store. The device that change gets has its id set. Change may run
// more than once, each time on a device as it is stored, and not in the caller's goroutine; it
// calls no method of the store.
func (s *Store) UpdateDevice(ctx context.Context, id string, change func(d *identity.Device, exists bool) error) (identity.Device, error) {
	key, err := keyOf(id)
	if err != nil {
		return identity.Device{}, err
	}
	var out identity.Device
	err = s.w.do(ctx, func(t *txn) (err error) {
		d := identity.Device{ID: id}
		old := t.get(bucketDevices, key)
		if old != nil {
			if d, err = decodeDevice(key, old); err != nil {
				return err
			}
		}
		if err := change(&d, old != nil); err != nil {
			return err
		}
		if d.ID != id {
			return errs.New(errs.Internal, "a change may not give a device another id")
		}
		value, err := encodeDevice(d)
		if err != nil {
			return err
		}
		out = d
		return t.put(bucketDevices, key, value)
	})
	if err != nil {
		return identity.Device{}, err
	}
	return out, nil
}

// DeleteDevice implements identity.Store. It reports whether there was such a device.
func (s *Store) DeleteDevice(ctx context.Context, id string) (bool, error) {
	var had bool
	err := s.w.do(ctx, func(t *txn) error {
		had = t.get(bucketDevices, []byte(id)) != nil
		if !had {
			return nil
		}
		return t.delete(bucketDevices, []byte(id))
	})
	if err != nil {
		return false, err
	}
	return had, nil
}
