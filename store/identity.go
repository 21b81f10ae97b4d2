package store

import (
	"context"
	"time"

	bolt "go.etcd.io/bbolt"

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
	Tenant         string                              `json:"tenant,omitzero"` // since schema 6
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
		RemoteIP: d.RemoteIP, Tenant: d.Tenant, CreatedAt: utc(d.CreatedAt), ApprovedAt: utc(d.ApprovedAt),
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
		ApprovedScopes: rec.ApprovedScopes, RemoteIP: rec.RemoteIP, Tenant: rec.Tenant,
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
func (s *Store) Devices() ([]identity.Device, error) { return every(s, bucketDevices, decodeDevice) }

// ChangeDevices implements identity.Store. F may run more than once, each time on what is stored, and
// not in the caller's goroutine; it calls no method of the store, and sets what it tells its caller
// anew each time.
func (s *Store) ChangeDevices(ctx context.Context, f func(identity.Tx) error) error {
	return s.w.do(ctx, func(t *txn) error { return f(devicesTx{t}) })
}

// devicesTx implements identity.Tx.
type devicesTx struct{ t *txn }

func (x devicesTx) Device(id string) (d identity.Device, ok bool, err error) {
	v := x.t.get(bucketDevices, []byte(id))
	if v == nil {
		return identity.Device{ID: id}, false, nil
	}
	d, err = decodeDevice([]byte(id), v)
	return d, err == nil, err
}

func (x devicesTx) PutDevice(d identity.Device) error {
	value, err := encodeDevice(d)
	if err != nil {
		return err
	}
	return x.put(bucketDevices, d.ID, value)
}

func (x devicesTx) DeleteDevice(id string) error { return x.delete(bucketDevices, id) }

func (x devicesTx) HasRequest(id string) bool {
	return x.t.get(bucketDeviceRequests, []byte(id)) != nil
}

func (x devicesTx) PutRequest(p identity.Pairing) error {
	value, err := encodeRequest(p)
	if err != nil {
		return err
	}
	return x.put(bucketDeviceRequests, p.RequestID, value)
}

func (x devicesTx) DeleteRequest(id string) error { return x.delete(bucketDeviceRequests, id) }

func (x devicesTx) HasInvite(id string) bool { return x.t.get(bucketInvites, []byte(id)) != nil }

func (x devicesTx) PutInvite(i identity.Invite) error {
	value, err := encodeInvite(i)
	if err != nil {
		return err
	}
	return x.put(bucketInvites, i.ID, value)
}

func (x devicesTx) DeleteInvite(id string) error { return x.delete(bucketInvites, id) }

func (x devicesTx) Audit(row identity.Audit) error {
	link, err := linkOf(AuditRow{
		At: row.At, Kind: row.Kind, Subject: row.Subject, DeviceID: row.DeviceID,
		Role: row.Role, Scopes: row.Scopes, RequestID: row.RequestID, Detail: row.Detail,
	})
	if err != nil {
		return err
	}
	return x.t.appendAudit(link)
}

func (x devicesTx) put(bucket []byte, id string, value []byte) error {
	key, err := keyOf(id)
	if err != nil {
		return err
	}
	return x.t.put(bucket, key, value)
}

// delete takes an id that is not there for one that is gone.
func (x devicesTx) delete(bucket []byte, id string) error {
	if x.t.get(bucket, []byte(id)) == nil {
		return nil
	}
	return x.t.delete(bucket, []byte(id))
}

// requestRecord is a device that waits for an answer.
type requestRecord struct {
	DeviceID     string           `json:"device_id,omitzero"`
	PublicKey    string           `json:"public_key,omitzero"`
	DisplayName  string           `json:"display_name,omitzero"`
	Platform     string           `json:"platform,omitzero"`
	DeviceFamily string           `json:"device_family,omitzero"`
	ClientID     string           `json:"client_id,omitzero"`
	ClientMode   string           `json:"client_mode,omitzero"`
	Role         identity.Role    `json:"role,omitzero"`
	Roles        []identity.Role  `json:"roles,omitzero"`
	Scopes       []identity.Scope `json:"scopes,omitzero"`
	RemoteIP     string           `json:"remote_ip,omitzero"`
	Tenant       string           `json:"tenant,omitzero"` // since schema 6
	Repair       bool             `json:"repair,omitzero"`
	At           time.Time        `json:"at,omitzero"`
}

func encodeRequest(p identity.Pairing) ([]byte, error) {
	return encode(requestRecord{
		DeviceID: p.DeviceID, PublicKey: p.PublicKey, DisplayName: p.DisplayName, Platform: p.Platform,
		DeviceFamily: p.DeviceFamily, ClientID: p.ClientID, ClientMode: p.ClientMode, Role: p.Role,
		Roles: p.Roles, Scopes: p.Scopes, RemoteIP: p.RemoteIP, Tenant: p.Tenant, Repair: p.Repair, At: utc(p.At),
	})
}

func decodeRequest(key, value []byte) (identity.Pairing, error) {
	var rec requestRecord
	if err := decode(bucketDeviceRequests, key, value, &rec); err != nil {
		return identity.Pairing{}, err
	}
	return identity.Pairing{
		RequestID: string(key), DeviceID: rec.DeviceID, PublicKey: rec.PublicKey, DisplayName: rec.DisplayName,
		Platform: rec.Platform, DeviceFamily: rec.DeviceFamily, ClientID: rec.ClientID, ClientMode: rec.ClientMode,
		Role: rec.Role, Roles: rec.Roles, Scopes: rec.Scopes, RemoteIP: rec.RemoteIP, Tenant: rec.Tenant, Repair: rec.Repair,
		At: utc(rec.At),
	}, nil
}

// inviteRecord is an invite that was not used yet. It does not hold the secret.
type inviteRecord struct {
	Role      identity.Role    `json:"role,omitzero"`
	Scopes    []identity.Scope `json:"scopes,omitzero"`
	Tenant    string           `json:"tenant,omitzero"` // since schema 6
	CreatedBy string           `json:"created_by,omitzero"`
	CreatedAt time.Time        `json:"created_at,omitzero"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
}

func encodeInvite(i identity.Invite) ([]byte, error) {
	return encode(inviteRecord{
		Role: i.Role, Scopes: i.Scopes, Tenant: i.Tenant, CreatedBy: i.CreatedBy, CreatedAt: utc(i.CreatedAt), ExpiresAt: utc(i.ExpiresAt),
	})
}

func decodeInvite(key, value []byte) (identity.Invite, error) {
	var rec inviteRecord
	if err := decode(bucketInvites, key, value, &rec); err != nil {
		return identity.Invite{}, err
	}
	return identity.Invite{
		ID: string(key), Role: rec.Role, Scopes: rec.Scopes, Tenant: rec.Tenant, CreatedBy: rec.CreatedBy,
		CreatedAt: utc(rec.CreatedAt), ExpiresAt: utc(rec.ExpiresAt),
	}, nil
}

// Requests implements identity.Store.
func (s *Store) Requests() ([]identity.Pairing, error) {
	return every(s, bucketDeviceRequests, decodeRequest)
}

// Invites implements identity.Store.
func (s *Store) Invites() ([]identity.Invite, error) { return every(s, bucketInvites, decodeInvite) }

// every reads a whole bucket in the order of its keys.
func every[T any](s *Store, bucket []byte, decode func(key, value []byte) (T, error)) ([]T, error) {
	var all []T
	err := s.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			one, err := decode(k, v)
			all = append(all, one)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
