package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"slices"
	"strings"

	"github.com/hanzoai/hanzod/approvals/shell"
)

// Names of variables that never reach a run, because they make programs load or run something else
// (nodes-approvals.md §3.14). Compared in upper case.
var (
	blockedEnv = []string{
		"NODE_OPTIONS", "NODE_PATH", "PYTHONHOME", "PYTHONPATH", "PERL5LIB", "PERL5OPT", "RUBYLIB", "RUBYOPT",
		"BASH_ENV", "ENV", "GIT_EXTERNAL_DIFF", "SHELL", "SHELLOPTS", "PS4", "GCONV_PATH", "IFS", "SSLKEYLOGFILE",
	}
	blockedEnvPrefixes = []string{"DYLD_", "LD_", "BASH_FUNC_"}
	// keptFromBase may not be overridden; the machine's own value is used.
	keptFromBase = []string{"HOME", "ZDOTDIR", "PATH"}
	// What a caller may not set, although the machine's own value is let through: names of programs and
	// of what they load, run, or take their configuration from. The original lets a caller set these. A
	// value of the machine is its owner's choice; one of the caller would turn a listed command, or one
	// that was approved by its argv, into another.
	steeringEnv = strings.Fields(`PAGER EDITOR VISUAL BROWSER FCEDIT LESS LESSOPEN LESSCLOSE LESSKEY LESSKEYIN LESSKEYIN_SYSTEM MORE MANOPT MANPATH MANROFFOPT
		BASHOPTS PROMPT_COMMAND PS0 PS1 PS2 PS3 CDPATH GLOBIGNORE FPATH INPUTRC HISTFILE HISTCONTROL EXECIGNORE FIGNORE TMOUT
		MAIL MAILCAPS MAILCHECK MAILPATH WGETRC CURL_HOME NETRC TAPE TAR_READER_OPTIONS TAR_WRITER_OPTIONS UNZIP ZIPOPT GZIP BZIP2 XZ_DEFAULTS
		MAKEFLAGS MFLAGS MAKEFILES GNUMAKEFLAGS MAKESHELL CC CXX CPP LD AR AS NM FC F77 RANLIB STRIP LIBTOOL PKG_CONFIG M4 AWK LEX YACC
		CFLAGS CXXFLAGS CPPFLAGS LDFLAGS FFLAGS COMPILER_PATH GCC_EXEC_PREFIX CPATH LIBRARY_PATH RUSTC RUSTDOC RUSTFLAGS CCACHE_PREFIX
		AWKPATH AWKLIBPATH VIMINIT EXINIT GVIMINIT VIM VIMRUNTIME MYVIMRC EMACSLOADPATH TERMINFO TERMINFO_DIRS TERMCAP LOCPATH NLSPATH
		HOSTALIASES RES_OPTIONS LOCALDOMAIN RESOLV_HOST_CONF OPENSSL_CONF OPENSSL_CONF_INCLUDE OPENSSL_MODULES OPENSSL_ENGINES
		SSL_CERT_FILE SSL_CERT_DIR CURL_CA_BUNDLE REQUESTS_CA_BUNDLE GNUPGHOME GPG_AGENT_INFO KUBECONFIG KUBE_EDITOR DISPLAY WAYLAND_DISPLAY XAUTHORITY
		XDG_CONFIG_HOME XDG_CONFIG_DIRS XDG_DATA_HOME XDG_DATA_DIRS XDG_RUNTIME_DIR XDG_CACHE_HOME
		CLASSPATH JAVA_HOME MAVEN_ARGS MAVEN_HOME GRADLE_HOME GRADLE_USER_HOME ANT_ARGS SBT_OPTS PHPRC PHP_INI_SCAN_DIR PERLLIB PERL5DB PERLIO_DEBUG
		HGRCPATH HGPLAIN HG SVN_SSH CVSROOT BZR_PLUGIN_PATH FZF_DEFAULT_OPTS_FILE RIPGREP_CONFIG_PATH BAT_CONFIG_PATH ACKRC JQ_LIBRARY_PATH
		APT_CONFIG DPKG_ROOT DPKG_ADMINDIR MODPROBE_OPTIONS SQLITE_HISTORY PSQLRC PGPASSFILE PGSERVICEFILE PGSYSCONFDIR MYSQL_HOME MYSQL_TEST_LOGIN_FILE
		WINDIR SYSTEMROOT COMSPEC PATHEXT PSMODULEPATH PROGRAMDATA APPDATA LOCALAPPDATA USERPROFILE
		GOFLAGS GOTOOLCHAIN GOPROXY GOENV GOPATH GOROOT GOBIN GOCACHE GONOSUMDB GOSUMDB GOINSECURE GOPRIVATE GOVCS GOAUTH GODEBUG GOEXPERIMENT GOMODCACHE
		VIRTUAL_ENV CONDA_PREFIX OPAMROOT GHCRTS OCAMLRUNPARAM CAML_LD_LIBRARY_PATH ERL_FLAGS ERL_AFLAGS ERL_ZFLAGS ERL_LIBS ELIXIR_ERL_OPTIONS`)
	steeringPrefixes = strings.Fields(`GIT_ NPM_CONFIG_ YARN_ PNPM_ COREPACK_ BUN_ DENO_ NODE_ PYTHON PIP_ UV_ POETRY_ PIPX_ RUBY GEM_ BUNDLE_ BUNDLER_ PERL_ LUA_ R_
		JULIA_ GUILE_ TCL BASH_ ZSH_ FISH_ KSH_ DOTNET_ COR_ CORECLR_ COMPLUS_ JDK_ _JAVA CARGO_ RUSTC_ RUSTUP_ CMAKE_ CTEST_ NINJA_ CCACHE_ DISTCC_
		DOCKER_ BUILDKIT_ CONTAINERS_ AWS_ AZURE_ CLOUDSDK_ ANSIBLE_ TF_ PULUMI_ TERRAGRUNT_ HELM_ GTK_ QT_ GIO_ GST_ G_ LIBGL_ VK_ MESA_ GLIBC_ MALLOC_ ASAN_
		MAGICK_ MSYS CYGWIN WSL GNOME_ DBUS_ SYSTEMD_ SUDO_ SSH_ RSYNC_ OPENCLAW_ HANZOD_ HANZO_ BOT_ NIX_ GUIX_ HOMEBREW_ PKG_CONFIG_ FONTCONFIG_ LADSPA_ ALSA_`)
	steeringSuffixes = strings.Fields("PAGER EDITOR _COMMAND _ASKPASS _RSH _SSH _WRAPPER _PRELOAD _SHELL _BROWSER _OPTIONS _OPTS _CONFIG_FILE _STARTUP_HOOKS")
	// harmless are names that the rules above would catch.
	harmlessEnv = strings.Fields(`GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_AUTHOR_DATE GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL GIT_COMMITTER_DATE GIT_TERMINAL_PROMPT
		NODE_ENV NODE_NO_WARNINGS NODE_DISABLE_COLORS PYTHONUNBUFFERED PYTHONIOENCODING PYTHONDONTWRITEBYTECODE PYTHONUTF8 PYTHONHASHSEED
		CARGO_TERM_COLOR AWS_REGION AWS_DEFAULT_REGION`)
	// shellOverrides are the only overrides that an inline shell gets.
	shellOverrides = []string{"TERM", "LANG", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "COLORTERM", "NO_COLOR", "FORCE_COLOR"}
)

func blocked(upper string) bool {
	if slices.Contains(blockedEnv, upper) {
		return true
	}
	return slices.ContainsFunc(blockedEnvPrefixes, func(p string) bool { return strings.HasPrefix(upper, p) })
}

// steering reports whether a variable that a caller sets would decide what a program runs or loads.
func steering(upper string) bool {
	if slices.Contains(harmlessEnv, upper) {
		return false
	}
	return slices.Contains(steeringEnv, upper) ||
		slices.ContainsFunc(steeringPrefixes, func(p string) bool { return strings.HasPrefix(upper, p) }) ||
		slices.ContainsFunc(steeringSuffixes, func(p string) bool { return strings.HasSuffix(upper, p) })
}

// SanitizeEnv returns the environment of a run, as KEY=value sorted by key: base (the host's own, in
// the form of os.Environ) with the overrides of the caller, both without what is never let through.
// dropped are the names of the overrides that were left out, sorted.
func SanitizeEnv(base []string, overrides map[string]string, inlineShell bool) (env, dropped []string) {
	out := map[string]string{}
	for _, kv := range base {
		k, v, ok := strings.Cut(kv, "=")
		// Windows has names such as ProgramFiles(x86), which programs need.
		if !ok || k == "" || !shell.EnvName(trim(k)) && runtime.GOOS != "windows" || blocked(strings.ToUpper(trim(k))) {
			continue
		}
		out[trim(k)] = v
	}
	// Sorted, so that of two names that are equal after trimming the same one always wins.
	for _, raw := range sortedKeys(overrides) {
		k := trim(raw)
		upper := strings.ToUpper(k)
		if !shell.EnvName(k) || blocked(upper) || slices.Contains(keptFromBase, upper) || steering(upper) ||
			inlineShell && !slices.Contains(shellOverrides, upper) {
			dropped = append(dropped, raw)
			continue
		}
		out[k] = overrides[raw]
	}
	for _, k := range sortedKeys(out) {
		env = append(env, k+"="+out[k])
	}
	return env, dropped
}

// EnvHash binds an approval to environment overrides (nodes-approvals.md §2.3): the SHA-256, in hex,
// of the sorted name and value pairs as JSON, nil without any. keys are the names, sorted for
// showing, never nil.
func EnvHash(env map[string]string) (hash *string, keys []string) {
	type pair struct{ k, v string }
	var pairs []pair
	for raw, v := range env {
		if k := trim(raw); shell.EnvName(k) {
			pairs = append(pairs, pair{k, v})
		}
	}
	keys = []string{}
	if len(pairs) == 0 {
		return nil, keys
	}
	slices.SortFunc(pairs, func(a, b pair) int {
		switch {
		case localeLess(a.k, b.k):
			return -1
		case localeLess(b.k, a.k):
			return 1
		}
		return cmp.Compare(a.v, b.v)
	})
	text := []byte{'['}
	for i, p := range pairs {
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, '[')
		text = append(text, quote(p.k)...)
		text = append(text, ',')
		text = append(text, quote(p.v)...)
		text = append(text, ']')
		keys = append(keys, p.k)
	}
	sum := sha256.Sum256(append(text, ']'))
	h := hex.EncodeToString(sum[:])
	return &h, slices.Compact(keys)
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// localeLess orders names of variables for showing and hashing as the original's locale comparison
// does (nodes-approvals.md §2.3): `_`, digits, letters whatever their case; then lower before upper.
func localeLess(a, b string) bool {
	rank := func(c byte) int {
		switch {
		case c == '_':
			return 0
		case c >= '0' && c <= '9':
			return 1 + int(c)
		case c >= 'A' && c <= 'Z':
			return 0x100 + int(c|0x20)
		}
		return 0x100 + int(c)
	}
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := rank(a[i]), rank(b[i]); x != y {
			return x < y
		}
	}
	if len(a) != len(b) {
		return len(a) < len(b)
	}
	return a > b // the same letters: lower case has the higher byte and goes first
}

func trim(s string) string { return shell.Trim(s) }
