package tech

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

const (
	// jobTime bounds how long a service may take to start or to stop.
	jobTime = 2 * time.Minute
	// maxServiceName bounds the name of a service, in bytes.
	maxServiceName = 256
)

// services is the service manager of this system. Its methods are called one at a time.
type services interface {
	// List returns all services, Status one; a name is that of an entry of List.
	List(ctx context.Context) ([]message.ServiceState, error)
	Status(ctx context.Context, name string) (message.ServiceState, error)
	// Do starts, stops or restarts a service and returns when it has, or has not.
	Do(ctx context.Context, op, name string) error
	Close()
}

// service serves a channel for the service manager. Each request is answered, one after the other.
func (c *served) service(ctx context.Context) error {
	var manager services
	defer func() {
		if manager != nil {
			manager.Close()
		}
	}()
	return c.each(ctx, func(ctx context.Context, m message.Message) error {
		var p message.ServiceCall
		if m.Type != message.TypeService {
			return ErrMessage
		}
		if err := m.Into(&p); err != nil {
			return errs.New(errs.Invalid, err.Error())
		}
		switch p.Op {
		case "list", "status":
		case "start", "stop", "restart":
			if err := c.h.mayChange(); err != nil {
				return err
			}
		default:
			return errs.New(errs.Invalid, "op is list, status, start, stop or restart")
		}
		if p.Op != "list" && (p.Name == "" || len(p.Name) > maxServiceName || strings.ContainsAny(p.Name, "/\\\x00\n")) {
			return errs.New(errs.Invalid, "name is missing, or no name of a service")
		}
		if manager == nil {
			var err error
			if manager, err = openServices(ctx, c.m.c.Bus); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(ctx, jobTime)
		defer cancel()
		answer, err := serve(ctx, manager, p)
		if err != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return errs.New(errs.Deadline, fmt.Sprintf("the service has not answered within %v; ask for its status", jobTime))
			}
			return err
		}
		return c.send(ctx, message.TypeServiceResult, answer, nil)
	})
}

func serve(ctx context.Context, manager services, p message.ServiceCall) (message.ServiceResult, error) {
	if p.Op == "list" {
		all, err := manager.List(ctx)
		return listed(all, p.After), err
	}
	if p.Op != "status" {
		if err := manager.Do(ctx, p.Op, p.Name); err != nil {
			return message.ServiceResult{}, err
		}
	}
	one, err := manager.Status(ctx, p.Name)
	return message.ServiceResult{Services: []message.ServiceState{one}}, err
}

// listed puts services in order and answers with as many as fit.
func listed(all []message.ServiceState, after string) message.ServiceResult {
	slices.SortFunc(all, func(a, b message.ServiceState) int { return cmp.Compare(a.Name, b.Name) })
	first, found := slices.BinarySearchFunc(all, after, func(s message.ServiceState, name string) int { return cmp.Compare(s.Name, name) })
	if found {
		first++
	}
	all = all[first:]
	size := func(s message.ServiceState) int {
		b, _ := json.Marshal(s) // of texts
		return len(b) + 1
	}
	total := 0
	for _, s := range all {
		total += size(s)
	}
	out := message.ServiceResult{Services: []message.ServiceState{}}
	full := 0
	for _, s := range all {
		if total > listBytes {
			s.Description = ""
		}
		if full += size(s); full > listBytes {
			out.More = true
			break
		}
		out.Services = append(out.Services, s)
	}
	return out
}

// mayChange reports why a session may not change this machine beside its terminals.
func (h *held) mayChange() error {
	switch {
	case h.ReadOnly:
		return errs.New(errs.Denied, "this technician session is for reading only")
	case h.Foreign:
		return h.admitted()
	}
	return nil
}

// notHere is for what another system has (tunnel.md §3.5).
func notHere() error { return unsupported{"unsupported on " + runtime.GOOS} }
