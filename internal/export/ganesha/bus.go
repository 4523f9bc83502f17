package ganesha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/berth-storage/berth/internal/export"
)

const (
	busName         = "org.ganesha.nfsd"
	exportManager   = "org.ganesha.nfsd.exportmgr"
	exportObject    = dbus.ObjectPath("/org/ganesha/nfsd/ExportMgr")
	invalidArgument = "org.freedesktop.DBus.Error.InvalidArgs"
	invalidFile     = "org.freedesktop.DBus.Error.InvalidFileContent"
	callTimeout     = 30 * time.Second
)

// bus is a connection to one run of Ganesha.
type bus struct {
	conn   *dbus.Conn
	runDir string
	log    *recentLines
}

func dialBus(ctx context.Context, socket, runDir string, log *recentLines) (*bus, error) {
	conn, err := dbus.Connect("unix:path=" + socket)
	if err != nil {
		return nil, err
	}
	var owned bool
	err = conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&owned)
	if err == nil && !owned {
		err = errors.New("ganesha is not on the bus yet")
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &bus{conn: conn, runDir: runDir, log: log}, nil
}

func (b *bus) close() error { return b.conn.Close() }

func (b *bus) call(ctx context.Context, method string, args ...any) *dbus.Call {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.conn.Object(busName, exportObject).CallWithContext(ctx, exportManager+"."+method, 0, args...)
}

// refused says whether Ganesha itself said no. Other errors come from the bus or
// the connection, for instance when Ganesha ends in the middle of a call.
func refused(err error) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && (e.Name == invalidArgument || e.Name == invalidFile)
}

// add adds an export that is not there yet. Ganesha reads it from a file.
func (b *bus) add(ctx context.Context, e export.Export) error {
	return b.fromFile(ctx, "AddExport", e)
}

// update changes what Ganesha can change of an export that is there.
func (b *bus) update(ctx context.Context, e export.Export) error {
	return b.fromFile(ctx, "UpdateExport", e)
}

func (b *bus) fromFile(ctx context.Context, method string, e export.Export) error {
	block, err := exportBlock(e)
	if err != nil {
		return err
	}
	file := filepath.Join(b.runDir, fmt.Sprintf("export-%d.conf", e.ID))
	if err := os.WriteFile(file, block, 0o600); err != nil {
		return fmt.Errorf("%w: %w", export.ErrUnavailable, err)
	}
	defer os.Remove(file)
	mark := b.log.mark()
	var answer string
	err = b.call(ctx, method, file, fmt.Sprintf("EXPORT(Export_Id=%d)", e.ID)).Store(&answer)
	switch {
	case refused(err):
		// The answer says no more than "InvalidFileContent"; the log has the cause.
		return fmt.Errorf("%w: %s of %s: %w: %s", export.ErrRefused, method, e.Dir, err, b.log.since(mark))
	case err != nil:
		return fmt.Errorf("%s of %s: %w", method, e.Dir, err)
	case method == "AddExport" && !strings.HasPrefix(answer, "1 exports added"), strings.Contains(answer, "Errors found"):
		// Also of success it is to be read what it was: nothing may have been added,
		// or the export without what was not understood.
		return errors.Join(fmt.Errorf("%w: %s of %s: %s", export.ErrRefused, method, e.Dir, answer), b.remove(ctx, e.ID))
	}
	return nil
}

// remove removes an export, or finds that it is not there.
func (b *bus) remove(ctx context.Context, id export.ID) error {
	mark := b.log.mark()
	err := b.call(ctx, "RemoveExport", uint16(id)).Err
	if !refused(err) {
		return err
	}
	// The same error stands for "there is no such export" and for "it cannot be
	// removed": ask for it.
	has, hasErr := b.has(ctx, id)
	if hasErr == nil && !has {
		return nil
	}
	return errors.Join(fmt.Errorf("RemoveExport of %d: %w: %s", id, err, b.log.since(mark)), hasErr)
}

func (b *bus) has(ctx context.Context, id export.ID) (bool, error) {
	err := b.call(ctx, "DisplayExport", uint16(id)).Err
	if refused(err) {
		return false, nil
	}
	return err == nil, err
}

// ids are the exports that Ganesha has, without the root of its pseudo file
// system, which is export 0.
func (b *bus) ids(ctx context.Context) (map[export.ID]bool, error) {
	call := b.call(ctx, "ShowExports")
	if call.Err != nil {
		return nil, fmt.Errorf("ShowExports: %w", call.Err)
	}
	if len(call.Body) < 2 {
		return nil, fmt.Errorf("ShowExports: answer of %d values", len(call.Body))
	}
	exports, ok := call.Body[1].([][]any)
	if !ok {
		return nil, fmt.Errorf("ShowExports: answer of type %T", call.Body[1])
	}
	ids := make(map[export.ID]bool, len(exports))
	for _, e := range exports {
		id, ok := e[0].(uint16)
		if !ok {
			return nil, fmt.Errorf("ShowExports: id of type %T", e[0])
		}
		if id != 0 {
			ids[export.ID(id)] = true
		}
	}
	return ids, nil
}
