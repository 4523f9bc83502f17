package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/berth-storage/berth/test/harness"
	"github.com/berth-storage/berth/test/vm"
)

// runInGuest builds a program of this module, runs it in a guest of its own, and reads
// the JSON that it prints into result: the kernel here may lack what is measured.
func (b *bench) runInGuest(ctx context.Context, options vm.Options, result any, program string, args ...string) (err error) {
	binary, err := harness.Program(ctx, b.folder, program)
	if err != nil {
		return err
	}
	options.Log = os.Stdout
	guest, err := vm.Start(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, guest.Stop()) }()
	inside := path.Join("/usr/local/bin", path.Base(program))
	if err := guest.Put(ctx, binary, inside); err != nil {
		return err
	}
	out, err := guest.Run(ctx, append([]string{inside}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), result); err != nil {
		return fmt.Errorf("%s printed %q: %w", inside, out, err)
	}
	return nil
}
