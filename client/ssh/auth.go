package ssh

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/hanzoai/hanzod/client"
)

// Prompter asks the person at a terminal.
type Prompter interface {
	// Ask shows a text and returns the line that is typed, without showing it when echo is false: it is a
	// passphrase or a password then. It ends with ctx. Only one question is asked at a time. The texts hold
	// no control characters but line ends.
	Ask(ctx context.Context, text string, echo bool) (string, error)
}

// login is one attempt to prove who we are to one machine.
type login struct {
	d       *dialer
	h       *hop
	ctx     context.Context //nolint:containedctx // the callbacks of the library take none
	offered []string        // what was offered, for people
	hard    bool            // there is a key that only hardware can use
	locked  *client.Error   // what a person would have had to be asked for
	agent   net.Conn
	stop    func() bool // ends the watch over agent
}

// methods are the ways to prove it, in their order.
func (l *login) methods() []ssh.AuthMethod {
	var m []ssh.AuthMethod
	if l.h.pubkey {
		m = append(m, ssh.PublicKeysCallback(l.signers))
	}
	if l.d.prompt == nil || l.h.batch {
		return m
	}
	if l.h.kbd {
		m = append(m, ssh.RetryableAuthMethod(ssh.KeyboardInteractive(l.answer), maxTries))
	}
	if l.h.password {
		m = append(m, ssh.RetryableAuthMethod(ssh.PasswordCallback(func() (string, error) {
			return l.d.ask(l.ctx, StepAuth, "The password of "+l.h.name()+": ", false)
		}), maxTries))
	}
	return m
}

func (l *login) close() {
	if l.agent != nil {
		l.stop()
		_ = l.agent.Close() // nothing is lost with it
	}
}

// answer is keyboard-interactive: what the server shows is its own text, so it is named and cleaned.
func (l *login) answer(name, instruction string, questions []string, echos []bool) ([]string, error) {
	if len(questions) > maxQuestions {
		return nil, fail(StepAuth, CodeAuth, client.Denied, fmt.Sprintf("%s asks %d questions at once", l.h.name(), len(questions)))
	}
	intro := strings.TrimSpace(plain(name) + " " + plain(instruction))
	var answers []string
	for i, q := range questions {
		text := l.h.name() + " asks: " + plain(q) + " "
		if i == 0 && intro != "" {
			text = l.h.name() + " says: " + intro + "\n" + text
		}
		a, err := l.d.ask(l.ctx, StepAuth, text, echos[i])
		if err != nil {
			return nil, err
		}
		answers = append(answers, a)
	}
	return answers, nil
}

// signers are the keys to offer. A server counts what it refuses (MaxAuthTries, 6 by default), so the keys
// that the configuration names come first, then the others of the agent, then the files that are only
// looked for.
func (l *login) signers() ([]ssh.Signer, error) {
	held := l.held()
	var named, guessed []ssh.Signer
	taken := map[string]bool{}
	take := func(list []ssh.Signer, s ssh.Signer, name string) []ssh.Signer {
		blob := string(s.PublicKey().Marshal())
		if taken[blob] {
			return list
		}
		taken[blob] = true
		return append(list, &offer{AlgorithmSigner: algorithms(s), name: name, l: l})
	}
	for _, id := range l.h.identities {
		s, pub := l.identity(id)
		if pub == nil {
			continue
		}
		for _, a := range held { // the agent asks for no passphrase
			if bytes.Equal(a.PublicKey().Marshal(), pub.Marshal()) {
				s = a
			}
		}
		if s == nil {
			continue
		}
		list := &guessed
		if id.named {
			list = &named
		}
		if c := l.certificate(id.path, s); c != nil {
			*list = take(*list, c, id.path+" with its certificate")
		}
		*list = take(*list, s, id.path)
	}
	if !l.h.onlyThese {
		for _, a := range held {
			named = take(named, a, "a key of the agent")
		}
	}
	all := slices.Concat(named, guessed)
	if len(all) == 0 && l.locked == nil {
		l.locked = fail(StepAuth, CodeAuth, client.Denied, "there is no key to offer: neither the agent nor the files that ssh_config names hold one; "+
			"make one with ssh-keygen, or name it with IdentityFile in ~/.ssh/config")
	}
	return all, nil
}

// held are the keys of the agent. One that does not answer has none.
func (l *login) held() []ssh.Signer {
	if l.h.agent == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(l.ctx, agentTime)
	defer cancel()
	conn, err := dialAgent(ctx, l.h.agent)
	if err != nil {
		l.d.tell(StepAuth, "the agent does not answer: "+plain(err.Error()))
		return nil
	}
	if err := conn.SetDeadline(time.Now().Add(agentTime)); err != nil {
		_ = conn.Close() // it was not used
		return nil
	}
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		_ = conn.Close() // it holds nothing of ours
		l.d.tell(StepAuth, "the agent does not answer: "+plain(err.Error()))
		return nil
	}
	// To sign may take a person who touches a key.
	_ = conn.SetDeadline(time.Now().Add(askTime)) // it worked before
	l.agent, l.stop = conn, context.AfterFunc(l.ctx, func() { _ = conn.Close() })
	return keys
}

// identity reads a file with a key. The signer is nil when only the public half is known.
func (l *login) identity(id identity) (ssh.Signer, ssh.PublicKey) {
	var pub ssh.PublicKey
	if text, err := readFile(id.path+".pub", maxKey); err == nil {
		pub, _, _, _, err = ssh.ParseAuthorizedKey(text)
		if err != nil {
			pub = nil
		}
	}
	text, err := readFile(id.path, maxKey)
	if err != nil {
		if id.named && pub == nil && !errors.Is(err, fs.ErrNotExist) {
			l.d.tell(StepAuth, "the key "+id.path+" cannot be read: "+plain(err.Error()))
		} else if id.named && pub == nil {
			l.d.tell(StepAuth, "the key "+id.path+" is not there")
		}
		return nil, pub
	}
	s, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case err == nil:
		return s, s.PublicKey()
	case errors.As(err, &locked):
		if locked.PublicKey != nil {
			pub = locked.PublicKey
		}
		if pub == nil {
			l.d.tell(StepAuth, "the key "+id.path+" has a passphrase and no public half beside it; make one with: ssh-keygen -yf "+id.path+" > "+id.path+".pub")
			return nil, nil
		}
		if known := l.d.unlocked(pub); known != nil {
			return known, pub
		}
		return &lockedKey{l: l, path: id.path, text: text, pub: pub}, pub
	}
	if only, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return nil, only // the private half is in the agent
	}
	if pub != nil && strings.HasPrefix(pub.Type(), "sk-") {
		l.hard = true
		return nil, pub
	}
	if id.named {
		l.d.tell(StepAuth, "the key "+id.path+" is not understood: "+plain(err.Error()))
	}
	return nil, pub
}

// certificate is a signer that shows the certificate of a key, nil when it has none.
func (l *login) certificate(path string, s ssh.Signer) ssh.Signer {
	for _, file := range append(slices.Clone(l.h.certificates), path+"-cert.pub") {
		text, err := readFile(file, maxKey)
		if err != nil {
			continue
		}
		pub, _, _, _, err := ssh.ParseAuthorizedKey(text)
		cert, ok := pub.(*ssh.Certificate)
		if err != nil || !ok || !bytes.Equal(cert.Key.Marshal(), s.PublicKey().Marshal()) {
			continue
		}
		if c, err := ssh.NewCertSigner(cert, algorithms(s)); err == nil {
			return c
		}
	}
	return nil
}

// algorithms is the signer as one that can be told the algorithm; all of ours can.
func algorithms(s ssh.Signer) ssh.AlgorithmSigner {
	if a, ok := s.(ssh.AlgorithmSigner); ok {
		return a
	}
	return oneAlgorithm{s}
}

type oneAlgorithm struct{ ssh.Signer }

func (o oneAlgorithm) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if algorithm != "" && algorithm != o.PublicKey().Type() {
		return nil, fmt.Errorf("the key cannot sign with %s", algorithm)
	}
	return o.Sign(rand, data)
}

// offer is a key that was offered. The time in which it signs is that of a person.
type offer struct {
	ssh.AlgorithmSigner
	name string
	l    *login
	seen bool
}

func (o *offer) PublicKey() ssh.PublicKey {
	key := o.AlgorithmSigner.PublicKey()
	if !o.seen {
		o.seen = true
		o.l.offered = append(o.l.offered, o.name+" ("+shown(key)+")")
	}
	return key
}

func (o *offer) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	defer o.l.d.patience.hold()()
	return o.AlgorithmSigner.SignWithAlgorithm(rand, data, algorithm)
}

// lockedKey is a key that has a passphrase. It is asked for when the machine would take the key, not before.
type lockedKey struct {
	l    *login
	path string
	text []byte
	pub  ssh.PublicKey
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.pub }

func (k *lockedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

func (k *lockedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	l := k.l
	if l.d.prompt == nil || l.h.batch {
		l.locked = fail(StepAuth, CodePrompt, client.Denied,
			"the key "+k.path+" has a passphrase, and there is no terminal to ask for it; put the key into the agent first: ssh-add "+k.path)
		return nil, l.locked
	}
	for range maxTries {
		pass, err := l.d.ask(l.ctx, StepAuth, "The passphrase of "+k.path+": ", false)
		if err != nil {
			l.locked, _ = errors.AsType[*client.Error](err)
			return nil, err
		}
		s, err := ssh.ParsePrivateKeyWithPassphrase(k.text, []byte(pass))
		if errors.Is(err, x509.IncorrectPasswordError) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l.d.unlock(s)
		return algorithms(s).SignWithAlgorithm(rand, data, algorithm)
	}
	l.locked = fail(StepAuth, CodeAuth, client.Denied, fmt.Sprintf("the passphrase of %s was wrong %d times", k.path, maxTries))
	return nil, l.locked
}

// readFile reads a file that is not longer than a limit, in bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return text, err
}
