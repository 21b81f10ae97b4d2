package identity

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// linkKeyPrefix begins the secret of a link key, as instances of the originals have it (tunnel.md §1.2).
	linkKeyPrefix = "hk-"
	// maxLinkKeys bounds the link keys, maxLinkKeyName the name of one in characters.
	maxLinkKeys    = 10_000
	maxLinkKeyName = 100
	// maxTenant bounds the name of a tenant, in characters.
	maxTenant = 100
	// linkKeySubject begins the principal of a link that a key has let in.
	linkKeySubject = "link-key:"
)

// The refusals of links. Instances are told no more than their texts.
var (
	ErrLinkToken    = errs.Define(errs.Unauthenticated, "identity.link_token", "present a token: Authorization: Bearer, a password in the address, or ?token=")
	ErrLinkRefused  = errs.Define(errs.Unauthenticated, "identity.link_refused", "the token is not accepted here")
	ErrLinkTenant   = errs.Define(errs.Denied, "identity.link_tenant", "the token names no organisation")
	ErrLinkKeyName  = errs.Define(errs.Invalid, "identity.link_key_name", "a link key has a name of 1 to 100 printable characters, which no other link key has")
	ErrTenantName   = errs.Define(errs.Invalid, "identity.tenant_name", "a tenant has a name of at most 100 printable characters without spaces")
	ErrTooManyKeys  = errs.Define(errs.Exhausted, "identity.too_many_link_keys", "there are 10,000 link keys; revoke some")
	ErrNoLinkKey    = errs.Define(errs.NotFound, "identity.unknown_link_key", "no such link key; see: hanzoctl nodes keys list")
	ErrLinkKeyOther = errs.Define(errs.Denied, "identity.link_key_tenant", "who belongs to a tenant makes link keys for that tenant only")
)

// LinkKey lets instances link (tunnel.md §1.2). The secret itself is not kept.
type LinkKey struct {
	ID string
	// Hash is the SHA-256 of the secret, in hex. It is not shown.
	Hash string
	Name string
	// Tenant is the organisation that its instances belong to, empty for the gateway's own.
	Tenant string
	// CreatedBy is the subject of who made it.
	CreatedBy string
	CreatedAt time.Time
}

// LinkAttempt is an instance that wants to link.
type LinkAttempt struct {
	// Token is what it presents, in any of the three forms; empty for nothing.
	Token string
	Peer  Peer
}

// LinkAdmission is an instance that may link.
type LinkAdmission struct {
	// Credential names what let it in. It is the same for every link that the same credential lets in, and no
	// secret.
	Credential string
	// Tenant is the organisation, empty for the gateway's own credentials.
	Tenant string
	// DeviceID and TokenID are those of a paired device, empty for others.
	DeviceID string
	TokenID  string
	seen     uint64
}

// Caller is the instance as a caller, without its connection and node.
func (a LinkAdmission) Caller() Caller {
	return Caller{
		Role: RoleNode, DeviceID: a.DeviceID, Paired: a.DeviceID != "", TokenID: a.TokenID, Tenant: a.Tenant, Principal: a.Credential,
	}
}

// AdmitLink decides whether an instance may link: with a link key, the token of a paired device with the
// role node, the shared token or password, or a token of the identity service, whose organisation is the
// instance's tenant; and who the tailnet or a trusted proxy names. In mode none, programs of this machine
// may, whose devices would be paired unasked as well. Failures count as in a connect.
func (s *Service) AdmitLink(ctx context.Context, a LinkAttempt) (LinkAdmission, error) {
	seen := s.endings.Load()
	adm, err := s.admitLink(ctx, strings.TrimSpace(a.Token), a.Peer)
	adm.seen = seen
	return adm, err
}

func (s *Service) admitLink(ctx context.Context, token string, from Peer) (LinkAdmission, error) {
	if m := from.Member; m != nil {
		if !m.May(RoleNode) {
			return LinkAdmission{}, m.Refusal(RoleNode)
		}
		if token != "" {
			from.MemberCounts = false // the token decides
		}
	}
	if k, ok := s.linkKey(token); ok {
		return LinkAdmission{Credential: linkKeySubject + k.ID, Tenant: k.Tenant}, nil
	}
	c, ok, err := s.deviceBearer(token)
	switch {
	case err != nil:
		return LinkAdmission{}, err
	case ok && c.Role != RoleNode:
		return LinkAdmission{}, ErrLinkRefused
	case ok:
		return LinkAdmission{Credential: c.Principal, Tenant: c.Tenant, DeviceID: c.DeviceID, TokenID: c.TokenID}, nil
	}
	if s.auth.Mode == AuthNone && from.Member == nil {
		if !from.Local || from.HasOrigin {
			return LinkAdmission{}, ErrLinkToken
		}
		return LinkAdmission{Credential: "local"}, nil
	}
	if token == "" && s.auth.Mode != AuthTrustedProxy && !from.MemberCounts {
		return LinkAdmission{}, ErrLinkToken
	}
	sh := s.evaluate(ctx, credentials{token: token, password: token, from: from, scope: LimitSecret})
	switch {
	case sh.ok && sh.method == AuthIAM && sh.person.Org == "":
		return LinkAdmission{}, ErrLinkTenant
	case sh.ok && sh.method == AuthIAM:
		return LinkAdmission{Credential: sh.principal, Tenant: sh.person.Org}, nil
	case sh.vouches(RoleNode):
		return LinkAdmission{Credential: cmp.Or(sh.principal, "shared-secret")}, nil
	case sh.reason == reasonLimited:
		return LinkAdmission{}, ErrRateLimited.With("retryAfterMs", max(sh.retryAfter.Milliseconds(), 1))
	case token == "":
		return LinkAdmission{}, ErrLinkToken
	default:
		return LinkAdmission{}, ErrLinkRefused
	}
}

// ConfirmLink is Confirm for a link.
func (s *Service) ConfirmLink(c Caller, adm LinkAdmission) error {
	return s.Confirm(c, Admission{seen: adm.seen})
}

// linkKey finds the key of a secret.
func (s *Service) linkKey(secret string) (LinkKey, bool) {
	if !strings.HasPrefix(secret, linkKeyPrefix) {
		return LinkKey{}, false
	}
	// The lookup by hash tells nothing of the secrets that there are by how long it takes.
	sum := sha256.Sum256([]byte(secret))
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.linkKeys[hex.EncodeToString(sum[:])]
	return k, ok
}

// linkKeyStands reports whether the key of a principal was not revoked.
func (s *Service) linkKeyStands(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.linkKeys {
		if k.ID == id {
			return true
		}
	}
	return false
}

// LinkKeyIn and LinkKeyOut are the arguments and the result of CreateLinkKey.
type (
	LinkKeyIn struct {
		Name string
		// Tenant is that of the caller where it is empty.
		Tenant string
	}
	LinkKeyOut struct {
		// Key is without its hash.
		Key LinkKey
		// Secret is not shown again.
		Secret string
	}
)

// CreateLinkKey makes a secret with which instances link until it is revoked.
func (s *Service) CreateLinkKey(ctx context.Context, c Caller, in LinkKeyIn) (LinkKeyOut, error) {
	name, tenant := strings.TrimSpace(in.Name), strings.TrimSpace(in.Tenant)
	if name == "" || !printable(name, maxLinkKeyName) {
		return LinkKeyOut{}, ErrLinkKeyName
	}
	if !printable(tenant, maxTenant) || strings.ContainsFunc(tenant, unicode.IsSpace) {
		return LinkKeyOut{}, ErrTenantName
	}
	if c.Tenant != "" {
		if tenant != "" && tenant != c.Tenant {
			return LinkKeyOut{}, ErrLinkKeyOther
		}
		tenant = c.Tenant
	}
	secret, err := newToken()
	if err != nil {
		return LinkKeyOut{}, err
	}
	secret = linkKeyPrefix + secret
	sum := sha256.Sum256([]byte(secret))
	k := LinkKey{
		ID: uuid.NewString(), Hash: hex.EncodeToString(sum[:]), Name: name, Tenant: tenant, CreatedBy: c.Subject(), CreatedAt: s.now(),
	}
	err = s.change(ctx, c, func(tx Tx) error {
		all, err := tx.LinkKeys()
		switch {
		case err != nil:
			return err
		case len(all) >= maxLinkKeys:
			return ErrTooManyKeys
		case slices.ContainsFunc(all, func(o LinkKey) bool { return o.Name == name && o.Tenant == tenant }):
			return ErrLinkKeyName.With("name", name)
		}
		if err := tx.PutLinkKey(k); err != nil {
			return err
		}
		return tx.Audit(Audit{At: k.CreatedAt, Kind: "link.key.create", Subject: c.Subject(), RequestID: k.ID, Detail: k.shownAs()})
	})
	if err != nil {
		return LinkKeyOut{}, err
	}
	s.mu.Lock()
	s.linkKeys[k.Hash] = k
	s.mu.Unlock()
	k.Hash = ""
	return LinkKeyOut{Key: k, Secret: secret}, nil
}

// shownAs is the name with the tenant.
func (k LinkKey) shownAs() string {
	if k.Tenant == "" {
		return k.Name
	}
	return k.Name + " of " + k.Tenant
}

func printable(s string, most int) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// LinkKeysOut is the result of LinkKeys.
type LinkKeysOut struct {
	// Keys are in the order of tenant and name, without their hashes.
	Keys []LinkKey
}

// LinkKeys returns the link keys that were not revoked: those of its tenant for a caller with one.
func (s *Service) LinkKeys(_ context.Context, c Caller) (LinkKeysOut, error) {
	out := LinkKeysOut{Keys: []LinkKey{}}
	s.mu.Lock()
	for _, k := range s.linkKeys {
		if c.Tenant == "" || k.Tenant == c.Tenant {
			k.Hash = ""
			out.Keys = append(out.Keys, k)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out.Keys, func(a, b LinkKey) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// RevokeLinkKeyIn and RevokeLinkKeyOut are the arguments and the result of RevokeLinkKey.
type (
	RevokeLinkKeyIn struct {
		// ID names the key.
		ID string
	}
	RevokeLinkKeyOut struct {
		Key LinkKey
	}
)

// RevokeLinkKey ends a link key and what it has let in.
func (s *Service) RevokeLinkKey(ctx context.Context, c Caller, in RevokeLinkKeyIn) (RevokeLinkKeyOut, error) {
	var k LinkKey
	err := s.change(ctx, c, func(tx Tx) error {
		all, err := tx.LinkKeys()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(o LinkKey) bool { return o.ID == in.ID && (c.Tenant == "" || o.Tenant == c.Tenant) })
		if i < 0 {
			return ErrNoLinkKey
		}
		k = all[i]
		if err := tx.DeleteLinkKey(k.ID); err != nil {
			return err
		}
		return tx.Audit(Audit{At: s.now(), Kind: "link.key.revoke", Subject: c.Subject(), RequestID: k.ID, Detail: k.shownAs()})
	})
	if err != nil {
		return RevokeLinkKeyOut{}, err
	}
	s.mu.Lock()
	delete(s.linkKeys, k.Hash)
	s.mu.Unlock()
	s.end(Ended{LinkKey: k.ID, Reason: "the link key was revoked"})
	k.Hash = ""
	return RevokeLinkKeyOut{Key: k}, nil
}
