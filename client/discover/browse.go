package discover

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxDaemons bounds the instances that are kept, and maxPerSender those that one machine may name:
	// who floods the network does not push the others out.
	maxDaemons, maxPerSender = 256, 16
	// maxHosts bounds the machines whose addresses are kept.
	maxHosts = 256
	// maxTTL bounds how long an answer counts, whatever it says of itself, in seconds.
	maxTTL = ttlOther
	// The first two questions are a second apart; the time doubles until lastAsk (RFC 6762 §5.2).
	firstAsk, lastAsk = time.Second, time.Minute
	// maxKnown bounds the answers that a question says to know.
	maxKnown = 16
	// goneWait is how long a record that was said goodbye to is kept: somebody may know better (§10.1).
	goneWait = time.Second
)

// Result is what is known at a time.
type Result struct {
	Daemons []Daemon // in the order of their names
	// Dropped says that there were more answers than are kept.
	Dropped bool
	// Networks are the names of the interfaces on which was asked.
	Networks []string
}

// Browse asks the networks of this machine for daemons until ctx ends, and then returns what it knows.
// With a function it also hands over each new state, at the most a few times in a second. Its error
// says that it could not ask anywhere.
func Browse(ctx context.Context, changed func(Result)) (Result, error) {
	c, err := open()
	if err != nil {
		return Result{}, fmt.Errorf("UDP port %d cannot be opened; another program may keep it for itself: %w", port, err)
	}
	defer c.close()
	b := &browser{instances: map[string]*instance{}, hosts: map[string]*host{}}
	wait := firstAsk
	ask, look := time.Now(), time.Time{}
	var shown, told string
	var tell time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return b.result(time.Now()), nil
		case p := <-c.in:
			b.hear(p, time.Now())
		case <-timer.C:
		}
		now := time.Now()
		if !now.Before(look) {
			old := b.networks
			if b.networks, err = networks(); err != nil {
				return Result{}, fmt.Errorf("the interfaces of this machine cannot be read: %w", err)
			}
			c.join(b.networks)
			if look = now.Add(lookEvery); !slices.EqualFunc(old, b.networks, network.same) && old != nil {
				ask, wait = now, firstAsk // somebody new may be there to be asked
			}
		}
		if !now.Before(ask) {
			b.ask(c, now)
			ask, wait = now.Add(wait), min(2*wait, lastAsk)
		}
		wake := ask
		if look.Before(wake) {
			wake = look
		}
		if changed != nil && !now.Before(tell) {
			r := b.result(now)
			if shown = fmt.Sprintf("%+v", r); shown != told {
				told = shown
				changed(r)
			}
			tell = now.Add(goneWait / 4)
		}
		if changed != nil && tell.Before(wake) {
			wake = tell
		}
		timer.Reset(max(time.Until(wake), time.Millisecond))
	}
}

// instance is one answer.
type instance struct {
	name   string // full, as it was written
	legacy bool
	sender netip.Addr
	until  time.Time // of the pointer to it
	target string    // in lower case
	port   uint16
	texts  []string
}

// host is where a machine is.
type host struct {
	addrs map[Address]span
}

// span is when an address was heard last, and until when it counts.
type span struct{ heard, until time.Time }

type browser struct {
	networks  []network
	instances map[string]*instance // by full name in lower case
	hosts     map[string]*host     // the same
	dropped   bool
}

// ask asks everybody for both types.
func (b *browser) ask(c *conn, now time.Time) {
	build := dnsmessage.NewBuilder(nil, dnsmessage.Header{})
	build.EnableCompression()
	w := writer{b: &build}
	w.do(build.StartQuestions())
	for _, t := range types {
		w.do(build.Question(dnsmessage.Question{Name: w.name(t), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}))
	}
	w.do(build.StartAnswers())
	known := 0
	for _, i := range sorted(b.instances) {
		left := i.until.Sub(now)
		// A name that cannot be written again is asked for again.
		target, err := dnsmessage.NewName(i.name)
		if known == maxKnown || err != nil || left < ttlOther/2*time.Second || i.target == "" {
			continue
		}
		known++
		t := types[0]
		if i.legacy {
			t = types[1]
		}
		w.do(build.PTRResource(dnsmessage.ResourceHeader{Name: w.name(t), Class: dnsmessage.ClassINET, TTL: uint32(left / time.Second)}, dnsmessage.PTRResource{PTR: target}))
	}
	text, err := w.finish()
	if err != nil {
		return // the names are ours or were read from a message
	}
	for _, n := range b.networks {
		_ = c.multicast(text, n) // a network that is gone is noticed at the next look
	}
}

// hear takes an answer.
func (b *browser) hear(p packet, now time.Time) {
	n, ok := where(p, b.networks)
	if !ok || !p.response || p.from.Port() != port {
		return
	}
	// Addresses are of use after the names that they belong to, wherever they stand in the message.
	for _, r := range p.records {
		b.name(r, p.from.Addr(), now)
	}
	for _, r := range p.records {
		b.place(r, n, now)
	}
}

// end is until when a record counts.
func end(ttl uint32, now time.Time) time.Time {
	if ttl == 0 {
		return now.Add(goneWait)
	}
	return now.Add(time.Duration(min(ttl, maxTTL)) * time.Second)
}

// name takes a record about an instance.
func (b *browser) name(r record, sender netip.Addr, now time.Time) {
	full := r.name
	if r.kind == dnsmessage.TypePTR {
		if !strings.EqualFold(r.name, types[0]) && !strings.EqualFold(r.name, types[1]) {
			return
		}
		full = r.target
	} else if r.kind != dnsmessage.TypeSRV && r.kind != dnsmessage.TypeTXT {
		return
	}
	key := strings.ToLower(full)
	legacy := strings.HasSuffix(key, "."+types[1])
	if !legacy && !strings.HasSuffix(key, "."+types[0]) {
		return
	}
	i := b.instances[key]
	if i == nil {
		if r.ttl == 0 || !b.room(sender, now) {
			return
		}
		i = &instance{name: full, legacy: legacy, sender: sender}
		b.instances[key] = i
		i.until = end(r.ttl, now)
	}
	switch r.kind {
	case dnsmessage.TypePTR:
		i.until = end(r.ttl, now)
	case dnsmessage.TypeSRV:
		if r.ttl > 0 {
			i.target, i.port = strings.ToLower(r.target), r.port
		}
	case dnsmessage.TypeTXT:
		if r.ttl > 0 {
			i.texts = r.texts
		}
	}
}

// room makes sure that there is room for one more instance.
func (b *browser) room(sender netip.Addr, now time.Time) bool {
	maps.DeleteFunc(b.instances, func(_ string, i *instance) bool { return now.After(i.until) })
	of := 0
	for _, i := range b.instances {
		if i.sender == sender {
			of++
		}
	}
	if len(b.instances) >= maxDaemons || of >= maxPerSender {
		b.dropped = true
		return false
	}
	return true
}

// place takes a record about a machine, when an instance is on it.
func (b *browser) place(r record, n network, now time.Time) {
	if !r.addr.IsValid() || r.addr.IsUnspecified() || r.addr.IsMulticast() {
		return
	}
	key := strings.ToLower(r.name)
	h := b.hosts[key]
	if h == nil {
		wanted := false
		for _, i := range b.instances {
			wanted = wanted || i.target == key
		}
		if !wanted {
			return
		}
		if len(b.hosts) >= maxHosts {
			maps.DeleteFunc(b.hosts, func(_ string, h *host) bool { return len(h.live(now)) == 0 })
			if len(b.hosts) >= maxHosts {
				b.dropped = true
				return
			}
		}
		h = &host{addrs: map[Address]span{}}
		b.hosts[key] = h
	}
	a := Address{r.addr.Unmap(), n.Name}
	// What was said before this message is void a moment later, where the sender says so.
	for old, s := range h.addrs {
		if r.flush && old.Interface == n.Name && s.heard.Before(now.Add(-goneWait)) && s.until.After(now.Add(goneWait)) {
			h.addrs[old] = span{s.heard, now.Add(goneWait)}
		}
	}
	if _, ok := h.addrs[a]; !ok && len(h.addrs) >= maxAddresses {
		maps.DeleteFunc(h.addrs, func(_ Address, s span) bool { return now.After(s.until) })
		if len(h.addrs) >= maxAddresses {
			return
		}
	}
	h.addrs[a] = span{now, end(r.ttl, now)}
}

// live are the addresses that count.
func (h *host) live(now time.Time) []Address {
	var out []Address
	for a, s := range h.addrs {
		if !now.After(s.until) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, order)
	return out
}

// result is what counts now. An instance that did not say where it is, is none.
func (b *browser) result(now time.Time) Result {
	r := Result{Dropped: b.dropped}
	for _, n := range b.networks {
		r.Networks = append(r.Networks, n.Name)
	}
	for _, i := range sorted(b.instances) {
		h := b.hosts[i.target]
		if now.After(i.until) || i.target == "" || h == nil {
			continue
		}
		// What was heard on a network that is gone is of no use.
		at := slices.DeleteFunc(h.live(now), func(a Address) bool { return !slices.Contains(r.Networks, a.Interface) })
		d := Daemon{Host: strings.TrimSuffix(i.target, "."), Legacy: i.legacy, Addresses: at}
		if len(d.Addresses) == 0 {
			continue
		}
		t := types[0]
		if i.legacy {
			t = types[1]
		}
		d.Name = i.name[:len(i.name)-len(t)-1]
		describe(&d, i.texts)
		if i.port != 0 {
			d.GatewayPort = int(i.port)
		}
		r.Daemons = append(r.Daemons, d)
	}
	r.Daemons = merge(r.Daemons)
	return r
}
