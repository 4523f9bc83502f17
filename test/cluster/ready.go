package cluster

import (
	"context"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

const (
	// readyTimeout is for a slow machine under load; some seconds are usual.
	readyTimeout = 3 * time.Minute
	// requestTimeout is for one question whether a component is ready.
	requestTimeout = 5 * time.Second
)

// writeFiles writes keys, certificates, kubeconfigs and the kubectl script.
// Certificates are new for each start, so they do not expire in a folder that
// is kept. Logs of the start before are removed.
func (c *Cluster) writeFiles() error {
	if err := os.RemoveAll(filepath.Join(c.Dir, logDir)); err != nil {
		return fmt.Errorf("removing old logs: %w", err)
	}
	for _, name := range []string{logDir, pkiDir} {
		if err := os.MkdirAll(filepath.Join(c.Dir, name), 0o700); err != nil {
			return fmt.Errorf("making a folder of the cluster: %w", err)
		}
	}
	if err := ensureServiceAccountKey(c.pki("sa.key")); err != nil {
		return err
	}
	var err error
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	if err := os.WriteFile(c.pki("ca.crt"), c.authority.pem, 0o600); err != nil {
		return fmt.Errorf("writing the certificate authority: %w", err)
	}
	for name, subject := range map[string]pkix.Name{
		"apiserver":      {CommonName: "apiserver"},
		"etcd":           {CommonName: "etcd"},
		"kubelet-client": {CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}},
	} {
		pair, err := c.authority.sign(subject)
		if err != nil {
			return err
		}
		if err := pair.write(filepath.Join(c.Dir, pkiDir), name); err != nil {
			return err
		}
	}
	if err := c.writeKubeconfigs(); err != nil {
		return err
	}
	if c.options.Audit {
		if err := c.writeAuditPolicy(); err != nil {
			return err
		}
	}
	return c.writeKubectl()
}

// writeKubeconfigs makes the clients of the API server: the administrator and
// the components, which get their rights from the built-in roles of their
// names.
func (c *Cluster) writeKubeconfigs() error {
	for _, component := range []string{controllerManager, scheduler} {
		client, err := c.authority.sign(pkix.Name{CommonName: "system:" + component})
		if err != nil {
			return err
		}
		if err := c.writeKubeconfig(c.pki(component+".kubeconfig"), component, client); err != nil {
			return err
		}
	}
	admin, err := c.authority.sign(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	if err != nil {
		return err
	}
	if err := c.writeKubeconfig(c.Kubeconfig(), "admin", admin); err != nil {
		return err
	}
	config, err := c.authority.clientConfig(admin)
	if err != nil {
		return err
	}
	c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: config}, Timeout: requestTimeout}
	return nil
}

// await waits until the probe shows that the component is ready. It gives up
// when any component ends.
func (c *Cluster) await(ctx context.Context, component string, probe func(context.Context) error) error {
	// An open connection would make a later stop of the API server slower.
	defer c.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		failed := probe(ctx)
		if failed == nil {
			return nil
		}
		if err := c.ended(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return fmt.Errorf("interrupted while %s was not ready yet: %w", component, ctx.Err())
			}
			log := c.processes[component].log
			return fmt.Errorf("%s is not ready (%w): %w; the end of its log %s:\n%s", component, ctx.Err(), failed, log, logTail(log))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// apiServerReady is nil if the API server says that it is ready.
func (c *Cluster) apiServerReady(ctx context.Context) error {
	_, err := c.get(ctx, "/readyz")
	return err
}

// controllersWork is nil if the controllers made in the namespace default what
// a pod cannot do without. The account may be an old one, but the certificate
// authority is new with each start.
func (c *Cluster) controllersWork(ctx context.Context) error {
	const namespace = "/api/v1/namespaces/default"
	if _, err := c.get(ctx, namespace+"/serviceaccounts/default"); err != nil {
		return err
	}
	body, err := c.get(ctx, namespace+"/configmaps/kube-root-ca.crt")
	if err != nil {
		return err
	}
	var configMap struct {
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal(body, &configMap); err != nil {
		return fmt.Errorf("reading the ConfigMap kube-root-ca.crt: %w", err)
	}
	if configMap.Data["ca.crt"] != string(c.authority.pem) {
		return errors.New("the ConfigMap kube-root-ca.crt is that of the start before")
	}
	return nil
}

// get asks the API server for path and fails unless it answers 200.
func (c *Cluster) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Server()+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the API server: %w", err)
	}
	answer, err := c.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("asking the API server: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the API server answers %s: %s", answer.Status, body)
	}
	return body, nil
}
