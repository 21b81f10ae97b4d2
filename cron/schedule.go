package cron

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxDateMs is the largest moment that a date of the original holds, in milliseconds either side of 1970.
const maxDateMs = 8_640_000_000_000_000

var isoText = regexp.MustCompile(`^([+-]\d{6}|\d{4})-(\d{2})-(\d{2})(?:[Tt](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?)?([Zz]|[+-]\d{2}:?\d{2})?$`)

// looseTexts are further forms that the original's dates understand. They mean the clocks of this machine
// where they name no zone.
var looseTexts = []string{
	time.RFC1123, time.RFC1123Z, "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02 15:04:05Z07:00", "Jan 2, 2006 15:04:05", "Jan 2, 2006",
	"2 Jan 2006 15:04:05", "2 Jan 2006", "January 2, 2006 15:04:05", "January 2, 2006", "2006/01/02 15:04:05", "2006/01/02",
}

// ParseAt reads a moment as Unix milliseconds: digits are milliseconds, ISO 8601 without a zone is UTC.
func ParseAt(text string) (ms int64, ok bool) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > 64 {
		return 0, false
	}
	if strings.Trim(text, "0123456789") == "" {
		ms, err := strconv.ParseInt(text, 10, 64)
		return ms, err == nil && ms > 0 && ms <= maxDateMs
	}
	if p := isoText.FindStringSubmatch(text); p != nil {
		return isoMoment(p)
	}
	for _, layout := range looseTexts {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t.UnixMilli(), true
		}
	}
	return 0, false
}

func isoMoment(p []string) (int64, bool) {
	var n [7]int
	for i, s := range p[1:8] {
		if s == "" {
			continue
		}
		if i == 6 {
			s = (s + "00")[:3] // milliseconds
		}
		v, err := strconv.Atoi(s)
		if err != nil {
			return 0, false
		}
		n[i] = v
	}
	midnight := n[3] == 24 && n[4] == 0 && n[5] == 0 && n[6] == 0
	if n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 31 || (n[3] > 23 && !midnight) || n[4] > 59 || n[5] > 59 {
		return 0, false
	}
	t := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], n[6]*int(time.Millisecond), time.UTC)
	ms := t.UnixMilli()
	if zone := p[8]; len(zone) > 1 {
		hours, _ := strconv.Atoi(zone[1:3])
		minutes, _ := strconv.Atoi(zone[len(zone)-2:])
		if hours > 23 || minutes > 59 {
			return 0, false
		}
		offset := int64(hours*60+minutes) * 60_000
		if zone[0] == '-' {
			offset = -offset
		}
		ms -= offset
	}
	return ms, ms >= -maxDateMs && ms <= maxDateMs
}

// ISO writes a moment as the original's dates do.
func ISO(ms int64) string {
	t := time.UnixMilli(ms).UTC()
	if y := t.Year(); y < 0 || y > 9999 {
		sign := '+'
		if y < 0 {
			sign, y = '-', -y
		}
		return fmt.Sprintf("%c%06d%s", sign, y, t.Format("-01-02T15:04:05.000Z"))
	}
	return t.Format("2006-01-02T15:04:05.000Z")
}

// checkAt refuses moments that are no moments, past, or too far away.
func checkAt(s Schedule, now int64) error {
	if s.Kind != At {
		return nil
	}
	at, ok := ParseAt(s.At)
	switch {
	case !ok:
		return ErrAtFormat.WithText("Invalid schedule.at: expected ISO-8601 timestamp (got " + clip(s.At, 200) + ")")
	case at < now-pastGrace:
		return ErrAtPast.WithText(fmt.Sprintf("schedule.at is in the past: %s (%d minutes ago). Current time: %s", ISO(at), (now-at)/60_000, ISO(now)))
	case at > now+tenYears:
		return ErrAtFar.WithText(fmt.Sprintf("schedule.at is too far in the future: %s (%d years ahead). Maximum allowed: 10 years", ISO(at), (at-now)/yearMs))
	}
	return nil
}

var zones sync.Map // by name: the zones that were asked for and exist

// zoneOf finds a zone; "" is that of this machine.
func zoneOf(name string) (*time.Location, error) {
	name = strings.TrimSpace(name)
	if name == "" {
		return time.Local, nil
	}
	if z, ok := zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	bad := func() error {
		return ErrZone.WithText("CronDate: Failed to convert date to timezone '" + clip(name, 100) + "'. This may happen with invalid timezone names or dates. " +
			"Original error: toTZ: Invalid timezone '" + clip(name, 100) + "' or date. Please provide a valid IANA timezone (e.g., 'America/New_York', 'Europe/Stockholm').")
	}
	if len(name) > 64 || strings.EqualFold(name, "local") {
		return nil, bad()
	}
	known := name
	if strings.EqualFold(name, "utc") || strings.EqualFold(name, "gmt") {
		known = strings.ToUpper(name)
	}
	if offset := offsetZone.FindStringSubmatch(name); offset != nil {
		hours, _ := strconv.Atoi(offset[2])
		minutes, _ := strconv.Atoi(offset[3])
		if hours > 23 || minutes > 59 {
			return nil, bad()
		}
		seconds := hours*3600 + minutes*60
		if offset[1] == "-" {
			seconds = -seconds
		}
		return time.FixedZone(name, seconds), nil
	}
	z, err := time.LoadLocation(known)
	if err != nil { // the original's names come in any case
		z, err = time.LoadLocation(capitals(known))
	}
	if err != nil {
		return nil, bad()
	}
	if z.String() == name { // so that there are not more than there are zones
		zones.Store(name, z)
	}
	return z, nil
}

var offsetZone = regexp.MustCompile(`^([+-])(\d{2}):?(\d{2})$`)

// capitals writes a name of a zone as most are: Europe/Berlin, America/New_York.
func capitals(name string) string {
	b, begins := []byte(strings.ToLower(name)), true
	for i, c := range b {
		if begins && c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
		begins = c == '/' || c == '_' || c == '-'
	}
	return string(b)
}

// clock tells the slots of a schedule.
type clock struct {
	kind   Kind
	at     int64
	every  int64
	base   int64 // of every: slots are whole steps away from it
	expr   *Expression
	zone   *time.Location
	offset int64 // of cron: how much later than the expression says
}

// clockOf reads a schedule. id is that of the job, for the stagger; base is where an interval is counted from.
func clockOf(s Schedule, id string, base int64) (clock, error) {
	switch s.Kind {
	case At:
		at, ok := ParseAt(s.At)
		if !ok {
			return clock{}, ErrAtFormat.WithText("Invalid schedule.at: expected ISO-8601 timestamp (got " + clip(s.At, 200) + ")")
		}
		return clock{kind: At, at: at}, nil
	case Every:
		if s.EveryMs < 1 || s.EveryMs > maxDateMs {
			return clock{}, ErrSchedule
		}
		return clock{kind: Every, every: s.EveryMs, base: min(max(base, 0), maxDateMs)}, nil
	case Cron:
		e, err := Parse(s.Expr)
		if err != nil {
			if own, ok := errors.AsType[*Error](err); ok {
				return clock{}, ErrExpression.WithText(strings.TrimPrefix(strings.TrimPrefix(own.text, "TypeError: "), "RangeError: ")).With("said", own.text)
			}
			return clock{}, ErrExpression.Wrap(err)
		}
		zone, err := zoneOf(s.Zone)
		if err != nil {
			return clock{}, err
		}
		return clock{kind: Cron, expr: e, zone: zone, offset: staggerOf(id, s.stagger())}, nil
	}
	return clock{}, ErrSchedule
}

// clock is that of the job's schedule.
func (j *Job) clock() (clock, error) {
	base := j.CreatedMs
	if j.Schedule.AnchorMs != nil {
		base = *j.Schedule.AnchorMs
	}
	if j.State.LastSlotMs != 0 {
		base = j.State.LastSlotMs
	}
	return clockOf(j.Schedule, j.ID, base)
}

// after is the first slot after a moment.
func (c clock) after(ms int64) (int64, bool) {
	switch c.kind {
	case At:
		return c.at, c.at > ms
	case Every:
		if ms < c.base {
			return c.base, true
		}
		steps := (ms-c.base)/c.every + 1
		if steps > (math.MaxInt64-c.base)/c.every {
			return 0, false
		}
		next := c.base + steps*c.every
		return next, next <= maxDateMs
	}
	// The day begins as much later for this job.
	t, ok := c.expr.Next(time.UnixMilli(ms-c.offset), c.zone)
	if !ok {
		return 0, false
	}
	next := t.UnixMilli() + c.offset
	return next, next > ms && next <= maxDateMs
}

// between are the slots after one moment and up to another, the last ones where there are more than maxSlots;
// more is how many come before them, at least.
func (c clock) between(after, until int64) (slots []int64, more int64) {
	after, until = max(after, -maxDateMs), min(until, maxDateMs)
	if c.kind == Every && until > after {
		if first, ok := c.after(after); ok && first <= until {
			n := (until-first)/c.every + 1
			more = max(0, n-maxSlots)
			for at := first + more*c.every; at <= until; at += c.every {
				slots = append(slots, at)
			}
		}
		return slots, more
	}
	slots = c.some(after, until, maxSlots+1)
	if len(slots) <= maxSlots {
		return slots, 0
	}
	// Too many: the end is looked for from behind, in steps that grow.
	more = maxSlots
	for back := int64(1000); ; back *= 4 {
		from := max(after, until-back)
		last := c.some(from, until, maxSlots+1)
		if len(last) > maxSlots {
			if len(slots) > 0 {
				return slots, more
			}
			// They come in bursts: somewhere between the two steps is one that holds some, and not too many.
			low, high := back/4, back
			for high-low > 1 {
				back = low + (high-low)/2
				switch last = c.some(until-back, until, maxSlots+1); {
				case len(last) == 0:
					low = back
				case len(last) > maxSlots:
					high = back
				default:
					return last, more
				}
			}
			return c.some(until-high, until, 1), more
		}
		slots = last
		if len(last) >= maxRunAll || from == after {
			return slots, more
		}
	}
}

func (c clock) some(after, until int64, most int) (slots []int64) {
	for len(slots) < most {
		next, ok := c.after(after)
		if !ok || next > until {
			break
		}
		slots = append(slots, next)
		after = next
	}
	return slots
}

// stagger is how far an expression is spread: what the schedule says, or five minutes at full hours.
func (s Schedule) stagger() int64 {
	if s.StaggerMs != nil {
		return *s.StaggerMs
	}
	return usualStagger(s.Expr)
}

// fullHourStagger is how far jobs of full hours are spread, in milliseconds (control-plane.md §12; frozen).
const fullHourStagger = 300_000

// usualStagger is fullHourStagger for expressions of full hours in many, else 0.
func usualStagger(expr string) int64 {
	f := strings.Fields(expr)
	if len(f) == 6 {
		if f[0] != "0" {
			return 0
		}
		f = f[1:]
	}
	if len(f) == 5 && f[0] == "0" && strings.Contains(f[1], "*") {
		return fullHourStagger
	}
	return 0
}

// staggerOf is the place of a job within the stagger: the first four bytes of the SHA-256 of its id.
func staggerOf(id string, stagger int64) int64 {
	if stagger <= 1 || stagger > maxDateMs {
		return 0
	}
	sum := sha256.Sum256([]byte(id))
	return int64(binary.BigEndian.Uint32(sum[:4])) % stagger
}

// clip cuts a text for people.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
