package approvals

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/identity"
)

// SetFileIn and SetNodeFileIn are the arguments of SetFile and SetNodeFile. File is the new file
// as JSON text, BaseHash the hash of the version it starts from.
type (
	SetFileIn struct {
		File     []byte
		BaseHash string
	}
	SetNodeFileIn struct {
		NodeID   string
		File     []byte
		BaseHash string
	}
)

// GetFile returns the exec approvals file of the gateway host.
func (s *Service) GetFile(context.Context, identity.Caller) (policy.Snapshot, error) {
	return s.file.Snapshot()
}

// SetFile replaces the exec approvals file of the gateway host. The audit row comes first: a
// change that cannot be recorded does not happen. A second row says what came of it.
func (s *Service) SetFile(ctx context.Context, c identity.Caller, in SetFileIn) (policy.Snapshot, error) {
	row := Audit{At: s.now(), Kind: AuditPolicy, Subject: c.Subject(), Reason: "gateway file"}
	if err := s.intend(ctx, row, in.File, in.BaseHash); err != nil {
		return policy.Snapshot{}, err
	}
	out, err := s.file.Set(in.File, trimmed(&in.BaseHash))
	s.came(ctx, row, out.Hash, err)
	return out, err
}

// intend records that a file is about to be replaced.
func (s *Service) intend(ctx context.Context, row Audit, file []byte, base string) error {
	sum := sha256.Sum256(file)
	row.Detail = "is about to be replaced; SHA-256 of what was sent: " + hex.EncodeToString(sum[:])
	if base != "" {
		row.Detail += "; it starts from the version " + base
	}
	return s.store.AppendAudit(ctx, row)
}

// came records what came of it. The file is outside of the store: when this row cannot be written, the one
// before stands alone, which means that nobody knows.
func (s *Service) came(ctx context.Context, row Audit, hash string, failed error) {
	row.At = s.now()
	switch {
	case failed != nil:
		row.Detail = "was not replaced: " + failed.Error()
	case hash != "":
		row.Detail = "was replaced; its hash is " + hash
	default:
		row.Detail = "was replaced"
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastResults)
	defer cancel()
	if err := s.store.AppendAudit(ctx, row); err != nil {
		s.log.Error("what came of a change of an exec approvals file could not be recorded", "node", row.NodeID, "error", err)
	}
}

// GetNodeFile returns the exec approvals file of a node, as the node gave it: JSON text.
func (s *Service) GetNodeFile(ctx context.Context, c identity.Caller, nodeID string) ([]byte, error) {
	if !c.SeesNode(nodeID) {
		return nil, ErrNodeUnknown.With("node", nodeID)
	}
	return s.nodeFile(ctx, nodeID, "system.execApprovals.get", []byte("{}"))
}

// SetNodeFile replaces the exec approvals file of a node.
func (s *Service) SetNodeFile(ctx context.Context, c identity.Caller, in SetNodeFileIn) ([]byte, error) {
	var object map[string]json.RawMessage
	if json.Unmarshal(in.File, &object) != nil || object == nil {
		return nil, policy.ErrInvalid
	}
	params := append([]byte(`{"file":`), in.File...)
	if in.BaseHash != "" {
		hash, err := json.Marshal(in.BaseHash)
		if err != nil {
			return nil, err
		}
		params = append(append(params, `,"baseHash":`...), hash...)
	}
	params = append(params, '}')
	if !c.SeesNode(in.NodeID) {
		return nil, ErrNodeUnknown.With("node", in.NodeID)
	}
	row := Audit{At: s.now(), Kind: AuditPolicy, Subject: c.Subject(), NodeID: in.NodeID, Reason: "node file"}
	if err := s.intend(ctx, row, in.File, in.BaseHash); err != nil {
		return nil, err
	}
	out, err := s.nodeFile(ctx, in.NodeID, "system.execApprovals.set", params)
	s.came(ctx, row, "", err)
	return out, err
}

func (s *Service) nodeFile(ctx context.Context, nodeID, command string, params []byte) ([]byte, error) {
	if nodeID = strings.TrimSpace(nodeID); nodeID == "" {
		return nil, ErrNodeRequired
	}
	answer, err := s.nodes.InvokeInternal(ctx, nodeID, command, params)
	if err != nil {
		return nil, err
	}
	return withoutToken(answer), nil
}

// withoutToken takes the socket token out of a node's answer. Nodes leave it out; one that does
// not must not make it known here.
func withoutToken(answer []byte) []byte {
	var snapshot, file, socket map[string]json.RawMessage
	if json.Unmarshal(answer, &snapshot) != nil || json.Unmarshal(snapshot["file"], &file) != nil ||
		json.Unmarshal(file["socket"], &socket) != nil || socket["token"] == nil {
		return answer
	}
	delete(socket, "token")
	for _, step := range []struct {
		in  map[string]json.RawMessage
		key string
		v   any
	}{{file, "socket", socket}, {snapshot, "file", file}} {
		raw, err := json.Marshal(step.v)
		if err != nil {
			return nil // maps of JSON text always marshal
		}
		step.in[step.key] = raw
	}
	out, err := json.Marshal(snapshot)
	if err != nil {
		return nil
	}
	return out
}
