package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/client"
)

const (
	// maxKnown bounds the daemons that are known by their certificate; nobody has so many.
	maxKnown = 1000
	// maxTries is how often a person is asked again who answered neither yes nor no.
	maxTries = 3
)

// known are the daemons whose certificate was trusted when it was first seen, by host:port.
type known struct {
	path    string
	Version int                    `json:"version"`
	Daemons map[string]knownDaemon `json:"daemons"`
}

type knownDaemon struct {
	Fingerprint string    `json:"fingerprint"`
	Since       time.Time `json:"since"`
}

func (a *app) loadKnown() (*known, error) {
	dir, err := a.settingsDir()
	if err != nil {
		return nil, err
	}
	k := &known{path: filepath.Join(dir, "known-daemons.json"), Version: 1, Daemons: map[string]knownDaemon{}}
	text, err := readSettings(k.path, maxSettings)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	bad := usagef("%s is damaged, so it is not known which daemons were trusted; repair it, or remove it and compare their fingerprints again", k.path)
	if err != nil {
		return nil, fmt.Errorf("read the known daemons: %w", err)
	}
	if json.Unmarshal(text, k) != nil || k.Version != 1 || k.Daemons == nil {
		return nil, bad
	}
	for _, d := range k.Daemons {
		if _, err := client.ParseFingerprint(d.Fingerprint); err != nil {
			return nil, bad
		}
	}
	return k, nil
}

func (k *known) trust(address, fingerprint string) error {
	if len(k.Daemons) >= maxKnown {
		return usagef("%d daemons are known by their certificate already, which is the most; remove those that are gone with: hanzoctl context untrust HOST:PORT", maxKnown)
	}
	k.Daemons[address] = knownDaemon{Fingerprint: fingerprint, Since: time.Now().UTC().Truncate(time.Second)}
	return writeSettings(k.path, k)
}

// trust decides about the certificate of a daemon that no flag and no invite says how to know: the one that
// was trusted before, else one that an authority vouches for, else the answer of a person. The token is
// not sent before. Without a person nothing is trusted: the call itself then fails and shows the fingerprint.
func (a *app) trust(ctx context.Context, t *target) error {
	address, err := client.ParseHost(t.options.Host)
	if err != nil {
		return err
	}
	k, err := a.loadKnown()
	if err != nil {
		return err
	}
	if d, ok := k.Daemons[address]; ok {
		t.options.TLSFingerprint, t.knownSince = d.Fingerprint, d.Since
		return nil
	}
	p := a.person()
	if p == nil {
		return nil
	}
	defer p.close()
	cert, err := client.AskCertificate(ctx, address, nil)
	if err != nil || cert.Vouched {
		return err
	}
	if err := p.trusts(ctx, cert); err != nil {
		return err
	}
	// What was shown is what the next connection has to present.
	t.options.TLSFingerprint = cert.Fingerprint
	if err := k.trust(address, cert.Fingerprint); err != nil {
		return fmt.Errorf("keep the certificate of %s: %w", address, err)
	}
	p.say("kept; from now on a daemon at " + address + " with another certificate is refused")
	return nil
}

// trusts asks a person about a certificate that nothing vouches for. Its error says that it is not trusted.
func (p *person) trusts(ctx context.Context, cert client.Certificate) error {
	p.say(fmt.Sprintf(`The daemon at %s is not known here, and nothing vouches for its certificate.
Its SHA-256 fingerprint is

  %s

Compare it with what "hanzod tls fingerprint" prints on that machine, over a way that you trust.`, Text(cert.Address), cert.Fingerprint))
	refusal := &client.Error{Code: client.CodeUnknownDaemon, Class: client.Denied, Message: fmt.Sprintf(
		"the certificate of %s was not trusted; nothing was sent. Its SHA-256 fingerprint is %s", cert.Address, cert.Fingerprint)}
	for range maxTries {
		answer, err := p.line(ctx, "Trust it from now on? Answer yes or no, or paste the fingerprint to compare: ")
		if err != nil {
			return refusal
		}
		switch answer {
		case "yes":
			return nil
		case "no", "n":
			return refusal
		}
		if pin, err := client.ParseFingerprint(answer); err == nil {
			if pin == cert.Fingerprint {
				return nil
			}
			return &client.Error{Code: client.CodeWrongPin, Class: client.Denied, Message: fmt.Sprintf(
				"the certificate of %s is not the one that you expect (expected %s, presented %s): somebody else may answer; nothing was sent", cert.Address, pin, cert.Fingerprint)}
		}
		p.say(`that is neither "yes" nor "no" nor a fingerprint of 64 hex digits`)
	}
	return refusal
}
