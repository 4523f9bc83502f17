// Command run runs a command in a test VM of its own, to try things out by hand; see
// package test/vm. Without a command it only makes sure that the VM's image is there,
// which takes a minute or two the first time.
package main

import (
	"context"
	"errors"
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
	if len(args) == 0 {
		_, err := vm.Image(ctx, os.Stderr)
		return err
	}
	g, err := vm.Start(ctx, vm.Options{Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Stop()) }()
	return g.Exec(ctx, vm.Command{Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}
