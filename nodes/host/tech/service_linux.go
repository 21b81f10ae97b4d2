package tech

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/hanzoai/hanzod/errs"
	"github.com/hanzoai/hanzod/tunnel/tech/message"
)

// Names of systemd on D-Bus (org.freedesktop.systemd1(5)).
const (
	systemd        = "org.freedesktop.systemd1"
	systemdPath    = dbus.ObjectPath("/org/freedesktop/systemd1")
	systemdManager = systemd + ".Manager"
	systemdUnit    = systemd + ".Unit"
	// jobSignals is how many ends of jobs wait, of all units.
	jobSignals = 256
)

// bus is systemd, over the system's D-Bus.
type bus struct{ conn *dbus.Conn }

func openServices(ctx context.Context, address string) (services, error) {
	//nolint:contextcheck // the connection lives as long as the channel, which closes it
	conn, err := dial(address)
	if err != nil {
		return nil, unsupported{"services: the D-Bus of the system is not reached, so there is no systemd to ask: " + err.Error()}
	}
	b := &bus{conn}
	var id string
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, systemd).Store(&id); err != nil {
		// It may be one that the bus can start; else there is none.
		if err := b.manager(ctx, "GetDefaultTarget").Err; err != nil {
			b.Close()
			return nil, unsupported{"services: there is no systemd on this machine: " + err.Error()}
		}
	}
	return b, nil
}

func dial(address string) (*dbus.Conn, error) {
	if address != "" {
		return dbus.Connect(address)
	}
	return dbus.ConnectSystemBus()
}

// Close implements services.
func (b *bus) Close() { _ = b.conn.Close() } // nothing is under way

func (b *bus) manager(ctx context.Context, method string, args ...any) *dbus.Call {
	return b.conn.Object(systemd, systemdPath).CallWithContext(ctx, systemdManager+"."+method, 0, args...)
}

// unit is an entry of ListUnits.
type unit struct {
	Name, Description, Load, Active, Sub, Followed string
	Path                                           dbus.ObjectPath
	JobID                                          uint32
	JobType                                        string
	Job                                            dbus.ObjectPath
}

// unitFile is an entry of ListUnitFiles.
type unitFile struct{ Path, State string }

const suffix = ".service"

// List implements services.
func (b *bus) List(ctx context.Context) ([]message.ServiceState, error) {
	var units []unit
	if err := b.manager(ctx, "ListUnits").Store(&units); err != nil {
		return nil, fault(err)
	}
	var unitFiles []unitFile
	if err := b.manager(ctx, "ListUnitFiles").Store(&unitFiles); err != nil {
		return nil, fault(err)
	}
	enabled := map[string]string{}
	for _, f := range unitFiles {
		if name := path.Base(f.Path); strings.HasSuffix(name, suffix) {
			enabled[name] = f.State
		}
	}
	var out []message.ServiceState
	for _, u := range units {
		if !strings.HasSuffix(u.Name, suffix) || u.Load == "not-found" {
			continue
		}
		out = append(out, message.ServiceState{Name: u.Name, State: u.Active, Enabled: isEnabled(enabled[u.Name]), Description: u.Description})
		delete(enabled, u.Name)
	}
	for name, state := range enabled {
		if strings.HasSuffix(name, "@"+suffix) {
			continue // no service, but how to make some
		}
		out = append(out, message.ServiceState{Name: name, State: "inactive", Enabled: isEnabled(state)})
	}
	return out, nil
}

func isEnabled(state string) bool { return state == "enabled" || state == "enabled-runtime" }

// nameOf is the name of a unit; a name without a suffix is one of a service.
func nameOf(name string) (string, error) {
	if !strings.HasSuffix(name, suffix) {
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			switch name[i+1:] {
			case "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope":
				return "", errs.New(errs.Invalid, fmt.Sprintf("%q is a unit of systemd, but no service", name))
			}
		}
		name += suffix
	}
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.@") != "" || name == suffix {
		return "", errs.New(errs.Invalid, fmt.Sprintf("%q is no name of a service", name))
	}
	return name, nil
}

// Status implements services.
func (b *bus) Status(ctx context.Context, name string) (message.ServiceState, error) {
	var s message.ServiceState
	name, err := nameOf(name)
	if err != nil {
		return s, err
	}
	var at dbus.ObjectPath
	if err := b.manager(ctx, "LoadUnit", name).Store(&at); err != nil {
		return s, fault(err)
	}
	props := map[string]dbus.Variant{}
	if err := b.conn.Object(systemd, at).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, systemdUnit).Store(&props); err != nil {
		return s, fault(err)
	}
	text := func(name string) string {
		v, _ := props[name].Value().(string)
		return v
	}
	if text("LoadState") == "not-found" {
		return s, errs.New(errs.NotFound, fmt.Sprintf("there is no service %q on this node", name))
	}
	return message.ServiceState{Name: name, State: text("ActiveState"), Enabled: isEnabled(text("UnitFileState")), Description: text("Description")}, nil
}

// Do implements services.
func (b *bus) Do(ctx context.Context, op, name string) error {
	name, err := nameOf(name)
	if err != nil {
		return err
	}
	ends := make(chan *dbus.Signal, jobSignals)
	b.conn.Signal(ends)
	defer b.conn.RemoveSignal(ends)
	match := []dbus.MatchOption{dbus.WithMatchInterface(systemdManager), dbus.WithMatchMember("JobRemoved"), dbus.WithMatchObjectPath(systemdPath)}
	if err := b.conn.AddMatchSignalContext(ctx, match...); err != nil {
		return fault(err)
	}
	defer func() { _ = b.conn.RemoveMatchSignal(match...) }() // the bus forgets it with the connection
	if err := b.manager(ctx, "Subscribe").Err; err != nil && !strings.Contains(err.Error(), "AlreadySubscribed") {
		return fault(err)
	}
	defer func() { _ = b.manager(context.WithoutCancel(ctx), "Unsubscribe").Err }() // as above
	var job dbus.ObjectPath
	method := map[string]string{"start": "StartUnit", "stop": "StopUnit", "restart": "RestartUnit"}[op]
	if err := b.manager(ctx, method, name, "replace").Store(&job); err != nil {
		return fault(err)
	}
	for {
		select {
		case s, ok := <-ends:
			if !ok {
				return errs.New(errs.Unavailable, "the D-Bus of the system has gone; ask for the status of the service")
			}
			if s.Name != systemdManager+".JobRemoved" || len(s.Body) < 4 || s.Body[1] != job {
				continue
			}
			if result, _ := s.Body[3].(string); result != "done" && result != "skipped" {
				return errs.New(errs.Unavailable, fmt.Sprintf("%s of %s did not work (%s); its log says why: journalctl -u %s", op, name, result, name))
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fault words an error of the bus.
func fault(err error) error {
	e, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return errs.Wrap(errs.Unavailable, "ask systemd", err)
	}
	switch e.Name {
	case systemd + ".NoSuchUnit", systemd + ".LoadFailed":
		return errs.New(errs.NotFound, e.Error())
	case "org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", "org.freedesktop.DBus.Error.AuthFailed":
		return errs.New(errs.Denied, "the user of this node may not do that: "+e.Error())
	case "org.freedesktop.DBus.Error.InvalidArgs":
		return errs.New(errs.Invalid, e.Error())
	}
	return errs.New(errs.Unavailable, "systemd says: "+e.Error())
}
