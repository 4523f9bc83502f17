package config

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// ConvertNFSProvisioner translates how nfs-provisioner was run to a configuration file
// that says the same. usage is where the flag -help prints.
func ConvertNFSProvisioner(m Manifest, usage io.Writer) ([]byte, error) {
	c, err := FromNFSProvisioner(m.Args, usage)
	if err != nil {
		return nil, err
	}
	text, err := Format(c)
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	head.WriteString("# As nfs-provisioner was run. To use it: berth serve --config FILE")
	if c.Standby {
		head.WriteString(" --standby")
	}
	head.WriteString("\n")
	for _, name := range addressVariables {
		old := "MY_" + name // as its first version called some of them
		switch {
		case slices.Contains(m.Env, name):
			fmt.Fprintf(&head, "# Berth needs the environment variable %s too.\n", name)
		case slices.Contains(m.Env, old):
			fmt.Fprintf(&head, "# Berth needs the environment variable %s too, as %s.\n", old, name)
		}
	}
	return append([]byte(head.String()), text...), nil
}

// addressVariables tell the server's address; see docs/configuration.md.
var addressVariables = []string{"POD_IP", "SERVICE_NAME", "POD_NAMESPACE", "NODE_NAME"}
