package identity

import (
	"context"
	"crypto/sha256"
	"strings"
)

// AuthMode is how clients without a device token prove that they may connect.
type AuthMode string

// The modes this version serves.
const (
	AuthNone     AuthMode = "none"
	AuthToken    AuthMode = "token"
	AuthPassword AuthMode = "password"
)

// Secret is a shared secret that can be compared but not read.
type Secret interface {
	// Equal compares in constant time.
	Equal(candidate string) bool
}

// Auth is the configured authentication.
type Auth struct {
	Mode AuthMode
	// Secret is the token or the password; nil when none is configured.
	Secret Secret
}

// shared is the outcome of the shared part of authentication.
type shared struct {
	ok     bool   // the mode lets the client in
	secret bool   // a shared secret was presented and matched
	reason string // why not
}

// evaluate is protocol.md §4.2.
func (s *Service) evaluate(a Attempt) shared {
	if a.Owner {
		return shared{ok: true, secret: true}
	}
	switch s.auth.Mode {
	case AuthNone:
		return shared{ok: true}
	case AuthPassword:
		return s.match(strings.TrimSpace(a.Password), "password")
	default:
		return s.match(strings.TrimSpace(a.Token), "token")
	}
}

func (s *Service) match(candidate, kind string) shared {
	switch {
	case s.auth.Secret == nil:
		return shared{reason: kind + "_missing_config"}
	case candidate == "":
		return shared{reason: kind + "_missing"}
	case !s.auth.Secret.Equal(candidate):
		return shared{reason: kind + "_mismatch"}
	default:
		return shared{ok: true, secret: true}
	}
}

// admitWithoutDevice is protocol.md §4.6.
func (s *Service) admitWithoutDevice(a Attempt, sh shared) (Admission, error) {
	switch {
	case a.ControlUI:
		return Admission{}, ErrControlUIDevice
	case sh.secret:
		return Admission{Scopes: a.Scopes, Platform: a.Platform, DeviceFamily: a.DeviceFamily}, nil
	case !sh.ok && (strings.TrimSpace(a.Token) != "" || strings.TrimSpace(a.Password) != ""):
		return Admission{}, ErrAuth.With("reason", sh.reason)
	default:
		return Admission{}, ErrDeviceRequired
	}
}

// skipsPairing is the first paragraph of protocol.md §4.7.
func (s *Service) skipsPairing(a Attempt, sh shared) bool {
	if !sh.secret {
		return false
	}
	return a.Role == RoleNode ||
		(a.ClientID == "gateway-client" && a.ClientMode == "backend" && a.Peer.Local && !a.Peer.HasOrigin)
}

// Bearer returns the caller that presents a token and nothing else: the shared secret makes an
// operator with every scope, a device token the device in the token's role, the secret of an invite
// somebody who may enrol. The door fills in which door it is.
func (s *Service) Bearer(_ context.Context, token string, from Peer) (Caller, error) {
	remoteIP := from.IP()
	if token == "" {
		return Caller{}, ErrBearerRequired
	}
	if s.auth.Secret != nil && s.auth.Mode != AuthNone && s.auth.Secret.Equal(token) {
		return Caller{
			Role: RoleOperator, Scopes: AllOperatorScopes, Principal: "shared-secret", RemoteIP: remoteIP,
		}, nil
	}
	if strings.HasPrefix(token, invitePrefix) {
		return s.invited(token, remoteIP)
	}
	s.mu.Lock()
	ref, ok := s.tokens[sha256.Sum256([]byte(token))]
	s.mu.Unlock()
	if !ok {
		return Caller{}, ErrBearerNotAccepted
	}
	dev, exists, err := s.store.Device(ref.device)
	if err != nil {
		return Caller{}, err
	}
	t := dev.Tokens[ref.role]
	if !exists || !t.RevokedAt.IsZero() || !equalSecrets(token, t.Token) {
		return Caller{}, ErrBearerNotAccepted
	}
	c := Caller{
		Role: ref.role, Scopes: t.Scopes, DeviceID: dev.ID, Paired: true, TokenID: tokenID(token), Principal: "device:" + dev.ID,
		ClientID: dev.ClientID, ClientMode: dev.ClientMode, DisplayName: dev.DisplayName, RemoteIP: remoteIP,
	}
	if ref.role == RoleNode {
		c.NodeID = dev.ID
	}
	return c, nil
}
