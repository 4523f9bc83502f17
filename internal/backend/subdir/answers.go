package subdir

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Answers says whether the share that is mounted at root answers, for programs that look
// at one on their own. It returns after some seconds, also if the share does not.
func Answers(ctx context.Context, root string) error {
	answer := make(chan error, 1)
	go func() {
		var s unix.Statfs_t
		answer <- unix.Statfs(root, &s)
	}()
	select {
	case err := <-answer:
		if err != nil {
			return fmt.Errorf("the share at %s: %w", root, err)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(defaultStall):
		return fmt.Errorf("the share at %s does not answer", root)
	}
}
