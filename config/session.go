package config

import (
	"strconv"
	"time"

	"github.com/hanzoai/hanzod/config/json5"
)

// Session is the section session: how conversations are told apart, when they start anew and how
// long they are kept (config.md §6).
type Session struct {
	Scope         string // per-sender (default), global
	DMScope       string // main (default), per-peer, per-channel-peer, per-account-channel-peer
	IdentityLinks map[string][]string
	ResetTriggers []string // /new, /reset
	Reset         SessionReset
	// ResetByType has the keys direct, group and thread; the older dm is read as direct.
	ResetByType    map[string]SessionReset
	ResetByChannel map[string]SessionReset
	// Store is the older gateway's file of sessions, which may hold {agentId}; "" is its own place.
	Store                string
	SendPolicy           SendPolicy
	MaxPingPongTurns     int   // session.agentToAgent.maxPingPongTurns: 5
	ParentForkMaxTokens  int64 // 100000; 0 is without a limit
	TypingIntervalSecond int   // 0 when unset
	TypingMode           string
	Maintenance          SessionMaintenance
}

// SessionReset says when a session starts anew by itself.
type SessionReset struct {
	Mode        string // daily (default), idle
	AtHour      int    // 4, in the zone of this machine
	IdleMinutes int    // 60 for idle; 0 when unset
}

// SendPolicy says which sessions may send; the first rule that fits counts. An empty field of a rule
// fits everything.
type SendPolicy struct {
	Default string // allow, deny, or "" when unset
	Rules   []SendRule
}

// SendRule is a rule of SendPolicy.
type SendRule struct{ Action, Channel, ChatType, KeyPrefix, RawKeyPrefix string }

// SessionMaintenance bounds what sessions take on the disk.
type SessionMaintenance struct {
	Mode        string        // warn (default), enforce
	PruneAfter  time.Duration // 30d
	MaxEntries  int           // 500
	RotateBytes int64         // 10mb
	// ResetArchiveRetention is how long transcripts of sessions that were reset are kept, PruneAfter
	// when unset; 0 keeps them.
	ResetArchiveRetention time.Duration
	MaxDiskBytes          int64 // 0 is off
	HighWaterBytes        int64 // 80 % of MaxDiskBytes
}

func (l *loader) session(o object, s *Session) {
	*s = Session{
		Scope: "per-sender", DMScope: "main", ResetTriggers: []string{"/new", "/reset"}, MaxPingPongTurns: 5,
		ParentForkMaxTokens: 100_000, Reset: SessionReset{Mode: "daily", AtHour: 4},
		Maintenance: SessionMaintenance{
			Mode: "warn", PruneAfter: 30 * 24 * time.Hour, MaxEntries: 500, RotateBytes: 10 << 20,
		},
	}
	o.choice("scope", &s.Scope, "per-sender", "global")
	o.choice("dmScope", &s.DMScope, "main", "per-peer", "per-channel-peer", "per-account-channel-peer")
	o.typed("mainKey", json5.String) // accepted and without effect, see MainKey
	if n := o.typed("identityLinks", json5.Object); n != nil {
		s.IdentityLinks = map[string][]string{}
		links := object{l: l, n: n, path: join(o.path, "identityLinks"), known: new([]string)}
		for _, m := range n.Members {
			var peers []string
			links.strs(m.Key, &peers)
			s.IdentityLinks[m.Key] = peers
		}
	}
	o.strs("resetTriggers", &s.ResetTriggers)

	older, own := 0, o.n.Get("reset") != nil
	o.int("idleMinutes", 1, maxInt, &older)
	if older > 0 && !own {
		s.Reset.Mode, s.Reset.IdleMinutes = "idle", older
	}
	l.reset(o.object("reset"), &s.Reset)
	byType := o.object("resetByType")
	for _, key := range []string{"dm", "direct", "group", "thread"} {
		if one := byType.object(key); one.n != nil {
			if s.ResetByType == nil {
				s.ResetByType = map[string]SessionReset{}
			}
			r := SessionReset{Mode: "daily", AtHour: 4}
			l.reset(one, &r)
			if key == "dm" {
				key = "direct"
			}
			s.ResetByType[key] = r
		}
	}
	byType.strict()
	if n := o.typed("resetByChannel", json5.Object); n != nil {
		s.ResetByChannel = map[string]SessionReset{}
		channels := object{l: l, n: n, path: join(o.path, "resetByChannel"), known: new([]string)}
		for _, m := range n.Members {
			r := SessionReset{Mode: "daily", AtHour: 4}
			l.reset(channels.object(m.Key), &r)
			s.ResetByChannel[m.Key] = r
		}
	}

	o.str("store", &s.Store)
	l.sendPolicy(o.object("sendPolicy"), &s.SendPolicy)
	turns := o.object("agentToAgent")
	turns.int("maxPingPongTurns", 0, 5, &s.MaxPingPongTurns)
	turns.strict()
	o.integer("parentForkMaxTokens", 0, noBound, &s.ParentForkMaxTokens)
	o.raw(json5.Object, "threadBindings")
	o.int("typingIntervalSeconds", 1, maxInt, &s.TypingIntervalSecond)
	o.choice("typingMode", &s.TypingMode, "never", "instant", "thinking", "message")
	l.maintenance(o.object("maintenance"), &s.Maintenance)
	o.strict()
}

func (l *loader) reset(o object, r *SessionReset) {
	o.choice("mode", &r.Mode, "daily", "idle")
	o.int("atHour", 0, 23, &r.AtHour)
	o.int("idleMinutes", 1, maxInt, &r.IdleMinutes)
	if r.Mode == "idle" && r.IdleMinutes == 0 {
		r.IdleMinutes = 60
	}
	o.strict()
}

func (l *loader) sendPolicy(o object, p *SendPolicy) {
	o.choice("default", &p.Default, "allow", "deny")
	if n := o.typed("rules", json5.Array); n != nil {
		for i, item := range n.Items {
			path := join(o.path, "rules."+strconv.Itoa(i))
			if item.Kind != json5.Object {
				l.fail(path, item, "Expected object, got "+item.Kind.String())
				continue
			}
			rule := object{l: l, n: item, path: path, known: new([]string)}
			var r SendRule
			rule.choice("action", &r.Action, "allow", "deny")
			match := rule.object("match")
			match.str("channel", &r.Channel)
			match.choice("chatType", &r.ChatType, "direct", "group", "channel", "dm")
			match.str("keyPrefix", &r.KeyPrefix)
			match.str("rawKeyPrefix", &r.RawKeyPrefix)
			match.strict()
			rule.strict()
			p.Rules = append(p.Rules, r)
		}
	}
	o.strict()
}

func (l *loader) maintenance(o object, m *SessionMaintenance) {
	o.choice("mode", &m.Mode, "enforce", "warn")
	var days int64
	if o.integer("pruneDays", 1, 36_500, &days); days > 0 {
		m.PruneAfter = time.Duration(days) * 24 * time.Hour
	}
	o.duration("pruneAfter", "d", century, &m.PruneAfter)
	o.int("maxEntries", 1, maxInt, &m.MaxEntries)
	o.size("rotateBytes", &m.RotateBytes)
	m.ResetArchiveRetention = m.PruneAfter
	if o.off("resetArchiveRetention") {
		m.ResetArchiveRetention = 0
	} else {
		o.duration("resetArchiveRetention", "d", century, &m.ResetArchiveRetention)
	}
	o.size("maxDiskBytes", &m.MaxDiskBytes)
	m.HighWaterBytes = m.MaxDiskBytes / 5 * 4
	o.size("highWaterBytes", &m.HighWaterBytes)
	if m.MaxDiskBytes > 0 {
		m.HighWaterBytes = min(m.HighWaterBytes, m.MaxDiskBytes)
	}
	o.strict()
}
