// Package errs holds the error classes that every package of hanzod speaks and every door maps to
// its own wire: gRPC status, HTTP problem or legacy frame.
//
// It imports nothing of ours and owns no goroutine.
package errs

import (
	"errors"
	"maps"
)

// Class says what kind of failure an error is. Doors choose their status from it alone.
type Class uint8

// The classes. The zero value is Internal, so that an error nobody classified is never shown as
// the caller's fault.
const (
	Internal        Class = iota // a fault of ours
	Invalid                      // the request is wrong and stays wrong
	NotFound                     // the thing named does not exist
	Exists                       // the thing to be made is already there
	Conflict                     // the state does not allow it (any more)
	Unauthenticated              // who is calling is not known
	Denied                       // the caller is known and may not
	Exhausted                    // a limit is reached; later may work
	Unavailable                  // something needed is not there now; later may work
	Deadline                     // no answer in time
	Unknown                      // a write failed in a way that leaves its outcome unknown
)

var classNames = [...]string{
	"internal", "invalid", "not found", "exists", "conflict", "unauthenticated", "denied",
	"exhausted", "unavailable", "deadline", "outcome unknown",
}

func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "internal"
}

// Error is a classed error. Code is a stable name ("nodes.not_connected") that doors key their own
// texts on; Text is for people; Fields are facts about this occurrence, safe to show the caller.
type Error struct {
	Class  Class
	Code   string
	Text   string
	Fields map[string]any
	Err    error
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Text + ": " + e.Err.Error()
	}
	return e.Text
}

func (e *Error) Unwrap() error { return e.Err }

// Is makes errors.Is match on the code, so that an error made by With or Wrap still is its
// sentinel.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

var defined = map[string]*Error{}

// Define makes a sentinel and remembers it, so that a test can demand that each door has a text
// for it. It is for package variables only and panics on a code used twice.
func Define(class Class, code, text string) *Error {
	if _, dup := defined[code]; dup {
		panic("errs: code defined twice: " + code)
	}
	e := &Error{Class: class, Code: code, Text: text}
	defined[code] = e
	return e
}

// Defined returns all sentinels by code.
func Defined() map[string]*Error { return maps.Clone(defined) }

// With returns a copy of the sentinel that carries facts, given as key and value in turn.
func (e *Error) With(kv ...any) *Error {
	c := *e
	c.Fields = make(map[string]any, len(e.Fields)+len(kv)/2)
	maps.Copy(c.Fields, e.Fields)
	for i := 0; i+1 < len(kv); i += 2 {
		c.Fields[kv[i].(string)] = kv[i+1]
	}
	return &c
}

// WithText returns a copy of the sentinel with another text for people.
func (e *Error) WithText(text string) *Error {
	c := *e
	c.Text = text
	return &c
}

// Wrap returns a copy of the sentinel that carries its cause.
func (e *Error) Wrap(err error) *Error {
	c := *e
	c.Err = err
	return &c
}

// Field returns a fact of the error as text, or "".
func (e *Error) Field(name string) string {
	s, _ := e.Fields[name].(string)
	return s
}

// New returns a classed error without a code of its own, for failures no door words specially.
func New(class Class, text string) *Error { return &Error{Class: class, Text: text} }

// Wrap classes err and says what was being attempted.
func Wrap(class Class, doing string, err error) *Error {
	return &Error{Class: class, Text: doing, Err: err}
}

// ClassOf returns the class of the first Error in the chain, Internal when there is none.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Internal
}

// As returns the first Error in the chain.
func As(err error) (*Error, bool) { return errors.AsType[*Error](err) }
