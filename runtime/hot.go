package runtime

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hanzoai/hanzod/compat/web"
	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/nodes"
	"github.com/hanzoai/hanzod/store"
)

// keepHot tells the parts that hold something of the configuration when it changes; all others ask for the
// configuration in force at each use.
func (d *Daemon) keepHot() {
	on := d.live.OnChange
	on([]string{"logging"}, func(_, now *config.Config) { d.levels.Set(now.Logging.Level, now.Logging.ConsoleLevel) })
	on([]string{"audit"}, func(_, now *config.Config) { d.store.SetAuditLimits(auditLimits(now)) })
	on([]string{"gateway.nodes"}, func(_, now *config.Config) { d.nodes.SetPolicy(nodePolicyOf(now)) })
	on([]string{"agents"}, func(*config.Config, *config.Config) { d.heartbeat.Changed() })
	on([]string{"tools.exec", "agents"}, func(_, now *config.Config) { warnSafeBins(now, d.subsystem("approvals")) })
	on([]string{"cron"}, func(*config.Config, *config.Config) { d.cron.Reload() })
	on([]string{"uplinks", "secrets"}, func(*config.Config, *config.Config) { d.uplinks.Reload() })
	on([]string{"hooks", "agents"}, func(*config.Config, *config.Config) {
		if err := d.routes.renew(); err != nil {
			d.log.Error("the changed webhooks do not count before a restart", "error", err)
		}
	})
}

func auditLimits(c *config.Config) store.AuditLimits {
	return store.AuditLimits{
		MaxRows: uint64(c.Audit.MaxRows), MaxBytes: uint64(c.Audit.MaxBytes), KeepFor: time.Duration(c.Audit.KeepDays) * 24 * time.Hour,
	}
}

func nodePolicyOf(c *config.Config) *nodes.Policy {
	return nodes.NewPolicy(c.Gateway.Nodes.AllowCommands, c.Gateway.Nodes.DenyCommands)
}

// renewTime bounds the wait for pages of a canvas that are told to come again.
const renewTime = time.Second

// swapped is a handler that can be replaced while it serves. A request keeps the one that it began with.
type swapped struct {
	build func() (*web.Web, http.Handler, error)
	now   atomic.Pointer[routes]
}

type routes struct {
	web     *web.Web
	handler http.Handler
}

func newSwapped(build func() (*web.Web, http.Handler, error)) (*swapped, error) {
	s := &swapped{build: build}
	w, h, err := build()
	if err != nil {
		return nil, err
	}
	s.now.Store(&routes{w, h})
	return s, nil
}

// renew builds the routes anew. It must not be called twice at a time.
func (s *swapped) renew() error {
	w, h, err := s.build()
	if err != nil {
		return err
	}
	old := s.now.Swap(&routes{w, h})
	ctx, cancel := context.WithTimeout(context.Background(), renewTime)
	defer cancel()
	old.web.Close(ctx)
	return nil
}

func (s *swapped) close(ctx context.Context) { s.now.Load().web.Close(ctx) }

// ServeHTTP implements http.Handler.
func (s *swapped) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.now.Load().handler.ServeHTTP(w, r)
}
