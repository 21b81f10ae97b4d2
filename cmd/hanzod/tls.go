package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
)

func tlsCmd(out, errOut io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "tls",
		Short: "Show or renew the certificate that other machines know this daemon by",
		Long: `The daemon shows a certificate to other machines: on the gRPC port, and with
gateway.tls.enabled on the other one too. Unless gateway.tls names files, it makes one by
itself, signed by nobody else. Clients pin it: they compare its SHA-256 fingerprint with
the one that they were given.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q\nRun 'hanzod tls --help' for the commands", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(tlsFingerprintCmd(out, errOut), tlsShowCmd(out, errOut), tlsRenewCmd(out, errOut))
	return c
}

// loaded reads the configuration and hands it on with a log on the terminal.
func loaded(where stateFlags, errOut io.Writer, f func(*config.Config, *slog.Logger) error) error {
	cfg, err := config.Load(config.Options{Path: where.config, StateDir: where.stateDir})
	if err != nil {
		return configError{err}
	}
	return f(cfg, slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelWarn})))
}

func tlsFingerprintCmd(out, errOut io.Writer) *cobra.Command {
	var where stateFlags
	c := &cobra.Command{
		Use: "fingerprint", Short: "Print the SHA-256 fingerprint to pin", Args: noArgs,
		Example: `  hanzod tls fingerprint
  ssh box hanzod tls fingerprint > box.pin`,
		RunE: func(*cobra.Command, []string) error {
			return loaded(where, errOut, func(cfg *config.Config, log *slog.Logger) error {
				cert, err := runtime.LoadTLS(cfg, log)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(out, cert.Fingerprint())
				return err
			})
		},
	}
	where.add(c)
	return c
}

func tlsShowCmd(out, errOut io.Writer) *cobra.Command {
	var where stateFlags
	c := &cobra.Command{
		Use: "show", Short: "Print where the certificate is, its names and its dates", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			return loaded(where, errOut, func(cfg *config.Config, log *slog.Logger) error {
				cert, err := runtime.LoadTLS(cfg, log)
				if err != nil {
					return err
				}
				f, leaf := runtime.TLSFiles(cfg), cert.Leaf()
				fmt.Fprintf(out, "certificate  %s\nkey          %s\nfingerprint  sha256:%s\n", f.Cert, f.Key, cert.Fingerprint())
				fmt.Fprintf(out, "subject      %s\nissuer       %s\n", leaf.Subject, leaf.Issuer)
				fmt.Fprintf(out, "from         %s\nuntil        %s\n", leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
				for _, name := range leaf.DNSNames {
					fmt.Fprintf(out, "name         %s\n", name)
				}
				for _, ip := range leaf.IPAddresses {
					fmt.Fprintf(out, "address      %s\n", net.IP.String(ip))
				}
				return nil
			})
		},
	}
	where.add(c)
	return c
}

func tlsRenewCmd(out, errOut io.Writer) *cobra.Command {
	var where stateFlags
	var yes bool
	c := &cobra.Command{
		Use: "renew", Short: "Make a new certificate", Args: noArgs,
		Long: `renew makes a new certificate and prints its fingerprint. The old one is kept beside it
with the ending ".old". A running daemon takes it up within seconds.

Every client that pins the old fingerprint refuses the daemon until it pins the new one,
so this wants --yes when there is a certificate.`,
		RunE: func(*cobra.Command, []string) error {
			return loaded(where, errOut, func(cfg *config.Config, log *slog.Logger) error {
				if old, err := runtime.LoadTLS(cfg, log); err == nil && !yes {
					return usageError{fmt.Errorf("there is a certificate (sha256:%s); clients that pin it will refuse the new one. Repeat with --yes to make it", old.Fingerprint())}
				}
				cert, err := runtime.RenewTLS(cfg, log)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(out, cert.Fingerprint())
				return err
			})
		},
	}
	where.add(c)
	c.Flags().BoolVar(&yes, "yes", false, "replace the certificate that is there")
	return c
}
