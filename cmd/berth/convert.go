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

func convertCommand(out io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "convert",
		Short: "Print the configuration file that says what another program was told",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(convertNFSProvisionerCommand(out), convertNFSSubdirCommand(out), convertZFSProvisionerCommand(out), convertPVManagerCommand(out))
	return c
}

func convertNFSProvisionerCommand(out io.Writer) *cobra.Command {
	return convertProgramCommand(&cobra.Command{
		Use:   nfsProvisioner + " (--manifest FILE | -- FLAGS)",
		Short: "Print the configuration file that says what nfs-provisioner was told",
		Long: `Print the configuration file that says what nfs-provisioner was told: by the manifest of
its Pod, Deployment, StatefulSet or DaemonSet, or by its flags, given after "--".`,
	}, out, config.NFSProvisionerManifest, config.ConvertNFSProvisioner)
}

func convertNFSSubdirCommand(out io.Writer) *cobra.Command {
	return convertProgramCommand(&cobra.Command{
		Use:     nfsSubdir + " [--manifest FILE | -- FLAGS]",
		Aliases: []string{nfsClient},
		Short:   "Print the configuration file that says what " + nfsSubdir + " was told",
		Long: `Print the configuration file that says what nfs-subdir-external-provisioner was told: by
the manifest of its Pod or Deployment, or by the environment variables of this command.`,
	}, out, config.NFSSubdirManifest, func(m config.Manifest, usage io.Writer) ([]byte, error) {
		return config.ConvertNFSSubdir(m, os.Getenv, usage)
	})
}

func convertZFSProvisionerCommand(out io.Writer) *cobra.Command {
	return convertProgramCommand(&cobra.Command{
		Use:   zfsProvisioner + " [--manifest FILE | -- FLAGS]",
		Short: "Print the configuration file that says what kubernetes-" + zfsProvisioner + " was told",
		Long: `Print the configuration file that says what kubernetes-zfs-provisioner was told: by the
manifest of its Pod, Deployment or StatefulSet, or by the environment variables of this command.
If StorageClasses are in the manifest too, each of their parent datasets becomes a pool.`,
	}, out, config.ZFSProvisionerManifest, func(m config.Manifest, usage io.Writer) ([]byte, error) {
		host, err := app.ThisHost()
		if err != nil {
			return nil, err
		}
		return config.ConvertZFSProvisioner(m, os.Getenv, host, usage)
	})
}

func convertPVManagerCommand(out io.Writer) *cobra.Command {
	var storage, properties string
	c := &cobra.Command{
		Use:   config.AdoptPVManager + " --storage FILE [--properties FILE]",
		Short: "Print the configuration file that says what openshift-pvmanager was told",
		Long: `Print the configuration file that says what openshift-pvmanager was told: by storage.yml,
or the ConfigMap that has it, and by application.properties.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if storage == "" {
				return errors.New("--storage says where openshift-pvmanager's storage.yml is, or the ConfigMap that has it")
			}
			var m config.PVManager
			var err error
			if m.Storage, err = readFile(storage); err != nil {
				return err
			}
			if properties != "" {
				if m.Properties, err = readFile(properties); err != nil {
					return err
				}
			}
			text, err := config.ConvertPVManager(m)
			if err == nil {
				_, err = out.Write(text)
			}
			return err
		},
	}
	c.Flags().StringVar(&storage, "storage", "", "the `file` storage.yml, or a ConfigMap that has it; -: standard input")
	c.Flags().StringVar(&properties, "properties", "", "the `file` application.properties")
	return c
}

// convertProgramCommand makes c the command that finds in a manifest how a program is
// run, or is told its flags, and converts that.
func convertProgramCommand(c *cobra.Command, out io.Writer, find func([]byte) (config.Manifest, error),
	convert func(config.Manifest, io.Writer) ([]byte, error),
) *cobra.Command {
	var file string
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(cmd *cobra.Command, args []string) error {
		m := config.Manifest{Args: args}
		if file != "" {
			if len(args) > 0 {
				return fmt.Errorf("give either --manifest or, after \"--\", the flags of %s", cmd.Name())
			}
			text, err := readFile(file)
			if err != nil {
				return err
			}
			if m, err = find(text); err != nil {
				return err
			}
		}
		text, err := convert(m, out)
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		if err == nil {
			_, err = out.Write(text)
		}
		return err
	}
	c.Flags().StringVar(&file, "manifest", "", "a `file` with its manifest, YAML or JSON; -: standard input")
	return c
}

func readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}
