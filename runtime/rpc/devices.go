package rpc

import (
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
)

type devicesServer struct {
	devicesv1.UnimplementedDeviceServiceServer
	s *Server
}
