package client

import (
	"context"
	"fmt"
	"strings"

	"github.com/hanzoai/hanzod/errs"
	devicesv1 "github.com/hanzoai/hanzod/gen/hanzo/devices/v1"
)

// ResolveDevice finds the paired device that a person means, by its id or 6 or more of the first
// characters of it. Names do not count: a device gives itself its name.
func (c *Client) ResolveDevice(ctx context.Context, query string) (*devicesv1.Device, error) {
	out, err := c.Devices.ListDevices(ctx, &devicesv1.ListDevicesRequest{})
	if err != nil {
		return nil, err
	}
	return match(out.GetDevices(), query, "device", CodeDeviceUnknown, func(d *devicesv1.Device) []string { return []string{d.GetDeviceId()} })
}

// ResolvePairing finds the open request that a person means, by its id, that of its device, or 6 or
// more of the first characters of either.
func (c *Client) ResolvePairing(ctx context.Context, query string) (*devicesv1.PairingRequest, error) {
	out, err := c.Devices.ListDevices(ctx, &devicesv1.ListDevicesRequest{})
	if err != nil {
		return nil, err
	}
	return match(out.GetPending(), query, "request", CodePairingUnknown, func(p *devicesv1.PairingRequest) []string {
		return []string{p.GetRequestId(), p.GetDeviceId()}
	})
}

func match[T any](all []T, query, what, unknown string, ids func(T) []string) (T, error) {
	var none T
	query = strings.ToLower(strings.TrimSpace(query))
	if len(query) < minPrefix {
		return none, &Error{Code: unknown, Class: errs.Invalid, Message: fmt.Sprintf("name the %s by its id, or by 6 or more of the first characters of it", what)}
	}
	var found []T
	for _, x := range all {
		for _, id := range ids(x) {
			if id == query {
				return x, nil
			}
			if strings.HasPrefix(id, query) {
				found = append(found, x)
				break
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return none, &Error{Code: unknown, Class: errs.NotFound, Message: fmt.Sprintf("no such %s: %s", what, query)}
	}
	return none, &Error{Code: unknown, Class: errs.Invalid, Message: fmt.Sprintf("%d have an id that begins with %s: give more of it", len(found), query)}
}
