// Package original finds the gateway of the original on this machine, and stops its service. It never ends a process
// that no service manager runs: whoever started that ends it.
//
// It owns no goroutine; its functions may be called at the same time.
package original

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/runtime/checks"
)

const (
	// askTime bounds a question to a service manager, stopTime how long one may take to stop the service.
	askTime  = 5 * time.Second
	stopTime = time.Minute
	// freeEvery is how often a port is looked at that is to become free.
	freeEvery = 100 * time.Millisecond
)

// Service is a service of the original.
type Service struct {
	// Name is what its manager calls it. System is true for one of the machine.
	Name   string `json:"name"`
	System bool   `json:"system,omitzero"`
	// Node is true for the node host, which goes on with hanzod as it is.
	Node bool `json:"node,omitzero"`
	// Active is that it runs, Enabled that it starts at log-on or boot.
	Active  bool `json:"active"`
	Enabled bool `json:"enabled"`
}

// Found is what there is of the original.
type Found struct {
	Services []Service `json:"services,omitzero"`
	// Port is the one that its gateway would listen on; Listens that something does, Gateway that it speaks as a
	// gateway does. PID and Program are who, as far as this user may know.
	Port    int    `json:"port"`
	Listens bool   `json:"listens"`
	Gateway bool   `json:"gateway,omitzero"`
	PID     int    `json:"pid,omitzero"`
	Program string `json:"program,omitzero"`
}

// Find looks for services of the original by the names that it gives them (control-ui.md §2.2, §2.6), and for who
// listens on a port of this machine.
func Find(ctx context.Context, profile string, port int) Found {
	f := Found{Port: port}
	for _, s := range names(profile) {
		if s.look(ctx) {
			f.Services = append(f.Services, s)
		}
	}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return f
	}
	_ = c.Close() // it said enough
	f.Listens, f.Gateway = true, checks.IsGateway(ctx, address)
	f.PID, f.Program = checks.Listener(port)
	return f
}

// Running is the service of the gateway that runs or would start by itself, nil when there is none.
func (f Found) Running() *Service {
	for i, s := range f.Services {
		if !s.Node && (s.Active || s.Enabled) {
			return &f.Services[i]
		}
	}
	return nil
}

// names are the services that may be there.
func names(profile string) (out []Service) {
	if profile == "default" {
		profile = ""
	}
	switch runtime.GOOS {
	case "linux":
		for _, base := range []string{"openclaw", "clawdbot", "moltbot"} {
			gateway := base + "-gateway"
			if profile != "" {
				gateway += "-" + profile
			}
			out = append(out, Service{Name: gateway}, Service{Name: gateway, System: true}, Service{Name: base + "-node", Node: true})
		}
	case "darwin":
		gateway := []string{"ai.bot.gateway", "ai.openclaw.gateway", "com.clawdbot.gateway"}
		if profile != "" {
			gateway = []string{"ai.openclaw." + profile}
		}
		for _, name := range gateway {
			out = append(out, Service{Name: name})
		}
		out = append(out, Service{Name: "ai.openclaw.node", Node: true})
	case "windows":
		gateway := "OpenClaw Gateway"
		if profile != "" {
			gateway += " (" + profile + ")"
		}
		out = append(out, Service{Name: gateway}, Service{Name: "OpenClaw Node", Node: true})
	}
	return out
}

// systemctl are the arguments of a call about the service.
func (s Service) systemctl(args ...string) []string {
	if s.System {
		return append([]string{"systemctl"}, args...)
	}
	return append([]string{"systemctl", "--user"}, args...)
}

func domain() string {
	u, err := user.Current()
	if err != nil {
		return "gui/" + strconv.Itoa(os.Getuid())
	}
	return "gui/" + u.Uid
}

// look asks the service manager, and reports whether there is such a service.
func (s *Service) look(ctx context.Context) bool {
	var args []string
	switch runtime.GOOS {
	case "linux":
		args = s.systemctl("show", "--property=LoadState,ActiveState,UnitFileState", s.Name+".service")
	case "darwin":
		args = []string{"launchctl", "print", domain() + "/" + s.Name}
	case "windows":
		args = []string{"schtasks", "/Query", "/TN", s.Name, "/FO", "LIST"}
	default:
		return false
	}
	text, err := call(ctx, askTime, args)
	if err != nil {
		return false // there is no manager, or it knows of none
	}
	switch runtime.GOOS {
	case "linux":
		s.Active = strings.Contains(text, "ActiveState=active") || strings.Contains(text, "ActiveState=activating")
		s.Enabled = strings.Contains(text, "UnitFileState=enabled")
		return strings.Contains(text, "LoadState=loaded")
	case "darwin":
		s.Active, s.Enabled = strings.Contains(text, "state = running"), true
	case "windows":
		s.Active, s.Enabled = strings.Contains(text, "Running"), !strings.Contains(text, "Disabled")
	}
	return true
}

// stopCalls are the calls that stop the service and keep it from starting again, backCalls those that undo it.
func (s Service) stopCalls() [][]string {
	switch runtime.GOOS {
	case "darwin":
		return [][]string{{"launchctl", "disable", domain() + "/" + s.Name}, {"launchctl", "bootout", domain() + "/" + s.Name}}
	case "windows":
		return [][]string{{"schtasks", "/Change", "/TN", s.Name, "/DISABLE"}, {"schtasks", "/End", "/TN", s.Name}}
	}
	return [][]string{s.systemctl("disable", "--now", s.Name+".service")}
}

func (s Service) backCalls() [][]string {
	switch runtime.GOOS {
	case "darwin":
		return [][]string{
			{"launchctl", "enable", domain() + "/" + s.Name},
			{"launchctl", "bootstrap", domain(), "~/Library/LaunchAgents/" + s.Name + ".plist"},
		}
	case "windows":
		return [][]string{{"schtasks", "/Change", "/TN", s.Name, "/ENABLE"}, {"schtasks", "/Run", "/TN", s.Name}}
	}
	return [][]string{s.systemctl("enable", "--now", s.Name+".service")}
}

// StopCommands and BackCommands are those calls as a person types them.
func (s Service) StopCommands() []string { return typed(s.System, s.stopCalls()) }

// BackCommands start the service again.
func (s Service) BackCommands() []string { return typed(s.System, s.backCalls()) }

func typed(system bool, calls [][]string) (out []string) {
	for _, c := range calls {
		words := make([]string, len(c))
		for i, w := range c {
			if words[i] = w; strings.Contains(w, " ") {
				words[i] = strconv.Quote(w)
			}
		}
		line := strings.Join(words, " ")
		if system && runtime.GOOS == "linux" {
			line = "sudo " + line
		}
		out = append(out, line)
	}
	return out
}

// Stop stops the service, and keeps it from starting at log-on or boot.
func (s Service) Stop(ctx context.Context) error {
	for _, c := range s.stopCalls() {
		if text, err := call(ctx, stopTime, c); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, strings.TrimSpace(text))
		}
	}
	return nil
}

// Free waits until nobody listens on a port of this machine.
func Free(ctx context.Context, port int, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(freeEvery)
	defer tick.Stop()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		var slow net.Error
		switch {
		case err == nil:
			_ = c.Close() // it said enough
		case ctx.Err() == nil && (!errors.As(err, &slow) || !slow.Timeout()):
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("port %d is still taken", port)
		}
	}
}

// call runs a program of the service manager. Its output is bounded by what those print.
func call(ctx context.Context, limit time.Duration, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return string(out), err
}
