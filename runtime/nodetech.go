package runtime

import (
	"context"
	"log/slog"

	"github.com/hanzoai/hanzod/compat/hanzotunnel"
	hosttech "github.com/hanzoai/hanzod/nodes/host/tech"
)

// tech is this machine for technician sessions; end ends the one that holds it.
func (n *nodeHost) tech(log *slog.Logger) (m *hosttech.Module, end func(), err error) {
	roots, err := fileRoots(n.o)
	if err != nil {
		return nil, nil, err
	}
	m = hosttech.New(hosttech.Config{Policy: n.file, Env: runEnv, Dir: n.terminalDir(), Roots: roots, Log: log})
	n.technician = m
	return m, func() {
		ctx, cancel := context.WithTimeout(context.Background(), terminalsEnd)
		defer cancel()
		if err := m.Close(ctx); err != nil {
			log.Warn("the programs of a technician session did not end", "err", err)
		}
	}, nil
}

// frames serves the technician sessions of a link of an instance: the module is there before the first link.
func (n *nodeHost) frames(to hanzotunnel.TechSender, ended <-chan struct{}) hanzotunnel.Technician {
	return n.technician.Frames(to, ended)
}
