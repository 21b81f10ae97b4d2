package migrate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/sessions"
)

// entryField is a field of an entry of sessions.json that sessions.Entry has a place for (sessions-chat.md §2). What
// read refuses, because it is empty or of another type, stays among the other fields as it was written.
type entryField struct {
	name  string
	read  func(*sessions.Entry, json.RawMessage) bool
	write func(*sessions.Entry) json.RawMessage // nil when it is not set
}

func textField(name string, at func(*sessions.Entry) *string) entryField {
	return entryField{
		name,
		func(e *sessions.Entry, v json.RawMessage) bool { return readText(v, at(e)) },
		func(e *sessions.Entry) json.RawMessage { return writeText(*at(e)) },
	}
}

func numberField(name string, at func(*sessions.Entry) **int64) entryField {
	return entryField{
		name,
		func(e *sessions.Entry, v json.RawMessage) bool {
			n, err := strconv.ParseInt(string(v), 10, 64)
			if err != nil || strconv.FormatInt(n, 10) != string(v) { // not -0 either
				return false
			}
			*at(e) = &n
			return true
		},
		func(e *sessions.Entry) json.RawMessage {
			if n := *at(e); n != nil {
				return strconv.AppendInt(nil, *n, 10)
			}
			return nil
		},
	}
}

func flagField(name string, at func(*sessions.Entry) **bool) entryField {
	return entryField{
		name,
		func(e *sessions.Entry, v json.RawMessage) bool {
			b := string(v) == "true"
			if !b && string(v) != "false" {
				return false
			}
			*at(e) = &b
			return true
		},
		func(e *sessions.Entry) json.RawMessage {
			if b := *at(e); b != nil {
				return strconv.AppendBool(nil, *b)
			}
			return nil
		},
	}
}

// entryFields are in the order in which the original documents them; a written entry has them in this order.
var entryFields = []entryField{
	textField("sessionId", func(e *sessions.Entry) *string { return &e.SessionID }),
	{"updatedAt", readUpdated, writeUpdated},
	textField("sessionFile", func(e *sessions.Entry) *string { return &e.SessionFile }),
	textField("spawnedBy", func(e *sessions.Entry) *string { return &e.SpawnedBy }),
	numberField("spawnDepth", func(e *sessions.Entry) **int64 { return &e.SpawnDepth }),
	flagField("systemSent", func(e *sessions.Entry) **bool { return &e.SystemSent }),
	flagField("abortedLastRun", func(e *sessions.Entry) **bool { return &e.AbortedLastRun }),
	textField("chatType", func(e *sessions.Entry) *string { return &e.ChatType }),
	textField("thinkingLevel", func(e *sessions.Entry) *string { return &e.ThinkingLevel }),
	textField("verboseLevel", func(e *sessions.Entry) *string { return &e.VerboseLevel }),
	textField("reasoningLevel", func(e *sessions.Entry) *string { return &e.ReasoningLevel }),
	textField("elevatedLevel", func(e *sessions.Entry) *string { return &e.ElevatedLevel }),
	textField("execHost", func(e *sessions.Entry) *string { return &e.ExecHost }),
	textField("execSecurity", func(e *sessions.Entry) *string { return &e.ExecSecurity }),
	textField("execAsk", func(e *sessions.Entry) *string { return &e.ExecAsk }),
	textField("execNode", func(e *sessions.Entry) *string { return &e.ExecNode }),
	textField("responseUsage", func(e *sessions.Entry) *string { return &e.ResponseUsage }),
	textField("providerOverride", func(e *sessions.Entry) *string { return &e.ProviderOverride }),
	textField("modelOverride", func(e *sessions.Entry) *string { return &e.ModelOverride }),
	textField("authProfileOverride", func(e *sessions.Entry) *string { return &e.AuthProfileOverride }),
	textField("authProfileOverrideSource", func(e *sessions.Entry) *string { return &e.AuthProfileOverrideSource }),
	textField("groupActivation", func(e *sessions.Entry) *string { return &e.GroupActivation }),
	textField("sendPolicy", func(e *sessions.Entry) *string { return &e.SendPolicy }),
	numberField("inputTokens", func(e *sessions.Entry) **int64 { return &e.InputTokens }),
	numberField("outputTokens", func(e *sessions.Entry) **int64 { return &e.OutputTokens }),
	numberField("totalTokens", func(e *sessions.Entry) **int64 { return &e.TotalTokens }),
	flagField("totalTokensFresh", func(e *sessions.Entry) **bool { return &e.TotalTokensFresh }),
	numberField("cacheRead", func(e *sessions.Entry) **int64 { return &e.CacheRead }),
	numberField("cacheWrite", func(e *sessions.Entry) **int64 { return &e.CacheWrite }),
	textField("modelProvider", func(e *sessions.Entry) *string { return &e.ModelProvider }),
	textField("model", func(e *sessions.Entry) *string { return &e.Model }),
	numberField("contextTokens", func(e *sessions.Entry) **int64 { return &e.ContextTokens }),
	numberField("compactionCount", func(e *sessions.Entry) **int64 { return &e.CompactionCount }),
	textField("label", func(e *sessions.Entry) *string { return &e.Label }),
	textField("displayName", func(e *sessions.Entry) *string { return &e.DisplayName }),
	textField("channel", func(e *sessions.Entry) *string { return &e.Channel }),
	textField("groupId", func(e *sessions.Entry) *string { return &e.GroupID }),
	textField("subject", func(e *sessions.Entry) *string { return &e.Subject }),
	textField("groupChannel", func(e *sessions.Entry) *string { return &e.GroupChannel }),
	textField("space", func(e *sessions.Entry) *string { return &e.Space }),
	{"origin", readOrigin, writeOrigin},
	{"deliveryContext", readDelivery, writeDelivery},
	textField("lastChannel", func(e *sessions.Entry) *string { return &e.LastChannel }),
	textField("lastTo", func(e *sessions.Entry) *string { return &e.LastTo }),
	textField("lastAccountId", func(e *sessions.Entry) *string { return &e.LastAccountID }),
	{
		"lastThreadId",
		func(e *sessions.Entry, v json.RawMessage) bool { return readThread(v, &e.LastThreadID) },
		func(e *sessions.Entry) json.RawMessage { return json.RawMessage(e.LastThreadID) },
	},
}

// readText reads a text that is not empty and that Go can hold.
func readText(v json.RawMessage, to *string) bool {
	var s string
	if len(v) == 0 || v[0] != '"' || json.Unmarshal(v, &s) != nil || s == "" {
		return false
	}
	if strings.ContainsRune(s, utf8.RuneError) && !bytes.ContainsRune(v, utf8.RuneError) {
		return false // half of a pair of surrogates: it would become another text
	}
	*to = s
	return true
}

func writeText(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a text cannot fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// readThread reads an id of a thread, a text or a number.
func readThread(v json.RawMessage, to *sessions.Raw) bool {
	if len(v) == 0 || v[0] != '"' && v[0] != '-' && (v[0] < '0' || v[0] > '9') {
		return false
	}
	*to = sessions.Raw(v)
	return true
}

func readUpdated(e *sessions.Entry, v json.RawMessage) bool {
	var ms float64
	if json.Unmarshal(v, &ms) != nil || ms < 1 || ms > 1<<52 {
		return false
	}
	e.UpdatedAt = time.UnixMilli(int64(ms)).UTC()
	return true
}

func writeUpdated(e *sessions.Entry) json.RawMessage {
	if e.UpdatedAt.IsZero() {
		return nil
	}
	return strconv.AppendInt(nil, e.UpdatedAt.UnixMilli(), 10)
}

func readOrigin(e *sessions.Entry, v json.RawMessage) bool {
	rest, ok := members(v)
	if !ok {
		return false
	}
	o := &sessions.Origin{}
	for _, f := range originTexts(o) {
		f.take(rest)
	}
	if readThread(rest["threadId"], &o.ThreadID) {
		delete(rest, "threadId")
	}
	o.Rest = raws(rest)
	e.Origin = o
	return true
}

func writeOrigin(e *sessions.Entry) json.RawMessage {
	if e.Origin == nil {
		return nil
	}
	var w objectWriter
	for _, f := range originTexts(e.Origin) {
		w.add(f.name, writeText(*f.at))
	}
	w.add("threadId", json.RawMessage(e.Origin.ThreadID))
	w.rest(e.Origin.Rest)
	return w.done()
}

type subText struct {
	name string
	at   *string
}

// take moves the text out of the members of an object.
func (f subText) take(from map[string]json.RawMessage) {
	if readText(from[f.name], f.at) {
		delete(from, f.name)
	}
}

func originTexts(o *sessions.Origin) []subText {
	return []subText{
		{"label", &o.Label},
		{"provider", &o.Provider},
		{"surface", &o.Surface},
		{"chatType", &o.ChatType},
		{"from", &o.From},
		{"to", &o.To},
		{"accountId", &o.AccountID},
	}
}

func deliveryTexts(d *sessions.Delivery) []subText {
	return []subText{{"channel", &d.Channel}, {"to", &d.To}, {"accountId", &d.AccountID}}
}

// readDelivery keeps what sessions.Delivery has no place for among the other fields, under the same name.
func readDelivery(e *sessions.Entry, v json.RawMessage) bool {
	rest, ok := members(v)
	if !ok {
		return false
	}
	d := &sessions.Delivery{}
	for _, f := range deliveryTexts(d) {
		f.take(rest)
	}
	if readThread(rest["threadId"], &d.ThreadID) {
		delete(rest, "threadId")
	}
	e.DeliveryContext = d
	if len(rest) > 0 {
		var w objectWriter
		w.rest(raws(rest))
		keepRest(e, "deliveryContext", w.done())
	}
	return true
}

func writeDelivery(e *sessions.Entry) json.RawMessage {
	d := e.DeliveryContext
	if d == nil {
		return nil
	}
	var w objectWriter
	for _, f := range deliveryTexts(d) {
		w.add(f.name, writeText(*f.at))
	}
	w.add("threadId", json.RawMessage(d.ThreadID))
	if more, ok := members(json.RawMessage(e.Rest["deliveryContext"])); ok {
		w.rest(raws(more))
	}
	return w.done()
}

// members are those of a JSON object, compact.
func members(v json.RawMessage) (map[string]json.RawMessage, bool) {
	if len(v) == 0 || v[0] != '{' {
		return nil, false
	}
	var out map[string]json.RawMessage
	if json.Unmarshal(v, &out) != nil {
		return nil, false
	}
	return out, true
}

func raws(in map[string]json.RawMessage) map[string]sessions.Raw {
	if len(in) == 0 {
		return nil
	}
	out := make(map[string]sessions.Raw, len(in))
	for k, v := range in {
		out[k] = sessions.Raw(v)
	}
	return out
}

func keepRest(e *sessions.Entry, name string, v json.RawMessage) {
	if e.Rest == nil {
		e.Rest = map[string]sessions.Raw{}
	}
	e.Rest[name] = sessions.Raw(v)
}

// objectWriter writes a JSON object.
type objectWriter struct {
	b    []byte
	seen map[string]bool
}

// add writes a member once; a nil value is none.
func (w *objectWriter) add(name string, v json.RawMessage) {
	if v == nil || w.seen[name] {
		return
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[name] = true
	lead := byte(',')
	if len(w.b) == 0 {
		lead = '{'
	}
	w.b = append(w.b, lead)
	key := writeText(name)
	if key == nil {
		key = json.RawMessage(`""`)
	}
	w.b = append(append(append(w.b, key...), ':'), v...)
}

// rest writes other members in the order of their names; those that are there already stay.
func (w *objectWriter) rest(in map[string]sessions.Raw) {
	for _, name := range slices.Sorted(maps.Keys(in)) {
		w.add(name, json.RawMessage(in[name]))
	}
}

func (w *objectWriter) done() json.RawMessage {
	if len(w.b) == 0 {
		return json.RawMessage("{}")
	}
	return append(w.b, '}')
}

var errNoObject = errors.New("it is not a JSON object")

// decodeEntry reads an entry of sessions.json. Nothing that it holds is lost: what sessions.Entry has no place for
// is in its Rest.
func decodeEntry(raw json.RawMessage) (sessions.Entry, error) {
	var e sessions.Entry
	var flat bytes.Buffer
	if err := json.Compact(&flat, bytes.ToValidUTF8(raw, []byte("\ufffd"))); err != nil {
		return e, err
	}
	fields, ok := members(flat.Bytes())
	if !ok {
		return e, errNoObject
	}
	for _, f := range entryFields {
		if v, ok := fields[f.name]; ok && f.read(&e, v) {
			delete(fields, f.name)
		}
	}
	for name, v := range fields {
		keepRest(&e, name, v)
	}
	return e, nil
}

// encodeEntry writes an entry as one of sessions.json, without white space: known fields in their order, then the
// others by name.
func encodeEntry(e *sessions.Entry) json.RawMessage {
	var w objectWriter
	for _, f := range entryFields {
		w.add(f.name, f.write(e))
	}
	w.rest(e.Rest)
	return w.done()
}

// entryHash tells entries apart.
func entryHash(e *sessions.Entry) string {
	sum := sha256.Sum256(encodeEntry(e))
	return hex.EncodeToString(sum[:])
}

// refOf is the name of a session that a key in the store of an agent stands for: in the canonical spelling
// (sessions-chat.md §1). Unlike sessions.Canonical it does not make the main session the global one where
// session.scope is global: the file holds both.
func refOf(c *config.Config, agentID, key string) sessions.Ref {
	key = strings.ToLower(strings.TrimSpace(key))
	switch {
	case key == "":
		return sessions.Ref{}
	case key == sessions.GlobalKey, key == sessions.UnknownKey:
		return sessions.Ref{AgentID: c.DefaultAgentID(), Key: key}
	case !strings.HasPrefix(key, "agent:"):
		key = "agent:" + agentID + ":" + key
	}
	p, ok := sessions.ParseKey(key)
	if !ok {
		return sessions.Ref{AgentID: c.DefaultAgentID(), Key: key}
	}
	agent := config.AgentID(p.AgentID)
	if p.Rest == "main" {
		key = "agent:" + agent + ":main"
	}
	return sessions.Ref{AgentID: agent, Key: key}
}

// idFor makes the id of a session whose entry has none, always the same for the same session.
func idFor(r sessions.Ref) string {
	sum := sha256.Sum256([]byte(r.AgentID + "\x00" + r.Key))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-8" + h[13:16] + "-8" + h[17:20] + "-" + h[20:32]
}
