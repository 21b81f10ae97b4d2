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
		Long: `A daemon on another machine is asked in one of three ways. --host, or HANZOCTL_HOST, names it:

  ssh://[user@]host[:port]   Over SSH, as "ssh host" would go: with your keys, agent, known
                             hosts and ~/.ssh/config, jump hosts included. You come out at the
                             daemon's socket, so whoever can log in as its user needs no token.
  tailnet://host[:port]      Over a tailnet, to a daemon that runs with --tailnet. It knows you
                             by your identity there, and its configuration says what you may do.
  hanzod://host[:port]       Over TLS, to a daemon that listens beyond its own machine ("hanzod
                             run --bind lan"; port 18790). It wants a token.

A daemon gets a name with "hanzoctl context add NAME ADDRESS"; --host takes names too. After
"hanzoctl context use NAME" every command asks that daemon, until "hanzoctl context use local".
What is asked: what a flag says, else the environment (HANZOCTL_HOST, HANZOD_SOCKET,
HANZOD_STATE_DIR), else the chosen context, else this machine; --host local is this machine in
any case. Whenever it is not the daemon of this machine, the first line on stderr says which it
is, "status" and "health" show it, and their JSON has it as "target".

"hanzoctl attach HOST" makes a daemon usable for other programs: a local socket for programs
that know HANZOD_SOCKET, and with --listen its legacy port for legacy clients and the web UI.

hanzod:// in particular. The short way is to enrol: "hanzoctl devices invite" there prints one
line to run here (see "hanzoctl enroll --help"). Without it, two things are needed, both over a
way that you trust:

  its token         "hanzoctl token" prints it there. Put it into a file that only you can
                    read; it never goes onto a command line or into a URL, where others see it.
  its certificate   An authority of this system, or one in --tls-ca, may vouch for it. Else a
                    terminal shows its fingerprint when it is first seen, and asks: compare it
                    with "hanzod tls fingerprint" there. What you trust is kept, and a daemon
                    with another certificate is refused from then on; "hanzoctl context
                    untrust HOST" forgets it. Without a terminal nothing is trusted: say
                    --tls-fingerprint. The token is never sent before that is decided.

The flags may be left in the environment: HANZOCTL_TLS_FINGERPRINT, HANZOCTL_TLS_CA, and
HANZOCTL_TOKEN_FILE or HANZOD_TOKEN.

All commands work but "token" over TLS and the tailnet: the daemon shows its secret at its own
socket alone, and that is where SSH comes out.`,
		Example: `  hanzoctl --host ssh://alice@box status
  hanzoctl context add box ssh://alice@box --use
  hanzoctl attach box --listen 127.0.0.1:18789
  hanzoctl --host ssh://box token > ~/.box-token
  hanzoctl --host hanzod://box --token-file ~/.box-token status`,
	}
}
