package client

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"strings"

	"github.com/hanzoai/hanzod/errs"
)

const (
	// inviteVersion is the layout of an invite code.
	inviteVersion = 1
	// maxInviteCode bounds a code that is read, in bytes; they are a few hundred.
	maxInviteCode = 8 << 10
	// maxInviteAddresses bounds the addresses of a daemon in a code.
	maxInviteAddresses = 16
)

// CodeBadInvite is the code of errors about an invite code that cannot be read.
const CodeBadInvite = "client.bad_invite"

// Invite is what an invite code carries to the machine that enrols. It holds a secret: it is never
// logged.
type Invite struct {
	// Addresses are those of the daemon's remote gRPC door as host:port, the most useful first.
	Addresses []string
	// Pin is the SHA-256 of the certificate of that door, in hex; empty where the certificate is one that
	// the system trusts.
	Pin string
	// Secret is the bearer token that enrols one device.
	Secret string
	// Role is what the device becomes: "operator" or "node".
	Role string
	// Name is what the machine of the daemon is called; may be empty.
	Name string
}

type inviteCode struct {
	Version   int      `json:"v"`
	Addresses []string `json:"a,omitempty"`
	Pin       string   `json:"p,omitempty"`
	Secret    string   `json:"s"`
	Role      string   `json:"r"`
	Name      string   `json:"n,omitempty"`
}

// Code returns the invite as one word: base64url of JSON.
func (i Invite) Code() string {
	//nolint:gosec // carrying the secret is what the code is for
	b, err := json.Marshal(inviteCode{inviteVersion, i.Addresses, i.Pin, i.Secret, i.Role, i.Name})
	if err != nil {
		panic(err) // texts only
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// ParseInvite reads an invite code; blanks around it and line breaks in it do not matter. Its errors say
// nothing of what is in the code.
func ParseInvite(code string) (Invite, error) {
	bad := func(why string) (Invite, error) {
		return Invite{}, &Error{Code: CodeBadInvite, Class: errs.Invalid,
			Message: "this is no invite code: " + why + `; copy the whole line that "hanzoctl devices invite" printed`}
	}
	if len(code) > maxInviteCode {
		return bad("it is too long")
	}
	code = strings.TrimRight(strings.Join(strings.Fields(code), ""), "=")
	if code == "" {
		return bad("it is empty")
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(code)
	if err != nil {
		return bad("a character is wrong or missing")
	}
	var in inviteCode
	if err := json.Unmarshal(text, &in); err != nil {
		return bad("a part of it is missing")
	}
	switch {
	case in.Version > inviteVersion:
		return bad("it is of a newer version of hanzod")
	case in.Version != inviteVersion || in.Secret == "" || strings.ContainsFunc(in.Secret, notToken):
		return bad("it has no secret")
	case in.Role != "operator" && in.Role != "node":
		return bad("it names no role")
	case len(in.Addresses) > maxInviteAddresses:
		return bad("it has too many addresses")
	}
	i := Invite{Secret: in.Secret, Role: in.Role}
	if inviteName.MatchString(in.Name) {
		i.Name = in.Name // one that cannot be used is none
	}
	if in.Pin != "" {
		if i.Pin, err = ParseFingerprint(in.Pin); err != nil {
			return bad("its fingerprint is no SHA-256")
		}
	}
	for _, a := range in.Addresses {
		address, err := ParseHost(a)
		if err != nil {
			return bad("an address in it is no host:port")
		}
		i.Addresses = append(i.Addresses, address)
	}
	return i, nil
}

// inviteName is what the name of a machine may look like in an invite.
var inviteName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// notToken tells the characters that a bearer token does not have.
func notToken(r rune) bool { return r <= ' ' || r > '~' }
