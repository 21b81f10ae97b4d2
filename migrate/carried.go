package migrate

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	partFiles = "files"
	// dotenvFile holds variables, which package config reads.
	dotenvFile = ".env"
	// carriedDir holds what the original has and hanzod has no use for: an export puts it back.
	carriedDir = "carried"
	// maxDepth bounds how deep directories are followed.
	maxDepth = 64
	// maxCarried bounds one file: a sparse file would fill the disk, and what is that large is better moved by hand.
	maxCarried = 4 << 30
)

// elsewhere are files that other parts move, or that mean nothing anywhere else; a name that ends in a slash is a
// directory with all that is in it.
var elsewhere = []string{
	pairedDevices, pendingDevices, pairedNodes, pendingNodes, registrations, voiceWakeFile, approvalsFile, cronJobs, cronLogs + "/", sessionsDir + "/", exportName,
}

// behind are what stays behind, and why.
var behind = []struct{ name, why string }{
	{"logs/", "logs stay where they were written"},
	{"cache/", "it is made anew where it is missed"},
	{"tmp/", "it is made anew where it is missed"},
	{"browser/", "profiles of a browser belong to the program that made them"},
	{"completions/", "hanzod and hanzoctl bring their own"},
	{"sandboxes/", "sandboxes belong to the containers that the original runs"},
	{"sandbox/", "sandboxes belong to the containers that the original runs"},
	{"exec-approvals.sock", "a socket belongs to the program that listens on it"},
	{"restart-sentinel.json", "it is of a restart that is over"},
	{"update-check.json", "it is of the original's own updates"},
}

// usedHere are directories that hanzod uses under the same names: they are not carried, but moved.
var usedHere = []string{"skills", agentsDir}

// place is where a file of the source goes; why says why it stays behind, and both are empty for what is moved elsewhere.
func (r *run) place(name string, dir bool) (to, why string) {
	if dir {
		name += "/"
	}
	for _, x := range elsewhere {
		if name == x || strings.HasSuffix(x, "/") && strings.HasPrefix(name, x) {
			return "", ""
		}
	}
	for _, x := range behind {
		if name == x.name || strings.HasSuffix(x.name, "/") && strings.HasPrefix(name, x.name) {
			return "", x.why
		}
	}
	first, rest, _ := strings.Cut(name, "/")
	base := path.Base(name)
	switch {
	case dir && (base == "node_modules" || base == ".git" && rest == ""):
		return "", "it is installed anew where it is missed"
	case dir && (first == "workspace" || strings.HasPrefix(first, "workspace-")):
		return "", "workspaces stay where they are, and the configuration names them"
	case first == agentsDir && strings.Count(name, "/") >= 2 && strings.Split(name, "/")[2] == sessionsDir:
		return "", "" // sessions
	case strings.HasSuffix(base, ".lock"), strings.HasSuffix(base, ".sock"), strings.HasSuffix(base, ".tmp"):
		return "", "locks, sockets and half-written files mean nothing elsewhere"
	case rest == "" && (slices.Contains(legacyConfigs, first) || first == configName):
		return "", ""
	case rest == "" && strings.HasPrefix(first, "openclaw.json."), strings.HasPrefix(name, cronJobs+"."):
		return "", "a copy of before the last change; the original makes its own"
	}
	name = strings.TrimSuffix(name, "/")
	if rel := filepath.Join(r.Source, filepath.FromSlash(name)); slices.Contains(r.config.Includes, rel) && !reserved(first) {
		return name, "" // the configuration names it from where it stands
	}
	if slices.Contains(usedHere, first) || name == dotenvFile {
		return name, ""
	}
	return path.Join(carriedDir, name), ""
}

// reserved tells whether a name in the state directory is one of hanzod's own.
func reserved(first string) bool {
	switch first {
	case "hanzod.db", "hanzod.db.new", "hanzod.lock", "audit.head", "journal", carriedDir, configName, approvalsFile, manifestName, "policy.json", ".env":
		return true
	}
	return strings.HasPrefix(first, "hanzod")
}

// importFiles brings over what hanzod does not keep in its database.
func importFiles(ctx context.Context, r *run) error {
	m := &fileMover{r: r, target: r.target, gone: "it was removed here since the last time", tally: sessionTally{part: partFiles}}
	files, err := r.walk(ctx, &m.tally, r.place)
	if err == nil {
		err = m.all(ctx, files)
	}
	m.tally.report(r)
	return err
}

// exportFiles puts them back.
func exportFiles(ctx context.Context, r *run) error {
	m := &fileMover{r: r, target: r.target, tally: sessionTally{part: partFiles}}
	files, err := r.walk(ctx, &m.tally, func(name string, dir bool) (to, why string) {
		first, rest, _ := strings.Cut(name, "/")
		switch {
		case first == carriedDir:
			if dir && rest == "" {
				return name, ""
			}
			return rest, ""
		case first == agentsDir && strings.Count(name, "/") >= 2 && strings.Split(name, "/")[2] == sessionsDir:
			return "", ""
		case slices.Contains(usedHere, first), name == dotenvFile, slices.Contains(r.config.Includes, filepath.Join(r.Source, filepath.FromSlash(name))):
			return name, ""
		case dir && r.includesBelow(name):
			return name, ""
		}
		return "", "" // hanzod's own
	})
	if err == nil {
		err = m.all(ctx, files)
	}
	m.tally.report(r)
	return err
}

func (r *run) includesBelow(dir string) bool {
	at := filepath.Join(r.Source, filepath.FromSlash(dir)) + string(filepath.Separator)
	return slices.ContainsFunc(r.config.Includes, func(p string) bool { return strings.HasPrefix(p, at) })
}

// walk lists the files of the source that go somewhere. Links are not followed.
func (r *run) walk(ctx context.Context, tally *sessionTally, place func(name string, dir bool) (to, why string)) (out []sessionFile, err error) {
	var total int64
	err = fs.WalkDir(r.source.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if name == "." {
			return err
		}
		first, _, _ := strings.Cut(name, "/")
		if err != nil {
			tally.add(name, first, Fault, "it cannot be read: "+reason(err), 0)
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		to, why := place(name, d.IsDir())
		if why != "" {
			if d.IsDir() {
				tally.add(name, "", Left, why, 0)
				return fs.SkipDir
			}
			tally.add(name, first, Left, why, 0)
			return nil
		}
		if d.IsDir() {
			if to == "" {
				return fs.SkipDir
			}
			if strings.Count(name, "/") >= maxDepth {
				tally.add(name, "", Left, "it lies too deep", 0)
				return fs.SkipDir
			}
			return nil
		}
		if to == "" {
			return nil
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			tally.add(name, first, Left, "links are not followed; copy what it leads to by hand", 0)
			return nil
		case !d.Type().IsRegular():
			tally.add(name, first, Left, "it is no file", 0)
			return nil
		case strings.HasPrefix(path.Base(name), tempPrefix):
			return nil
		}
		st, err := d.Info()
		if err != nil {
			tally.add(name, first, Fault, "it cannot be read: "+reason(err), 0)
			return nil
		}
		if st.Size() > maxCarried {
			tally.add(name, first, Left, "it is larger than "+sizeText(maxCarried)+"; copy it by hand where it is needed", 0)
			return nil
		}
		if len(out) >= maxSessionFiles {
			return errors.New("there are too many files")
		}
		total += st.Size()
		out = append(out, sessionFile{root: r.source, from: name, to: to, size: st.Size()})
		return nil
	})
	r.expect(partFiles, total)
	return out, err
}
