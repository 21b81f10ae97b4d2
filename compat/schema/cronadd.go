package schema

import (
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/hanzoai/hanzod/compat/wire"
)

// NormalizeCronAdd rewrites the parameters of cron.add into the form that the schema wants and the handler reads
// (control-plane.md §12): older shapes are unwrapped and moved, text is trimmed, defaults are filled in. What is no
// object stays as it is, and so does every fault that is none of these: the schema reports it.
func NormalizeCronAdd(params wire.Value) wire.Value { return normalizeCron(params, true) }

// NormalizeCronUpdate does the same with the patch of cron.update, without defaults. A patch may say where to deliver
// in its payload: that changes the delivery that the job has.
func NormalizeCronUpdate(params wire.Value) wire.Value {
	patch, ok := params.Get("patch")
	if params.Kind() != wire.Object || !ok || patch.Kind() != wire.Object {
		return params
	}
	o := edit(params)
	o.put("patch", normalizeCron(patch, false))
	v, err := wire.Parse(o.append(nil))
	if err != nil {
		return params
	}
	return v
}

func normalizeCron(params wire.Value, whole bool) wire.Value {
	if params.Kind() != wire.Object {
		return params
	}
	for _, wrapper := range []string{"data", "job"} {
		if inner, ok := params.Get(wrapper); ok && inner.Kind() == wire.Object {
			params = inner
			break
		}
	}
	job := edit(params)
	schedule, hasSchedule := job.child("schedule")
	if hasSchedule {
		normalizeSchedule(schedule)
	}
	payload, hasPayload := job.child("payload")
	if !hasPayload && !job.has("payload") {
		payload, hasPayload = liftPayload(job)
	}
	if hasPayload {
		normalizePayload(job, payload, whole)
	}
	delivery, hasDelivery := job.child("delivery")
	if hasDelivery {
		normalizeDelivery(delivery)
	}
	for _, k := range []string{"description", "agentId", "sessionKey"} {
		job.trim(k)
	}
	for _, k := range []string{"agentId", "sessionKey"} {
		if job.isString(k) && job.str(k) == "" {
			job.take(k)
		}
	}
	job.choose("sessionTarget", "main", "isolated")
	job.choose("wakeMode", "now", "next-heartbeat")
	job.flag("enabled")
	if whole {
		job.trim("name")
		cronDefaults(job, schedule, payload, hasSchedule, hasPayload)
	}
	v, err := wire.Parse(job.append(nil))
	if err != nil { // only beyond the bounds of Parse, and then the schema judges what was sent
		return params
	}
	return v
}

// payloadFields are the payload's members that older clients send beside it.
var payloadFields = []string{"model", "fallbacks", "thinking", "timeoutSeconds", "allowUnsafeExternalContent",
	"lightContext", "deliver", "channel", "to", "bestEffortDeliver"}

// liftPayload makes a payload of message or text at the top level.
func liftPayload(job *object) (*object, bool) {
	p := &object{}
	switch {
	case strings.TrimSpace(job.str("message")) != "":
		p.setString("kind", "agentTurn")
		p.put("message", job.take("message"))
	case strings.TrimSpace(job.str("text")) != "":
		p.setString("kind", "systemEvent")
		p.put("text", job.take("text"))
	default:
		return nil, false
	}
	job.put("payload", p)
	return p, true
}

func normalizeSchedule(s *object) {
	switch strings.ToLower(strings.TrimSpace(s.str("kind"))) {
	case "at", "every", "cron":
		s.setString("kind", strings.ToLower(strings.TrimSpace(s.str("kind"))))
	case "":
		switch {
		case s.has("kind") && !s.isString("kind"): // of another type: the schema says so
		case s.has("at") || s.has("atMs"):
			s.setString("kind", "at")
		case s.has("everyMs"):
			s.setString("kind", "every")
		case s.has("expr") || s.has("cron"):
			s.setString("kind", "cron")
		}
	}
	for _, k := range []string{"atMs", "at"} {
		if ms, ok := s.num(k); ok && math.Abs(ms) <= maxDateMs {
			s.setString("at", time.UnixMilli(int64(ms)).UTC().Format("2006-01-02T15:04:05.000Z"))
			break
		}
	}
	s.take("atMs")
	if expr := s.take("cron"); expr != nil && !s.has("expr") {
		s.put("expr", expr)
	}
	for _, k := range []string{"at", "expr", "tz"} {
		s.trim(k)
	}
}

// maxDateMs is the largest time that a JavaScript date holds, in milliseconds either side of the epoch.
const maxDateMs = 8.64e15

func normalizePayload(job, p *object, whole bool) {
	switch strings.ToLower(strings.TrimSpace(p.str("kind"))) {
	case "agentturn":
		p.setString("kind", "agentTurn")
	case "systemevent":
		p.setString("kind", "systemEvent")
	case "":
		if p.has("kind") {
			break
		}
		if p.has("message") {
			p.setString("kind", "agentTurn")
		} else if p.has("text") {
			p.setString("kind", "systemEvent")
		}
	}
	agentTurn := p.str("kind") == "agentTurn"
	for _, k := range []string{"message", "text"} {
		p.trim(k)
		if v := job.take(k); v != nil && !p.has(k) && agentTurn == (k == "message") {
			p.put(k, v)
		}
	}
	for _, k := range payloadFields {
		if v := job.take(k); v != nil && agentTurn && !p.has(k) {
			p.put(k, v)
		}
	}
	if agentTurn && whole {
		moveDelivery(job, p)
	}
}

// moveDelivery turns the older delivery flags of a payload into the job's delivery, unless it has one.
func moveDelivery(job, p *object) {
	deliver, channel, to, best := p.take("deliver"), p.take("channel"), p.take("to"), p.take("bestEffortDeliver")
	if job.has("delivery") || deliver == nil && channel == nil && to == nil && best == nil {
		return
	}
	d := &object{}
	d.setString("mode", "announce")
	if v, ok := deliver.(wire.Value); ok && v.Kind() == wire.Bool && !v.Bool() {
		d.setString("mode", "none")
	}
	for _, m := range []struct {
		name string
		v    any
	}{{"channel", channel}, {"to", to}, {"bestEffort", best}} {
		if m.v != nil {
			d.put(m.name, m.v)
		}
	}
	job.put("delivery", d)
}

func normalizeDelivery(d *object) {
	if strings.EqualFold(strings.TrimSpace(d.str("mode")), "deliver") {
		d.setString("mode", "announce")
	}
	d.choose("mode", "none", "announce", "webhook")
	for _, k := range []string{"channel", "to", "accountId"} {
		d.trim(k)
		if d.isString(k) && d.str(k) == "" {
			d.take(k)
		}
	}
}

func cronDefaults(job, schedule, payload *object, hasSchedule, hasPayload bool) {
	if !job.has("wakeMode") {
		job.setString("wakeMode", "now")
	}
	if !job.has("enabled") {
		job.put("enabled", wire.MustParse("true"))
	}
	if hasSchedule && schedule.str("kind") == "at" && !job.has("deleteAfterRun") {
		job.put("deleteAfterRun", wire.MustParse("true"))
	}
	if !hasPayload {
		return
	}
	kind := payload.str("kind")
	if job.str("name") == "" && hasSchedule {
		job.setString("name", cronName(payload))
	}
	if !job.has("sessionTarget") {
		switch kind {
		case "systemEvent":
			job.setString("sessionTarget", "main")
		case "agentTurn":
			job.setString("sessionTarget", "isolated")
		}
	}
	if !job.has("delivery") && kind == "agentTurn" && job.str("sessionTarget") == "isolated" {
		d := &object{}
		d.setString("mode", "announce")
		job.put("delivery", d)
	}
	if hasSchedule && schedule.str("kind") == "cron" && !schedule.has("staggerMs") && onTheHour(schedule.str("expr")) {
		schedule.put("staggerMs", wire.MustParse("300000"))
	}
}

// onTheHour reports whether a cron expression fires at minute 0 (and second 0) of more than one hour.
func onTheHour(expr string) bool {
	f := strings.Fields(expr)
	if len(f) == 6 {
		if f[0] != "0" {
			return false
		}
		f = f[1:]
	}
	return len(f) == 5 && f[0] == "0" && strings.Contains(f[1], "*")
}

// cronName is the name of a job that was sent without one: the first line of its text.
func cronName(payload *object) string {
	text := payload.str("message")
	if text == "" {
		text = payload.str("text")
	}
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	line = strings.TrimSpace(line)
	if line == "" {
		return "Cron job"
	}
	if u := utf16.Encode([]rune(line)); len(u) > maxCronName {
		line = strings.TrimRight(string(utf16.Decode(u[:maxCronName-1])), " \t") + "…"
	}
	return line
}

// maxCronName is how much of the text becomes the name, in UTF-16 units: a line of a table.
const maxCronName = 60

// object is a JSON object being rewritten: members in order, each a wire.Value, a string or an *object.
type object struct {
	keys []string
	vals []any
}

func edit(v wire.Value) *object {
	o := &object{}
	for k, m := range v.Members() {
		o.keys, o.vals = append(o.keys, k), append(o.vals, m)
	}
	return o
}

func (o *object) at(key string) int {
	for i, k := range o.keys {
		if k == key {
			return i
		}
	}
	return -1
}

func (o *object) has(key string) bool { return o.at(key) >= 0 }

func (o *object) put(key string, v any) {
	if i := o.at(key); i >= 0 {
		o.vals[i] = v
		return
	}
	o.keys, o.vals = append(o.keys, key), append(o.vals, v)
}

func (o *object) setString(key, s string) { o.put(key, s) }

// take removes a member and returns it, nil when there is none.
func (o *object) take(key string) any {
	i := o.at(key)
	if i < 0 {
		return nil
	}
	v := o.vals[i]
	o.keys = append(o.keys[:i], o.keys[i+1:]...)
	o.vals = append(o.vals[:i], o.vals[i+1:]...)
	return v
}

// child makes a member that is an object editable.
func (o *object) child(key string) (*object, bool) {
	i := o.at(key)
	if i < 0 {
		return nil, false
	}
	if c, ok := o.vals[i].(*object); ok {
		return c, true
	}
	v, ok := o.vals[i].(wire.Value)
	if !ok || v.Kind() != wire.Object {
		return nil, false
	}
	c := edit(v)
	o.vals[i] = c
	return c, true
}

func (o *object) isString(key string) bool {
	i := o.at(key)
	if i < 0 {
		return false
	}
	switch v := o.vals[i].(type) {
	case string:
		return true
	case wire.Value:
		return v.Kind() == wire.String
	}
	return false
}

func (o *object) str(key string) string {
	i := o.at(key)
	if i < 0 {
		return ""
	}
	switch v := o.vals[i].(type) {
	case string:
		return v
	case wire.Value:
		return v.Str()
	}
	return ""
}

func (o *object) num(key string) (float64, bool) {
	if i := o.at(key); i >= 0 {
		if v, ok := o.vals[i].(wire.Value); ok && v.Kind() == wire.Number {
			return v.Num(), true
		}
	}
	return 0, false
}

// trim removes white space around a string member.
func (o *object) trim(key string) {
	if o.isString(key) {
		o.put(key, strings.TrimSpace(o.str(key)))
	}
}

// choose keeps a member that is one of some words, in any case, and removes any other.
func (o *object) choose(key string, words ...string) {
	if w := strings.ToLower(strings.TrimSpace(o.str(key))); slices.Contains(words, w) {
		o.setString(key, w)
		return
	}
	o.take(key)
}

// flag keeps a member that is true or false, or the word for it, and removes any other.
func (o *object) flag(key string) {
	if i := o.at(key); i >= 0 {
		if v, ok := o.vals[i].(wire.Value); ok && v.Kind() == wire.Bool {
			return
		}
	}
	word := strings.ToLower(strings.TrimSpace(o.str(key)))
	if word == "true" || word == "false" {
		o.put(key, wire.MustParse(word))
		return
	}
	o.take(key)
}

func (o *object) append(dst []byte) []byte {
	dst = append(dst, '{')
	for i, k := range o.keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(wire.AppendString(dst, k), ':')
		switch v := o.vals[i].(type) {
		case string:
			dst = wire.AppendString(dst, v)
		case *object:
			dst = v.append(dst)
		case wire.Value:
			dst = wire.AppendStringify(dst, v)
		}
	}
	return append(dst, '}')
}
