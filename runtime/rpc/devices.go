package rpc

import (
	"context"
	"maps"
	"slices"

	"github.com/hanzoai/hanzod/client"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Devices is what the door needs of identity.Service.
type Devices interface {
	List(context.Context, identity.Caller) (identity.ListOut, error)
	Approve(context.Context, identity.Caller, identity.ApproveIn) (identity.ApproveOut, error)
	Reject(context.Context, identity.Caller, identity.RejectIn) (identity.RejectOut, error)
	Remove(context.Context, identity.Caller, identity.RemoveIn) (identity.RemoveOut, error)
	RotateToken(context.Context, identity.Caller, identity.RotateIn) (identity.RotateOut, error)
	RevokeToken(context.Context, identity.Caller, identity.RevokeIn) (identity.RevokeOut, error)
	CreateInvite(context.Context, identity.Caller, identity.InviteIn) (identity.InviteOut, error)
	CreateLinkKey(context.Context, identity.Caller, identity.LinkKeyIn) (identity.LinkKeyOut, error)
	LinkKeys(context.Context, identity.Caller) (identity.LinkKeysOut, error)
	RevokeLinkKey(context.Context, identity.Caller, identity.RevokeLinkKeyIn) (identity.RevokeLinkKeyOut, error)
	Enroll(context.Context, identity.Caller, identity.EnrollIn) (identity.EnrollOut, error)
	// Admit decides whether a node gets in; Confirm is asked once its link can be ended from outside.
	Admit(context.Context, identity.Attempt) (identity.Admission, error)
	Confirm(identity.Caller, identity.Admission) error
	// Standing returns nil as long as what let the caller in still does.
	Standing(identity.Caller) error
}

// Remote is where other machines reach the daemon's gRPC door.
type Remote struct {
	// Addresses are host:port, the most useful first.
	Addresses []string
	// Fingerprint is the SHA-256 of the certificate, in hex.
	Fingerprint string
	// Name is what this machine is called.
	Name string
}

type devicesServer struct {
	devicesv1.UnimplementedDeviceServiceServer
	s *Server
}

func (d *devicesServer) ListDevices(ctx context.Context, req *devicesv1.ListDevicesRequest) (*devicesv1.ListDevicesResponse, error) {
	return call(ctx, req, nothing, without(d.s.d.Devices.List), func(out identity.ListOut) (*devicesv1.ListDevicesResponse, error) {
		return listDevicesToProto(out, d.s.connections())
	})
}

func (d *devicesServer) ApprovePairing(ctx context.Context, req *devicesv1.ApprovePairingRequest) (*devicesv1.ApprovePairingResponse, error) {
	return call(ctx, req, approvePairingFromProto, d.s.d.Devices.Approve, func(out identity.ApproveOut) (*devicesv1.ApprovePairingResponse, error) {
		return &devicesv1.ApprovePairingResponse{Device: deviceToProto(out.Device, d.s.connections())}, nil
	})
}

func (d *devicesServer) RejectPairing(ctx context.Context, req *devicesv1.RejectPairingRequest) (*devicesv1.RejectPairingResponse, error) {
	return call(ctx, req, rejectPairingFromProto, d.s.d.Devices.Reject, rejectPairingToProto)
}

func (d *devicesServer) RemoveDevice(ctx context.Context, req *devicesv1.RemoveDeviceRequest) (*devicesv1.RemoveDeviceResponse, error) {
	return call(ctx, req, removeDeviceFromProto, d.s.d.Devices.Remove, removeDeviceToProto)
}

func (d *devicesServer) RotateToken(ctx context.Context, req *devicesv1.RotateTokenRequest) (*devicesv1.RotateTokenResponse, error) {
	return call(ctx, req, rotateTokenFromProto, d.s.d.Devices.RotateToken, rotateTokenToProto)
}

func (d *devicesServer) RevokeToken(ctx context.Context, req *devicesv1.RevokeTokenRequest) (*devicesv1.RevokeTokenResponse, error) {
	return call(ctx, req, revokeTokenFromProto, d.s.d.Devices.RevokeToken, revokeTokenToProto)
}

func (d *devicesServer) CreateInvite(ctx context.Context, req *devicesv1.CreateInviteRequest) (*devicesv1.CreateInviteResponse, error) {
	return call(ctx, req, createInviteFromProto, d.s.d.Devices.CreateInvite, func(out identity.InviteOut) (*devicesv1.CreateInviteResponse, error) {
		return createInviteToProto(out, d.s.d.Remote(), req.GetRole())
	})
}

func (d *devicesServer) Enroll(ctx context.Context, req *devicesv1.EnrollRequest) (*devicesv1.EnrollResponse, error) {
	return call(ctx, req, enrollFromProto, d.s.d.Devices.Enroll, enrollToProto)
}

// connections counts the connections of devices at all doors.
func (s *Server) connections() map[string]int {
	out := s.d.DeviceConnections()
	for id, n := range s.streams.devices() {
		out[id] += n
	}
	return out
}

func pairingToProto(p identity.Pairing) *devicesv1.PairingRequest {
	return &devicesv1.PairingRequest{
		RequestId:    p.RequestID,
		DeviceId:     p.DeviceID,
		PublicKey:    p.PublicKey,
		DisplayName:  cleanText(p.DisplayName),
		Platform:     cleanText(p.Platform),
		DeviceFamily: cleanText(p.DeviceFamily),
		ClientId:     cleanText(p.ClientID),
		ClientMode:   cleanText(p.ClientMode),
		Roles:        cleanTexts(p.Roles),
		Scopes:       cleanTexts(p.Scopes),
		RemoteIp:     cleanText(p.RemoteIP),
		Repair:       p.Repair,
		RequestedAt:  timeToProto(p.At),
		ExpiresAt:    timeToProto(p.At.Add(identity.PendingTTL)),
		Tenant:       cleanText(p.Tenant),
	}
}

func deviceToProto(d identity.Device, connections map[string]int) *devicesv1.Device {
	out := &devicesv1.Device{
		DeviceId:     d.ID,
		PublicKey:    d.PublicKey,
		DisplayName:  cleanText(d.DisplayName),
		Platform:     cleanText(d.Platform),
		DeviceFamily: cleanText(d.DeviceFamily),
		ClientId:     cleanText(d.ClientID),
		ClientMode:   cleanText(d.ClientMode),
		Roles:        cleanTexts(d.Roles),
		Scopes:       cleanTexts(d.Scopes),
		RemoteIp:     cleanText(d.RemoteIP),
		CreatedAt:    timeToProto(d.CreatedAt),
		ApprovedAt:   timeToProto(d.ApprovedAt),
		Connections:  clampInt32(connections[d.ID]),
		Tenant:       cleanText(d.Tenant),
	}
	for _, role := range slices.Sorted(maps.Keys(d.Tokens)) {
		t := d.Tokens[role]
		out.Tokens = append(out.Tokens, &devicesv1.Token{
			Role: cleanText(string(t.Role)), Scopes: cleanTexts(t.Scopes),
			CreatedAt: timeToProto(t.CreatedAt), RotatedAt: timeToProto(t.RotatedAt),
			RevokedAt: timeToProto(t.RevokedAt), LastUsedAt: timeToProto(t.LastUsedAt),
		})
	}
	return out
}

func listDevicesToProto(out identity.ListOut, connections map[string]int) (*devicesv1.ListDevicesResponse, error) {
	r := &devicesv1.ListDevicesResponse{}
	for _, p := range out.Pending {
		r.Pending = append(r.Pending, pairingToProto(p))
	}
	for _, dev := range out.Devices {
		r.Devices = append(r.Devices, deviceToProto(dev, connections))
	}
	return r, nil
}

func approvePairingFromProto(r *devicesv1.ApprovePairingRequest) (identity.ApproveIn, error) {
	return identity.ApproveIn{RequestID: r.GetRequestId()}, nil
}

func rejectPairingFromProto(r *devicesv1.RejectPairingRequest) (identity.RejectIn, error) {
	return identity.RejectIn{RequestID: r.GetRequestId()}, nil
}

func rejectPairingToProto(out identity.RejectOut) (*devicesv1.RejectPairingResponse, error) {
	return &devicesv1.RejectPairingResponse{DeviceId: out.DeviceID}, nil
}

func removeDeviceFromProto(r *devicesv1.RemoveDeviceRequest) (identity.RemoveIn, error) {
	return identity.RemoveIn{DeviceID: r.GetDeviceId()}, nil
}

func removeDeviceToProto(identity.RemoveOut) (*devicesv1.RemoveDeviceResponse, error) {
	return &devicesv1.RemoveDeviceResponse{}, nil
}

func scopesFromProto(in []string) []identity.Scope {
	var out []identity.Scope
	for _, s := range in {
		out = append(out, identity.Scope(s))
	}
	return out
}

func rotateTokenFromProto(r *devicesv1.RotateTokenRequest) (identity.RotateIn, error) {
	return identity.RotateIn{
		DeviceID: r.GetDeviceId(), Role: identity.Role(r.GetRole()), Scopes: scopesFromProto(r.GetScopes()),
	}, nil
}

func rotateTokenToProto(out identity.RotateOut) (*devicesv1.RotateTokenResponse, error) {
	return &devicesv1.RotateTokenResponse{
		Token: out.Token, Scopes: cleanTexts(out.Scopes), RotatedAt: timeToProto(out.RotatedAt),
	}, nil
}

func revokeTokenFromProto(r *devicesv1.RevokeTokenRequest) (identity.RevokeIn, error) {
	return identity.RevokeIn{DeviceID: r.GetDeviceId(), Role: identity.Role(r.GetRole())}, nil
}

func revokeTokenToProto(out identity.RevokeOut) (*devicesv1.RevokeTokenResponse, error) {
	return &devicesv1.RevokeTokenResponse{RevokedAt: timeToProto(out.RevokedAt)}, nil
}

// createInviteFromProto keeps absent and zero apart: an invite that holds for no time is refused.
func createInviteFromProto(r *devicesv1.CreateInviteRequest) (identity.InviteIn, error) {
	in := identity.InviteIn{Role: identity.Role(r.GetRole()), Scopes: scopesFromProto(r.GetScopes())}
	ttl, err := durationFromProto(r.GetTtl())
	switch {
	case err != nil:
		return identity.InviteIn{}, err
	case ttl != nil && *ttl == 0:
		return identity.InviteIn{}, identity.ErrInviteTTL
	case ttl != nil:
		in.TTL = *ttl
	}
	return in, nil
}

func createInviteToProto(out identity.InviteOut, at Remote, role string) (*devicesv1.CreateInviteResponse, error) {
	code := client.Invite{Addresses: at.Addresses, Pin: at.Fingerprint, Secret: out.Secret, Role: role, Name: at.Name}.Code()
	return &devicesv1.CreateInviteResponse{
		Secret: out.Secret, ExpiresAt: timeToProto(out.ExpiresAt), Addresses: at.Addresses,
		TlsFingerprint: at.Fingerprint, Code: code,
	}, nil
}

func enrollFromProto(r *devicesv1.EnrollRequest) (identity.EnrollIn, error) {
	return identity.EnrollIn{
		PublicKey: r.GetPublicKey(), Signature: r.GetSignature(), DisplayName: r.GetDisplayName(),
		Platform: r.GetPlatform(), DeviceFamily: r.GetDeviceFamily(),
	}, nil
}

func enrollToProto(out identity.EnrollOut) (*devicesv1.EnrollResponse, error) {
	return &devicesv1.EnrollResponse{
		DeviceId: out.DeviceID, Role: string(out.Role), Scopes: cleanTexts(out.Scopes), Token: out.Token,
	}, nil
}
