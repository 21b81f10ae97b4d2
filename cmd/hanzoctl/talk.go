package main

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/client"
	talkv1 "github.com/hanzoai/hanzod/gen/hanzo/talk/v1"
)

const (
	// speechTimeout is how long speech may take: a provider has half a minute, and there are two.
	speechTimeout = 90 * time.Second
	// maxSpeech bounds a text that comes from standard input, in bytes; the daemon takes less.
	maxSpeech = 1 << 20
)

func (a *app) talkCmd() *cobra.Command {
	return group("talk", "See what voice clients are told, and turn talk mode on or off", `  hanzoctl talk config
  hanzoctl talk mode on`, a.talkConfigCmd(), a.talkModeCmd())
}

func (a *app) talkConfigCmd() *cobra.Command {
	var secrets bool
	c := &cobra.Command{Use: "config", Short: "Print what voice clients need of the configuration, as JSON", Args: cobra.NoArgs,
		Long: `Print what voice clients need of the configuration, as JSON. API keys are left out unless
--secrets is given, which needs the scope operator.talk.secrets or operator.admin.`,
		Example: `  hanzoctl talk config
  hanzoctl talk config --secrets --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Talk.GetTalkConfig(ctx, &talkv1.GetTalkConfigRequest{IncludeSecrets: secrets})
				if err != nil {
					return err
				}
				if a.output == "table" {
					text, err := encode(out.GetConfig(), "json")
					if err != nil {
						return err
					}
					_, err = a.stdout.Write(text)
					return err
				}
				return a.printValue(out.GetConfig())
			})
		}}
	c.Flags().BoolVar(&secrets, "secrets", false, "print API keys too")
	return c
}

func (a *app) talkModeCmd() *cobra.Command {
	var phase string
	c := &cobra.Command{Use: "mode on|off", Short: "Tell all clients and nodes that talk mode is on or off", Args: cobra.ExactArgs(1), ValidArgs: []string{"on", "off"},
		Example: `  hanzoctl talk mode on
  hanzoctl talk mode off --phase idle`,
		RunE: func(cmd *cobra.Command, args []string) error {
			on := args[0] == "on"
			if !on && args[0] != "off" {
				return usagef("say on or off, not %q", args[0])
			}
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Talk.SetTalkMode(ctx, &talkv1.SetTalkModeRequest{Enabled: &on, Phase: phase})
				if err != nil {
					return err
				}
				return a.printOne(out, "", "talk mode is "+args[0])
			})
		}}
	c.Flags().StringVar(&phase, "phase", "", "what talk mode is doing, for showing")
	return c
}

func (a *app) ttsCmd() *cobra.Command {
	return group("tts", "Have replies spoken, and make speech of a text", `  hanzoctl tts status
  hanzoctl tts enable
  hanzoctl tts provider openai
  hanzoctl tts convert "dinner is ready"`,
		a.ttsStatusCmd(), a.ttsProvidersCmd(), a.ttsSetCmd("enable", "Have every reply spoken", true), a.ttsSetCmd("disable", "Have no reply spoken", false),
		a.ttsProviderCmd(), a.ttsConvertCmd())
}

func (a *app) ttsStatusCmd() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show whether replies are spoken, and by whom", Args: cobra.NoArgs,
		Example: `  hanzoctl tts status
  hanzoctl tts status --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				s, err := c.Talk.GetSpeechStatus(ctx, &talkv1.GetSpeechStatusRequest{})
				if err != nil {
					return err
				}
				keys := "none: set messages.tts.openai.apiKey or messages.tts.elevenlabs.apiKey"
				switch {
				case s.GetHasOpenaiKey() && s.GetHasElevenlabsKey():
					keys = "openai, elevenlabs"
				case s.GetHasOpenaiKey():
					keys = "openai"
				case s.GetHasElevenlabsKey():
					keys = "elevenlabs"
				}
				rows := []string{cells("spoken", s.GetAuto()), cells("provider", s.GetProvider()), cells("keys", keys)}
				if f := s.GetFallbackProviders(); len(f) > 0 {
					rows = append(rows, cells("then", strings.Join(f, ", ")))
				}
				return a.printOne(s, "", append(rows, cells("settings", s.GetPrefsPath()))...)
			})
		}}
}

func (a *app) ttsProvidersCmd() *cobra.Command {
	return &cobra.Command{Use: "providers", Short: "List who can make speech", Args: cobra.NoArgs,
		Example: `  hanzoctl tts providers
  hanzoctl tts providers --json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Talk.ListSpeechProviders(ctx, &talkv1.ListSpeechProvidersRequest{})
				if err != nil {
					return err
				}
				l := list{whole: out, head: "PROVIDER\tNAME\tCONFIGURED\tIN USE\tMODELS\tVOICES", none: "nobody can make speech"}
				for _, p := range out.GetProviders() {
					l.items = append(l.items, p)
					l.ids = append(l.ids, p.GetId())
				}
				yes := map[bool]string{true: "yes"}
				l.row = func(i int) string {
					p := out.GetProviders()[i]
					voices := ""
					if n := len(p.GetVoices()); n > 0 {
						voices = strconv.Itoa(n)
					}
					return cells(p.GetId(), p.GetName(), yes[p.GetConfigured()], yes[p.GetId() == out.GetActive()], strings.Join(p.GetModels(), ","), voices)
				}
				return a.printList(l)
			})
		}}
}

func (a *app) ttsSetCmd(word, short string, on bool) *cobra.Command {
	return &cobra.Command{Use: word, Short: short, Args: cobra.NoArgs, Example: "  hanzoctl tts " + word,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				if on {
					out, err := c.Talk.EnableSpeech(ctx, &talkv1.EnableSpeechRequest{})
					if err != nil {
						return err
					}
					return a.printOne(out, "", "every reply is spoken")
				}
				out, err := c.Talk.DisableSpeech(ctx, &talkv1.DisableSpeechRequest{})
				if err != nil {
					return err
				}
				return a.printOne(out, "", "no reply is spoken")
			})
		}}
}

var speechProviders = []string{"openai", "elevenlabs", "edge"}

func (a *app) ttsProviderCmd() *cobra.Command {
	return &cobra.Command{Use: "provider NAME", Short: "Choose who makes speech: openai, elevenlabs or edge", Args: cobra.ExactArgs(1), ValidArgs: speechProviders,
		Long: `Choose who makes speech: openai, elevenlabs or edge. The choice is kept beside the configuration
and comes before it. hanzod cannot ask edge: with it, the others are asked.`,
		Example: "  hanzoctl tts provider elevenlabs",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, callTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Talk.SetSpeechProvider(ctx, &talkv1.SetSpeechProviderRequest{Provider: args[0]})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetProvider(), "speech is made by "+Text(out.GetProvider()))
			})
		}}
}

func (a *app) ttsConvertCmd() *cobra.Command {
	var channel string
	c := &cobra.Command{Use: "convert [TEXT...]", Short: "Make speech of a text, and print where the file is",
		Long: `Make speech of a text, and print where the file is, on the machine of the daemon. It stays there
for five minutes. Without a text, standard input is read.`,
		Example: `  hanzoctl tts convert "dinner is ready"
  hanzoctl tts convert --channel telegram < note.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			text := strings.Join(args, " ")
			if len(args) == 0 {
				data, err := io.ReadAll(io.LimitReader(a.stdin, maxSpeech))
				if err != nil {
					return err
				}
				text = string(data)
			}
			return a.call(cmd, speechTimeout, func(ctx context.Context, c *client.Client) error {
				out, err := c.Talk.ConvertSpeech(ctx, &talkv1.ConvertSpeechRequest{Text: text, Channel: channel})
				if err != nil {
					return err
				}
				return a.printOne(out, out.GetAudioPath(), Text(out.GetAudioPath()))
			})
		}}
	c.Flags().StringVar(&channel, "channel", "", "the channel that it is for; telegram wants another format")
	return c
}
