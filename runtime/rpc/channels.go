package rpc

import (
	"context"

	"github.com/hanzoai/hanzod/channels"
	channelsv1 "github.com/hanzoai/hanzod/gen/hanzo/channels/v1"
	"github.com/hanzoai/hanzod/identity"
)

// Channels is what the door needs of channels.Service.
type Channels interface {
	Status(context.Context, identity.Caller, channels.StatusIn) (channels.StatusOut, error)
	Logout(context.Context, identity.Caller, channels.LogoutIn) (channels.LogoutOut, error)
	StartLogin(context.Context, identity.Caller, channels.StartLoginIn) (channels.StartLoginOut, error)
	WaitLogin(context.Context, identity.Caller, channels.WaitLoginIn) (channels.WaitLoginOut, error)
	Send(context.Context, identity.Caller, channels.SendIn) (channels.SendOut, error)
	Poll(context.Context, identity.Caller, channels.PollIn) (channels.PollOut, error)
}

type channelsServer struct {
	channelsv1.UnimplementedChannelServiceServer
	s *Server
}

func (x *channelsServer) GetChannels(ctx context.Context, req *channelsv1.GetChannelsRequest) (*channelsv1.GetChannelsResponse, error) {
	return call(ctx, req, channelsFromProto, x.s.d.Channels.Status, channelsToProto)
}

func (x *channelsServer) LogoutChannel(ctx context.Context, req *channelsv1.LogoutChannelRequest) (*channelsv1.LogoutChannelResponse, error) {
	return call(ctx, req, logoutFromProto, x.s.d.Channels.Logout, logoutToProto)
}

func (x *channelsServer) StartWebLogin(ctx context.Context, req *channelsv1.StartWebLoginRequest) (*channelsv1.StartWebLoginResponse, error) {
	return call(ctx, req, startLoginFromProto, x.s.d.Channels.StartLogin, startLoginToProto)
}

func (x *channelsServer) WaitWebLogin(ctx context.Context, req *channelsv1.WaitWebLoginRequest) (*channelsv1.WaitWebLoginResponse, error) {
	return call(ctx, req, waitLoginFromProto, x.s.d.Channels.WaitLogin, waitLoginToProto)
}

func (x *channelsServer) SendMessage(ctx context.Context, req *channelsv1.SendMessageRequest) (*channelsv1.SendMessageResponse, error) {
	return call(ctx, req, sendFromProto, x.s.d.Channels.Send, sendToProto)
}

func (x *channelsServer) SendPoll(ctx context.Context, req *channelsv1.SendPollRequest) (*channelsv1.SendPollResponse, error) {
	return call(ctx, req, pollFromProto, x.s.d.Channels.Poll, pollToProto)
}

func channelsFromProto(r *channelsv1.GetChannelsRequest) (channels.StatusIn, error) {
	timeout, err := durationFromProto(r.GetTimeout())
	return channels.StatusIn{Probe: r.GetProbe(), Timeout: timeout}, err
}

func channelsToProto(out channels.StatusOut) (*channelsv1.GetChannelsResponse, error) {
	r := &channelsv1.GetChannelsResponse{At: timeToProto(out.At)}
	for _, c := range out.Channels {
		r.Channels = append(r.Channels, &channelsv1.Channel{
			Id: c.ID, Label: c.Label, DetailLabel: c.DetailLabel, SystemImage: c.SystemImage, DefaultAccountId: cleanText(c.DefaultAccountID),
		})
	}
	return r, nil
}

func logoutFromProto(r *channelsv1.LogoutChannelRequest) (channels.LogoutIn, error) {
	return channels.LogoutIn{Channel: r.GetChannel(), AccountID: r.GetAccountId()}, nil
}

func logoutToProto(out channels.LogoutOut) (*channelsv1.LogoutChannelResponse, error) {
	return &channelsv1.LogoutChannelResponse{Channel: out.Channel, AccountId: cleanText(out.AccountID), Cleared: out.Cleared}, nil
}

func startLoginFromProto(r *channelsv1.StartWebLoginRequest) (channels.StartLoginIn, error) {
	timeout, err := durationFromProto(r.GetTimeout())
	return channels.StartLoginIn{Force: r.GetForce(), Verbose: r.GetVerbose(), Timeout: timeout, AccountID: r.GetAccountId()}, err
}

func startLoginToProto(out channels.StartLoginOut) (*channelsv1.StartWebLoginResponse, error) {
	return &channelsv1.StartWebLoginResponse{Message: cleanText(out.Message), QrDataUrl: out.QRDataURL}, nil
}

func waitLoginFromProto(r *channelsv1.WaitWebLoginRequest) (channels.WaitLoginIn, error) {
	timeout, err := durationFromProto(r.GetTimeout())
	return channels.WaitLoginIn{Timeout: timeout, AccountID: r.GetAccountId()}, err
}

func waitLoginToProto(out channels.WaitLoginOut) (*channelsv1.WaitWebLoginResponse, error) {
	return &channelsv1.WaitWebLoginResponse{Connected: out.Connected, Message: cleanText(out.Message)}, nil
}

func sendFromProto(r *channelsv1.SendMessageRequest) (channels.SendIn, error) {
	return channels.SendIn{
		To: r.GetTo(), Message: r.GetMessage(), Media: r.GetMediaUrls(), Channel: r.GetChannel(), AccountID: r.GetAccountId(),
		AgentID: r.GetAgentId(), ThreadID: r.GetThreadId(), SessionKey: r.GetSessionKey(), GIF: r.GetGifPlayback(), Key: r.GetIdempotencyKey(),
	}, nil
}

func sendToProto(out channels.SendOut) (*channelsv1.SendMessageResponse, error) {
	return &channelsv1.SendMessageResponse{RunId: out.RunID, MessageId: cleanText(out.MessageID), Channel: out.Channel}, nil
}

func pollFromProto(r *channelsv1.SendPollRequest) (channels.PollIn, error) {
	duration, err := durationFromProto(r.GetDuration())
	in := channels.PollIn{
		To: r.GetTo(), Question: r.GetQuestion(), Options: r.GetOptions(), Duration: duration, Silent: r.GetSilent(),
		ThreadID: r.GetThreadId(), Channel: r.GetChannel(), AccountID: r.GetAccountId(), Key: r.GetIdempotencyKey(),
	}
	if n := int(r.GetMaxSelections()); n != 0 {
		in.MaxSelections = &n
	}
	if v := r.GetAnonymous(); v {
		in.Anonymous = &v
	}
	return in, err
}

func pollToProto(out channels.PollOut) (*channelsv1.SendPollResponse, error) {
	return &channelsv1.SendPollResponse{RunId: out.RunID, MessageId: cleanText(out.MessageID), Channel: out.Channel, PollId: cleanText(out.PollID)}, nil
}
