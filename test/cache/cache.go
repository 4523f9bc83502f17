// Package cache keeps what the tests need and what takes minutes to make: in the
// folder of the environment variable BERTH_CACHE, else in the folder "berth" of the
// user's cache folder.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// File returns the path of the file name/base in the cache, where name changes with
// everything that the file is made of. If it is not there, build is called;
// several callers at once, also of several processes, make it once. What is in words
// for progress. build gets the path of a file to write, in an empty folder of its own
// that is removed afterwards.
func File(ctx context.Context, name, base, what string, progress io.Writer, build func(path string) error) (string, error) {
	cache, err := Dir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, name)
	path := filepath.Join(dir, base)
	if isFile(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache of %s (set BERTH_CACHE to a folder you may write): %w", what, err)
	}
	lock, err := waitForLock(ctx, filepath.Join(dir, "lock"), what, progress)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if isFile(path) { // Made by the one that held the lock until now.
		return path, nil
	}

	work := filepath.Join(dir, "work")
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("removing what an interrupted making of %s left: %w", what, err)
	}
	defer os.RemoveAll(work) // If that fails, the next one tells.
	if err := os.Mkdir(work, 0o700); err != nil {
		return "", fmt.Errorf("making the work folder of %s: %w", what, err)
	}
	// Renamed into place, so that a half written file is never taken for a whole one.
	part := filepath.Join(work, base)
	if err := build(part); err != nil {
		return "", err
	}
	if err := os.Rename(part, path); err != nil {
		return "", fmt.Errorf("putting %s in its place: %w", what, err)
	}
	return path, nil
}

// Dir returns the folder for what is costly to make again.
func Dir() (string, error) {
	if dir := os.Getenv("BERTH_CACHE"); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("finding the folder of BERTH_CACHE: %w", err)
		}
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding a cache folder (set BERTH_CACHE to one): %w", err)
	}
	return filepath.Join(dir, "berth"), nil
}

// isFile tells whether path is a regular file.
func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// waitForLock takes the lock and waits for whoever has it.
func waitForLock(ctx context.Context, path, what string, progress io.Writer) (*os.File, error) {
	for waited := false; ; waited = true {
		lock, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return lock, err
		}
		if !waited {
			fmt.Fprintf(progress, "another process makes %s: waiting for it\n", what)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another process that makes %s: %w", what, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}
