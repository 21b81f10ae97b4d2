package main

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hanzoai/hanzod/client"
	tunnelv1 "github.com/hanzoai/hanzod/gen/hanzo/tunnel/v1"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

func (a *app) techShellCmd() *cobra.Command {
	var f techFlags
	var cwd, escape string
	c := &cobra.Command{Use: "shell SESSION|NODE [flags] [-- COMMAND [ARG...]]", Short: "Open a terminal in a session", ValidArgsFunction: a.completeNode,
		Long: `Open the shell of the node's user, or a command in its place, under a terminal of its own. Its exit
code becomes the exit code. At the start of a line, ~. hangs it up: a terminal of a technician
session ends with its viewer, and with its session.`,
		Example: `  hanzoctl tech shell build-box
  hanzoctl tech shell 3f2a81 --cwd /srv/app -- htop`,
		Args: terminalArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.output != "table" || a.quiet {
				return usagef("the output is that of the program: -o and -q do not go with shell")
			}
			char, err := escapeOf(escape)
			if err != nil {
				return err
			}
			return a.inTech(cmd, &f, args[0], func(ctx context.Context, c *client.Client, s *tunnelv1.TechSession) error {
				return a.techShell(ctx, c, s, message.TerminalOpen{Argv: args[1:], Cwd: cwd}, char)
			})
		}}
	f.add(c)
	c.Flags().StringVar(&cwd, "cwd", "", "directory on the node")
	c.Flags().StringVar(&escape, "escape", "~", `character that begins a command to this program at the start of a line, or "none"`)
	return c
}

func (a *app) techShell(ctx context.Context, c *client.Client, s *tunnelv1.TechSession, open message.TerminalOpen, escape byte) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	ch, err := c.TechChannel(ctx, s.GetSessionId(), message.Terminal)
	if err != nil {
		return err
	}
	defer func() { _ = ch.Close(nil) }() // its program has ended, or is hung up with it
	open.Cols, open.Rows = a.size()
	if name := "TERM"; a.getenv(name) != "" {
		open.Env = append(open.Env, name+"="+a.getenv(name))
	}
	if err := ch.Send(ctx, message.Of(message.TypeOpen, open, nil)); err != nil {
		return err
	}
	if isTerminal(a.stdin) {
		old, err := term.MakeRaw(int(a.stdin.Fd()))
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(int(a.stdin.Fd()), old) }() // nothing else can be done about it
	} else {
		escape = 0
	}
	sizes, stop := resizes()
	defer stop()
	go func() { // ends with ctx, but for a read of the terminal, which ends with the program
		defer func() { recover() }() //nolint:errcheck // the terminal is put in order by the deferred call above
		for {
			select {
			case <-sizes:
				cols, rows := a.size()
				if ch.Send(ctx, message.Of(message.TypeResize, message.TerminalSize{Cols: cols, Rows: rows}, nil)) != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	go func() { // as above
		esc := escapes{char: escape, fresh: true}
		buf := make([]byte, typedPiece)
		last := byte('\n')
		for ctx.Err() == nil {
			n, err := a.stdin.Read(buf)
			text, act := esc.take(buf[:n])
			if len(text) > 0 {
				last = text[len(text)-1]
				if ch.Send(ctx, message.Message{Type: message.TypeInput, Data: text}) != nil {
					return
				}
			}
			switch {
			case act == escapeLeave:
				end(errLeft)
				return
			case err != nil:
				eof := []byte{4}
				if last != '\n' {
					eof = []byte{4, 4}
				}
				_ = ch.Send(ctx, message.Message{Type: message.TypeInput, Data: eof}) // its end comes by receiving
				return
			}
		}
	}()
	for {
		m, err := ch.Receive(ctx)
		if err != nil {
			if errors.Is(context.Cause(ctx), errLeft) {
				return &codeError{code: exitSignal + signals["HUP"], text: "hung up"}
			}
			if errors.Is(err, io.EOF) {
				return &codeError{code: exitUnknown, text: "the session ended before the program"}
			}
			return err
		}
		switch m.Type {
		case message.TypeChunk:
			if _, err := a.stdout.Write(m.Data); err != nil {
				return err
			}
		case message.TypeError:
			return techFailure(m)
		case message.TypeExit:
			var x message.Exit
			if err := m.Into(&x); err != nil {
				return err
			}
			e := &tunnelv1.TerminalExit{Signal: x.Signal}
			if x.ExitCode != nil {
				code := int32(*x.ExitCode)
				e.Code = &code
			}
			return exitOfTerminal(e)
		}
	}
}
