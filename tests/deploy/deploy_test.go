// Package deploy checks what hanzod is deployed with: the Containerfile, the manifest for Kubernetes, and that
// a daemon and a node start from variables alone as those say.
package deploy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/hanzoai/hanzod/config"
)

// instruction is one of a Containerfile: its name and words. The JSON form and the shell's are told apart by
// shell.
type instruction struct {
	name  string
	flags map[string]string
	words []string
	shell bool
}

// stage is what one FROM begins.
type stage struct {
	base, name string
	list       []instruction
}

// containerfile reads the file as far as ours goes; tools/dist reads it by the parser of those who build from
// it.
func containerfile(t *testing.T) []stage {
	t.Helper()
	text, err := os.ReadFile("../../Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	var stages []stage
	joined := regexp.MustCompile(`\\\n\s*`).ReplaceAllString(string(text), "")
	for line := range strings.Lines(joined) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		in := instruction{name: name, flags: map[string]string{}}
		rest = strings.TrimSpace(rest)
		for strings.HasPrefix(rest, "--") {
			var flag string
			flag, rest, _ = strings.Cut(rest, " ")
			k, v, _ := strings.Cut(flag[2:], "=")
			in.flags[k], rest = v, strings.TrimSpace(rest)
		}
		if name == "HEALTHCHECK" {
			rest = strings.TrimPrefix(rest, "CMD ")
		}
		if err := json.Unmarshal([]byte(rest), &in.words); err != nil {
			in.words, in.shell = strings.Fields(rest), true
		}
		if name == "FROM" {
			s := stage{base: in.words[0]}
			if len(in.words) == 3 && in.words[1] == "AS" {
				s.name = in.words[2]
			}
			stages = append(stages, s)
			continue
		}
		if len(stages) == 0 {
			t.Fatalf("%s comes before FROM", name)
		}
		s := &stages[len(stages)-1]
		s.list = append(s.list, in)
	}
	return stages
}

// one returns the only instruction of a name.
func (s stage) one(t *testing.T, name string) instruction {
	t.Helper()
	var found []instruction
	for _, in := range s.list {
		if in.name == name {
			found = append(found, in)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s has %d times %s", s.name, len(found), name)
	}
	return found[0]
}

func find(t *testing.T, stages []stage, name string) stage {
	t.Helper()
	i := slices.IndexFunc(stages, func(s stage) bool { return s.name == name })
	if i < 0 {
		t.Fatalf("there is no stage %s", name)
	}
	return stages[i]
}

// variables are those that hanzod takes; of is "run", "node" or "" for either.
func variables(of string) []string {
	var out []string
	for _, v := range config.Variables() {
		if of == "run" && !v.Run || of == "node" && !v.Node {
			continue
		}
		out = append(out, v.Name)
		if v.Secret {
			out = append(out, v.Name+"_FILE")
		}
	}
	return out
}

// TestContainerfile: both images run as nobody, say where the state is and how to end, and begin from nothing
// or from a small Debian.
func TestContainerfile(t *testing.T) {
	stages := containerfile(t)
	if last := stages[len(stages)-1]; last.name != "gateway" || last.base != "scratch" {
		t.Errorf("the default image is %s from %s", last.name, last.base)
	}
	for _, tc := range []struct{ name, command, health string }{{"gateway", "run", "/usr/bin/hanzoctl health"}, {"node", "node", "NONE"}} {
		s := find(t, stages, tc.name)
		for name, want := range map[string]string{
			"USER": "65532:65532", "ENTRYPOINT": "/usr/bin/hanzod", "CMD": tc.command, "STOPSIGNAL": "SIGTERM", "VOLUME": "/var/lib/hanzod", "HEALTHCHECK": tc.health,
		} {
			in := s.one(t, name)
			if got := strings.Join(in.words, " "); got != want {
				t.Errorf("%s of %s is %q, want %q", name, tc.name, got, want)
			}
			if (name == "ENTRYPOINT" || name == "CMD") && in.shell {
				t.Errorf("%s of %s goes through a shell, which takes its signals", name, tc.name)
			}
		}
		var copied []string
		for _, in := range s.list {
			switch in.name {
			case "COPY":
				if in.flags["from"] != "build" {
					t.Errorf("%s copies from %q", tc.name, in.flags["from"])
				}
				copied = append(copied, in.words[:len(in.words)-1]...)
			case "ENV":
				for _, kv := range in.words {
					k, _, _ := strings.Cut(kv, "=")
					if k != "HOME" && !slices.Contains(variables(tc.command), k) {
						t.Errorf("%s sets %s, which hanzod %s does not take", tc.name, k, tc.command)
					}
				}
			case "RUN", "ADD":
				t.Errorf("%s has %s", tc.name, in.name)
			}
		}
		for _, want := range []string{"/etc/ssl/certs/ca-certificates.crt", "/out/hanzod"} {
			if !slices.Contains(copied, want) {
				t.Errorf("%s has no %s", tc.name, want)
			}
		}
	}
	text, err := os.ReadFile("../../Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^FROM \S*[.:]\S*/`).Match(text) {
		t.Error("it names a host of images; who builds says where they come from")
	}
	version, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(version); m == nil || !strings.HasPrefix(find(t, stages, "build").base, "golang:"+string(m[1])) {
		t.Errorf("it is built with %s", find(t, stages, "build").base)
	}
}

// pod is the part of a StatefulSet that says how its containers run.
type pod struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		ServiceName string `yaml:"serviceName"`
		Replicas    int
		Template    struct {
			Spec struct {
				Automount    *bool `yaml:"automountServiceAccountToken"`
				ServiceLinks *bool `yaml:"enableServiceLinks"`
				Grace        int   `yaml:"terminationGracePeriodSeconds"`
				Security     struct {
					NonRoot bool `yaml:"runAsNonRoot"`
					User    int  `yaml:"runAsUser"`
					FSGroup int  `yaml:"fsGroup"`
					Seccomp struct{ Type string }
				} `yaml:"securityContext"`
				Containers []struct {
					Name, Image string
					Args        []string
					Env         []struct{ Name, Value string }
					Ports       []struct {
						Name string
						Port int `yaml:"containerPort"`
					}
					Liveness  probe `yaml:"livenessProbe"`
					Readiness probe `yaml:"readinessProbe"`
					Startup   probe `yaml:"startupProbe"`
					Resources struct{ Requests, Limits map[string]string }
					Security  struct {
						Escalation *bool                   `yaml:"allowPrivilegeEscalation"`
						ReadOnly   bool                    `yaml:"readOnlyRootFilesystem"`
						Caps       struct{ Drop []string } `yaml:"capabilities"`
					} `yaml:"securityContext"`
					Mounts []struct {
						Name string
						Path string `yaml:"mountPath"`
					} `yaml:"volumeMounts"`
				}
				Volumes []struct{ Name string }
			}
		}
		Claims []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type probe struct {
	Get struct{ Path, Port string } `yaml:"httpGet"`
}

// TestKubernetes: the manifest says nothing that hanzod does not take, and gives it no right that it does not
// need. tools/dist holds it against the types of Kubernetes itself.
func TestKubernetes(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var p pod
		if err := yaml.Unmarshal([]byte(doc), &p); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		kinds[p.Kind]++
		if p.Kind != "StatefulSet" {
			continue
		}
		s := p.Spec.Template.Spec
		if s.Automount == nil || *s.Automount || s.ServiceLinks == nil || *s.ServiceLinks || s.Grace < 10 ||
			!s.Security.NonRoot || s.Security.User != 65532 || s.Security.FSGroup != 65532 || len(s.Containers) != 1 {
			t.Errorf("the pod of %s is %+v", p.Metadata.Name, s)
		}
		c := s.Containers[0]
		if c.Security.Escalation == nil || *c.Security.Escalation || !c.Security.ReadOnly || !slices.Equal(c.Security.Caps.Drop, []string{"ALL"}) {
			t.Errorf("the container of %s may do %+v", p.Metadata.Name, c.Security)
		}
		if c.Resources.Limits["memory"] == "" || c.Resources.Requests["memory"] == "" {
			t.Errorf("the container of %s takes %+v", p.Metadata.Name, c.Resources)
		}
		volumes := []string{}
		for _, v := range s.Volumes {
			volumes = append(volumes, v.Name)
		}
		for _, v := range p.Spec.Claims {
			volumes = append(volumes, v.Metadata.Name)
		}
		mounted := []string{}
		for _, m := range c.Mounts {
			mounted = append(mounted, m.Name)
		}
		slices.Sort(volumes)
		slices.Sort(mounted)
		if !slices.Equal(volumes, mounted) || !slices.Contains(volumes, "state") {
			t.Errorf("%s has the volumes %v and mounts %v", p.Metadata.Name, volumes, mounted)
		}
		for _, e := range c.Env {
			if !slices.Contains(variables(c.Args[0]), e.Name) {
				t.Errorf("%s sets %s, which hanzod %s does not take", p.Metadata.Name, e.Name, c.Args[0])
			}
			if strings.HasSuffix(e.Name, "_STATE_DIR") && filepath.Dir(e.Value) != "/var/lib/hanzod" {
				// Kubernetes makes the root of a volume writable for a group, which hanzod does not put up with.
				t.Errorf("%s keeps its state at %s", p.Metadata.Name, e.Value)
			}
		}
		if c.Args[0] == "run" {
			if c.Liveness.Get.Path != "/healthz" || c.Readiness.Get.Path != "/readyz" || c.Startup.Get.Path != "/healthz" || c.Liveness.Get.Port != "http" {
				t.Errorf("the probes are %+v %+v %+v", c.Startup, c.Liveness, c.Readiness)
			}
			if len(c.Ports) != 2 || c.Ports[0].Port != config.DefaultPort || c.Ports[1].Port != config.DefaultPort+1 {
				t.Errorf("the ports are %+v", c.Ports)
			}
		}
	}
	if kinds["StatefulSet"] != 2 || kinds["Service"] != 2 || kinds["NetworkPolicy"] != 2 || len(kinds) != 3 {
		t.Errorf("it holds %v", kinds)
	}
}
