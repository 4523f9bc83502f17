package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/berth-storage/berth/internal/config"
	"github.com/berth-storage/berth/internal/volume"
)

// Commands reach the Berth that has a pool open by a socket on its host: the lock on the
// pool's root is that process's, and so is the account of what is where. Only root can
// open the folder of these sockets.

const controlArchives = "/archives/"

// DefaultRunDir is where sockets go, and what NFS-Ganesha needs while it runs.
const DefaultRunDir = "/run/berth"

func runDir(c config.Config) string { return cmp.Or(c.Ganesha.RunDir, DefaultRunDir) }

// controlSocket is that of the pool with an identity.
func controlSocket(runDir, identity string) string {
	return filepath.Join(runDir, "control", shortName(identity)+".sock")
}

// shortName stands for a pool in the paths of sockets, which have to be short. Its identity
// may have been written by hand: of any length, with anything in it.
func shortName(identity string) string {
	sum := sha256.Sum256([]byte(identity))
	return hex.EncodeToString(sum[:4])
}

// serveControl serves commands for a pool until ctx ends. Without it all else works.
func (a *app) serveControl(ctx context.Context, pool, identity string, m *volume.Manager) {
	socket := controlSocket(runDir(a.config), identity)
	l, err := listenPrivately(socket)
	if err != nil {
		a.log.Warn("berth archives purge does not reach this process", "pool", pool, "err", err)
		return
	}
	s := &http.Server{Handler: controlHandler(m), BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		a.log.Warn("berth archives purge does not reach this process any more", "pool", pool, "err", err)
	}
}

// listenPrivately listens at a socket in a folder that is root's alone. What is left of
// a process that was killed is in the way: whoever has the pool's lock may remove it.
func listenPrivately(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}

// controlHandler removes archives.
func controlHandler(m *volume.Manager) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(http.MethodDelete+" "+controlArchives+"{volume}", func(w http.ResponseWriter, r *http.Request) {
		name, err := volume.ParseName(r.PathValue("volume"))
		if err == nil {
			err = m.DeleteArchive(r.Context(), name, r.URL.Query().Get("cluster"))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
		}
	})
	return mux
}

// deleteArchive has the Berth that listens at socket remove an archive. The cluster is
// that of its record.
func deleteArchive(ctx context.Context, socket, name, cluster string) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	where := url.URL{Scheme: "http", Host: "berth", Path: controlArchives + name, RawQuery: url.Values{"cluster": {cluster}}.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, where.String(), http.NoBody)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("no Berth on this host has the pool open (nothing listens at %s): run this where it runs, as by kubectl exec", socket)
	}
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil || response.StatusCode != http.StatusOK {
		return errors.Join(fmt.Errorf("archive %s is not removed: %s", name, strings.TrimSpace(string(text))), err)
	}
	return nil
}
