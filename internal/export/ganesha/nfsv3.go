package ganesha

import (
	"net"
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
	_, err := g.add("rpc.statd", run.Command{
		Path: s.programs.status,
		Args: []string{"--foreground", "--no-notify", "--port", strconv.Itoa(statusPort)},
		Line: line, ChangesUser: true,
	})
	return err
}
