package dial

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/hanzoai/hanzod/identity"
)

// maxFile bounds the files of a client, in bytes; they are a few hundred.
const maxFile = 1 << 20

// Identity is the keypair of a device.
type Identity struct {
	// ID is the SHA-256 of the raw public key, in hex.
	ID  string
	key ed25519.PrivateKey
}

// NewIdentity makes an identity of an Ed25519 key.
func NewIdentity(key ed25519.PrivateKey) *Identity {
	return &Identity{ID: identity.DeviceID(key.Public().(ed25519.PublicKey)), key: key}
}

// PublicKey is the raw public key in base64url.
func (i *Identity) PublicKey() string { return identity.EncodeKey(i.key.Public().(ed25519.PublicKey)) }

// Sign returns the signature of a payload in base64url.
func (i *Identity) Sign(payload string) string {
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(i.key, []byte(payload)))
}

// identityFile is identity/device.json (protocol.md §4.11).
type identityFile struct {
	Version       int    `json:"version"`
	DeviceID      string `json:"deviceId"`
	PublicKeyPEM  string `json:"publicKeyPem"`
	PrivateKeyPEM string `json:"privateKeyPem"`
	CreatedAtMs   int64  `json:"createdAtMs"`
}

// LoadOrCreateIdentity reads the identity at path, or makes one when there is no file. A file that cannot be read is an
// error and is left alone: another key would be another device.
func LoadOrCreateIdentity(path string) (*Identity, error) {
	id, err := loadIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	id = NewIdentity(key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	err = writeFile(path, identityFile{
		Version: 1, DeviceID: id.ID, CreatedAtMs: time.Now().UnixMilli(),
		PublicKeyPEM:  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		PrivateKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})),
	}, true)
	if errors.Is(err, fs.ErrExist) { // another process was first
		return loadIdentity(path)
	}
	if err != nil {
		return nil, fmt.Errorf("write the device identity: %w", err)
	}
	return id, nil
}

func loadIdentity(path string) (*Identity, error) {
	var f identityFile
	if err := readFile(path, &f); err != nil {
		return nil, fmt.Errorf("read the device identity %s: %w", path, err)
	}
	bad := fmt.Errorf("the device identity %s is damaged; restore it, or remove it and pair this device anew", path)
	block, _ := pem.Decode([]byte(f.PrivateKeyPEM))
	if f.Version != 1 || block == nil {
		return nil, bad
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, bad
	}
	id := NewIdentity(key)
	if f.DeviceID != "" && f.DeviceID != id.ID {
		return nil, bad
	}
	return id, nil
}

// Token is a device token for one role.
type Token struct {
	Token       string           `json:"token"`
	Role        identity.Role    `json:"role"`
	Scopes      []identity.Scope `json:"scopes"`
	UpdatedAtMs int64            `json:"updatedAtMs"`
}

// Tokens is the file device-auth.json of one device (protocol.md §4.11). It is not locked: one process connects as one
// device.
type Tokens struct {
	Path     string
	DeviceID string
}

type tokensFile struct {
	Version  int                     `json:"version"`
	DeviceID string                  `json:"deviceId"`
	Tokens   map[identity.Role]Token `json:"tokens"`
}

// load returns the file, or an empty one when it is missing, damaged or another device's: tokens are given again.
func (t Tokens) load() (tokensFile, error) {
	empty := tokensFile{Version: 1, DeviceID: t.DeviceID, Tokens: map[identity.Role]Token{}}
	var f tokensFile
	err := readFile(t.Path, &f)
	if err == nil && f.Version == 1 && f.DeviceID == t.DeviceID && f.Tokens != nil {
		return f, nil
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) && !errors.Is(err, fs.ErrNotExist) {
		return empty, fmt.Errorf("read the device tokens: %w", err)
	}
	return empty, nil
}

// Get returns the token for a role, "" when there is none.
func (t Tokens) Get(role identity.Role) (string, error) {
	f, err := t.load()
	return f.Tokens[role].Token, err
}

// Put stores a token.
func (t Tokens) Put(role identity.Role, token string, scopes []identity.Scope, now time.Time) error {
	f, err := t.load()
	if err != nil {
		return err
	}
	f.Tokens[role] = Token{Token: token, Role: role, Scopes: append([]identity.Scope{}, scopes...), UpdatedAtMs: now.UnixMilli()}
	return writeFile(t.Path, f, false)
}

// Drop removes the token for a role.
func (t Tokens) Drop(role identity.Role) error {
	f, err := t.load()
	if err != nil {
		return err
	}
	if _, has := f.Tokens[role]; !has {
		return nil
	}
	delete(f.Tokens, role)
	return writeFile(t.Path, f, false)
}

// NodeConfig is the file node.json of a node host (nodes-approvals.md §4.1). Keys that this program does not know are
// kept.
type NodeConfig struct {
	// NodeID is sent as client.instanceId.
	NodeID      string
	Token       string
	DisplayName string
	Gateway     *GatewayAddr
	// Link is the way in which the gateway was reached last ("local", "grpc" or "websocket"), "" before
	// that.
	Link string
	// Enrolled tells the invite code again that enrolled this machine, "" without one.
	Enrolled string

	other map[string]json.RawMessage
}

// GatewayAddr is the gateway that a node host connects to. Port is that of the WebSocket, 0 when it is
// not known; GRPCPort is that of gRPC over TLS, the one after Port when it is 0. Without TLS there is
// none.
type GatewayAddr struct {
	Host           string `json:"host"`
	Port           int    `json:"port"`
	GRPCPort       int    `json:"grpcPort,omitempty"`
	TLS            bool   `json:"tls"`
	TLSFingerprint string `json:"tlsFingerprint,omitempty"`
	// TLSCA is a file of certificates to know the gateway by, when it is not pinned.
	TLSCA string `json:"tlsCa,omitempty"`
}

// LoadOrCreateNodeConfig reads the file at path. A missing one is made, with a new random id; a damaged one is an error
// and is left alone.
func LoadOrCreateNodeConfig(path string) (*NodeConfig, error) {
	c := &NodeConfig{}
	err := readFile(path, &c.other)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the node configuration %s cannot be read; repair or remove it: %w", path, err)
	}
	for key, dst := range map[string]any{"nodeId": &c.NodeID, "token": &c.Token, "displayName": &c.DisplayName, "gateway": &c.Gateway, "link": &c.Link, "enrolled": &c.Enrolled} {
		if raw, ok := c.other[key]; ok {
			if err := json.Unmarshal(raw, dst); err != nil {
				return nil, fmt.Errorf("the node configuration %s has a bad %s; repair or remove it", path, key)
			}
		}
	}
	if c.NodeID != "" {
		return c, nil
	}
	c.NodeID = uuid.NewString()
	return c, c.Save(path)
}

// Save writes the file in one step.
func (c *NodeConfig) Save(path string) error {
	out := map[string]any{}
	for k, v := range c.other {
		out[k] = v
	}
	set := func(key string, v any, present bool) {
		delete(out, key)
		if present {
			out[key] = v
		}
	}
	set("version", 1, true)
	set("nodeId", c.NodeID, true)
	set("token", c.Token, c.Token != "")
	set("displayName", c.DisplayName, c.DisplayName != "")
	set("gateway", c.Gateway, c.Gateway != nil)
	set("link", c.Link, c.Link != "")
	set("enrolled", c.Enrolled, c.Enrolled != "")
	return writeFile(path, out, false)
}

func readFile(path string, dst any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(b) > maxFile {
		return errors.New("the file is too large")
	}
	if err := json.Unmarshal(b, dst); err != nil {
		return errors.New("the file is not the JSON that it should be") // the parser's text could show a secret
	}
	return nil
}

// writeFile writes v as JSON, mode 0600, in one step; with create it fails with fs.ErrExist when the file is there.
func writeFile(path string, v any, create bool) (err error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if create {
		if err = os.Link(tmp.Name(), path); err == nil || errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return os.Rename(tmp.Name(), path)
}
