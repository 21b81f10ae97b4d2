package channels

import (
	"errors"
	"testing"
	"time"

	"github.com/hanzoai/hanzod/identity"
)

// What is wrong is said in the order of the original, and nothing is ever said to be sent.
func TestSend(t *testing.T) {
	s := New(time.Now)
	var c identity.Caller
	for name, tc := range map[string]struct {
		in   SendIn
		want error
	}{
		"nobody":           {SendIn{Message: "hi", Key: "k"}, ErrTo},
		"no key":           {SendIn{Message: "hi", To: "x"}, ErrTo},
		"nothing":          {SendIn{To: "x", Channel: "nochannel", Message: " \n", Media: []string{" "}, Key: "k"}, ErrEmpty},
		"no channel":       {SendIn{To: "x", Message: "hi", Key: "k"}, ErrNone},
		"blank channel":    {SendIn{To: "x", Message: "hi", Channel: "  ", Key: "k"}, ErrUnknown},
		"unknown":          {SendIn{To: "x", Media: []string{"file:///a"}, Channel: "telegram", Key: "k"}, ErrUnknown},
		"the daemon's own": {SendIn{To: "x", Message: "hi", Channel: "WebChat", Key: "k"}, ErrInternal},
	} {
		if out, err := s.Send(t.Context(), c, tc.in); !errors.Is(err, tc.want) || out != (SendOut{}) {
			t.Errorf("%s: %+v %v", name, out, err)
		}
	}
	one, many := 1, 13
	for name, tc := range map[string]struct {
		in   PollIn
		want error
	}{
		"nobody":       {PollIn{Question: "?", Options: []string{"a", "b"}, Key: "k"}, ErrTo},
		"one option":   {PollIn{To: "x", Question: "?", Options: []string{"a"}, Key: "k"}, ErrQuestion},
		"empty option": {PollIn{To: "x", Question: "?", Options: []string{"a", ""}, Key: "k"}, ErrQuestion},
		"too many":     {PollIn{To: "x", Question: "?", Options: []string{"a", "b"}, MaxSelections: &many, Key: "k"}, ErrQuestion},
		"no channel":   {PollIn{To: "x", Question: "?", Options: []string{"a", "b"}, MaxSelections: &one, Key: "k"}, ErrNone},
		"unknown":      {PollIn{To: "x", Question: "?", Options: []string{"a", "b"}, Channel: "discord", Key: "k"}, ErrPoll},
	} {
		if out, err := s.Poll(t.Context(), c, tc.in); !errors.Is(err, tc.want) || out != (PollOut{}) {
			t.Errorf("%s: %+v %v", name, out, err)
		}
	}
}

func TestNoChannels(t *testing.T) {
	s := New(func() time.Time { return time.UnixMilli(7) })
	var c identity.Caller
	if out, err := s.Status(t.Context(), c, StatusIn{Probe: true}); err != nil || len(out.Channels) != 0 || out.At.UnixMilli() != 7 {
		t.Errorf("%+v %v", out, err)
	}
	if _, err := s.Logout(t.Context(), c, LogoutIn{Channel: "telegram"}); !errors.Is(err, ErrLogout) {
		t.Error(err)
	}
	if _, err := s.StartLogin(t.Context(), c, StartLoginIn{}); !errors.Is(err, ErrLogin) {
		t.Error(err)
	}
	if _, err := s.WaitLogin(t.Context(), c, WaitLoginIn{}); !errors.Is(err, ErrLogin) {
		t.Error(err)
	}
}
