package compat

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/compat/wire"
	"github.com/hanzoai/hanzod/errs"
)

// capabilities are the keys with which nodes that are connected see the canvas host (protocol.md
// §1.7, §3.3). A connection has one at most, so the connections bound them. They are found by a
// hash, so that the time of a look-up tells nothing of them.
type capabilities struct {
	mu     sync.Mutex
	byHash map[[sha256.Size]byte]*grant
	byConn map[*conn]*grant
}

// grant is a capability that is in force.
type grant struct {
	hash    [sha256.Size]byte
	expires time.Time
	// ended is closed when it is not in force any more before its time.
	ended chan struct{}
}

func newCapabilities() *capabilities {
	return &capabilities{byHash: map[[sha256.Size]byte]*grant{}, byConn: map[*conn]*grant{}}
}

// mint gives a connection a new capability in place of the one it had.
func (c *capabilities) mint(owner *conn, now time.Time) (token string, expires time.Time, err error) {
	var b [capabilityBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", time.Time{}, err
	}
	token = base64.RawURLEncoding.EncodeToString(b[:])
	g := &grant{hash: sha256.Sum256([]byte(token)), expires: now.Add(capabilityTTL), ended: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(owner)
	c.byHash[g.hash], c.byConn[owner] = g, g
	return token, g.expires, nil
}

// use reports whether a capability is in force, and keeps it so for its whole time from now.
func (c *capabilities) use(token string, now time.Time) (ended <-chan struct{}, ok bool) {
	hash := sha256.Sum256([]byte(token))
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.byHash[hash]
	if g == nil || !now.Before(g.expires) {
		return nil, false
	}
	g.expires = now.Add(capabilityTTL)
	return g.ended, true
}

// end takes the capability of a connection out of force.
func (c *capabilities) end(owner *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(owner)
}

func (c *capabilities) drop(owner *conn) {
	if g := c.byConn[owner]; g != nil {
		delete(c.byConn, owner)
		delete(c.byHash, g.hash)
		close(g.ended)
	}
}

// CanvasCapability reports whether a node that is connected holds the capability. ended is closed
// when it does not any more.
func (d *Door) CanvasCapability(token string) (ended <-chan struct{}, ok bool) {
	return d.caps.use(token, d.cfg.Now())
}

// scopedCanvas is where a node reaches the canvas host: below its capability. base is the plain
// address.
func (c *conn) scopedCanvas(base string) (url, token string, expires time.Time, err error) {
	if token, expires, err = c.door.caps.mint(c, c.door.cfg.Now()); err != nil {
		return "", "", time.Time{}, err
	}
	return base + c.dialect.CanvasMarker() + token, token, expires, nil
}

// refreshCanvas is node.canvas.capability.refresh (nodes-approvals.md §2.8).
func (d *Door) refreshCanvas(_ context.Context, r request) {
	base := r.conn.canvasBase()
	if base == "" {
		r.fail(wire.ErrorShape{Code: codeUnavailable, Message: "canvas host unavailable for this node session"}, errs.Unavailable)
		return
	}
	url, token, expires, err := r.conn.scopedCanvas(base)
	if err != nil {
		d.cfg.Log.Error("a canvas capability could not be made", "error", err)
		r.fail(wire.ErrorShape{Code: codeUnavailable, Message: "failed to mint scoped canvas host URL"}, errs.Internal)
		return
	}
	r.ok(struct {
		Capability string `json:"canvasCapability"`
		ExpiresAt  int64  `json:"canvasCapabilityExpiresAtMs"`
		URL        string `json:"canvasHostUrl"`
	}{token, expires.UnixMilli(), url})
}
