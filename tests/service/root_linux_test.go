package service

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// privateRoot puts the process, which has a mount namespace of its own, into a root of its own: programs
// and libraries of the machine can be read there, everything else is new and empty, and nothing of the
// machine can be written. A systemd that boots cleans /tmp and sets kernel parameters: it must never see
// those of the machine. The process may go on only when it returns nil.
//
// group is the name of a control group of its own, which becomes the root of those that are seen. The
// namespaces of the calling thread are changed: it has to be locked, and what is to live here is started or
// executed from it.
func privateRoot(root, group string, files map[string]string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to ourselves: %w", err)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("make the root: %w", err)
	}
	in := func(path string) string { return filepath.Join(root, path) }
	for _, dir := range []string{"usr", "etc", "proc", "sys", "dev", "run", "tmp", "var/tmp", "var/lib", "var/log", "root", "home", "opt", "old"} {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(in(dir), 0o777|os.ModeSticky); err != nil {
			return err
		}
	}
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		to, err := os.Readlink("/" + name)
		if err != nil {
			return fmt.Errorf("/%s is no link into /usr: %w", name, err)
		}
		if err := os.Symlink(to, in(name)); err != nil {
			return err
		}
	}
	if err := bindReadOnly("/usr", in("usr")); err != nil {
		return err
	}
	if err := unix.Mount("proc", in("proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	// Kernel parameters belong to the machine, not to a namespace.
	for _, path := range []string{"proc/sys", "proc/sysrq-trigger"} {
		if _, err := os.Stat(in(path)); path != "proc/sys" && os.IsNotExist(err) {
			continue // not every kernel has it
		}
		if err := bindReadOnly(in(path), in(path)); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", in("sys"), "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	if err := os.MkdirAll(in("sys/fs/cgroup"), 0o755); err != nil {
		return err
	}
	if err := privateGroup(in("sys/fs/cgroup"), group); err != nil {
		return fmt.Errorf("control groups: %w", err)
	}
	for _, dir := range []string{"dev", "run"} {
		if err := unix.Mount("tmpfs", in(dir), "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	for _, name := range []string{"null", "zero", "full", "random", "urandom"} {
		if err := os.WriteFile(in("dev/"+name), nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, in("dev/"+name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("/dev/%s: %w", name, err)
		}
	}
	for _, dir := range []string{"dev/pts", "dev/shm"} {
		if err := os.Mkdir(in(dir), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("devpts", in("dev/pts"), "devpts", 0, "newinstance,ptmxmode=0666"); err != nil {
		return fmt.Errorf("/dev/pts: %w", err)
	}
	if err := os.Symlink("pts/ptmx", in("dev/ptmx")); err != nil {
		return err
	}
	for path, text := range files {
		if err := os.MkdirAll(filepath.Dir(in(path)), 0o755); err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(path, "opt/") {
			mode = 0o755
		}
		if err := os.WriteFile(in(path), []byte(text), mode); err != nil {
			return err
		}
	}
	if err := unix.PivotRoot(root, in("old")); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the machine's root: %w", err)
	}
	// What is about to start is root: it must not reach the machine past the root either.
	for _, c := range []uintptr{unix.CAP_SYS_TIME, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_SYS_BOOT, unix.CAP_MKNOD, unix.CAP_SYSLOG} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return fmt.Errorf("give up capability %d: %w", c, err)
		}
	}
	return private()
}

// privateGroup moves the process into a control group of its own and shows that one at a place.
func privateGroup(at, group string) error {
	if err := unix.Mount("cgroup2", at, "cgroup2", 0, ""); err != nil {
		return err
	}
	own := filepath.Join(at, group)
	if err := os.Mkdir(own, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return err
	}
	if err := unix.Unmount(at, 0); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	return unix.Mount("cgroup2", at, "cgroup2", 0, "")
}

func bindReadOnly(from, to string) error {
	err := unix.Mount(from, to, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", to, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", from, err)
	}
	return nil
}

// private fails unless every mount is new here or read-only, but for the few devices that hold nothing.
func private() error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	fresh := []string{"tmpfs", "proc", "cgroup2", "devpts"}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// 36 35 98:0 /root /mount options ... - type source options (proc(5))
		left, right, ok := strings.Cut(lines.Text(), " - ")
		head, tail := strings.Fields(left), strings.Fields(right)
		if !ok || len(head) < 6 || len(tail) < 1 {
			return fmt.Errorf("a mount that is not understood: %s", lines.Text())
		}
		readOnly := slices.Contains(strings.Split(head[5], ","), "ro")
		device := strings.HasPrefix(head[4], "/dev/") && head[3] != "/"
		if !readOnly && !device && !slices.Contains(fresh, tail[0]) {
			return fmt.Errorf("the machine could be written at %s (%s)", head[4], lines.Text())
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs("/tmp", &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("/tmp is not new (%v)", err)
	}
	if left, err := os.ReadDir("/tmp"); err != nil || len(left) > 0 {
		return fmt.Errorf("/tmp is not empty (%v)", err)
	}
	return nil
}
