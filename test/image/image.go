// Package image builds Berth's container images for tests, as "make image" does, on a
// Debian that debootstrap made: no registry is needed.
package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-storage/berth/test/cache"
	"github.com/berth-storage/berth/test/debian"
	"github.com/berth-storage/berth/test/harness"
)

// suite is the Debian that the Containerfile names.
const suite = "bookworm"

// Targets of the Containerfile.
const (
	Berth     = "berth"
	NFSSubdir = "nfs-subdir"
	ZFS       = "zfs"
)

// names are what the manifests call the images.
var names = map[string]string{Berth: "berth", NFSSubdir: "berth-nfs-subdir", ZFS: "berth-zfs"}

// Image is a built image.
type Image struct {
	Name    string // in the archive, as docker.io/library/NAME:latest
	Archive string // a file in the format of OCI archives, for containerd and others to load
	Rootfs  string // a folder with its files, not to be changed
	Config  Config
}

// Config is what the image says about itself, of the OCI image specification.
type Config struct {
	Entrypoint []string
	Env        []string
	Labels     map[string]string
}

// builder is a buildah with a storage of its own.
type builder struct {
	folder string
	log    io.Writer
}

// Build builds images of the sources as they are, of these targets, and unpacks them into
// folder, which then takes about 1 GB. It takes half a minute, and as much again the first
// time, when the Debian is made that they are built on.
func Build(ctx context.Context, folder string, log io.Writer, targets ...string) (map[string]Image, error) {
	began := time.Now()
	b := builder{folder: folder, log: log}
	if slices.Contains(targets, Berth) {
		base, err := minimal(ctx, log)
		if err != nil {
			return nil, err
		}
		if err := b.load(ctx, base, "berth-test-base"); err != nil {
			return nil, err
		}
	}
	built := map[string]Image{}
	for _, target := range targets {
		fmt.Fprintln(log, "building the image", target)
		var err error
		if built[target], err = b.build(ctx, target); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(log, "the images are built after %.0f s\n", time.Since(began).Seconds())
	return built, nil
}

// build builds one of them.
func (b builder) build(ctx context.Context, target string) (Image, error) {
	root, err := harness.Repository()
	if err != nil {
		return Image{}, err
	}
	// Neither a container nor a network is to be had for its steps everywhere that tests
	// run; chroot does without.
	name := "berth-test-" + target
	build := exec.CommandContext(ctx, "make", "image", "IMAGE="+name, "TARGET="+target, "BASE=localhost/berth-test-base",
		"BUILDER=buildah "+strings.Join(b.storage(), " "), "BUILDFLAGS=--isolation chroot --format oci")
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return Image{}, fmt.Errorf("make image: %w\n%s", err, output)
	}
	i := Image{Name: names[target], Archive: filepath.Join(b.folder, target+".oci.tar"), Rootfs: filepath.Join(b.folder, target)}
	return i, b.export(ctx, "localhost/"+name, &i)
}

// minimal gives a tar archive of a minimal Debian, which is made once.
func minimal(ctx context.Context, log io.Writer) (string, error) {
	const name = "debian-" + suite
	return cache.File(ctx, name, name+".tar", "a minimal Debian", log, func(target string) error {
		fmt.Fprintln(log, "making a minimal Debian to build images on: half a minute, once")
		mirror, err := debian.Mirror(ctx, suite)
		if err != nil {
			return err
		}
		root := filepath.Join(filepath.Dir(target), "root")
		if err := run(ctx, "debootstrap", "--variant=minbase", suite, root, mirror); err != nil {
			return err
		}
		return run(ctx, "tar", "-C", root, "-cf", target, ".")
	})
}

func (b builder) storage() []string {
	return []string{
		"--root", filepath.Join(b.folder, "storage"), "--runroot", filepath.Join(b.folder, "run"), "--storage-driver", "vfs",
	}
}

// buildah runs it and gives its output, without the newline at its end.
func (b builder) buildah(ctx context.Context, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "buildah", append(b.storage(), args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("buildah %s: %w: %s", args[0], err, stderr.Bytes())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// load makes an image of the files of a tar archive.
func (b builder) load(ctx context.Context, archive, name string) error {
	container, err := b.buildah(ctx, "from", "scratch")
	if err != nil {
		return err
	}
	if _, err := b.buildah(ctx, "add", "--quiet", container, archive, "/"); err != nil {
		return err
	}
	_, err = b.buildah(ctx, "commit", "--quiet", "--rm", container, name)
	return err
}

// export writes the image's archive and files, and reads its configuration.
func (b builder) export(ctx context.Context, name string, i *Image) error {
	text, err := b.buildah(ctx, "inspect", "--type", "image", name)
	if err != nil {
		return err
	}
	var inspected struct{ OCIv1 struct{ Config Config } }
	if err := json.Unmarshal([]byte(text), &inspected); err != nil {
		return fmt.Errorf("configuration of the image: %w", err)
	}
	i.Config = inspected.OCIv1.Config
	if _, err := b.buildah(ctx, "push", "--quiet", name, "oci-archive:"+i.Archive+":docker.io/library/"+i.Name+":latest"); err != nil {
		return err
	}
	container, err := b.buildah(ctx, "from", "--pull-never", name)
	if err != nil {
		return err
	}
	files, err := b.buildah(ctx, "mount", container)
	if err != nil {
		return err
	}
	// With the driver vfs these are plain files, which outlive the container as a copy only.
	if err := run(ctx, "cp", "-a", files, i.Rootfs); err != nil {
		return err
	}
	_, err = b.buildah(ctx, "rm", container)
	return err
}

// run runs a program that says nothing unless it fails.
func run(ctx context.Context, program string, args ...string) error {
	if output, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, output)
	}
	return nil
}
