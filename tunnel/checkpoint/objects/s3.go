package objects

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hanzoai/hanzod/errs"
)

// Limits of S3 servers.
const (
	connectTimeout = 10 * time.Second
	// stallTimeout ends a connection over which nothing moved for so long; the bridge waits as long.
	stallTimeout = 60 * time.Second
	// tries is how often a request is sent at the most; waits between them are at most a second.
	tries = 4
	// maxIdle bounds the connections that are kept for the next request.
	maxIdle = 4
	// idleTimeout is how long they are kept.
	idleTimeout = 30 * time.Second
	// checksumMeta is the metadata in which an object's checksum is kept.
	checksumMeta = "Sha256"
)

// Defaults of the environment (tunnel.md §1.15).
const (
	DefaultEndpoint = "https://s3.hanzo.ai"
	DefaultBucket   = "hanzo-sessions"
	DefaultRegion   = "us-east-1"
)

// S3Config is how an S3 server is reached.
type S3Config struct {
	// Endpoint is an http or https URL without a path; DefaultEndpoint when empty.
	Endpoint  string
	Bucket    string // DefaultBucket when empty
	Region    string // DefaultRegion when empty
	AccessKey string
	SecretKey string
	// VirtualHost puts the bucket into the host's name; else it is in the path, as it always is for addresses of IP.
	VirtualHost bool
	// CreateBucket makes Check create a bucket that does not exist.
	CreateBucket bool
	// Stall replaces stallTimeout when it is positive.
	Stall time.Duration
}

// FromEnv reads S3_ENDPOINT_URL, S3_BUCKET, S3_ACCESS_KEY and S3_SECRET_KEY. ErrNoCredentials when one of the
// last two is not set: they have no default.
func FromEnv(getenv func(string) string) (S3Config, error) {
	c := S3Config{Endpoint: getenv("S3_ENDPOINT_URL"), Bucket: getenv("S3_BUCKET"), AccessKey: getenv("S3_ACCESS_KEY"), SecretKey: getenv("S3_SECRET_KEY")}
	if c.AccessKey == "" || c.SecretKey == "" {
		return S3Config{}, ErrNoCredentials
	}
	return c, nil
}

// S3 is a bucket of an S3 server: signature version 4.
type S3 struct {
	c    S3Config
	host string
	tls  bool

	// core is made at the first use.
	core func() (*minio.Core, error)
}

// NewS3 checks the settings. It asks nobody.
func NewS3(c S3Config) (*S3, error) {
	if c.Endpoint == "" {
		c.Endpoint = DefaultEndpoint
	}
	if c.Bucket == "" {
		c.Bucket = DefaultBucket
	}
	if c.Region == "" {
		c.Region = DefaultRegion
	}
	if c.Stall <= 0 {
		c.Stall = stallTimeout
	}
	if c.AccessKey == "" || c.SecretKey == "" {
		return nil, ErrNoCredentials
	}
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil ||
		u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return nil, ErrConfig.WithText("the endpoint of an S3 server is an http or https URL with a host and nothing else, such as " + DefaultEndpoint)
	}
	if strings.ContainsAny(c.Bucket, "/\\ ") || len(c.Bucket) < 3 || len(c.Bucket) > 63 {
		return nil, ErrConfig.WithText("the name of a bucket has 3 to 63 characters and no slash")
	}
	s := &S3{c: c, host: u.Host, tls: u.Scheme == "https"}
	s.core = sync.OnceValues(s.dial)
	return s, nil
}

func (s *S3) dial() (*minio.Core, error) {
	d := &net.Dialer{Timeout: connectTimeout}
	lookup := minio.BucketLookupPath
	if host, _, err := net.SplitHostPort(s.host); s.c.VirtualHost && net.ParseIP(strings.Trim(s.host, "[]")) == nil && (err != nil || net.ParseIP(host) == nil) {
		lookup = minio.BucketLookupDNS
	}
	core, err := minio.NewCore(s.host, &minio.Options{
		Creds:        credentials.NewStaticV4(s.c.AccessKey, s.c.SecretKey, ""),
		Secure:       s.tls,
		Region:       s.c.Region,
		BucketLookup: lookup,
		MaxRetries:   tries,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := d.DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return &watched{Conn: c, stall: s.c.Stall}, nil
			},
			TLSHandshakeTimeout: connectTimeout,
			MaxIdleConns:        maxIdle,
			MaxIdleConnsPerHost: maxIdle,
			IdleConnTimeout:     min(idleTimeout, s.c.Stall),
			DisableCompression:  true,
		},
	})
	if err != nil {
		return nil, ErrConfig.Wrap(s.scrub(err))
	}
	return core, nil
}

// watched ends a connection on which nothing moves.
type watched struct {
	net.Conn
	stall time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	_ = w.SetReadDeadline(time.Now().Add(w.stall))
	return w.Conn.Read(p)
}

// Write bounds reads too: an answer is due so long after the last byte of a request.
func (w *watched) Write(p []byte) (int, error) {
	_ = w.SetDeadline(time.Now().Add(w.stall))
	return w.Conn.Write(p)
}

// scrub takes credentials out of an error's text.
func (s *S3) scrub(err error) error {
	text := err.Error()
	for _, secret := range []string{s.c.SecretKey, url.QueryEscape(s.c.SecretKey)} {
		if strings.Contains(text, secret) {
			return errors.New(strings.ReplaceAll(text, secret, "***"))
		}
	}
	return err
}

// failed words an answer of the server, or that there was none.
func (s *S3) failed(ctx context.Context, operation string, err error) error {
	if e, ok := errors.AsType[*errs.Error](err); ok {
		return e // of the body
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	answer := minio.ToErrorResponse(err)
	if answer.StatusCode == 0 && answer.Code == "" {
		f := &Failure{Operation: operation, Err: ErrStore.Wrap(s.scrub(err))}
		if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
			f.Message = fmt.Sprintf("Read timeout on endpoint URL: %q", s.endpoint())
		} else {
			f.Message = fmt.Sprintf("Could not connect to the endpoint URL: %q (%s)", s.endpoint(), s.reason(err))
		}
		return f
	}
	f := &Failure{Operation: operation, Code: answer.Code, Message: s.scrub(errors.New(answer.Message)).Error()}
	if strings.HasPrefix(operation, "Head") {
		// Such an answer has no body: clients of S3 know its status only.
		f.Code, f.Message = strconv.Itoa(answer.StatusCode), http.StatusText(answer.StatusCode)
	}
	switch {
	case answer.Code == minio.NoSuchKey || answer.Code == minio.NoSuchBucket || answer.StatusCode == http.StatusNotFound:
		f.Err = ErrNotFound
	case answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized:
		f.Err = ErrDenied
	default:
		f.Err = ErrStore
	}
	return f
}

// reason is the innermost cause, without the request's URL.
func (s *S3) reason(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return s.scrub(err).Error()
}

func (s *S3) endpoint() string { return strings.TrimSuffix(s.c.Endpoint, "/") + "/" + s.c.Bucket }

func (s *S3) Put(ctx context.Context, key string, body io.Reader, in Info) error {
	if err := errors.Join(CheckKey(key), checkInfo(in)); err != nil {
		return err
	}
	core, err := s.core()
	if err != nil {
		return err
	}
	opts := minio.PutObjectOptions{ContentType: in.ContentType}
	if in.SHA256 != "" {
		in.SHA256 = strings.ToLower(in.SHA256)
		opts.UserMetadata = map[string]string{checksumMeta: in.SHA256}
	}
	r, c := newBody(body, in)
	// One request: what arrives in part is no object, and leaves nothing behind.
	info, err := core.PutObject(ctx, s.c.Bucket, key, r, in.Size, "", in.SHA256, opts)
	if wrong := c.failed(); wrong != nil && ctx.Err() == nil {
		return wrong
	}
	if err != nil {
		return s.failed(ctx, "PutObject", err)
	}
	if info.Size != in.Size {
		return ErrContent.WithText("the server took another number of bytes")
	}
	return nil
}

func (s *S3) object(i minio.ObjectInfo) Object {
	o := Object{Key: i.Key, Size: i.Size, Modified: i.LastModified.UTC(), ContentType: i.ContentType}
	if sum := i.UserMetadata[checksumMeta]; len(sum) == 64 {
		if _, err := hex.DecodeString(sum); err == nil {
			o.SHA256 = sum
		}
	}
	return o
}

func (s *S3) Get(ctx context.Context, key string) (io.ReadCloser, Object, error) {
	if err := CheckKey(key); err != nil {
		return nil, Object{}, err
	}
	core, err := s.core()
	if err != nil {
		return nil, Object{}, err
	}
	body, info, _, err := core.GetObject(ctx, s.c.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, Object{}, s.failed(ctx, "GetObject", err)
	}
	o := s.object(info)
	o.Key = key
	return &exactly{r: &answered{ctx, s, body}, c: body, left: o.Size}, o, nil
}

// answered words what goes wrong while an object is read.
type answered struct {
	ctx  context.Context
	s    *S3
	body io.Reader
}

func (a *answered) Read(p []byte) (int, error) {
	n, err := a.body.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = a.s.failed(a.ctx, "GetObject", err)
	}
	return n, err
}

func (s *S3) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		core, err := s.core()
		if err != nil {
			yield(Object{}, err)
			return
		}
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		for i := range core.ListObjectsIter(ctx, s.c.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if i.Err != nil {
				yield(Object{}, s.failed(ctx, "ListObjectsV2", i.Err))
				return
			}
			if strings.HasSuffix(i.Key, "/") && i.Size == 0 {
				continue // a directory, as some servers show them
			}
			if !yield(s.object(i), nil) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(Object{}, context.Cause(ctx))
		}
	}
}

func (s *S3) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	core, err := s.core()
	if err != nil {
		return err
	}
	if err := core.RemoveObject(ctx, s.c.Bucket, key, minio.RemoveObjectOptions{}); err != nil {
		err = s.failed(ctx, "DeleteObject", err)
		if f, ok := errors.AsType[*Failure](err); ok && f.Code == minio.NoSuchKey {
			return nil
		}
		return err
	}
	return nil
}

func (s *S3) Stat(ctx context.Context, key string) (Object, error) {
	if err := CheckKey(key); err != nil {
		return Object{}, err
	}
	core, err := s.core()
	if err != nil {
		return Object{}, err
	}
	i, err := core.StatObject(ctx, s.c.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		return Object{}, s.failed(ctx, "HeadObject", err)
	}
	o := s.object(i)
	o.Key = key
	return o, nil
}

// Check asks for the bucket, as the bridge does before each checkpoint.
func (s *S3) Check(ctx context.Context) error {
	core, err := s.core()
	if err != nil {
		return err
	}
	there, err := core.BucketExists(ctx, s.c.Bucket)
	if err != nil {
		return s.failed(ctx, "HeadBucket", err)
	}
	if there {
		return nil
	}
	if !s.c.CreateBucket {
		return &Failure{Operation: "HeadBucket", Code: "404", Message: "Not Found", Err: ErrNotFound.WithText("there is no bucket " + s.c.Bucket + "; create it, or let it be created (createBucket)")}
	}
	err = core.MakeBucket(ctx, s.c.Bucket, minio.MakeBucketOptions{Region: s.c.Region})
	if err != nil {
		err = s.failed(ctx, "CreateBucket", err)
		if f, ok := errors.AsType[*Failure](err); ok && f.Code == "BucketAlreadyOwnedByYou" {
			return nil // another was faster
		}
		return err
	}
	return nil
}

// Bucket is the name of the bucket.
func (s *S3) Bucket() string { return s.c.Bucket }

// URL is s3://bucket/key (tunnel.md §1.9).
func (s *S3) URL(key string) string { return "s3://" + s.c.Bucket + "/" + key }
