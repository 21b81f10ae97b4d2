package runtime

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/tunnel/checkpoint/objects"
	"github.com/hanzoai/hanzod/tunnel/checkpoints"
)

// The directories of checkpoints, below the state directory.
const (
	checkpointsDir     = "checkpoints"
	checkpointsTempDir = "checkpoints.tmp"
)

func (d *Daemon) makeCheckpoints() {
	d.checkpoints = checkpoints.New(checkpoints.Config{
		Settings: func() checkpoints.Settings { return checkpointSettings(d.current()) },
		Nodes:    CheckpointNodes{d.nodes},
		Record: func(ctx context.Context, c identity.Caller, a checkpoints.Act) error {
			return d.store.AppendAudit(ctx, approvals.Audit{At: d.now(), Kind: "session-checkpoint", Subject: c.Subject(), NodeID: a.NodeID, Detail: a.Detail, Reason: a.Reason})
		},
		TempDir: filepath.Join(d.cfg.StateDir, checkpointsTempDir), Now: d.now, Log: d.subsystem("checkpoints"),
	})
}

// checkpointSettings reads the section of a configuration.
func checkpointSettings(c *config.Config) checkpoints.Settings {
	k := c.Checkpoints
	s := checkpoints.Settings{
		Kind: checkpoints.Kind(k.Store), Dir: k.Dir,
		Recipients: k.Encryption.Recipients, TenantRecipients: k.Encryption.Tenants, IdentityFile: k.Encryption.IdentityFile,
		Redact: k.Redact, KeepLast: k.KeepLast, KeepDays: k.KeepDays,
	}
	switch s.Kind {
	case checkpoints.KindS3:
		s.Dir = ""
		s.S3 = objects.S3Config{
			Endpoint: k.S3.Endpoint, Bucket: k.S3.Bucket, Region: k.S3.Region, AccessKey: k.S3.AccessKey.Reveal(), SecretKey: k.S3.SecretKey.Reveal(),
			VirtualHost: k.S3.VirtualHost, CreateBucket: k.S3.CreateBucket,
		}
	case checkpoints.KindOwn, "":
		s.Kind, s.Dir = checkpoints.KindOwn, filepath.Join(c.StateDir, checkpointsDir)
	}
	return s
}

// CheckpointNodes gives checkpoints the nodes.
type CheckpointNodes struct{ Service *nodes.Service }

// Node implements checkpoints.Nodes.
func (k CheckpointNodes) Node(ctx context.Context, c identity.Caller, id string) (checkpoints.Node, error) {
	out, err := k.Service.Describe(ctx, c, nodes.DescribeIn{NodeID: id})
	if err != nil {
		return checkpoints.Node{}, err
	}
	if !out.Node.Connected {
		return checkpoints.Node{}, nodes.ErrNotConnected.With("nodeId", id)
	}
	return checkpoints.Node{ID: out.Node.ID, Tenant: out.Node.Tenant, Commands: out.Node.Commands, Connected: true}, nil
}

// Invoke implements checkpoints.Nodes.
func (k CheckpointNodes) Invoke(ctx context.Context, c identity.Caller, call checkpoints.Call) ([]byte, error) {
	out, err := k.Service.Invoke(ctx, c, checkpointCall(call))
	return checkpointAnswer(out), err
}

// Open implements checkpoints.Nodes.
func (k CheckpointNodes) Open(ctx context.Context, c identity.Caller, call checkpoints.Call) (checkpoints.Channel, func(context.Context) ([]byte, error), bool, error) {
	ch, answer, err := k.Service.OpenChannel(ctx, c, checkpointCall(call))
	if errors.Is(err, nodes.ErrNoChannel) {
		return nil, nil, false, nil
	}
	if err != nil {
		return nil, nil, true, err
	}
	return ch, func(ctx context.Context) ([]byte, error) {
		out, err := answer(ctx)
		return checkpointAnswer(out), err
	}, true, nil
}

func checkpointCall(call checkpoints.Call) nodes.InvokeIn {
	limit := call.Timeout
	if limit <= 0 {
		limit = time.Minute
	}
	return nodes.InvokeIn{NodeID: call.NodeID, Command: call.Command, Params: call.Params, Timeout: &limit}
}

func checkpointAnswer(out nodes.InvokeOut) []byte {
	if out.PayloadJSON != nil {
		return []byte(*out.PayloadJSON)
	}
	return out.Payload
}
