package service

// Packaged are the systemd units of a package of an operating system, by file: one for each user who
// enables it, and a template for the machine whose instances are named by the account that they run as.
// They are what Install writes for hanzod in /usr/bin.
func Packaged() map[string]string {
	spec := Spec{Executable: "/usr/bin/hanzod", Args: []string{"run", "--node"}, Commands: true}
	user := Systemd(spec)
	spec.System, spec.RunAs = true, "%i"
	return map[string]string{"user/" + Name + ".service": user, "system/" + Name + "@.service": Systemd(spec)}
}
