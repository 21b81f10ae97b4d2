package screens

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// key is what lets somebody in, by the hash of its text: a token for one look, or the session of a browser.
type key struct {
	caller identity.Caller
	node   string
	ends   time.Time
	made   uint64
}

type ring map[[sha256.Size]byte]*key

// keys are all of them. None outlasts the daemon.
type keys struct {
	mu       sync.Mutex
	made     uint64
	tokens   ring
	sessions ring
}

func newKeys() *keys { return &keys{tokens: ring{}, sessions: ring{}} }

// add makes a key. Of a caller that has too many, the oldest goes; when all are too many, none is made.
func (k *keys) add(r ring, of key, most, mostOwn int, now time.Time) (string, error) {
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	text := base64.RawURLEncoding.EncodeToString(secret[:])
	own, oldest, at := 0, [sha256.Size]byte{}, uint64(0)
	for h, o := range r {
		if !o.ends.After(now) {
			delete(r, h)
			continue
		}
		if o.caller.Subject() != of.caller.Subject() {
			continue
		}
		if own++; at == 0 || o.made < at {
			oldest, at = h, o.made
		}
	}
	if own >= mostOwn {
		delete(r, oldest)
	}
	if len(r) >= most {
		return "", ErrTooMany
	}
	k.made++
	of.made = k.made
	r[sha256.Sum256([]byte(text))] = &of
	return text, nil
}

// CreateTokenIn and CreateTokenOut are the arguments and the result of CreateToken.
type (
	CreateTokenIn struct {
		// NodeID is empty for the daemon's machine.
		NodeID string
	}
	CreateTokenOut struct {
		// Token is a secret.
		Token   string
		Expires time.Time
		// ViewerPath is the page of the viewer, without the token.
		ViewerPath string
		// ViewerURL is the same with the address where this daemon listens before it, empty where none is known.
		ViewerURL string
	}
)

// CreateToken makes a token that stands for the caller, once, for one screen and TokenTime. Whether the caller may
// see the screen is decided when it looks.
func (s *Service) CreateToken(_ context.Context, c identity.Caller, in CreateTokenIn) (CreateTokenOut, error) {
	if !s.c.Settings().Enabled {
		return CreateTokenOut{}, ErrOff
	}
	path := ViewerPath
	if in.NodeID = strings.TrimSpace(in.NodeID); in.NodeID == "" {
		if !c.Has(identity.ScopeAdmin) {
			return CreateTokenOut{}, ErrLocalAdmin
		}
	} else {
		n, err := s.node(c, in.NodeID)
		if err != nil {
			return CreateTokenOut{}, err
		}
		in.NodeID = n.ID
		path += "?nodeId=" + url.QueryEscape(n.ID)
	}
	now := s.c.Now()
	out := CreateTokenOut{Expires: now.Add(TokenTime), ViewerPath: path}
	if s.c.Base != nil {
		out.ViewerURL = s.c.Base() + path
	}
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	var err error
	out.Token, err = s.keys.add(s.keys.tokens, key{caller: c, node: in.NodeID, ends: out.Expires}, MaxTokens, MaxOwnTokens, now)
	return out, err
}

// Redeem takes a token and returns who it stands for. It counts once, whatever comes of it: also where it is for
// another screen than that of nodeID.
func (s *Service) Redeem(token, nodeID string) (identity.Caller, error) {
	h := sha256.Sum256([]byte(token))
	s.keys.mu.Lock()
	k := s.keys.tokens[h]
	delete(s.keys.tokens, h)
	s.keys.mu.Unlock()
	switch {
	case k == nil || !k.ends.After(s.c.Now()):
		return identity.Caller{}, ErrToken
	case !s.same(k, nodeID):
		return identity.Caller{}, ErrTokenNode
	}
	return k.caller, s.c.Standing(k.caller)
}

// same reports whether a key is for the screen that is named.
func (s *Service) same(k *key, nodeID string) bool {
	if nodeID = strings.TrimSpace(nodeID); nodeID == k.node || nodeID == "" || k.node == "" {
		return nodeID == k.node
	}
	n, err := s.node(k.caller, nodeID) // by another name of it
	return err == nil && n.ID == k.node
}

// Enter lets the browser of a caller in: the text it returns is a secret that stands for the caller and the screen
// until SessionTime has passed without a use.
func (s *Service) Enter(c identity.Caller, nodeID string) (session string, err error) {
	if nodeID = strings.TrimSpace(nodeID); nodeID != "" {
		n, err := s.node(c, nodeID)
		if err != nil {
			return "", err
		}
		nodeID = n.ID
	}
	now := s.c.Now()
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	return s.keys.add(s.keys.sessions, key{caller: c, node: nodeID, ends: now.Add(SessionTime)}, MaxSessions, MaxOwnSessions, now)
}

// Entered returns whom the session of a browser stands for, and lets it go on. With anyScreen, the screen does not count:
// the files of the viewer are the same for all.
func (s *Service) Entered(session, nodeID string, anyScreen bool) (identity.Caller, error) {
	h := sha256.Sum256([]byte(session))
	now := s.c.Now()
	s.keys.mu.Lock()
	k := s.keys.sessions[h]
	if k != nil && !k.ends.After(now) {
		delete(s.keys.sessions, h)
		k = nil
	}
	s.keys.mu.Unlock()
	if k == nil || !anyScreen && !s.same(k, nodeID) {
		return identity.Caller{}, ErrSession
	}
	if err := s.c.Standing(k.caller); err != nil {
		s.keys.mu.Lock()
		delete(s.keys.sessions, h)
		s.keys.mu.Unlock()
		return identity.Caller{}, err
	}
	s.keys.mu.Lock()
	k.ends = now.Add(SessionTime)
	s.keys.mu.Unlock()
	return k.caller, nil
}
