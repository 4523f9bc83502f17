package app

import (
	"context"
	"net"
	"os"
	"strings"
	"time"

	"github.com/berth-storage/berth/internal/config"
)

// lookupLimit is how long a resolver may take to tell this host's full name.
const lookupLimit = 10 * time.Second

// ThisHost is the host that this process runs on.
func ThisHost() (config.Host, error) {
	name, err := os.Hostname()
	if err != nil {
		return config.Host{}, err
	}
	return config.Host{Name: strings.ToLower(name), FullName: func() (string, error) { return fullName(name) }}, nil
}

// fullName is the canonical name of a host, as hosts(5) or DNS have it; see hostname(1), -f.
func fullName(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupLimit)
	defer cancel()
	full, err := net.DefaultResolver.LookupCNAME(ctx, name)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(full, "."), nil
}
