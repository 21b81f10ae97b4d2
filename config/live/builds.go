package live

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// A directory of builds is what "make dist" makes: hanzod_<version>_<os>_<arch>.tar.gz, or the bare program
// under that name without an ending, and SHA256SUMS.
const (
	sumsName = "SHA256SUMS"
	program  = "hanzod"
	// maxBuild bounds a program, maxSums the file of checksums, maxBuilds the entries of the directory.
	maxBuild  = 512 << 20
	maxSums   = 1 << 20
	maxBuilds = 10_000
)

// build is one program in a directory of builds.
type build struct {
	version, file, sum string
}

// newest finds the newest build of a variant (hanzod, or hanzod-tailnet) for a platform that is newer than a version. ok is false when there is none.
func newest(dir, variant, goos, goarch, channel, current string) (b build, ok bool, err error) {
	sums, err := readSums(filepath.Join(dir, sumsName))
	if err != nil {
		return build{}, false, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return build{}, false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(maxBuilds)
	if err != nil && !errors.Is(err, io.EOF) {
		return build{}, false, err
	}
	for _, name := range names {
		version, named := strings.CutPrefix(strings.TrimSuffix(name, ".tar.gz"), variant+"_")
		version, fits := strings.CutSuffix(version, "_"+goos+"_"+goarch)
		if !named || !fits || !hasChannel(version, channel) {
			continue
		}
		if !newer(version, current) || ok && !newer(version, b.version) {
			continue
		}
		b, ok = build{version: version, file: filepath.Join(dir, name), sum: sums[name]}, true
	}
	if ok && b.sum == "" {
		return build{}, false, fmt.Errorf("%s has no checksum for %s; only builds with one are used", sumsName, filepath.Base(b.file))
	}
	return b, ok, nil
}

// hasChannel reports whether a version is one of the channel: stable ones have nothing behind a hyphen.
func hasChannel(version, channel string) bool {
	if _, _, known := parseVersion(version); !known {
		return false
	}
	_, pre, _ := parseVersion(version)
	return pre == "" || channel == "beta" && !strings.HasPrefix(pre, "dev") || channel == "dev"
}

// readSums reads the checksums of a directory, as sha256sum writes them.
func readSums(file string) (map[string]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no %s in the directory of builds", sumsName)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	out := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(f, maxSums))
	for lines.Scan() {
		sum, name, ok := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		if ok && len(sum) == hex.EncodedLen(sha256.Size) {
			out[strings.TrimLeft(name, " *")] = strings.ToLower(sum)
		}
	}
	return out, lines.Err()
}

// take verifies a build and writes its program into a directory, where nobody else may change it, and
// returns its path.
func (b build) take(into string) (string, error) {
	st, err := os.Lstat(b.file)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() || st.Size() > maxBuild {
		return "", fmt.Errorf("%s is not a regular file of at most %d bytes", b.file, maxBuild)
	}
	// What was verified is what is used: the copy, and not the file that somebody may replace meanwhile.
	copied := filepath.Join(into, "build")
	if err := copyVerified(b.file, copied, b.sum); err != nil {
		return "", err
	}
	if !strings.HasSuffix(b.file, ".tar.gz") {
		return copied, os.Chmod(copied, 0o700) //nolint:gosec // it is a program
	}
	f, err := os.Open(copied)
	if err != nil {
		return "", err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return "", err
	}
	defer z.Close()
	archive := tar.NewReader(z)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("there is no %s in %s", program, filepath.Base(b.file))
		}
		if err != nil {
			return "", err
		}
		if h.Typeflag != tar.TypeReg || path.Base(h.Name) != program || strings.Count(h.Name, "/") > 1 {
			continue
		}
		if h.Size > maxBuild {
			return "", fmt.Errorf("the program in %s is larger than %d bytes", filepath.Base(b.file), maxBuild)
		}
		to := filepath.Join(into, program)
		return to, writeProgram(to, io.LimitReader(archive, h.Size))
	}
}

func copyVerified(from, to, sum string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if err := writeProgram(to, io.TeeReader(io.LimitReader(f, maxBuild+1), h)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return fmt.Errorf("the checksum of %s is %s, and not %s as %s says", filepath.Base(from), got, sum, sumsName)
	}
	return nil
}

func writeProgram(to string, from io.Reader) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700) //nolint:gosec // it is a program
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// newer compares two versions as semantic versions; what is none is older than all.
func newer(a, b string) bool {
	an, ap, aok := parseVersion(a)
	bn, bp, bok := parseVersion(b)
	if !aok || !bok {
		return aok && !bok
	}
	for i := range an {
		if an[i] != bn[i] {
			return an[i] > bn[i]
		}
	}
	switch {
	case ap == bp:
		return false
	case ap == "" || bp == "":
		return ap == "" // a version is newer than what came before it
	}
	return laterPart(ap, bp)
}

// laterPart compares what stands behind the hyphens, part by part, numbers as numbers.
func laterPart(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		if as[i] == bs[i] {
			continue
		}
		x, xerr := strconv.ParseUint(as[i], 10, 64)
		y, yerr := strconv.ParseUint(bs[i], 10, 64)
		switch {
		case xerr == nil && yerr == nil:
			return x > y
		case xerr == nil || yerr == nil:
			return yerr == nil
		}
		return as[i] > bs[i]
	}
	return len(as) > len(bs)
}

func parseVersion(s string) (n [3]uint64, pre string, ok bool) {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "v"), "+")
	s, pre, _ = strings.Cut(s, "-")
	parts := strings.Split(s, ".")
	if len(parts) != len(n) {
		return n, "", false
	}
	for i, p := range parts {
		var err error
		if n[i], err = strconv.ParseUint(p, 10, 64); err != nil {
			return n, "", false
		}
	}
	return n, pre, true
}
