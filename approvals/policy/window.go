package policy

import (
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are the same on machines that have none of their own
)

// window is a part of the week by the clock on the wall in one zone. Where that clock is put forward or
// back, it is read as it stands: an hour that comes twice is in it twice.
type window struct {
	days [7]bool
	// from and to are minutes of the day; to is past the end. A from behind to means over midnight, and
	// the days are those on which it begins.
	from, to int
	zone     *time.Location
}

const dayMinutes = 24 * 60

func (w window) contains(t time.Time) bool {
	t = t.In(w.zone)
	m, day := t.Hour()*60+t.Minute(), int(t.Weekday())
	if w.from < w.to {
		return w.days[day] && m >= w.from && m < w.to
	}
	return m >= w.from && w.days[day] || m < w.to && w.days[(day+6)%7]
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseDays reads a name or a range of days: "mon" or "fri-mon".
func parseDays(s string, days *[7]bool) bool {
	index := func(name string) int {
		for i, n := range dayNames {
			if n == strings.ToLower(strings.TrimSpace(name)) {
				return i
			}
		}
		return -1
	}
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	a, b := index(first), index(last)
	if a < 0 || b < 0 {
		return false
	}
	for i := a; ; i = (i + 1) % 7 {
		days[i] = true
		if i == b {
			return true
		}
	}
}

// parseClock reads "HH:MM" as minutes of the day; 24:00 is its end.
func parseClock(s string) (int, bool) {
	h, m, ok := strings.Cut(s, ":")
	if !ok || len(h) != 2 || len(m) != 2 {
		return 0, false
	}
	hour, err1 := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	at := int(hour)*60 + int(minute)
	return at, err1 == nil && err2 == nil && minute < 60 && at <= dayMinutes
}
