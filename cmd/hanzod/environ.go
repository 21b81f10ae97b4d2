package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/hanzoai/hanzod/config"
	"github.com/hanzoai/hanzod/runtime"
)

// environ is the environment of this process, read by the table in config.
var environ config.Environ

// environTopic is "hanzod help environment".
func environTopic() *cobra.Command {
	var b strings.Builder
	b.WriteString(`hanzod starts from flags, from its configuration file, or from the environment alone. A flag counts
before a variable, a variable before the file; but a token or password in the file counts before
the variable, as it did with the older gateway. A name of the older gateway (in brackets) counts
where ours is not set.

A variable with * may be left out for one of the same name with _FILE at its end, which names a
file that holds the value. Commands of nodes do not get to see the value.

A variable that begins with HANZOD_ and is not listed here is named in the log and has no effect.
`)
	for _, part := range []struct {
		title string
		of    func(config.Variable) bool
	}{
		{"hanzod run", func(v config.Variable) bool { return v.Run && !v.Node }},
		{"hanzod node", func(v config.Variable) bool { return v.Node && !v.Run }},
		{"both", func(v config.Variable) bool { return v.Node && v.Run }},
	} {
		fmt.Fprintf(&b, "\nFor %s:\n", part.title)
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		for _, v := range config.Variables() {
			if !part.of(v) {
				continue
			}
			name, about := v.Name, v.About
			if v.Secret {
				name += " *"
			}
			if len(v.Older) > 0 {
				about += " [" + strings.Join(v.Older, ", ") + "]"
			}
			fmt.Fprintf(w, "  %s\t%s\n", name, about)
		}
		_ = w.Flush() // a strings.Builder takes everything
	}
	return &cobra.Command{Use: "environment", Short: "The variables that hanzod run and hanzod node take", Long: strings.TrimRight(b.String(), "\n")}
}

// console is where the log goes.
func console(output string, out, errOut io.Writer) io.Writer {
	if output == "stdout" {
		return out
	}
	return errOut
}

// choice reads a variable that has one of several values, and gives what holds without it.
func choice(name, without string, allowed ...string) (string, error) {
	from, v := environ.Lookup(name)
	if v == "" {
		return without, nil
	}
	if slices.Contains(allowed, v) {
		return v, nil
	}
	return "", fmt.Errorf("%s must be %s or %s, not %q", from, strings.Join(allowed[:len(allowed)-1], ", "), allowed[len(allowed)-1], v)
}

// nodeEnviron fills what the command line of a node left open from the environment.
func nodeEnviron(o *runtime.NodeOptions, out, errOut io.Writer, flags func(name string) bool) error {
	set := func(into *string, name string) {
		if *into == "" {
			*into = environ.Value(name)
		}
	}
	set(&o.DisplayName, "HANZOD_NODE_NAME")
	set(&o.NodeID, "HANZOD_NODE_ID")
	set(&o.Security, "HANZOD_EXEC_SECURITY")
	set(&o.Ask, "HANZOD_EXEC_ASK")
	set(&o.Companion, "HANZOD_COMPANION")
	if host, port := environ.Value("HANZOD_VNC_HOST"), environ.Value("HANZOD_VNC_PORT"); o.VNC == "" && (host != "" || port != "") {
		o.VNC = net.JoinHostPort(cmp.Or(host, config.DefaultVNCHost), cmp.Or(port, strconv.Itoa(config.DefaultVNCPort)))
	}
	o.Socket = environ.Value("HANZOD_SOCKET")
	if len(o.TunnelAllow) == 0 {
		for text := range strings.SplitSeq(environ.Value("HANZOD_TUNNEL_ALLOW"), ",") {
			if text = strings.TrimSpace(text); text != "" {
				o.TunnelAllow = append(o.TunnelAllow, text)
			}
		}
	}
	var err error
	if !flags("log-level") {
		if o.LogLevel, err = choice("HANZOD_LOG_LEVEL", o.LogLevel, "silent", "fatal", "error", "warn", "info", "debug", "trace"); err != nil {
			return err
		}
	}
	if o.LogStyle, err = choice("HANZOD_LOG_FORMAT", "", "pretty", "compact", "json"); err != nil {
		return err
	}
	output, err := choice("HANZOD_LOG_OUTPUT", "stderr", "stderr", "stdout")
	if err != nil {
		return err
	}
	o.Console = console(output, out, errOut)
	if o.NoDevice, err = environ.Bool("HANZOD_CLOUD_NODE"); err != nil {
		return err
	}
	insecure, err := environ.Bool("HANZOD_ALLOW_INSECURE")
	if err != nil {
		return err
	}
	o.AllowInsecure = o.AllowInsecure || insecure

	if o.Enroll == "" && !flags("host") {
		_, code, err := environ.Secret("HANZOD_ENROLL")
		if err != nil {
			return err
		}
		o.Enroll = code.Reveal()
	}
	if err := tunnelEnviron(o, flags); err != nil {
		return err
	}
	// One that the command line names is not mixed with the pin of another one. An invite says which
	// gateway it is, so that a variable beside it is a mistake that is told.
	if flags("host") || flags("enroll") {
		return nil
	}
	if from, v := environ.Lookup("HANZOD_GATEWAY"); v != "" {
		if err := gatewayOf(v, o); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
	}
	if !flags("link") {
		if o.Link, err = choice("HANZOD_LINK", o.Link, "auto", "grpc", "websocket"); err != nil {
			return err
		}
	}
	if !flags("tls-fingerprint") && !flags("tls-ca") {
		o.Fingerprint, o.CAFile = environ.Value("HANZOD_TLS_FINGERPRINT"), environ.Value("HANZOD_TLS_CA_PATH")
	}
	return nil
}

// tunnelEnviron makes the node an instance where a relay is named and no gateway is.
func tunnelEnviron(o *runtime.NodeOptions, flags func(name string) bool) error {
	if o.Workspace == "" { // of every node (tunnel.md §1.15)
		o.Workspace = environ.Value("HANZOD_WORKSPACE_DIR")
	}
	gateway := flags("host") || flags("port") || flags("grpc-port") || o.Enroll != "" || environ.Value("HANZOD_GATEWAY") != ""
	if o.Tunnel == nil {
		o.Tunnel = &runtime.TunnelOptions{}
	}
	t := o.Tunnel
	if t.URL == "" && !gateway {
		_, at, err := environ.Secret("HANZOD_TUNNEL_URL")
		if err != nil {
			return err
		}
		t.URL = at.Reveal()
	}
	if t.URL == "" {
		o.Tunnel = nil
		if t.Count > 1 {
			return errors.New("--count is for instances; say which relay they are of with --tunnel or TUNNEL_URL")
		}
		if len(o.Expose) > 0 {
			return errors.New("--expose is for instances (--tunnel or TUNNEL_URL); for other nodes an operator says: hanzoctl tunnel expose NODE PORT")
		}
		return nil
	}
	if gateway {
		return errors.New("--tunnel makes this machine an instance of a relay; leave --host, --port, --grpc-port and --enroll away")
	}
	t.InstanceID = environ.Value("HANZOD_INSTANCE_ID")
	if t.AppKind == "" {
		t.AppKind = environ.Value("HANZOD_APP_KIND")
	}
	if !flags("no-reconnect") && environ.Value("HANZOD_RECONNECT") != "" {
		on, err := environ.Bool("HANZOD_RECONNECT")
		if err != nil {
			return err
		}
		t.NoReconnect = !on
	}
	return nil
}

// gatewayOf reads where a gateway is: hanzod:// for gRPC alone, ws:// and wss:// for the WebSocket of the
// older gateway alone, host[:port] for what --host and --port say.
func gatewayOf(text string, o *runtime.NodeOptions) error {
	if strings.HasPrefix(text, "hanzod://") {
		o.Host = text
		return nil
	}
	if !strings.Contains(text, "://") {
		o.Host = text
		if host, port, err := net.SplitHostPort(text); err == nil {
			o.Host = host
			return portOf(port, &o.Port)
		}
		return nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("not an address") // the parser's text would show a password in it
	}
	usual := map[string]int{"ws": 80, "http": 80, "wss": 443, "https": 443}[u.Scheme]
	switch {
	case usual == 0:
		return fmt.Errorf("an address begins with hanzod://, wss:// or ws://, not with %s://", u.Scheme)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("an address holds no credentials; set HANZOD_TOKEN_FILE or HANZOD_TOKEN")
	case u.Hostname() == "" || strings.Trim(u.Path, "/") != "":
		return errors.New("an address is host and port, without a path")
	}
	o.Host, o.Port, o.TLS, o.Link = u.Hostname(), usual, u.Scheme == "wss" || u.Scheme == "https", "websocket"
	if p := u.Port(); p != "" {
		return portOf(p, &o.Port)
	}
	return nil
}

func portOf(text string, into *int) error {
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return fmt.Errorf("port %q must be from 1 to 65535", text)
	}
	*into = port
	return nil
}

// secretOf reads a secret of the gateway from a file or the environment, never from the command line,
// where other users would see it.
func secretOf(file, name string) (string, error) {
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		return strings.TrimSpace(string(text)), nil
	}
	_, v, err := environ.Secret(name)
	return v.Reveal(), err
}
