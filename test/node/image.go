package node

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// Image is the name of the image that pods can use: busybox, with the commands applets.
const Image = "docker.io/library/busybox:latest"

// applets are the commands of the image.
const applets = "sh cat chmod cp date dd df echo grep hostname id kill ls mkdir mount mv rm seq sleep stat sync tail test touch true wc"

// writeImage writes an image with the static program busybox, in the form of docker
// save, which containerd imports.
func writeImage(to io.Writer, busybox []byte) error {
	layer, err := layer(busybox)
	if err != nil {
		return err
	}
	type object map[string]any
	config, err := json.Marshal(object{
		"architecture": "amd64", "os": "linux",
		"config": object{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sleep", "2147483647"}},
		"rootfs": object{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{Image}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	t := tar.NewWriter(to)
	for name, content := range map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer} {
		if err := add(t, tar.Header{Name: name, Mode: 0o644}, content); err != nil {
			return err
		}
	}
	return t.Close()
}

// layer is the image's file system, as a tar archive.
func layer(busybox []byte) ([]byte, error) {
	var layer bytes.Buffer
	t := tar.NewWriter(&layer)
	headers := []tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
	}
	for applet := range strings.FieldsSeq(applets) {
		headers = append(headers, tar.Header{Name: path.Join("bin", applet), Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777})
	}
	for _, h := range headers {
		if err := add(t, h, nil); err != nil {
			return nil, err
		}
	}
	if err := add(t, tar.Header{Name: "bin/busybox", Mode: 0o755}, busybox); err != nil {
		return nil, err
	}
	return layer.Bytes(), t.Close()
}

func add(t *tar.Writer, h tar.Header, content []byte) error {
	h.Size = int64(len(content))
	if err := t.WriteHeader(&h); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

// writeImageFile writes the image to a file.
func writeImageFile(file string, busybox []byte) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := writeImage(f, busybox); err != nil {
		f.Close()
		return fmt.Errorf("writing the image of pods: %w", err)
	}
	return f.Close()
}
