package skills

import (
	"archive/tar"
	"archive/zip"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hanzoai/hanzod/config"
)

// Limits of a download.
const (
	maxDownload  = 256 << 20
	maxExtracted = 1 << 30
	maxMembers   = 50_000
	maxRedirects = 5
	dialTime     = 15 * time.Second
)

var (
	errPrivate  = errors.New("the address is not public")
	errScheme   = errors.New("only https is taken")
	errTooLarge = fmt.Errorf("it is larger than %d MiB", maxDownload>>20)
	errMembers  = fmt.Errorf("it holds more than %d files, or more than %d MiB", maxMembers, maxExtracted>>20)
	errMember   = errors.New("it holds a path that leads out of it, or something that is no file")
	errSum      = errors.New("its SHA-256 is another one")
	errTarget   = errors.New("targetDir leads out of the directory of the skill's tools")
)

// publicClient reaches public addresses over https, wherever names and redirects lead.
func publicClient() *http.Client {
	dialer := &net.Dialer{Timeout: dialTime, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return errPrivate
		}
		a := at.Addr().Unmap()
		if !a.IsGlobalUnicast() || a.IsPrivate() || shared.Contains(a) {
			return errPrivate
		}
		return nil
	}}
	return &http.Client{
		Transport: &http.Transport{DialContext: dialer.DialContext, TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: dialTime, ForceAttemptHTTP2: true},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("it redirects too often")
			}
			if r.URL.Scheme != "https" {
				return errScheme
			}
			return nil
		},
	}
}

// shared is the network of carriers and of tailnets.
var shared = netip.MustParsePrefix("100.64.0.0/10")

// download fetches a file and unpacks it, all beside its place, and puts it there as a whole.
func (s *Service) download(ctx context.Context, c *config.Config, f found, spec Installer) InstallOut {
	to, err := s.fetch(ctx, c, f, spec)
	if err != nil {
		// The URL is not told again: it may hold a key.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = errors.New("timed out")
		}
		return InstallOut{Message: "Download failed: " + err.Error()}
	}
	return InstallOut{OK: true, Message: "Downloaded to " + to}
}

func (s *Service) fetch(ctx context.Context, c *config.Config, f found, spec Installer) (to string, err error) {
	u, err := url.Parse(spec.URL)
	switch {
	case spec.URL == "":
		return "", errors.New("missing download url")
	case err != nil || u.Host == "":
		return "", errors.New("invalid download url")
	case u.Scheme != "https":
		return "", errScheme
	}
	base := toolsDir(c, f.meta.key())
	target := "."
	if spec.TargetDir != "" {
		if target = filepath.FromSlash(spec.TargetDir); !filepath.IsLocal(target) {
			return "", errTarget
		}
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return "", err
	}
	defer root.Close()
	stage := ".new-" + rand.Text()
	if err := root.Mkdir(stage, 0o700); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(stage)) }()

	name := path.Base(u.Path)
	if name == "." || name == "/" || !filepath.IsLocal(name) || strings.ContainsAny(name, `\:`) {
		name = "download"
	}
	file := filepath.Join(stage, "file")
	if err := s.get(ctx, u, root, file, spec.SHA256); err != nil {
		return "", err
	}
	kind := spec.Archive
	if kind == "" {
		kind = archiveOf(name)
	}
	unpacked := filepath.Join(stage, "out")
	if err := root.Mkdir(unpacked, 0o700); err != nil {
		return "", err
	}
	if kind != "" && (spec.Extract == nil || *spec.Extract) {
		if err := unpack(ctx, root, file, unpacked, kind, spec.Strip); err != nil {
			return "", fmt.Errorf("the archive cannot be unpacked: %w", err)
		}
	} else if err := root.Rename(file, filepath.Join(unpacked, name)); err != nil {
		return "", err
	}
	return filepath.Join(base, target), place(root, unpacked, target)
}

// get fetches a file, of which every byte is counted and summed.
func (s *Service) get(ctx context.Context, u *url.URL, root *os.Root, file, sum string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "hanzod")
	resp, err := s.cfg.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	if resp.ContentLength > maxDownload {
		return errTooLarge
	}
	f, err := root.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(resp.Body, maxDownload+1))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return err
	case n > maxDownload:
		return errTooLarge
	case sum != "" && sum != hex.EncodeToString(h.Sum(nil)):
		return errSum
	}
	return nil
}

func archiveOf(name string) string {
	name = strings.ToLower(name)
	for _, ext := range []string{"tar.gz", "tgz", "tar.bz2", "tbz2", "zip", "tar"} {
		if strings.HasSuffix(name, "."+ext) {
			return ext
		}
	}
	return ""
}

// unpack unpacks an archive: files and directories only, each inside, all of them counted.
func unpack(ctx context.Context, root *os.Root, file, to, kind string, strip int) error {
	f, err := root.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	out := &unpacker{ctx: ctx, root: root, to: to, strip: strip, bytes: maxExtracted, members: maxMembers}
	var stream io.Reader = f
	switch kind {
	case "zip":
		st, err := f.Stat()
		if err != nil {
			return err
		}
		return out.zip(f, st.Size())
	case "tar.gz", "tgz":
		if stream, err = gzip.NewReader(f); err != nil {
			return err
		}
	case "tar.bz2", "tbz2":
		stream = bzip2.NewReader(f)
	case "tar":
	default:
		return fmt.Errorf("unknown archive %q", kind)
	}
	return out.tar(stream)
}

type unpacker struct {
	ctx     context.Context //nolint:containedctx // of one call
	root    *os.Root
	to      string
	strip   int
	bytes   int64
	members int
}

func (u *unpacker) tar(r io.Reader) error {
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir:
		case tar.TypeXGlobalHeader:
			continue
		default:
			return errMember
		}
		if err := u.member(h.Name, h.Typeflag == tar.TypeDir, h.Mode&0o111 != 0, t); err != nil {
			return err
		}
	}
}

func (u *unpacker) zip(r io.ReaderAt, size int64) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return err
	}
	for _, m := range z.File {
		mode := m.Mode()
		if !mode.IsDir() && !mode.IsRegular() {
			return errMember
		}
		if err := u.zipped(m); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpacker) zipped(m *zip.File) error {
	if m.Mode().IsDir() {
		return u.member(m.Name, true, false, nil)
	}
	r, err := m.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	return u.member(m.Name, false, m.Mode()&0o111 != 0, r)
}

// member writes one file or directory of an archive.
func (u *unpacker) member(name string, dir, executable bool, r io.Reader) error {
	if u.members--; u.members < 0 {
		return errMembers
	}
	if err := u.ctx.Err(); err != nil {
		return err
	}
	name = strings.TrimSuffix(name, "/")
	if name == "" || name == "." || name == "./." {
		return nil
	}
	if strings.ContainsAny(name, "\\:\x00") || !filepath.IsLocal(filepath.FromSlash(name)) {
		return errMember
	}
	parts := strings.Split(path.Clean(name), "/")
	if len(parts) <= u.strip {
		return nil
	}
	at := filepath.Join(append([]string{u.to}, parts[u.strip:]...)...)
	if dir {
		return u.root.MkdirAll(at, 0o700)
	}
	if err := u.root.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		return err
	}
	mode := os.FileMode(0o600)
	if executable {
		mode = 0o700
	}
	f, err := u.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(r, u.bytes+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if u.bytes -= n; err == nil && u.bytes < 0 {
		err = errMembers
	}
	return err
}

// place moves what was unpacked to its place, over what was there under the same names.
func place(root *os.Root, from, to string) error {
	if err := root.MkdirAll(to, 0o700); err != nil {
		return err
	}
	f, err := root.Open(from)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	_ = f.Close() // nothing was written
	if err != nil {
		return err
	}
	for _, e := range entries {
		at := filepath.Join(to, e.Name())
		if err := root.RemoveAll(at); err != nil {
			return err
		}
		if err := root.Rename(filepath.Join(from, e.Name()), at); err != nil {
			return err
		}
	}
	return nil
}
