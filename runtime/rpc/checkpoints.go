package rpc

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/checkpoints"
)

// Checkpoints is what the door needs of checkpoints.Service.
type Checkpoints interface {
	Create(context.Context, identity.Caller, checkpoints.CreateIn, checkpoints.Progress) (checkpoints.Checkpoint, error)
	List(context.Context, identity.Caller, checkpoints.ListIn) (checkpoints.ListOut, error)
	Get(context.Context, identity.Caller, checkpoints.GetIn) (checkpoints.Checkpoint, error)
	Delete(context.Context, identity.Caller, checkpoints.GetIn) (checkpoints.Entry, error)
	Restore(context.Context, identity.Caller, checkpoints.RestoreIn, checkpoints.Progress) (checkpoints.Restored, error)
	Migrate(context.Context, identity.Caller, checkpoints.MigrateIn, checkpoints.Progress) (checkpoints.Migrated, error)
	Prune(context.Context, identity.Caller, checkpoints.PruneIn) (checkpoints.PruneOut, error)
	Download(ctx context.Context, c identity.Caller, in checkpoints.DownloadIn, begin func(checkpoints.Checkpoint) error, w io.Writer) error
	Upload(ctx context.Context, c identity.Caller, r io.Reader, progress checkpoints.Progress) (checkpoints.Checkpoint, error)
}

type checkpointsServer struct {
	tunnelv1.UnimplementedCheckpointServiceServer
	s *Server
}

// opensOnce returns what opens a stream before its first message: what fails before that has a status of its own.
func opensOnce(stream grpc.ServerStream) func() error {
	done := false
	return func() error {
		if done {
			return nil
		}
		done = true
		return open(stream)
	}
}

func (k *checkpointsServer) List(ctx context.Context, req *tunnelv1.CheckpointServiceListRequest) (*tunnelv1.CheckpointServiceListResponse, error) {
	return call(ctx, req, func(r *tunnelv1.CheckpointServiceListRequest) (checkpoints.ListIn, error) {
		return checkpoints.ListIn{NodeID: r.GetNodeId()}, nil
	}, k.s.d.Checkpoints.List, checkpointListToProto)
}

func (k *checkpointsServer) Get(ctx context.Context, req *tunnelv1.CheckpointServiceGetRequest) (*tunnelv1.CheckpointServiceGetResponse, error) {
	return call(ctx, req, func(r *tunnelv1.CheckpointServiceGetRequest) (checkpoints.GetIn, error) {
		return checkpoints.GetIn{ID: r.GetCheckpointId(), NodeID: r.GetNodeId()}, nil
	}, k.s.d.Checkpoints.Get, func(c checkpoints.Checkpoint) (*tunnelv1.CheckpointServiceGetResponse, error) {
		return &tunnelv1.CheckpointServiceGetResponse{Checkpoint: checkpointToProto(c)}, nil
	})
}

func (k *checkpointsServer) Delete(ctx context.Context, req *tunnelv1.CheckpointServiceDeleteRequest) (*tunnelv1.CheckpointServiceDeleteResponse, error) {
	return call(ctx, req, func(r *tunnelv1.CheckpointServiceDeleteRequest) (checkpoints.GetIn, error) {
		return checkpoints.GetIn{ID: r.GetCheckpointId(), NodeID: r.GetNodeId()}, nil
	}, k.s.d.Checkpoints.Delete, func(e checkpoints.Entry) (*tunnelv1.CheckpointServiceDeleteResponse, error) {
		return &tunnelv1.CheckpointServiceDeleteResponse{Checkpoint: checkpointEntryToProto(e)}, nil
	})
}

func (k *checkpointsServer) Prune(ctx context.Context, req *tunnelv1.CheckpointServicePruneRequest) (*tunnelv1.CheckpointServicePruneResponse, error) {
	return call(ctx, req, checkpointPruneFromProto, k.s.d.Checkpoints.Prune, checkpointPruneToProto)
}

// Create sends each step, and the checkpoint.
func (k *checkpointsServer) Create(req *tunnelv1.CheckpointServiceCreateRequest, stream tunnelv1.CheckpointService_CreateServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	begin := opensOnce(stream)
	out, err := k.s.d.Checkpoints.Create(ctx, c, checkpoints.CreateIn{NodeID: req.GetNodeId()}, func(st checkpoints.Step) error {
		if err := begin(); err != nil {
			return err
		}
		return stream.Send(&tunnelv1.CheckpointServiceCreateResponse{Message: &tunnelv1.CheckpointServiceCreateResponse_Step{Step: checkpointStepToProto(st)}})
	})
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	return stream.Send(&tunnelv1.CheckpointServiceCreateResponse{Message: &tunnelv1.CheckpointServiceCreateResponse_Checkpoint{Checkpoint: checkpointToProto(out)}})
}

// Restore sends each step, and what the node says.
func (k *checkpointsServer) Restore(req *tunnelv1.CheckpointServiceRestoreRequest, stream tunnelv1.CheckpointService_RestoreServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	begin := opensOnce(stream)
	out, err := k.s.d.Checkpoints.Restore(ctx, c, checkpointRestoreFromProto(req), func(st checkpoints.Step) error {
		if err := begin(); err != nil {
			return err
		}
		return stream.Send(&tunnelv1.CheckpointServiceRestoreResponse{Message: &tunnelv1.CheckpointServiceRestoreResponse_Step{Step: checkpointStepToProto(st)}})
	})
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	return stream.Send(&tunnelv1.CheckpointServiceRestoreResponse{Message: &tunnelv1.CheckpointServiceRestoreResponse_Restored{Restored: checkpointRestoredToProto(out)}})
}

// Migrate sends each step, and what was done.
func (k *checkpointsServer) Migrate(req *tunnelv1.CheckpointServiceMigrateRequest, stream tunnelv1.CheckpointService_MigrateServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	in := checkpoints.MigrateIn{From: req.GetFromNodeId(), To: req.GetToNodeId(), Force: req.GetForce()}
	begin := opensOnce(stream)
	out, err := k.s.d.Checkpoints.Migrate(ctx, c, in, func(st checkpoints.Step) error {
		if err := begin(); err != nil {
			return err
		}
		return stream.Send(&tunnelv1.CheckpointServiceMigrateResponse{Message: &tunnelv1.CheckpointServiceMigrateResponse_Step{Step: checkpointStepToProto(st)}})
	})
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	return stream.Send(&tunnelv1.CheckpointServiceMigrateResponse{Message: &tunnelv1.CheckpointServiceMigrateResponse_Migrated{Migrated: &tunnelv1.CheckpointMigrated{
		Checkpoint: checkpointToProto(out.Checkpoint), Restored: checkpointRestoredToProto(out.Restored), StatusJson: cleanText(string(out.Status)),
	}}})
}

// Download sends what the checkpoint is, and the archive in pieces.
func (k *checkpointsServer) Download(req *tunnelv1.CheckpointServiceDownloadRequest, stream tunnelv1.CheckpointService_DownloadServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	w := &checkpointPieces{stream: stream}
	in := checkpoints.DownloadIn{ID: req.GetCheckpointId(), NodeID: req.GetNodeId(), Sealed: req.GetSealed()}
	err := k.s.d.Checkpoints.Download(ctx, c, in, func(cp checkpoints.Checkpoint) error {
		if err := open(stream); err != nil {
			return err
		}
		return stream.Send(&tunnelv1.CheckpointServiceDownloadResponse{Message: &tunnelv1.CheckpointServiceDownloadResponse_Checkpoint{Checkpoint: checkpointToProto(cp)}})
	}, w)
	if err != nil {
		return err
	}
	return w.flush()
}

// checkpointPieces sends what is written to it in messages of one size.
type checkpointPieces struct {
	stream tunnelv1.CheckpointService_DownloadServer
	buf    []byte
}

func (p *checkpointPieces) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		k := min(len(b), pieceSize-len(p.buf))
		p.buf, b = append(p.buf, b[:k]...), b[k:]
		if len(p.buf) == pieceSize {
			if err := p.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (p *checkpointPieces) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	err := p.stream.Send(&tunnelv1.CheckpointServiceDownloadResponse{Message: &tunnelv1.CheckpointServiceDownloadResponse_Data{Data: p.buf}})
	p.buf = nil // the message may still be read
	return err
}

// Upload reads an archive in pieces, sends each step, and the checkpoint.
func (k *checkpointsServer) Upload(stream tunnelv1.CheckpointService_UploadServer) error {
	ctx := stream.Context()
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	begin := opensOnce(stream)
	out, err := k.s.d.Checkpoints.Upload(ctx, c, &checkpointUpload{stream: stream}, func(st checkpoints.Step) error {
		if err := begin(); err != nil {
			return err
		}
		return stream.Send(&tunnelv1.CheckpointServiceUploadResponse{Message: &tunnelv1.CheckpointServiceUploadResponse_Step{Step: checkpointStepToProto(st)}})
	})
	if err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	return stream.Send(&tunnelv1.CheckpointServiceUploadResponse{Message: &tunnelv1.CheckpointServiceUploadResponse_Checkpoint{Checkpoint: checkpointToProto(out)}})
}

type checkpointUpload struct {
	stream tunnelv1.CheckpointService_UploadServer
	rest   []byte
}

func (u *checkpointUpload) Read(p []byte) (int, error) {
	for len(u.rest) == 0 {
		m, err := u.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		u.rest = m.GetData()
	}
	n := copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

func checkpointRestoreFromProto(r *tunnelv1.CheckpointServiceRestoreRequest) checkpoints.RestoreIn {
	return checkpoints.RestoreIn{
		ID: r.GetCheckpointId(), FromNodeID: r.GetFromNodeId(), NodeID: r.GetNodeId(), Force: r.GetForce(), DryRun: r.GetDryRun(),
	}
}

func checkpointPruneFromProto(r *tunnelv1.CheckpointServicePruneRequest) (checkpoints.PruneIn, error) {
	return checkpoints.PruneIn{
		NodeID: r.GetNodeId(), KeepLast: clampCount(r.GetKeepLast()), KeepDays: clampCount(r.GetKeepDays()), DryRun: r.GetDryRun(),
	}, nil
}

// clampCount cuts what is no sensible number of checkpoints or days.
func clampCount(n uint32) int { return int(min(n, 1_000_000)) }

func checkpointPruneToProto(o checkpoints.PruneOut) (*tunnelv1.CheckpointServicePruneResponse, error) {
	return &tunnelv1.CheckpointServicePruneResponse{Removed: checkpointEntriesToProto(o.Removed), Bytes: o.Bytes, Orphans: uint32(o.Orphans)}, nil
}

func checkpointListToProto(o checkpoints.ListOut) (*tunnelv1.CheckpointServiceListResponse, error) {
	return &tunnelv1.CheckpointServiceListResponse{Checkpoints: checkpointEntriesToProto(o.Checkpoints), Truncated: o.Truncated, Bucket: cleanText(o.Bucket)}, nil
}

func checkpointEntriesToProto(list []checkpoints.Entry) []*tunnelv1.Checkpoint {
	out := make([]*tunnelv1.Checkpoint, len(list))
	for i, e := range list {
		out[i] = checkpointEntryToProto(e)
	}
	return out
}

func checkpointEntryToProto(e checkpoints.Entry) *tunnelv1.Checkpoint {
	return &tunnelv1.Checkpoint{
		CheckpointId: cleanText(e.ID), NodeId: cleanText(e.NodeID()), InstanceId: cleanText(e.InstanceID), Tenant: cleanText(e.Tenant),
		Key: cleanText(e.Key), Url: cleanText(e.URL), Size: e.Size, TotalSize: e.TotalSize, ModifiedAt: timeToProto(e.Modified), Owner: cleanText(e.Owner),
	}
}

func checkpointToProto(c checkpoints.Checkpoint) *tunnelv1.CheckpointDetails {
	out := &tunnelv1.CheckpointDetails{
		Checkpoint: checkpointEntryToProto(c.Entry), MadeAt: timeToProto(c.Made), Sha256: c.SHA256, Encrypted: c.Encrypted, Stored: c.Stored,
		Restorable: c.Restorable, Platform: cleanText(c.Platform), DisplayName: cleanText(c.DisplayName), Cwd: cleanText(c.Cwd),
		ConversationCount: checkpointCount(c.Conversation), CommandCount: checkpointCount(c.Commands), ScrollbackCount: checkpointCount(c.Scrollback),
		GitBranch: cleanText(c.Branch), GitRemoteUrl: cleanText(c.RemoteURL), UntrackedCount: checkpointCount(c.Untracked), Notes: cleanTexts(c.Notes),
	}
	for _, a := range c.Attachments {
		out.Attachments = append(out.Attachments, &tunnelv1.CheckpointAttachment{Name: cleanText(a.Name), Size: a.Size, Sha256: a.SHA256})
	}
	return out
}

// checkpointCount cuts what a node says to what the contract holds.
func checkpointCount(n int) uint32 { return uint32(min(max(n, 0), 1<<31-1)) }

func checkpointStepToProto(st checkpoints.Step) *tunnelv1.CheckpointStep {
	return &tunnelv1.CheckpointStep{
		Name: cleanText(st.Name), NodeId: cleanText(st.NodeID), Detail: cleanText(st.Detail), Done: st.Done, All: st.All, Failed: st.Failed,
	}
}

func checkpointRestoredToProto(r checkpoints.Restored) *tunnelv1.CheckpointRestored {
	out := &tunnelv1.CheckpointRestored{
		NodeId: cleanText(r.NodeID), CheckpointId: cleanText(r.CheckpointID), RestoredFrom: cleanText(r.RestoredFrom), SourcePlatform: cleanText(r.Platform),
		Timestamp: cleanText(r.Timestamp), ConversationCount: checkpointCount(r.Conversation), CommandCount: checkpointCount(r.Commands), ScrollbackCount: checkpointCount(r.Scrollback),
		Ok: r.OK, DryRun: r.DryRun, AnswerJson: cleanText(string(r.Answer)),
	}
	for _, st := range r.Steps {
		out.Steps = append(out.Steps, checkpointStepToProto(st))
	}
	return out
}
