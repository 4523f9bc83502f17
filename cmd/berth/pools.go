package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-storage/berth/internal/app"
	"github.com/berth-storage/berth/internal/config"
)

// poolFlags say which pools a command looks at: those of a configuration file, or the
// one at a root or below a dataset.
type poolFlags struct{ file, root, cluster, dataset string }

func (f *poolFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.file, "config", "berth.yaml", "the configuration `file` that names the pools")
	c.Flags().StringVar(&f.root, "root", "", "the root `folder` of one pool, without a configuration")
	c.Flags().StringVar(&f.cluster, "cluster", "", "`name` of the cluster on the share at that root, if there are several")
	c.Flags().StringVar(&f.dataset, "dataset", "", "the parent `dataset` of one pool on this host, without a configuration")
	c.MarkFlagsMutuallyExclusive("config", "root", "dataset")
	c.MarkFlagsMutuallyExclusive("config", "cluster")
}

func (f *poolFlags) load() (config.Config, error) {
	switch {
	case f.root != "":
		c := config.Default()
		c.Pools = []config.Pool{app.PoolAt(f.root, f.cluster)}
		return c, nil
	case f.dataset != "":
		c := config.Default()
		c.Pools = []config.Pool{app.DatasetPool(f.dataset)}
		return c, nil
	case f.cluster != "":
		return config.Config{}, errors.New("give --root with --cluster")
	default:
		return config.Load(f.file)
	}
}

// listCommand is a command that lists something of pools, also while Berth runs.
func listCommand(use, short string, out io.Writer, list func(ctx context.Context, pools []config.Pool, format string, out io.Writer) error) *cobra.Command {
	var pools poolFlags
	var format string
	c := &cobra.Command{
		Use:   use + " [--config berth.yaml | --root DIR | --dataset NAME]",
		Short: short + "; also while Berth runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := pools.load()
			if err != nil {
				return err
			}
			return list(cmd.Context(), c.Pools, format, out)
		},
	}
	pools.register(c)
	c.Flags().StringVarP(&format, "output", "o", app.FormatTable, "`format`: table or json")
	return c
}

func volumesCommand(out io.Writer) *cobra.Command {
	return listCommand("volumes", "List the volumes of pools, and what else lies there", out, app.Volumes)
}

func archivesCommand(out io.Writer) *cobra.Command {
	c := &cobra.Command{
		Use:   "archives",
		Short: "List what is kept of volumes whose claims were deleted, or remove it",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(listCommand("list", "List the volumes that are archived or retained", out, app.Archives), archivesPurgeCommand(out))
	return c
}

func archivesPurgeCommand(out io.Writer) *cobra.Command {
	var pools poolFlags
	var o app.PurgeOptions
	var age time.Duration
	c := &cobra.Command{
		Use:   "purge [--config berth.yaml | --root DIR | --dataset NAME] (VOLUME... | --older-than 720h | --all)",
		Short: "Remove archives",
		Long: `Remove archives: of the volumes named, which may be retained ones too, or those of claims
that were deleted before a time, or all. The Berth that has the pool open does that, so
it has to run on this host or, with "kubectl exec", in this pod.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := pools.load()
			if err != nil {
				return err
			}
			o.Names, o.OlderThan = args, age
			if c.Ganesha.RunDir != "" {
				o.RunDir = c.Ganesha.RunDir
			}
			return app.PurgeArchives(cmd.Context(), c.Pools, o, out)
		},
	}
	pools.register(c)
	c.Flags().DurationVar(&age, "older-than", 0, "`age`, as in 720h, from which archives are removed")
	c.Flags().BoolVar(&o.All, "all", false, "remove all archives, but no retained volumes")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "only say what would be removed")
	c.Flags().StringVar(&o.RunDir, "run-dir", app.DefaultRunDir, "the `folder` of Berth's sockets, if no configuration says it")
	return c
}

func restoreCommand(out io.Writer) *cobra.Command {
	var pools poolFlags
	var o app.RestoreOptions
	c := &cobra.Command{
		Use:   "restore [--config berth.yaml | --root DIR | --dataset NAME] --class CLASS [--claim NAME] VOLUME",
		Short: "Print the claim to which an archived or retained volume is restored",
		Long: `Print the manifest of a claim to which an archived or retained volume is restored, for
"kubectl create -f -". The claim is in the namespace of the one that was deleted.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := pools.load()
			if err != nil {
				return err
			}
			o.Volume = args[0]
			return app.Restore(cmd.Context(), c.Pools, o, out)
		},
	}
	pools.register(c)
	c.Flags().StringVar(&o.Class, "class", "", "`name` of the StorageClass of the claim, one of the volume's pool")
	c.Flags().StringVar(&o.Claim, "claim", "", "`name` of the claim (default: that of the one that was deleted)")
	_ = c.MarkFlagRequired("class") // fails for a flag that there is not
	return c
}
