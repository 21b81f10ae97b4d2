package checks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/live"
	"github.com/hanzoai/hanzod/runtime/backup"
	"github.com/hanzoai/hanzod/runtime/disk"
	"github.com/hanzoai/hanzod/runtime/listen"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system/doctor"
)

const (
	// noSpace is where a disk is as good as full, littleSpace where it soon may be, in bytes.
	noSpace     = 32 << 20
	littleSpace = 256 << 20
	// largeState is where people may want to know what takes the room.
	largeState = 1 << 30
	// maxWalked bounds the files that are counted.
	maxWalked = 10_000
)

func stateDir(_ context.Context, p Place) []doctor.Finding {
	fi, err := os.Stat(p.StateDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []doctor.Finding{doctor.Of("state.dir", doctor.Note, "there is no state directory "+p.StateDir,
			"the first start makes it: hanzod run, or hanzod service install").WithMend(func() (string, error) {
			return "made " + p.StateDir, os.MkdirAll(p.StateDir, 0o700)
		})}
	case err != nil:
		return one("state.dir", doctor.Error, "the state directory cannot be looked at: "+err.Error(), "run this as the user of the daemon")
	case !fi.IsDir():
		return one("state.dir", doctor.Error, p.StateDir+" is no directory", "move it away, or choose another with HANZOD_STATE_DIR")
	}
	out := ok("state.dir", p.StateDir)
	if uid, mine, known := ownerOf(fi); known && !mine {
		out = one("state.dir", doctor.Error, fmt.Sprintf("%s belongs to user %s, not to the one who asks", p.StateDir, uid),
			"run this as that user, or give it to this one: chown -R "+userName()+" "+quote(p.StateDir))
	}
	if runtime.GOOS == "windows" {
		return out
	}
	if mode := fi.Mode().Perm(); mode&0o077 != 0 {
		s := doctor.Warning
		if mode&0o022 != 0 {
			s = doctor.Error // the daemon refuses its socket there
		}
		return append(out, doctor.Of("state.mode", s, fmt.Sprintf("others can get into %s (mode %04o)", p.StateDir, mode),
			"hanzod doctor --fix, or: chmod 700 "+quote(p.StateDir)).WithMend(func() (string, error) { return restrict(p.StateDir, true) }))
	}
	return append(out, doctor.Of("state.mode", doctor.OK, "only its owner can enter it", ""))
}

// secretFiles are the files whose content lets somebody act as somebody, by absolute path.
func secretFiles(p Place) []string {
	files := []string{}
	for _, name := range []string{store.FileName, "audit.head", "exec-approvals.json", "policy.json", "node.json", "identity/device.json"} {
		files = append(files, filepath.Join(p.StateDir, filepath.FromSlash(name)))
	}
	files = append(files, p.ConfigPath)
	_, key := listen.DefaultTLSFiles(p.StateDir)
	if c := p.Config; c != nil {
		files = append(files, c.Includes...)
		if c.Gateway.TLS.KeyPath != "" {
			key = c.Gateway.TLS.KeyPath
		}
	}
	return append(files, key)
}

func stateFiles(_ context.Context, p Place) []doctor.Finding {
	if runtime.GOOS == "windows" {
		return nil
	}
	var out []doctor.Finding
	n := 0
	for _, file := range secretFiles(p) {
		fi, err := os.Lstat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			out = append(out, one("state.files", doctor.Warning, "cannot be looked at: "+err.Error(), "run this as the user of the daemon")...)
			continue
		}
		n++
		link := fi.Mode()&fs.ModeSymlink != 0
		if link {
			if fi, err = os.Stat(file); err != nil {
				out = append(out, one("state.files", doctor.Error, file+" is a link to nothing", "put the file there, or remove the link")...)
				continue
			}
		}
		if !fi.Mode().IsRegular() {
			out = append(out, one("state.files", doctor.Error, file+" is not a regular file", "move it away: hanzod makes what it needs")...)
			continue
		}
		mode := fi.Mode().Perm()
		if mode&0o077 != 0 {
			what := fmt.Sprintf("others can read or write %s (mode %04o)", file, mode)
			f := doctor.Of("state.files", doctor.Error, what, "hanzod doctor --fix, or: chmod 600 "+quote(file))
			if link {
				f.Next = "it is a link; see where to, and: chmod 600 " + quote(file)
			} else {
				f = f.WithMend(func() (string, error) { return restrict(file, false) })
			}
			out = append(out, f)
		}
		if uid, mine, known := ownerOf(fi); known && !mine && uid != "0" {
			out = append(out, one("state.files", doctor.Error, fmt.Sprintf("%s belongs to user %s", file, uid), "chown "+userName()+" "+quote(file))...)
		}
	}
	if len(out) == 0 {
		return ok("state.files", fmt.Sprintf("only their owner can read %d files with secrets", n))
	}
	return out
}

func space(_ context.Context, p Place) []doctor.Finding {
	s, err := disk.Of(p.StateDir)
	if err != nil {
		return nil // state.dir says so
	}
	what := fmt.Sprintf("%s free of %s on the disk of the state", size(s.Free), size(s.Total))
	next := "free some room: the daemon stops when it cannot write; old logs and replaced-* directories are in " + p.StateDir
	switch {
	case s.Free < noSpace:
		return one("state.space", doctor.Error, what, next)
	case s.Free < littleSpace:
		return one("state.space", doctor.Warning, what, next)
	}
	return ok("state.space", what)
}

func diskWorks(_ context.Context, p Place) []doctor.Finding {
	if fi, err := os.Stat(p.StateDir); err != nil || !fi.IsDir() {
		return nil
	}
	if err := disk.Works(p.StateDir); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return one("state.disk", doctor.Warning, "whether the disk locks and syncs was not tried: "+err.Error(), "run this as the user of the daemon")
		}
		return one("state.disk", doctor.Error, err.Error(), "put the state on a local disk, with HANZOD_STATE_DIR or --state-dir")
	}
	return ok("state.disk", "locks and syncs")
}

func sizes(ctx context.Context, p Place) []doctor.Finding {
	var db, logs, replaced uint64
	dirs, seen := 0, 0
	err := filepath.WalkDir(p.StateDir, func(name string, d fs.DirEntry, err error) error {
		if seen++; seen > maxWalked || ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is not counted
		}
		rel, err := filepath.Rel(p.StateDir, name)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		first, _, nested := strings.Cut(filepath.ToSlash(rel), "/")
		if d.IsDir() {
			if !nested && strings.HasPrefix(first, "replaced-") {
				dirs++
			}
			return nil
		}
		fi, err := d.Info()
		if err != nil || !fi.Mode().IsRegular() {
			return nil //nolint:nilerr // the same
		}
		switch {
		case rel == store.FileName:
			db = uint64(fi.Size())
		case first == "logs":
			logs += uint64(fi.Size())
		case strings.HasPrefix(first, "replaced-"):
			replaced += uint64(fi.Size())
		}
		return nil
	})
	if err != nil {
		return nil
	}
	what := fmt.Sprintf("database %s, logs %s", size(db), size(logs))
	var out []doctor.Finding
	switch {
	case db > largeState:
		out = one("state.size", doctor.Note, what, "bound the audit log with audit.maxRows, audit.maxBytes and audit.keepDays")
	case logs > largeState:
		out = one("state.size", doctor.Note, what, "bound them with logging.maxFileBytes")
	default:
		out = ok("state.size", what)
	}
	if dirs > 0 {
		out = append(out, one("state.size", doctor.Note, fmt.Sprintf("states that were replaced by restores take %s in %d directories", size(replaced), dirs),
			"when they are not needed any more: rm -r "+quote(p.StateDir)+"/replaced-*")...)
	}
	return out
}

func unfinished(_ context.Context, p Place) []doctor.Finding {
	if backup.Pending(p.StateDir) {
		return one("state.restore", doctor.Warning, "a restore was cut off; its new state is whole and waits", "start the daemon, which finishes it: hanzod run, or hanzod service start")
	}
	if _, err := os.Lstat(filepath.Join(p.StateDir, ".restore")); err == nil {
		if h, err := store.WhoHolds(p.StateDir); err == nil && !h.Held {
			return one("state.restore", doctor.Note, "a restore was cut off before anything changed", "restore again, which removes what is left of it, or: rm -r "+quote(p.StateDir+"/.restore"))
		}
		return nil
	}
	return ok("state.restore", "no restore waits")
}

func foreign(_ context.Context, p Place) []doctor.Finding {
	if p.Config == nil || p.Config.LegacyDir == "" {
		return nil
	}
	return one("state.foreign", doctor.Note, p.Config.LegacyDir+" holds the state of an older gateway; hanzod leaves it alone", "bring it over: hanzod migrate")
}

func database(ctx context.Context, p Place) []doctor.Finding {
	exam, err := p.Examine(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("store", "there is no database yet")
	case errors.Is(err, store.ErrLocked):
		return nil // the daemon that has it open looks itself
	case err != nil:
		return one("store", doctor.Warning, "the database cannot be looked at: "+err.Error(), "run this as the user of the daemon")
	}
	var out []doctor.Finding
	next := "hanzod restore FILE, from a backup; or move " + quote(exam.Path) + " away to start empty"
	for _, f := range exam.Faults {
		out = append(out, one("store", doctor.Error, firstLine(f.Error()), next)...)
	}
	switch {
	case len(out) > 0:
	case exam.Partial && !exam.Pages:
		out = ok("store", fmt.Sprintf("%s; as far as it was read in time, it is whole", size(uint64(exam.Size))))
	case exam.Partial:
		out = ok("store", fmt.Sprintf("%s; all pages, and the records that were read in time, are whole", size(uint64(exam.Size))))
	default:
		out = ok("store", fmt.Sprintf("%s, whole", size(uint64(exam.Size))))
	}
	switch {
	case exam.Schema > exam.Known && exam.Readable <= exam.Known && len(exam.Faults) == 0:
		out = append(out, one("store.schema", doctor.Note, fmt.Sprintf("the database is of a newer hanzod (schema %d; this one knows %d), which lets this one use it", exam.Schema, exam.Known), "")...)
	case exam.Schema > exam.Known:
		out = append(out, one("store.schema", doctor.Error, fmt.Sprintf("the database was written by a newer hanzod (schema %d; this one knows %d)", exam.Schema, exam.Known),
			"install that version again, or restore a backup from before the upgrade")...)
	case exam.Pages && exam.Schema < exam.Known && len(exam.Faults) == 0:
		out = append(out, one("store.schema", doctor.Note, fmt.Sprintf("the database is of schema %d; the next start brings it to %d", exam.Schema, exam.Known), "hanzod backup FILE before, to be able to go back")...)
	case exam.Pages && len(exam.Faults) == 0:
		out = append(out, ok("store.schema", fmt.Sprintf("schema %d", exam.Schema))...)
	}
	if h, a := exam.AuditHead, exam.Anchor; h != nil {
		switch {
		case a != nil && (a.Seq > h.Seq || a.Seq == h.Seq && a.Hash != h.Hash):
			out = append(out, one("audit", doctor.Error, fmt.Sprintf("the audit log ends at row %d, and row %d was written: rows are gone from its end, or an older database was put in place", h.Seq, a.Seq),
				"if nobody restored the database by hand, find out who did: hanzoctl audit verify")...)
		case exam.Records && len(exam.Faults) == 0:
			out = append(out, ok("audit", fmt.Sprintf("whole up to row %d", h.Seq))...)
		}
	}
	return out
}

func configuration(_ context.Context, p Place) []doctor.Finding {
	if p.ConfigErr != nil {
		invalid, isInvalid := errors.AsType[*config.Invalid](p.ConfigErr)
		if !isInvalid {
			return one("config", doctor.Error, p.ConfigErr.Error(), "make "+quote(p.ConfigPath)+" readable for the user of the daemon")
		}
		var out []doctor.Finding
		next := "correct it; the daemon does not start with it"
		if good, err := live.LoadGood(p.StateDir); err == nil && good.Path == p.ConfigPath {
			next = "correct it; until then the daemon runs with the last configuration that worked, of " + good.At.Local().Format(time.DateTime)
		}
		for _, i := range invalid.Issues {
			file := invalid.Path
			if i.File != "" {
				file = i.File
			}
			where := file
			if i.Line > 0 {
				where = fmt.Sprintf("%s:%d", file, i.Line)
			}
			text := i.Message
			if i.Path != "" {
				text = i.Path + ": " + text
			}
			out = append(out, one("config", doctor.Error, where+": "+text, next)...)
		}
		return out
	}
	if p.Config == nil {
		return nil
	}
	// The first start makes a token where one is needed.
	made := p.Config.AuthMode() != "token" || p.Config.Gateway.Auth.Token.IsSet()
	if err := p.Config.CheckStart(); err != nil && made {
		return one("config", doctor.Error, firstLine(err.Error()), "correct "+quote(p.ConfigPath))
	}
	if !p.Config.Exists {
		return ok("config", "there is no "+p.ConfigPath+"; the defaults hold")
	}
	return ok("config", p.ConfigPath)
}

func environment(_ context.Context, p Place) []doctor.Finding {
	var out []doctor.Finding
	for _, s := range config.Strays(p.Environ) {
		next := "unset " + s.Name
		if s.Meant != "" {
			next = "did you mean " + s.Meant + "? " + next
		}
		out = append(out, one("config.env", doctor.Warning, "the variable "+s.Name+" means nothing to hanzod", next)...)
	}
	if len(out) == 0 {
		return ok("config.env", "no variable that means nothing")
	}
	return out
}

func policyFile(_ context.Context, p Place) []doctor.Finding {
	path := filepath.Join(p.StateDir, "exec-approvals.json")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return ok("policy.file", "there is no exec approvals file; the configuration and the defaults hold")
	}
	if err := policy.Readable(path); err != nil {
		return one("policy.file", doctor.Error, "the exec approvals file cannot be used: "+firstLine(err.Error()),
			"correct "+quote(path)+", or put it back from a backup; until then commands of nodes are denied")
	}
	return ok("policy.file", path)
}
