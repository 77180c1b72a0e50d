package embedded

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// eager is how often a program that is not ready yet is asked. Waiting for the
// declared period, or for initialDelaySeconds, would only cost time.
const eager = 100 * time.Millisecond

// namedProbe is a probe with the field that declares it.
type namedProbe struct {
	field string
	probe *corev1.Probe
}

func (c *container) probes() []namedProbe {
	var list []namedProbe
	for _, p := range []namedProbe{
		{"startupProbe", c.spec.StartupProbe},
		{"readinessProbe", c.spec.ReadinessProbe},
		{"livenessProbe", c.spec.LivenessProbe},
	} {
		if p.probe != nil {
			list = append(list, p)
		}
	}
	return list
}

// declaredPort is the port that a probe asks, as the pod numbers it.
func (c *container) declaredPort(p *corev1.Probe) (int, error) {
	var port intstr.IntOrString
	switch {
	case p.HTTPGet != nil:
		port = p.HTTPGet.Port
	case p.TCPSocket != nil:
		port = p.TCPSocket.Port
	default:
		return 0, fmt.Errorf("the probe asks no port")
	}
	if port.Type == intstr.Int {
		return port.IntValue(), nil
	}
	for _, declared := range c.spec.Ports {
		if declared.Name == port.StrVal {
			return int(declared.ContainerPort), nil
		}
	}
	return 0, fmt.Errorf("no port is named %s", port.StrVal)
}

// probe watches over a program until ctx ends: it waits for the start-up probe,
// then keeps readiness up to date, and closes unhealthy when the program has to
// be restarted.
func (c *container) probe(ctx context.Context, process *process, unhealthy chan<- struct{}) {
	if startup := c.spec.StartupProbe; startup != nil {
		limit := time.Duration(startup.InitialDelaySeconds+startup.FailureThreshold*startup.PeriodSeconds) * time.Second
		deadline := process.started.Add(limit)
		for c.ask(ctx, startup) != nil {
			if time.Now().After(deadline) {
				close(unhealthy)
				return
			}
			if !pause(ctx, eager) {
				return
			}
		}
		c.setHealth(process, func() { c.started = true; c.ready = c.spec.ReadinessProbe == nil })
	}
	if c.spec.ReadinessProbe != nil {
		go c.probeReadiness(ctx, process)
	}
	if c.spec.LivenessProbe != nil {
		c.probeLiveness(ctx, process, unhealthy)
	}
}

func (c *container) probeReadiness(ctx context.Context, process *process) {
	p := c.spec.ReadinessProbe
	ready, failures, successes := false, int32(0), int32(0)
	for ctx.Err() == nil {
		if err := c.ask(ctx, p); err == nil {
			failures = 0
			successes++
		} else {
			successes = 0
			failures++
		}
		switch {
		case ctx.Err() != nil:
			return
		case !ready && successes >= p.SuccessThreshold:
			ready = true
			c.setHealth(process, func() { c.ready = true })
		case ready && failures >= p.FailureThreshold:
			ready = false
			c.setHealth(process, func() { c.ready = false })
		}
		wait := eager
		if ready {
			wait = time.Duration(p.PeriodSeconds) * time.Second
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

func (c *container) probeLiveness(ctx context.Context, process *process, unhealthy chan<- struct{}) {
	p := c.spec.LivenessProbe
	if !pause(ctx, time.Until(process.started.Add(time.Duration(p.InitialDelaySeconds)*time.Second))) {
		return
	}
	for failures := int32(0); ; {
		err := c.ask(ctx, p)
		if ctx.Err() != nil {
			return
		}
		failures++
		if err == nil {
			failures = 0
		}
		if failures >= p.FailureThreshold {
			c.pod.agent.warn(fmt.Errorf("pod %s/%s: container %s is restarted: livenessProbe: %w", c.pod.pod.Namespace, c.pod.pod.Name, c.spec.Name, err))
			close(unhealthy)
			return
		}
		if !pause(ctx, time.Duration(p.PeriodSeconds)*time.Second) {
			return
		}
	}
}

// setHealth changes what is known of the process, if it is still the one.
func (c *container) setHealth(process *process, change func()) {
	c.pod.mu.Lock()
	if c.process == process {
		change()
	}
	c.pod.mu.Unlock()
	c.pod.touch()
}

// ask asks the program once, at the port that it really listens on.
func (c *container) ask(ctx context.Context, p *corev1.Probe) error {
	declared, err := c.declaredPort(p)
	if err != nil {
		return err
	}
	c.pod.mu.Lock()
	port := c.planned.ports[declared]
	c.pod.mu.Unlock()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	timeout := max(time.Duration(p.TimeoutSeconds)*time.Second, time.Second)
	if p.TCPSocket != nil {
		conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	get := p.HTTPGet
	url := strings.ToLower(string(get.Scheme)) + "://" + address + "/" + strings.TrimPrefix(get.Path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	for _, header := range get.HTTPHeaders {
		request.Header.Add(header.Name, header.Value)
	}
	response, err := prober.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	return nil
}

// prober asks as a kubelet does: each time anew, without looking at
// certificates, and not following redirects, which count as success.
var prober = &http.Client{
	Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // As a kubelet: the certificate is the program's own.
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
