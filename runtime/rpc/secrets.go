package rpc

import (
	"context"

	secretsv1 "github.com/hanzoai/hanzod/gen/hanzo/secrets/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/secrets"
)

// Secrets is what the door needs of secrets.Service.
type Secrets interface {
	List(context.Context, identity.Caller, secrets.ListIn) (secrets.ListOut, error)
	Reload(context.Context, identity.Caller, secrets.ReloadIn) (secrets.ReloadOut, error)
	Resolve(context.Context, identity.Caller, secrets.ResolveIn) (secrets.ResolveOut, error)
}

type secretsServer struct {
	secretsv1.UnimplementedSecretServiceServer
	s *Server
}

func (y *secretsServer) ListSecrets(ctx context.Context, req *secretsv1.ListSecretsRequest) (*secretsv1.ListSecretsResponse, error) {
	return call(ctx, req, listSecretsFromProto, y.s.d.Secrets.List, listSecretsToProto)
}

func (y *secretsServer) ReloadSecrets(ctx context.Context, req *secretsv1.ReloadSecretsRequest) (*secretsv1.ReloadSecretsResponse, error) {
	return call(ctx, req, reloadSecretsFromProto, y.s.d.Secrets.Reload, reloadSecretsToProto)
}

func (y *secretsServer) ResolveSecrets(ctx context.Context, req *secretsv1.ResolveSecretsRequest) (*secretsv1.ResolveSecretsResponse, error) {
	return call(ctx, req, resolveSecretsFromProto, y.s.d.Secrets.Resolve, resolveSecretsToProto)
}

func listSecretsFromProto(r *secretsv1.ListSecretsRequest) (secrets.ListIn, error) {
	return secrets.ListIn{Check: r.GetCheck()}, nil
}

func listSecretsToProto(out secrets.ListOut) (*secretsv1.ListSecretsResponse, error) {
	r := &secretsv1.ListSecretsResponse{Targets: out.Targets, References: make([]*secretsv1.SecretReference, len(out.Refs))}
	for i, ref := range out.Refs {
		r.References[i] = &secretsv1.SecretReference{
			Path: cleanText(ref.Path), Source: cleanText(ref.Source), Provider: cleanText(ref.Provider), Id: cleanText(ref.ID),
			Target: ref.Target, Active: ref.Active, Problem: cleanText(ref.Problem),
		}
	}
	return r, nil
}

func reloadSecretsFromProto(*secretsv1.ReloadSecretsRequest) (secrets.ReloadIn, error) {
	return secrets.ReloadIn{}, nil
}

func reloadSecretsToProto(out secrets.ReloadOut) (*secretsv1.ReloadSecretsResponse, error) {
	return &secretsv1.ReloadSecretsResponse{Warnings: clampInt32(out.Warnings)}, nil
}

func resolveSecretsFromProto(r *secretsv1.ResolveSecretsRequest) (secrets.ResolveIn, error) {
	return secrets.ResolveIn{Command: r.GetCommand(), Targets: r.GetTargets()}, nil
}

// resolveSecretsToProto is where values leave the daemon.
func resolveSecretsToProto(out secrets.ResolveOut) (*secretsv1.ResolveSecretsResponse, error) {
	r := &secretsv1.ResolveSecretsResponse{Diagnostics: cleanTexts(out.Diagnostics), Inactive: cleanTexts(out.Inactive)}
	for _, a := range out.Assignments {
		r.Assignments = append(r.Assignments, &secretsv1.SecretAssignment{
			Path: cleanText(a.Path), Segments: cleanTexts(a.Segments), Value: cleanText(a.Value.Reveal()),
		})
	}
	return r, nil
}
