package cron

import (
	"math/bits"
	"time"
)

// maxYears is how many years that an expression allows are looked at for a due day: the calendar repeats
// after 400.
const maxYears = 400

// wall is a reading of a clock on a wall.
type wall struct{ year, month, day, hour, minute, second int }

// Next is the first moment after t at which the expression is due on the clocks of zone; false when there
// is none. As in the original, a reading that clocks skip is due as much later as they skip, and one that
// they show twice is due once.
func (e *Expression) Next(t time.Time, zone *time.Location) (time.Time, bool) {
	local := t.In(zone)
	w := wall{local.Year(), int(local.Month()), local.Day(), local.Hour(), local.Minute(), local.Second()}
	for {
		w.second++
		var ok bool
		if w, ok = e.from(w); !ok {
			return time.Time{}, false
		}
		// Clocks that were put back show readings that are past already.
		if due := w.in(zone); due.After(t) {
			return due, true
		}
	}
}

// in is the moment at which clocks in a zone show the reading, the first of two that are an hour apart. Of two
// that are closer (on Lord Howe clocks are put back by half an hour) it takes the one that the original takes, by
// the offset that holds when clocks in UTC show the reading.
func (w wall) in(zone *time.Location) time.Time {
	utc := time.Date(w.year, time.Month(w.month), w.day, w.hour, w.minute, w.second, 0, time.UTC)
	shows := func(t time.Time) bool { return t.Add(offset(t, zone)).Equal(utc) }
	guess := utc.Add(-offset(utc, zone))
	again := utc.Add(-offset(guess, zone))
	if !shows(guess) && !shows(again) { // between two readings of the clock
		if again.After(guess) {
			return again
		}
		return guess
	}
	if !shows(guess) {
		guess = again
	}
	if before := guess.Add(-time.Hour); shows(before) {
		return before
	}
	return guess
}

func offset(t time.Time, zone *time.Location) time.Duration {
	_, seconds := t.In(zone).Zone()
	return time.Duration(seconds) * time.Second
}

// from is the first reading at or after w that is due.
func (e *Expression) from(w wall) (wall, bool) {
	if w.second > 59 {
		w.second, w.minute = 0, w.minute+1
	}
	var ok bool
	if w.second, ok = at(e.seconds, w.second); !ok {
		w.second, w.minute = first(e.seconds), w.minute+1
	}
	if m, ok := at(e.minutes, w.minute); !ok {
		w.second, w.minute, w.hour = first(e.seconds), first(e.minutes), w.hour+1
	} else if m != w.minute {
		w.second, w.minute = first(e.seconds), m
	}
	if h, ok := at(e.hours, w.hour); !ok {
		w.second, w.minute, w.hour, w.day = first(e.seconds), first(e.minutes), first(e.hours), w.day+1
	} else if h != w.hour {
		w.second, w.minute, w.hour = first(e.seconds), first(e.minutes), h
	}
	y, m, d, ok := e.date(w.year, w.month, w.day)
	if !ok {
		return w, false
	}
	if y != w.year || m != w.month || d != w.day {
		w = wall{y, m, d, first(e.hours), first(e.minutes), first(e.seconds)}
	}
	return w, true
}

// date is the first day at or after the given one that is due.
func (e *Expression) date(y, m, d int) (int, int, int, bool) {
	for looked := 0; looked < maxYears && y <= lastYear; y, m, d = y+1, 1, 1 {
		if !e.inYear(y) {
			continue
		}
		looked++
		for ; m <= 12; m, d = m+1, 1 {
			if e.months>>m&1 == 0 {
				continue
			}
			if found, ok := at(e.daysIn(y, m), d); ok {
				return y, m, found, true
			}
		}
	}
	return 0, 0, 0, false
}

func (e *Expression) inYear(y int) bool {
	return e.years == nil || e.years[y/64]>>(y%64)&1 == 1
}

// daysIn are the days of a month that are due.
func (e *Expression) daysIn(y, m int) uint64 {
	length := time.Date(y, time.Month(m)+1, 0, 0, 0, 0, 0, time.UTC).Day()
	begins := int(time.Date(y, time.Month(m), 1, 0, 0, 0, 0, time.UTC).Weekday())
	all := uint64(1)<<(length+1) - 2
	byDate := e.days
	if e.lastDay {
		byDate |= 1 << length
	}
	if e.lastWorkday {
		byDate |= 1 << workday(length, length, begins)
	}
	for near := e.nearest & all; near != 0; near &= near - 1 {
		byDate |= 1 << workday(bits.TrailingZeros64(near), length, begins)
	}
	var byWeekday uint64
	for d := 1; d <= length; d++ {
		weeks := e.weekdays[(begins+d-1)%7]
		if weeks&anyWeek != 0 || weeks>>((d-1)/7)&1 == 1 || weeks&lastWeek != 0 && d+7 > length {
			byWeekday |= 1 << d
		}
	}
	byDate, byWeekday = byDate&all, byWeekday&all
	switch {
	case e.both:
		return byDate & byWeekday
	case e.anyDay && !e.anyWeekday:
		return byWeekday
	case e.anyWeekday:
		return byDate
	}
	return byDate | byWeekday
}

// workday is the day from Monday to Friday that is next to d in its month.
func workday(d, length, begins int) int {
	switch time.Weekday((begins + d - 1) % 7) {
	case time.Saturday:
		if d == 1 {
			return 3
		}
		return d - 1
	case time.Sunday:
		if d == length {
			return d - 2
		}
		return d + 1
	}
	return d
}

// at is the first value of a set that is n or more.
func at(set uint64, n int) (int, bool) {
	if n > 63 {
		return 0, false
	}
	rest := set >> n
	return n + bits.TrailingZeros64(rest), rest != 0
}

// first is the least value of a set.
func first(set uint64) int { return bits.TrailingZeros64(set) }
