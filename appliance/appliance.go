// Package appliance is the composition root: it builds every service from the declared document, connects the areas with
// each other, and runs them under one supervisor.
package appliance

import (
	"context"
	"errors"
	"log/slog"
)

// Version is the release, set when the binary is built.
var Version = "devel"

// Options of Run.
type Options struct {
	ConfigPath string // the declared document
	StateDir   string // what must outlive the process
	Socket     string // control socket
	Log        *slog.Logger
	Version    string
}

// Run serves until ctx ends and returns nil after an orderly stop.
func Run(ctx context.Context, o Options) error {
	return errors.New("not composed")
}
