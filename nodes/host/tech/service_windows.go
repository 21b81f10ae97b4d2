package tech

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// lookEvery is how often a service that starts or stops is looked at.
const lookEvery = 200 * time.Millisecond

// scm is the service control manager, opened with as few rights as each call needs.
type scm struct{}

func openServices(context.Context, string) (services, error) { return scm{}, nil }

// Close implements services.
func (scm) Close() {}

func manager(access uint32) (*mgr.Mgr, error) {
	h, err := windows.OpenSCManager(nil, nil, access)
	if err != nil {
		return nil, fault(err, "")
	}
	return &mgr.Mgr{Handle: h}, nil
}

func open(m *mgr.Mgr, name string, access uint32) (*mgr.Service, error) {
	p, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return nil, errs.New(errs.Invalid, "no name of a service")
	}
	h, err := windows.OpenService(m.Handle, p, access)
	if err != nil {
		return nil, fault(err, name)
	}
	return &mgr.Service{Name: name, Handle: h}, nil
}

// List implements services.
func (scm) List(ctx context.Context) ([]message.ServiceState, error) {
	m, err := manager(windows.SC_MANAGER_CONNECT | windows.SC_MANAGER_ENUMERATE_SERVICE)
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Disconnect() }() // only asked
	names, err := m.ListServices()
	if err != nil {
		return nil, fault(err, "")
	}
	out := make([]message.ServiceState, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s, err := state(m, name)
		if err != nil {
			s = message.ServiceState{Name: name, State: "unknown"} // this user may not look at it
		}
		out = append(out, s)
	}
	return out, nil
}

func state(m *mgr.Mgr, name string) (message.ServiceState, error) {
	s, err := open(m, name, windows.SERVICE_QUERY_STATUS|windows.SERVICE_QUERY_CONFIG)
	if err != nil {
		return message.ServiceState{}, err
	}
	defer s.Close()
	status, err := s.Query()
	if err != nil {
		return message.ServiceState{}, fault(err, name)
	}
	out := message.ServiceState{Name: name, State: stateOf(status.State)}
	if c, err := s.Config(); err == nil {
		out.Enabled = c.StartType == mgr.StartAutomatic
		if out.Description = c.DisplayName; c.Description != "" {
			out.Description += ": " + c.Description
		}
	}
	return out, nil
}

func stateOf(s svc.State) string {
	switch s {
	case svc.Stopped:
		return "stopped"
	case svc.StartPending:
		return "start_pending"
	case svc.StopPending:
		return "stop_pending"
	case svc.Running:
		return "running"
	case svc.ContinuePending:
		return "continue_pending"
	case svc.PausePending:
		return "pause_pending"
	case svc.Paused:
		return "paused"
	}
	return "unknown"
}

// Status implements services.
func (scm) Status(_ context.Context, name string) (message.ServiceState, error) {
	m, err := manager(windows.SC_MANAGER_CONNECT)
	if err != nil {
		return message.ServiceState{}, err
	}
	defer func() { _ = m.Disconnect() }() // only asked
	return state(m, name)
}

// Do implements services.
func (scm) Do(ctx context.Context, op, name string) error {
	m, err := manager(windows.SC_MANAGER_CONNECT)
	if err != nil {
		return err
	}
	defer func() { _ = m.Disconnect() }() // what was asked for goes on
	s, err := open(m, name, windows.SERVICE_QUERY_STATUS|windows.SERVICE_START|windows.SERVICE_STOP)
	if err != nil {
		return err
	}
	defer s.Close()
	if op != "start" {
		if _, err := s.Control(svc.Stop); err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
			return fault(err, name)
		}
		if err := await(ctx, s, svc.Stopped); err != nil {
			return err
		}
	}
	if op == "stop" {
		return nil
	}
	if err := s.Start(); err != nil && !(op == "start" && errors.Is(err, windows.ERROR_SERVICE_ALREADY_RUNNING)) {
		return fault(err, name)
	}
	return await(ctx, s, svc.Running)
}

// await waits for a service to be in a state.
func await(ctx context.Context, s *mgr.Service, want svc.State) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		status, err := s.Query()
		switch {
		case err != nil:
			return fault(err, s.Name)
		case status.State == want:
			return nil
		case want == svc.Running && status.State == svc.Stopped:
			return errs.New(errs.Unavailable, fmt.Sprintf("%s has ended again with code %d; the event log says why", s.Name, status.Win32ExitCode))
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fault words an error of the service control manager.
func fault(err error, name string) error {
	switch {
	case errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST), errors.Is(err, windows.ERROR_INVALID_NAME):
		return errs.New(errs.NotFound, fmt.Sprintf("there is no service %q on this node", name))
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return errs.New(errs.Denied, "the user of this node may not do that: "+err.Error())
	}
	return errs.New(errs.Unavailable, "the service manager says: "+err.Error())
}
