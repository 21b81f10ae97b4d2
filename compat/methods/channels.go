package methods

import (
	"time"

	"github.com/hanzoai/hanzod/channels"
	"github.com/hanzoai/hanzod/compat/wire"
)

// maybeWait reads a time in milliseconds that may be absent.
func maybeWait(n wire.Opt[wire.Int]) *time.Duration {
	v, ok := n.Get()
	if !ok {
		return nil
	}
	d := time.Duration(min(int64(v), int64(time.Duration(1<<62)/time.Millisecond))) * time.Millisecond
	return &d
}

type channelsStatusParams struct {
	Probe     wire.Opt[bool]     `json:"probe"`
	TimeoutMs wire.Opt[wire.Int] `json:"timeoutMs"`
}

// ChannelsStatusFromLegacy reads channels.status.
func ChannelsStatusFromLegacy(p wire.Value) (channels.StatusIn, error) {
	var in channelsStatusParams
	err := wire.Decode(p, &in)
	return channels.StatusIn{Probe: in.Probe.Or(false), Timeout: maybeWait(in.TimeoutMs)}, err
}

type channelMeta struct {
	ID          string           `json:"id"`
	Label       string           `json:"label"`
	DetailLabel string           `json:"detailLabel"`
	SystemImage wire.Opt[string] `json:"systemImage,omitzero"`
}

type channelsStatus struct {
	TS                      int64                  `json:"ts"`
	ChannelOrder            wire.List[string]      `json:"channelOrder"`
	ChannelLabels           map[string]string      `json:"channelLabels"`
	ChannelDetailLabels     map[string]string      `json:"channelDetailLabels"`
	ChannelSystemImages     map[string]string      `json:"channelSystemImages"`
	ChannelMeta             wire.List[channelMeta] `json:"channelMeta"`
	Channels                map[string]any         `json:"channels"`
	ChannelAccounts         map[string]any         `json:"channelAccounts"`
	ChannelDefaultAccountID map[string]string      `json:"channelDefaultAccountId"`
}

// ChannelsStatusToLegacy writes the result of channels.status (channels-plugins.md §1.5).
func ChannelsStatusToLegacy(s channels.StatusOut) any {
	out := channelsStatus{
		TS: ms(s.At), ChannelLabels: map[string]string{}, ChannelDetailLabels: map[string]string{}, ChannelSystemImages: map[string]string{},
		Channels: map[string]any{}, ChannelAccounts: map[string]any{}, ChannelDefaultAccountID: map[string]string{},
	}
	for _, c := range s.Channels {
		out.ChannelOrder = append(out.ChannelOrder, c.ID)
		out.ChannelLabels[c.ID], out.ChannelDetailLabels[c.ID] = c.Label, c.DetailLabel
		out.ChannelMeta = append(out.ChannelMeta, channelMeta{c.ID, c.Label, c.DetailLabel, wire.NonZero(c.SystemImage)})
		if c.SystemImage != "" {
			out.ChannelSystemImages[c.ID] = c.SystemImage
		}
		out.ChannelDefaultAccountID[c.ID] = c.DefaultAccountID
	}
	return out
}

type channelsLogoutParams struct {
	Channel   string           `json:"channel"`
	AccountID wire.Opt[string] `json:"accountId"`
}

// ChannelsLogoutFromLegacy reads channels.logout.
func ChannelsLogoutFromLegacy(p wire.Value) (channels.LogoutIn, error) {
	var in channelsLogoutParams
	err := wire.Decode(p, &in)
	return channels.LogoutIn{Channel: in.Channel, AccountID: in.AccountID.Or("")}, err
}

type channelsLogout struct {
	Channel   string `json:"channel"`
	AccountID string `json:"accountId"`
	Cleared   bool   `json:"cleared"`
}

// ChannelsLogoutToLegacy writes the result of channels.logout.
func ChannelsLogoutToLegacy(out channels.LogoutOut) any {
	return channelsLogout{out.Channel, out.AccountID, out.Cleared}
}

type webLoginParams struct {
	Force     wire.Opt[bool]     `json:"force"`
	TimeoutMs wire.Opt[wire.Int] `json:"timeoutMs"`
	Verbose   wire.Opt[bool]     `json:"verbose"`
	AccountID wire.Opt[string]   `json:"accountId"`
}

// WebLoginStartFromLegacy reads web.login.start.
func WebLoginStartFromLegacy(p wire.Value) (channels.StartLoginIn, error) {
	var in webLoginParams
	err := wire.Decode(p, &in)
	return channels.StartLoginIn{
		Force: in.Force.Or(false), Timeout: maybeWait(in.TimeoutMs), Verbose: in.Verbose.Or(false), AccountID: in.AccountID.Or(""),
	}, err
}

type webLoginStarted struct {
	QRDataURL wire.Opt[string] `json:"qrDataUrl,omitzero"`
	Message   string           `json:"message"`
}

// WebLoginStartToLegacy writes the result of web.login.start.
func WebLoginStartToLegacy(out channels.StartLoginOut) any {
	return webLoginStarted{wire.NonZero(out.QRDataURL), out.Message}
}

// WebLoginWaitFromLegacy reads web.login.wait.
func WebLoginWaitFromLegacy(p wire.Value) (channels.WaitLoginIn, error) {
	var in webLoginParams
	err := wire.Decode(p, &in)
	return channels.WaitLoginIn{Timeout: maybeWait(in.TimeoutMs), AccountID: in.AccountID.Or("")}, err
}

type webLoginWaited struct {
	Connected bool   `json:"connected"`
	Message   string `json:"message"`
}

// WebLoginWaitToLegacy writes the result of web.login.wait.
func WebLoginWaitToLegacy(out channels.WaitLoginOut) any {
	return webLoginWaited{out.Connected, out.Message}
}

type sendParams struct {
	To             string             `json:"to"`
	Message        wire.Opt[string]   `json:"message"`
	MediaURL       wire.Opt[string]   `json:"mediaUrl"`
	MediaURLs      wire.Opt[[]string] `json:"mediaUrls"`
	GIFPlayback    wire.Opt[bool]     `json:"gifPlayback"`
	Channel        wire.Opt[string]   `json:"channel"`
	AccountID      wire.Opt[string]   `json:"accountId"`
	AgentID        wire.Opt[string]   `json:"agentId"`
	ThreadID       wire.Opt[string]   `json:"threadId"`
	SessionKey     wire.Opt[string]   `json:"sessionKey"`
	IdempotencyKey string             `json:"idempotencyKey"`
}

// SendFromLegacy reads send.
func SendFromLegacy(p wire.Value) (channels.SendIn, error) {
	var in sendParams
	err := wire.Decode(p, &in)
	out := channels.SendIn{
		To: in.To, Message: in.Message.Or(""), Media: in.MediaURLs.Or(nil), GIF: in.GIFPlayback.Or(false), Channel: in.Channel.Or(""),
		AccountID: in.AccountID.Or(""), AgentID: in.AgentID.Or(""), ThreadID: in.ThreadID.Or(""), SessionKey: in.SessionKey.Or(""), Key: in.IdempotencyKey,
	}
	if one, ok := in.MediaURL.Get(); ok {
		out.Media = append([]string{one}, out.Media...)
	}
	return out, err
}

type sent struct {
	RunID     string           `json:"runId"`
	MessageID string           `json:"messageId"`
	Channel   string           `json:"channel"`
	PollID    wire.Opt[string] `json:"pollId,omitzero"`
}

// SendToLegacy writes the result of send.
func SendToLegacy(out channels.SendOut) any {
	return sent{RunID: out.RunID, MessageID: out.MessageID, Channel: out.Channel}
}

type pollParams struct {
	To              string             `json:"to"`
	Question        string             `json:"question"`
	Options         []string           `json:"options"`
	MaxSelections   wire.Opt[wire.Int] `json:"maxSelections"`
	DurationSeconds wire.Opt[wire.Int] `json:"durationSeconds"`
	DurationHours   wire.Opt[wire.Int] `json:"durationHours"`
	Silent          wire.Opt[bool]     `json:"silent"`
	IsAnonymous     wire.Opt[bool]     `json:"isAnonymous"`
	ThreadID        wire.Opt[string]   `json:"threadId"`
	Channel         wire.Opt[string]   `json:"channel"`
	AccountID       wire.Opt[string]   `json:"accountId"`
	IdempotencyKey  string             `json:"idempotencyKey"`
}

// PollFromLegacy reads poll.
func PollFromLegacy(p wire.Value) (channels.PollIn, error) {
	var in pollParams
	err := wire.Decode(p, &in)
	out := channels.PollIn{
		To: in.To, Question: in.Question, Options: in.Options, Silent: in.Silent.Or(false), ThreadID: in.ThreadID.Or(""),
		Channel: in.Channel.Or(""), AccountID: in.AccountID.Or(""), Key: in.IdempotencyKey,
	}
	if n, ok := in.MaxSelections.Get(); ok {
		most := int(n)
		out.MaxSelections = &most
	}
	if v, ok := in.IsAnonymous.Get(); ok {
		out.Anonymous = &v
	}
	if n, ok := in.DurationSeconds.Get(); ok {
		d := time.Duration(n) * time.Second
		out.Duration = &d
	} else if n, ok := in.DurationHours.Get(); ok {
		d := time.Duration(min(int64(n), 24*366)) * time.Hour // no channel has a longer one
		out.Duration = &d
	}
	return out, err
}

// PollToLegacy writes the result of poll.
func PollToLegacy(out channels.PollOut) any {
	return sent{RunID: out.RunID, MessageID: out.MessageID, Channel: out.Channel, PollID: wire.NonZero(out.PollID)}
}
