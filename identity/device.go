package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"strconv"
	"strings"
	"time"
)

// Device is a keypair that holds roles on this gateway.
type Device struct {
	// ID is the SHA-256 of the raw public key, in hex.
	ID string
	// PublicKey is the raw key in base64url without padding.
	PublicKey    string
	DisplayName  string
	Platform     string
	DeviceFamily string
	ClientID     string
	ClientMode   string
	Role         Role
	Roles        []Role
	// Scopes is what connections of the device have asked for and got; ApprovedScopes what was
	// approved, which bounds rotation.
	Scopes         []Scope
	ApprovedScopes []Scope
	RemoteIP       string
	// Tenant is the organisation of the person that an identity service vouched for when the device came
	// with that person's token, empty for devices of the gateway's owner. What the device does later, with
	// its own token or any other credential, stays within it; only Remove takes it away.
	Tenant     string
	Tokens     map[Role]DeviceToken
	CreatedAt  time.Time
	ApprovedAt time.Time
}

// DeviceToken is a secret that lets a device in for one role. Zero times mean never.
type DeviceToken struct {
	Token      string
	Role       Role
	Scopes     []Scope
	CreatedAt  time.Time
	RotatedAt  time.Time
	RevokedAt  time.Time
	LastUsedAt time.Time
}

// Store keeps devices, the requests of those that want to be one, and invites. Writes are durable
// when they return nil.
type Store interface {
	Device(id string) (Device, bool, error)
	Devices() ([]Device, error)
	Requests() ([]Pairing, error)
	Invites() ([]Invite, error)
	LinkKeys() ([]LinkKey, error)
	// ChangeDevices runs f in one transaction: all that it writes is kept, or nothing. Nothing is kept
	// when f fails; its error is returned as it is. f may run more than once.
	ChangeDevices(ctx context.Context, f func(Tx) error) error
}

// Tx is what a change sees and writes. It may be used during the call that got it only.
type Tx interface {
	// Device returns a device with its id alone when there is none.
	Device(id string) (d Device, exists bool, err error)
	PutDevice(Device) error
	DeleteDevice(id string) error
	HasRequest(id string) bool
	PutRequest(Pairing) error
	DeleteRequest(id string) error
	HasInvite(id string) bool
	PutInvite(Invite) error
	DeleteInvite(id string) error
	LinkKeys() ([]LinkKey, error)
	PutLinkKey(LinkKey) error
	DeleteLinkKey(id string) error
	Audit(Audit) error
}

// Audit is one row of the log of who let whom in or kept whom out.
type Audit struct {
	At time.Time
	// Kind is device.pair (without being asked), device.approve, device.reject, device.remove,
	// device.rotate, device.revoke, device.invite, device.enroll, link.key.create or link.key.revoke.
	Kind string
	// Subject is who did it, as the daemon verified it.
	Subject  string
	DeviceID string
	Role     Role
	Scopes   []Scope
	// RequestID is the pairing request that was decided, the invite, or the link key, whose name is in Detail.
	RequestID string
	Detail    string
}

// Proof is what a device signs at connect.
type Proof struct {
	ID        string
	PublicKey string
	Signature string
	// SignedAt is in Unix milliseconds, as signed.
	SignedAt int64
	Nonce    string
}

// Signed is the fields of a signature payload (protocol.md §4.5).
type Signed struct {
	DeviceID     string
	ClientID     string
	ClientMode   string
	Role         Role
	Scopes       []Scope
	SignedAt     int64
	Token        string
	Nonce        string
	Platform     string
	DeviceFamily string
}

// Payload returns the text that a device signs, version "v3", "v2" or "v1".
func (f Signed) Payload(version string) string {
	scopes := make([]string, len(f.Scopes))
	for i, s := range f.Scopes {
		scopes[i] = string(s)
	}
	parts := []string{
		version, f.DeviceID, f.ClientID, f.ClientMode, string(f.Role), strings.Join(scopes, ","),
		strconv.FormatInt(f.SignedAt, 10), f.Token,
	}
	if version != "v1" {
		parts = append(parts, f.Nonce)
	}
	if version == "v3" {
		parts = append(parts, NormalMetadata(f.Platform), NormalMetadata(f.DeviceFamily))
	}
	return strings.Join(parts, "|")
}

// ambiguous reports whether a field holds a separator of the payload, so that other fields would
// sign alike. The token may hold one: it stands between a number and a nonce of ours, or at the end.
func (f Signed) ambiguous() bool {
	for _, s := range f.Scopes {
		if s == "" || strings.ContainsAny(string(s), "|,") { // one empty scope reads as none
			return true
		}
	}
	for _, s := range []string{f.ClientID, f.ClientMode, string(f.Role), f.Platform, f.DeviceFamily} {
		if strings.Contains(s, "|") {
			return true
		}
	}
	return false
}

// NormalMetadata returns platform or family as it is signed and compared: trimmed, ASCII letters in
// lower case.
func NormalMetadata(s string) string {
	s = strings.TrimSpace(s)
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// DeviceID returns the id of a raw public key.
func DeviceID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:])
}

// EncodeKey returns a raw public key as devices send it.
func EncodeKey(key ed25519.PublicKey) string { return base64.RawURLEncoding.EncodeToString(key) }

// ParseKey reads a public key: base64url or base64 of the raw key, or PEM.
func ParseKey(s string) (ed25519.PublicKey, bool) {
	if strings.Contains(s, "BEGIN") {
		block, _ := pem.Decode([]byte(s))
		if block == nil {
			return nil, false
		}
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, false
		}
		key, ok := pub.(ed25519.PublicKey)
		return key, ok
	}
	raw, ok := decodeBase64(s)
	if !ok || len(raw) != ed25519.PublicKeySize {
		return nil, false
	}
	return ed25519.PublicKey(raw), true
}

// decodeBase64 reads either alphabet, with or without padding.
func decodeBase64(s string) ([]byte, bool) {
	s = strings.TrimRight(strings.TrimSpace(s), "=")
	s = strings.NewReplacer("+", "-", "/", "_").Replace(s)
	raw, err := base64.RawURLEncoding.DecodeString(s)
	return raw, err == nil
}

// SignatureSkew is how far the clock of a device may be off.
const SignatureSkew = 2 * time.Minute

// Verify checks a proof against the fields it should have signed and the nonce of this connection.
// It returns the raw key. The order of the checks is that of protocol.md §4.5.
func (p Proof) Verify(f Signed, nonce string, now time.Time) (ed25519.PublicKey, error) {
	key, ok := ParseKey(p.PublicKey)
	if !ok || DeviceID(key) != p.ID {
		return nil, ErrDeviceID
	}
	age := now.Sub(time.UnixMilli(p.SignedAt))
	if age > SignatureSkew || age < -SignatureSkew {
		return nil, ErrSignatureStale
	}
	got := strings.TrimSpace(p.Nonce)
	if got == "" {
		return nil, ErrNonceMissing
	}
	if got != nonce {
		return nil, ErrNonceMismatch
	}
	sig, ok := decodeBase64(p.Signature)
	if !ok || len(sig) != ed25519.SignatureSize || f.ambiguous() {
		return nil, ErrSignature
	}
	f.DeviceID, f.SignedAt, f.Nonce = p.ID, p.SignedAt, got
	for _, version := range []string{"v3", "v2"} {
		if ed25519.Verify(key, []byte(f.Payload(version)), sig) {
			return key, nil
		}
	}
	return nil, ErrSignature
}
