package service

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the definitions as they are now")

// specs are services as people install them, and one whose words want quoting everywhere.
var specs = map[string]Spec{
	"user":    {Executable: "/home/alice/bin/hanzod", Args: []string{"run", "--node"}, Commands: true, StateDir: "/home/alice/.hanzo/hanzod", Home: "/home/alice"},
	"gateway": {System: true, RunAs: "hanzo", Executable: "/usr/bin/hanzod", Args: []string{"run", "--bind", "lan"}, StateDir: "/var/lib/hanzo/.hanzo/hanzod", Home: "/var/lib/hanzo"},
	"machine": {System: true, RunAs: "alice", Executable: "/usr/bin/hanzod", Args: []string{"run", "--node"}, Commands: true, StateDir: "/home/alice/.hanzo/hanzod", Home: "/home/alice"},
	"words": {
		Executable: `/opt/my 100% tools/hanzod`, Args: []string{"run", "--state-dir", `/srv/a b/$HOME;{x}`, ""},
		Env: map[string]string{"B": "2 $x%", "A": "it's"}, StateDir: `/srv/a b/$HOME;{x}`, Home: "/home/bob & co",
	},
}

var texts = map[string]func(Spec) string{"service": Systemd, "plist": Launchd, "openrc": OpenRC, "sysv": SysV, "windows": windows}

// windows is what the service manager of Windows is told: no text of its own, but calls.
func windows(spec Spec) string {
	d := definition(spec)
	out := map[string]any{
		"name": d.Name, "displayName": d.DisplayName, "description": d.Description, "program": d.Executable, "arguments": d.Arguments,
		"environment": d.EnvVars, "account": d.UserName,
	}
	for name, value := range d.Option {
		switch name {
		case "UserService", "SystemdScript", "LaunchdConfig", "OpenRCScript", "SysvScript":
		default:
			out[name] = value
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text) + "\n"
}

// TestDefinitions: the definitions are those in testdata.
func TestDefinitions(t *testing.T) {
	for name, spec := range specs {
		for kind, text := range texts {
			file := filepath.Join("testdata", name+"."+kind)
			got := text(spec)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s is\n%s\nwant\n%s", file, got, want)
			}
		}
	}
}

// TestDefinitionsAreUnderstood: those who read them find no fault, where they are here to be asked.
func TestDefinitionsAreUnderstood(t *testing.T) {
	ask := func(t *testing.T, file string, name string, args ...string) {
		t.Helper()
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("%s is not here", name)
		}
		out, err := exec.CommandContext(t.Context(), path, append(args, file)...).CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", name, file, err, out)
		}
	}
	for name, spec := range specs {
		t.Run(name+"/sysv", func(t *testing.T) { ask(t, filepath.Join("testdata", name+".sysv"), "sh", "-n") })
		t.Run(name+"/openrc", func(t *testing.T) { ask(t, filepath.Join("testdata", name+".openrc"), "sh", "-n") })
		t.Run(name+"/plist", func(t *testing.T) {
			ask(t, filepath.Join("testdata", name+".plist"), "python3", "-c", "import plistlib,sys; plistlib.load(open(sys.argv[1],'rb'))")
		})
		t.Run(name+"/service", func(t *testing.T) {
			path, err := exec.LookPath("systemd-analyze")
			if err != nil {
				t.Skip("systemd-analyze is not here")
			}
			// It wants the program to be there, so it gets one; the rest stays as it is.
			dir := t.TempDir()
			spec := spec
			spec.Executable, spec.RunAs = filepath.Join(dir, filepath.Base(filepath.Dir(spec.Executable)), "hanzod"), ""
			if err := os.MkdirAll(filepath.Dir(spec.Executable), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(spec.Executable, []byte("#!/bin/sh\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			unit := filepath.Join(dir, "hanzod.service")
			if err := os.WriteFile(unit, []byte(Systemd(spec)), 0o600); err != nil {
				t.Fatal(err)
			}
			scope := "--user"
			if spec.System {
				scope = "--system"
			}
			cmd := exec.CommandContext(t.Context(), path, "verify", "--man=no", "--generators=no", scope, unit)
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
			out, err := cmd.CombinedOutput()
			for line := range strings.Lines(string(out)) {
				// Growing pauses came with systemd 254; older ones say so and keep the first.
				if strings.Contains(line, unit) && !strings.Contains(line, "RestartSteps") && !strings.Contains(line, "RestartMaxDelaySec") {
					t.Errorf("%s (%v)", line, err)
				}
			}
		})
	}
}
