package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// TestContainerfile: the parser and the linter of those who build images find no fault.
func TestContainerfile(t *testing.T) {
	text, err := os.ReadFile("../../Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range tree.Warnings {
		t.Error(w.Short)
	}
	lint := linter.New(&linter.Config{Warn: func(rule, _, _, message string, where []parser.Range) { t.Errorf("%s: %s %v", rule, message, where) }})
	stages, _, err := instructions.Parse(tree.AST, lint)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range stages {
		names = append(names, s.Name)
	}
	if strings.Join(names, " ") != "build node gateway" {
		t.Errorf("the stages are %v", names)
	}
}

// TestKubernetes: the manifest fits the types of Kubernetes to the last field, and its pods pass the check of
// the profile "restricted".
func TestKubernetes(t *testing.T) {
	text, err := os.ReadFile("../../deploy/kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	pods := 0
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
			t.Fatal(err)
		}
		into, ok := map[string]any{
			"v1 Service": &corev1.Service{}, "apps/v1 StatefulSet": &appsv1.StatefulSet{}, "networking.k8s.io/v1 NetworkPolicy": &networkingv1.NetworkPolicy{},
		}[kind.APIVersion+" "+kind.Kind]
		if !ok {
			t.Fatalf("it holds a %s of %s", kind.Kind, kind.APIVersion)
		}
		if err := yaml.UnmarshalStrict([]byte(doc), into); err != nil {
			t.Errorf("%v\n%s", err, doc)
		}
		set, ok := into.(*appsv1.StatefulSet)
		if !ok {
			continue
		}
		pods++
		if set.Spec.Selector.MatchLabels["app.kubernetes.io/name"] != set.Spec.Template.Labels["app.kubernetes.io/name"] {
			t.Errorf("%s does not select its own pods", set.Name)
		}
		level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
		for _, r := range checks.EvaluatePod(level, &set.Spec.Template.ObjectMeta, &set.Spec.Template.Spec) {
			if !r.Allowed {
				t.Errorf("%s: %s: %s", set.Name, r.ForbiddenReason, r.ForbiddenDetail)
			}
		}
	}
	if pods != 2 {
		t.Errorf("there are %d pods", pods)
	}
}
