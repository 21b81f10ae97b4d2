package main

import (
	"bytes"
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

const (
	homepage = "https://github.com/hanzoai/hanzod"
	summary  = "Runtime of a personal AI assistant"
	about    = `hanzod is a gateway that operators and nodes connect to, and a node host that
runs approved commands. hanzoctl is its command line.`
)

// maintainer is whom packages name. Who hands them out says it with -maintainer; the address here reaches
// nobody.
var maintainer = "The hanzod authors <hanzod@localhost>"

//go:embed scripts
var scripts embed.FS

// pack writes the packages of Debian and of RPM systems.
func pack(dir string, v variant, p platform, s *source, programs []file, e extras) error {
	work, err := os.MkdirTemp("", "hanzod-pack")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	for _, kind := range []struct {
		name string
		nfpm.Packager
	}{{"deb", deb.Default}, {"rpm", rpm.DefaultRPM}} {
		all, err := layout(kind.name, v, s, programs, e)
		if err != nil {
			return err
		}
		info, err := describe(kind.name, filepath.Join(work, kind.name), v, p, s, all)
		if err != nil {
			return err
		}
		if err := nfpm.Validate(info); err != nil {
			return err
		}
		var b bytes.Buffer
		if err := kind.Package(info, &b); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, kind.ConventionalFileName(info)), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// layout is where the files of a package go.
func layout(kind string, v variant, s *source, programs []file, e extras) ([]file, error) {
	var all []file
	for _, f := range programs {
		all = append(all, file{"/usr/bin/" + f.name, f.mode, f.text})
	}
	for _, f := range e.in("systemd") {
		all = append(all, file{"/usr/lib/systemd/" + f.name, f.mode, f.text})
	}
	zsh := "/usr/share/zsh/vendor-completions/"
	if kind == "rpm" {
		zsh = "/usr/share/zsh/site-functions/"
	}
	for _, f := range e.in("completions") {
		switch path.Ext(f.name) {
		case ".bash":
			all = append(all, file{"/usr/share/bash-completion/completions/" + strings.TrimSuffix(f.name, ".bash"), f.mode, f.text})
		case ".fish":
			all = append(all, file{"/usr/share/fish/vendor_completions.d/" + f.name, f.mode, f.text})
		case "":
			all = append(all, file{zsh + f.name, f.mode, f.text})
		}
	}
	for _, f := range e.in("man") {
		text, err := gz(f.text)
		if err != nil {
			return nil, err
		}
		all = append(all, file{"/usr/share/man/man" + path.Ext(f.name)[1:] + "/" + f.name + ".gz", f.mode, text})
	}
	docs := "/usr/share/doc/" + v.name + "/"
	notices, err := gz(e.get("THIRD-PARTY-NOTICES"))
	if err != nil {
		return nil, err
	}
	all = append(all, file{docs + "THIRD-PARTY-NOTICES.gz", 0o644, notices}, file{docs + "README.md", 0o644, e.get("README.md")})
	if kind == "rpm" {
		return append(all, file{"/usr/share/licenses/" + v.name + "/LICENSE", 0o644, e.get("LICENSE")}), nil
	}
	changes, err := gz(fmt.Appendf(nil, "%s (%s) unstable; urgency=medium\n\n  * See %s/releases\n\n -- %s  %s\n",
		v.name, strings.Replace(s.version, "-", "~", 1), homepage, maintainer, s.date.Format(time.RFC1123Z)))
	if err != nil {
		return nil, err
	}
	copyright := fmt.Sprintf("Source: %s\nThe modules that the programs hold, and their licences: %sTHIRD-PARTY-NOTICES.gz\n\n%s", homepage, docs, e.get("LICENSE"))
	return append(all, file{docs + "changelog.gz", 0o644, changes}, file{docs + "copyright", 0o644, []byte(copyright)}), nil
}

// describe is what the package says of itself. nfpm reads files, so those of the package are put into work.
func describe(kind, work string, v variant, p platform, s *source, all []file) (*nfpm.Info, error) {
	info := &nfpm.Info{
		Name: v.name, Arch: p.arch, Platform: "linux", Version: s.version, Release: map[string]string{"rpm": "1"}[kind],
		Section: "net", Priority: "optional", Maintainer: maintainer, Vendor: "Hanzo", Homepage: homepage, License: "MIT",
		Description: about, MTime: s.date, DisableGlobbing: true,
		Overridables: nfpm.Overridables{
			// Services reach others by TLS; a daemon that is only local does without.
			Recommends: []string{"ca-certificates"}, Umask: 0o022,
			RPM: nfpm.RPM{BuildHost: "localhost", Summary: summary, Group: "Applications/Internet"},
		},
	}
	if kind == "deb" { // where the summary is the first line
		info.Description = summary + "\n" + about
	}
	// They hold the same files, so there is one of them at a time.
	for _, other := range variants {
		if other.name != v.name {
			info.Conflicts = append(info.Conflicts, other.name)
			if kind == "deb" {
				info.Replaces = append(info.Replaces, other.name)
			}
		}
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		name string
		into *string
	}{{"postinstall", &info.Scripts.PostInstall}, {"preremove", &info.Scripts.PreRemove}, {"postremove", &info.Scripts.PostRemove}} {
		text, err := scripts.ReadFile("scripts/" + x.name)
		if err != nil {
			return nil, err
		}
		*x.into = filepath.Join(work, x.name)
		if err := os.WriteFile(*x.into, text, 0o644); err != nil {
			return nil, err
		}
	}
	for _, f := range all {
		from := filepath.Join(work, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(from), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(from, f.text, f.mode); err != nil {
			return nil, err
		}
		info.Contents = append(info.Contents, &files.Content{
			Source: from, Destination: f.name,
			FileInfo: &files.ContentFileInfo{Owner: "root", Group: "root", Mode: f.mode, MTime: s.date},
		})
	}
	return nfpm.WithDefaults(info), nil
}
