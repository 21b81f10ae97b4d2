package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hanzoai/hanzod/sessions"
	"github.com/hanzoai/hanzod/store"
)

const (
	// manySessions are stored where sessions are listed, listedSessions are asked for (P23).
	manySessions   = 10_000
	listedSessions = 1_000
	// producers append to transcripts of their own (P12).
	producers = 64
)

// storedSessions makes a state with many sessions, as agents leave them.
func storedSessions(ctx context.Context, dir string) (err error) {
	s, err := store.Open(ctx, dir, store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var wg sync.WaitGroup
	faults := make([]error, producers)
	began := time.Now().Add(-manySessions * time.Second)
	for w := range producers {
		wg.Go(func() {
			for i := w; i < manySessions && faults[w] == nil; i += producers {
				_, faults[w] = s.UpdateSession(ctx, sessions.Ref{AgentID: "main", Key: fmt.Sprintf("agent:main:telegram:direct:%d", 100_000+i)},
					func(e *sessions.Entry, _ bool) (sessions.Change, error) {
						*e = storedSession(i, began.Add(time.Duration(i)*time.Second))
						return sessions.Change{}, nil
					})
			}
		})
	}
	wg.Wait()
	return errors.Join(faults...)
}

func storedSession(i int, at time.Time) sessions.Entry {
	n, yes, no := int64(1000+i), true, false
	return sessions.Entry{
		SessionID: fmt.Sprintf("0189c0de-0000-4000-8000-%012d", i), UpdatedAt: at.Truncate(time.Millisecond).UTC(), ChatType: "direct", SystemSent: &yes, AbortedLastRun: &no,
		ThinkingLevel: "low", VerboseLevel: "on", ModelProvider: "anthropic", Model: "claude-opus-4-6", InputTokens: &n, OutputTokens: &n, TotalTokens: &n,
		TotalTokensFresh: &yes, CacheRead: &n, CacheWrite: &n, ContextTokens: &n, Channel: "telegram", DisplayName: fmt.Sprint("Somebody ", i),
		Origin:          &sessions.Origin{Label: "Somebody", Provider: "telegram", Surface: "telegram", ChatType: "direct", From: fmt.Sprint("telegram:", i), To: "telegram:bot"},
		DeliveryContext: &sessions.Delivery{Channel: "telegram", To: fmt.Sprint("telegram:", i)}, LastChannel: "telegram", LastTo: fmt.Sprint("telegram:", i),
		Rest: map[string]sessions.Raw{"skillsSnapshot": sessions.Raw(`{"prompt":"` + strings.Repeat("a skill and what it is for; ", 40) + `","skills":[]}`)},
	}
}

// sessions measures a daemon with many sessions: how soon it is ready, how large it is, and a list of the newest.
func (b *bench) sessions(ctx context.Context) error {
	dir := filepath.Join(b.dir, "sessions")
	if err := storedSessions(ctx, dir); err != nil {
		return err
	}
	ready, err := once(ctx, max(3, b.runs/4), func() (time.Duration, error) {
		d, err := startDaemon(ctx, b.prog.hanzod, dir)
		if err != nil {
			return 0, err
		}
		_, err = d.stop()
		return d.ready, err
	})
	if err != nil {
		return err
	}
	b.rep.times("sessions/ready10k/p50", ready)
	d, err := startDaemon(ctx, b.prog.hanzod, dir)
	if err != nil {
		return err
	}
	defer func() {
		if _, err := d.stop(); err != nil {
			b.rep.Notes = append(b.rep.Notes, "the daemon with sessions: "+err.Error())
		}
	}()
	s, err := connect(ctx, d.addr, token, operator)
	if err != nil {
		return err
	}
	defer s.close()
	frame := fmt.Appendf(nil, `{"type":"req","id":"1","method":"sessions.list","params":{"limit":%d}}`, listedSessions)
	if err := s.call(frame); err != nil {
		return err
	}
	err = b.load(d, "sessions/list1000", func(p plan) ([]sample, error) {
		return p.serial(ctx, func() error { return s.call(frame) })
	})
	if err != nil {
		return err
	}
	m, err := d.memory()
	if err == nil {
		b.rep.set("sessions/private10k", m.private/1e6) // the pages of the database file are not its own
	}
	return err
}

// appends measures producers that append messages to transcripts of their own, each on disk before the next.
func (b *bench) appends(ctx context.Context) (err error) {
	s, err := store.Open(ctx, filepath.Join(b.dir, "appends"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	line := []byte(`{"type":"message","id":"0123abcd","parentId":"89abcdef","timestamp":"2026-01-02T03:04:05.678Z","message":{"role":"user","content":"some words that somebody wrote to an agent, not many","timestamp":1767323045678}}`)
	samples, err := b.plan.parallel(ctx, producers, func(w int) func() error {
		f := sessions.File{AgentID: "main", Name: fmt.Sprintf("session-%d.jsonl", w)}
		return func() error { return s.Transcripts().Append(ctx, f, line) }
	})
	if err != nil {
		return err
	}
	b.rep.samples("append/producers64", samples)
	return nil
}
