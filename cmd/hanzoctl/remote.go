package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// remoteFlags say which daemon on another machine to ask. Empty ones are taken from the environment.
type remoteFlags struct {
	host, tokenFile, fingerprint, ca string
}

func (r *remoteFlags) add(f *pflag.FlagSet) {
	f.StringVar(&r.host, "host", "", "daemon to ask: a context, ssh://[user@]host, tailnet://host, hanzod://host[:port], or local ($HANZOCTL_HOST)")
	f.StringVar(&r.tokenFile, "token-file", "", "with hanzod://: file that holds its token (or $HANZOD_TOKEN)")
	f.StringVar(&r.fingerprint, "tls-fingerprint", "", "with hanzod://: SHA-256 of its certificate ($HANZOCTL_TLS_FINGERPRINT)")
	f.StringVar(&r.ca, "tls-ca", "", "with hanzod://: file of certificates to know it by, instead of a fingerprint ($HANZOCTL_TLS_CA)")
}

func remoteTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "remote",
		Short: "How to ask a daemon on another machine",
		Long: `A daemon on another machine is asked over TLS. It has to listen beyond its own machine
("hanzod run --bind lan", or gateway.bind in its configuration); its port is 18790, or the
one after gateway.port.

The short way: "hanzoctl devices invite" there prints one line to run here. From then on
"hanzoctl --host NAME" is all that it takes; see "hanzoctl enroll --help".

Without it, two things are needed from there, both over a way that you trust:

  its token         "hanzoctl token" prints it. Put it into a file that only you can read;
                    it never goes onto a command line or into a URL, where others see it.
  its fingerprint   "hanzod tls fingerprint" prints it. It is how this machine knows that
                    nobody else answers. A certificate that an authority of this system, or
                    one in --tls-ca, vouches for needs none.

A certificate that nothing vouches for is never trusted because it is the first one seen:
hanzoctl prints its fingerprint, sends nothing and ends with 77.

The flags may be left in the environment: HANZOCTL_HOST, HANZOCTL_TLS_FINGERPRINT,
HANZOCTL_TLS_CA, and HANZOCTL_TOKEN_FILE or HANZOD_TOKEN.

All commands work but "token": the daemon shows its secret on its own machine alone.`,
		Example: `  ssh box hanzoctl token > ~/.box-token
  hanzoctl --host hanzod://box --token-file ~/.box-token --tls-fingerprint $(ssh box hanzod tls fingerprint) status`,
	}
}
