package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/approvals/policy"
	"github.com/hanzoai/hanzod/approvals/shell"
)

// policyRules is how many rules P17 decides by.
const policyRules = 100

// policyLine is a command line as agents write them.
const policyLine = `git log --oneline -n 20 | grep -e "fix: " | head -n 3 && git status --short`

// decisions measures what a decision on a command costs: reading a line and finding its programs, the
// same for 64 KiB of text that is meant to take long, and a decision by rules.
func (b *bench) decisions(ctx context.Context) error {
	dir := filepath.Join(b.dir, "bin")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"git", "grep", "head"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
			return err
		}
	}
	m := shell.Machine{Home: b.dir, Path: dir, Cwd: b.dir}
	list := shell.List{Patterns: []string{dir + "/*"}}
	line := func() error {
		if _, why := m.Permit(m.Line(policyLine), list); why != "" {
			return errors.New("the line is not covered: " + why)
		}
		return nil
	}
	hostile := strings.Repeat("a ", shell.MaxText/2) // the slowest of the texts in approvals/shell/bench_test.go
	rules, err := hundredRules()
	if err != nil {
		return err
	}
	query := policy.Query{Argv: []string{"/bin/sh", "-lc", policyLine}, Cwd: "/srv/app", AgentID: "main", NodeID: "n", At: time.Now()}
	decide := func() error {
		if got := rules.Decide(query); got.Effect != policy.EffectAllow {
			return fmt.Errorf("the rules say %q by %q", got.Effect, got.Rule)
		}
		return nil
	}
	for _, f := range []struct {
		name string
		op   func() error
	}{
		{"policy/line", line},
		{"policy/hostile64k", func() error {
			if _, why := m.Permit(m.Line(hostile), list); why == "" {
				return errors.New("it is covered")
			}
			shell.Signs(hostile)
			return nil
		}},
		{"policy/decide100", decide},
	} {
		samples, err := b.plan.serial(ctx, f.op)
		if err != nil {
			return err
		}
		b.rep.samples(f.name, samples)
	}
	return nil
}

// hundredRules are rules of which the last decides.
func hundredRules() (*policy.Rules, error) {
	var text strings.Builder
	text.WriteString("{version: 1, rules: [\n")
	for i := range policyRules - 1 {
		effect := "deny"
		if i%2 == 0 {
			effect = "allow"
		}
		fmt.Fprintf(&text, "{name: \"rule %d\", effect: %q, argv: [[\"tool-%d\", \"**\"], [\"/opt/%d/bin/x\", \"--force\", \"**\"]], cwd: \"/srv/**\"},\n", i, effect, i, i)
	}
	text.WriteString("{name: \"last\", effect: \"allow\", argv: [[\"git\", \"**\"], [\"grep\", \"**\"], [\"head\", \"**\"]]}]}")
	return policy.ParseRules("policy.json", []byte(text.String()))
}
