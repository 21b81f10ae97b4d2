// Package checks looks for what is wrong with a daemon and the machine that it is on. What there is to look at
// is the table of system/doctor; here is how.
//
// It belongs to the composition root. Each look runs in a goroutine of its own that ends with it; one that hangs
// in the kernel, on a disk that does not answer, is left behind and not started a second time.
package checks

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/store"
	"github.com/hanzoai/hanzod/system/doctor"
)

// Place is what is looked at. Its functions may be called concurrently.
type Place struct {
	// StateDir and ConfigPath are absolute. Config is nil when it does not hold; ConfigErr says why.
	StateDir, ConfigPath string
	Config               *config.Config
	ConfigErr            error
	// Version is that of this program.
	Version string
	Now     func() time.Time
	// Environ are the variables of the process, as os.Environ has them.
	Environ []string
	// Examine looks at the database.
	Examine func(context.Context) (store.Exam, error)
	// Ask returns version and process of the daemon that answers on the socket; on the machine only.
	Ask func(context.Context) (version string, pid int, err error)
}

// look is one look at a place. id names the check in findings about the look itself.
type look struct {
	id string
	fn func(context.Context, Place) []doctor.Finding
}

// shared are the looks of the daemon and of the machine; machine are those of the machine alone.
var (
	shared = []look{
		{"state.dir", stateDir}, {"state.files", stateFiles}, {"state.space", space}, {"state.size", sizes}, {"state.restore", unfinished},
		{"state.foreign", foreign}, {"store", database}, {"config", configuration}, {"config.env", environment}, {"policy.file", policyFile},
		{"tls", certificate}, {"clock", clock},
	}
	machine = []look{
		{"lock", daemon}, {"state.disk", diskWorks}, {"socket", socket}, {"discovery", discovery}, {"port", port}, {"remote", remote}, {"service", services},
	}
)

// Shared looks at what the daemon and a program beside it see alike, until ctx ends at the latest.
func Shared(ctx context.Context, p Place) []doctor.Finding { return run(ctx, p, shared) }

// Machine looks at everything that a program on the machine of the daemon sees.
func Machine(ctx context.Context, p Place) []doctor.Finding {
	return run(ctx, p, append(append([]look{}, machine...), shared...))
}

// Run adds looks of the caller's own, under the same bounds.
func Run(ctx context.Context, id string, fn func(context.Context) []doctor.Finding) []doctor.Finding {
	return run(ctx, Place{}, []look{{id, func(ctx context.Context, _ Place) []doctor.Finding { return fn(ctx) }}})
}

// hanging are the looks that were left behind, by id.
var hanging sync.Map

func run(ctx context.Context, p Place, looks []look) []doctor.Finding {
	ctx, cancel := context.WithTimeout(ctx, doctor.MaxCheck)
	defer cancel()
	results := make([]chan []doctor.Finding, len(looks))
	for i, l := range looks {
		results[i] = make(chan []doctor.Finding, 1)
		key := l.id + "\x00" + p.StateDir
		if _, hangs := hanging.LoadOrStore(key, true); hangs {
			results[i] <- late(l.id)
			continue
		}
		go func() {
			defer hanging.Delete(key)
			results[i] <- l.fn(ctx, p)
		}()
	}
	var out []doctor.Finding
	for i, l := range looks {
		select {
		case f := <-results[i]:
			out = append(out, f...)
			continue
		default:
		}
		select {
		case f := <-results[i]:
			out = append(out, f...)
		case <-ctx.Done():
			out = append(out, late(l.id)...)
		}
	}
	doctor.Sort(out)
	return out
}

func late(id string) []doctor.Finding {
	return one(id, doctor.Warning, fmt.Sprintf("this could not be looked at within %s", doctor.MaxCheck),
		"see whether the disk, the service manager or the network hangs, and look again")
}

func one(id string, s doctor.Severity, what, next string) []doctor.Finding {
	return []doctor.Finding{doctor.Of(id, s, what, next)}
}

func ok(id, what string) []doctor.Finding { return one(id, doctor.OK, what, "") }
