package discover

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxRecords bounds what is looked at of one message.
	maxRecords = 128
	// maxTexts bounds the texts of a TXT record, and maxKeys those that count.
	maxTexts, maxKeys = 64, 32

	// topBit asks for an answer to the asker alone in a question, and in a record says that older ones of
	// that name are void.
	topBit = 1 << 15

	// How long records hold, in seconds (RFC 6762 §10), and how long for who does not know of multicast.
	ttlHost, ttlOther, ttlPlain = 120, 4500, 10

	typeNSEC = dnsmessage.Type(47)
)

// question is what a message asks for. Names are in lower case.
type question struct {
	name    string
	kind    dnsmessage.Type
	unicast bool
}

// record is one that a message brings. Name keeps its case.
type record struct {
	name string
	kind dnsmessage.Type
	ttl  uint32
	// claimed says that it stands where a probe says what it is about to take.
	claimed bool
	// flush says that what was known of that name and kind is void.
	flush bool

	target string // of PTR and SRV
	port   uint16
	addr   netip.Addr
	texts  []string
}

// message is a DNS message, as far as it matters here.
type message struct {
	id        uint16
	response  bool
	questions []question
	records   []record
}

// parse reads a message of a stranger. It is false for what is no message; of one that is damaged
// further on, what stands before the damage counts.
func parse(b []byte) (m message, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.OpCode != 0 || h.RCode != 0 {
		return m, false
	}
	m.id, m.response = h.ID, h.Response
	for {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return m, false
		}
		if class := q.Class &^ topBit; class != dnsmessage.ClassINET && class != dnsmessage.ClassANY || len(m.questions) == maxRecords {
			continue
		}
		m.questions = append(m.questions, question{strings.ToLower(q.Name.String()), q.Type, q.Class&topBit != 0})
	}
	for section, next := range []func() (dnsmessage.ResourceHeader, error){p.AnswerHeader, p.AuthorityHeader, p.AdditionalHeader} {
		skip := []func() error{p.SkipAnswer, p.SkipAuthority, p.SkipAdditional}[section]
		for {
			h, err := next()
			if errors.Is(err, dnsmessage.ErrSectionDone) {
				break
			}
			if err != nil || len(m.records) == maxRecords {
				return m, true
			}
			r := record{name: h.Name.String(), kind: h.Type, ttl: h.TTL, claimed: section == 1, flush: h.Class&topBit != 0}
			if h.Class&^topBit != dnsmessage.ClassINET || !r.body(&p) {
				if skip() != nil {
					return m, true
				}
				continue
			}
			m.records = append(m.records, r)
		}
	}
	return m, true
}

// body reads what a record of a known type says; it is false where the parser has to skip it.
func (r *record) body(p *dnsmessage.Parser) bool {
	switch r.kind {
	case dnsmessage.TypePTR:
		b, err := p.PTRResource()
		r.target = b.PTR.String()
		return err == nil
	case dnsmessage.TypeSRV:
		b, err := p.SRVResource()
		r.target, r.port = b.Target.String(), b.Port
		return err == nil
	case dnsmessage.TypeTXT:
		b, err := p.TXTResource()
		r.texts = b.TXT[:min(len(b.TXT), maxTexts)]
		return err == nil
	case dnsmessage.TypeA:
		b, err := p.AResource()
		r.addr = netip.AddrFrom4(b.A)
		return err == nil
	case dnsmessage.TypeAAAA:
		b, err := p.AAAAResource()
		r.addr = netip.AddrFrom16(b.AAAA)
		return err == nil
	}
	return false
}

// claim is what the daemon holds, or tries to, by its names on one network.
type claim struct {
	name      string // what people read
	host      string // full name
	port      uint16
	instances [2]string // full names, of Service and Legacy
	texts     [2][]string
	addrs     []netip.Addr
}

var types = [2]string{Service + "." + domain, Legacy + "." + domain}

// newClaim makes the names of the n-th try.
func newClaim(a Announcement, n int) claim {
	c := claim{name: instanceLabel(a.Name, n), host: hostLabel(a.Name, n) + "." + domain, port: uint16(a.Port)}
	own, legacy := a.texts(c.name, c.host)
	for i, t := range types {
		c.instances[i] = c.name + "." + t
	}
	c.texts = [2][]string{own, legacy}
	return c
}

// form says for what a message with the claim is.
type form int

const (
	announce form = iota
	goodbye
	probe
	plain // for an asker who does not know of multicast
)

// pack writes the claim. Every message that announces or answers says all there is: it is small, and so
// nobody has to ask twice. Questions are repeated for a plain asker, with its id.
func (c claim) pack(f form, id uint16, asked []dnsmessage.Question) ([]byte, error) {
	flush := dnsmessage.Class(topBit)
	ttl := func(normal uint32) uint32 {
		switch f {
		case goodbye:
			return 0
		case plain:
			return ttlPlain
		}
		return normal
	}
	if f == plain || f == probe {
		flush = 0
	}
	if f == probe {
		asked = nil
		for _, name := range []string{c.instances[0], c.instances[1], c.host} {
			n, err := dnsmessage.NewName(name)
			if err != nil {
				return nil, err
			}
			asked = append(asked, dnsmessage.Question{Name: n, Type: dnsmessage.TypeALL, Class: dnsmessage.ClassINET})
		}
	}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id, Response: f != probe, Authoritative: f != probe})
	b.EnableCompression()
	w := writer{b: &b}
	w.do(b.StartQuestions())
	for _, q := range asked {
		w.do(b.Question(q))
	}
	if f == probe {
		w.do(b.StartAuthorities())
	} else {
		w.do(b.StartAnswers())
		for i, t := range types {
			if f != goodbye {
				w.ptr(typesName, t, ttl(ttlOther))
			}
			w.ptr(t, c.instances[i], ttl(ttlOther))
		}
	}
	host := w.name(c.host)
	for i := range types {
		h := dnsmessage.ResourceHeader{Name: w.name(c.instances[i]), Class: dnsmessage.ClassINET | flush}
		h.TTL = ttl(ttlHost)
		w.do(b.SRVResource(h, dnsmessage.SRVResource{Port: c.port, Target: host}))
		if f == probe {
			continue
		}
		h.TTL = ttl(ttlOther)
		w.do(b.TXTResource(h, dnsmessage.TXTResource{TXT: c.texts[i]}))
	}
	if f == goodbye {
		// Another daemon of this machine may go by the same host name.
		return w.finish()
	}
	h := dnsmessage.ResourceHeader{Name: host, Class: dnsmessage.ClassINET | flush, TTL: ttl(ttlHost)}
	var has [2]bool
	for _, a := range c.addrs {
		if a.Is4() {
			has[0] = true
			w.do(b.AResource(h, dnsmessage.AResource{A: a.As4()}))
		} else {
			has[1] = true
			w.do(b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	if f == announce && has[0] != has[1] {
		// Says that there is no address of the other version, so that nobody waits for one.
		w.do(b.StartAdditionals())
		w.do(b.UnknownResource(h, dnsmessage.UnknownResource{Type: typeNSEC, Data: onlyType(c.host, has[1])}))
	}
	return w.finish()
}

// onlyType is the body of an NSEC record: of this name there is A alone, or AAAA alone (RFC 6762 §6.1).
func onlyType(name string, v6 bool) []byte {
	var out []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		out = append(append(out, byte(len(label))), label...)
	}
	out = append(out, 0)
	if v6 { // bit 28 of window 0
		return append(out, 0, 4, 0, 0, 0, 0x08)
	}
	return append(out, 0, 1, 0x40) // bit 1
}

// writer keeps the first error of a builder.
type writer struct {
	b   *dnsmessage.Builder
	err error
}

func (w *writer) do(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) name(s string) dnsmessage.Name {
	n, err := dnsmessage.NewName(s)
	w.do(err)
	return n
}

func (w *writer) ptr(name, target string, ttl uint32) {
	w.do(w.b.PTRResource(dnsmessage.ResourceHeader{Name: w.name(name), Class: dnsmessage.ClassINET, TTL: ttl}, dnsmessage.PTRResource{PTR: w.name(target)}))
}

func (w *writer) finish() ([]byte, error) {
	b, err := w.b.Finish()
	w.do(err)
	return b, w.err
}
