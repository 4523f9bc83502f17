// Command berth gives Kubernetes claims real volumes on storage that is already
// there. See the README.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-storage/berth/internal/app"
	"github.com/berth-storage/berth/internal/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "berth:", err)
		os.Exit(1)
	}
}

// run is the whole program. It also answers to the names of the programs that it
// takes the place of, so that an image can be changed without its command.
func run(ctx context.Context, args []string, out, logs io.Writer) error {
	root := command(out, logs)
	root.SetOut(out)
	root.SetErr(logs)
	root.SetArgs(args[1:])
	switch name := filepath.Base(args[0]); name {
	case nfsProvisioner, nfsSubdir, nfsClient, zfsProvisioner:
		root.SetArgs(append([]string{name}, args[1:]...))
	}
	return root.ExecuteContext(ctx)
}

const (
	nfsProvisioner = config.AdoptNFSProvisioner
	nfsSubdir      = config.AdoptNFSSubdir
	nfsClient      = "nfs-client-provisioner" // as nfsSubdir was called before
	zfsProvisioner = config.AdoptZFSProvisioner
)

func command(out, logs io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "berth",
		Short: "Dynamic storage for Kubernetes on what you already own",
		// main prints the error, and a usage text after it would hide it.
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(
		serveCommand(logs),
		nfsProvisionerCommand(out, logs),
		nfsSubdirCommand(out, logs),
		zfsProvisionerCommand(out, logs),
		adoptCommand(out),
		volumesCommand(out),
		archivesCommand(out),
		restoreCommand(out),
		configCommand(out),
		&cobra.Command{
			Use:   "version",
			Short: "Print the version",
			Args:  cobra.NoArgs,
			Run:   func(*cobra.Command, []string) { fmt.Fprintln(out, app.Version) },
		},
	)
	return root
}

func serveCommand(logs io.Writer) *cobra.Command {
	var file string
	var standby bool
	c := &cobra.Command{
		Use:   "serve --config berth.yaml",
		Short: "Serve the pools of a configuration file",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(file)
			if err != nil {
				return err
			}
			c.Standby = standby
			return app.Serve(cmd.Context(), c, logs)
		},
	}
	c.Flags().StringVar(&file, "config", "berth.yaml", "the configuration `file`")
	c.Flags().BoolVar(&standby, "standby", false, "wait while another process has a pool open, and take over when it ends")
	return c
}

func nfsProvisionerCommand(out, logs io.Writer) *cobra.Command {
	return dropInCommand(nfsProvisioner, "with its flags", logs, func(args []string) (config.Config, error) {
		return config.FromNFSProvisioner(args, out)
	})
}

func nfsSubdirCommand(out, logs io.Writer) *cobra.Command {
	c := dropInCommand(nfsSubdir, "with its environment variables", logs, func(args []string) (config.Config, error) {
		return config.FromNFSSubdir(args, os.Getenv, out)
	})
	c.Aliases = []string{nfsClient}
	return c
}

func zfsProvisionerCommand(out, logs io.Writer) *cobra.Command {
	return dropInCommand(zfsProvisioner, "with its environment variables", logs, func(args []string) (config.Config, error) {
		return fromZFSProvisioner(args, out)
	})
}

// fromZFSProvisioner reads the environment of this process.
func fromZFSProvisioner(args []string, out io.Writer) (config.Config, error) {
	host, err := app.ThisHost()
	if err != nil {
		return config.Config{}, err
	}
	return config.FromZFSProvisioner(args, os.Getenv, host, out)
}

// dropInCommand takes the place of another program. It leaves the flags to read, because
// theirs have one dash.
func dropInCommand(name, with string, logs io.Writer, read func(args []string) (config.Config, error)) *cobra.Command {
	return &cobra.Command{
		Use:                name + " [flags]",
		Short:              "Take the place of " + name + ", " + with,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := read(args)
			if errors.Is(err, flag.ErrHelp) {
				return nil
			}
			if err != nil {
				return err
			}
			return app.Serve(cmd.Context(), c, logs)
		},
	}
}

func configCommand(out io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Work with configuration files",
		Args:  cobra.NoArgs, // else a misspelt sub-command prints the help and succeeds
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "check FILE",
		Short: "Say whether a configuration file is valid",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := config.Load(args[0]); err != nil {
				return err
			}
			fmt.Fprintln(out, args[0], "is valid")
			return nil
		},
	}, convertCommand(out))
	return c
}
