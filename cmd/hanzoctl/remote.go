package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hanzoai/hanzod/client"
)

// remoteFlags say which daemon on another machine to ask. Empty ones are taken from the environment.
type remoteFlags struct {
	host, tokenFile, fingerprint, ca string
}

func (r *remoteFlags) add(f *pflag.FlagSet) {
	f.StringVar(&r.host, "host", "", "daemon on another machine, by its name here or hanzod://host[:port] ($HANZOCTL_HOST)")
	f.StringVar(&r.tokenFile, "token-file", "", "file that holds its token (or $HANZOD_TOKEN)")
	f.StringVar(&r.fingerprint, "tls-fingerprint", "", "SHA-256 of its certificate ($HANZOCTL_TLS_FINGERPRINT)")
	f.StringVar(&r.ca, "tls-ca", "", "file of certificates to know it by, instead of a fingerprint ($HANZOCTL_TLS_CA)")
}

// target is the daemon to ask: flags first, then the environment. A daemon on this machine that is
// named by a flag wins over a host of the environment.
func (a *app) target() (client.Options, error) {
	o := client.Options{ClientName: "hanzoctl/" + version()}
	here := a.socket != "" || a.stateDir != ""
	if a.remote.host != "" && here {
		return o, usagef("--host is a daemon on another machine, --socket and --state-dir are one on this: give one of them")
	}
	if o.Host = a.remote.host; o.Host == "" && !here {
		o.Host = a.getenv("HANZOCTL_HOST")
	}
	if o.Host == "" {
		if a.remote != (remoteFlags{}) {
			return o, usagef("--token-file, --tls-fingerprint and --tls-ca are for a daemon on another machine: name it with --host")
		}
		if o.Socket = a.socket; o.Socket == "" && a.stateDir != "" {
			o.Socket = client.FindIn(a.stateDir).Socket
		}
		if o.Socket == "" {
			found, err := client.Find(a.getenv)
			if err != nil {
				return o, err
			}
			o.Socket = found.Socket
		}
		return o, nil
	}
	known, err := a.saved(&o)
	if err != nil {
		return o, err
	}
	if known {
		return a.over(o)
	}
	if o.Token, err = client.ReadToken(a.either(a.remote.tokenFile, "HANZOCTL_TOKEN_FILE"), a.getenv, "HANZOD_TOKEN"); err != nil {
		return o, err
	}
	if o.Token == "" {
		return o, usagef("the daemon on another machine wants a token: put the one that \"hanzoctl token\" prints there into a file, and name it with --token-file")
	}
	// A flag for one way of knowing the daemon leaves aside what the environment says of the other.
	if o.TLSFingerprint = a.remote.fingerprint; o.TLSFingerprint == "" && a.remote.ca == "" {
		o.TLSFingerprint = a.getenv("HANZOCTL_TLS_FINGERPRINT")
	}
	ca := a.remote.ca
	switch {
	case ca != "" && o.TLSFingerprint != "":
		return o, usagef("a pinned certificate needs nobody to vouch for it: give --tls-fingerprint or --tls-ca")
	case ca == "" && o.TLSFingerprint == "":
		ca = a.getenv("HANZOCTL_TLS_CA")
	}
	if ca != "" {
		o.Roots, err = client.ReadRoots(ca)
	}
	return o, err
}

// over lets flags win over what is known of a saved host. The environment does not: it speaks of
// another one.
func (a *app) over(o client.Options) (client.Options, error) {
	var err error
	if a.remote.tokenFile != "" {
		o.Token, err = client.ReadToken(a.remote.tokenFile, a.getenv)
	}
	if a.remote.fingerprint != "" {
		o.TLSFingerprint = a.remote.fingerprint
	}
	if a.remote.ca != "" && err == nil {
		if a.remote.fingerprint != "" {
			return o, usagef("a pinned certificate needs nobody to vouch for it: give --tls-fingerprint or --tls-ca")
		}
		o.TLSFingerprint = ""
		o.Roots, err = client.ReadRoots(a.remote.ca)
	}
	return o, err
}

func (a *app) either(flag, name string) string {
	if flag != "" {
		return flag
	}
	return a.getenv(name)
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
