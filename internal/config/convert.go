package config

import (
	"fmt"
	"io"
	"strings"
)

// ConvertNFSProvisioner translates how nfs-provisioner was run to a configuration file
// that says the same. usage is where the flag -help prints.
func ConvertNFSProvisioner(m Manifest, usage io.Writer) ([]byte, error) {
	c, err := FromNFSProvisioner(m.Args, usage)
	if err != nil {
		return nil, err
	}
	var notes []string
	for _, name := range addressVariables {
		old := "MY_" + name // as its first version called some of them
		if _, set := m.lookup(name); set {
			notes = append(notes, fmt.Sprintf("Berth needs the environment variable %s too.", name))
		} else if _, set := m.lookup(old); set {
			notes = append(notes, fmt.Sprintf("Berth needs the environment variable %s too, as %s.", old, name))
		}
	}
	return converted(AdoptNFSProvisioner, c, notes)
}

// addressVariables tell the server's address; see docs/configuration.md.
var addressVariables = []string{"POD_IP", "SERVICE_NAME", "POD_NAMESPACE", envNodeName}

// ConvertNFSSubdir translates how nfs-subdir-external-provisioner was run: by the
// variables of m, or else by those that env gives.
func ConvertNFSSubdir(m Manifest, env func(string) string, usage io.Writer) ([]byte, error) {
	if m.Env != nil {
		var err error
		if env, err = m.environment([]string{envProvisionerName, envNFSServer, envNFSPath, envKubeconfig, envLeaderElection}); err != nil {
			return nil, err
		}
	}
	c, err := FromNFSSubdir(m.Args, env, usage)
	if err != nil {
		return nil, err
	}
	return converted(AdoptNFSSubdir, c, []string{
		"The share has to be mounted at " + c.Pools[0].Subdir.Root + "; without the line \"root\" Berth mounts it itself.",
	})
}

// environment gives the variables of m. Those named have to be known.
func (m Manifest) environment(names []string) (func(string) string, error) {
	for _, name := range names {
		if v, set := m.lookup(name); set && v.Unknown {
			return nil, fmt.Errorf("what %s is, the manifest does not say: set it, and the other variables, in the environment of this command", name)
		}
	}
	return func(name string) string { v, _ := m.lookup(name); return v.Value }, nil
}

// converted writes c under notes on what a file cannot say.
func converted(program string, c Config, notes []string) ([]byte, error) {
	text, err := Format(c)
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	fmt.Fprintf(&head, "# As %s was run. To use it: berth serve --config FILE", program)
	if c.Standby {
		head.WriteString(" --standby")
	}
	head.WriteString("\n")
	for _, note := range notes {
		fmt.Fprintf(&head, "# %s\n", note)
	}
	return append([]byte(head.String()), text...), nil
}
