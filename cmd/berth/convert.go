package main

import (
	"errors"
	"flag"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/berth-storage/berth/internal/config"
)

func convertCommand(out io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "convert",
		Short: "Print the configuration file that says what another program was told",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(convertNFSProvisionerCommand(out))
	return c
}

func convertNFSProvisionerCommand(out io.Writer) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   nfsProvisioner + " (--manifest FILE | -- FLAGS)",
		Short: "Print the configuration file that says what nfs-provisioner was told",
		Long: `Print the configuration file that says what nfs-provisioner was told: by the manifest of
its Pod, Deployment, StatefulSet or DaemonSet, or by its flags, given after "--".`,
		Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			m, err := manifestOrFlags(file, args)
			if err != nil {
				return err
			}
			text, err := config.ConvertNFSProvisioner(m, out)
			if errors.Is(err, flag.ErrHelp) {
				return nil
			}
			if err == nil {
				_, err = out.Write(text)
			}
			return err
		},
	}
	c.Flags().StringVar(&file, "manifest", "", "a `file` with its manifest, YAML or JSON; -: standard input")
	return c
}

func manifestOrFlags(file string, flags []string) (config.Manifest, error) {
	if file == "" {
		return config.Manifest{Args: flags}, nil
	}
	if len(flags) > 0 {
		return config.Manifest{}, errors.New("give either --manifest or, after \"--\", the flags of nfs-provisioner")
	}
	read := func() ([]byte, error) { return os.ReadFile(file) }
	if file == "-" {
		read = func() ([]byte, error) { return io.ReadAll(os.Stdin) }
	}
	text, err := read()
	if err != nil {
		return config.Manifest{}, err
	}
	return config.NFSProvisionerManifest(text)
}
