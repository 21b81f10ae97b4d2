package client

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
)

// knockTimeout is how long one address of an invite may take to answer; the next one is tried then.
const knockTimeout = 3 * time.Second

// Signer is the key of the device that enrols.
type Signer interface {
	// PublicKey is the raw Ed25519 key in base64url.
	PublicKey() string
	// Sign returns the signature of a text in base64url.
	Sign(text string) string
}

// Machine is what the device says of itself. Platform and family are kept: a later connection that
// names others has to be approved.
type Machine struct {
	Name, Platform, Family string
}

// Enrollment is what a device keeps.
type Enrollment struct {
	// Address is the host:port that answered, Pin the fingerprint of its certificate.
	Address, Pin string
	DeviceID     string
	Role         string
	Scopes       []string
	// Token lets the device in from now on.
	Token string
}

// Enroll uses an invite up and pairs the device with this key. It asks the first of the addresses that
// answers as the pinned daemon does; nothing secret is sent to any other.
func Enroll(ctx context.Context, i Invite, key Signer, m Machine, clientName string) (Enrollment, error) {
	public, err := base64.RawURLEncoding.DecodeString(key.PublicKey())
	if err != nil || len(public) != ed25519.PublicKeySize {
		return Enrollment{}, fmt.Errorf("the key of this device is no Ed25519 key")
	}
	id := hexSum(public)
	req := &devicesv1.EnrollRequest{
		PublicKey: key.PublicKey(), DisplayName: m.Name, Platform: m.Platform, DeviceFamily: m.Family,
		Signature: key.Sign(enrollText(i.Secret, id, m)),
	}
	err = error(&Error{Code: CodeBadInvite, Class: errs.Invalid, Message: "this invite names no address of its daemon"})
	for _, address := range i.Addresses {
		var out *devicesv1.EnrollResponse
		if out, err = enrollAt(ctx, address, i, req, clientName); err == nil {
			return Enrollment{
				Address: address, Pin: i.Pin, DeviceID: id, Role: out.GetRole(), Scopes: out.GetScopes(), Token: out.GetToken(),
			}, nil
		}
		if !elsewhere(err) {
			break
		}
	}
	return Enrollment{}, err
}

// enrollText is what the device signs (see EnrollRequest.signature).
func enrollText(secret, deviceID string, m Machine) string {
	return strings.Join([]string{"hanzod-enroll-v1", hexSum([]byte(secret)), deviceID, m.Platform, m.Family}, "\n")
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// elsewhere reports whether the failure says that the daemon is not at this address, and that nothing
// was sent to it.
func elsewhere(err error) bool {
	if _, ok := errors.AsType[*NotRunning](err); ok {
		return true
	}
	switch code(err) {
	case CodeWrongPin, CodeUnknownDaemon, CodeNotTLS, CodeNotDaemon:
		return true
	}
	return false
}

func enrollAt(ctx context.Context, address string, i Invite, req *devicesv1.EnrollRequest, clientName string) (*devicesv1.EnrollResponse, error) {
	// An address that swallows packets would take the time of all others.
	d := net.Dialer{Timeout: knockTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, &NotRunning{Socket: address, Reason: err.Error(), Remote: true}
	}
	_ = conn.Close() // it only had to open
	c, err := Dial(ctx, Options{Host: address, TLSFingerprint: i.Pin, Token: i.Secret, ClientName: clientName})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Devices.Enroll(ctx, req)
}
