package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/berth-storage/berth/internal/app"
	"github.com/berth-storage/berth/internal/config"
)

func adoptCommand(out io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "adopt",
		Short: "Take over volumes that another program made",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(adoptNFSProvisionerCommand(out), adoptNFSSubdirCommand(out), adoptZFSProvisionerCommand(out), adoptPVManagerCommand(out))
	return c
}

func adoptNFSProvisionerCommand(out io.Writer) *cobra.Command {
	return adoptProgramCommand(&cobra.Command{
		Use:   nfsProvisioner + " (--config berth.yaml [--pool NAME] | -- FLAGS)",
		Short: "Take over the volumes of nfs-provisioner in a pool's root",
		Long: `Take over the volumes of nfs-provisioner in a pool's root: in that of a configuration
file, or in that of nfs-provisioner's own command line, given after "--". Neither
nfs-provisioner nor Berth may be serving them meanwhile. With --dry-run nothing is
changed, and they may.`,
	}, app.AdoptOptions{Program: config.AdoptNFSProvisioner}, out, func(flags []string) (config.Config, error) { return config.FromNFSProvisioner(flags, out) })
}

func adoptNFSSubdirCommand(out io.Writer) *cobra.Command {
	return adoptProgramCommand(&cobra.Command{
		Use:     nfsSubdir + " [--config berth.yaml [--pool NAME] | -- FLAGS]",
		Aliases: []string{nfsClient},
		Short:   "Take over the volumes of " + nfsSubdir + " on a share",
		Long: `Take over the volumes of nfs-subdir-external-provisioner on a share: on that of a
configuration file, or on that which its environment variables name, mounted at
/persistentvolumes or where the flag -root, given after "--", says. Neither
nfs-subdir-external-provisioner nor Berth may be at work on it meanwhile. With --dry-run
nothing is changed, and they may.`,
	}, app.AdoptOptions{Program: config.AdoptNFSSubdir}, out, func(flags []string) (config.Config, error) {
		return config.FromNFSSubdir(flags, os.Getenv, out)
	})
}

func adoptZFSProvisionerCommand(out io.Writer) *cobra.Command {
	return adoptProgramCommand(&cobra.Command{
		Use:     zfsProvisioner + " [--config berth.yaml [--pool NAME] | -- FLAGS]",
		Aliases: []string{"kubernetes-" + zfsProvisioner},
		Short:   "Take over the volumes of kubernetes-" + zfsProvisioner,
		Long: `Take over the volumes of kubernetes-zfs-provisioner, of any of its generations: those
below the parent dataset of a pool in a configuration file, or of that which its environment
variables name. Neither it nor Berth may be at work there meanwhile. With --dry-run nothing
is changed, and they may.`,
	}, app.AdoptOptions{Program: config.AdoptZFSProvisioner}, out, func(flags []string) (config.Config, error) {
		return fromZFSProvisioner(flags, out)
	})
}

func adoptPVManagerCommand(out io.Writer) *cobra.Command {
	return adoptProgramCommand(&cobra.Command{
		Use:   config.AdoptPVManager + " --config berth.yaml [--pool NAME]",
		Short: "Take over the volumes of openshift-pvmanager",
		Long: `Take over the volumes of openshift-pvmanager below the parent dataset of a pool. Neither it
nor Berth may be at work there meanwhile. With --dry-run nothing is changed, and they may.
berth config convert makes the configuration file of its own.`,
	}, app.AdoptOptions{Program: config.AdoptPVManager}, out, func([]string) (config.Config, error) {
		return config.Config{}, errors.New("give --config: a file as berth config convert " + config.AdoptPVManager + " prints it")
	})
}

// adoptProgramCommand makes c the command that adopts volumes of a program, whose pool is
// in a configuration file or is what its own flags and environment say.
func adoptProgramCommand(c *cobra.Command, o app.AdoptOptions, out io.Writer, fromFlags func([]string) (config.Config, error)) *cobra.Command {
	var file string
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, flags []string) error {
		read := func() (config.Config, error) { return fromFlags(flags) }
		if file != "" {
			if len(flags) > 0 {
				return fmt.Errorf("give either --config or, after \"--\", the flags of %s", cmd.Name())
			}
			read = func() (config.Config, error) { return config.Load(file) }
		}
		settings, err := read()
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		if err != nil {
			return err
		}
		return app.Adopt(cmd.Context(), settings, o, out)
	}
	c.Flags().StringVar(&file, "config", "", "the configuration `file`")
	c.Flags().StringVar(&o.Pool, "pool", "", "`name` of the pool in it, if it has several")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	return c
}
