package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml"
)

// deviation is one row of fixtures/deviations.yaml.
type deviation struct {
	ID        string     `json:"id"`
	Area      string     `json:"area"`
	Original  string     `json:"original"`
	Hanzod    string     `json:"hanzod"`
	Reason    string     `json:"reason"`
	Overrides []override `json:"overrides"`
	// Vectors are the verdicts of fixtures/exec-vectors.json that differ; approvals/shell tests them.
	Vectors []string `json:"vectors"`
}

// override replaces what a recorded step expects: of one step (File, Step), or of every step that
// Match fits. With keeps the action of the step (what is sent) unless it names one itself.
type override struct {
	File  string          `json:"file"`
	Step  int             `json:"step"` // counts from 1, as reports do
	Match *stepMatch      `json:"match"`
	With  json.RawMessage `json:"with"`
}

// stepMatch picks HTTP steps. Method and Path are regular expressions of the whole text.
type stepMatch struct {
	HTTP struct {
		Method string `json:"method"`
		Path   string `json:"path"`
	} `json:"http"`
	ContentType string `json:"contentType"` // of the recorded answer; empty: any
}

func loadDeviations(path string) ([]deviation, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	rows, err := parseDeviations(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}

// parseDeviations refuses a key it does not know: there is no way to leave a recording out.
func parseDeviations(data []byte) ([]deviation, error) {
	j, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, err
	}
	var rows []deviation
	d := json.NewDecoder(bytes.NewReader(j))
	d.DisallowUnknownFields()
	if err := d.Decode(&rows); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, r := range rows {
		if r.ID == "" || r.Area == "" || r.Original == "" || r.Hanzod == "" || r.Reason == "" {
			return nil, fmt.Errorf("row %q: id, area, original, hanzod and reason must be there", r.ID)
		}
		if seen[r.ID] {
			return nil, fmt.Errorf("row %q stands twice", r.ID)
		}
		seen[r.ID] = true
		for _, o := range r.Overrides {
			if (o.Match == nil) == (o.File == "") {
				return nil, fmt.Errorf("row %q: an override names either file and step, or match", r.ID)
			}
			if len(o.With) == 0 {
				return nil, fmt.Errorf("row %q: an override needs with", r.ID)
			}
		}
	}
	return rows, nil
}

// deviate applies the overrides to our own recordings and to those from elsewhere. Each must change
// something of our own: a row that no longer does is an error. In other folders an override by file
// counts only where the recorded step is the same one.
func deviate(rows []deviation, own, other []*scenario) error {
	for _, r := range rows {
		for i, o := range r.Overrides {
			if err := o.apply(own, other); err != nil {
				return fmt.Errorf("deviations.yaml, row %q, override %d: %w", r.ID, i+1, err)
			}
		}
	}
	return nil
}

func (o override) apply(own, other []*scenario) error {
	v, err := parse(o.With)
	if err != nil {
		return err
	}
	with, ok := v.(*object)
	if !ok {
		return errors.New("with is an object")
	}
	if o.Match != nil {
		return o.applyMatch(with, own, other)
	}
	find := func(s *scenario) bool { return s.name == o.File }
	i := slices.IndexFunc(own, find)
	if i < 0 {
		return fmt.Errorf("there is no recording %q", o.File)
	}
	if o.Step < 1 || o.Step > len(own[i].steps) {
		return fmt.Errorf("%s has no step %d (it has %d)", o.File, o.Step, len(own[i].steps))
	}
	recorded := own[i].steps[o.Step-1]
	if err := replace(own[i], o.Step-1, with); err != nil {
		return err
	}
	for _, s := range other {
		if find(s) && o.Step <= len(s.steps) && equal(s.steps[o.Step-1], recorded) {
			if err := replace(s, o.Step-1, with); err != nil {
				return err
			}
		}
	}
	return nil
}

func (o override) applyMatch(with *object, own, other []*scenario) error {
	method, err := regexp.Compile(`\A(?:` + o.Match.HTTP.Method + `)\z`)
	if err != nil {
		return err
	}
	path, err := regexp.Compile(`\A(?:` + o.Match.HTTP.Path + `)\z`)
	if err != nil {
		return err
	}
	hits := 0
	for _, s := range slices.Concat(own, other) {
		for i, step := range s.steps {
			h := step.obj("http")
			if h == nil || !method.MatchString(h.str("method")) || !path.MatchString(h.str("path")) {
				continue
			}
			if o.Match.ContentType != "" && o.Match.ContentType != step.str("contentType") {
				continue
			}
			if err := replace(s, i, with); err != nil {
				return err
			}
			if s.source == "" {
				hits++
			}
		}
	}
	if hits == 0 {
		return errors.New("no step of fixtures/gateway fits the match")
	}
	return nil
}

// replace puts with in the place of step i of s.
func replace(s *scenario, i int, with *object) error {
	was := s.steps[i]
	kind, err := action(was)
	if err != nil {
		return err
	}
	now := newObject()
	named := slices.ContainsFunc(with.keys, func(k string) bool { _, ok := actions[k]; return ok })
	if !named {
		now.set(kind, was.vals[kind])
	}
	for _, k := range with.keys {
		now.set(k, with.vals[k])
	}
	if _, err := action(now); err != nil {
		return err
	}
	if equal(now, was) {
		return fmt.Errorf("%s step %d: the replacement equals the recording", s.name, i+1)
	}
	s.steps[i], s.deviates = now, true
	return nil
}

// equal compares two values of recordings mark for mark.
func equal(a, b any) bool {
	switch x := a.(type) {
	case *object:
		y, ok := b.(*object)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for _, k := range x.keys {
			v, ok := y.get(k)
			if !ok || !equal(x.vals[k], v) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, equal)
	case json.Number:
		y, ok := b.(json.Number)
		return ok && sameNumber(x, y)
	}
	return a == b
}
