package dial

import (
	"github.com/hanzoai/hanzod/identity"
)

// connectFrame is the parameters of connect (protocol.md §3.2). The schema is strict: what is empty is left out.
type connectFrame struct {
	MinProtocol int              `json:"minProtocol"`
	MaxProtocol int              `json:"maxProtocol"`
	Client      clientFrame      `json:"client"`
	Role        identity.Role    `json:"role"`
	Scopes      []identity.Scope `json:"scopes"`
	Caps        []string         `json:"caps,omitempty"`
	Commands    []string         `json:"commands,omitempty"`
	Permissions map[string]bool  `json:"permissions,omitempty"`
	PathEnv     string           `json:"pathEnv,omitempty"`
	Device      *deviceFrame     `json:"device,omitempty"`
	Auth        *authFrame       `json:"auth,omitempty"`
}

type clientFrame struct {
	ID              string `json:"id"`
	DisplayName     string `json:"displayName,omitempty"`
	Version         string `json:"version"`
	Platform        string `json:"platform"`
	DeviceFamily    string `json:"deviceFamily,omitempty"`
	ModelIdentifier string `json:"modelIdentifier,omitempty"`
	Mode            string `json:"mode"`
	InstanceID      string `json:"instanceId,omitempty"`
}

type deviceFrame struct {
	ID        string `json:"id"`
	PublicKey string `json:"publicKey"`
	Signature string `json:"signature"`
	SignedAt  int64  `json:"signedAt"`
	Nonce     string `json:"nonce"`
}

type authFrame struct {
	Token       string `json:"token,omitempty"`
	DeviceToken string `json:"deviceToken,omitempty"`
	Password    string `json:"password,omitempty"`
}

func connectParams(o Options, nonce string) connectFrame {
	c := o.Client
	f := connectFrame{
		MinProtocol: Protocol, MaxProtocol: Protocol,
		Client: clientFrame{c.ID, c.DisplayName, c.Version, c.Platform, c.DeviceFamily, c.ModelIdentifier, c.Mode, c.InstanceID},
		Role:   o.Role, Scopes: append([]identity.Scope{}, o.Scopes...),
		Caps: o.Caps, Commands: o.Commands, Permissions: o.Permissions, PathEnv: o.PathEnv,
	}
	if o.Auth != (Auth{}) {
		f.Auth = &authFrame{o.Auth.Token, o.Auth.DeviceToken, o.Auth.Password}
	}
	if o.Device != nil {
		version := o.SignatureVersion
		if version == "" {
			version = "v3"
		}
		// The token that is signed is the first that the gateway looks at (protocol.md §4.5).
		token := o.Auth.Token
		if token == "" {
			token = o.Auth.DeviceToken
		}
		s := identity.Signed{
			DeviceID: o.Device.ID, ClientID: c.ID, ClientMode: c.Mode, Role: o.Role, Scopes: o.Scopes,
			SignedAt: o.Now().UnixMilli(), Token: token, Nonce: nonce, Platform: c.Platform, DeviceFamily: c.DeviceFamily,
		}
		f.Device = &deviceFrame{
			ID: s.DeviceID, PublicKey: o.Device.PublicKey(), Signature: o.Device.Sign(s.Payload(version)),
			SignedAt: s.SignedAt, Nonce: nonce,
		}
	}
	return f
}
