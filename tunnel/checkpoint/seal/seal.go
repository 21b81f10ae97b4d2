// Package seal encrypts checkpoints for those who hold a key, with age (age-encryption.org/v1).
//
// A sealed checkpoint is two objects. The one in the document's place is a Header: who listed the store could
// see its facts anyway, and nothing else of the checkpoint is in clear. Its version makes every reader of plain
// documents refuse it in so many words. The other is the pack of the whole checkpoint, encrypted.
//
// It imports the errs leaf only and owns no goroutine.
package seal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"github.com/hanzoai/hanzod/errs"
)

// Version is the version of a Header, in the place of the document's.
const Version = "1+age"

// PackName names the encrypted pack beside a header.
const PackName = "checkpoint.tar.age"

// Limits.
const (
	// MaxHeader is how large a header may be, in bytes.
	MaxHeader = 16 << 10
	// maxRecipients bounds who can open one checkpoint.
	maxRecipients = 64
	// maxKeys bounds an identity file, in bytes.
	maxKeys = 64 << 10
	// maxText bounds each text of a header, in bytes.
	maxText = 1024
)

// The errors of this package.
var (
	ErrRecipient = errs.Define(errs.Invalid, "seal.recipient", "a recipient is a public key: age1…, or a line of ssh-ed25519 or ssh-rsa")
	ErrIdentity  = errs.Define(errs.Invalid, "seal.identity", "the file with the key for encrypted checkpoints cannot be used")
	// ErrNoKey: the checkpoint is encrypted and no identity file is named.
	ErrNoKey = errs.Define(errs.Conflict, "seal.no_key", "the checkpoint is encrypted; name the file with its key in checkpoints.encryption.identityFile")
	// ErrWrongKey: none of the identities opens it.
	ErrWrongKey = errs.Define(errs.Denied, "seal.wrong_key", "the checkpoint is encrypted for other keys than those of the identity file")
	// ErrDamaged: what is stored is not what was sealed.
	ErrDamaged = errs.Define(errs.Conflict, "seal.damaged", "the encrypted checkpoint is damaged")
	ErrHeader  = errs.Define(errs.Invalid, "seal.header", "this is not the header of an encrypted checkpoint")
)

// Header is what is in clear of a sealed checkpoint.
type Header struct {
	Version          string `json:"version"`
	CheckpointID     string `json:"checkpoint_id"`
	SourceInstanceID string `json:"source_instance_id"`
	Timestamp        string `json:"timestamp"`
	Sealed           Sealed `json:"sealed"`
}

// Sealed describes the pack: as it is inside and as it is stored.
type Sealed struct {
	Size         int64  `json:"size"`
	SHA256       string `json:"sha256"`
	StoredSize   int64  `json:"storedSize"`
	StoredSHA256 string `json:"storedSha256"`
	// Owner made the checkpoint, as the daemon verified it.
	Owner string `json:"owner,omitempty"`
}

var hexSum = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Marshal writes a header.
func (h Header) Marshal() ([]byte, error) {
	h.Version = Version
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(h)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// IsHeader reports whether a document is a header, by its version alone.
func IsHeader(raw []byte) bool {
	if len(raw) > MaxHeader {
		return false
	}
	var v struct {
		Version any `json:"version"`
	}
	return json.Unmarshal(raw, &v) == nil && v.Version == Version
}

// Parse reads a header.
func Parse(raw []byte) (Header, error) {
	var h Header
	if len(raw) > MaxHeader {
		return h, ErrHeader
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return h, ErrHeader.Wrap(err)
	}
	s := h.Sealed
	switch {
	case h.Version != Version:
		return h, ErrHeader.WithText("the encrypted checkpoint is of a kind that this program does not know: update it")
	case h.CheckpointID == "" || len(h.CheckpointID) > maxText || len(h.SourceInstanceID) > maxText || len(h.Timestamp) > maxText || len(s.Owner) > maxText:
		return h, ErrHeader
	case s.Size < 0 || s.StoredSize < 0 || !hexSum.MatchString(s.SHA256) || !hexSum.MatchString(s.StoredSHA256):
		return h, ErrHeader.WithText("the header of the encrypted checkpoint has no sizes and checksums")
	}
	return h, nil
}

// Time is when the checkpoint was made, zero when the header does not say it.
func (h Header) Time() time.Time {
	t, err := time.Parse("2006-01-02T15:04:05.999999999Z07:00", h.Timestamp)
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// recipients reads public keys, one a text. Empty texts and comments are left out.
func recipients(lines []string) ([]age.Recipient, error) {
	var out []age.Recipient
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var r age.Recipient
		var err error
		if strings.HasPrefix(line, "ssh-") {
			r, err = agessh.ParseRecipient(line)
		} else {
			var list []age.Recipient
			if list, err = age.ParseRecipients(strings.NewReader(line)); err == nil {
				r = list[0]
			}
		}
		if err != nil {
			// The text of the key may be a secret one, put here by mistake: it is not repeated.
			return nil, ErrRecipient.With("index", i).WithText(fmt.Sprintf("recipient %d is no public key of age (age1…) or of ssh (ssh-ed25519, ssh-rsa)", i+1))
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, ErrRecipient.WithText("no recipient is named for encrypted checkpoints")
	}
	if len(out) > maxRecipients {
		return nil, ErrRecipient.WithText(fmt.Sprintf("a checkpoint may have %d recipients at the most", maxRecipients))
	}
	return out, nil
}

// Check says whether recipients can be used.
func Check(lines []string) error {
	_, err := recipients(lines)
	return err
}

// Seal returns a writer that encrypts to w. What was written is whole once Close has returned nil.
func Seal(w io.Writer, to []string) (io.WriteCloser, error) {
	r, err := recipients(to)
	if err != nil {
		return nil, err
	}
	return age.Encrypt(w, r...)
}

// Open returns what is inside of what Seal wrote. A reader that is read to io.EOF has returned all of it,
// unchanged; otherwise it ends in ErrDamaged.
func Open(r io.Reader, identityFile string) (io.Reader, error) {
	if identityFile == "" {
		return nil, ErrNoKey
	}
	keys, err := identities(identityFile)
	if err != nil {
		return nil, err
	}
	plain, err := age.Decrypt(r, keys...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, ErrWrongKey
	}
	if err != nil {
		return nil, ErrDamaged.Wrap(err)
	}
	return &opened{plain}, nil
}

type opened struct{ r io.Reader }

func (o *opened) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = ErrDamaged.Wrap(err)
	}
	return n, err
}

// identities reads a file of secret keys: those of age, one a line, or one private key of ssh without a
// passphrase.
func identities(path string) ([]age.Identity, error) {
	i, err := os.Stat(path) // before the file is opened: a named pipe would wait
	if err != nil {
		return nil, ErrIdentity.Wrap(err)
	}
	if !i.Mode().IsRegular() || i.Size() > maxKeys {
		return nil, ErrIdentity.WithText("the identity file for encrypted checkpoints is no file of keys")
	}
	if runtime.GOOS != "windows" && i.Mode().Perm()&0o077 != 0 {
		return nil, ErrIdentity.WithText("others may read the identity file for encrypted checkpoints; run: chmod 600 " + path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, ErrIdentity.Wrap(err)
	}
	if bytes.Contains(raw, []byte("-----BEGIN")) {
		id, err := agessh.ParseIdentity(raw)
		if err != nil {
			// The library's text may hold a part of the key.
			return nil, ErrIdentity.WithText("the private key of ssh in the identity file cannot be read; one with a passphrase cannot be used")
		}
		return []age.Identity{id}, nil
	}
	list, err := age.ParseIdentities(bufio.NewReader(bytes.NewReader(raw)))
	if err != nil || len(list) == 0 {
		return nil, ErrIdentity.WithText("the identity file has no key of age (AGE-SECRET-KEY-1…) and no private key of ssh")
	}
	return list, nil
}
