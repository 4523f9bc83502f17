package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/berth-storage/berth/internal/suggest"
)

// parseFlags reads the flags of a program that Berth takes the place of, with one dash or
// two. After -help it prints head and the flags to usage, and returns flag.ErrHelp.
func parseFlags(set *flag.FlagSet, args []string, usage io.Writer, head string) error {
	set.SetOutput(io.Discard) // the error is returned; printing it too would say it twice
	if err := set.Parse(args); errors.Is(err, flag.ErrHelp) {
		set.SetOutput(usage)
		fmt.Fprint(usage, head)
		set.PrintDefaults()
		return err
	} else if err != nil {
		return flagError(set, err)
	}
	if set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: flags only, a value after '='", set.Arg(0))
	}
	return nil
}

// flagError adds the nearest right name to the error of an unknown flag.
func flagError(set *flag.FlagSet, err error) error {
	unknown, found := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !found {
		return err
	}
	var names []string
	set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return fmt.Errorf("unknown flag -%s%s", unknown, suggest.Nearest(unknown, names))
}

// clientFlags are Berth's own in each of these programs: how it works with the cluster.
type clientFlags struct {
	workers, burst int
	qps            float64
}

// register adds the flags to set. Each of their descriptions begins with whose.
func (f *clientFlags) register(set *flag.FlagSet, whose string) {
	d := Default().Kubernetes
	set.IntVar(&f.workers, "workers", d.Workers, whose+"`number` of claims, and of volumes, that are worked on at the same time")
	set.Float64Var(&f.qps, "kube-qps", float64(d.QPS), whose+"`number` of requests to the API server in a second, in the long run")
	set.IntVar(&f.burst, "kube-burst", d.Burst, whose+"`number` of requests to the API server at once")
}

func (f clientFlags) apply(k *Kubernetes) {
	k.Workers, k.QPS, k.Burst = f.workers, float32(f.qps), f.burst
}
