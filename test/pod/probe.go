package pod

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// prober follows one probe of a container.
type prober struct {
	probe    *v1.Probe
	url      string
	next     time.Time
	failures int
	failed   bool // as often in a row as the manifest says
	passed   bool // the last time
}

// newProber makes one for a probe; without a probe all is always well.
func newProber(p *v1.Probe, c v1.Container, ip string) (*prober, error) {
	if p == nil {
		return &prober{passed: true}, nil
	}
	if p.HTTPGet == nil {
		return nil, fmt.Errorf("container %s: only httpGet probes are done here", c.Name)
	}
	port := p.HTTPGet.Port.IntValue()
	if p.HTTPGet.Port.Type == intstr.String {
		for _, named := range c.Ports {
			if named.Name == p.HTTPGet.Port.StrVal {
				port = int(named.ContainerPort)
			}
		}
	}
	if port == 0 {
		return nil, fmt.Errorf("container %s: no port %s", c.Name, p.HTTPGet.Port.String())
	}
	url := "http://" + net.JoinHostPort(ip, strconv.Itoa(port)) + p.HTTPGet.Path
	return &prober{probe: p, url: url, next: time.Now().Add(time.Duration(p.InitialDelaySeconds) * time.Second)}, nil
}

// tick probes if it is time to.
func (p *prober) tick(ctx context.Context) {
	if p.probe == nil || time.Now().Before(p.next) {
		return
	}
	p.next = time.Now().Add(time.Duration(p.probe.PeriodSeconds) * time.Second)
	p.passed = p.get(ctx) == nil
	if p.passed {
		p.failures = 0
		return
	}
	p.failures++
	p.failed = p.failures >= int(p.probe.FailureThreshold)
}

// get passes with any status from 200 to 399, as the kubelet has it.
func (p *prober) get(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(p.probe.TimeoutSeconds)*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, http.NoBody)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode < http.StatusOK || response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", p.url, response.Status)
	}
	return nil
}
