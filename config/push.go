package config

import "fmt"

// maxPushKeyBytes bounds the file of the private key for pushes; Apple's have some hundred bytes.
const maxPushKeyBytes = 16 << 10

// Push is the credentials for Apple's push service (nodes-approvals.md §1.6).
type Push struct {
	TeamID string
	KeyID  string
	// Key is PEM text. It is unset when none was named or the named file cannot be read.
	Key Secret
	// KeyErr says why a named file cannot be read: the daemon works without it, but for pushes.
	KeyErr error
}

// pushCredentials reads the environment, which is the only place for them.
func (l *loader) pushCredentials() {
	p := &l.config.Push
	_, p.TeamID = l.variable("HANZOD_APNS_TEAM_ID")
	_, p.KeyID = l.variable("HANZOD_APNS_KEY_ID")
	var err error
	if _, p.Key, err = Environ(l.env).Secret("HANZOD_APNS_PRIVATE_KEY_P8"); err != nil {
		p.KeyErr = err
		return
	}
	name, path := l.variable("HANZOD_APNS_PRIVATE_KEY_PATH")
	if p.Key.IsSet() || path == "" {
		return
	}
	text, err := readFile(path, maxPushKeyBytes)
	if err != nil {
		p.KeyErr = fmt.Errorf("the file in %s cannot be read: %w", name, err)
		return
	}
	p.Key = NewSecret(string(text))
}
