package clienttest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/identity"
)

// The devices of a new Daemon: a laptop whose operator token was revoked and that asks to be let in
// again, and a desk that is paired as operator and node.
const (
	LaptopID  = "1a91a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
	DeskID    = "de5c0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e"
	RequestID = "7e9fe57a-0000-4000-8000-000000000001"
)

const operatorRead = "operator.read"

// pairDevices is how devices stand at first.
func (d *Daemon) pairDevices() {
	at := timestamppb.New(time.Now().Add(-time.Hour))
	d.devices = []*devicesv1.Device{
		{DeviceId: DeskID, DisplayName: "desk", Platform: "linux", Roles: []string{"node", "operator"}, Connections: 2,
			Scopes: []string{"operator.admin"}, CreatedAt: at, ApprovedAt: at, Tokens: []*devicesv1.Token{
				{Role: "node", CreatedAt: at}, {Role: "operator", Scopes: []string{"operator.admin"}, CreatedAt: at}}},
		{DeviceId: LaptopID, DisplayName: "laptop", Platform: "macos", Roles: []string{"operator"}, RemoteIp: "192.0.2.7",
			Scopes: []string{operatorRead}, CreatedAt: at, ApprovedAt: at, Tokens: []*devicesv1.Token{
				{Role: "operator", Scopes: []string{operatorRead}, CreatedAt: at, RevokedAt: at}}},
	}
	d.requests = []*devicesv1.PairingRequest{{
		RequestId: RequestID, DeviceId: LaptopID, DisplayName: "laptop", Platform: "macos", Roles: []string{"operator"},
		Scopes: []string{operatorRead}, RemoteIp: "192.0.2.7", Repair: true, RequestedAt: timestamppb.Now(),
		ExpiresAt: timestamppb.New(time.Now().Add(5 * time.Minute)),
	}}
	d.invites, d.tokens = map[string]*devicesv1.CreateInviteRequest{}, map[string]bool{}
}

// token makes a text that looks like a token and is the same in each run.
func (d *Daemon) token() string {
	d.minted++
	sum := sha256.Sum256(fmt.Appendf(nil, "token %d", d.minted))
	return hex.EncodeToString(sum[:])[:43]
}

// device, request and the other helpers are called with mu held.
func (d *Daemon) device(id string) *devicesv1.Device {
	i := slices.IndexFunc(d.devices, func(x *devicesv1.Device) bool { return x.GetDeviceId() == id })
	if i < 0 {
		return nil
	}
	return d.devices[i]
}

// take removes an open request.
func (d *Daemon) take(id string) (*devicesv1.PairingRequest, error) {
	i := slices.IndexFunc(d.requests, func(x *devicesv1.PairingRequest) bool { return x.GetRequestId() == id })
	if i < 0 {
		return nil, fail(codes.NotFound, "identity.unknown_request", "no such pairing request is open", nil)
	}
	p := d.requests[i]
	d.requests = slices.Delete(d.requests, i, i+1)
	return p, nil
}

// roleToken finds the token of a device for a role.
func (d *Daemon) roleToken(id, role string) (*devicesv1.Device, *devicesv1.Token, error) {
	dev := d.device(id)
	for _, t := range dev.GetTokens() {
		if t.GetRole() == role {
			return dev, t, nil
		}
	}
	return nil, nil, fail(codes.NotFound, "identity.unknown_token", "the device is not paired in this role, or not with these scopes", nil)
}

// deviceService is the service: its methods have names that other services use as well.
type deviceService struct {
	devicesv1.UnimplementedDeviceServiceServer
	d *Daemon
}

func (s deviceService) ListDevices(context.Context, *devicesv1.ListDevicesRequest) (*devicesv1.ListDevicesResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	out := &devicesv1.ListDevicesResponse{}
	for _, p := range d.requests {
		out.Pending = append(out.Pending, clone(p))
	}
	for _, x := range d.devices {
		out.Devices = append(out.Devices, clone(x))
	}
	return out, nil
}

func (s deviceService) ApprovePairing(_ context.Context, in *devicesv1.ApprovePairingRequest) (*devicesv1.ApprovePairingResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := d.take(in.GetRequestId())
	if err != nil {
		return nil, err
	}
	dev, t, err := d.roleToken(p.GetDeviceId(), p.GetRoles()[0])
	if err != nil {
		return nil, err
	}
	t.RevokedAt, t.RotatedAt = nil, timestamppb.Now()
	return &devicesv1.ApprovePairingResponse{Device: clone(dev)}, nil
}

func (s deviceService) RejectPairing(_ context.Context, in *devicesv1.RejectPairingRequest) (*devicesv1.RejectPairingResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	p, err := d.take(in.GetRequestId())
	return &devicesv1.RejectPairingResponse{DeviceId: p.GetDeviceId()}, err
}

func (s deviceService) RemoveDevice(_ context.Context, in *devicesv1.RemoveDeviceRequest) (*devicesv1.RemoveDeviceResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.devices)
	d.devices = slices.DeleteFunc(d.devices, func(x *devicesv1.Device) bool { return x.GetDeviceId() == in.GetDeviceId() })
	if len(d.devices) == n {
		return nil, fail(codes.NotFound, "identity.unknown_device", "no such device is paired", nil)
	}
	return &devicesv1.RemoveDeviceResponse{}, nil
}

func (s deviceService) RotateToken(_ context.Context, in *devicesv1.RotateTokenRequest) (*devicesv1.RotateTokenResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	_, t, err := d.roleToken(in.GetDeviceId(), in.GetRole())
	if err != nil {
		return nil, err
	}
	if len(in.GetScopes()) > 0 {
		t.Scopes = in.GetScopes()
	}
	t.RevokedAt, t.RotatedAt = nil, timestamppb.Now()
	return &devicesv1.RotateTokenResponse{Token: d.token(), Scopes: t.GetScopes(), RotatedAt: t.GetRotatedAt()}, nil
}

func (s deviceService) RevokeToken(_ context.Context, in *devicesv1.RevokeTokenRequest) (*devicesv1.RevokeTokenResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	_, t, err := d.roleToken(in.GetDeviceId(), in.GetRole())
	if err != nil {
		return nil, err
	}
	t.RevokedAt = timestamppb.Now()
	return &devicesv1.RevokeTokenResponse{RevokedAt: t.GetRevokedAt()}, nil
}

func (s deviceService) CreateInvite(_ context.Context, in *devicesv1.CreateInviteRequest) (*devicesv1.CreateInviteResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	ttl := 10 * time.Minute
	if in.GetTtl() != nil {
		ttl = in.GetTtl().AsDuration()
	}
	if ttl <= 0 || ttl > 10*time.Minute {
		return nil, fail(codes.InvalidArgument, "identity.invite_ttl", "an invite holds from 1 second to 10 minutes", nil)
	}
	i := client.Invite{Secret: "hzi_" + d.token(), Role: in.GetRole(), Name: "box"}
	if d.remote != nil {
		i.Addresses, i.Pin = []string{d.remote.Address}, d.remote.Fingerprint
	}
	d.invites[i.Secret] = in
	return &devicesv1.CreateInviteResponse{
		Secret: i.Secret, ExpiresAt: timestamppb.New(time.Now().Add(ttl)), Addresses: i.Addresses, TlsFingerprint: i.Pin, Code: i.Code(),
	}, nil
}

func (s deviceService) CreateLinkKey(_ context.Context, in *devicesv1.CreateLinkKeyRequest) (*devicesv1.CreateLinkKeyResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range d.linkKeys {
		if k.GetName() == in.GetName() && k.GetTenant() == in.GetTenant() {
			return nil, fail(codes.InvalidArgument, "identity.link_key_name", "a link key has a name of 1 to 100 printable characters, which no other link key has", nil)
		}
	}
	k := &devicesv1.LinkKey{
		KeyId: fmt.Sprintf("%08x-0000-4000-8000-000000000000", 0x5eed00+len(d.linkKeys)), Name: in.GetName(), Tenant: in.GetTenant(),
		CreatedBy: "local:1000", CreatedAt: timestamppb.Now(),
	}
	d.linkKeys = append(d.linkKeys, k)
	return &devicesv1.CreateLinkKeyResponse{Key: k, Secret: "hk-" + d.token()}, nil
}

func (s deviceService) ListLinkKeys(context.Context, *devicesv1.ListLinkKeysRequest) (*devicesv1.ListLinkKeysResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	return &devicesv1.ListLinkKeysResponse{Keys: slices.Clone(d.linkKeys)}, nil
}

func (s deviceService) RevokeLinkKey(_ context.Context, in *devicesv1.RevokeLinkKeyRequest) (*devicesv1.RevokeLinkKeyResponse, error) {
	d := s.d
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, k := range d.linkKeys {
		if k.GetKeyId() == in.GetKeyId() {
			d.linkKeys = slices.Delete(d.linkKeys, i, i+1)
			return &devicesv1.RevokeLinkKeyResponse{Key: k}, nil
		}
	}
	return nil, fail(codes.NotFound, "identity.unknown_link_key", "no such link key; see: hanzoctl nodes keys list", nil)
}

// enroll uses the invite that was presented as the bearer token.
func (d *Daemon) enroll(secret string, in *devicesv1.EnrollRequest) (*devicesv1.EnrollResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i := d.invites[secret]
	if i == nil {
		return nil, fail(codes.Unauthenticated, "identity.invite", "this invite was used or has expired; make a new one with: hanzoctl devices invite", nil)
	}
	delete(d.invites, secret)
	key, ok := identity.ParseKey(in.GetPublicKey())
	if !ok {
		return nil, fail(codes.InvalidArgument, "identity.public_key", "the public key is no Ed25519 key in base64url", nil)
	}
	out := &devicesv1.EnrollResponse{DeviceId: identity.DeviceID(key), Role: i.GetRole(), Scopes: i.GetScopes(), Token: d.token()}
	d.tokens[out.GetToken()] = true
	now := timestamppb.Now()
	d.devices = append(slices.DeleteFunc(d.devices, func(x *devicesv1.Device) bool { return x.GetDeviceId() == out.GetDeviceId() }),
		&devicesv1.Device{DeviceId: out.GetDeviceId(), DisplayName: in.GetDisplayName(), Platform: in.GetPlatform(), Roles: []string{out.GetRole()},
			Scopes: out.GetScopes(), CreatedAt: now, ApprovedAt: now, Tokens: []*devicesv1.Token{{Role: out.GetRole(), Scopes: out.GetScopes(), CreatedAt: now}}})
	return out, nil
}
