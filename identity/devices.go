package identity

import (
	"cmp"
	"context"
	"slices"
)

// change runs what a caller changes, unless its own device was removed or revoked in the meantime.
func (s *Service) change(ctx context.Context, c Caller, f func(Tx) error) error {
	return s.store.ChangeDevices(ctx, func(tx Tx) error {
		if err := check(tx, c); err != nil {
			return err
		}
		return f(tx)
	})
}

// ListOut is the result of List.
type ListOut struct {
	// Pending are the open requests, newest first.
	Pending []Pairing
	// Devices are the paired devices, the last approved first, without the secrets of their tokens.
	Devices []Device
}

// List returns the open requests and the paired devices: those of its tenant for a caller with one.
func (s *Service) List(_ context.Context, c Caller) (ListOut, error) {
	devices, err := s.store.Devices()
	if err != nil {
		return ListOut{}, err
	}
	out := ListOut{Devices: slices.DeleteFunc(devices, func(d Device) bool { return !c.Decides(d.Tenant) })}
	for i, d := range out.Devices {
		out.Devices[i] = d.shown()
	}
	s.mu.Lock()
	s.expire(s.now())
	for _, q := range s.pending {
		if c.Decides(q.Tenant) {
			out.Pending = append(out.Pending, q.Pairing)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out.Pending, func(a, b Pairing) int {
		return cmp.Or(b.At.Compare(a.At), cmp.Compare(a.RequestID, b.RequestID))
	})
	slices.SortStableFunc(out.Devices, func(a, b Device) int { return b.ApprovedAt.Compare(a.ApprovedAt) })
	return out, nil
}

// shown is the device without its secrets.
func (d Device) shown() Device {
	tokens := make(map[Role]DeviceToken, len(d.Tokens))
	for r, t := range d.Tokens {
		t.Token = ""
		tokens[r] = t
	}
	d.Tokens = tokens
	return d
}

// ApproveIn and ApproveOut are the arguments and the result of Approve.
type (
	ApproveIn struct {
		RequestID string
	}
	ApproveOut struct {
		RequestID string
		// Device is without the secrets of its tokens.
		Device Device
	}
)

// Approve lets a device in with what it asked for. The caller must hold all that the device has then, or be
// an admin. Who has a tenant approves what is of that tenant; the device then belongs to it.
func (s *Service) Approve(ctx context.Context, c Caller, in ApproveIn) (ApproveOut, error) {
	p, err := s.open(c, in.RequestID)
	if err != nil {
		return ApproveOut{}, err
	}
	d, err := s.grant(ctx, p, false, func(tx Tx, d Device) (Audit, error) {
		if err := check(tx, c); err != nil {
			return Audit{}, err
		}
		if !tx.HasRequest(p.RequestID) { // decided or replaced in the meantime
			return Audit{}, ErrUnknownRequest
		}
		if !c.Decides(d.Tenant) {
			return Audit{}, ErrUnknownRequest
		}
		for _, r := range p.Roles {
			// What counts is what the device may do then: one that is let in again has what it had.
			if err := beyond(c.lacks(r, Union(d.Scopes, d.Tokens[p.Role].Scopes))); err != nil {
				return Audit{}, err
			}
		}
		row := Audit{Kind: "device.approve", Subject: c.Subject(), RequestID: p.RequestID}
		return row, tx.DeleteRequest(p.RequestID)
	})
	if err != nil {
		return ApproveOut{}, err
	}
	s.close(p)
	s.resolved(p, "approved")
	return ApproveOut{RequestID: p.RequestID, Device: d.shown()}, nil
}

// RejectIn and RejectOut are the arguments and the result of Reject.
type (
	RejectIn struct {
		RequestID string
	}
	RejectOut struct {
		RequestID string
		DeviceID  string
	}
)

// Reject ends a request. The device may ask again.
func (s *Service) Reject(ctx context.Context, c Caller, in RejectIn) (RejectOut, error) {
	p, err := s.open(c, in.RequestID)
	if err != nil {
		return RejectOut{}, err
	}
	err = s.change(ctx, c, func(tx Tx) error {
		if !tx.HasRequest(p.RequestID) {
			return ErrUnknownRequest
		}
		if err := tx.DeleteRequest(p.RequestID); err != nil {
			return err
		}
		return tx.Audit(Audit{
			At: s.now(), Kind: "device.reject", Subject: c.Subject(), DeviceID: p.DeviceID, Role: p.Role, Scopes: p.Scopes,
			RequestID: p.RequestID,
		})
	})
	if err != nil {
		return RejectOut{}, err
	}
	s.close(p)
	s.resolved(p, "rejected")
	return RejectOut{RequestID: p.RequestID, DeviceID: p.DeviceID}, nil
}

// RemoveIn and RemoveOut are the arguments and the result of Remove.
type (
	RemoveIn struct {
		DeviceID string
	}
	RemoveOut struct {
		DeviceID string
	}
)

// Remove forgets a device: its tokens, its connections and its invites end. It may ask to be paired
// like any other; to keep it out, revoke its tokens.
func (s *Service) Remove(ctx context.Context, c Caller, in RemoveIn) (RemoveOut, error) {
	invites := s.invitesBy("device:" + in.DeviceID)
	var old Device
	err := s.change(ctx, c, func(tx Tx) error {
		d, exists, err := tx.Device(in.DeviceID)
		if err != nil {
			return err
		}
		old = d
		if !exists || !c.Decides(d.Tenant) {
			return ErrUnknownDevice
		}
		if err := c.mayEnd(d); err != nil {
			return err
		}
		if err := tx.DeleteDevice(d.ID); err != nil {
			return err
		}
		if err := deleteInvites(tx, invites); err != nil {
			return err
		}
		return tx.Audit(Audit{At: s.now(), Kind: "device.remove", Subject: c.Subject(), DeviceID: d.ID, Role: d.Role, Scopes: d.Scopes})
	})
	if err != nil {
		return RemoveOut{}, err
	}
	s.count.Add(-1)
	s.forgetInvites(invites)
	s.reindex(old.ID, old)
	s.end(Ended{DeviceID: old.ID, By: c.ConnID, Reason: "device removed"})
	return RemoveOut{DeviceID: old.ID}, nil
}
