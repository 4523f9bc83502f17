package export

import (
	"fmt"
	"net/netip"
	"strings"
)

// Clients are the IP addresses and networks that may mount an export; to others
// it does not exist. The zero value lets everybody in. Only ParseClients makes
// another one, so that it can stand in a server's configuration as it is.
type Clients struct{ list string }

// ParseClients reads addresses and networks like 10.0.0.0/8. "*" and none at all
// stand for everybody.
func ParseClients(words []string) (Clients, error) {
	var list []string
	for _, word := range words {
		switch {
		case word == "*":
			if len(words) > 1 {
				return Clients{}, fmt.Errorf("clients: \"*\" lets everybody in, and stands alone")
			}
		case strings.Contains(word, "/"):
			network, err := netip.ParsePrefix(word)
			if err != nil {
				return Clients{}, fmt.Errorf("clients: %q is not a network like 10.0.0.0/8", word)
			}
			if network != network.Masked() {
				return Clients{}, fmt.Errorf("clients: network %s has bits behind its mask; %s is meant", word, network.Masked())
			}
			list = append(list, network.String())
		default:
			address, err := netip.ParseAddr(word)
			if err != nil || address.Zone() != "" {
				return Clients{}, fmt.Errorf("clients: %q is neither an IP address nor a network like 10.0.0.0/8", word)
			}
			list = append(list, address.String())
		}
	}
	return Clients{strings.Join(list, " ")}, nil
}

// All says whether everybody may mount.
func (c Clients) All() bool { return c.list == "" }

// Equal says whether both let in the same.
func (c Clients) Equal(other Clients) bool { return c == other }

// List gives the addresses and networks; none if everybody may mount.
func (c Clients) List() []string { return strings.Fields(c.list) }

func (c Clients) String() string {
	if c.All() {
		return "*"
	}
	return strings.ReplaceAll(c.list, " ", ",")
}
