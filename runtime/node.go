package runtime

import "context"

func (d *Daemon) runNode(ctx context.Context) { <-ctx.Done() }

// NodeName is the name of the node host in this daemon.
func (d *Daemon) NodeName() string { return "" }
