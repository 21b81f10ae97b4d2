package service

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Systemd is the unit. Of the hardening it has what does not reach into the commands that the node host
// runs, unless there are none.
func Systemd(s Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[Unit]")
	line("Description=%s", description)
	if s.System {
		line("Wants=network-online.target")
		line("After=network-online.target")
	}
	// A start that was refused five times must not stay refused when its cause has gone: pauses grow
	// instead.
	line("StartLimitIntervalSec=0")
	line("")
	line("[Service]")
	line("Type=notify")
	line("NotifyAccess=main")
	line("ExecStart=%s", systemdWords(append([]string{s.Executable}, s.Args...)))
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		line("Environment=%s", systemdQuote(k+"="+s.Env[k]))
	}
	if s.System && s.RunAs != "" {
		line("User=%s", s.RunAs)
	}
	line("WorkingDirectory=~")
	line("UMask=0077")
	line("Restart=on-failure")
	// Not 2, the code of a wrong command line: a Go program that crashes ends with it as well.
	line("RestartPreventExitStatus=%d", refusedExit)
	line("RestartSec=%d", int(restartAfter.Seconds()))
	line("RestartSteps=5")
	line("RestartMaxDelaySec=%d", int(restartMax.Seconds()))
	line("WatchdogSec=%d", int(watchdogTime.Seconds()))
	line("TimeoutStartSec=%d", int(startTime.Seconds()))
	line("TimeoutStopSec=%d", int(stopTime.Seconds()))
	line("TimeoutAbortSec=%d", int(abortTime.Seconds()))
	line("KillMode=mixed")
	line("LimitNOFILE=%d", openFiles)
	line("TasksMax=infinity")
	// A command that takes all memory ends alone.
	line("OOMPolicy=continue")
	if !s.Commands {
		for _, l := range []string{
			"NoNewPrivileges=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes", "RestrictRealtime=yes",
			"RestrictSUIDSGID=yes", "RestrictNamespaces=yes", "SystemCallArchitectures=native",
			"RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
		} {
			line("%s", l)
		}
		if s.System { // a user's manager has no right to these
			for _, l := range []string{
				"PrivateDevices=yes", "ProtectClock=yes", "ProtectControlGroups=yes", "ProtectHostname=yes",
				"ProtectKernelLogs=yes", "ProtectKernelModules=yes", "ProtectKernelTunables=yes", "ProtectSystem=strict",
				"PrivateTmp=yes", "CapabilityBoundingSet=", "ProtectProc=invisible", "RemoveIPC=yes", "KeyringMode=private",
				"SystemCallFilter=@system-service", "SystemCallErrorNumber=EPERM",
			} {
				line("%s", l)
			}
			line("ReadWritePaths=%s", systemdQuote("-"+s.StateDir))
		}
	}
	line("")
	line("[Install]")
	if s.System {
		line("WantedBy=multi-user.target")
	} else {
		line("WantedBy=default.target")
	}
	return b.String()
}

func systemdWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = systemdWord(w)
	}
	return strings.Join(out, " ")
}

// systemdWord quotes a word of a command line: $ begins a variable there (systemd.service(5)).
func systemdWord(w string) string { return systemdQuote(strings.ReplaceAll(w, "$", "$$")) }

// systemdQuote quotes a word as systemd.syntax(7) reads it; % begins a specifier.
func systemdQuote(w string) string {
	w = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "%", "%%").Replace(w)
	if w == "" || strings.ContainsAny(w, " ';#\\\"") {
		return `"` + w + `"`
	}
	return w
}

// Launchd is the property list. launchd throttles what ends at once, by itself.
func Launchd(s Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`<?xml version="1.0" encoding="UTF-8"?>`)
	line(`<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">`)
	line(`<plist version="1.0">`)
	line(`<dict>`)
	pair := func(key, value string) { line("\t<key>%s</key>\n\t%s", key, value) }
	text := func(v string) string { return "<string>" + xmlText.Replace(v) + "</string>" }
	pair("Label", text(Label))
	line("\t<key>ProgramArguments</key>\n\t<array>")
	for _, w := range append([]string{s.Executable}, s.Args...) {
		line("\t\t%s", text(w))
	}
	line("\t</array>")
	if len(s.Env) > 0 {
		line("\t<key>EnvironmentVariables</key>\n\t<dict>")
		for _, k := range slices.Sorted(maps.Keys(s.Env)) {
			line("\t\t<key>%s</key>\n\t\t%s", xmlText.Replace(k), text(s.Env[k]))
		}
		line("\t</dict>")
	}
	if s.System && s.RunAs != "" {
		pair("UserName", text(s.RunAs))
	}
	pair("RunAtLoad", "<true/>")
	// After a crash or a signal; an exit with 78 is one that no restart mends, but launchd knows success
	// alone, so that one is tried again, ever more slowly.
	line("\t<key>KeepAlive</key>\n\t<dict>\n\t\t<key>SuccessfulExit</key>\n\t\t<false/>\n\t</dict>")
	pair("ThrottleInterval", fmt.Sprintf("<integer>%d</integer>", int(restartMax.Seconds())))
	pair("ExitTimeOut", fmt.Sprintf("<integer>%d</integer>", int(stopTime.Seconds())))
	pair("ProcessType", text("Interactive"))
	pair("Umask", "<integer>63</integer>")
	pair("WorkingDirectory", text(s.Home))
	line("\t<key>SoftResourceLimits</key>\n\t<dict>\n\t\t<key>NumberOfFiles</key>\n\t\t<integer>%d</integer>\n\t</dict>", openFiles)
	pair("StandardErrorPath", text(s.StateDir+"/logs/service.log"))
	line(`</dict>`)
	line(`</plist>`)
	return b.String()
}

var xmlText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;")

// OpenRC is the init script for supervise-daemon.
func OpenRC(s Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("#!/sbin/openrc-run")
	line("description=%s", shellWord(description))
	line("supervisor=supervise-daemon")
	line("command=%s", shellWord(s.Executable))
	// The words go through the shell once more when the command is started.
	line("command_args=%s", shellWord(shellWords(s.Args)))
	if s.RunAs != "" {
		line("command_user=%s", shellWord(s.RunAs))
	}
	line("directory=%s", shellWord(s.Home))
	line("umask=077")
	line("respawn_delay=%d", int(restartAfter.Seconds()))
	line("respawn_max=0")
	line("retry=SIGTERM/%d/SIGKILL/5", int(stopTime.Seconds()))
	line(`rc_ulimit="-n %d"`, openFiles)
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		line("export %s=%s", k, shellWord(s.Env[k]))
	}
	line("")
	line("depend() {")
	line("\tuse net")
	line("\tafter firewall")
	line("}")
	return b.String()
}

// SysV is the script of System V init. Nothing restarts the daemon there.
func SysV(s Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("#!/bin/sh")
	line("### BEGIN INIT INFO")
	line("# Provides:          %s", Name)
	line("# Required-Start:    $remote_fs $network")
	line("# Required-Stop:     $remote_fs $network")
	line("# Default-Start:     2 3 4 5")
	line("# Default-Stop:      0 1 6")
	line("# Short-Description: %s", description)
	line("### END INIT INFO")
	line("")
	line("pid=/var/run/%s.pid", Name)
	for _, k := range slices.Sorted(maps.Keys(s.Env)) {
		line("export %s=%s", k, shellWord(s.Env[k]))
	}
	as := ""
	if s.RunAs != "" {
		as = " --chuid " + shellWord(s.RunAs)
	}
	line("case \"$1\" in")
	line("start)")
	line("\tumask 077")
	line("\texec start-stop-daemon --start --oknodo --background --make-pidfile --pidfile $pid%s --chdir %s --exec %s -- %s",
		as, shellWord(s.Home), shellWord(s.Executable), shellWords(s.Args))
	line("\t;;")
	line("stop)")
	line("\texec start-stop-daemon --stop --oknodo --retry TERM/%d/KILL/5 --remove-pidfile --pidfile $pid --exec %s",
		int(stopTime.Seconds()), shellWord(s.Executable))
	line("\t;;")
	line("restart|force-reload)")
	line("\t\"$0\" stop && exec \"$0\" start")
	line("\t;;")
	line("status)")
	line("\tif start-stop-daemon --status --pidfile $pid --exec %s; then", shellWord(s.Executable))
	line("\t\techo Running; exit 0")
	line("\tfi")
	line("\techo Stopped; exit 3")
	line("\t;;")
	line("*)")
	line("\techo \"usage: $0 start|stop|restart|status\" >&2")
	line("\texit 2")
	line("esac")
	return b.String()
}

func shellWords(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = shellWord(w)
	}
	return strings.Join(out, " ")
}

func shellWord(w string) string { return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'" }
