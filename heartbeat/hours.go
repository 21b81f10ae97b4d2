package heartbeat

import (
	"strconv"
	"time"
)

// Hours are the hours of the day in which an agent beats. The zero value is all of them.
type Hours struct {
	// Start and End are HH:MM, End may be 24:00. What cannot be read bounds nothing.
	Start, End string
	// Zone is user, local or the IANA name of a time zone; user when empty or unknown.
	Zone string
	// UserZone is the zone of the user, that of this machine when empty or unknown.
	UserZone string
}

// Contain reports whether a moment is within the hours. A span that ends before it starts wraps midnight; one
// that ends where it starts is never (control-plane.md §3).
func (h Hours) Contain(at time.Time) bool {
	start, ok1 := minuteOf(h.Start, false)
	end, ok2 := minuteOf(h.End, true)
	if !ok1 || !ok2 {
		return true
	}
	hour, minute, _ := at.In(h.location()).Clock()
	now := hour*60 + minute
	switch {
	case start == end:
		return false
	case start < end:
		return now >= start && now < end
	default:
		return now >= start || now < end
	}
}

// location is the zone that the hours are in.
func (h Hours) location() *time.Location {
	user := time.Local
	if l, err := time.LoadLocation(h.UserZone); err == nil && h.UserZone != "" {
		user = l
	}
	switch h.Zone {
	case "", "user":
		return user
	case "local":
		return time.Local
	}
	if l, err := time.LoadLocation(h.Zone); err == nil {
		return l
	}
	return user
}

// minuteOf reads HH:MM as the minute of the day.
func minuteOf(s string, midnight bool) (int, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	hour, err1 := strconv.ParseUint(s[:2], 10, 8)
	minute, err2 := strconv.ParseUint(s[3:], 10, 8)
	if err1 != nil || err2 != nil || minute > 59 || hour > 24 || (hour == 24 && (minute != 0 || !midnight)) {
		return 0, false
	}
	return int(hour)*60 + int(minute), true
}
