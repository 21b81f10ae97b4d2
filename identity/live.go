package identity

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Ended is the payload of the event device.ended: what a credential let in ends now. Doors act on it,
// and clients are not sent it.
type Ended struct {
	DeviceID string
	// LinkKey is the link key that ends; the members below mean nothing then, but for Reason.
	LinkKey string
	// Role is the role that ends, every one when empty.
	Role Role
	// TokenID confines it to what that token let in, when not empty.
	TokenID string
	// By is the connection that asked for it, which is still owed its answer.
	By string
	// Reason is for the client.
	Reason string
}

// Covers reports whether the caller is one of those that end.
func (e Ended) Covers(c Caller) bool {
	switch {
	case e.LinkKey != "":
		return c.Role == RoleNode && c.Principal == linkKeySubject+e.LinkKey
	case c.DeviceID == "" || c.DeviceID != e.DeviceID:
		return false
	case e.Role != "" && c.Role != e.Role:
		return false
	case e.TokenID == "":
		return true
	}
	// Who rotates its own token has just been given the new one.
	return c.TokenID == e.TokenID && (e.By == "" || c.ConnID != e.By)
}

// end tells the doors. It is called after the commit.
func (s *Service) end(e Ended) {
	s.endings.Add(1)
	s.pub.Publish("device.ended", e)
}

// Confirm is asked by a door as soon as Ended reaches the new connection: it refuses a caller whose
// credential ended while it was being let in.
func (s *Service) Confirm(c Caller, adm Admission) error {
	if s.endings.Load() == adm.seen {
		return nil
	}
	return s.Standing(c)
}

// Standing returns nil as long as what let the caller in still does, ErrEnded after that.
func (s *Service) Standing(c Caller) error { return s.standing(c, true) }

// Stands is Standing for who is remembered without a tenant.
func (s *Service) Stands(c Caller) error { return s.standing(c, false) }

func (s *Service) standing(c Caller, tenant bool) error {
	if c.DeviceID == "" {
		if id, ok := strings.CutPrefix(c.Principal, linkKeySubject); ok && c.Role == RoleNode && !s.linkKeyStands(id) {
			return ErrEnded.WithText("the link key was revoked")
		}
		if strings.HasPrefix(c.Principal, memberPrefix) && (s.auth.Members == nil || !s.auth.Members.Stands(c.Principal)) {
			return ErrEnded.WithText("the tailnet or gateway.tailnet.grants do not let this caller in any more")
		}
		return nil
	}
	d, exists, err := s.store.Device(c.DeviceID)
	if err != nil {
		return err
	}
	if !stands(c, d, exists) || tenant && outgrown(c, d) || (c.TokenID != "" && c.TokenID != tokenID(d.Tokens[c.Role].Token)) {
		return ErrEnded
	}
	return nil
}

// stands reports whether the device of a caller still is what it was when the caller was let in.
func stands(c Caller, d Device, exists bool) bool {
	if !exists {
		return !c.Paired
	}
	return !d.revoked(c.Role)
}

// outgrown reports whether a caller came in as one of the gateway's owner by a device that is a tenant's now.
func outgrown(c Caller, d Device) bool { return d.Tenant != "" && c.Tenant != d.Tenant }

// check is Standing for who is about to change something: nobody removed in the meantime does.
func check(tx Tx, c Caller) error {
	if c.DeviceID == "" {
		return nil
	}
	d, exists, err := tx.Device(c.DeviceID)
	if err == nil && (!stands(c, d, exists) || outgrown(c, d)) {
		err = ErrEnded
	}
	return err
}

// revoked reports whether the device had the role and lost it.
func (d Device) revoked(role Role) bool { return !d.Tokens[role].RevokedAt.IsZero() }

// tokenID names a token without giving it away.
func tokenID(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:8])
}
