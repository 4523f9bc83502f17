// Command nfs4 reads and writes files of an NFSv4 server without a mount:
//
//	nfs4 -server 127.0.0.1:2049 put -data hello /volume/greeting
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"time"

	"github.com/berth-storage/berth/test/nfs4"
)

const usage = `usage: nfs4 [flags] command arguments

commands:
  put path         write standard input, or what -data says, to a file
  get path         print a file
  ls path          list a directory
  stat path        print attributes and the space of the file system
  mkdir path       make a directory
  rm path          remove a file or an empty directory
  mv from to       rename
  chmod mode path  set permission bits
  ping             ask whether an NFSv4 server answers

flags (before or after the command):
`

// errUsage has been explained to the user already.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "nfs4:", err)
		os.Exit(1)
	}
}

// request is a parsed command line.
type request struct {
	server  string
	client  nfs4.Options
	timeout time.Duration
	words   []string // the command and its arguments
	data    *string  // nil: standard input
	mode    string
}

// run does what args say.
func run(ctx context.Context, args []string, in io.Reader, out, messages io.Writer) error {
	req, err := parse(args, messages)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, req.timeout)
	defer cancel()
	if req.words[0] == "ping" {
		return nfs4.Null(ctx, req.server)
	}
	client, err := nfs4.Dial(ctx, req.server, req.client)
	if err != nil {
		return err
	}
	defer client.Close()
	return req.do(ctx, client, in, out)
}

// parse reads the command line, with flags anywhere in it.
func parse(args []string, messages io.Writer) (request, error) {
	var req request
	flags := flag.NewFlagSet("nfs4", flag.ContinueOnError)
	flags.SetOutput(messages)
	flags.Usage = func() {
		fmt.Fprint(messages, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&req.server, "server", "127.0.0.1:2049", "`host:port` of the server")
	uid := flags.Uint("uid", uint(os.Getuid()), "user `id`")
	gid := flags.Uint("gid", uint(os.Getgid()), "group `id`")
	flags.StringVar(&req.client.LocalIP, "local", "", "`address` to call from")
	flags.BoolVar(&req.client.Soft, "soft", false, "do not wait for a server that is away")
	flags.DurationVar(&req.timeout, "timeout", time.Minute, "how long everything may take")
	flags.StringVar(&req.mode, "mode", "", "permission `bits` in octal for put (default 0644) and mkdir (default 0755)")
	flags.Func("data", "`text` to put instead of standard input", func(s string) error {
		req.data = &s
		return nil
	})
	for {
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return req, err
		} else if err != nil {
			return req, errUsage
		}
		if flags.NArg() == 0 {
			break
		}
		req.words = append(req.words, flags.Arg(0))
		args = flags.Args()[1:]
	}
	req.client.UID, req.client.GID = uint32(*uid), uint32(*gid)

	arguments := map[string]int{
		"put": 1, "get": 1, "ls": 1, "stat": 1, "mkdir": 1, "rm": 1, "mv": 2, "chmod": 2, "ping": 0,
	}
	if len(req.words) > 0 {
		if want, known := arguments[req.words[0]]; known && len(req.words) == want+1 {
			return req, nil
		}
	}
	flags.Usage()
	return req, errUsage
}

// do runs the command on a mounted server.
func (r request) do(ctx context.Context, c *nfs4.Client, in io.Reader, out io.Writer) error {
	path := r.words[1]
	switch r.words[0] {
	case "put":
		return r.put(ctx, c, path, in)
	case "get":
		data, err := c.ReadFile(ctx, path)
		if err != nil {
			return err
		}
		_, err = out.Write(data)
		return err
	case "ls":
		return list(ctx, c, path, out)
	case "stat":
		a, err := c.Stat(ctx, path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%v\nspace: %d total, %d free, %d available\n",
			a, a.SpaceTotal, a.SpaceFree, a.SpaceAvail)
		return err
	case "mkdir":
		mode, err := parseMode(r.mode, 0o755)
		if err != nil {
			return err
		}
		return c.Mkdir(ctx, path, mode)
	case "rm":
		return c.Remove(ctx, path)
	case "mv":
		return c.Rename(ctx, path, r.words[2])
	case "chmod":
		mode, err := parseMode(path, 0)
		if err != nil {
			return err
		}
		return c.Chmod(ctx, r.words[2], mode)
	}
	return errUsage
}

// put writes data, or a stream of any length.
func (r request) put(ctx context.Context, c *nfs4.Client, path string, in io.Reader) error {
	mode, err := parseMode(r.mode, 0o644)
	if err != nil {
		return err
	}
	if r.data != nil {
		return c.WriteFile(ctx, path, []byte(*r.data), mode)
	}
	f, err := c.Create(ctx, path, mode)
	if err != nil {
		return err
	}
	var offset int64
	for part := make([]byte, 1<<20); err == nil; {
		var n int
		n, err = io.ReadFull(in, part)
		if _, writeErr := f.WriteAt(ctx, part[:n], offset); writeErr != nil {
			err = writeErr
		}
		offset += int64(n)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return errors.Join(err, f.Close(ctx))
}

func list(ctx context.Context, c *nfs4.Client, path string, out io.Writer) error {
	entries, err := c.ReadDir(ctx, path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := fmt.Fprintf(out, "%v %s\n", e.Attr, e.Name); err != nil {
			return err
		}
	}
	return nil
}

// parseMode reads permission bits; empty means missing.
func parseMode(s string, missing uint32) (uint32, error) {
	if s == "" {
		return missing, nil
	}
	bits, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0, fmt.Errorf("mode: %w", err)
	}
	return uint32(bits), nil
}
