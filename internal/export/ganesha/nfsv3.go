package ganesha

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/berth-storage/berth/internal/run"
)

const rpcbindAddress = "127.0.0.1:111"

// startNFSv3 starts what NFSv3 needs beside Ganesha, unless the host has it
// running: rpcbind, which tells clients the ports, and rpc.statd, which frees
// the locks of clients that restart.
func (s *Server) startNFSv3(g *group, line func(string)) error {
	if conn, err := net.Dial("tcp", rpcbindAddress); err == nil {
		return conn.Close() // a host that has rpcbind looks after rpc.statd too
	}
	if _, err := g.add("rpcbind", run.Command{Path: s.programs.rpcbind, Args: []string{"-f"}, Line: line, ChangesUser: true}); err != nil {
		return err
	}
	if err := awaitListener("tcp", rpcbindAddress, helperLimit); err != nil {
		return err
	}
	if err := makeStatusDir(s.o.statusDir()); err != nil {
		return fmt.Errorf("state of rpc.statd: %w", err)
	}
	_, err := g.add("rpc.statd", run.Command{
		Path: s.programs.status,
		Args: []string{"--foreground", "--no-notify", "--port", strconv.Itoa(statusPort), "--state-directory-path", s.o.statusDir()},
		Line: line, ChangesUser: true,
	})
	return err
}

// statusUsers are the users whose rights rpc.statd is to have, as distributions call them.
var statusUsers = []string{"statd", "rpcuser"}

// makeStatusDir makes the folders in which rpc.statd keeps whom it watches. Its usual
// place, /var/lib/nfs, cannot be written where the root file system is read-only. It
// gives up root for the user that owns the folder (rpc.statd(8)).
func makeStatusDir(path string) error {
	uid, gid := os.Geteuid(), os.Getegid()
	for _, name := range statusUsers {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		var errs [2]error
		uid, errs[0] = strconv.Atoi(u.Uid)
		gid, errs[1] = strconv.Atoi(u.Gid)
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		break
	}
	folders := []string{path, filepath.Join(path, "sm"), filepath.Join(path, "sm.bak")}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	for _, folder := range folders {
		if err := os.Chown(folder, uid, gid); err != nil {
			return err
		}
	}
	return nil
}
