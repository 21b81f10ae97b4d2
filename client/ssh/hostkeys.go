package ssh

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the format of known_hosts hides names with it; nothing is proved by it
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/hanzoai/hanzod/client"
)

// knownKey is a key in a file of known hosts.
type knownKey struct {
	key  ssh.PublicKey
	file string
	line int
}

func (k knownKey) where() string { return fmt.Sprintf("%s:%d", k.file, k.line) }

// known is what the files of known hosts say about one machine.
type known struct {
	keys        []knownKey // of the machine
	anyPort     []knownKey // of the machine, whatever the port is
	authorities []knownKey // who may vouch for the machine
	revoked     map[string]knownKey
}

// readKnown reads what the files say about a hop. A line that is not understood is passed over, as ssh does:
// it may be of a kind that came after us.
func readKnown(h *hop) (*known, error) {
	k := &known{revoked: map[string]knownKey{}}
	name, plainName := knownName(h), strings.ToLower(h.host)
	for _, file := range slices.Concat(h.knownUser, h.knownGlobal) {
		text, err := readFile(file, maxKnown)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fail(StepHostKey, CodeConfig, client.Invalid, "the file of known hosts cannot be read: "+plain(err.Error()))
		}
		for n, line := range bytes.Split(text, []byte("\n")) {
			marker, hosts, key, _, _, err := ssh.ParseKnownHosts(line)
			if err != nil {
				continue
			}
			one := knownKey{key, file, n + 1}
			switch {
			case marker == "revoked":
				k.revoked[string(key.Marshal())] = one
			case marker != "" && marker != "cert-authority":
			case knows(hosts, name):
				if marker != "" {
					k.authorities = append(k.authorities, one)
				} else {
					k.keys = append(k.keys, one)
				}
			case marker == "" && h.keyAlias == "" && knows(hosts, plainName):
				k.anyPort = append(k.anyPort, one)
			}
		}
	}
	return k, nil
}

// knownName is the name of a hop in files of known hosts.
func knownName(h *hop) string {
	if h.keyAlias != "" {
		return h.keyAlias
	}
	return strings.ToLower(knownhosts.Normalize(h.address()))
}

// knows says whether the names of a line fit a machine: patterns, or one name that is hidden by a hash.
func knows(hosts []string, name string) bool {
	if len(hosts) == 1 && strings.HasPrefix(hosts[0], "|") {
		parts := strings.Split(hosts[0], "|")
		if len(parts) != 4 || parts[1] != "1" {
			return false
		}
		salt, err1 := base64.StdEncoding.DecodeString(parts[2])
		want, err2 := base64.StdEncoding.DecodeString(parts[3])
		mac := hmac.New(sha1.New, salt)
		mac.Write([]byte(name))
		return err1 == nil && err2 == nil && hmac.Equal(mac.Sum(nil), want)
	}
	return matchList(hosts, name, false)
}

// plainKinds are the kinds of host keys that we take, certKinds the certificates, in the order of preference.
var (
	plainKinds = []string{
		ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
	}
	certKinds = []string{
		ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
	}
)

// algorithms are those to ask the machine for: first what is known of it, so that a machine with several
// keys shows the one that is known.
func (k *known) algorithms() []string {
	var list []string
	if len(k.authorities) > 0 {
		list = append(list, certKinds...)
	}
	for _, one := range slices.Concat(k.keys, k.anyPort) {
		kinds := []string{one.key.Type()}
		if one.key.Type() == ssh.KeyAlgoRSA {
			kinds = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
		}
		for _, kind := range kinds {
			if slices.Contains(plainKinds, kind) && !slices.Contains(list, kind) {
				list = append(list, kind)
			}
		}
	}
	for _, kind := range plainKinds {
		if !slices.Contains(list, kind) {
			list = append(list, kind)
		}
	}
	return list
}

// check decides about the key that a machine shows. unknown says that there is nothing against it and
// nothing for it.
func (k *known) check(h *hop, remote net.Addr, key ssh.PublicKey) (unknown bool, err error) {
	bare := key
	cert, isCert := key.(*ssh.Certificate)
	if isCert {
		bare = cert.Key
	}
	if r, ok := k.revoked[string(bare.Marshal())]; ok {
		return false, revoked(h, key, r)
	}
	if isCert {
		checker := ssh.CertChecker{
			IsHostAuthority: func(by ssh.PublicKey, _ string) bool { return holds(k.authorities, by) },
			IsRevoked: func(c *ssh.Certificate) bool {
				_, gone := k.revoked[string(c.SignatureKey.Marshal())]
				return gone
			},
		}
		principal := h.keyAlias
		if principal == "" {
			principal = strings.ToLower(h.host)
		}
		if err := checker.CheckHostKey(hostPort(principal, 22), remote, key); err != nil {
			return false, with(fail(StepHostKey, CodeChangedHost, client.Denied, fmt.Sprintf(
				"the certificate of %s does not hold (%s), so who answers there is not known; nothing was sent. Ask whoever runs that machine",
				h.name(), plain(err.Error()))), err)
		}
		return false, nil
	}
	if holds(k.keys, key) || holds(k.anyPort, key) {
		return false, nil
	}
	if len(k.keys) > 0 {
		return false, changed(h, key, k.keys)
	}
	return true, nil
}

func holds(list []knownKey, key ssh.PublicKey) bool {
	return slices.ContainsFunc(list, func(k knownKey) bool { return bytes.Equal(k.key.Marshal(), key.Marshal()) })
}

// shown is how a key is shown to people.
func shown(key ssh.PublicKey) string {
	kind := strings.TrimPrefix(strings.TrimPrefix(key.Type(), "ssh-"), "ecdsa-sha2-")
	return strings.ToUpper(kind) + " " + ssh.FingerprintSHA256(key)
}

func revoked(h *hop, key ssh.PublicKey, r knownKey) error {
	return fail(StepHostKey, CodeRevokedHost, client.Denied, fmt.Sprintf(
		"THE KEY OF %s IS REVOKED (%s, in %s): somebody else may answer there; nothing was sent. Ask whoever runs that machine", h.name(), shown(key), r.where()))
}

func changed(h *hop, key ssh.PublicKey, was []knownKey) error {
	return fail(StepHostKey, CodeChangedHost, client.Denied, fmt.Sprintf(
		"THE KEY OF %s HAS CHANGED: known is %s (%s), shown was %s. Either that machine was set up anew, or somebody else answers in its place; "+
			"nothing was sent. When whoever runs it confirms the new key, forget the old one with: ssh-keygen -f %s -R '%s'",
		h.name(), shown(was[0].key), was[0].where(), shown(key), was[0].file, knownName(h)))
}

// unknownHost is refused when nobody can be asked.
func unknownHost(h *hop, key ssh.PublicKey, why string) error {
	return fail(StepHostKey, CodeUnknownHost, client.Denied, fmt.Sprintf(
		"the key of %s is not known, %s; nothing was sent. It shows %s. Compare that with what \"ssh-keygen -lf\" prints for the host key on that machine, "+
			"and then accept it by connecting once by hand: %s", h.name(), why, shown(key), byHand(h)))
}

// byHand is the command that logs in as we do.
func byHand(h *hop) string {
	s := "ssh "
	if h.port != 22 {
		s += fmt.Sprintf("-p %d ", h.port)
	}
	return s + h.name()
}

// trust decides about the key of a hop, and asks and remembers where that is wanted.
func (d *dialer) trust(ctx context.Context, h *hop, k *known, remote net.Addr, key ssh.PublicKey) error {
	unknown, err := k.check(h, remote, key)
	if err != nil || !unknown {
		return err
	}
	if d.accepted(h, key) {
		return nil
	}
	switch {
	case h.strict == acceptNew:
	case h.strict == refuse:
		return unknownHost(h, key, "and StrictHostKeyChecking refuses such machines")
	case d.prompt == nil || h.batch:
		return unknownHost(h, key, "and there is no terminal to ask at")
	default:
		answer, err := d.ask(ctx, StepHostKey, fmt.Sprintf(
			"The key of %s (%s) is not known.\nIt shows %s.\nConnect, and remember this key? (yes, no, or the fingerprint) ", h.name(), h.address(), shown(key)), true)
		if err != nil {
			return err
		}
		if answer = strings.TrimSpace(answer); !strings.EqualFold(answer, "yes") && answer != ssh.FingerprintSHA256(key) {
			return unknownHost(h, key, "and was not accepted")
		}
	}
	d.accept(h, key)
	if err := remember(h, key); err != nil {
		d.tell(StepHostKey, "the key of "+h.name()+" could not be kept: "+plain(err.Error()))
	} else if len(h.knownUser) > 0 {
		d.tell(StepHostKey, "the key of "+h.name()+" is now in "+h.knownUser[0])
	}
	return nil
}

// remember appends the key of a hop to the user's own known hosts.
func remember(h *hop, key ssh.PublicKey) error {
	if len(h.knownUser) == 0 || h.knownUser[0] == os.DevNull {
		return nil
	}
	name := knownName(h)
	if h.hashKnown {
		name = knownhosts.HashHostname(name)
	}
	line := name + " " + string(ssh.MarshalAuthorizedKey(key))
	path := h.knownUser[0]
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		var last [1]byte
		if _, err := f.ReadAt(last[:], info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	_, err = f.WriteString(line) // one write: others may append too
	return errors.Join(err, f.Close())
}
