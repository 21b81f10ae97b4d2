package errs

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

var sentinel = Define(Denied, "errs_test.sentinel", "no")

func TestSentinelSurvives(t *testing.T) {
	other := New(Denied, "no")
	for name, err := range map[string]error{
		"itself": sentinel, "with": sentinel.With("a", "b"), "text": sentinel.WithText("x"), "wrap": sentinel.Wrap(context.Canceled),
		"all": sentinel.With("a", 1).WithText("x").Wrap(context.Canceled), "around": fmt.Errorf("x: %w", sentinel.With("a", 1)),
	} {
		if !errors.Is(err, sentinel) || ClassOf(err) != Denied {
			t.Errorf("%s is not the sentinel", name)
		}
		if errors.Is(err, other) || errors.Is(other, err) {
			t.Errorf("%s is an error without a code", name)
		}
	}
	if !errors.Is(sentinel.Wrap(context.Canceled), context.Canceled) {
		t.Error("the cause is lost")
	}
	if sentinel.Fields != nil || sentinel.Text != "no" || sentinel.Err != nil {
		t.Errorf("the sentinel changed: %+v", sentinel)
	}
	first := sentinel.With("a", "1")
	second := first.With("b", "2")
	if first.Field("b") != "" || second.Field("a") != "1" || second.Field("b") != "2" || second.Field("c") != "" || sentinel.With("n", 1).Field("n") != "" {
		t.Errorf("%v %v", first.Fields, second.Fields)
	}
	if got := Wrap(Invalid, "reading", context.Canceled).Error(); got != "reading: context canceled" {
		t.Error(got)
	}
	if Defined()["errs_test.sentinel"] != sentinel {
		t.Error("the sentinel is not listed")
	}
}

// An error that nobody classed is our fault, and so is a class that does not exist.
func TestClassOf(t *testing.T) {
	if ClassOf(errors.New("x")) != Internal || ClassOf(nil) != Internal {
		t.Error("an error without a class is not internal")
	}
	if got := ClassOf(fmt.Errorf("x: %w", Wrap(NotFound, "x", New(Denied, "y")))); got != NotFound {
		t.Errorf("got %s", got)
	}
	if Class(200).String() != "internal" || Unknown.String() != "outcome unknown" {
		t.Error("names")
	}
	if _, ok := As(errors.New("x")); ok {
		t.Error("found what is not there")
	}
}

func TestDefineTwicePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Define(Invalid, "errs_test.sentinel", "again")
}
