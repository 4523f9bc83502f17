package main

import (
	"errors"
	"flag"
	"io"

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
	c.AddCommand(adoptNFSProvisionerCommand(out))
	return c
}

func adoptNFSProvisionerCommand(out io.Writer) *cobra.Command {
	var file string
	var o app.AdoptOptions
	c := &cobra.Command{
		Use:   nfsProvisioner + " (--config berth.yaml [--pool NAME] | -- FLAGS)",
		Short: "Take over the volumes of nfs-provisioner in a pool's root",
		Long: `Take over the volumes of nfs-provisioner in a pool's root: in that of a configuration
file, or in that of nfs-provisioner's own command line, given after "--". Neither
nfs-provisioner nor Berth may be serving them meanwhile. With --dry-run nothing is
changed, and they may.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configOrFlags(file, args, out)
			if errors.Is(err, flag.ErrHelp) {
				return nil
			}
			if err != nil {
				return err
			}
			return app.Adopt(cmd.Context(), c, o, out)
		},
	}
	c.Flags().StringVar(&file, "config", "", "the configuration `file`")
	c.Flags().StringVar(&o.Pool, "pool", "", "`name` of the pool in it, if it has several")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be done")
	return c
}

// configOrFlags reads the configuration from a file, or else from the flags of
// nfs-provisioner.
func configOrFlags(file string, flags []string, usage io.Writer) (config.Config, error) {
	switch {
	case file == "":
		return config.FromNFSProvisioner(flags, usage)
	case len(flags) > 0:
		return config.Config{}, errors.New("give either --config or, after \"--\", the flags of nfs-provisioner")
	default:
		return config.Load(file)
	}
}
