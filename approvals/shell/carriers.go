package shell

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Many programs run what their arguments say: an entry for one of them is an entry for everything, and
// whoever wrote `/usr/bin/find` or `/usr/bin/**` into a list rarely meant that. So a listed program of
// the tables below is covered with the arguments that people use it for, and not with those that name
// another program, hand it code, or load something. Where the table cannot tell, the answer is no: that
// costs a question. Programs that are not in the tables are not looked at; the tables are a help, and
// what a copy under another name does is the business of who listed that copy.

// limits are what a program of the tables may not be told.
type limits struct {
	// never is for programs whose very use is to run others, or to read commands from somewhere.
	never bool
	// script is for interpreters: the first word must be a file that the list names, before it only the
	// options in harmless may stand.
	script   bool
	harmless string
	// verbs are the only first words allowed, when there are any; refused are those that are not.
	verbs, refused []string
	// long are options that are not allowed, without their dashes and also abbreviated; short are letters,
	// alone or among others. valued and longValued take the next word, which is then no verb.
	long       []string
	short      string
	valued     string
	longValued []string
	// words are not allowed anywhere: options with one dash, and what programs like find have instead.
	words []string
	// assignments says that NAME=value is not allowed.
	assignments bool
	check       func(args []string) bool
}

// Refusal says why a program that a list names is not covered with the arguments of a segment: what it
// would run is in them and not in the list. "" is no objection. It is asked for patterns and for skills,
// and reads no file; an interpreter's script is looked for in l.
func (m Machine) Refusal(s Segment, l List) string {
	if len(s.Effective) == 0 {
		return ""
	}
	args := s.Effective[1:]
	for _, path := range []string{s.Path, s.RealPath, s.Executable} {
		name := plainName(path)
		if name == "" {
			continue
		}
		if strings.HasPrefix(name, "ld-linux") || strings.HasPrefix(name, "ld-musl") || name == "ld.so" {
			return name + " runs the program that it is told to"
		}
		lim, known := carriers[name]
		if !known || len(args) == 1 && slices.Contains([]string{"--version", "-V", "--help", "-version"}, args[0]) {
			continue
		}
		if lim.script {
			if why := m.scriptRefusal(name, lim, args, l); why != "" {
				return why
			}
			continue
		}
		if why := lim.refusal(name, args); why != "" {
			return why
		}
	}
	return ""
}

var versionSuffix = regexp.MustCompile(`[-_]?[0-9][-_.0-9]*$`)

// plainName is the name that the tables know a program by: without directory, version and the ending
// that Windows gives to programs and scripts.
func plainName(path string) string {
	name := programName(path)
	for _, ext := range []string{".cmd", ".bat", ".com", ".ps1"} {
		name = strings.TrimSuffix(name, ext)
	}
	if _, known := carriers[name]; known {
		return name
	}
	if cut := versionSuffix.ReplaceAllString(name, ""); cut != "" {
		return cut
	}
	return name
}

func (o limits) refusal(name string, args []string) string {
	if o.never {
		return name + " runs what its arguments or its input say"
	}
	no := func(what string) string { return name + " with " + clip(what) + " may run something else" }
	verb := false
	for i := 0; i < len(args); i++ {
		w := args[i]
		switch flag, _, _ := strings.Cut(w, "="); {
		case slices.Contains(o.words, flag):
			return no(flag)
		case w == "--" || w == "-" || w == "":
		case strings.HasPrefix(w, "--"):
			if slices.ContainsFunc(o.long, func(d string) bool { return strings.HasPrefix(d, flag[2:]) }) {
				return no(flag)
			}
			if w == flag && slices.Contains(o.longValued, flag[2:]) {
				i++
			}
		case w[0] == '-':
			for j := 1; j < len(w); j++ {
				if strings.IndexByte(o.short, w[j]) >= 0 {
					return no("-" + w[j:j+1])
				}
				if strings.IndexByte(o.valued, w[j]) >= 0 {
					if j == len(w)-1 {
						i++
					}
					break
				}
			}
		case o.assignments && strings.ContainsRune(w, '='):
			return no(flag + "=")
		case !verb:
			verb = true
			if len(o.verbs) > 0 && !slices.Contains(o.verbs, w) || slices.Contains(o.refused, w) {
				return no(w)
			}
		}
	}
	if o.check != nil && !o.check(args) {
		return no("these arguments")
	}
	return ""
}

// maxShown is how many bytes of an argument a refusal shows.
const maxShown = 40

func clip(s string) string {
	if len(s) > maxShown {
		return strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}

// scriptRefusal lets an interpreter run a file that the list names itself, by a pattern other than *.
func (m Machine) scriptRefusal(name string, o limits, args []string, l List) string {
	for _, w := range args {
		if strings.HasPrefix(w, "-") {
			if w == "-" || strings.Trim(w[1:], o.harmless) != "" || o.harmless == "" {
				return name + " with " + clip(w) + " runs what is not in the list"
			}
			continue
		}
		path := w
		if !filepath.IsAbs(path) {
			abs, err := filepath.Abs(filepath.Join(trim(m.Cwd), path))
			if err != nil {
				break
			}
			path = abs
		}
		// The real file as well: a link that somebody may turn elsewhere is not what was listed.
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return name + " runs " + clip(w) + ", which is not there"
		}
		if fi, err := os.Stat(real); err != nil || !fi.Mode().IsRegular() || !m.names(l, path) || !m.names(l, real) {
			return name + " runs " + clip(w) + ", which is not in the list"
		}
		return ""
	}
	return name + " reads commands from its input"
}

// names reports whether a pattern other than * covers a path.
func (m Machine) names(l List, path string) bool {
	return slices.ContainsFunc(l.Patterns, func(p string) bool { return trim(p) != "*" && m.Match(p, path) })
}

// carriers are the tables, by name.
var carriers = makeCarriers()

func makeCarriers() map[string]limits {
	t := map[string]limits{
		"awk": {check: awkIsPlain}, "gawk": {check: awkIsPlain}, "mawk": {check: awkIsPlain}, "nawk": {check: awkIsPlain},
		"original-awk": {check: awkIsPlain}, "sed": {check: sedIsPlain}, "gsed": {check: sedIsPlain}, "git": {check: gitIsPlain},
		"find": {words: findActions}, "gfind": {words: findActions}, "bfs": {words: findActions},
		"fd": fdLimits, "fdfind": fdLimits,
		"tar": {check: tarIsPlain}, "gtar": {check: tarIsPlain}, "bsdtar": {check: tarIsPlain},
		"cpio": {short: "FIO", long: []string{"rsh-command", "file"}}, "zip": {short: "T", long: []string{"unzip-command", "test"}},
		"rsync": {short: "eM", long: []string{"rsh", "rsync-path", "remote-option", "config", "daemon", "files-from"}, valued: "fT@B"},
		"scp":   {short: "SoFDJ"}, "sftp": {short: "SoFDbJ"},
		"make": makeLimits, "gmake": makeLimits, "bmake": makeLimits, "ninja": {short: "fCt"},
		"npm": nodePackages, "pnpm": nodePackages, "yarn": nodePackages, "npm-cli": nodePackages,
		"go": {
			refused: []string{"run", "generate", "tool", "env", "bug"}, long: goFlags,
			words: dashed(goFlags), valued: "",
		},
		"cargo": {
			refused: []string{"run", "r", "install", "script", "miri", "bench"}, long: []string{"config", "manifest-path"}, short: "ZC",
			check: func(args []string) bool {
				return !slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "+") })
			},
		},
		"pip": pipLimits, "pip3": pipLimits, "gem": {verbs: []string{"list", "search", "info", "contents", "environment", "which"}},
		"apt": aptLimits, "apt-get": aptLimits, "apt-cache": {short: "oc", long: []string{"option", "config-file"}},
		"dpkg":   {short: "iABPr", long: []string{"install", "unpack", "configure", "remove", "purge", "pre-invoke", "post-invoke", "status-logger", "root"}},
		"rpm":    {short: "iUFeEDr", long: []string{"eval", "pipe", "define", "install", "upgrade", "freshen", "erase", "rcfile", "macros", "load", "root"}},
		"docker": dockerLimits, "podman": dockerLimits, "nerdctl": dockerLimits,
		"kubectl": {
			verbs: []string{"get", "describe", "logs", "version", "top", "explain", "api-resources", "api-versions", "cluster-info"},
			long:  []string{"kubeconfig", "kuberc"}, longValued: []string{"namespace", "context", "cluster"}, valued: "n",
		},
		"systemctl": {
			verbs: []string{"status", "is-active", "is-enabled", "is-failed", "list-units", "list-unit-files", "list-timers", "list-sockets", "show", "cat"},
			short: "HM", long: []string{"host", "machine", "root", "image"}, valued: "ptno",
		},
		"ip":       {words: []string{"netns", "vrf", "-b", "-batch", "-force"}, long: []string{"batch"}, check: ipIsPlain},
		"split":    {long: []string{"filter"}},
		"sort":     {long: []string{"compress-program"}},
		"install":  {short: "s", long: []string{"strip-program", "strip"}, valued: "mogtS"},
		"patch":    {short: "e", long: []string{"ed", "get"}},
		"diff3":    {long: []string{"diff-program"}},
		"sdiff":    {long: []string{"diff-program"}, short: "o"},
		"rg":       {long: []string{"pre", "hostname-bin"}},
		"ag":       {long: []string{"pager"}},
		"ack":      {long: []string{"pager", "ackrc", "output", "create-ackrc"}},
		"bat":      {long: []string{"pager"}, refused: []string{"cache"}},
		"batcat":   {long: []string{"pager"}, refused: []string{"cache"}},
		"man":      {short: "PHCTXZ", long: []string{"pager", "html", "browser", "config-file", "gxditview", "ditroff", "troff-device"}, valued: "SseMLmRrE"},
		"less":     {short: "kKoO", long: []string{"lesskey", "log-file", "LOG-FILE", "cmd"}, check: noPlusWords},
		"more":     {check: noPlusWords},
		"curl":     {short: "K", long: []string{"config", "engine"}, valued: "AbcCdDeEFHhmoPQrTtuUwxXyYz"},
		"wget":     {short: "e", long: []string{"execute", "use-askpass", "config"}, valued: "aoiBtOTwQPUlADXIRG"},
		"gpg":      {long: []string{"photo-viewer", "exec-path", "options", "homedir", "agent-program", "dirmngr-program", "keyboxd-program", "pinentry-program", "load-extension"}},
		"openssl":  {words: []string{"-engine", "-provider", "-provider-path", "-config", "-engine_impl", "engine"}},
		"ctags":    {long: []string{"options", "optlib-dir", "_"}},
		"pandoc":   {short: "FL", long: []string{"filter", "lua-filter", "pdf-engine", "defaults", "data-dir"}},
		"pdflatex": texLimits, "latex": texLimits, "xelatex": texLimits, "tex": texLimits, "pdftex": texLimits, "bibtex": {},
		"tcpdump": {short: "zwWC"}, "nmap": {long: []string{"script", "datadir", "servicedb", "resume"}, short: "", words: []string{"-sC", "-A"}},
		"hg":  {long: []string{"config", "config-file", "debugger"}, refused: []string{"serve", "bisect", "debuginstall"}},
		"svn": {long: []string{"config-option", "config-dir", "diff-cmd", "diff3-cmd", "editor-cmd", "merge-cmd"}},
		"rclone": {
			verbs: []string{"ls", "lsl", "lsd", "lsf", "lsjson", "size", "version", "about", "check", "cat"},
			long:  []string{"password-command", "config", "ssh", "sftp-ssh", "metadata-mapper"},
		},
		"restic": {short: "o", long: []string{"option", "password-command"}}, "borg": {long: []string{"rsh", "remote-path"}},
		"gcc": ccLimits, "g++": ccLimits, "cc": ccLimits, "c++": ccLimits, "clang": ccLimits, "clang++": ccLimits,
		"convert": {check: imagesArePlain}, "magick": {check: imagesArePlain}, "identify": {check: imagesArePlain}, "mogrify": {check: imagesArePlain},
		"sqlite": {check: sqliteIsPlain}, "sqlite3": {check: sqliteIsPlain},
		"gh":         {refused: []string{"alias", "extension", "extensions", "ext", "codespace", "cs"}},
		"journalctl": {short: "DM", long: []string{"root", "image", "machine"}, valued: "nupotSUkg"},
	}
	for _, names := range []struct {
		list   string
		limits limits
	}{
		// Programs whose use it is to run others.
		{`xargs parallel watch entr script expect unbuffer strace ltrace gdb lldb perf valgrind time chroot unshare nsenter flock runuser su
		pkexec gosu su-exec setpriv systemd-run systemd-nspawn machinectl start-stop-daemon at batch crontab screen tmux byobu dtach abduco
		ssh slogin rsh rlogin telnet mosh autossh sshpass dbus-launch dbus-run-session xvfb-run xinit startx eatmydata faketime fakeroot
		fakechroot firejail bwrap proot numactl prlimit cpulimit run-parts runcon sg newgrp login watchexec nodemon direnv chpst softlimit
		setuidgid envuidgid envdir s6-setuidgid tini dumb-init daemonize nq ts-node tsx
		caffeinate osascript open arch xcrun launchctl automator wine wine64
		forfiles wsl rundll32 mshta wscript cscript regsvr32 msiexec wmic schtasks start explorer installutil msbuild regasm regsvcs cmstp
		control pcalua hh conhost winrs psexec runas certutil bitsadmin
		xdg-open sensible-browser sensible-editor sensible-pager run-mailcap see edit`, limits{never: true}},
		// Programs that read commands from their input, their arguments or a file that is nobody's listing.
		{`vi vim view nvim ex ed red rvim rview gvim vimdiff emacs emacsclient nano pico joe micro hx kak mc
		psql mysql mariadb sqlplus mongosh mongo redis-cli nc ncat netcat socat dc m4 gs ghostscript cmake ctest just rake ant gradle mvn bazel
		npx bunx uvx pipx pnpx corepack deno bun uv poetry pipenv tox nox ansible ansible-playbook terraform tofu puppet salt chef-client vagrant
		packer mail mailx mutt sendmail exim modprobe service logrotate java javaw javaws jshell dotnet mono swift scala groovy kotlin
		lualatex luatex luahbtex msgexec msgfilter fzf ranger nnn lf vifm ipython jupyter irb pry iex ghci nu elvish xonsh csh tcsh mksh
		pdksh rbash rksh yash oksh rc es osh ysh ion posh lksh git-shell`, limits{never: true}},
		// Interpreters.
		{"python pypy python2 python3 pypy3", limits{script: true, harmless: "uBsSEIOqbd"}},
		{"perl", limits{script: true, harmless: "wTtW"}},
		{"ruby jruby", limits{script: true, harmless: "w"}},
		{`node nodejs lua luajit php php-cli rscript r julia octave guile racket sbcl clisp runghc runhaskell ocaml erl escript elixir tclsh
		wish raku perl6 janet fennel qjs d8 gjs cjs`, limits{script: true}},
	} {
		for n := range strings.FieldsSeq(names.list) {
			t[n] = names.limits
		}
	}
	return t
}

var (
	findActions = []string{
		"-exec", "-execdir", "-ok", "-okdir", "-delete", "-fprint", "-fprint0", "-fprintf", "-fls", "-files0-from",
	}
	fdLimits   = limits{short: "xX", long: []string{"exec", "exec-batch"}, valued: "dteEScoj"}
	makeLimits = limits{
		short: "fCIEo", long: []string{"file", "makefile", "directory", "include-dir", "eval", "old-file", "assume-old"}, valued: "jlW", assignments: true,
	}
	nodePackages = limits{
		refused: []string{
			"exec", "x", "dlx", "explore", "config", "c", "set", "init", "create", "innit", "edit", "link", "ln", "rebuild", "node", "env",
			"patch", "patch-commit", "import", "plugin", "pkg",
		},
		long: []string{
			"script-shell", "shell", "node-options", "prefix", "userconfig", "globalconfig", "call", "init-module", "git", "editor", "viewer",
			"cwd", "use-yarnrc", "node", "dir", "shell-emulator", "shell-mode",
		},
		short: "cC",
	}
	goFlags = []string{
		"exec", "toolexec", "vettool", "ldflags", "gcflags", "asmflags", "gccgoflags", "overlay", "modfile", "compiler", "pkgdir",
	}
	pipLimits = limits{
		verbs: []string{"list", "show", "freeze", "check", "index", "search", "debug", "help", "hash", "inspect"},
		long:  []string{"python", "config"},
	}
	aptLimits = limits{
		verbs: []string{"list", "show", "search", "policy", "depends", "rdepends", "changelog", "madison"}, short: "oc", long: []string{"option", "config-file"},
	}
	dockerLimits = limits{
		verbs: []string{
			"ps", "images", "logs", "inspect", "version", "info", "stats", "top", "history", "port", "diff", "events", "search",
		},
		short: "Hc", long: []string{"host", "context", "config", "connection", "url", "remote", "root", "runroot", "module", "hooks-dir"},
	}
	texLimits = limits{
		words: []string{"-shell-escape", "--shell-escape", "-enable-write18", "--enable-write18", "-shell-restricted", "-output-directory", "-fmt", "-cnf-line"},
		long:  []string{"shell-escape", "enable-write18", "cnf-line", "fmt"},
		check: func(args []string) bool { return !slices.ContainsFunc(args, startsWith("\\", "&")) },
	}
	ccLimits = limits{
		words: []string{"-wrapper", "-B", "-Xclang", "-load", "-Xlinker", "-Xassembler", "-Xpreprocessor"}, long: []string{"config", "gcc-toolchain", "ld-path", "specs"},
		check: func(args []string) bool {
			return !slices.ContainsFunc(args, startsWith("@", "-B", "-fplugin", "-specs", "-Wl,", "-Wa,", "-Wp,", "-fuse-ld", "-ccc-", "-no-canonical-prefixes", "-fpass-plugin"))
		},
	}
)

func dashed(names []string) (out []string) {
	for _, n := range names {
		out = append(out, "-"+n)
	}
	return out
}

func startsWith(prefixes ...string) func(string) bool {
	return func(s string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
	}
}

func noPlusWords(args []string) bool { return !slices.ContainsFunc(args, startsWith("+")) }

// ipIsPlain refuses an abbreviated netns or vrf exec: ip takes any beginning of a name.
func ipIsPlain(args []string) bool {
	for _, a := range args {
		if strings.HasPrefix(a, "-b") || strings.HasPrefix(a, "exe") || a == "ex" || a == "e" {
			return false
		}
	}
	return true
}

func imagesArePlain(args []string) bool {
	return !slices.ContainsFunc(args, func(a string) bool {
		return strings.ContainsAny(a, "|@`") || strings.Contains(strings.ToLower(a), "msl:") || strings.Contains(strings.ToLower(a), "ephemeral:")
	})
}

// sqliteIsPlain wants the statements among the words, without the commands of the shell of that program
// and without functions that touch files or load code.
func sqliteIsPlain(args []string) bool {
	words := 0
	for _, a := range args {
		low := strings.ToLower(a)
		switch {
		case slices.Contains([]string{"-readonly", "-json", "-csv", "-header", "-noheader", "-line", "-column", "-list", "-batch", "-safe"}, low):
		case strings.HasPrefix(a, "-"), strings.HasPrefix(strings.TrimSpace(a), "."), strings.Contains(a, "\n"):
			return false
		case strings.Contains(low, "load_extension"), strings.Contains(low, "writefile"), strings.Contains(low, "edit("),
			strings.Contains(low, "attach"), strings.Contains(low, "fts3_tokenizer"):
			return false
		default:
			words++
		}
	}
	return words >= 2
}

// tarIsPlain knows the old form of its options too: a first word without a dash.
func tarIsPlain(args []string) bool {
	dangerous := []string{
		"to-command", "checkpoint-action", "use-compress-program", "rsh-command", "rmt-command", "info-script", "new-volume-script",
		"index-file", "one-top-level-command",
	}
	for i, a := range args {
		switch {
		case strings.HasPrefix(a, "--"):
			flag, value, _ := strings.Cut(a[2:], "=")
			if slices.ContainsFunc(dangerous, func(d string) bool { return flag != "" && strings.HasPrefix(d, flag) }) || remotePlace(value) {
				return false
			}
		case i == 0 || strings.HasPrefix(a, "-"):
			// In a cluster only one option takes the rest as its value, so a file name glued to -f may
			// hold these letters: that costs a question.
			letters, _, _ := strings.Cut(strings.TrimPrefix(a, "-"), "/")
			if strings.ContainsAny(letters, "IF") {
				return false
			}
		case remotePlace(a):
			return false
		}
	}
	return true
}

// remotePlace reports a name with a colon before any slash: tar reaches such a place by running rsh.
func remotePlace(s string) bool {
	before, _, _ := strings.Cut(s, "/")
	return strings.Contains(before, ":")
}

// gitVerbs are the commands of git that run nothing that their arguments name. What a repository itself
// configures (hooks, filters) is run by several of them.
var gitVerbs = strings.Fields(`add am annotate apply archive blame branch bundle cat-file check-attr check-ignore cherry cherry-pick checkout clean
	clone commit commit-tree count-objects describe diff diff-files diff-index diff-tree fetch for-each-ref format-patch fsck gc grep hash-object
	init log ls-files ls-remote ls-tree merge merge-base merge-file mktree mv name-rev notes pack-refs prune pull push range-diff read-tree
	rebase reflog remote repack reset restore rev-list rev-parse revert rm shortlog show show-branch show-ref sparse-checkout stash status
	stripspace switch symbolic-ref tag update-index update-ref var verify-commit verify-pack verify-tag version whatchanged worktree write-tree`)

// gitLong are options that name a program, a configuration or a place to write. Git takes any beginning
// of them that is not ambiguous.
var gitLong = []string{
	"config-env", "exec-path", "config", "upload-pack", "receive-pack", "exec", "ext-diff", "open-files-in-pager", "template", "output",
	"output-directory", "to-cmd", "cc-cmd", "edit", "gpg-sign", "separate-git-dir", "extcmd", "tool", "textconv", "paginate", "strategy",
}

func gitIsPlain(args []string) bool {
	i := 0
	for ; i < len(args); i++ { // before the command
		switch a := args[i]; {
		case a == "-C":
			i++
			continue
		case a == "--no-pager", a == "-P", a == "--no-optional-locks", a == "--literal-pathspecs", a == "--no-replace-objects", a == "--bare":
			continue
		case strings.HasPrefix(a, "-"):
			return false
		}
		break
	}
	if i == len(args) {
		return true
	}
	verb := args[i]
	// What has other characters is no name of an alias: git says that it is no command.
	if !slices.Contains(gitVerbs, verb) && strings.Trim(fold(verb), "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" {
		return false
	}
	for _, a := range args[i+1:] {
		if a == "--" && verb != "ls-remote" && verb != "clone" && verb != "fetch" && verb != "pull" && verb != "push" {
			break
		}
		switch {
		case strings.Contains(a, "::"), strings.Contains(a, "://-"):
			return false // a transport (ext::sh -c …), or an option in the place of a host
		case strings.HasPrefix(a, "--"):
			flag, _, _ := strings.Cut(a[2:], "=")
			if flag != "" && slices.ContainsFunc(gitLong, func(d string) bool { return strings.HasPrefix(d, flag) }) {
				return false
			}
		case strings.HasPrefix(a, "-") && len(a) > 1:
			if strings.IndexByte(gitLetters(verb), a[1]) >= 0 {
				return false
			}
			// Letters of grep and rebase may stand together.
			if verb == "grep" && strings.ContainsRune(a, 'O') || verb == "rebase" && strings.ContainsRune(a, 'x') {
				return false
			}
		}
	}
	return true
}

// gitLetters are the options of one letter that name a program or a configuration, by command.
func gitLetters(verb string) string {
	switch verb {
	case "clone":
		return "uc"
	case "fetch", "pull", "ls-remote":
		return "us"
	case "grep":
		return "O"
	case "rebase":
		return "xsi"
	case "format-patch", "archive", "diff", "log", "show":
		return "o"
	case "merge", "cherry-pick", "revert":
		return "sS"
	case "commit", "tag":
		return "S"
	}
	return ""
}

var awkDangers = regexp.MustCompile(`system|getline|extension|[|>@]`)

// awkIsPlain wants the program among the words and nothing in it that runs, reads or writes elsewhere.
// A comparison with > is refused as well: what it is cannot be told from a redirection without parsing.
func awkIsPlain(args []string) bool {
	program := false
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case program:
			// Files, and assignments, which are data.
			if strings.HasPrefix(a, "-") && len(a) > 1 {
				return false
			}
		case a == "-F" || a == "-v" || a == "--field-separator" || a == "--assign":
			i++
		case a == "--":
		case strings.HasPrefix(a, "-F"), strings.HasPrefix(a, "-v"), strings.HasPrefix(a, "--field-separator="), strings.HasPrefix(a, "--assign="):
		case strings.HasPrefix(a, "-"):
			return false
		case awkDangers.MatchString(a):
			return false
		default:
			program = true
		}
	}
	return program
}

// sedIsPlain wants a script among the words that edits its input and nothing else.
func sedIsPlain(args []string) bool {
	script, given := false, false
	var words []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "-e" || a == "--expression":
			if i++; i == len(args) || !sedScript(args[i]) {
				return false
			}
			given = true
		case strings.HasPrefix(a, "--expression="):
			if !sedScript(a[len("--expression="):]) {
				return false
			}
			given = true
		case slices.Contains([]string{"--quiet", "--silent", "--regexp-extended", "--separate", "--unbuffered", "--null-data", "--sandbox", "--posix", "--debug"}, a):
		case a == "--":
			words = append(words, args[i+1:]...)
			i = len(args)
		case strings.HasPrefix(a, "-") && len(a) > 1:
			if strings.Trim(a[1:], "nErsuz") != "" {
				return false
			}
		default:
			words = append(words, a)
		}
	}
	if !given && len(words) > 0 {
		script = sedScript(words[0])
	}
	return given || script
}

// sedScript reads the commands that only edit: s, y, p, d and the like with line numbers, $ and regular
// expressions as addresses. s with the flags e and w, and the commands e, r, w, R and W are refused, and
// so is all that it does not know.
func sedScript(s string) bool {
	for s != "" {
		s = strings.TrimLeft(s, " \t\n;{}")
		if s == "" {
			return true
		}
		var ok bool
		if s, ok = sedAddress(s); !ok {
			return false
		}
		s = strings.TrimLeft(s, " \t!")
		if s == "" {
			return false
		}
		c := s[0]
		s = s[1:]
		switch {
		case strings.IndexByte("pPdDhHgGxnN=lFz", c) >= 0:
		case c == 'q' || c == 'Q':
			s = strings.TrimLeft(s, "0123456789")
		case c == 's' || c == 'y':
			if s, ok = sedDelimited(s, 2); !ok {
				return false
			}
			if c == 's' {
				s = strings.TrimLeft(s, "gpiI0123456789")
			}
		default:
			return false
		}
		s = strings.TrimLeft(s, " \t")
		if s != "" && strings.IndexByte(";\n}", s[0]) < 0 {
			return false
		}
	}
	return true
}

// sedAddress cuts off one or two addresses.
func sedAddress(s string) (string, bool) {
	for range 2 {
		switch {
		case s == "":
			return s, false
		case s[0] == '/':
			rest, ok := sedDelimited(s, 1)
			if !ok {
				return s, false
			}
			s = strings.TrimLeft(rest, "IM")
		case s[0] == '$':
			s = s[1:]
		default:
			s = strings.TrimLeft(s, "0123456789~+")
		}
		s = strings.TrimLeft(s, " \t")
		rest, more := strings.CutPrefix(s, ",")
		if !more {
			return s, true
		}
		s = strings.TrimLeft(rest, " \t")
	}
	return s, true
}

// sedDelimited cuts off n texts that stand between the delimiter that comes first. A line end within
// them is refused.
func sedDelimited(s string, n int) (string, bool) {
	if s == "" || s[0] == '\\' || s[0] == '\n' || s[0] >= 0x80 {
		return s, false
	}
	d := s[0]
	i := 1
	for ; n > 0; n-- {
		class := false
		for ; ; i++ {
			if i >= len(s) || s[i] == '\n' {
				return s, false
			}
			if s[i] == '\\' {
				if i++; i >= len(s) || s[i] == '\n' {
					return s, false
				}
				continue
			}
			// Whether a delimiter within brackets ends the text is told differently by different
			// programs: refused.
			switch s[i] {
			case '[':
				class = true
			case ']':
				class = false
			}
			if s[i] == d {
				if class {
					return s, false
				}
				break
			}
		}
		i++
	}
	return s[i:], true
}
