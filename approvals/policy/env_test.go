package policy

import (
	"slices"
	"strings"
	"testing"
)

// What a caller sets must not decide what a program runs; what only concerns its work passes.
func TestSteeringVariables(t *testing.T) {
	blocked := strings.Fields(`GIT_SSH_COMMAND GIT_SSH GIT_PAGER GIT_EDITOR GIT_DIR GIT_CONFIG_COUNT GIT_CONFIG_KEY_0 GIT_PROXY_COMMAND GIT_ASKPASS GIT_EXEC_PATH
		git_ssh_command PAGER MANPAGER SYSTEMD_PAGER EDITOR VISUAL SUDO_EDITOR npm_config_script_shell NPM_CONFIG_PREFIX BASHOPTS PROMPT_COMMAND LESSOPEN LESSCLOSE
		BASH_ENV ENV SHELLOPTS PS4 IFS LD_PRELOAD LD_AUDIT DYLD_INSERT_LIBRARIES BASH_FUNC_x MAKEFLAGS CC CXX TAR_OPTIONS GREP_OPTIONS JAVA_TOOL_OPTIONS _JAVA_OPTIONS
		PYTHONSTARTUP PYTHONPATH PYTHONWARNINGS PERL5DB RUBYOPT NODE_OPTIONS NODE_EXTRA_CA_CERTS GOFLAGS GOTOOLCHAIN CARGO_HOME RUSTC_WRAPPER RSYNC_RSH CVS_RSH SVN_SSH
		SSH_ASKPASS SUDO_ASKPASS XDG_CONFIG_HOME HOME PATH ZDOTDIR DOCKER_HOST KUBECONFIG AWS_CONFIG_FILE OPENSSL_CONF SSL_CERT_FILE WGETRC CURL_HOME AWKPATH VIMINIT
		FZF_DEFAULT_COMMAND FZF_DEFAULT_OPTS RIPGREP_CONFIG_PATH DOTNET_STARTUP_HOOKS COR_PROFILER PHPRC LUA_INIT TERMINFO HOSTALIASES LOCPATH COMSPEC PATHEXT HANZOD_TOKEN`)
	passes := strings.Fields(`FOO B TERM LANG LC_ALL TZ NO_COLOR CI DEBUG VERBOSE http_proxy HTTPS_PROXY NO_PROXY GIT_AUTHOR_NAME GIT_COMMITTER_DATE NODE_ENV PYTHONUNBUFFERED
		GOOS PORT DATABASE_URL API_KEY GOOGLE_API_KEY TMPDIR COLUMNS`)
	over, base := map[string]string{}, []string{"PAGER=of the machine", "GIT_SSH_COMMAND=of the machine", "LD_PRELOAD=x"}
	for _, k := range slices.Concat(blocked, passes) {
		over[k] = "of the caller"
	}
	env, dropped := SanitizeEnv(base, over, false)
	for _, k := range blocked {
		if slices.Contains(env, k+"=of the caller") || !slices.Contains(dropped, k) {
			t.Errorf("%s passes", k)
		}
	}
	for _, k := range passes {
		if !slices.Contains(env, k+"=of the caller") {
			t.Errorf("%s is left out", k)
		}
	}
	if !slices.Contains(env, "PAGER=of the machine") || !slices.Contains(env, "GIT_SSH_COMMAND=of the machine") || slices.Contains(env, "LD_PRELOAD=x") {
		t.Errorf("%q", env)
	}
}
