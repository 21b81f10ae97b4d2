package rpc

import (
	"context"

	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
	"github.com/hanzoai/hanzod/identity"
)

func (d *devicesServer) CreateLinkKey(ctx context.Context, req *devicesv1.CreateLinkKeyRequest) (*devicesv1.CreateLinkKeyResponse, error) {
	return call(ctx, req, createLinkKeyFromProto, d.s.d.Devices.CreateLinkKey, createLinkKeyToProto)
}

func (d *devicesServer) ListLinkKeys(ctx context.Context, req *devicesv1.ListLinkKeysRequest) (*devicesv1.ListLinkKeysResponse, error) {
	return call(ctx, req, nothing, without(d.s.d.Devices.LinkKeys), listLinkKeysToProto)
}

func (d *devicesServer) RevokeLinkKey(ctx context.Context, req *devicesv1.RevokeLinkKeyRequest) (*devicesv1.RevokeLinkKeyResponse, error) {
	return call(ctx, req, revokeLinkKeyFromProto, d.s.d.Devices.RevokeLinkKey, revokeLinkKeyToProto)
}

func linkKeyToProto(k identity.LinkKey) *devicesv1.LinkKey {
	return &devicesv1.LinkKey{
		KeyId: k.ID, Name: cleanText(k.Name), Tenant: cleanText(k.Tenant), CreatedBy: cleanText(k.CreatedBy), CreatedAt: timeToProto(k.CreatedAt),
	}
}

func createLinkKeyFromProto(r *devicesv1.CreateLinkKeyRequest) (identity.LinkKeyIn, error) {
	return identity.LinkKeyIn{Name: r.GetName(), Tenant: r.GetTenant()}, nil
}

func createLinkKeyToProto(out identity.LinkKeyOut) (*devicesv1.CreateLinkKeyResponse, error) {
	return &devicesv1.CreateLinkKeyResponse{Key: linkKeyToProto(out.Key), Secret: out.Secret}, nil
}

func listLinkKeysToProto(out identity.LinkKeysOut) (*devicesv1.ListLinkKeysResponse, error) {
	res := &devicesv1.ListLinkKeysResponse{}
	for _, k := range out.Keys {
		res.Keys = append(res.Keys, linkKeyToProto(k))
	}
	return res, nil
}

func revokeLinkKeyFromProto(r *devicesv1.RevokeLinkKeyRequest) (identity.RevokeLinkKeyIn, error) {
	return identity.RevokeLinkKeyIn{ID: r.GetKeyId()}, nil
}

func revokeLinkKeyToProto(out identity.RevokeLinkKeyOut) (*devicesv1.RevokeLinkKeyResponse, error) {
	return &devicesv1.RevokeLinkKeyResponse{Key: linkKeyToProto(out.Key)}, nil
}
