package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// archive writes the files of a platform: a zip for Windows, else a tar.gz. Owners, times and order are the
// same each time.
func archive(dir string, v variant, p platform, s *source, files []file) error {
	base := fmt.Sprintf("%s_%s_%s_%s", v.name, s.version, p.os, p.arch)
	files = slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.name, b.name) })
	var b bytes.Buffer
	write, ending := tarGz, ".tar.gz"
	if p.os == "windows" {
		write, ending = zipped, ".zip"
	}
	if err := write(&b, base, s, files); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, base+ending), b.Bytes(), 0o644)
}

func tarGz(b *bytes.Buffer, base string, s *source, files []file) error {
	z, err := gzip.NewWriterLevel(b, gzip.BestCompression)
	if err != nil {
		return err
	}
	w := tar.NewWriter(z)
	for _, f := range files {
		h := &tar.Header{Name: base + "/" + f.name, Mode: int64(f.mode), Size: int64(len(f.text)), ModTime: s.date, Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(f.text); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return z.Close()
}

func zipped(b *bytes.Buffer, base string, s *source, files []file) error {
	w := zip.NewWriter(b)
	for _, f := range files {
		h := &zip.FileHeader{Name: base + "/" + f.name, Method: zip.Deflate, Modified: s.date}
		h.SetMode(f.mode)
		to, err := w.CreateHeader(h)
		if err != nil {
			return err
		}
		if _, err := to.Write(f.text); err != nil {
			return err
		}
	}
	return w.Close()
}

// gz compresses a file as packages have it: without a name and a time.
func gz(text []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
