// Command run runs a command in a test VM of its own, to try things out by hand; see
// package test/vm. With -zfs the VM has OpenZFS.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/berth-storage/berth/test/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if exit, ok := errors.AsType[*vm.ExitError](err); ok && exit.Code > 0 {
		os.Exit(exit.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	zfs := flags.Bool("zfs", false, "have OpenZFS in the VM")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("usage: run [-zfs] COMMAND [ARGUMENT ...]")
	}
	g, err := vm.Start(ctx, vm.Options{ZFS: *zfs, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Stop()) }()
	return g.Exec(ctx, vm.Command{Args: flags.Args(), Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}
