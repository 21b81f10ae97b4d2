// Package objects keeps the bytes of checkpoints under keys: in a bucket of an S3 server or in a directory
// of this machine (tunnel.md §1.9).
//
// It imports the errs leaf only. A Store may be used concurrently, costs nothing before its first use, and
// owns no goroutine beyond a call. What it writes is visible whole or not at all.
package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/hanzoai/hanzod/errs"
)

// Limits.
const (
	// MaxSize is how large an object may be: what S3 takes in one request, so that nothing of a broken upload is
	// left behind.
	MaxSize = 5 << 30
	// maxKey is how long a key may be, in bytes; the bound of S3.
	maxKey = 1024
)

// The errors of this package. A *Failure is one of them too when it says so.
var (
	// ErrNotFound: the store has no object of that key, or no such bucket.
	ErrNotFound = errs.Define(errs.NotFound, "objects.not_found", "the store has no such object")
	ErrKey      = errs.Define(errs.Invalid, "objects.key", "this cannot be the name of an object")
	ErrTooLarge = errs.Define(errs.Invalid, "objects.too_large", "an object may have 5 GiB at the most")
	// ErrContent: the content is not what size and checksum say; nothing was stored.
	ErrContent = errs.Define(errs.Conflict, "objects.content", "the content does not have the size or the checksum that was announced")
	ErrDenied  = errs.Define(errs.Denied, "objects.denied", "the store refuses the credentials; check the access key, the secret key and what they may do")
	ErrStore   = errs.Define(errs.Unavailable, "objects.store", "the store cannot be used now")
	// ErrNoCredentials has the text of the bridge (tunnel.md §1.5).
	ErrNoCredentials = errs.Define(errs.Invalid, "objects.no_credentials", "S3_ACCESS_KEY and S3_SECRET_KEY env vars required")
	ErrConfig        = errs.Define(errs.Invalid, "objects.config", "the settings of the store are wrong")
)

// Object is what a store knows of an object without its content.
type Object struct {
	Key  string
	Size int64
	// Modified is when it was written, to the second or better.
	Modified time.Time
	// ContentType is empty in lists.
	ContentType string
	// SHA256 is the checksum that it was written with, in hex; empty in lists and where the store does not keep it.
	SHA256 string
}

// Info says what is put.
type Info struct {
	// Size in bytes is required.
	Size int64
	// SHA256 in hex; nothing is stored when the content has another. Empty checks the size only.
	SHA256      string
	ContentType string
}

// Store keeps objects. Keys are relative paths with slashes. Errors are a *Failure or one of this package's.
type Store interface {
	// Put stores what body reads under key, replacing what is there; before it returns nil, others see the old object or
	// none. A body that is an io.Seeker at its start can be sent again after a fault on the way.
	Put(ctx context.Context, key string, body io.Reader, in Info) error
	// Get opens an object. The caller closes it. A reader that ends before Size bytes returns io.ErrUnexpectedEOF.
	Get(ctx context.Context, key string) (io.ReadCloser, Object, error)
	// List yields all objects whose key begins with prefix, any text, in the order of their keys. It
	// ends after the first error.
	List(ctx context.Context, prefix string) iter.Seq2[Object, error]
	// Delete removes an object. One that is not there is no error.
	Delete(ctx context.Context, key string) error
	Stat(ctx context.Context, key string) (Object, error)
	// Check says whether objects can be put, making the place for them where that is configured.
	Check(ctx context.Context) error
	// URL names an object for people and for session.restore: s3://bucket/key, or file:///path.
	URL(key string) string
}

// Failure is a refusal or fault of a store, in the words of the S3 API whatever the store is, as clients of
// the bridge know them (tunnel.md §1.5).
type Failure struct {
	// Operation is the S3 API's name of what was asked for: GetObject, PutObject, HeadBucket…
	Operation string
	// Code is the S3 error code (NoSuchKey, AccessDenied…), the HTTP status for answers without a body, and
	// empty when there was no answer.
	Code    string
	Message string
	// Err is one of this package's errors.
	Err error
}

func (f *Failure) Error() string {
	if f.Code == "" {
		return f.Message
	}
	return fmt.Sprintf("An error occurred (%s) when calling the %s operation: %s", f.Code, f.Operation, f.Message)
}

func (f *Failure) Unwrap() error { return f.Err }

// noSuchKey is what S3 answers for an object that is not there.
func noSuchKey(operation string) error {
	return &Failure{Operation: operation, Code: "NoSuchKey", Message: "The specified key does not exist.", Err: ErrNotFound}
}

// CheckKey refuses what no store can have as a key.
func CheckKey(key string) error {
	switch {
	case key == "":
		return ErrKey.WithText("the name of an object is empty")
	case len(key) > maxKey:
		return ErrKey.WithText(fmt.Sprintf("the name of an object has %d bytes; %d are the most", len(key), maxKey))
	case !utf8.ValidString(key):
		return ErrKey.WithText("the name of an object is no text")
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part == "." || part == ".." {
			return ErrKey.WithText("the name of an object has an empty part, or one of dots")
		}
	}
	for _, r := range key {
		if r < 0x20 || r == 0x7f {
			return ErrKey.WithText("the name of an object has a control character")
		}
	}
	return nil
}

func checkInfo(in Info) error {
	if in.Size < 0 {
		return ErrContent.WithText("the size of the object is not known")
	}
	if in.Size > MaxSize {
		return ErrTooLarge
	}
	if in.SHA256 != "" {
		if b, err := hex.DecodeString(in.SHA256); err != nil || len(b) != sha256.Size {
			return ErrContent.WithText("the checksum of the object is none")
		}
	}
	return nil
}

// checked passes size bytes with a checksum on. It keeps the last byte back until all is as announced, so
// that a store which counts bytes never sees a whole object with a wrong content.
type checked struct {
	mu   sync.Mutex // a request that was given up may still read
	body io.Reader
	want Info
	hash hash.Hash
	left int64
	err  error
	// checkedAll is set by the first read of a body without bytes.
	checkedAll bool
}

func newChecked(body io.Reader, in Info) *checked {
	return &checked{body: body, want: in, hash: sha256.New(), left: in.Size}
}

// failed is what is wrong with the body, nil when nothing is.
func (c *checked) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(c.err, io.EOF) {
		return nil
	}
	return c.err
}

func (c *checked) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.left == 0 {
		if !c.checkedAll {
			if err := c.verify(); err != nil {
				c.err = err
				return 0, err
			}
		}
		c.err = io.EOF
		return 0, io.EOF
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.body.Read(p)
	c.hash.Write(p[:n])
	c.left -= int64(n)
	if c.left == 0 {
		if err := c.verify(); err != nil {
			c.err = err
			return max(n-1, 0), err
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = ErrContent.WithText(fmt.Sprintf("the content ended %d bytes before its announced size", c.left))
	}
	c.err = err
	return n, err
}

// verify compares what was read, and looks whether there is more.
func (c *checked) verify() error {
	c.checkedAll = true
	var one [1]byte
	for range 100 {
		n, err := c.body.Read(one[:])
		if n > 0 {
			return ErrContent.WithText("the content is longer than its announced size")
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if c.want.SHA256 != "" && hex.EncodeToString(c.hash.Sum(nil)) != strings.ToLower(c.want.SHA256) {
		return ErrContent.WithText("the content does not have the announced checksum")
	}
	return nil
}

// seekable is a checked that can begin again.
type seekable struct{ *checked }

func (s seekable) Seek(offset int64, whence int) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if whence == io.SeekCurrent && offset == 0 {
		return s.want.Size - s.left, nil
	}
	if offset != 0 || whence != io.SeekStart {
		return 0, errors.New("objects: this body begins again or goes on")
	}
	if _, err := s.body.(io.Seeker).Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	s.hash.Reset()
	s.left, s.err, s.checkedAll = s.want.Size, nil, false
	return 0, nil
}

func newBody(body io.Reader, in Info) (io.Reader, *checked) {
	c := newChecked(body, in)
	if _, ok := body.(io.Seeker); ok {
		return seekable{c}, c
	}
	return c, c
}
