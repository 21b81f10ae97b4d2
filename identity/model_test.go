package identity_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/store/storetest"
)

// model is what may be, written down without looking at how the service does it: what each device was
// given, by whom it could be given.
type model struct {
	*world
	t *rapid.T
	// given are the scopes that each device was given for the role operator since that was last revoked.
	given map[string]scopes
	// revoked are the roles that were taken away and not given back.
	revoked map[string]bool // device + role
	// tokens are all secrets that were ever shown, with the device and role they are for.
	tokens map[string][2]string
	// order is in which tokens and invites came, so that a run can be repeated.
	order []string
	// dead are those that may not let anybody in any more.
	dead map[string]bool
	// invites are the open ones, with what they give.
	invites map[string]identity.InviteIn
	// sources counts the places from which somebody came: nobody is slowed down for guessing here.
	sources uint32
}

func (m *model) elsewhere() netip.Addr {
	m.sources++
	return netip.AddrFrom4([4]byte{10, byte(m.sources >> 16), byte(m.sources >> 8), byte(m.sources)})
}

var (
	modelDevices = []string{"a", "b"}
	modelScopes  = scopes{identity.ScopeRead, identity.ScopeWrite, identity.ScopePairing, identity.ScopeAdmin}
	modelRoles   = []identity.Role{identity.RoleOperator, identity.RoleNode}
)

func (m *model) scopes(label string) scopes {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(modelScopes), 0, 2, rapid.ID).Draw(m.t, label)
}

func (m *model) name() string { return rapid.SampledFrom(modelDevices).Draw(m.t, "device") }

func (m *model) role() identity.Role { return rapid.SampledFrom(modelRoles).Draw(m.t, "role") }

// caller is an operator that passed the gate: by the shared secret with the scopes that it asked for,
// or by a device token that holds. ok is false when there is no such token.
func (m *model) caller() (identity.Caller, bool) {
	if rapid.Bool().Draw(m.t, "by secret") {
		return operator(append(m.scopes("held"), identity.ScopePairing)...), true
	}
	for _, token := range m.shown() {
		c, err := m.svc.Bearer(context.Background(), token, identity.Peer{Client: m.elsewhere()})
		if err == nil && c.Has(identity.ScopePairing) && rapid.Bool().Draw(m.t, "this device") {
			return c, true
		}
	}
	return identity.Caller{}, false
}

func (m *model) shown() []string {
	return slices.DeleteFunc(slices.Clone(m.order), func(s string) bool { return m.tokens[s][0] == "" })
}

// holds says in words of its own what it is to hold scopes.
func holds(held, wanted scopes) bool {
	for _, w := range wanted {
		switch {
		case slices.Contains(held, identity.ScopeAdmin), slices.Contains(held, w):
		case w == identity.ScopeRead && slices.Contains(held, identity.ScopeWrite):
		default:
			return false
		}
	}
	return true
}

func isAdmin(c identity.Caller) bool { return slices.Contains(c.Scopes, identity.ScopeAdmin) }

// give notes that a device was given scopes for a role.
func (m *model) give(dev string, role identity.Role, s scopes) {
	delete(m.revoked, dev+string(role))
	if role == identity.RoleOperator {
		m.given[dev] = identity.Union(m.given[dev], s)
	}
}

// minted notes a token that was shown.
func (m *model) minted(token, dev string, role identity.Role) {
	for old, of := range m.tokens {
		if of == [2]string{dev, string(role)} && old != token {
			m.dead[old] = true
		}
	}
	if m.tokens[token][0] == "" {
		m.order = append(m.order, token)
	}
	m.tokens[token] = [2]string{dev, string(role)}
}

func (m *model) kill(dev string, role identity.Role) {
	for old, of := range m.tokens {
		if of[0] == dev && (role == "" || of[1] == string(role)) {
			m.dead[old] = true
		}
	}
}

func (m *model) connect() {
	dev := m.name()
	a := m.attempt(dev, m.scopes("wanted")...)
	a.Role = m.role()
	a.Peer.Client = m.elsewhere()
	a.Peer.Local, a.Peer.HasOrigin = rapid.Bool().Draw(m.t, "local"), rapid.Bool().Draw(m.t, "origin")
	a.Token = rapid.SampledFrom([]string{"tok", "tok", "", "wrong"}).Draw(m.t, "token")
	if rapid.Bool().Draw(m.t, "backend") {
		a.ClientID, a.ClientMode = "gateway-client", "backend"
	}
	if shown := m.shown(); len(shown) > 0 && rapid.Bool().Draw(m.t, "with a device token") {
		a.DeviceToken = rapid.SampledFrom(shown).Draw(m.t, "device token")
	}
	before := m.given[dev]
	adm, err := m.admit(a)
	if err != nil {
		return
	}
	bySecret := a.Token == "tok" || m.auth.Mode == identity.AuthNone
	switch {
	case !holds(a.Scopes, adm.Scopes):
		m.t.Fatalf("%v asked for, %v got", a.Scopes, adm.Scopes)
	case m.revoked[dev+string(a.Role)]:
		m.t.Fatalf("%s is let in as %s, which was revoked", dev, a.Role)
	case !bySecret && (m.dead[a.DeviceToken] || m.tokens[a.DeviceToken] != [2]string{dev, string(a.Role)}):
		m.t.Fatalf("%s is let in as %s by a token of %v, dead %v", dev, a.Role, m.tokens[a.DeviceToken], m.dead[a.DeviceToken])
	case !bySecret && a.Role == identity.RoleOperator && !holds(before, adm.Scopes):
		m.t.Fatalf("%s has %v by a token, was given %v", dev, adm.Scopes, before)
	}
	if adm.Issued == nil {
		return
	}
	// A program on this machine is let in without being asked about, when it has the secret.
	if silent := a.Peer.Local && !a.Peer.HasOrigin && bySecret; silent && a.Role == identity.RoleOperator &&
		(a.ClientMode != "backend" || m.auth.Mode == identity.AuthNone) {
		m.give(dev, a.Role, a.Scopes)
	}
	m.minted(adm.Issued.Token, dev, a.Role)
}

func (m *model) decide() {
	list, err := m.svc.List(context.Background(), identity.Internal())
	if err != nil {
		m.t.Fatal(err)
	}
	if len(list.Pending) == 0 {
		return
	}
	p := rapid.SampledFrom(list.Pending).Draw(m.t, "request")
	c, ok := m.caller()
	if !ok {
		return
	}
	if rapid.Bool().Draw(m.t, "reject") {
		if _, err := m.svc.Reject(context.Background(), c, identity.RejectIn{RequestID: p.RequestID}); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	before, _, err := m.store.Device(p.DeviceID)
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := m.svc.Approve(context.Background(), c, identity.ApproveIn{RequestID: p.RequestID})
	node := slices.Contains(p.Roles, identity.RoleNode)
	if err != nil {
		e, _ := errs.As(err)
		if isAdmin(c) || !node && holds(c.Scopes, p.Scopes) && holds(c.Scopes, before.Scopes) || e == nil || e.Code != identity.ErrBeyondCaller.Code {
			m.t.Fatalf("%v may not approve %v with %v: %v", c.Scopes, p.Roles, p.Scopes, err)
		}
		return
	}
	t := out.Device.Tokens[p.Role]
	if !isAdmin(c) && (node || !holds(c.Scopes, p.Scopes) || !holds(c.Scopes, t.Scopes) || !holds(c.Scopes, out.Device.Scopes)) {
		m.t.Fatalf("%v approved %v with %v, and it became %v", c.Scopes, p.Roles, p.Scopes, out.Device)
	}
	dev := modelDevices[slices.IndexFunc(modelDevices, func(d string) bool { return id(d) == p.DeviceID })]
	m.kill(dev, p.Role)
	after, _, err := m.store.Device(p.DeviceID)
	if err != nil {
		m.t.Fatal(err)
	}
	if kept := after.Tokens[p.Role].Token; kept == before.Tokens[p.Role].Token {
		if m.revoked[dev+string(p.Role)] {
			m.t.Fatalf("%s has the token again that was revoked", dev)
		}
		delete(m.dead, kept)
	}
	m.give(dev, p.Role, t.Scopes)
	m.give(dev, p.Role, p.Scopes)
	if p.Role == identity.RoleNode && slices.Contains(p.Roles, identity.RoleOperator) {
		m.given[dev] = identity.Union(m.given[dev], p.Scopes)
	}
}

func (m *model) rotate() {
	c, ok := m.caller()
	if !ok {
		return
	}
	dev, role := m.name(), m.role()
	in := identity.RotateIn{DeviceID: id(dev), Role: role}
	if rapid.Bool().Draw(m.t, "other scopes") {
		in.Scopes = append(scopes{}, m.scopes("rotate to")...)
	}
	before := m.given[dev]
	out, err := m.svc.RotateToken(context.Background(), c, in)
	if err != nil {
		return
	}
	if role == identity.RoleOperator && !m.revoked[dev+string(role)] && !holds(before, out.Scopes) {
		m.t.Fatalf("rotated to %v, given were %v", out.Scopes, before)
	}
	if !isAdmin(c) && (!holds(c.Scopes, out.Scopes) || role == identity.RoleNode && c.DeviceID != id(dev)) {
		m.t.Fatalf("%v of %s rotated %s of %s to %v", c.Scopes, c.DeviceID, role, dev, out.Scopes)
	}
	m.kill(dev, role)
	m.give(dev, role, out.Scopes)
	m.minted(out.Token, dev, role)
}

func (m *model) end() {
	c, ok := m.caller()
	if !ok {
		return
	}
	dev, role := m.name(), m.role()
	before, exists, err := m.store.Device(id(dev))
	if err != nil {
		m.t.Fatal(err)
	}
	remove := rapid.Bool().Draw(m.t, "remove")
	if remove {
		_, err = m.svc.Remove(context.Background(), c, identity.RemoveIn{DeviceID: id(dev)})
	} else {
		_, err = m.svc.RevokeToken(context.Background(), c, identity.RevokeIn{DeviceID: id(dev), Role: role})
	}
	if err != nil {
		return
	}
	if own := c.DeviceID == id(dev); exists && !own && c.DeviceID != "" && !isAdmin(c) &&
		(slices.Contains(before.Roles, identity.RoleNode) || !holds(c.Scopes, before.Scopes)) {
		m.t.Fatalf("%v ended a device with %v and %v", c.Scopes, before.Roles, before.Scopes)
	}
	if remove {
		m.kill(dev, "")
		delete(m.given, dev)
		delete(m.revoked, dev+"operator")
		delete(m.revoked, dev+"node")
		return
	}
	m.kill(dev, role)
	m.revoked[dev+string(role)] = true
	if role == identity.RoleOperator {
		delete(m.given, dev)
	}
}

func (m *model) offer() {
	c, ok := m.caller()
	if !ok {
		return
	}
	in := identity.InviteIn{Role: m.role(), Scopes: m.scopes("invite to")}
	if in.Role == identity.RoleNode {
		in.Scopes = nil
	}
	out, err := m.svc.CreateInvite(context.Background(), c, in)
	if err != nil {
		return
	}
	if !isAdmin(c) && (in.Role == identity.RoleNode || !holds(c.Scopes, in.Scopes)) {
		m.t.Fatalf("%v invited %s with %v", c.Scopes, in.Role, in.Scopes)
	}
	m.invites[out.Secret] = in
	m.order = append(m.order, out.Secret)
}

func (m *model) accept() {
	if len(m.invites) == 0 {
		return
	}
	all := slices.DeleteFunc(slices.Clone(m.order), func(s string) bool { return m.invites[s].Role == "" })
	secret, dev := rapid.SampledFrom(all).Draw(m.t, "invite"), m.name()
	in := m.invites[secret]
	out, err := m.enroll(secret, enrolment(dev, secret))
	if err != nil {
		return // its maker may be gone
	}
	delete(m.invites, secret)
	if out.Role != in.Role || !holds(in.Scopes, out.Scopes) {
		m.t.Fatalf("invited as %s with %v, enrolled as %s with %v", in.Role, in.Scopes, out.Role, out.Scopes)
	}
	if _, err := m.enroll(secret, enrolment(dev, secret)); err == nil {
		m.t.Fatal("an invite was used twice")
	}
	m.kill(dev, in.Role)
	m.give(dev, in.Role, in.Scopes)
	m.minted(out.Token, dev, in.Role)
}

// check holds what is stored against what was given.
func (m *model) check() {
	for _, dev := range modelDevices {
		d, exists, err := m.store.Device(id(dev))
		if err != nil {
			m.t.Fatal(err)
		}
		if !exists {
			continue
		}
		t := d.Tokens[identity.RoleOperator]
		if t.Token != "" && t.RevokedAt.IsZero() && !holds(m.given[dev], t.Scopes) {
			m.t.Fatalf("%s holds %v, was given %v", dev, t.Scopes, m.given[dev])
		}
		for _, role := range modelRoles {
			if t := d.Tokens[role]; m.revoked[dev+string(role)] && t.Token != "" && t.RevokedAt.IsZero() {
				m.t.Fatalf("%s has a token as %s, which was revoked", dev, role)
			}
		}
	}
	for token := range m.dead {
		if c, err := m.svc.Bearer(context.Background(), token, identity.Peer{Client: m.elsewhere()}); err == nil {
			m.t.Fatalf("a dead token makes %+v", c)
		}
	}
}

// empty makes the store a new one: opening one for each run would be all that the test does.
func empty(tb testing.TB, st *store.Store) {
	devices, err := st.Devices()
	requests, err2 := st.Requests()
	invites, err3 := st.Invites()
	err = errors.Join(err, err2, err3, st.ChangeDevices(context.Background(), func(tx identity.Tx) error {
		var errs []error
		for _, d := range devices {
			errs = append(errs, tx.DeleteDevice(d.ID))
		}
		for _, p := range requests {
			errs = append(errs, tx.DeleteRequest(p.RequestID))
		}
		for _, i := range invites {
			errs = append(errs, tx.DeleteInvite(i.ID))
		}
		return errors.Join(errs...)
	}))
	if err != nil {
		tb.Fatal(err)
	}
}

// Whatever happens in whatever order, nobody has more than he was given, by somebody who had it
// (promises.md R24): connecting, approving, rotating, revoking, removing, inviting, enrolling, restarts
// and clocks.
func TestScopesStayWithin(t *testing.T) {
	outer, st := t, storetest.Open(t)
	rapid.Check(t, func(t *rapid.T) {
		mode := rapid.SampledFrom([]identity.AuthMode{identity.AuthToken, identity.AuthNone}).Draw(t, "mode")
		w := worldOf(outer, st, mode)
		defer empty(outer, st)
		m := &model{
			world: w, t: t, given: map[string]scopes{}, revoked: map[string]bool{},
			tokens: map[string][2]string{}, dead: map[string]bool{}, invites: map[string]identity.InviteIn{},
		}
		steps := map[string]func(*rapid.T){"": func(*rapid.T) { m.check() }}
		for name, do := range map[string]func(){
			"connect": m.connect, "connect again": m.connect, "and again": m.connect,
			"decide": m.decide, "decide again": m.decide, "rotate": m.rotate, "end": m.end, "offer": m.offer, "accept": m.accept,
			"restart": m.open,
			"wait":    func() { m.clock = m.clock.Add(time.Duration(rapid.IntRange(-7, 7).Draw(m.t, "minutes")) * time.Minute) },
		} {
			steps[name] = func(t *rapid.T) {
				m.t = t
				do()
			}
		}
		t.Repeat(steps)
	})
}
