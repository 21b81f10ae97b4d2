package tech

import "log/slog"

// keeper has nothing to do: what outlives this process when it is killed stays.
type keeper struct{}

func keep(*slog.Logger) *keeper { return &keeper{} }

func (*keeper) begin() *kept { return &kept{} }

func (*keeper) end() {}

// kept is something that a keeper knows of.
type kept struct{}

func (*kept) variable() string { return "TECH_RUN_ID=1" }

func (*kept) started(int) {}

func (*kept) ended() {}

// signalName is "": nothing is ended by signals here.
func signalName(int) string { return "" }
