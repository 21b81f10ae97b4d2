package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/hanzoai/hanzod/client"
	wizardv1 "github.com/hanzoai/hanzod/gen/hanzo/wizard/v1"
)

// maxSecretFile bounds the file of an answer, in bytes.
const maxSecretFile = 16 << 10

// setupFlags are the answers that are there before the questions.
type setupFlags struct {
	mode, workspace string
	answers         []string
	defaults        bool
	given           map[string]string // answers by key
	used            map[string]bool
}

func (a *app) setupCmd() *cobra.Command {
	f := &setupFlags{given: map[string]string{}, used: map[string]bool{}}
	c := &cobra.Command{Use: "setup", Short: "Answer the questions that set up the daemon", Args: cobra.NoArgs,
		Long: `Answer the questions that set up the daemon, and write its configuration. Nothing is written before
the last one is answered; Ctrl-C leaves everything as it is.

For scripts, --answer KEY=VALUE answers a question and --defaults takes what is proposed for the
others. The keys are risk, detail, existing, reset, where, url, workspace, provider, credential, key,
model, port, bind, address, auth, token, password, tailscale, channels, telegram-token,
discord-token, slack-token, skills, node-manager and hooks; of several values, write them with
commas. Secrets are not taken from the command line, where others see them: write env:NAME or
file:PATH for them.`,
		Example: `  hanzoctl setup
  hanzoctl setup --defaults --answer risk=yes
  hanzoctl setup --defaults --answer risk=yes --answer provider=anthropic --answer key=env:ANTHROPIC_API_KEY`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, pair := range f.answers {
				key, value, ok := strings.Cut(pair, "=")
				if !ok || key == "" {
					return usagef("--answer %q is not KEY=VALUE", pair)
				}
				f.given[key] = value
			}
			return a.call(cmd, 0, func(ctx context.Context, c *client.Client) error { return a.setup(ctx, c, f) })
		}}
	c.Flags().StringVar(&f.mode, "mode", "", "local or remote, instead of being asked")
	c.Flags().StringVar(&f.workspace, "workspace", "", "directory to propose for agents")
	c.Flags().StringArrayVar(&f.answers, "answer", nil, "KEY=VALUE: an answer, instead of being asked; may be repeated")
	c.Flags().BoolVar(&f.defaults, "defaults", false, "take what is proposed for everything that --answer leaves open")
	must(c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"local", "remote"}, cobra.ShellCompDirectiveNoFileComp)))
	return c
}

// setup plays a session of the wizard.
func (a *app) setup(ctx context.Context, c *client.Client, f *setupFlags) (err error) {
	var p *person
	if !f.defaults {
		if p = a.person(); p == nil {
			return usagef("nobody can be asked here; add --defaults and --answer KEY=VALUE, see hanzoctl setup --help")
		}
		defer p.close()
	}
	start, err := c.Wizard.StartWizard(ctx, &wizardv1.StartWizardRequest{Mode: f.mode, Workspace: f.workspace})
	if err != nil {
		return err
	}
	id := start.GetSessionId()
	out := &wizardv1.NextStepResponse{Done: start.GetDone(), Step: start.GetStep(), Status: start.GetStatus(), Error: start.GetError()}
	defer func() {
		if err == nil || out.GetDone() {
			return
		}
		// Nobody else can set the daemon up while the session is open.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		_, _ = c.Wizard.CancelWizard(end, &wizardv1.CancelWizardRequest{SessionId: id})
	}()
	for !out.GetDone() {
		step := out.GetStep()
		value, err := a.setupAnswer(ctx, p, f, step)
		if err != nil {
			return err
		}
		next, err := c.Wizard.NextStep(ctx, &wizardv1.NextStepRequest{SessionId: id, Answer: &wizardv1.Answer{StepId: step.GetId(), Value: value}})
		if e, ok := errors.AsType[*client.Error](err); ok && e.Class == client.Invalid && p != nil && !f.used[step.GetKey()] {
			p.say("  " + Text(e.Message))
			continue // the step is still there
		}
		if err != nil {
			if step.GetKey() != "" {
				return fmt.Errorf("%s: %w", step.GetKey(), err)
			}
			return err
		}
		out = next
	}
	if out.GetStatus() != wizardv1.WizardStatus_WIZARD_STATUS_DONE {
		return &codeError{code: exitFailed, text: "nothing was set up: " + Text(out.GetError())}
	}
	for key := range f.given {
		if !f.used[key] {
			fmt.Fprintf(a.stderr, "nobody asked for %s\n", Text(key))
		}
	}
	return a.printOne(out, "", "the configuration is written")
}

// setupAnswer finds the answer to a step: the one that was given, the proposed one, or what a person says.
func (a *app) setupAnswer(ctx context.Context, p *person, f *setupFlags, s *wizardv1.Step) (*structpb.Value, error) {
	if s.GetType() == wizardv1.StepType_STEP_TYPE_NOTE {
		switch {
		case p != nil:
			p.say("")
			p.say(Text(s.GetTitle()))
			for line := range strings.SplitSeq(s.GetMessage(), "\n") {
				if line != "" {
					p.say("  " + Text(line))
				}
			}
		case s.GetTitle() == "Invalid config":
			fmt.Fprintln(a.stderr, multiline(s.GetMessage()))
		}
		return nil, nil
	}
	if given, ok := f.given[s.GetKey()]; ok {
		f.used[s.GetKey()] = true
		return givenAnswer(s, given)
	}
	if p == nil {
		if s.GetInitial() == nil && s.GetType() == wizardv1.StepType_STEP_TYPE_TEXT {
			return structpb.NewStringValue(""), nil
		}
		return s.GetInitial(), nil
	}
	return askStep(ctx, p, s)
}

// multiline makes a text of several lines fit for a terminal.
func multiline(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		out = append(out, Text(line))
	}
	return strings.Join(out, "\n")
}

// givenAnswer reads an answer of the command line.
func givenAnswer(s *wizardv1.Step, given string) (*structpb.Value, error) {
	if s.GetSensitive() {
		var err error
		if given, err = givenSecret(s.GetKey(), given); err != nil {
			return nil, err
		}
	}
	switch s.GetType() {
	case wizardv1.StepType_STEP_TYPE_CONFIRM:
		yes, ok := yesOrNo(given)
		if !ok {
			return nil, usagef("--answer %s: yes or no", s.GetKey())
		}
		return structpb.NewBoolValue(yes), nil
	case wizardv1.StepType_STEP_TYPE_MULTISELECT:
		return texts(given), nil
	}
	return structpb.NewStringValue(given), nil
}

// givenSecret reads a secret from where it stands.
func givenSecret(key, given string) (string, error) {
	if given == "" {
		return "", nil
	}
	if name, ok := strings.CutPrefix(given, "env:"); ok {
		v := os.Getenv(name)
		if v == "" {
			return "", usagef("--answer %s: the variable %s is not set", key, name)
		}
		return v, nil
	}
	if path, ok := strings.CutPrefix(given, "file:"); ok {
		f, err := os.Open(path)
		if err != nil {
			return "", usagef("--answer %s: %w", key, err)
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
		if err != nil {
			return "", usagef("--answer %s: %w", key, err)
		}
		return strings.TrimSpace(string(text)), nil
	}
	return "", usagef("--answer %s is a secret, and others see the command line: write %s=env:NAME or %s=file:PATH", key, key, key)
}

func yesOrNo(s string) (yes, ok bool) {
	switch strings.ToLower(s) {
	case "y", "yes", "true":
		return true, true
	case "n", "no", "false":
		return false, true
	}
	return false, false
}

// texts is a list of what stands between commas.
func texts(s string) *structpb.Value {
	l := &structpb.ListValue{}
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			l.Values = append(l.Values, structpb.NewStringValue(part))
		}
	}
	return structpb.NewListValue(l)
}

// askStep asks a person. An empty line is what is proposed.
func askStep(ctx context.Context, p *person, s *wizardv1.Step) (*structpb.Value, error) {
	question := s.GetMessage()
	if s.GetTitle() != "" {
		question = s.GetTitle() + ": " + question
	}
	p.say("")
	switch s.GetType() {
	case wizardv1.StepType_STEP_TYPE_CONFIRM:
		hint := " [y/N] "
		if s.GetInitial().GetBoolValue() {
			hint = " [Y/n] "
		}
		for {
			line, err := p.line(ctx, Text(question)+hint)
			if err != nil {
				return nil, err
			}
			if line == "" {
				return structpb.NewBoolValue(s.GetInitial().GetBoolValue()), nil
			}
			if yes, ok := yesOrNo(line); ok {
				return structpb.NewBoolValue(yes), nil
			}
		}
	case wizardv1.StepType_STEP_TYPE_SELECT, wizardv1.StepType_STEP_TYPE_MULTISELECT:
		return askChoice(ctx, p, s, question)
	}
	hint := ""
	if t := s.GetPlaceholder(); t != "" {
		hint = " (" + Text(t) + ")"
	}
	if v := s.GetInitial().GetStringValue(); v != "" {
		hint = " [" + Text(v) + "]"
	}
	line, err := p.read(ctx, Text(question)+hint+" ", !s.GetSensitive())
	if err != nil {
		return nil, err
	}
	if line == "" {
		line = s.GetInitial().GetStringValue()
	}
	return structpb.NewStringValue(line), nil
}

// askChoice shows the options by number and takes numbers or values.
func askChoice(ctx context.Context, p *person, s *wizardv1.Step, question string) (*structpb.Value, error) {
	p.say(Text(question))
	many := s.GetType() == wizardv1.StepType_STEP_TYPE_MULTISELECT
	var proposed []string
	if v := s.GetInitial().GetStringValue(); v != "" {
		proposed = []string{v}
	}
	for _, v := range s.GetInitial().GetListValue().GetValues() {
		proposed = append(proposed, v.GetStringValue())
	}
	for i, o := range s.GetOptions() {
		line := fmt.Sprintf("  %d) %s", i+1, Text(o.GetLabel()))
		if h := o.GetHint(); h != "" {
			line += " – " + Text(h)
		}
		if slices.Contains(proposed, o.GetValue()) {
			line += " *"
		}
		p.say(line)
	}
	ask := "Number [*] "
	if many {
		ask = "Numbers, with commas [*] "
	}
	for {
		line, err := p.line(ctx, ask)
		if err != nil {
			return nil, err
		}
		var chosen []string
		ok := true
		if line == "" {
			chosen = proposed
		} else {
			for part := range strings.SplitSeq(line, ",") {
				v, known := optionOf(s, strings.TrimSpace(part))
				ok = ok && known
				chosen = append(chosen, v)
			}
		}
		switch {
		case !ok, !many && len(chosen) != 1:
			p.say("  one of the numbers, please")
		case many:
			return texts(strings.Join(chosen, ",")), nil
		default:
			return structpb.NewStringValue(chosen[0]), nil
		}
	}
}

func optionOf(s *wizardv1.Step, word string) (string, bool) {
	if n, err := strconv.Atoi(word); err == nil && n >= 1 && n <= len(s.GetOptions()) {
		return s.GetOptions()[n-1].GetValue(), true
	}
	for _, o := range s.GetOptions() {
		if o.GetValue() == word {
			return word, true
		}
	}
	return "", false
}
