package discover

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// lookEvery is how often the interfaces and addresses of this machine are looked at. Not every system tells of changes.
	lookEvery = 3 * time.Second
	// retryEvery is how long to wait where the port of multicast DNS cannot be opened.
	retryEvery = 30 * time.Second

	// Three probes, 250 ms apart, after a wait that keeps machines apart which start at once; who loses
	// against one that probes at the same time waits a second (RFC 6762 §8.1, 8.2).
	probes    = 3
	probeGap  = 250 * time.Millisecond
	deferWait = time.Second
	// Two announcements, a second apart (§8.3).
	announcements = 2
	announceGap   = time.Second
	// The least time between two messages to everybody on one network (§6): a flood of questions makes no
	// flood of answers. To who is about to take the name it is told sooner.
	answerGap, defendGap = time.Second, probeGap
	// An answer that others may have too waits a little, so that not all speak at once (§6).
	answerWait, answerSpread = 20 * time.Millisecond, 100 * time.Millisecond
	// patience is how many names may be found taken in a row before every next try waits for
	// conflictWait (§8.1), and maxTries how many names there are; then it rests and begins anew.
	patience     = 15
	conflictWait = 5 * time.Second
	maxTries     = 99
	restWait     = 5 * time.Minute
	// calm is how long a name has to be held for its conflicts to be forgotten.
	calm = time.Minute
	// unicastRate bounds the answers to single askers, in each second.
	unicastRate = 20
	// maxOwn bounds the addresses that are known as one's own, those of the past included: what was sent
	// from them may still be on its way.
	maxOwn = 4 * maxInterfaces
	// byeGap parts the two goodbyes, of which one may be lost.
	byeGap = 20 * time.Millisecond
)

// Options are how to announce.
type Options struct {
	// Reach says whether the daemon answers at an address of this machine. Other addresses are not named,
	// and a network without one of them hears nothing. Nil is all addresses.
	Reach func(netip.Addr) bool
	// Log hears of each problem once, and of its end.
	Log *slog.Logger
}

// Advertise announces a daemon on the networks of this machine until ctx ends, and says goodbye. It
// follows interfaces that come and go; where there is none, or the port is not to be had, it waits.
func Advertise(ctx context.Context, a Announcement, o Options) {
	if o.Reach == nil {
		o.Reach = func(netip.Addr) bool { return true }
	}
	r := &responder{about: a, o: o, n: 1, troubles: map[string]bool{}, places: map[int]*place{}}
	for ctx.Err() == nil {
		c, err := open()
		if err != nil {
			r.trouble("port", "the daemon is not announced: UDP port 5353 cannot be opened; another program may keep it for itself", err)
			pause(ctx, retryEvery)
			continue
		}
		r.fine("port")
		r.serve(ctx, c)
		c.close()
	}
}

// pause waits, and not longer than ctx lasts.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// spread is a part of d by chance, so that machines do not all speak at once.
func spread(d time.Duration) time.Duration { return rand.N(d) } //nolint:gosec // nobody is kept from guessing it

// place is what is due on one network.
type place struct {
	network
	addrs []netip.Addr // that are reached
	left  int          // announcements to make
	next  time.Time    // of these
	due   time.Time    // of an answer; zero for none
	last  time.Time    // of a message to everybody
}

// responder announces one daemon. All of it belongs to the goroutine of serve.
type responder struct {
	about Announcement
	o     Options
	conn  *conn

	n      int // of the names to try
	claim  claim
	places map[int]*place // by the index of the interface
	own    []netip.Addr   // newest last

	holds bool // the names are ours
	sent  int  // probes of this try
	next  time.Time
	since time.Time // when the names became ours
	lost  int       // conflicts in a row

	tokens   int
	tokensAt time.Time
	troubles map[string]bool
}

func (r *responder) trouble(key, text string, err error) {
	if !r.troubles[key] {
		r.troubles[key] = true
		r.o.Log.Warn(text, "error", err)
	}
}

func (r *responder) fine(key string) { delete(r.troubles, key) }

// serve runs until ctx ends.
func (r *responder) serve(ctx context.Context, c *conn) {
	r.conn = c
	look := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			r.bye()
			return
		case p := <-c.in:
			r.hear(p, time.Now())
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(look) {
			r.look(now)
			look = now.Add(lookEvery)
		}
		wake := r.act(now)
		if wake.IsZero() || look.Before(wake) {
			wake = look
		}
		timer.Reset(max(time.Until(wake), time.Millisecond))
	}
}

// look takes up what changed on this machine.
func (r *responder) look(now time.Time) {
	all, err := networks()
	if err != nil {
		r.trouble("interfaces", "the interfaces of this machine cannot be read", err)
		return
	}
	r.fine("interfaces")
	there := map[int]bool{}
	var used []network
	probeAgain := false
	for _, n := range all {
		var addrs []netip.Addr
		for _, p := range n.prefixes {
			a := p.Addr()
			if !slices.Contains(r.own, a) {
				r.own = append(r.own, a)
			}
			if r.o.Reach(a) {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) == 0 {
			continue
		}
		there[n.Index] = true
		used = append(used, n)
		old := r.places[n.Index]
		switch {
		case old == nil || old.Name != n.Name:
			r.places[n.Index] = &place{network: n, addrs: addrs}
			probeAgain = true // somebody there may have the name
		case !old.same(n):
			old.network, old.addrs, old.left, old.next = n, addrs, announcements, now
		}
	}
	r.own = r.own[max(0, len(r.own)-maxOwn):]
	for i := range r.places {
		if !there[i] {
			delete(r.places, i)
		}
	}
	r.conn.join(used)
	switch {
	case len(used) == 0:
		if !r.troubles["network"] {
			r.troubles["network"] = true
			r.o.Log.Info("the daemon is not announced: no network of this machine carries multicast and reaches it; waiting for one")
		}
		r.holds, r.sent = false, 0
	case probeAgain:
		r.fine("network")
		r.try(now.Add(spread(probeGap)))
	}
}

// try begins to probe at a time.
func (r *responder) try(at time.Time) {
	r.claim = newClaim(r.about, r.n)
	r.holds, r.sent, r.next = false, 0, at
}

// act sends what is due and returns when something will be.
func (r *responder) act(now time.Time) (wake time.Time) {
	if len(r.places) == 0 {
		return wake
	}
	soon := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	if !r.holds {
		if now.Before(r.next) {
			return r.next
		}
		if r.sent < probes {
			for _, p := range r.places {
				r.send(p, probe, now)
			}
			r.sent++
			r.next = now.Add(probeGap)
			return r.next
		}
		r.hold(now)
	}
	for _, p := range r.places {
		if p.left > 0 && !now.Before(p.next) {
			r.send(p, announce, now)
			p.left--
			p.next, p.due = now.Add(announceGap), time.Time{}
		}
		if !p.due.IsZero() && !now.Before(p.due) {
			r.send(p, announce, now)
			p.due = time.Time{}
		}
		if p.left > 0 {
			soon(p.next)
		}
		if !p.due.IsZero() {
			soon(p.due)
		}
	}
	return wake
}

// hold takes the names, which nobody claimed.
func (r *responder) hold(now time.Time) {
	r.holds, r.since = true, now
	var on []string
	for _, p := range r.places {
		p.left, p.next, p.due = announcements, now, time.Time{}
		on = append(on, p.Name)
	}
	slices.Sort(on)
	r.o.Log.Info("the daemon is announced on the local network", "name", r.claim.name, "host", strings.TrimSuffix(r.claim.host, "."), "interfaces", on)
}

// lose takes the next names after a conflict, or defends these first where they were held.
func (r *responder) lose(now time.Time) {
	if r.holds && now.Sub(r.since) > calm {
		r.lost = 0
	}
	r.lost++
	wait := spread(probeGap)
	if r.lost > patience {
		wait = conflictWait
	}
	if !r.holds {
		if r.n++; r.n > maxTries {
			r.n, wait = 1, restWait
			r.trouble("names", "the daemon is not announced: somebody on the network claims every name; trying again later", nil)
		}
	}
	r.try(now.Add(wait))
}

// send sends the claim to everybody on a network.
func (r *responder) send(p *place, f form, now time.Time) {
	p.last = now
	b, err := r.on(p).pack(f, 0, nil)
	if err == nil {
		err = r.conn.multicast(b, p.network)
	}
	if err != nil {
		r.trouble("send "+p.Name, "the daemon cannot be announced on "+p.Name, err)
		return
	}
	r.fine("send " + p.Name)
}

// on is the claim with the addresses of a network.
func (r *responder) on(p *place) claim {
	c := r.claim
	c.addrs = p.addrs
	return c
}

func (r *responder) bye() {
	if !r.holds {
		return
	}
	for i := range 2 {
		if i > 0 {
			pause(context.Background(), byeGap)
		}
		for _, p := range r.places {
			r.send(p, goodbye, time.Now())
		}
	}
	r.holds = false
}

// hear takes a message of somebody on the network, or of this machine.
func (r *responder) hear(m packet, now time.Time) {
	var p *place
	for _, q := range r.places {
		if n, ok := where(m, []network{q.network}); ok && (p == nil || n.Index < p.Index) {
			p = q
		}
	}
	if p == nil || m.from.Addr().IsMulticast() || !m.from.IsValid() || m.from.Port() == 0 {
		return
	}
	if m.response {
		// What was said before the first probe is no answer to it (§8.1).
		if m.from.Port() == port && (r.holds || r.sent > 0) && r.contradicts(m) {
			r.lose(now)
		}
		return
	}
	if !r.holds {
		if r.sent > 0 && r.beats(m, p) {
			r.sent, r.next = 0, now.Add(deferWait)
		}
		return
	}
	r.answer(m, p, now)
}

// ours says whether a message came from this machine.
func (r *responder) ours(m packet) bool { return slices.Contains(r.own, m.from.Addr()) }

// contradicts says whether an answer claims one of our names for something else. A goodbye claims
// nothing. Another daemon of this machine has its addresses too: they are no contradiction, and neither
// is what we said ourselves, heard on another interface.
func (r *responder) contradicts(m packet) bool {
	return slices.ContainsFunc(m.records, func(rec record) bool {
		switch {
		case rec.ttl == 0:
			return false
		case rec.kind == dnsmessage.TypeSRV:
			return r.instance(rec.name) && (rec.port != r.claim.port || !strings.EqualFold(rec.target, r.claim.host))
		case rec.addr.IsValid():
			return strings.EqualFold(rec.name, r.claim.host) && !r.ours(m) && !slices.Contains(r.own, rec.addr)
		}
		return false
	})
}

func (r *responder) instance(name string) bool {
	return strings.EqualFold(name, r.claim.instances[0]) || strings.EqualFold(name, r.claim.instances[1])
}

// beats says whether somebody who probes for our names at the same time is to have them: whose records
// come later in order (RFC 6762 §8.2).
func (r *responder) beats(m packet, p *place) bool {
	var theirs []netip.Addr
	for _, rec := range m.records {
		switch {
		case !rec.claimed:
		case rec.kind == dnsmessage.TypeSRV && r.instance(rec.name):
			if cmp.Or(cmp.Compare(rec.port, r.claim.port), strings.Compare(strings.ToLower(rec.target), r.claim.host)) > 0 {
				return true
			}
		case rec.addr.IsValid() && strings.EqualFold(rec.name, r.claim.host) && !r.ours(m):
			theirs = append(theirs, rec.addr)
		}
	}
	if theirs == nil {
		return false
	}
	mine := slices.SortedFunc(slices.Values(p.addrs), netip.Addr.Compare)
	slices.SortFunc(theirs, netip.Addr.Compare)
	return slices.CompareFunc(theirs, mine, netip.Addr.Compare) > 0
}

// answer answers a question about our names.
func (r *responder) answer(m packet, p *place, now time.Time) {
	var asked []dnsmessage.Question
	alone, shared := true, true
	for _, q := range m.questions {
		isShared, ok := r.ofOurs(q)
		if !ok || isShared && r.known(m) {
			continue
		}
		name, err := dnsmessage.NewName(q.name)
		if err != nil {
			continue
		}
		asked = append(asked, dnsmessage.Question{Name: name, Type: q.kind, Class: dnsmessage.ClassINET})
		alone, shared = alone && q.unicast, shared && isShared
	}
	switch {
	case len(asked) == 0:
	case m.from.Port() != port:
		// Who asks from another port is no member of the group and wants an answer as of any server.
		if b, err := r.on(p).pack(plain, m.id, asked[:1]); err == nil && r.token(now) {
			r.conn.unicast(b, p.network, m.from)
		}
	case alone || !m.multicast:
		if b, err := r.on(p).pack(announce, 0, nil); err == nil && r.token(now) {
			r.conn.unicast(b, p.network, m.from)
		}
	default:
		due, gap := now, answerGap
		if shared {
			due = now.Add(answerWait + spread(answerSpread))
		}
		if slices.ContainsFunc(m.records, func(rec record) bool { return rec.claimed }) {
			gap = defendGap
		}
		if soonest := p.last.Add(gap); due.Before(soonest) {
			due = soonest
		}
		if p.due.IsZero() || due.Before(p.due) {
			p.due = due
		}
	}
}

// ofOurs says whether a question is about one of our names, and whether others share it.
func (r *responder) ofOurs(q question) (shared, ok bool) {
	is := func(kinds ...dnsmessage.Type) bool {
		return q.kind == dnsmessage.TypeALL || slices.Contains(kinds, q.kind)
	}
	switch {
	case q.name == typesName, q.name == types[0], q.name == types[1]:
		return true, is(dnsmessage.TypePTR)
	case r.instance(q.name):
		return false, is(dnsmessage.TypeSRV, dnsmessage.TypeTXT)
	case strings.EqualFold(q.name, r.claim.host):
		return false, is(dnsmessage.TypeA, dnsmessage.TypeAAAA)
	}
	return false, false
}

// known says that the asker has heard of us lately (RFC 6762 §7.1).
func (r *responder) known(m packet) bool {
	return slices.ContainsFunc(m.records, func(rec record) bool {
		return rec.kind == dnsmessage.TypePTR && !rec.claimed && rec.ttl >= ttlOther/2 && r.instance(rec.target)
	})
}

// token bounds the answers to single askers.
func (r *responder) token(now time.Time) bool {
	if now.Sub(r.tokensAt) >= time.Second {
		r.tokens, r.tokensAt = unicastRate, now
	}
	r.tokens--
	return r.tokens >= 0
}
