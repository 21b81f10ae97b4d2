// Package channels is about messengers: which are there, how they are, and what is sent through them
// (control-plane.md §1, channels-plugins.md §2).
//
// No channel is part of this hanzod yet. The rules that need none hold all the same: a channel that is not there
// is refused, in the order of the original, and nothing is said to be sent that was not. The package imports
// leaves only and owns no goroutine. Methods of Service are safe for concurrent use.
package channels

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
)

// webchat is the channel of the daemon's own clients: nothing is sent through it.
const webchat = "webchat"

// Channel is one messenger.
type Channel struct {
	ID, Label, DetailLabel, SystemImage string
	DefaultAccountID                    string
}

// The arguments and results.
type (
	StatusIn struct {
		// Probe asks the services behind the channels, for so long at the most: 10 s when nil, 1 s at least.
		Probe   bool
		Timeout *time.Duration
	}
	StatusOut struct {
		At       time.Time
		Channels []Channel
	}
	LogoutIn  struct{ Channel, AccountID string }
	LogoutOut struct {
		Channel, AccountID string
		Cleared            bool
	}
	StartLoginIn struct {
		Force, Verbose bool
		Timeout        *time.Duration
		AccountID      string
	}
	StartLoginOut struct{ Message, QRDataURL string }
	WaitLoginIn   struct {
		Timeout   *time.Duration
		AccountID string
	}
	WaitLoginOut struct {
		Connected bool
		Message   string
	}
	// SendIn is a message. The same key sends once.
	SendIn struct {
		To, Message                           string
		Media                                 []string
		Channel, AccountID, AgentID, ThreadID string
		SessionKey                            string
		GIF                                   bool
		Key                                   string
	}
	SendOut struct{ RunID, MessageID, Channel string }
	// PollIn is a question with choices. MaxSelections, Duration and Anonymous are nil when nothing was said.
	PollIn struct {
		To, Question                 string
		Options                      []string
		MaxSelections                *int
		Duration                     *time.Duration
		Silent                       bool
		Anonymous                    *bool
		ThreadID, Channel, AccountID string
		Key                          string
	}
	PollOut struct{ RunID, MessageID, Channel, PollID string }
)

// The errors of this package.
var (
	ErrLogout   = errs.Define(errs.Invalid, "channels.logout", "no channel of that name is part of this hanzod")
	ErrLogin    = errs.Define(errs.Invalid, "channels.web_login", "no channel of this hanzod is logged in to by a QR code")
	ErrEmpty    = errs.Define(errs.Invalid, "channels.empty", "text or media is required")
	ErrTo       = errs.Define(errs.Invalid, "channels.to", "say to whom, and give an idempotency key")
	ErrQuestion = errs.Define(errs.Invalid, "channels.question", "a poll has a question, 2 to 12 options that are not empty, and at most 12 selections")
	ErrUnknown  = errs.Define(errs.Invalid, "channels.unknown", "no channel of that name is part of this hanzod; see hanzoctl channels")
	ErrPoll     = errs.Define(errs.Invalid, "channels.unknown_poll", "no channel of that name is part of this hanzod; see hanzoctl channels")
	ErrInternal = errs.Define(errs.Invalid, "channels.internal", "nothing is sent through webchat: its clients are told by chat events")
	ErrNone     = errs.Define(errs.Invalid, "channels.none", "no channel is set up; name one")
)

// Service answers for the channels.
type Service struct{ now func() time.Time }

// New returns the service. now is its clock.
func New(now func() time.Time) *Service { return &Service{now: now} }

// Status lists the channels. There are none yet, whatever is probed.
func (s *Service) Status(context.Context, identity.Caller, StatusIn) (StatusOut, error) {
	return StatusOut{At: s.now()}, nil
}

// Logout forgets the credentials of an account.
func (s *Service) Logout(_ context.Context, _ identity.Caller, in LogoutIn) (LogoutOut, error) {
	return LogoutOut{}, ErrLogout.With("channel", in.Channel)
}

// StartLogin begins a login by a QR code.
func (s *Service) StartLogin(context.Context, identity.Caller, StartLoginIn) (StartLoginOut, error) {
	return StartLoginOut{}, ErrLogin
}

// WaitLogin waits until the QR code was scanned.
func (s *Service) WaitLogin(context.Context, identity.Caller, WaitLoginIn) (WaitLoginOut, error) {
	return WaitLoginOut{}, ErrLogin
}

// Send sends a message. It asks for text or media, for the channel and for the target, in this order. No answer
// is kept for a key yet: only what was sent, and what failed on its way, is remembered.
func (s *Service) Send(_ context.Context, _ identity.Caller, in SendIn) (SendOut, error) {
	if in.To == "" || in.Key == "" {
		return SendOut{}, ErrTo
	}
	if strings.TrimSpace(in.Message) == "" && !anyText(in.Media) {
		return SendOut{}, ErrEmpty
	}
	switch {
	case in.Channel == "":
		return SendOut{}, ErrNone
	case strings.EqualFold(strings.TrimSpace(in.Channel), webchat):
		return SendOut{}, ErrInternal
	}
	return SendOut{}, ErrUnknown.With("channel", in.Channel)
}

// Poll asks a question with choices.
func (s *Service) Poll(_ context.Context, _ identity.Caller, in PollIn) (PollOut, error) {
	if in.To == "" || in.Key == "" {
		return PollOut{}, ErrTo
	}
	if in.Question == "" || len(in.Options) < 2 || len(in.Options) > 12 || (in.MaxSelections != nil && (*in.MaxSelections < 1 || *in.MaxSelections > 12)) {
		return PollOut{}, ErrQuestion
	}
	if slices.Contains(in.Options, "") {
		return PollOut{}, ErrQuestion
	}
	if in.Channel == "" {
		return PollOut{}, ErrNone
	}
	return PollOut{}, ErrPoll.With("channel", in.Channel)
}

func anyText(list []string) bool {
	for _, s := range list {
		if strings.TrimSpace(s) != "" {
			return true
		}
	}
	return false
}
