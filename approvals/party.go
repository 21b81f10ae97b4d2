package approvals

import (
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/identity"
)

// sharedSecret names all who come with the shared secret alone: the daemon cannot tell them apart, and
// a connection of theirs is nobody in particular.
const sharedSecret = "shared-secret"

// Party is a person or a device as far as the daemon has verified it. Names that a client shows
// decide nothing.
type Party struct {
	DeviceID string
	// Principal is whom the system, a proxy or an identity service vouches for, or sharedSecret.
	Principal string
	// Paired says that the device is paired: what it did ends to count with the pairing.
	Paired bool
}

func partyOf(c identity.Caller) Party { return party(c.DeviceID, c.Principal, c.Paired) }

func party(device, principal string, paired bool) Party {
	p := Party{DeviceID: device, Paired: paired}
	switch {
	case strings.HasPrefix(principal, "device:"):
	case principal != "" && !strings.HasPrefix(principal, "conn:"):
		p.Principal = principal
	case device == "" || !paired:
		// A device that nobody paired is no more than the secret that it came with.
		p.Principal = sharedSecret
	}
	return p
}

func (r Requester) party() Party { return party(r.DeviceID, r.Principal, r.Paired) }

// same reports whether two parties are one, over whatever connection or token: the same device, or the
// same person on two of them.
func (p Party) same(o Party) bool {
	return p.DeviceID != "" && p.DeviceID == o.DeviceID || p.Principal != "" && p.Principal == o.Principal
}

// subject is the one name that a grant is bound to.
func (p Party) subject() string {
	if p.DeviceID != "" {
		return "device:" + p.DeviceID
	}
	return p.Principal
}

// in reports whether a list of subjects names the party.
func (p Party) in(subjects []string) bool {
	return p.DeviceID != "" && slices.Contains(subjects, "device:"+p.DeviceID) ||
		p.Principal != "" && slices.Contains(subjects, p.Principal)
}
