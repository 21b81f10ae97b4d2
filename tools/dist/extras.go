package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// file is a file of an archive or a package; name has slashes.
type file struct {
	name string
	mode fs.FileMode
	text []byte
}

// extras are what comes with the programs of a variant: man pages, completions, units, licences.
type extras []file

// extras makes them. The programs themselves write the first three, in a build with the tag "docs".
func (s *source) extras(v variant, dir string) (extras, error) {
	tags := strings.Trim("docs,"+v.tags, ",")
	bin, out := filepath.Join(dir, "docs-bin"), filepath.Join(dir, "docs")
	if err := s.compile(tags, host, bin); err != nil {
		return nil, err
	}
	for _, name := range programs {
		if _, err := s.command([]string{fmt.Sprintf("SOURCE_DATE_EPOCH=%d", s.date.Unix())}, filepath.Join(bin, name), "docs", out); err != nil {
			return nil, err
		}
	}
	var all extras
	err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(out, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, file{filepath.ToSlash(name), 0o644, text})
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"LICENSE", "README.md"} {
		text, err := os.ReadFile(filepath.Join(s.root, name))
		if err != nil {
			return nil, err
		}
		all = append(all, file{name, 0o644, text})
	}
	notices, err := s.notices(v)
	if err != nil {
		return nil, err
	}
	return append(all, file{"THIRD-PARTY-NOTICES", 0o644, notices}), nil
}

// in returns the extras below a directory, without its name.
func (e extras) in(dir string) extras {
	var out extras
	for _, f := range e {
		if name, ok := strings.CutPrefix(f.name, dir+"/"); ok {
			out = append(out, file{name, f.mode, f.text})
		}
	}
	return out
}

// get returns one of the extras.
func (e extras) get(name string) []byte {
	i := slices.IndexFunc(e, func(f file) bool { return f.name == name })
	if i < 0 {
		panic("dist: there is no " + name)
	}
	return e[i].text
}

// forArchive are the extras that make sense on a platform.
func (e extras) forArchive(p platform) []file {
	var out []file
	for _, f := range e {
		switch top, _, _ := strings.Cut(f.name, "/"); {
		case top == "systemd" && p.os != "linux", top == "man" && p.os == "windows":
		case top == "completions" && (p.os == "windows") != strings.HasSuffix(f.name, ".ps1"):
		default:
			out = append(out, f)
		}
	}
	return out
}

// licence are the names of files that say under which conditions a module may be handed on.
var licence = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|authors)([._-].*)?$`)

// notices are the licences of all modules that the programs of a variant hold, on any platform.
func (s *source) notices(v variant) ([]byte, error) {
	// Of a module, what stands in its root and on the way to the packages that are used.
	found := map[string]map[string]bool{}
	for _, system := range []string{"linux", "darwin", "windows"} {
		args := []string{"list", "-deps", "-tags=" + v.tags, "-f", "{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}}\t{{.Dir}}\t{{$.Dir}}{{end}}{{end}}"}
		for _, p := range programs {
			args = append(args, "./cmd/"+p)
		}
		list, err := s.command([]string{"GOOS=" + system, "GOARCH=amd64"}, "go", args...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(list) {
			part := strings.Split(strings.TrimSpace(line), "\t")
			if len(part) != 3 {
				continue
			}
			name, top, dir := part[0], part[1], part[2]
			if found[name] == nil {
				found[name] = map[string]bool{}
			}
			for ; strings.HasPrefix(dir, top); dir = filepath.Dir(dir) {
				entries, err := os.ReadDir(dir)
				if err != nil {
					return nil, err
				}
				for _, e := range entries {
					if e.Type().IsRegular() && licence.MatchString(e.Name()) && !strings.HasSuffix(e.Name(), ".go") {
						found[name][filepath.Join(dir, e.Name())] = true
					}
				}
			}
		}
	}
	root, err := s.command(nil, "go", "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	found["Go "+s.goVersion] = map[string]bool{filepath.Join(root, "LICENSE"): true}
	found["noVNC"] = map[string]bool{filepath.Join(s.root, "runtime/rest/viewer/novnc/LICENSE.txt"): true}

	var b bytes.Buffer
	fmt.Fprintf(&b, "%s holds these modules, under these conditions.\n", v.name)
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if len(found[name]) == 0 {
			return nil, fmt.Errorf("%s has no licence that could be handed on", name)
		}
		files := make([]string, 0, len(found[name]))
		for f := range found[name] {
			files = append(files, f)
		}
		slices.Sort(files)
		var seen []string
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				return nil, err
			}
			if slices.Contains(seen, string(text)) {
				continue
			}
			seen = append(seen, string(text))
			fmt.Fprintf(&b, "\n%s\n%s, %s\n\n%s\n", strings.Repeat("=", 80), name, filepath.Base(f), bytes.TrimRight(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), " \n"))
		}
	}
	return b.Bytes(), nil
}
