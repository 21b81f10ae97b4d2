package usage

import (
	"regexp"
	"strconv"
	"sync"
	"time"
)

// Range names days. Both dates name the days from the one to the other, both included; else Days names so many days
// up to today; else it is the last 30. What makes no sense counts as absent.
type Range struct {
	// StartDate and EndDate are YYYY-MM-DD.
	StartDate, EndDate string
	Days               int
	// Mode says whose days they are: utc, specific (UTCOffset), or gateway, the zone of the daemon, which is what
	// absent means too.
	Mode string
	// UTCOffset is "UTC+2" or "UTC-5:30".
	UTCOffset string
}

// days is a range with its zone.
type days struct {
	// from is the beginning of the first day, until the end of the last.
	from, until time.Time
	zone        *time.Location
}

var offset = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^UTC([+-])(\d{1,2})(?::([0-5]\d))?$`) })

// zone is the zone that the range is in.
func (r Range) zone(gateway *time.Location) *time.Location {
	switch r.Mode {
	case "utc":
		return time.UTC
	case "specific":
		m := offset().FindStringSubmatch(r.UTCOffset)
		if m == nil {
			return time.UTC
		}
		hours, _ := strconv.Atoi(m[2])
		minutes, _ := strconv.Atoi(m[3])
		if hours > 14 {
			return time.UTC // nobody lives there
		}
		seconds := hours*3600 + minutes*60
		if m[1] == "-" {
			seconds = -seconds
		}
		return time.FixedZone(r.UTCOffset, seconds)
	}
	return gateway
}

func (r Range) resolve(now time.Time, gateway *time.Location) days {
	d := days{zone: r.zone(gateway)}
	first, err := time.ParseInLocation(time.DateOnly, r.StartDate, d.zone)
	last, err2 := time.ParseInLocation(time.DateOnly, r.EndDate, d.zone)
	if err != nil || err2 != nil {
		n := defaultDays
		if r.Days > 0 {
			n = min(r.Days, maxDays)
		}
		y, m, day := now.In(d.zone).Date()
		last = time.Date(y, m, day, 0, 0, 0, 0, d.zone)
		first = last.AddDate(0, 0, 1-n)
	}
	d.from, d.until = first, last.AddDate(0, 0, 1)
	return d
}

// count is the number of days.
func (d days) count() int {
	return max(0, int(d.until.Sub(d.from).Round(24*time.Hour)/(24*time.Hour)))
}

// first and last are the dates of the range.
func (d days) first() string { return d.from.Format(time.DateOnly) }
func (d days) last() string  { return d.until.AddDate(0, 0, -1).Format(time.DateOnly) }

// slots are the first slot of the range and the first after it.
func (d days) slots() (from, to int64) { return floorSlot(d.from), floorSlot(d.until) }

func floorSlot(t time.Time) int64 {
	ms := t.UnixMilli()
	n := ms / slot
	if ms < 0 && ms%slot != 0 {
		n--
	}
	return n
}

// date is the day of a slot.
func (d days) date(at int64) string {
	return time.UnixMilli(at * slot).In(d.zone).Format(time.DateOnly)
}
