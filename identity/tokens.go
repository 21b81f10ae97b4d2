package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"maps"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
)

// verifyDeviceToken returns "" when the attempt carries the device's token for its role.
func (s *Service) verifyDeviceToken(a Attempt, dev Device, paired bool) string {
	candidate := strings.TrimSpace(a.DeviceToken)
	if candidate == "" {
		candidate = strings.TrimSpace(a.Token)
	}
	t, has := dev.Tokens[a.Role]
	switch {
	case candidate == "":
		return "token-missing"
	case !paired:
		return "device-not-paired"
	case !has:
		return "role-missing"
	case !t.RevokedAt.IsZero():
		return "token-revoked"
	case !equalSecrets(candidate, t.Token):
		return "token-mismatch"
	case !ScopesAllow(a.Role, a.Scopes, t.Scopes):
		return "scope-mismatch"
	default:
		return ""
	}
}

func equalSecrets(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

func setToken(d *Device, t DeviceToken) {
	tokens := make(map[Role]DeviceToken, len(d.Tokens)+1)
	maps.Copy(tokens, d.Tokens)
	tokens[t.Role] = t
	d.Tokens = tokens
}

func orStored(stored, claimed string) string {
	if stored != "" {
		return stored
	}
	return claimed
}

// refreshed returns the record as a connection of this kind leaves it, and whether it differs
// enough to be written.
func refreshed(d Device, a Attempt, byToken bool, now time.Time) (Device, bool) {
	n := d
	n.DisplayName, n.ClientID, n.ClientMode = a.DisplayName, a.ClientID, a.ClientMode
	n.Role, n.RemoteIP = a.Role, a.Peer.ReportedIP()
	n.Roles = Union(d.Roles, []Role{a.Role})
	n.Scopes = Union(d.Scopes, a.Scopes)
	t := d.Tokens[a.Role]
	stale := n.DisplayName != d.DisplayName || n.ClientID != d.ClientID || n.ClientMode != d.ClientMode ||
		n.Role != d.Role || n.RemoteIP != d.RemoteIP ||
		len(n.Roles) != len(d.Roles) || len(n.Scopes) != len(d.Scopes) ||
		t.Token == "" || !t.RevokedAt.IsZero() || !ScopesAllow(a.Role, a.Scopes, t.Scopes)
	if byToken && now.Sub(t.LastUsedAt) > lastUsedEvery {
		t.LastUsedAt = now
		setToken(&n, t)
		stale = true
	}
	return n, stale
}

func newToken() (string, error) {
	var b [tokenBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", errs.Wrap(errs.Internal, "make a token", err)
	}
	return base64.RawURLEncoding.EncodeToString(b[:]), nil
}
