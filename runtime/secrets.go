package runtime

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"

	"github.com/hanzoai/hanzod/approvals"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/config/json5"
	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/identity"
	"github.com/hanzoai/hanzod/secrets"
	"github.com/hanzoai/hanzod/system"
	"github.com/hanzoai/hanzod/wizard"
)

// makeSecrets makes what hands out secrets and what asks the first questions.
func (d *Daemon) makeSecrets() {
	env := d.load.Env
	if env == nil {
		env = os.Getenv
	}
	d.secrets = secrets.New(secrets.Config{
		Current: d.current, Swap: d.live.SwapSecrets, Log: d.subsystem("secrets"),
		Tell: func(ctx context.Context, text string) error {
			e := system.QueuedEvent{Text: text, Source: "gateway", At: d.now()}
			return d.store.QueueEvent(ctx, mainSession(d.current()), e, system.MaxQueuedEvents)
		},
		Record: func(ctx context.Context, c identity.Caller, what string) error {
			return d.store.AppendAudit(ctx, approvals.Audit{At: d.now(), Kind: "secret", Subject: c.Subject(), Detail: what})
		},
	})
	d.wizard = wizard.New(wizard.Config{
		Look: func() (config.View, error) { return config.Look(d.load) }, Write: d.writeAnswers,
		Workspace: filepath.Join(d.cfg.StateDir, "workspace"), Token: newToken,
		HasSecret: func() bool {
			for _, name := range []string{"HANZOD_TOKEN", "HANZOD_PASSWORD"} {
				if _, v, err := config.Environ(env).Secret(name); err == nil && v.IsSet() {
					return true
				}
			}
			return false
		},
		Version: Version, Now: d.now, Log: d.subsystem("wizard"),
	})
}

// secretsWatch tells the secrets how reading the configuration anew went.
type secretsWatch struct{ d *Daemon }

func (w secretsWatch) Failed(ctx context.Context, err error) { w.d.secrets.Failed(ctx, err) }
func (w secretsWatch) Worked(ctx context.Context)            { w.d.secrets.Worked(ctx) }

func newToken() string {
	b := make([]byte, 24) // as the token of a first start (config.md §2)
	_, _ = rand.Read(b)   // it does not fail
	return hex.EncodeToString(b)
}

// errChangedFile keeps answers from being written over what somebody else wrote meanwhile.
var errChangedFile = errs.New(errs.Conflict, "the file changed while the questions were asked; start again")

// writeAnswers writes what the wizard was told. What the file says beside it stays, comments included, unless
// fresh begins a new file with nothing but the keys in keep.
func (d *Daemon) writeAnswers(ctx context.Context, c identity.Caller, hash string, changes []wizard.Change, fresh bool, keep []string) error {
	keys := make([]string, len(changes))
	for i, change := range changes {
		keys[i] = strings.Join(change.Path, ".")
	}
	what := "the first questions were answered: " + strings.Join(keys, ", ")
	_, err := d.live.Rewrite(ctx, c, what, func(text []byte, _ *config.Config) ([]byte, error) {
		if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != hash {
			return nil, errChangedFile
		}
		return answered(text, changes, fresh, keep)
	})
	return err
}

// answered lays changes over the text of a configuration.
func answered(text []byte, changes []wizard.Change, fresh bool, keep []string) ([]byte, error) {
	out := text
	if fresh {
		out = nil
		if root, err := json5.Parse(text); err == nil && len(bytes.TrimSpace(text)) > 0 {
			for _, key := range keep {
				at := strings.Split(key, ".")
				if n := root.At(at...); n != nil {
					if out, err = json5.Set(out, at, n); err != nil {
						return nil, err
					}
				}
			}
		}
	}
	for _, change := range changes {
		var err error
		if out, err = json5.Set(out, change.Path, change.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}
