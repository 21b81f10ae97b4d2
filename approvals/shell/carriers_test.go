package shell

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// refusal asks about a line of words without quotes that matter.
func refusal(t *testing.T, m Machine, l List, argv []string) string {
	t.Helper()
	path := "/usr/bin/" + argv[0]
	return m.Refusal(Segment{Argv: argv, Effective: argv, Executable: argv[0], Path: path, RealPath: path}, l)
}

// What people list these programs for goes on without a question.
func TestPlainUsesStayCovered(t *testing.T) {
	for _, line := range []string{
		"git status", "git -C repo log --oneline -n 5", "git diff --stat HEAD~1", "git --no-pager show", "git add -A", "git commit -m msg", "git push origin main",
		"git fetch --all --prune", "git clone https://example.org/x.git", "git rebase main", "git stash list", "git checkout -b x", "git log -- --exec", "git",
		"find . -name *.go -type f", "find . -maxdepth 1 -print0", "fd -e go foo", "fd -t x foo",
		"tar xzf a.tar.gz", "tar -czvf a.tgz dir", "tar --extract --file=a.tar", "tar tf a.tar",
		"awk {print$1} f", "awk -F: {print$2} f", "awk -v n=1 NR==n f", "sed s/a/b/g f", "sed -n 1,5p f", "sed -E -n /x/,/y/p f", "sed -e 5q f", "sed $d",
		"make test", "make -j4 -k all", "npm test", "npm run build", "npm ls", "go build ./...", "go test -run X ./...", "cargo test", "pip list", "docker ps -a",
		"kubectl -n x get pods", "systemctl status x", "rsync -av a/ b/", "rsync -av --delete a/ host:b", "curl -fsS https://example.org -o f", "wget -q https://example.org",
		"rg --pretty x", "split -l 5 f", "sort -u f", "gcc -O2 -o x x.c", "python3 --version", "node --version", "xargs --version", "man -k x", "less f",
		"sqlite3 -readonly x.db select", "ip addr show", "rg2 x", "base64 -d", "sha256sum f", "7z l x",
	} {
		if why := refusal(t, Machine{Cwd: "/"}, List{}, strings.Fields(line)); why != "" {
			t.Errorf("%s: %s", line, why)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, line := range []string{
		"git -c core.pager=x log", "git --exec-path=/tmp status", "git --config-env=a=b log", "git config --global alias.x !sh", "git x", "git submodule foreach id",
		"git clone -c a=b u", "git clone --conf a=b u", "git clone -u x u", "git clone --upl=x u", "git clone ext::sh", "git clone ssh://-oProxyCommand=id/x",
		"git fetch --upload-pack=x", "git push --rec=x", "git rebase -x id", "git rebase --exec id", "git grep -O x", "git grep -Osh x", "git grep --open=x x",
		"git difftool", "git bisect run id", "git log --output=f", "git init --template=x", "git archive --output=f", "git -p log", "git hook run x", "git help x",
		"find . -exec id ;", "find . -execdir id +", "find . -ok id ;", "find . -delete", "find . -fprintf f x", "fd -x id", "fd --exec-b id",
		"tar xf a --to-command=id", "tar xf a --to-c id", "tar cf a b --checkpoint-action=exec=id", "tar -I id -cf a b", "tar cIf id a", "tar -cvIf a b", "tar --use id",
		"tar xf host:a", "tar --rsh-command=id", "tar -F id", "tar --file=host:a", "tar --info-script=x",
		"awk BEGIN{system(\"id\")}", "awk BEGIN{print|\"id\"}", "awk BEGIN{\"id\"|getline}", "awk {print>\"f\"}", "awk -f f", "awk -i x {}", "awk -E f", "awk @load\"x\"",
		"awk --source x", "awk", "awk -v", "sed 1e f", "sed s/a/b/e f", "sed s/a/b/w f", "sed s/a/b/ge f", "sed -f x", "sed -i s/a/b/ f", "sed r/etc/passwd", "sed w", "sed -n -f x",
		"sed e", "sed p -f x", "sed -e p -e 1e", "sed --expr=e x", "sed --expression=e", "sed sxaxbxe", "sed", "sed -s",
		"make SHELL=/tmp/x", "make -f x", "make -C x", "make --eval=x", "make --ev x", "make CC=id all", "make -j4 -fx", "npm exec x", "npm x y", "npx x", "npm --script-shell=id test",
		"npm -c id", "npm config set x y", "go run x.go", "go test -exec id", "go test --exec=id", "go build -toolexec id", "go vet -vettool=x", "go generate", "go build -ldflags -extld=id",
		"cargo run", "cargo +x build", "cargo --config x", "docker run x", "docker exec x", "docker -H x ps", "kubectl exec x", "kubectl --kubeconfig=x get", "pip install x",
		"xargs rm", "xargs", "parallel id", "watch id", "ssh -o ProxyCommand=id h", "ssh h", "strace id", "time id", "flock f id", "script -c id", "gdb -ex x", "vim -c !id", "vi x", "ed",
		"perl -e 1", "perl -ne 1", "perl", "python3 -c x", "python3 -m x", "python3", "python3 -", "python3.11 -c x", "pypy3 -c x", "ruby -e x", "node -e x", "node --eval x", "node -p x",
		"node", "node -r x y", "php -r x", "lua -e x", "Rscript -e x", "osascript -e x", "tclsh", "deno run x", "bun x", "java -jar x", "psql -c x", "nc -e id", "socat EXEC:id -",
		"rsync -e id a b", "rsync -ave id a b", "rsync --rsh=id a b", "rsync --rsync-path=id a b", "scp -S id a b", "scp -oProxyCommand=id a b", "sftp -D id h", "wget -e x", "wget --use-askpass=id",
		"curl -K x", "curl --conf x", "rg --pre id x", "rg --pre=id x", "split --filter=id", "sort --compress-program=id", "sort --compress-prog id", "zip -TT id", "gcc -wrapper id x.c",
		"gcc @x", "gcc -B/tmp", "gcc -fplugin=x", "ip netns exec x id", "ip -b f", "man -P id ls", "man --pager=id ls", "less +!id f", "bat --pager=id f", "patch -e", "install --strip-program=id",
		"openssl engine x", "openssl req -engine x", "pandoc --filter x", "pdflatex -shell-escape x", "pdflatex \\write18{id}", "convert |id x", "sqlite3 x.db .shell", "sqlite3 x.db", "sqlite3 -cmd x",
		"tcpdump -z id", "hg --config x", "svn --config-option x", "rclone --password-command x ls", "systemctl edit x", "ld-linux-x86-64.so.2 /bin/id", "npm.cmd exec x", "PYTHON3.EXE -c x",
		"rundll32 x", "mshta x", "wscript x", "msbuild x", "open x", "at now", "crontab f", "su -c id", "gosu x id", "dc", "m4 x", "gs x", "tmux new", "screen x",
	} {
		if refusal(t, Machine{Cwd: "/"}, List{Patterns: []string{"*", "/usr/bin/**"}}, strings.Fields(line)) == "" {
			t.Errorf("%s is covered", line)
		}
	}
}

// An interpreter runs a file that the list names, and no other.
func TestScripts(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tool.py", "other.py"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "other.py"), filepath.Join(dir, "link.py")); err != nil {
		t.Fatal(err)
	}
	m := Machine{Cwd: dir}
	listed := List{Patterns: []string{"/usr/bin/python3", dir + "/tool.py", dir + "/link.py"}}
	for line, want := range map[string]bool{
		"python3 tool.py": true, "python3 -u -B tool.py -c x": true, "python3 " + dir + "/tool.py": true, "python3 ./tool.py": true,
		"python3 other.py": false, "python3 gone.py": false, "python3 .": false, "python3 link.py": false, "python3 -m tool.py": false, "python3 -X tool.py": false,
		"python3 -W tool.py other.py": false, "python3 -c x tool.py": false, "python3 -- tool.py": false,
	} {
		if why := refusal(t, m, listed, strings.Fields(line)); (why == "") != want {
			t.Errorf("%s: %q", line, why)
		}
	}
	if refusal(t, m, List{Patterns: []string{"*"}}, []string{"python3", "tool.py"}) == "" {
		t.Error("* names no script")
	}
}
