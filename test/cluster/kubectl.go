package cluster

import (
	"bytes"
	"context"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/berth-storage/berth/test/tied"
)

// Kubectl runs kubectl as the cluster's administrator and returns its standard
// output. If kubectl fails, the error has its standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) ([]byte, error) {
	return c.kubectl(ctx, nil, args)
}

// KubectlApply applies the manifest, YAML or JSON, with "kubectl apply" and
// more of its flags, if given.
func (c *Cluster) KubectlApply(ctx context.Context, manifest []byte, flags ...string) ([]byte, error) {
	return c.kubectl(ctx, manifest, append([]string{"apply", "-f", "-"}, flags...))
}

// kubectl runs kubectl with the given standard input.
func (c *Cluster) kubectl(ctx context.Context, stdin []byte, args []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Binary, append([]string{"kubectl"}, args...)...)
	// The cache is the cluster's own: the user's one is kept by address, and
	// another cluster may have had the same.
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "KUBECACHEDIR="+filepath.Join(c.Dir, kubectlCacheDir))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := tied.Run(cmd); err != nil {
		return stdout.Bytes(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// writeKubectl writes the script that is kubectl for this cluster.
func (c *Cluster) writeKubectl() error {
	script := "#!/bin/sh\n" +
		"export KUBECONFIG=" + shellQuote(c.Kubeconfig()) + "\n" +
		"export KUBECACHEDIR=" + shellQuote(filepath.Join(c.Dir, kubectlCacheDir)) + "\n" +
		"exec " + shellQuote(c.Binary) + " kubectl \"$@\"\n"
	if err := os.WriteFile(filepath.Join(c.Dir, kubectlFile), []byte(script), 0o755); err != nil {
		return fmt.Errorf("writing the kubectl script: %w", err)
	}
	return nil
}

// shellQuote makes one word of the shell of any text.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// ClientKubeconfig returns a kubeconfig for a new client with the name of a user and
// of his groups, which are what his rights depend on. To him the API server has the
// URL server: something there passes connections on to it. It may be used as long
// as the cluster runs.
func (c *Cluster) ClientKubeconfig(user string, groups []string, server string) ([]byte, error) {
	client, err := c.authority.sign(pkix.Name{CommonName: user, Organization: groups})
	if err != nil {
		return nil, err
	}
	return c.kubeconfig(user, client, server), nil
}

// writeKubeconfig writes a kubeconfig for the client certificate.
func (c *Cluster) writeKubeconfig(path, user string, client pair) error {
	if err := os.WriteFile(path, c.kubeconfig(user, client, c.Server()), 0o600); err != nil {
		return fmt.Errorf("writing a kubeconfig: %w", err)
	}
	return nil
}

// kubeconfig returns a kubeconfig for the client certificate. It is complete in
// itself, so that it may be copied. It names one of the names in the server's
// certificate, which is not for any address that the server may have to the client.
func (c *Cluster) kubeconfig(user string, client pair, server string) []byte {
	base64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: berth
  cluster:
    server: %s
    tls-server-name: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: berth
  context:
    cluster: berth
    user: %s
current-context: berth
`, server, serviceNames[0], base64(c.authority.pem), user, base64(client.certificate), base64(client.key), user)
}
