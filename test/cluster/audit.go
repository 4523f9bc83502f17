package cluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const auditPolicyFile = "audit.yaml"

// auditPolicy notes who asked for what, and whether it was allowed. The components of
// the control plane have no service accounts, but their controllers do.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  userGroups: ["system:serviceaccounts:kube-system"]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// Request is one that a service account made to the API server.
type Request struct {
	User        string // system:serviceaccount:NAMESPACE:NAME
	Verb        string // as in the rules of roles
	Group       string // "" for the core group
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	Code        int // of HTTP; 403 if it was not allowed
}

// Requests are those of all service accounts but the controllers' own, in the order of
// their answers. Options.Audit has to be set.
func (c *Cluster) Requests() ([]Request, error) {
	if !c.options.Audit {
		return nil, errors.New("reading the audit log: the cluster was started without Options.Audit")
	}
	file, err := os.Open(c.auditLog())
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer file.Close()
	var requests []Request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Verb      string
			User      struct{ Username string }
			ObjectRef struct{ APIGroup, Resource, Subresource, Namespace, Name string }
			// The one of a watch is there when it begins and again when it ends.
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		o := event.ObjectRef
		requests = append(requests, Request{
			event.User.Username, event.Verb, o.APIGroup, o.Resource, o.Subresource, o.Namespace, o.Name, event.ResponseStatus.Code,
		})
	}
	return requests, lines.Err()
}

func (c *Cluster) auditLog() string { return filepath.Join(c.Dir, logDir, "audit.log") }

func (c *Cluster) writeAuditPolicy() error {
	if err := os.WriteFile(filepath.Join(c.Dir, auditPolicyFile), []byte(auditPolicy), 0o600); err != nil {
		return fmt.Errorf("writing the audit policy: %w", err)
	}
	return nil
}
