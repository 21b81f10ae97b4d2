package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSessionAndCron(t *testing.T) {
	c := mustLoad(t, `{session:{dmScope:'per-peer',idleMinutes:30,resetByType:{dm:{mode:'idle'},group:{atHour:0}},
		resetByChannel:{x:{idleMinutes:5}},identityLinks:{ann:['telegram:1']},
		sendPolicy:{default:'deny',rules:[{action:'allow',match:{channel:'x',chatType:'group'}}]},
		maintenance:{mode:'enforce',pruneAfter:7,rotateBytes:'1.5mb',resetArchiveRetention:false,maxDiskBytes:'1gb'}},
		cron:{enabled:false,store:'~/jobs.json',maxConcurrentRuns:4,retry:{maxAttempts:0,backoffMs:[5]},sessionRetention:'2',
		 runLog:{maxBytes:'1kb',keepLines:3},webhookToken:'w',failureAlert:{enabled:true,cooldownMs:1,mode:'webhook'}}}`)
	s := c.Session
	if d := cmp.Diff(SessionMaintenance{
		Mode: "enforce", PruneAfter: 7 * 24 * time.Hour, MaxEntries: 500, RotateBytes: 3 << 19, MaxDiskBytes: 1 << 30, HighWaterBytes: 858993456,
	}, s.Maintenance); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(SessionReset{"idle", 4, 30}, s.Reset); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]SessionReset{"direct": {"idle", 4, 60}, "group": {"daily", 0, 0}}, s.ResetByType); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]SendRule{{Action: "allow", Channel: "x", ChatType: "group"}}, s.SendPolicy.Rules); d != "" {
		t.Error(d)
	}
	k := c.Cron
	if k.Enabled || k.MaxConcurrentRuns != 4 || k.SessionRetention != 2*time.Hour || k.RunLog != (CronRunLog{1024, 3}) ||
		k.Retry.MaxAttempts != 0 || !cmp.Equal(k.Retry.Backoff, []time.Duration{5 * time.Millisecond}) || k.WebhookToken.Reveal() != "w" ||
		k.FailureAlert != (CronFailureAlert{true, 2, time.Millisecond, "webhook", ""}) {
		t.Errorf("%+v", k)
	}
	d := mustLoad(t, "{}")
	if d.Session.Maintenance.ResetArchiveRetention != 30*24*time.Hour || d.Session.DMScope != "main" || !d.Cron.Enabled ||
		d.Cron.SessionRetention != 24*time.Hour || d.Session.Reset != (SessionReset{"daily", 4, 0}) {
		t.Errorf("%+v %+v", d.Session, d.Cron)
	}
}
