package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
)

const (
	// DiscoveryName is the name of the discovery file in a state directory.
	DiscoveryName = "daemon.json"
	// DiscoveryFormat is the format of discovery files. Fields may be added to it; a reader leaves
	// alone what it does not know, and a file of another format.
	DiscoveryFormat = 1
	// MaxDiscovery is how long a discovery file may be, in bytes. A real one has some hundred.
	MaxDiscovery = 16 << 10
	// answerTime bounds the look whether anybody answers on a socket.
	answerTime = time.Second
)

// Discovery is what a running daemon says of itself in its discovery file, for programs that want to
// reach it. It holds no secret. It is a hint: a daemon that was killed leaves it behind, and its process
// number may be somebody else's by then. Whether a daemon runs is known by its socket alone.
type Discovery struct {
	// Format is DiscoveryFormat.
	Format int `json:"format"`
	// PID is the process of the daemon, StartedAt when it started.
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
	// Version is that of hanzod, Executable the path of its program; "" where that is not known.
	Version    string `json:"version"`
	Executable string `json:"executable,omitempty"`
	// Service is the service manager that runs it: systemd, launchd or windows; "" where none is
	// known to.
	Service string `json:"service,omitempty"`
	// StateDir is the state directory, Socket the local socket, or the named pipe on Windows. Both are
	// absolute paths.
	StateDir string `json:"stateDir"`
	Socket   string `json:"socket"`
	// Port is the TCP port, with the legacy protocol, REST and health; Addresses are host:port of it.
	Port      int      `json:"port"`
	Addresses []string `json:"addresses"`
	// GRPCPort and GRPCAddress are those of gRPC over TLS for other machines; 0 and "" when it is closed.
	GRPCPort    int    `json:"grpcPort,omitempty"`
	GRPCAddress string `json:"grpcAddress,omitempty"`
	// TLSFingerprint is the SHA-256 of the certificate that the daemon shows, in hex; "" when nothing
	// speaks TLS.
	TLSFingerprint string `json:"tlsFingerprint,omitempty"`
}

// DiscoveryFile is where the daemon of a state directory writes its discovery file.
func DiscoveryFile(stateDir string) string { return filepath.Join(stateDir, DiscoveryName) }

// SharedDiscoveryFile is the well-known place for the discovery file of a daemon whose state is not in
// the usual directory; "" where there is no such place. It is hanzod/daemon.json in XDG_RUNTIME_DIR, or
// where that is not set, in ~/Library/Caches on macOS and in %LOCALAPPDATA% on Windows. See Find.
func SharedDiscoveryFile(getenv func(string) string) string {
	dir := strings.TrimSpace(getenv("XDG_RUNTIME_DIR"))
	if dir == "" {
		dir = sharedDir(getenv)
	}
	if !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Join(dir, "hanzod", DiscoveryName)
}

// ReadDiscovery reads a discovery file. It believes none that belongs to another user than this one, root
// or the system, that others may write, that is longer than MaxDiscovery, or that is no plain file. The
// error is fs.ErrNotExist where there is none.
func ReadDiscovery(path string) (*Discovery, error) {
	f, err := openTrusted(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxDiscovery+1))
	if err != nil {
		return nil, err
	}
	d, err := ParseDiscovery(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// ParseDiscovery reads the text of a discovery file.
func ParseDiscovery(text []byte) (*Discovery, error) {
	if len(text) > MaxDiscovery {
		return nil, fmt.Errorf("a discovery file has at most %d bytes", MaxDiscovery)
	}
	var d Discovery
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("the discovery file is no JSON object of its kind: %w", err)
	}
	if d.Format != DiscoveryFormat {
		return nil, fmt.Errorf("the discovery file has the format %d, and this program knows %d", d.Format, DiscoveryFormat)
	}
	for _, p := range []string{d.Socket, d.StateDir} {
		if !absolute(p) {
			return nil, fmt.Errorf("the discovery file names %q, which is no absolute path", p)
		}
	}
	for _, s := range append([]string{d.Version, d.Executable, d.Service, d.GRPCAddress, d.TLSFingerprint}, d.Addresses...) {
		if strings.ContainsFunc(s, unicode.IsControl) {
			return nil, errors.New("the discovery file has control characters")
		}
	}
	return &d, nil
}

// absolute takes the paths of either kind of system: the file may have come from another machine.
func absolute(p string) bool {
	windows := strings.HasPrefix(p, `\\`) || len(p) > 2 && p[1] == ':' && (p[2] == '\\' || p[2] == '/')
	return (windows || strings.HasPrefix(p, "/")) && !strings.ContainsFunc(p, unicode.IsControl)
}

// Rule is which part of the rule of Find found a daemon.
type Rule string

// The parts of the rule, in their order.
const (
	BySocket   Rule = "HANZOD_SOCKET"
	ByStateDir Rule = "HANZOD_STATE_DIR" // or one of the legacy names
	ByHome     Rule = "home"             // the usual state directory
	ByShared   Rule = "shared"           // the well-known discovery file
)

// Found is where the daemon of this machine is, or should be.
type Found struct {
	// Socket is where it listens.
	Socket string
	// StateDir is its state directory, "" when only its socket is known.
	StateDir string
	// By is how it was found.
	By Rule
	// Daemon is its discovery file; nil when there is none that can be believed.
	Daemon *Discovery
}

// Find looks for the daemon of this user on this machine:
//
//  1. HANZOD_SOCKET names its socket.
//  2. HANZOD_STATE_DIR, or one of the legacy names, names its state directory.
//  3. Its state is in ~/.hanzo/hanzod.
//  4. Where no daemon answers there, the well-known discovery file names another one that does; see
//     SharedDiscoveryFile. Of several such daemons, the file is that of the first; when that one is gone,
//     another that still runs takes its place within half a minute.
//
// What the environment names is final, whether a daemon answers there or not. In a state directory the
// socket is the one that the discovery file there names, else SocketPath.
//
// Find looks at files only, unless there is a file as in 4; then it tries the sockets, which takes a
// second at most. It fails when the home directory is not known.
func Find(getenv func(string) string) (Found, error) {
	if socket := strings.TrimSpace(getenv("HANZOD_SOCKET")); socket != "" {
		return Found{Socket: socket, By: BySocket}, nil
	}
	dir := DefaultStateDir(getenv)
	if dir == "" {
		return Found{}, fmt.Errorf("the home directory is not known; set HANZOD_STATE_DIR")
	}
	f := FindIn(dir)
	if f.By = ByStateDir; dir != HomeStateDir(getenv) {
		return f, nil
	}
	f.By = ByHome
	path := SharedDiscoveryFile(getenv)
	if path == "" {
		return f, nil
	}
	d, err := ReadDiscovery(path)
	if err != nil || d.Socket == f.Socket {
		return f, nil // what cannot be believed is not there
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if !errors.Is(Answers(ctx, f.Socket), ErrNobody) || Answers(ctx, d.Socket) != nil {
		return f, nil
	}
	return Found{Socket: d.Socket, StateDir: d.StateDir, By: ByShared, Daemon: d}, nil
}

// FindIn is Find for a state directory that was named.
func FindIn(stateDir string) Found {
	f := Found{Socket: SocketPath(stateDir), StateDir: stateDir, By: ByStateDir}
	d, err := ReadDiscovery(DiscoveryFile(stateDir))
	// A copy of a state directory, such as a backup, speaks of the daemon of the original.
	if err == nil && sameDir(d.StateDir, stateDir) {
		f.Socket, f.Daemon = d.Socket, d
	}
	return f
}

func sameDir(a, b string) bool {
	if a == b {
		return true
	}
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// ErrNobody says that nobody listens on a socket.
var ErrNobody = errors.New("nobody listens there")

// Answers reports whether anybody takes a connection on a local socket: nil when so, ErrNobody when
// nobody does, and another error when that cannot be told, or when the socket belongs to somebody else.
func Answers(ctx context.Context, socket string) error {
	conn, err := dialSocket(ctx, socket)
	switch {
	case err == nil:
		return conn.Close()
	case errors.Is(err, fs.ErrNotExist), isRefused(err):
		return ErrNobody
	}
	return err
}
