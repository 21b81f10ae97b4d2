package chat

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/sessions"
)

type table map[string]sessions.Entry

func (t table) Lookup(key string) (sessions.Ref, sessions.Entry, bool) {
	r := sessions.Canonical(&config.Config{}, key)
	e, ok := t[r.Key]
	return r, e, ok
}

func newChat(policy config.SendPolicy, t table) *Service {
	c := &config.Config{}
	c.Session.SendPolicy = policy
	return New(t, func() *config.Config { return c })
}

// Messages are refused for what is wrong with them first, and never taken.
func TestSend(t *testing.T) {
	s := newChat(config.SendPolicy{}, table{"agent:main:mute": {SendPolicy: "deny"}})
	img := base64.StdEncoding.EncodeToString([]byte("png"))
	for name, tc := range map[string]struct {
		in   SendIn
		want error
		stop bool
		what string
	}{
		"null":              {SendIn{Message: "a\x00b", SessionKey: "mute"}, ErrNull, false, ""},
		"nothing":           {SendIn{Message: " \x01\n"}, ErrEmpty, false, ""},
		"empty attachment":  {SendIn{Attachments: []Attachment{{FileName: "a"}}}, ErrEmpty, false, ""},
		"bad attachment":    {SendIn{Attachments: []Attachment{{}, {Content: "x!"}}, SessionKey: "mute"}, ErrAttachment, false, "attachment attachment-1: invalid base64 content"},
		"large attachment":  {SendIn{Message: "x", Attachments: []Attachment{{Type: "image", Content: strings.Repeat("AAAA", 2_000_000)}}}, ErrAttachment, false, "attachment image: exceeds size limit (6000000 > 5000000 bytes)"},
		"blocked":           {SendIn{Message: "stop", SessionKey: "mute"}, ErrBlocked, false, ""},
		"stop":              {SendIn{Message: "  Please STOP!! ", SessionKey: "main"}, nil, true, ""},
		"stop, in Japanese": {SendIn{Message: "やめて。"}, nil, true, ""},
		"don’t":             {SendIn{Message: "Stop don’t  do anything."}, nil, true, ""},
		"no stop":           {SendIn{Message: "stop the car"}, ErrNoAgents, false, ""},
		"a message":         {SendIn{Message: "hi", Key: "k"}, ErrNoAgents, false, ""},
		"only an image":     {SendIn{Attachments: []Attachment{{Content: "data:image/png;base64," + img}}}, ErrNoAgents, false, ""},
	} {
		out, err := s.Send(t.Context(), identity.Caller{}, tc.in)
		if !errors.Is(err, tc.want) || out.Stop != tc.stop || len(out.Runs) > 0 {
			t.Errorf("%s: %+v %v", name, out, err)
		}
		if tc.what != "" && !strings.Contains(fieldOf(err), tc.what) {
			t.Errorf("%s: %q", name, fieldOf(err))
		}
	}
	if out, err := s.Abort(t.Context(), identity.Caller{}, AbortIn{SessionKey: "main", RunID: "x"}); err != nil || len(out.Runs) != 0 {
		t.Errorf("%+v %v", out, err)
	}
}

func fieldOf(err error) string {
	var e interface{ Field(string) string }
	if errors.As(err, &e) {
		return e.Field("what")
	}
	return ""
}

func TestRun(t *testing.T) {
	s := newChat(config.SendPolicy{}, table{"agent:main:mute": {SendPolicy: "deny"}, "agent:main:tg": {LastChannel: "telegram"}})
	for name, tc := range map[string]struct {
		in   RunIn
		want error
	}{
		"attachment":   {RunIn{Attachments: []Attachment{{Content: "?"}}, Channels: []string{"nope"}}, ErrAttachment},
		"channel":      {RunIn{Channels: []string{"last", " Nope "}, AgentID: "missing"}, ErrChannel},
		"agent":        {RunIn{Channels: []string{"webchat"}, AgentID: "missing", SessionKey: "agent:"}, ErrAgent},
		"key":          {RunIn{AgentID: "main", SessionKey: "agent:"}, ErrKey},
		"other":        {RunIn{AgentID: "main", SessionKey: "agent:other:main"}, ErrOther},
		"blocked":      {RunIn{SessionKey: "mute", Deliver: true}, ErrBlocked},
		"delivery":     {RunIn{SessionKey: "main", Deliver: true}, ErrDelivery},
		"no delivery":  {RunIn{SessionKey: "main"}, ErrNoAgents},
		"a last route": {RunIn{SessionKey: "tg", Deliver: true}, ErrNoAgents},
		"no session":   {RunIn{Message: "x"}, ErrNoAgents},
	} {
		if out, err := s.Run(t.Context(), identity.Caller{}, tc.in); !errors.Is(err, tc.want) || out.RunID != "" {
			t.Errorf("%s: %+v %v", name, out, err)
		}
	}
}

func TestSendPolicy(t *testing.T) {
	deny := func(r config.SendRule) config.SendPolicy {
		r.Action = "deny"
		return config.SendPolicy{Rules: []config.SendRule{{Action: "allow"}, r}}
	}
	for name, tc := range map[string]struct {
		p    config.SendPolicy
		key  string
		e    sessions.Entry
		want bool
	}{
		"nothing":            {config.SendPolicy{}, "agent:main:main", sessions.Entry{}, true},
		"default":            {config.SendPolicy{Default: "deny"}, "agent:main:main", sessions.Entry{}, false},
		"own":                {config.SendPolicy{Default: "deny"}, "agent:main:main", sessions.Entry{SendPolicy: "allow"}, true},
		"an allow":           {config.SendPolicy{Default: "deny", Rules: []config.SendRule{{Action: "allow", KeyPrefix: "ma"}}}, "agent:main:main", sessions.Entry{}, true},
		"an allow elsewhere": {config.SendPolicy{Default: "deny", Rules: []config.SendRule{{Action: "allow", RawKeyPrefix: "ma"}}}, "agent:main:main", sessions.Entry{}, false},
		"deny wins":          {deny(config.SendRule{}), "agent:main:main", sessions.Entry{}, false},
		"channel":            {deny(config.SendRule{Channel: "Telegram"}), "agent:main:x", sessions.Entry{LastChannel: "telegram"}, false},
		"channel of key":     {deny(config.SendRule{Channel: "telegram", ChatType: "group"}), "agent:main:telegram:group:1", sessions.Entry{}, false},
		"dm":                 {deny(config.SendRule{ChatType: "dm"}), "agent:main:x", sessions.Entry{ChatType: "direct"}, false},
		"another":            {deny(config.SendRule{ChatType: "channel"}), "agent:main:x", sessions.Entry{ChatType: "direct"}, true},
	} {
		if got := allowed(tc.p, tc.key, tc.e); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newChat(config.SendPolicy{}, nil)
		short, none := 200*time.Millisecond, -time.Second
		for want, in := range map[time.Duration]WaitIn{defaultWait: {RunID: "r"}, short: {RunID: "r", Timeout: &short}, 0: {RunID: "r", Timeout: &none}} {
			began := time.Now()
			if out, err := s.Wait(t.Context(), identity.Caller{}, in); err != nil || out != (WaitOut{"r", "timeout"}) || time.Since(began) != want {
				t.Errorf("%+v %v after %v, want %v", out, err, time.Since(began), want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Wait(ctx, identity.Caller{}, WaitIn{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func FuzzAttachments(f *testing.F) {
	for _, s := range []string{"", "=", "====", "AA==", "A===", "data:image/png;base64,AA==", "data:;base64,x"} {
		f.Add(s, "name")
	}
	f.Fuzz(func(t *testing.T, content, name string) {
		err := checkAttachments([]Attachment{{FileName: name, Content: content}})
		data := strings.TrimSpace(content)
		if _, e := base64.StdEncoding.DecodeString(data); e == nil && data != "" && !slices.Contains([]byte(data), '\n') && !slices.Contains([]byte(data), '\r') && err != nil && len(data) < maxAttachment {
			t.Errorf("%q: %v", content, err)
		}
	})
}
