package config

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config/json5"
)

// The texts for a duration or size that cannot be read (config.md §6).
const (
	badDuration = "invalid duration (use ms, s, m, h, d)"
	badSize     = "invalid size (use b, kb, mb, gb, tb)"
)

var durationUnits = map[string]float64{"ms": 1, "s": 1e3, "m": 60e3, "h": 3600e3, "d": 86400e3}

var durationPart = regexp.MustCompile(`^(\d+(?:\.\d+)?)(ms|s|m|h|d)?`)

// parseDuration reads a duration such as "30m" or "1h30m"; a number without a unit counts in the
// given one. Longer than limit is refused, because timers would overflow.
func parseDuration(s, unit string, limit time.Duration) (time.Duration, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	if s == "" || len(s) > 64 {
		return 0, false
	}
	var ms float64
	for s != "" {
		part := durationPart.FindStringSubmatch(s)
		if part == nil {
			return 0, false
		}
		v, err := strconv.ParseFloat(part[1], 64)
		if err != nil {
			return 0, false
		}
		if part[2] == "" {
			part[2] = unit
		}
		ms += v * durationUnits[part[2]]
		s = s[len(part[0]):]
	}
	if ms > float64(limit.Milliseconds()) {
		return 0, false
	}
	return time.Duration(math.Round(ms)) * time.Millisecond, true
}

var sizeForm = regexp.MustCompile(`^(\d+(?:\.\d+)?)(b|kb?|mb?|gb?|tb?)?$`)

// parseSize reads a size in bytes such as "10mb"; a number without a unit counts bytes.
func parseSize(s string) (int64, bool) {
	part := sizeForm.FindStringSubmatch(strings.ToLower(strings.TrimSpace(s)))
	if part == nil || len(s) > 64 {
		return 0, false
	}
	v, err := strconv.ParseFloat(part[1], 64)
	if err != nil {
		return 0, false
	}
	for i, unit := range "kmgt" {
		if strings.HasPrefix(part[2], string(unit)) {
			v *= math.Pow(1024, float64(i+1))
		}
	}
	if v > noBound {
		return 0, false
	}
	return int64(math.Round(v)), true
}

// written is a number or a text as a text; ok is false for other values.
func written(n *json5.Node) (text string, ok bool) {
	switch n.Kind {
	case json5.String:
		return n.Str, true
	case json5.Number:
		return strconv.FormatFloat(n.Num, 'f', -1, 64), true
	}
	return "", false
}

// century bounds durations that are ages, and not timers.
const century = 36_500 * 24 * time.Hour

// duration reads a text or number as a duration; a bare number counts in unit.
func (o object) duration(key, unit string, limit time.Duration, into *time.Duration) {
	n := o.take(key)
	if n == nil {
		return
	}
	text, ok := written(n)
	if ok {
		*into, ok = parseDuration(text, unit, limit)
	}
	if !ok {
		o.l.fail(join(o.path, key), n, badDuration)
	}
}

// size reads a text or number as a count of bytes.
func (o object) size(key string, into *int64) {
	n := o.take(key)
	if n == nil {
		return
	}
	text, ok := written(n)
	if ok {
		*into, ok = parseSize(text)
	}
	if !ok {
		o.l.fail(join(o.path, key), n, badSize)
	}
}

// off reports whether the value of a key is false, which some durations and sizes may be.
func (o object) off(key string) bool {
	n := o.n.Get(key)
	off := n != nil && n.Kind == json5.Bool && !n.Bool
	if off {
		o.take(key)
	}
	return off
}
