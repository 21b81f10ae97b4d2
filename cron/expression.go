// Package cron holds when jobs are due.
//
// An Expression says so in the dialect of the original's scheduler. It is immutable and safe for concurrent use.
package cron

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxExpression bounds the text of an expression, in bytes. Every list that means something is shorter.
const maxExpression = 4096

// The parts of an expression, in the order of their places.
const (
	second = iota
	minute
	hour
	day
	month
	weekday
	year
	parts
)

// part is what one place may hold.
type part struct {
	name     string
	min, max int
	stepMax  int    // of what a step may skip at the most
	extra    string // characters beyond digits and * / , -
}

// grammar is the parts of an expression. The names are those of the original's errors.
var grammar = [parts]part{
	{name: "second", max: 59, stepMax: 60},
	{name: "minute", max: 59, stepMax: 60},
	{name: "hour", max: 23, stepMax: 24},
	{name: "day", min: 1, max: 31, stepMax: 31, extra: "WLwl"},
	{name: "month", min: 1, max: 12, stepMax: 12},
	{name: "dayOfWeek", max: 7, stepMax: 7, extra: "#Ll"},
	{name: "year", min: firstYear, max: lastYear, stepMax: lastYear + 1},
}

const (
	firstYear = 1
	lastYear  = 9999
)

// A weekday is due in the first to fifth week of the month by its bits 0 to 4, in the last by lastWeek, in
// any by anyWeek.
const (
	lastWeek = 1 << 5
	anyWeek  = 1 << 6
)

// Expression is a parsed cron expression.
type Expression struct {
	text string

	seconds, minutes, hours, days, months uint64 // bit n is the value n
	weekdays                              [7]uint8
	nearest                               uint64 // days that stand for the weekday next to them
	lastDay, lastWorkday                  bool
	years                                 []uint64 // nil is every year

	anyDay, anyWeekday bool // the place holds nothing but *
	both               bool // a day must be one by date and one by weekday; else one of them is enough
}

// String is the text that was parsed.
func (e *Expression) String() string { return e.text }

var nicknames = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

var (
	monthNames   = names("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")(1)
	weekdayNames = names("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")(0)
)

type word struct{ name, digits string }

func names(all ...string) func(first int) []word {
	return func(first int) []word {
		var out []word
		for i, n := range all {
			out = append(out, word{n, strconv.Itoa(first + i)})
		}
		return out
	}
}

// Parse reads an expression of five, six (seconds first) or seven (years last) places, or a nickname such
// as @daily. Errors have the words of the original, which older clients show.
func Parse(text string) (*Expression, error) {
	if len(text) > maxExpression {
		return nil, typeError("invalid configuration, an expression has %d characters at the most", maxExpression)
	}
	e := &Expression{text: text}
	line := strings.TrimSpace(text)
	if strings.EqualFold(line, "@reboot") {
		return nil, typeError("@reboot is not supported in this environment. This is an event-based trigger that requires system startup detection.")
	}
	if full, ok := nicknames[strings.ToLower(line)]; ok {
		line = full
	}
	p := strings.Fields(line)
	if len(p) < 5 || len(p) > parts {
		return nil, typeError("invalid configuration format ('%s'), exactly five, six, or seven space separated parts are required.", text)
	}
	if len(p) == 5 {
		p = slices.Insert(p, 0, "0")
	}
	if len(p) == 6 {
		p = append(p, "*")
	}
	if err := e.read([parts]string(p)); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Expression) read(p [parts]string) error {
	if rest, ok := strings.CutPrefix(p[weekday], "+"); ok {
		if rest == "" {
			return typeError("Day-of-week field cannot be empty after '+' modifier.")
		}
		e.both, p[weekday] = true, rest
	}
	if strings.EqualFold(p[day], "LW") {
		e.lastWorkday, p[day] = true, ""
	} else if strings.ContainsAny(p[day], "Ll") {
		e.lastDay, p[day] = true, strings.NewReplacer("L", "", "l", "").Replace(p[day])
	}
	e.anyDay, e.anyWeekday = p[day] == "*", p[weekday] == "*"
	p[month] = replaceNames(p[month], monthNames)
	p[weekday] = replaceNames(sundayEnds(p[weekday]), weekdayNames)
	for i := range p {
		p[i] = strings.ReplaceAll(p[i], "?", "*")
		if strings.ContainsFunc(p[i], func(r rune) bool {
			return !strings.ContainsRune("0123456789*/,-", r) && !strings.ContainsRune(grammar[i].extra, r)
		}) {
			return typeError("configuration entry %d (%s) contains illegal characters.", i, p[i])
		}
	}
	for i, text := range p {
		if err := e.readPart(i, text); err != nil {
			return err
		}
	}
	return nil
}

// sundayEnds lets a range end with Sunday, which is 0 where it begins one.
func sundayEnds(s string) string {
	for i := 0; i+4 <= len(s); i++ {
		if s[i] == '-' && strings.EqualFold(s[i+1:i+4], "SUN") {
			s = s[:i] + "-7" + s[i+4:]
		}
	}
	return s
}

func replaceNames(s string, all []word) string {
	for _, w := range all {
		for i := 0; i+3 <= len(s); i++ {
			if strings.EqualFold(s[i:i+3], w.name) {
				s = s[:i] + w.digits + s[i+3:]
			}
		}
	}
	return s
}

// readPart reads the list in one place.
func (e *Expression) readPart(i int, text string) error {
	if i == year {
		if text == "*" {
			return nil
		}
		e.years = make([]uint64, lastYear/64+1)
	}
	if text == "*" {
		for v := grammar[i].min; v <= grammar[i].max; v++ {
			if err := e.set(i, v, ""); err != nil {
				return err
			}
		}
		return nil
	}
	for item := range strings.SplitSeq(text, ",") {
		if item == "" && i == day && (e.lastDay || e.lastWorkday) {
			continue // L stood there
		}
		if err := e.readItem(i, strings.TrimSpace(item)); err != nil {
			return err
		}
	}
	return nil
}

func (e *Expression) readItem(i int, text string) error {
	item, nth := text, ""
	if i == weekday {
		if before, after, ok := strings.Cut(text, "#"); ok {
			if strings.Contains(after, "-") {
				return typeError("Syntax error, illegal range: '%s'", text)
			}
			after, _, _ = strings.Cut(after, "#")
			item, nth = before, after
		} else if n := len(text) - 1; n > 0 && (text[n] == 'L' || text[n] == 'l') {
			item, nth = text[:n], "L"
		}
	}
	near := i == day && strings.ContainsAny(item, "Ww")
	switch {
	case near && strings.Contains(item, "-") && strings.Contains(item, "/"):
		return typeError("Syntax error, W is not allowed in ranges with stepping.")
	case near && strings.Contains(item, "-"):
		return typeError("Syntax error, W is not allowed in a range.")
	case near && strings.Contains(item, "/"):
		return typeError("Syntax error, W is not allowed in parts with stepping.")
	}
	name := grammar[i].name
	switch {
	case text == "":
		return typeError("configuration entry %s (%s) is empty, check for trailing spaces.", name, text)
	case near:
		v, err := number(strings.TrimRight(item, "Ww"))
		if err != nil {
			return typeError("nearestWeekdays is not a number: '%s'", item)
		}
		if v < 1 || v > 31 {
			return rangeError("Invalid value for nearestWeekdays: %d", v-1)
		}
		e.nearest |= 1 << v
		return nil
	case item == "*":
		if item != text {
			return typeError("%s is not a number: '%s'", name, text)
		}
		return e.setRange(i, grammar[i].min, grammar[i].max, 1, "")
	case strings.Contains(item, "/"):
		return e.readStep(i, item, nth)
	case strings.Contains(item, "-"):
		low, high, err := e.ends(item, "Syntax error, illegal range: '%s'", text)
		if err != nil {
			return err
		}
		return e.setRange(i, low, high, 1, nth)
	}
	v, err := number(item)
	if err != nil {
		return typeError("%s is not a number: '%s'", name, text)
	}
	return e.set(i, v, nth)
}

// ends reads the ends of a range; said and about are the error where it is none.
func (e *Expression) ends(item, said, about string) (low, high int, err error) {
	ends := strings.Split(item, "-")
	if len(ends) != 2 {
		return 0, 0, typeError(said, about)
	}
	if low, err = number(ends[0]); err != nil {
		return 0, 0, typeError("Syntax error, illegal lower range (NaN)")
	}
	if high, err = number(ends[1]); err != nil {
		return 0, 0, typeError("Syntax error, illegal upper range (NaN)")
	}
	if low > high {
		return 0, 0, typeError("From value is larger than to value: '%s'", item)
	}
	return low, high, nil
}

// readStep reads */step and low-high/step.
func (e *Expression) readStep(i int, item, nth string) error {
	g := grammar[i]
	from, by, _ := strings.Cut(item, "/")
	low, high := g.min, g.max
	switch {
	case strings.Contains(item, "-"):
		// The words are those of a range, whatever is wrong with it.
		bad := func() error { return typeError("Syntax error, illegal range with stepping: '%s'", item) }
		ends := strings.Split(from, "-")
		if len(ends) != 2 || strings.ContainsAny(by, "/-") || strings.ContainsAny(from+by, "*#") {
			return bad()
		}
		var err [3]error
		low, err[0] = number(ends[0])
		high, err[1] = number(ends[1])
		_, err[2] = number(by)
		if err[0] != nil || err[1] != nil || err[2] != nil {
			return bad()
		}
	case strings.Contains(by, "/"):
		return typeError("Syntax error, illegal stepping: '%s'", item)
	case from == "":
		return typeError("Syntax error, stepping with missing prefix ('%s') is not allowed. Use wildcard (*/step) or range (min-max/step) instead.", item)
	case from != "*":
		return typeError("Syntax error, stepping with numeric prefix ('%s') is not allowed. Use wildcard (*/step) or range (min-max/step) instead.", item)
	}
	step, err := number(by)
	switch {
	case err != nil:
		return typeError("Syntax error, illegal stepping: (NaN)")
	case step == 0:
		return typeError("Syntax error, illegal stepping: 0")
	case step > g.stepMax:
		return typeError("Syntax error, steps cannot be greater than maximum value of part (%d)", g.stepMax)
	case low > high:
		return typeError("From value is larger than to value: '%s'", item)
	}
	return e.setRange(i, low, high, step, nth)
}

func (e *Expression) setRange(i, low, high, step int, nth string) error {
	for v := low; v <= high; v += step {
		if err := e.set(i, v, nth); err != nil {
			return err
		}
	}
	return nil
}

// set adds a value to its part.
func (e *Expression) set(i, v int, nth string) error {
	g := grammar[i]
	if v < g.min || v > g.max {
		switch i {
		case year:
			return rangeError("Invalid value for year: %d (supported range: %d-%d)", v, firstYear, lastYear)
		case day, month:
			v-- // the original counts them from zero
		}
		return rangeError("Invalid value for %s: %d", g.name, v)
	}
	switch i {
	case second:
		e.seconds |= 1 << v
	case minute:
		e.minutes |= 1 << v
	case hour:
		e.hours |= 1 << v
	case day:
		e.days |= 1 << v
	case month:
		e.months |= 1 << v
	case year:
		e.years[v/64] |= 1 << (v % 64)
	case weekday:
		week, err := weekOf(nth)
		if err != nil {
			return err
		}
		e.weekdays[v%7] |= week
	}
	return nil
}

func weekOf(nth string) (uint8, error) {
	if nth == "" {
		return anyWeek, nil
	}
	if strings.EqualFold(nth, "L") {
		return lastWeek, nil
	}
	if len(nth) == 1 && nth[0] >= '1' && nth[0] <= '5' {
		return 1 << (nth[0] - '1'), nil
	}
	return 0, typeError("nth weekday out of range, should be 1-5 or L. Value: %s, Type: string", nth)
}

// number reads the digits that a text begins with. What follows them says nothing, as in the original; what
// may follow is a * at the most.
func number(s string) (int, error) {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	n, err := strconv.ParseUint(s[:digits], 10, 31)
	return int(n), err
}

func typeError(format string, a ...any) error {
	return &Error{"TypeError: CronPattern: " + fmt.Sprintf(format, a...)}
}

func rangeError(format string, a ...any) error {
	return &Error{"RangeError: CronPattern: " + fmt.Sprintf(format, a...)}
}

// Error is an expression that cannot be read.
type Error struct{ text string }

func (e *Error) Error() string { return e.text }
