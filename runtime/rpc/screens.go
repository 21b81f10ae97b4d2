package rpc

import (
	"context"
	"errors"
	"io"

	"github.com/hanzoai/hanzod/errs"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/tunnel/screens"
)

// screenPiece is how many bytes of a screen travel in one message to the viewer.
const screenPiece = 64 << 10

var (
	errConnect    = errs.Define(errs.Invalid, "rpc.screen_connect", "the first message names the screen, and only the first")
	errScreenData = errs.Define(errs.Invalid, "rpc.screen_data", "more than 256 KiB came at once; send it in pieces")
)

// CodeStopping is the code of what ends because the daemon does.
var CodeStopping = errStopping.Code

// Screens is what the door needs of screens.Service.
type Screens interface {
	Get(context.Context, identity.Caller, screens.GetIn) (screens.GetOut, error)
	CreateToken(context.Context, identity.Caller, screens.CreateTokenIn) (screens.CreateTokenOut, error)
	Connect(context.Context, identity.Caller, screens.ConnectIn) (*screens.Screen, error)
}

type screensServer struct {
	tunnelv1.UnimplementedScreenServiceServer
	s *Server
}

func (x *screensServer) Get(ctx context.Context, req *tunnelv1.ScreenServiceGetRequest) (*tunnelv1.ScreenServiceGetResponse, error) {
	return call(ctx, req, getScreenFromProto, x.s.d.Screens.Get, getScreenToProto)
}

func (x *screensServer) CreateToken(ctx context.Context, req *tunnelv1.ScreenServiceCreateTokenRequest) (*tunnelv1.ScreenServiceCreateTokenResponse, error) {
	return call(ctx, req, screenTokenFromProto, lasting(x.s, x.s.d.Screens.CreateToken), screenTokenToProto)
}

// Connect carries the bytes of one viewer. One goroutine hands on what the viewer sends, and one sends what the VNC
// server says; HTTP/2 stops it when the viewer does not read.
func (x *screensServer) Connect(stream tunnelv1.ScreenService_ConnectServer) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	c, ok := callerFrom(ctx)
	if !ok {
		return errNoCaller
	}
	first, err := stream.Recv()
	if err != nil {
		return recvEnd(err)
	}
	in := first.GetConnect()
	if in == nil {
		return errConnect
	}
	if err := open(stream); err != nil { // a viewer of the older kind is let in before its screen is reached
		return err
	}
	v, err := x.s.d.Screens.Connect(ctx, c, screens.ConnectIn{NodeID: in.GetNodeId()})
	if err != nil {
		return err
	}
	defer v.Close(nil)
	if err := stream.Send(&tunnelv1.ScreenServiceConnectResponse{Message: &tunnelv1.ScreenServiceConnectResponse_Connected{
		Connected: &tunnelv1.ScreenConnected{NodeId: cleanText(v.NodeID())},
	}}); err != nil {
		return err
	}
	// Both end with the stream, which ends with this function: a viewer that takes nothing holds up neither it nor the
	// end of the screen.
	x.s.links.wg.Go(func() { cancel(pointed(stream, v)) })
	x.s.links.wg.Go(func() { cancel(shown(stream, v)) })
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-v.Done():
		err = v.Why()
	}
	if errors.Is(err, errGoodbye) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// shown sends what the VNC server says, in order, until it has ended.
func shown(stream tunnelv1.ScreenService_ConnectServer, v *screens.Screen) error {
	buf := make([]byte, screenPiece)
	for {
		n, err := v.Read(buf)
		if n > 0 {
			if err := stream.Send(&tunnelv1.ScreenServiceConnectResponse{Message: &tunnelv1.ScreenServiceConnectResponse_Data{Data: buf[:n]}}); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// pointed takes what a viewer sends, in order, until it leaves.
func pointed(stream tunnelv1.ScreenService_ConnectServer, v *screens.Screen) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return recvEnd(err)
		}
		data, ok := m.GetMessage().(*tunnelv1.ScreenServiceConnectRequest_Data)
		switch {
		case !ok:
			return errConnect
		case len(data.Data) > screens.MaxMessage:
			return errScreenData
		}
		if _, err := v.Write(data.Data); err != nil {
			return err
		}
	}
}

func getScreenFromProto(r *tunnelv1.ScreenServiceGetRequest) (screens.GetIn, error) {
	return screens.GetIn{NodeID: r.GetNodeId()}, nil
}

func getScreenToProto(out screens.GetOut) (*tunnelv1.ScreenServiceGetResponse, error) {
	return &tunnelv1.ScreenServiceGetResponse{Screen: &tunnelv1.Screen{
		NodeId: cleanText(out.NodeID), Available: out.Available, ViewerPath: screens.ViewerPath, SocketPath: screens.SocketPath,
		Port: uint32(max(out.Port, 0)), Viewers: uint32(max(out.Viewers, 0)), Instructions: cleanTexts(out.Instructions),
	}}, nil
}

func screenTokenFromProto(r *tunnelv1.ScreenServiceCreateTokenRequest) (screens.CreateTokenIn, error) {
	return screens.CreateTokenIn{NodeID: r.GetNodeId()}, nil
}

func screenTokenToProto(out screens.CreateTokenOut) (*tunnelv1.ScreenServiceCreateTokenResponse, error) {
	return &tunnelv1.ScreenServiceCreateTokenResponse{Token: out.Token, ExpiresAt: timeToProto(out.Expires), ViewerPath: out.ViewerPath, ViewerUrl: out.ViewerURL}, nil
}
