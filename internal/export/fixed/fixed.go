// Package fixed is the exporter of a share that somebody else's NFS server exports as
// a whole: its clients reach every directory on it, so there is nothing to do for one.
package fixed

import (
	"context"

	"github.com/berth-storage/berth/internal/export"
)

// Server is that NFS server. It has no export ids: see export.IDs.
type Server struct{}

var _ export.Server = Server{}

// Sync implements export.Server.
func (Server) Sync(context.Context, []export.Export) error { return nil }

// Publish implements export.Server.
func (Server) Publish(context.Context, export.Export) error { return nil }

// Withdraw implements export.Server. Whoever mounts the share itself reaches the
// directory until it is moved away: only its server could prevent that.
func (Server) Withdraw(context.Context, export.Export) error { return nil }
