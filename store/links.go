package store

import (
	"context"
	"time"

	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/links"
)

// linkKeyRecord is a link key. It does not hold the secret.
type linkKeyRecord struct {
	Hash      string    `json:"hash,omitzero"`
	Name      string    `json:"name,omitzero"`
	Tenant    string    `json:"tenant,omitzero"`
	CreatedBy string    `json:"created_by,omitzero"`
	CreatedAt time.Time `json:"created_at,omitzero"`
}

func decodeLinkKey(key, value []byte) (identity.LinkKey, error) {
	var rec linkKeyRecord
	if err := decode(bucketLinkKeys, key, value, &rec); err != nil {
		return identity.LinkKey{}, err
	}
	return identity.LinkKey{
		ID: string(key), Hash: rec.Hash, Name: rec.Name, Tenant: rec.Tenant, CreatedBy: rec.CreatedBy, CreatedAt: utc(rec.CreatedAt),
	}, nil
}

// LinkKeys implements identity.Store.
func (s *Store) LinkKeys() ([]identity.LinkKey, error) {
	return every(s, bucketLinkKeys, decodeLinkKey)
}

func (x devicesTx) LinkKeys() ([]identity.LinkKey, error) {
	var all []identity.LinkKey
	err := x.t.tx.Bucket(bucketLinkKeys).ForEach(func(k, v []byte) error {
		one, err := decodeLinkKey(k, v)
		all = append(all, one)
		return err
	})
	return all, err
}

func (x devicesTx) PutLinkKey(k identity.LinkKey) error {
	value, err := encode(linkKeyRecord{Hash: k.Hash, Name: k.Name, Tenant: k.Tenant, CreatedBy: k.CreatedBy, CreatedAt: utc(k.CreatedAt)})
	if err != nil {
		return err
	}
	return x.put(bucketLinkKeys, k.ID, value)
}

func (x devicesTx) DeleteLinkKey(id string) error { return x.delete(bucketLinkKeys, id) }

// linkRecord is the last link of an instance.
type linkRecord struct {
	Credential   string    `json:"credential,omitzero"`
	Address      string    `json:"address,omitzero"`
	Registration []byte    `json:"registration,omitzero"`
	LinkedAt     time.Time `json:"linked_at,omitzero"`
	DroppedAt    time.Time `json:"dropped_at,omitzero"`
}

// Links implements links.Store.
func (s *Store) Links() ([]links.Link, error) {
	return every(s, bucketLinks, func(key, value []byte) (links.Link, error) {
		var rec linkRecord
		if err := decode(bucketLinks, key, value, &rec); err != nil {
			return links.Link{}, err
		}
		return links.Link{
			NodeID: string(key), Credential: rec.Credential, Address: rec.Address, Registration: rec.Registration,
			LinkedAt: utc(rec.LinkedAt), DroppedAt: utc(rec.DroppedAt),
		}, nil
	})
}

// ChangeLinks implements links.Store.
func (s *Store) ChangeLinks(ctx context.Context, keep []links.Link, forget []string) error {
	type pair struct{ key, value []byte }
	puts := make([]pair, len(keep))
	for i, l := range keep {
		key, err := keyOf(l.NodeID)
		if err != nil {
			return err
		}
		value, err := encode(linkRecord{
			Credential: l.Credential, Address: l.Address, Registration: l.Registration, LinkedAt: utc(l.LinkedAt), DroppedAt: utc(l.DroppedAt),
		})
		if err != nil {
			return err
		}
		puts[i] = pair{key, value}
	}
	return s.w.do(ctx, func(t *txn) error {
		for _, p := range puts {
			if err := t.put(bucketLinks, p.key, p.value); err != nil {
				return err
			}
		}
		for _, id := range forget {
			if t.get(bucketLinks, []byte(id)) == nil {
				continue
			}
			if err := t.delete(bucketLinks, []byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

var _ links.Store = (*Store)(nil)
