package approvals

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/events"
	"github.com/hanzoai/hanzod/identity"
)

// GrantState is where a grant stands.
type GrantState string

// The states of a grant. All but the first are final.
const (
	GrantLive    GrantState = "live"
	GrantUsed    GrantState = "used"
	GrantOver    GrantState = "over"
	GrantRevoked GrantState = "revoked"
)

// Grant lets commands run without asking. It never covers what a deny rule forbids, or what those who
// made it could not have allowed: where a rule wants several approvers, or particular ones, it counts
// only if they made it.
type Grant struct {
	// ID sorts by the time of creation.
	ID string
	// Key is the canonical form of the one command that it covers. When it is empty, Pattern is what
	// argv must look like: a word with * for any text, a last word ** for any further words.
	Key     string
	Pattern []string
	// Command is text for people.
	Command string
	// NodeID is empty for commands of the gateway host.
	NodeID string
	// AgentID is the agent; nil is a run that names none. AnyAgent does not look at it.
	AgentID  *string
	AnyAgent bool
	// SessionKey is the only session that it holds in; nil is any.
	SessionKey *string
	// Cwd is the working directory; nil is a run that names none. AnyCwd does not look at it.
	Cwd    *string
	AnyCwd bool
	// EnvHash is that of the environment overrides that it covers; nil is a run without any.
	EnvHash *string
	// Requester is the subject that may use it, unless AnyRequester.
	Requester    string
	AnyRequester bool
	// Tenant is the only organisation whose runs it covers; empty for a grant of the gateway's owner, which covers
	// those of all that it names.
	Tenant string

	// MaxUses is 0 and Until zero for no such limit.
	MaxUses    int
	Until      time.Time
	Uses       int
	LastUsedAt time.Time

	CreatedAt time.Time
	// CreatedBy is the subject of who made it, CreatedByName how they show themselves.
	CreatedBy, CreatedByName string
	// Makers are all who agreed to it.
	Makers []Party
	// ApprovalID is the approval that it was made with, empty when it was made by itself; Rule the rule
	// that had asked.
	ApprovalID string
	Rule       string
	Note       string
	// Files are the programs and scripts that the command may open, in the order of their paths; nil does
	// not look at them.
	Files []GrantFile

	RevokedAt time.Time
	RevokedBy string
}

// GrantFile is a program or script on a node.
type GrantFile struct {
	Path   string
	SHA256 string
}

// filesOf lists what an identity says about programs and scripts. Where they lie on the disk does not
// count: the same content is the same program. Nil is an identity that is not known.
func filesOf(id *Identity) []GrantFile {
	if id == nil {
		return nil
	}
	out := []GrantFile{}
	add := func(f FileIdentity) {
		sum := f.SHA256
		if sum == "" {
			sum = fmt.Sprintf("%d:%d", f.Device, f.Inode)
		}
		out = append(out, GrantFile{f.Path, sum})
	}
	for _, f := range []*FileIdentity{id.Executable, id.Script} {
		if f != nil {
			add(*f)
		}
	}
	for _, f := range id.Inner {
		add(f.FileIdentity)
	}
	slices.SortFunc(out, func(a, b GrantFile) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.SHA256, b.SHA256))
	})
	return slices.Compact(out)
}

// sameFiles reports whether a run opens the files of a grant.
func (g Grant) sameFiles(id *Identity) bool {
	return g.Files == nil || id != nil && slices.Equal(g.Files, filesOf(id))
}

// State is where a grant stands at a time.
func (g Grant) State(now time.Time) GrantState {
	switch {
	case !g.RevokedAt.IsZero():
		return GrantRevoked
	case g.MaxUses > 0 && g.Uses >= g.MaxUses:
		return GrantUsed
	case !g.Until.IsZero() && (now.After(g.Until) || now.Before(g.CreatedAt.Add(-g.Until.Sub(g.CreatedAt)))):
		return GrantOver // also when the clock was set back by more than it stands
	default:
		return GrantLive
	}
}

// EndedAt is when a grant that is over ended.
func (g Grant) EndedAt() time.Time {
	switch {
	case !g.RevokedAt.IsZero():
		return g.RevokedAt
	case g.MaxUses > 0 && g.Uses >= g.MaxUses:
		return g.LastUsedAt
	default:
		return g.Until
	}
}

// GrantIn is how far a grant reaches that is made with an answer. It covers the command, node, agent,
// directory, environment and requester of the approval, but for what it says.
type GrantIn struct {
	// MaxUses, Until and Session limit it; without one of them, Always has to be said.
	MaxUses int
	Until   time.Time
	Session bool
	Always  bool
	Pattern []string

	// AnyFiles lets it run when its programs and scripts are others than those of the approval.
	AnyCwd, AnyAgent, AnyRequester, AnyFiles bool
	Note                                     string
}

// CreateGrantIn is the argument of CreateGrant. Either Argv or Pattern is given.
type CreateGrantIn struct {
	Argv         []string
	Pattern      []string
	NodeID       string
	AgentID      *string
	AnyAgent     bool
	SessionKey   *string
	Cwd          *string
	AnyCwd       bool
	Env          map[string]string
	Requester    string // the caller when empty
	AnyRequester bool
	MaxUses      int
	Until        time.Time
	Always       bool
	Note         string
}

// ListGrantsIn is the argument of ListGrants; ListGrantsOut its result, newest first. Before and Next
// are ids.
type (
	ListGrantsIn struct {
		All    bool
		NodeID string
		Max    int
		Before string
	}
	ListGrantsOut struct {
		Grants []Grant
		Next   string
		// Now is when their states were looked at.
		Now time.Time
	}
)

// GrantOut is a grant and where it stands.
type GrantOut struct {
	Grant Grant
	State GrantState
}

// GrantChanged is the payload of the event grant.changed: a grant was made, used or ended.
type GrantChanged struct{ Grant GrantOut }

// BelongsTo implements events.Belonging.
func (g GrantChanged) BelongsTo() string { return g.Grant.Grant.tenant() }

// tenant is whose a grant is: that of the node, else, on what all have, its own.
func (g Grant) tenant() string { return cmp.Or(identity.NodeTenant(g.NodeID), g.Tenant) }

// grantBook is the live grants in memory; the store is the truth. The service's mu guards it.
type grantBook struct {
	all    map[string]Grant
	byNode map[string]map[string]Grant
	// making counts those on their way to the disk, of all and of each maker.
	making   int
	makingBy map[string]int
}

func newGrantBook() grantBook {
	return grantBook{all: map[string]Grant{}, byNode: map[string]map[string]Grant{}, makingBy: map[string]int{}}
}

// put takes a grant as it stands. A later change may have been quicker to get here.
func (b *grantBook) put(g Grant, now time.Time) {
	old, known := b.all[g.ID]
	if known && (old.Uses > g.Uses || !old.RevokedAt.IsZero()) {
		return
	}
	if g.State(now) != GrantLive {
		b.forget(g)
		return
	}
	b.all[g.ID] = g
	on := b.byNode[g.NodeID]
	if on == nil {
		on = map[string]Grant{}
		b.byNode[g.NodeID] = on
	}
	on[g.ID] = g
}

func (b *grantBook) forget(g Grant) {
	delete(b.all, g.ID)
	if on := b.byNode[g.NodeID]; on != nil {
		if delete(on, g.ID); len(on) == 0 {
			delete(b.byNode, g.NodeID)
		}
	}
}

// reserve makes room for one more grant of a maker. The caller gives it back with release.
func (s *Service) reserve(maker string) error {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	total, own := s.grants.making, s.grants.makingBy[maker]
	for _, g := range s.grants.all {
		if g.State(now) != GrantLive {
			s.grants.forget(g)
			continue
		}
		total++
		if g.CreatedBy == maker {
			own++
		}
	}
	if total >= maxGrants || own >= maxGrantsEach {
		return ErrTooManyGrants
	}
	s.grants.making++
	s.grants.makingBy[maker]++
	return nil
}

func (s *Service) release(maker string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grants.making--
	if s.grants.makingBy[maker]--; s.grants.makingBy[maker] == 0 {
		delete(s.grants.makingBy, maker)
	}
}

// checkGrant checks the limits of a grant, and whether its maker may make one that reaches so far: a
// command by its exact words takes the scope of approvals, as the answer to a question does. A
// pattern lets more run than anybody was shown, so that without a near end it takes an admin.
func (s *Service) checkGrant(c identity.Caller, g Grant, always bool) error {
	now := s.now()
	unlimited := g.MaxUses == 0 && g.Until.IsZero() && g.SessionKey == nil
	long := g.MaxUses > maxPatternUses || g.Until.After(now.Add(MaxTimeout)) || g.MaxUses == 0 && g.Until.IsZero()
	switch {
	case !c.Has(identity.ScopeApprovals):
		return ErrGrantPowers.With("scope", string(identity.ScopeApprovals))
	case unlimited && !always, always && !unlimited:
		return ErrGrantLimit
	case g.MaxUses < 0 || g.MaxUses > maxGrantUses:
		return ErrGrantUses
	case !g.Until.IsZero() && !g.Until.After(now):
		return ErrGrantUntil
	case len(g.Note) > maxNoteBytes:
		return ErrGrantNote
	case len(g.Pattern) > 0 && long && !c.Has(identity.ScopeAdmin):
		return ErrGrantPowers.With("scope", string(identity.ScopeAdmin))
	}
	return nil
}

// CreateGrant makes a grant that no approval asked for.
func (s *Service) CreateGrant(ctx context.Context, c identity.Caller, in CreateGrantIn) (GrantOut, error) {
	hash, _ := policy.EnvHash(in.Env)
	g := Grant{
		ID: newGrantID(), NodeID: strings.TrimSpace(in.NodeID), AgentID: in.AgentID, AnyAgent: in.AnyAgent, SessionKey: in.SessionKey,
		Cwd: in.Cwd, AnyCwd: in.AnyCwd, EnvHash: hash, Requester: in.Requester, AnyRequester: in.AnyRequester, Tenant: c.Tenant,
		MaxUses: in.MaxUses, Until: in.Until, CreatedAt: s.now(), CreatedBy: c.Subject(), CreatedByName: c.Name(),
		Makers: []Party{partyOf(c)}, Note: in.Note,
	}
	if g.Requester == "" {
		g.Requester = partyOf(c).subject()
	}
	if g.AnyRequester {
		g.Requester = ""
	}
	if g.AnyAgent {
		g.AgentID = nil
	}
	if g.AnyCwd {
		g.Cwd = nil
	}
	size := len(g.NodeID) + len(g.Requester)
	for _, t := range []*string{g.AgentID, g.SessionKey, g.Cwd} {
		if t != nil {
			size += len(*t)
		}
	}
	switch {
	case !c.SeesNode(g.NodeID):
		return GrantOut{}, ErrNodeUnknown.With("node", g.NodeID)
	case (len(in.Argv) == 0) == (len(in.Pattern) == 0):
		return GrantOut{}, ErrGrantCommand
	case size > maxKeyBytes:
		return GrantOut{}, ErrTooLarge
	case len(in.Pattern) > 0:
		if err := checkPattern(in.Pattern); err != nil {
			return GrantOut{}, err
		}
		g.Pattern, g.Command = in.Pattern, policy.FormatArgv(in.Pattern)
	default:
		cmd, err := policy.CommandText(in.Argv, nil)
		if err != nil {
			return GrantOut{}, err
		}
		g.Command = cmd.Text
		var refused string
		if g.Key, refused = commandKey(in.Argv); refused != "" {
			return GrantOut{}, ErrGrantKey.With("why", refused).WithText("no grant can find this command again: " + refused)
		}
	}
	if err := s.checkGrant(c, g, in.Always); err != nil {
		return GrantOut{}, err
	}
	if g.Key != "" {
		// What the rules say is looked at again with each use; here it spares a grant that never counts.
		r := s.rule(attempt{
			argv: in.Argv, text: g.Command, nodeID: g.NodeID, agent: g.AgentID, session: g.SessionKey, cwd: g.Cwd,
		})
		if r.Effect == policy.EffectDeny {
			return GrantOut{}, deniedBy(r)
		}
		if !suffices(g.Makers, partyOfSubject(g.Requester), r) {
			return GrantOut{}, ErrGrantRule.With("rule", r.Rule, "where", r.Where)
		}
	}
	if err := s.reserve(g.CreatedBy); err != nil {
		return GrantOut{}, err
	}
	defer s.release(g.CreatedBy)
	err := s.store.Transact(ctx, func(tx Tx) error {
		if err := tx.PutGrant(g); err != nil {
			return err
		}
		return tx.Audit(s.grantRow(AuditGrant, c.Subject(), g, "made"))
	})
	if err != nil {
		return GrantOut{}, err
	}
	return s.tellGrant(g), nil
}

// GetGrant returns one grant, also one that ended.
func (s *Service) GetGrant(_ context.Context, c identity.Caller, id string) (GrantOut, error) {
	if id == "" {
		return GrantOut{}, ErrGrantID
	}
	g, err := s.store.Grant(id)
	if err == nil && !c.Decides(g.tenant()) {
		err = ErrUnknownGrant
	}
	if err != nil {
		return GrantOut{}, unknownGrant(err, id)
	}
	return GrantOut{g, g.State(s.now())}, nil
}

func unknownGrant(err error, id string) error {
	if errs.ClassOf(err) == errs.NotFound {
		return ErrUnknownGrant.With("id", id)
	}
	return err
}

// ListGrants returns grants, newest first: those that may be used, or all.
func (s *Service) ListGrants(_ context.Context, c identity.Caller, in ListGrantsIn) (ListGrantsOut, error) {
	out := ListGrantsOut{Now: s.now()}
	if in.Max <= 0 || in.Max > MaxListed {
		in.Max = MaxListed
	}
	all, err := s.store.Grants()
	if err != nil {
		return ListGrantsOut{}, err
	}
	for _, g := range slices.Backward(all) {
		switch {
		case in.Before != "" && g.ID >= in.Before,
			in.NodeID != "" && g.NodeID != in.NodeID, !c.Decides(g.tenant()),
			!in.All && g.State(out.Now) != GrantLive:
			continue
		}
		if len(out.Grants) == in.Max {
			out.Next = out.Grants[in.Max-1].ID
			break
		}
		out.Grants = append(out.Grants, g)
	}
	return out, nil
}

// RevokeGrant ends a grant. From its commit on nothing runs under it that had not begun.
func (s *Service) RevokeGrant(ctx context.Context, c identity.Caller, id string) (GrantOut, error) {
	if id == "" {
		return GrantOut{}, ErrGrantID
	}
	if _, err := s.GetGrant(ctx, c, id); err != nil {
		return GrantOut{}, err
	}
	g, err := s.revoke(ctx, id, c.Subject())
	if err != nil {
		return GrantOut{}, unknownGrant(err, id)
	}
	return s.tellGrant(g), nil
}

func (s *Service) revoke(ctx context.Context, id, by string) (g Grant, err error) {
	now := s.now()
	err = s.store.Transact(ctx, func(tx Tx) (err error) {
		if g, err = tx.Grant(id); err != nil {
			return err
		}
		if !g.RevokedAt.IsZero() {
			return ErrGrantEnded.With("id", id, "state", string(GrantRevoked), "revokedBy", g.RevokedBy)
		}
		// One that was used up can be revoked as well: a run that it allowed may still wait.
		g.RevokedAt, g.RevokedBy = now, by
		if err := tx.PutGrant(g); err != nil {
			return err
		}
		return tx.Audit(s.grantRow(AuditGrant, by, g, "revoked"))
	})
	return g, err
}

// tellGrant takes a grant into memory and tells who watches.
func (s *Service) tellGrant(g Grant) GrantOut {
	now := s.now()
	s.mu.Lock()
	s.grants.put(g, now)
	s.mu.Unlock()
	out := GrantOut{g, g.State(now)}
	s.bus.Publish("grant.changed", GrantChanged{out})
	return out
}

// WatchGrants begins a stream: no change between Live and Events is lost. The reader closes Events.
func (s *Service) WatchGrants(_ context.Context, c identity.Caller) (live []GrantOut, sub *events.Subscription, err error) {
	sub = s.bus.Subscribe(func(e events.Event) bool {
		_, ok := e.Payload.(GrantChanged)
		return ok && events.Visible(c, e.Name) && events.Concerns(c, e.Payload)
	})
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.grants.all {
		if g.State(now) == GrantLive && c.Decides(g.tenant()) {
			live = append(live, GrantOut{g, GrantLive})
		}
	}
	slices.SortFunc(live, func(a, b GrantOut) int { return strings.Compare(a.Grant.ID, b.Grant.ID) })
	return live, sub, nil
}

// attempt is a run to decide on.
type attempt struct {
	argv    []string
	text    string
	nodeID  string // empty on the gateway host
	agent   *string
	session *string
	cwd     *string
	envHash *string
	by      Party
	tenant  string // of who runs it

	keyed           bool // key and keyRefused are there
	key, keyRefused string
	signed          bool // signs are there
	signs           []string
}

// canon returns the key of the command, computed once.
func (t *attempt) canon() string {
	if !t.keyed {
		t.key, t.keyRefused = commandKey(t.argv)
		t.keyed = true
	}
	return t.key
}

// suspicious returns the signs of obfuscation in the command, looked for once.
func (t *attempt) suspicious() []string {
	if !t.signed {
		t.signs = Signs(t.text, t.argv)
		t.signed = true
	}
	return t.signs
}

// covers reports whether a grant is for a run, whatever its state. A command with signs of obfuscation
// is covered by a grant for exactly that command alone.
func (g Grant) covers(t *attempt) bool {
	switch {
	case g.NodeID != t.nodeID,
		g.Tenant != "" && g.Tenant != t.tenant,
		!g.AnyRequester && g.Requester != t.by.subject(),
		!g.AnyAgent && !same(g.AgentID, t.agent),
		!g.AnyCwd && !same(g.Cwd, t.cwd),
		g.SessionKey != nil && !same(g.SessionKey, t.session),
		!same(g.EnvHash, t.envHash):
		return false
	case g.Key != "":
		return t.canon() == g.Key
	default:
		return len(g.Pattern) > 0 && matchArgv(g.Pattern, t.argv) && len(t.suspicious()) == 0
	}
}

// suffices reports whether those who agree to a run are those that a rule wants. Requester is who will
// run it.
func suffices(makers []Party, requester Party, r policy.Ruling) bool {
	if r.Effect != policy.EffectAsk {
		return true
	}
	n := 0
	for i, m := range makers {
		switch {
		case slices.ContainsFunc(makers[:i], m.same),
			r.ExcludeRequester && m.same(requester),
			len(r.Approvers) > 0 && !m.in(r.Approvers) && !m.in(r.EscalateTo):
		default:
			n++
		}
	}
	return n >= max(r.Quorum, 1)
}

// stands reports whether those who made a grant still are who they were: what a device agreed to ends
// with its pairing, and what somebody on the tailnet agreed to with the mapping of that login.
func (s *Service) stands(g Grant) bool {
	if s.standing == nil {
		return true
	}
	for _, m := range g.Makers {
		c := identity.Caller{Role: identity.RoleOperator, DeviceID: m.DeviceID, Paired: m.Paired, Principal: m.Principal}
		if s.standing(c) != nil {
			return false
		}
	}
	return true
}

// covering returns the live grants that cover a run, the best first: one that is not used up by it
// before others, then one for the command before a pattern.
func (s *Service) covering(t *attempt, r policy.Ruling) []Grant {
	now := s.now()
	s.mu.Lock()
	on := s.grants.byNode[t.nodeID]
	candidates := make([]Grant, 0, len(on))
	for _, g := range on {
		candidates = append(candidates, g)
	}
	s.mu.Unlock()
	out := candidates[:0]
	for _, g := range candidates {
		if g.State(now) == GrantLive && g.covers(t) && suffices(g.Makers, t.by, r) && s.stands(g) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b Grant) int {
		for _, f := range []func(Grant) bool{
			func(g Grant) bool { return g.MaxUses == 0 }, func(g Grant) bool { return g.Key != "" },
		} {
			if x, y := f(a), f(b); x != y {
				if x {
					return -1
				}
				return 1
			}
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out
}

// errGrantGone says within a transaction that a grant cannot be used any more.
var errGrantGone = errors.New("the grant cannot be used any more")

// take uses a grant within a transaction.
func (s *Service) take(tx Tx, id string, now time.Time) (Grant, error) {
	g, err := tx.Grant(id)
	switch {
	case errs.ClassOf(err) == errs.NotFound && err != nil, err == nil && g.State(now) != GrantLive:
		return Grant{}, errGrantGone
	case err != nil:
		return Grant{}, err
	}
	g.Uses++
	g.LastUsedAt = now
	return g, tx.PutGrant(g)
}

// grantFor makes the grant of an answer. The makers are all who agreed.
func (s *Service) grantFor(c identity.Caller, a Approval, in GrantIn, makers []Party) (Grant, error) {
	g := Grant{
		ID: newGrantID(), Command: a.Command, AgentID: a.AgentID, AnyAgent: in.AnyAgent, Cwd: a.Cwd, AnyCwd: in.AnyCwd,
		Requester: a.Requester.party().subject(), AnyRequester: in.AnyRequester, Tenant: a.Requester.Tenant, MaxUses: in.MaxUses, Until: in.Until,
		CreatedAt: s.now(), CreatedBy: c.Subject(), CreatedByName: c.Name(), Makers: makers,
		ApprovalID: a.ID, Rule: a.Rule, Note: in.Note,
	}
	if in.AnyRequester && g.Tenant == "" {
		g.Tenant = c.Tenant // nobody lets others run what is not of his organisation
	}
	if a.Binding != nil {
		g.EnvHash = a.Binding.EnvHash
	}
	if a.NodeID != nil {
		g.NodeID = *a.NodeID
	}
	if in.AnyAgent {
		g.AgentID = nil
	}
	if in.AnyCwd {
		g.Cwd = nil
	}
	if in.AnyRequester {
		g.Requester = ""
	}
	if in.Session {
		if a.SessionKey == nil {
			return Grant{}, ErrGrantSession
		}
		g.SessionKey = a.SessionKey
		// Nobody says when a session is over.
		if last := g.CreatedAt.Add(MaxTimeout); g.Until.IsZero() || g.Until.After(last) {
			g.Until = last
		}
	}
	if len(in.Pattern) == 0 {
		if a.Key == "" {
			why := a.KeyRefused
			if why == "" {
				why = "it was asked before this version of hanzod"
			}
			return Grant{}, ErrGrantKey.With("why", why).WithText("no grant can find this command again: " + why)
		}
		g.Key = a.Key
		if a.Binding != nil && !in.AnyFiles {
			if a.Binding.Unbound == unboundAway {
				return Grant{}, ErrGrantFiles
			}
			g.Files = filesOf(a.Binding.Identity)
		}
	} else {
		if err := checkPattern(in.Pattern); err != nil {
			return Grant{}, err
		}
		if !keepable(a) || !matchArgv(in.Pattern, argvOf(a)) {
			return Grant{}, ErrGrantPattern
		}
		if len(a.Signs) > 0 {
			return Grant{}, ErrGrantSigns.With("signs", strings.Join(a.Signs, ", "))
		}
		g.Pattern, g.Command = in.Pattern, policy.FormatArgv(in.Pattern)
	}
	return g, s.checkGrant(c, g, in.Always)
}

// newGrantID makes ids that sort by time, so that the store needs no other order.
func newGrantID() string {
	id, err := uuid.NewV7()
	if err != nil {
		id = uuid.New() // the order is for showing only
	}
	return id.String()
}

func (s *Service) grantRow(kind, subject string, g Grant, what string) Audit {
	return Audit{
		At: s.now(), Kind: kind, Subject: subject, ApprovalID: g.ApprovalID, NodeID: g.NodeID, Command: cutText(g.Command, maxKeyBytes),
		Rule: "grant " + g.ID, Reason: "grant " + what, Detail: g.terms(),
	}
}

// terms says in words how far a grant reaches.
func (g Grant) terms() string {
	var t []string
	if len(g.Pattern) > 0 {
		t = append(t, "by pattern")
	}
	if g.MaxUses > 0 {
		t = append(t, fmt.Sprintf("%d uses", g.MaxUses))
	}
	if !g.Until.IsZero() {
		t = append(t, "until "+g.Until.UTC().Format(time.RFC3339))
	}
	if g.SessionKey != nil {
		t = append(t, "one session")
	}
	if g.MaxUses == 0 && g.Until.IsZero() {
		t = append(t, "always")
	}
	if g.AnyCwd {
		t = append(t, "in any directory")
	}
	if g.AnyAgent {
		t = append(t, "for any agent")
	}
	if g.Files != nil {
		t = append(t, fmt.Sprintf("while %d files stay as they are", len(g.Files)))
	}
	if g.AnyRequester {
		t = append(t, "for anybody")
	} else {
		t = append(t, "for "+g.Requester)
	}
	return strings.Join(t, ", ")
}

// partyOfSubject reads a subject back.
func partyOfSubject(subject string) Party {
	if id, ok := strings.CutPrefix(subject, "device:"); ok {
		return Party{DeviceID: id}
	}
	return Party{Principal: subject}
}

// checkPattern refuses patterns that say nothing.
func checkPattern(p []string) error {
	size := 0
	for i, w := range p {
		size += len(w)
		if w == "" || w == "**" && i != len(p)-1 {
			return ErrGrantPattern
		}
	}
	// The program has to be named: a grant for anything is what the rules file is for.
	if len(p) == 0 || size > maxKeyBytes || len(p) > maxPatternWords || strings.Trim(p[0], "*?/") == "" {
		return ErrGrantPattern
	}
	return nil
}
