package store

import (
	"bytes"
	"context"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/nodes/push"
)

// nodeNameRecord is the name that people gave to a node.
type nodeNameRecord struct {
	Name string `json:"name"`
}

// NodeName implements nodes.Store.
func (s *Store) NodeName(id string) (string, error) {
	var rec nodeNameRecord
	err := s.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketNodeNames).Get([]byte(id))
		if v == nil {
			return nil
		}
		return decode(bucketNodeNames, []byte(id), v, &rec)
	})
	return rec.Name, err
}

// SetNodeName implements nodes.Store. An empty name removes the given one.
func (s *Store) SetNodeName(ctx context.Context, id, name string) error {
	key, err := keyOf(id)
	if err != nil {
		return err
	}
	value, err := encode(nodeNameRecord{Name: name})
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		old := t.get(bucketNodeNames, key)
		switch {
		case name == "" && old == nil, name != "" && bytes.Equal(old, value):
			return nil
		case name == "":
			return t.delete(bucketNodeNames, key)
		}
		return t.put(bucketNodeNames, key, value)
	})
}

// nodeInfoRecord is what a node said of itself when it asked to be paired. A list that is not nil
// stays so even when it is empty.
type nodeInfoRecord struct {
	DisplayName     string   `json:"display_name,omitzero"`
	Platform        string   `json:"platform,omitzero"`
	Version         string   `json:"version,omitzero"`
	CoreVersion     string   `json:"core_version,omitzero"`
	UIVersion       string   `json:"ui_version,omitzero"`
	DeviceFamily    string   `json:"device_family,omitzero"`
	ModelIdentifier string   `json:"model_identifier,omitzero"`
	Caps            []string `json:"caps,omitzero"`
	Commands        []string `json:"commands,omitzero"`
	RemoteIP        string   `json:"remote_ip,omitzero"`
}

func recordOf(p nodes.PairingInfo) nodeInfoRecord {
	return nodeInfoRecord{
		DisplayName: p.DisplayName, Platform: p.Platform, Version: p.Version, CoreVersion: p.CoreVersion,
		UIVersion: p.UIVersion, DeviceFamily: p.DeviceFamily, ModelIdentifier: p.ModelIdentifier,
		Caps: p.Caps, Commands: p.Commands, RemoteIP: p.RemoteIP,
	}
}

func (r nodeInfoRecord) info(nodeID string) nodes.PairingInfo {
	return nodes.PairingInfo{
		NodeID: nodeID, DisplayName: r.DisplayName, Platform: r.Platform, Version: r.Version,
		CoreVersion: r.CoreVersion, UIVersion: r.UIVersion, DeviceFamily: r.DeviceFamily,
		ModelIdentifier: r.ModelIdentifier, Caps: r.Caps, Commands: r.Commands, RemoteIP: r.RemoteIP,
	}
}

// nodeRequestRecord is a node that waits to be paired.
type nodeRequestRecord struct {
	NodeID string         `json:"node_id,omitzero"`
	Info   nodeInfoRecord `json:"info,omitzero"`
	Silent *bool          `json:"silent,omitzero"`
	Repair bool           `json:"repair,omitzero"`
	At     time.Time      `json:"at,omitzero"`
}

func encodeNodeRequest(r nodes.PairingRequest) ([]byte, error) {
	return encode(nodeRequestRecord{
		NodeID: r.Info.NodeID, Info: recordOf(r.Info), Silent: r.Silent, Repair: r.Repair, At: utc(r.At),
	})
}

func decodeNodeRequest(key, value []byte) (nodes.PairingRequest, error) {
	var rec nodeRequestRecord
	if err := decode(bucketNodeRequests, key, value, &rec); err != nil {
		return nodes.PairingRequest{}, err
	}
	return nodes.PairingRequest{
		RequestID: string(key), Info: rec.Info.info(rec.NodeID), Silent: rec.Silent, Repair: rec.Repair, At: utc(rec.At),
	}, nil
}

// nodePairingRecord is a paired node. It holds a secret: it is never logged.
type nodePairingRecord struct {
	Info            nodeInfoRecord `json:"info,omitzero"`
	Token           string         `json:"token,omitzero"`
	CreatedAt       time.Time      `json:"created_at,omitzero"`
	ApprovedAt      time.Time      `json:"approved_at,omitzero"`
	LastConnectedAt time.Time      `json:"last_connected_at,omitzero"`
}

func encodeNodePairing(n nodes.Pairing) ([]byte, error) {
	return encode(nodePairingRecord{
		Info: recordOf(n.Info), Token: n.Token, CreatedAt: utc(n.CreatedAt), ApprovedAt: utc(n.ApprovedAt),
		LastConnectedAt: utc(n.LastConnectedAt),
	})
}

func decodeNodePairing(key, value []byte) (nodes.Pairing, error) {
	var rec nodePairingRecord
	if err := decode(bucketNodePairings, key, value, &rec); err != nil {
		return nodes.Pairing{}, err
	}
	return nodes.Pairing{
		Info: rec.Info.info(string(key)), Token: rec.Token, CreatedAt: utc(rec.CreatedAt),
		ApprovedAt: utc(rec.ApprovedAt), LastConnectedAt: utc(rec.LastConnectedAt),
	}, nil
}

// all decodes every record of a bucket, in the order of the keys.
func all[T any](tx *bolt.Tx, bucket []byte, decode func(key, value []byte) (T, error)) ([]T, error) {
	var out []T
	err := tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		x, err := decode(k, v)
		out = append(out, x)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func nodePairing(tx *bolt.Tx, nodeID string) (p nodes.Pairing, paired bool, err error) {
	v := tx.Bucket(bucketNodePairings).Get([]byte(nodeID))
	if v == nil {
		return p, false, nil
	}
	p, err = decodeNodePairing([]byte(nodeID), v)
	return p, err == nil, err
}

// Pairings implements nodes.Store.
func (s *Store) Pairings() (open []nodes.PairingRequest, paired []nodes.Pairing, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		if open, err = all(tx, bucketNodeRequests, decodeNodeRequest); err != nil {
			return err
		}
		paired, err = all(tx, bucketNodePairings, decodeNodePairing)
		return err
	})
	return open, paired, err
}

// Pairing implements nodes.Store.
func (s *Store) Pairing(nodeID string) (p nodes.Pairing, paired bool, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		p, paired, err = nodePairing(tx, nodeID)
		return err
	})
	return p, paired, err
}

// UpdatePairings implements nodes.Store. Change runs in the writer's goroutine; it calls no method
// of the store.
func (s *Store) UpdatePairings(ctx context.Context, change func(nodes.PairingTx) error) error {
	return s.w.do(ctx, func(t *txn) error { return change(pairingTx{t}) })
}

// ReplacePairings writes pairings as they are and removes others, all in one transaction: what is moved in bulk while
// no daemon runs.
func (s *Store) ReplacePairings(ctx context.Context, put []nodes.Pairing, remove []string) error {
	return s.w.do(ctx, func(t *txn) error {
		for _, p := range put {
			if err := (pairingTx{t}).PutPairing(p); err != nil {
				return err
			}
		}
		for _, id := range remove {
			if err := t.delete(bucketNodePairings, []byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// pairingTx implements nodes.PairingTx.
type pairingTx struct{ t *txn }

func (p pairingTx) Requests() ([]nodes.PairingRequest, error) {
	return all(p.t.tx, bucketNodeRequests, decodeNodeRequest)
}

func (p pairingTx) PutRequest(r nodes.PairingRequest) error {
	key, err := keyOf(r.RequestID)
	if err != nil {
		return err
	}
	if _, err := keyOf(r.Info.NodeID); err != nil { // it becomes one when the node is paired
		return err
	}
	value, err := encodeNodeRequest(r)
	if err != nil {
		return err
	}
	return p.t.put(bucketNodeRequests, key, value)
}

func (p pairingTx) DeleteRequest(requestID string) error {
	return p.t.delete(bucketNodeRequests, []byte(requestID))
}

func (p pairingTx) Pairing(nodeID string) (nodes.Pairing, bool, error) {
	return nodePairing(p.t.tx, nodeID)
}

func (p pairingTx) PutPairing(n nodes.Pairing) error {
	key, err := keyOf(n.Info.NodeID)
	if err != nil {
		return err
	}
	value, err := encodeNodePairing(n)
	if err != nil {
		return err
	}
	return p.t.put(bucketNodePairings, key, value)
}

func (p pairingTx) CountPairings() int { return count(p.t.tx, bucketNodePairings) }

// count is how many records a bucket has. The statistics of the database know nothing of what this
// transaction wrote.
func count(tx *bolt.Tx, bucket []byte) int {
	n := 0
	c := tx.Bucket(bucket).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		n++
	}
	return n
}

func (p pairingTx) AppendAudit(row nodes.Audit) error {
	link, err := linkOf(AuditRow{
		At: row.At, Kind: row.Kind, Subject: row.Subject, NodeID: row.NodeID, Decision: approvals.Decision(row.Decision),
	})
	if err != nil {
		return err
	}
	return p.t.appendAudit(link)
}

// voiceWakeRecord is the words that wake voice clients.
type voiceWakeRecord struct {
	Triggers []string `json:"triggers,omitzero"`
}

// VoiceWake implements nodes.Store.
func (s *Store) VoiceWake() ([]string, error) {
	var rec voiceWakeRecord
	err := s.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketMeta).Get(keyVoiceWake)
		if v == nil {
			return nil
		}
		return decode(bucketMeta, keyVoiceWake, v, &rec)
	})
	return rec.Triggers, err
}

// SetVoiceWake implements nodes.Store.
func (s *Store) SetVoiceWake(ctx context.Context, words []string) error {
	value, err := encode(voiceWakeRecord{Triggers: words})
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error { return t.put(bucketMeta, keyVoiceWake, value) })
}

// pushRecord is where pushes for a node go. It holds a secret: it is never logged.
type pushRecord struct {
	Token        string           `json:"token,omitzero"`
	Topic        string           `json:"topic,omitzero"`
	Environment  push.Environment `json:"environment,omitzero"`
	Platform     string           `json:"platform,omitzero"`
	DeviceFamily string           `json:"device_family,omitzero"`
	UpdatedAt    time.Time        `json:"updated_at,omitzero"`
}

func encodePush(r nodes.Registration) ([]byte, error) {
	return encode(pushRecord{
		Token: r.Token, Topic: r.Topic, Environment: r.Environment, Platform: r.Platform, DeviceFamily: r.DeviceFamily,
		UpdatedAt: utc(r.UpdatedAt),
	})
}

func decodePush(key, value []byte) (nodes.Registration, error) {
	var rec pushRecord
	if err := decode(bucketPushRegistrations, key, value, &rec); err != nil {
		return nodes.Registration{}, err
	}
	return nodes.Registration{
		NodeID: string(key), Token: rec.Token, Topic: rec.Topic, Environment: rec.Environment, Platform: rec.Platform,
		DeviceFamily: rec.DeviceFamily, UpdatedAt: utc(rec.UpdatedAt),
	}, nil
}

// Registration implements nodes.Store.
func (s *Store) Registration(nodeID string) (r nodes.Registration, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) (err error) {
		v := tx.Bucket(bucketPushRegistrations).Get([]byte(nodeID))
		if v == nil {
			return nil
		}
		r, err = decodePush([]byte(nodeID), v)
		ok = err == nil
		return err
	})
	return r, ok, err
}

// Registrations are all of them, in the order of their nodes.
func (s *Store) Registrations() ([]nodes.Registration, error) {
	return every(s, bucketPushRegistrations, decodePush)
}

// ReplaceRegistrations writes registrations as they are and removes others, all in one transaction: what is moved in
// bulk while no daemon runs.
func (s *Store) ReplaceRegistrations(ctx context.Context, put []nodes.Registration, remove []string) error {
	return s.w.do(ctx, func(t *txn) error {
		for _, r := range put {
			key, err := keyOf(r.NodeID)
			if err != nil {
				return err
			}
			value, err := encodePush(r)
			if err != nil {
				return err
			}
			if err := t.put(bucketPushRegistrations, key, value); err != nil {
				return err
			}
		}
		for _, id := range remove {
			if err := t.delete(bucketPushRegistrations, []byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// PutRegistration implements nodes.Store.
func (s *Store) PutRegistration(ctx context.Context, r nodes.Registration, max int) error {
	key, err := keyOf(r.NodeID)
	if err != nil {
		return err
	}
	value, err := encodePush(r)
	if err != nil {
		return err
	}
	return s.w.do(ctx, func(t *txn) error {
		if t.get(bucketPushRegistrations, key) == nil && count(t.tx, bucketPushRegistrations) >= max {
			return nodes.ErrTooManyPushes
		}
		return t.put(bucketPushRegistrations, key, value)
	})
}

// DropRegistration implements nodes.Store.
func (s *Store) DropRegistration(ctx context.Context, nodeID, token string) error {
	return s.w.do(ctx, func(t *txn) error {
		v := t.get(bucketPushRegistrations, []byte(nodeID))
		if v == nil {
			return nil
		}
		if r, err := decodePush([]byte(nodeID), v); err != nil || r.Token != token {
			return err
		}
		return t.delete(bucketPushRegistrations, []byte(nodeID))
	})
}
