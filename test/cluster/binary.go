package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Binary returns the path of the control plane's binary, which is etcd,
// kube-apiserver, kube-controller-manager, kube-scheduler or kubectl as its
// first argument says. It is kept in $BERTH_CACHE, or else in the folder
// "berth" of the user's cache folder. If it is not there it is built, which
// takes minutes and is told on progress. Several callers at once build it once.
func Binary(ctx context.Context, progress io.Writer) (path string, err error) {
	source, err := sourceDir()
	if err != nil {
		return "", err
	}
	key, err := sourceKey(source)
	if err != nil {
		return "", err
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "controlplane-"+key)
	path = filepath.Join(dir, "controlplane")
	if isFile(path) {
		return path, nil
	}

	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making the cache of the control plane (set BERTH_CACHE to a folder you may write): %w", err)
	}
	lock, err := waitForLock(ctx, filepath.Join(dir, "lock"), progress)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if isFile(path) { // Made by the builder that held the lock until now.
		return path, nil
	}
	if err := build(ctx, source, path, progress); err != nil {
		return "", err
	}
	return path, nil
}

// cacheDir returns the folder for what is costly to make again.
func cacheDir() (string, error) {
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

// waitForLock takes the build lock and waits for the builder that has it.
func waitForLock(ctx context.Context, path string, progress io.Writer) (*os.File, error) {
	for waited := false; ; waited = true {
		lock, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return lock, err
		}
		if !waited {
			fmt.Fprintln(progress, "another process builds the control plane: waiting for it")
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for another build of the control plane: %w", ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}
