package checks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/hanzoai/hanzod/runtime/service"
	"github.com/hanzoai/hanzod/system/doctor"
)

// services looks at the service of this user and at that of the machine.
func services(ctx context.Context, p Place) []doctor.Finding {
	var out []doctor.Finding
	var there []string
	for _, system := range []bool{false, true} {
		spec, err := service.Load(system)
		if errors.Is(err, service.ErrNotInstalled) {
			if path := service.UnitFile(system); path != "" {
				if _, err := os.Stat(path); err == nil {
					there = append(there, path)
					out = append(out, one("service", doctor.Note, path+" is there, and was not made by hanzod service install", "")...)
				}
			}
			continue
		}
		if err != nil {
			out = append(out, one("service", doctor.Error, firstLine(err.Error()), "hanzod service install --force")...)
			continue
		}
		s, err := service.New(spec)
		if err != nil {
			out = append(out, one("service", doctor.Note, "it is installed, and "+firstLine(err.Error()), "")...)
			continue
		}
		st, err := s.Status()
		if err != nil {
			out = append(out, one("service", doctor.Warning, firstLine(err.Error()), "look at it as the user, or with the rights, that installed it")...)
			continue
		}
		if !st.Installed {
			out = append(out, one("service", doctor.Warning, "it was installed, and its definition is gone", "hanzod service install, or forget it with: hanzod service uninstall")...)
			continue
		}
		there = append(there, st.Definition)
		out = append(out, installed(ctx, p, s, spec, st)...)
	}
	if len(there) > 1 {
		out = append(out, one("service.twice", doctor.Error, "two services want the port, and one will lose: "+strings.Join(there, " and "),
			"remove one: hanzod service uninstall, or: sudo hanzod service uninstall --system")...)
	}
	if len(there) == 0 && len(out) == 0 {
		return one("service", doctor.Note, "hanzod is not installed as a service", "to have it there after boot or log-on: hanzod service install")
	}
	return out
}

func installed(ctx context.Context, p Place, s *service.Service, spec service.Spec, st service.State) []doctor.Finding {
	var out []doctor.Finding
	flag := ""
	whose := "of this user"
	if st.System {
		flag, whose = " --system", "of the machine"
	}
	fi, err := os.Stat(spec.Executable)
	switch {
	case err != nil:
		out = append(out, one("service.program", doctor.Error, "the program of the service cannot be used: "+err.Error(), "hanzod service install --force"+flag+", from where hanzod is now")...)
	case !fi.Mode().IsRegular() || fi.Mode().Perm()&0o111 == 0 && !strings.HasSuffix(spec.Executable, ".exe"):
		out = append(out, one("service.program", doctor.Error, spec.Executable+" is no program", "hanzod service install --force"+flag)...)
	default:
		out = append(out, ok("service.program", spec.Executable)...)
	}
	what := fmt.Sprintf("%s, by %s: %s", whose, st.Manager, st.Definition)
	switch {
	case st.Changed:
		out = append(out, one("service", doctor.Warning, "the definition "+st.Definition+" is not the one that this hanzod would write", "hanzod service install --force"+flag)...)
	case st.Running:
		out = append(out, ok("service", what)...)
	default:
		out = append(out, one("service", doctor.Warning, "installed "+what+", and stopped", "hanzod service start"+flag)...)
	}
	if spec.StateDir != p.StateDir {
		out = append(out, one("service", doctor.Note, "the service uses another state directory: "+spec.StateDir, "look at that one with: hanzod doctor --state-dir "+quote(spec.StateDir))...)
	}
	if st.Manager == "systemd" {
		out = append(out, systemd(ctx, st.System)...)
	}
	if lingers, known := s.Lingers(); known && !lingers {
		out = append(out, one("service.linger", doctor.Note, "the service ends when its user logs out", "loginctl enable-linger")...)
	}
	return out
}

// systemd says how the last start went, and whether there will be one at boot or log-on.
func systemd(ctx context.Context, system bool) []doctor.Finding {
	args := []string{"show", "hanzod.service", "--property=ActiveState,Result,ExecMainStatus,UnitFileState,NRestarts"}
	enable := "systemctl enable hanzod"
	if !system {
		args = append([]string{"--user"}, args...)
		enable = "systemctl --user enable hanzod"
	}
	text, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	if err != nil {
		return nil // Status has said what is wrong with the manager
	}
	v := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		v[name] = value
	}
	var out []doctor.Finding
	switch {
	case v["ActiveState"] == "failed" && v["ExecMainStatus"] == "78":
		out = one("daemon.start", doctor.Error, "the last start was refused: the configuration does not hold, or the state is used, damaged or of a newer hanzod", "see why with: hanzod service logs")
	case v["ActiveState"] == "failed":
		out = one("daemon.start", doctor.Error, fmt.Sprintf("the last start failed (%s, exit code %s)", v["Result"], v["ExecMainStatus"]), "see why with: hanzod service logs")
	case v["NRestarts"] != "" && v["NRestarts"] != "0":
		out = one("daemon.start", doctor.Note, "systemd has restarted it "+v["NRestarts"]+" times", "see why with: hanzod service logs")
	}
	if v["UnitFileState"] == "disabled" {
		out = append(out, one("service", doctor.Warning, "the service is not started at boot or log-on", enable)...)
	}
	return out
}
