package config

import (
	"path/filepath"
	"time"

	"github.com/hanzoai/hanzod/config/json5"
)

// Cron is the section cron: jobs that run by the clock (config.md §9).
type Cron struct {
	Enabled bool // true
	// Store is the older gateway's file of jobs, <state>/cron/jobs.json by default.
	Store             string
	MaxConcurrentRuns int // 1
	Retry             CronRetry
	Webhook           string // older; "" for none
	WebhookToken      Secret
	// SessionRetention is how long sessions of isolated runs are kept; 0 keeps them.
	SessionRetention   time.Duration // 24h
	RunLog             CronRunLog
	FailureAlert       CronFailureAlert
	FailureDestination CronFailureDestination
}

// CronRetry says when a failed run is tried again.
type CronRetry struct {
	MaxAttempts int             // 3, at most 10
	Backoff     []time.Duration // 30s, 1m, 5m
	RetryOn     []string        // rate_limit, network, timeout, server_error; nil for all of them
}

// CronRunLog bounds the log of a job's runs.
type CronRunLog struct {
	MaxBytes  int64 // 2000000
	KeepLines int   // 2000
}

// CronFailureAlert says whom to tell about jobs that fail.
type CronFailureAlert struct {
	Enabled   bool
	After     int           // 2 failures in a row
	Cooldown  time.Duration // 1h
	Mode      string        // announce, webhook, or "" when unset
	AccountID string
}

// CronFailureDestination is where the answers of failed runs go.
type CronFailureDestination struct{ Channel, To, AccountID, Mode string }

var cronModes = []string{"announce", "webhook"}

func (l *loader) cron(o object, c *Cron) {
	*c = Cron{
		Enabled: true, Store: filepath.Join(l.config.StateDir, "cron", "jobs.json"), MaxConcurrentRuns: 1,
		Retry:            CronRetry{MaxAttempts: 3, Backoff: []time.Duration{30 * time.Second, time.Minute, 5 * time.Minute}},
		SessionRetention: 24 * time.Hour,
		RunLog:           CronRunLog{MaxBytes: 2_000_000, KeepLines: 2000},
		FailureAlert:     CronFailureAlert{After: 2, Cooldown: time.Hour},
	}
	o.bool("enabled", &c.Enabled)
	o.file("store", &c.Store)
	o.int("maxConcurrentRuns", 1, maxInt, &c.MaxConcurrentRuns)

	retry := o.object("retry")
	retry.int("maxAttempts", 0, 10, &c.Retry.MaxAttempts)
	if n := retry.typed("backoffMs", json5.Array); n != nil {
		c.Retry.Backoff = nil
		for _, item := range n.Items {
			if item.Kind == json5.Number && item.Num >= 0 && item.Num <= float64(maxTimer.Milliseconds()) {
				c.Retry.Backoff = append(c.Retry.Backoff, time.Duration(item.Num)*time.Millisecond)
			}
		}
	}
	retry.strs("retryOn", &c.Retry.RetryOn)
	retry.strict()

	o.str("webhook", &c.Webhook)
	o.secret("webhookToken", &c.WebhookToken, func() bool { return c.Enabled })
	if o.off("sessionRetention") {
		c.SessionRetention = 0
	} else if o.typed("sessionRetention", json5.String) != nil { // no number, which the original refuses
		o.duration("sessionRetention", "h", century, &c.SessionRetention)
	}

	log := o.object("runLog")
	log.size("maxBytes", &c.RunLog.MaxBytes)
	log.int("keepLines", 1, maxInt, &c.RunLog.KeepLines)
	log.strict()

	alert, cooldown := o.object("failureAlert"), c.FailureAlert.Cooldown.Milliseconds()
	alert.bool("enabled", &c.FailureAlert.Enabled)
	alert.int("after", 1, maxInt, &c.FailureAlert.After)
	alert.integer("cooldownMs", 0, century.Milliseconds(), &cooldown)
	c.FailureAlert.Cooldown = time.Duration(cooldown) * time.Millisecond
	alert.choice("mode", &c.FailureAlert.Mode, cronModes...)
	alert.str("accountId", &c.FailureAlert.AccountID)
	alert.strict()

	to := o.object("failureDestination")
	to.str("channel", &c.FailureDestination.Channel)
	to.str("to", &c.FailureDestination.To)
	to.str("accountId", &c.FailureDestination.AccountID)
	to.choice("mode", &c.FailureDestination.Mode, cronModes...)
	to.strict()
	o.strict()
}

// maxInt bounds counts, so that they fit an int everywhere; maxTimer bounds waits.
const (
	maxInt   = 1<<31 - 1
	maxTimer = 366 * 24 * time.Hour
)
