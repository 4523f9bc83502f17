package app

import (
	"context"
	"io"
	"log/slog"

	"k8s.io/klog/v2"

	"github.com/berth-storage/berth/internal/config"
)

// newLogger makes the logger of c, and has the Kubernetes libraries log by it.
func newLogger(c config.Log, out io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // the configuration is validated: this cannot be
	}
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(out, options)
	if c.Format == "json" {
		handler = slog.NewJSONHandler(out, options)
	}
	klog.SetSlogLogger(slog.New(libraryHandler{handler}).With("component", "kubernetes-library"))
	return slog.New(handler)
}

// libraryHandler lowers what the Kubernetes libraries call information to debug:
// every event of every claim is among it.
type libraryHandler struct{ slog.Handler }

func lowered(level slog.Level) slog.Level {
	if level == slog.LevelInfo {
		return slog.LevelDebug
	}
	return level
}

func (h libraryHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.Handler.Enabled(ctx, lowered(level))
}

func (h libraryHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Level = lowered(r.Level)
	return h.Handler.Handle(ctx, r)
}

func (h libraryHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryHandler{h.Handler.WithAttrs(attrs)}
}

func (h libraryHandler) WithGroup(name string) slog.Handler {
	return libraryHandler{h.Handler.WithGroup(name)}
}
