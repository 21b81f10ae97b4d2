package tunnels

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"

	"github.com/hanzoai/hanzod/identity"
)

// ProofKind is the kind of HELLO's auth by which a node of ours says whose carrier it is: with what tunnel.open gave
// it on its link. Credentials alone do not tell the nodes of one person apart.
const ProofKind = "node"

// proofs are what nodes say in HELLO, from the first tunnel.open until their link ends.
type proofs struct {
	of   map[string]string            // by node
	node map[[sha256.Size]byte]string // by the digest of the proof
}

// proof is what a node is to say. The caller holds mu.
func (s *Service) proof(node string) string {
	if p := s.proofs.of[node]; p != "" {
		return p
	}
	var b [24]byte
	_, _ = rand.Read(b[:]) // it cannot fail
	p := hex.EncodeToString(b[:])
	if s.proofs.of == nil {
		s.proofs = proofs{map[string]string{}, map[[sha256.Size]byte]string{}}
	}
	s.proofs.of[node], s.proofs.node[sha256.Sum256([]byte(p))] = p, node
	return p
}

// unprove forgets it. The caller holds mu.
func (s *Service) unprove(node string) {
	delete(s.proofs.of, node)
	maps.DeleteFunc(s.proofs.node, func(_ [sha256.Size]byte, n string) bool { return n == node })
}

// proven is the caller that a node's proof makes of who came to the door, whose credential goes on counting.
func (s *Service) proven(c identity.Caller, proof string) (identity.Caller, error) {
	s.mu.Lock()
	node, ok := s.proofs.node[sha256.Sum256([]byte(proof))]
	s.mu.Unlock()
	if !ok {
		return c, ErrScope
	}
	c.Role, c.Scopes, c.NodeID, c.Tenant = identity.RoleNode, nil, node, identity.NodeTenant(node)
	if c.Subject() == "" {
		c.Principal = "node:" + node
	}
	return c, nil
}
