package sessions

import (
	"cmp"
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// ManyStores is what a list says of its store when it combines those of several agents.
const ManyStores = "(multiple)"

// ListIn says which sessions to list. Numbers that are 0 and texts that are empty mean all.
type ListIn struct {
	// Limit is how many at most, ActiveMinutes how long ago they were used last.
	Limit, ActiveMinutes            int
	IncludeGlobal, IncludeUnknown   bool
	DerivedTitles, LastMessages     bool
	Label, SpawnedBy, AgentID, Text string
}

// Listed is a session in a list.
type Listed struct {
	*Row
	// Kind is direct, group, global or unknown. Name is what to show for the session, Channel where it is.
	Kind, Name, Channel string
	// DerivedTitle and LastMessage are read from the transcript when they are asked for.
	DerivedTitle, LastMessage string
	Model                     Model
	// Delivery is where answers go, nil when nothing says so.
	Delivery *Delivery
}

// ListOut is a list, the newest first.
type ListOut struct {
	At time.Time
	// Path is the file of the entries, as clients know it.
	Path string
	// Default is the model of the default agent, ContextTokens its window, 0 when it is not known.
	Default       Model
	ContextTokens int64
	Sessions      []Listed
}

// List lists sessions (sessions-chat.md §3). Reading titles and last messages costs two short reads of each
// transcript that is listed.
func (s *Service) List(ctx context.Context, _ identity.Caller, in ListIn) (ListOut, error) {
	c := s.cfg.Config()
	now := s.now()
	out := ListOut{At: now, Path: ManyStores, Default: s.cfg.Models.Default(c.DefaultAgentID()), ContextTokens: s.cfg.Models.ContextTokens()}
	rows := s.match(in, now)
	out.Sessions = make([]Listed, len(rows))
	// Most sessions are of few agents.
	models := map[string]Model{}
	for i, row := range rows {
		def, ok := models[row.Ref.AgentID]
		if !ok {
			def = s.cfg.Models.Default(row.Ref.AgentID)
			models[row.Ref.AgentID] = def
		}
		l := &out.Sessions[i]
		l.Row, l.Name = row, row.name
		e := &row.Entry
		l.Kind, l.Channel, l.Model, l.Delivery = Kind(row.Ref.Key, e.ChatType), channelOf(row.Ref.Key, e), modelOf(e, def), deliveryOf(e)
		if in.DerivedTitles || in.LastMessages {
			if ctx.Err() != nil {
				return out, errs.Wrap(errs.Unavailable, "read the transcripts", ctx.Err())
			}
			s.said(l, in.DerivedTitles, in.LastMessages)
		}
	}
	return out, nil
}

// match are the rows that a list shows.
func (s *Service) match(in ListIn, now time.Time) []*Row {
	agent := ""
	if in.AgentID != "" {
		agent = config.AgentID(in.AgentID)
	}
	label, text := strings.TrimSpace(in.Label), strings.ToLower(strings.TrimSpace(in.Text))
	var since time.Time
	if in.ActiveMinutes > 0 {
		since = now.Add(-time.Duration(min(in.ActiveMinutes, 1<<31)) * time.Minute)
	}
	all := s.rows()
	limit := len(all)
	if in.Limit > 0 {
		limit = min(limit, in.Limit)
	}
	out := make([]*Row, 0, limit)
	for _, row := range all {
		if len(out) >= limit {
			break
		}
		e, key := &row.Entry, row.Ref.Key
		global, unknown := key == GlobalKey, key == UnknownKey
		switch {
		case row.hidden,
			global && !in.IncludeGlobal, unknown && !in.IncludeUnknown,
			agent != "" && (global || unknown || !ofAgent(row.Ref, agent)),
			in.SpawnedBy != "" && (global || unknown || e.SpawnedBy != in.SpawnedBy),
			label != "" && e.Label != label,
			text != "" && !row.holds(text),
			in.ActiveMinutes > 0 && e.UpdatedAt.Before(since):
			continue
		}
		out = append(out, row)
	}
	return out
}

// ofAgent reports whether a key names the agent.
func ofAgent(r Ref, agentID string) bool {
	p, ok := ParseKey(r.Key)
	return ok && config.AgentID(p.AgentID) == agentID
}

// holds searches a text in lower case.
func (r *Row) holds(text string) bool {
	e := &r.Entry
	for _, f := range []string{r.name, e.Label, e.Subject, e.SessionID, r.Ref.Key} {
		if strings.Contains(strings.ToLower(f), text) {
			return true
		}
	}
	return false
}

func channelOf(key string, e *Entry) string {
	if e.Channel != "" {
		return e.Channel
	}
	channel, _ := groupOf(key)
	return channel
}

// displayName is what to show for a session, "" when nothing is known (sessions-chat.md §3).
func displayName(key string, e *Entry) string {
	channel, id := groupOf(key)
	switch channel = cmp.Or(e.Channel, channel); {
	case e.DisplayName != "":
		return e.DisplayName
	case channel != "":
		return groupName(channel, id, key, e)
	case e.Label != "":
		return e.Label
	case e.Origin != nil:
		return e.Origin.Label
	}
	return ""
}

// groupName is <channel>:<token>, the token made of the room, the subject or the id.
func groupName(channel, id, key string, e *Entry) string {
	provider := strings.ToLower(cmp.Or(strings.TrimSpace(channel), "group"))
	room, space, subject := strings.TrimSpace(e.GroupChannel), strings.TrimSpace(e.Space), strings.TrimSpace(e.Subject)
	detail := cmp.Or(room, subject, space)
	if room != "" && space != "" {
		detail = space + "#" + strings.TrimPrefix(room, "#")
	}
	label := cmp.Or(detail, strings.TrimSpace(id), key)
	token := slug(label)
	if token == "" && len(label) > 14 {
		token = slug(label[:6] + "..." + label[len(label)-4:])
	}
	if e.GroupChannel == "" {
		token = strings.TrimLeft(token, "#")
	}
	if token != "" && token[0] != '@' && token[0] != '#' && !strings.HasPrefix(token, "g-") && !strings.Contains(token, "#") {
		token = "g-" + token
	}
	if token == "" {
		return provider
	}
	return provider + ":" + token
}

var (
	notSlug = regexp.MustCompile(`[^a-z0-9#@._+-]+`)
	blanks  = regexp.MustCompile(`\s+`)
	dashes  = regexp.MustCompile(`-{2,}`)
)

// slug makes a short name of a text: lower case, with dashes between words.
func slug(s string) string {
	s = blanks.ReplaceAllString(strings.ToLower(strings.TrimSpace(s)), "-")
	s = dashes.ReplaceAllString(notSlug.ReplaceAllString(s, "-"), "-")
	return strings.TrimRight(strings.TrimLeft(s, "-."), "-.")
}

// deliveryOf is where answers to a session go: the last route, filled up from its delivery context.
func deliveryOf(e *Entry) *Delivery {
	d := Delivery{
		Channel: strings.ToLower(strings.TrimSpace(cmp.Or(e.LastChannel, e.Channel))), To: strings.TrimSpace(e.LastTo),
		AccountID: strings.TrimSpace(e.LastAccountID), ThreadID: e.LastThreadID,
	}
	if own := e.DeliveryContext; own != nil {
		d.Channel = cmp.Or(d.Channel, strings.ToLower(strings.TrimSpace(own.Channel)))
		d.To = cmp.Or(d.To, strings.TrimSpace(own.To))
		d.AccountID = cmp.Or(d.AccountID, strings.TrimSpace(own.AccountID))
		if d.ThreadID == nil {
			d.ThreadID = own.ThreadID
		}
	}
	if d.Channel == "" && d.To == "" && d.AccountID == "" && d.ThreadID == nil {
		return nil
	}
	return &d
}
