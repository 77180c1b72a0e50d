package kind

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

const (
	// ingressLimit bounds the tries; a controller takes over an Ingress within a
	// second or two.
	ingressLimit = 20 * time.Second
	// requestLimit bounds one request, and bodyLimit how much of an answer is read.
	requestLimit = 5 * time.Second
	bodyLimit    = 1 << 20
	// noHost is one that no Ingress names.
	noHost = "nobody.conformance.invalid"
)

// route is what one rule of an Ingress leads to.
type route struct {
	ingress    string // NAMESPACE/NAME
	host, path string
	namespace  string
	backend    networkingv1.IngressServiceBackend
}

// target is a ready pod behind a route, and the port that it listens on.
type target struct {
	namespace, pod string
	port           int32
}

// probeIngress asks for the hosts of the Ingresses that are there. Whoever may be
// the controller is asked, by way of the API server's proxy, which keeps the host
// and reaches every Service. A cluster has the capability when such a request is
// answered by a ready pod behind its Ingress: the answer names the pod, or is the
// very one that the pod gives when it is asked itself, and another host gets a
// different one. Ingresses of ours would show nothing: a controller may heed
// certain namespaces only.
func (c *running) probeIngress(ctx context.Context) (cluster.Finding, error) {
	finding := cluster.Finding{Capability: cluster.Ingress}
	routes, err := c.routes(ctx)
	if err != nil {
		return finding, err
	}
	if len(routes) == 0 {
		finding.Evidence = "no Ingress of the cluster leads to a Service with a ready pod"
		return finding, nil
	}
	services, err := c.client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return finding, err
	}
	entrances := entrances(services.Items, routes)
	if len(entrances) == 0 {
		finding.Evidence = fmt.Sprintf("Ingress %s leads to a ready pod, but no Service of the cluster has a port for the web that a controller could stand behind", routes[0].ingress)
		return finding, nil
	}
	client, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return finding, fmt.Errorf("client of the API server: %w", err)
	}
	asker := &asker{client: client, server: c.rest.Host}
	var tried, unclear []string
	err = wait.PollUntilContextTimeout(ctx, time.Second, ingressLimit, true, func(ctx context.Context) (bool, error) {
		tried, unclear = nil, nil
		for _, r := range routes {
			for _, e := range entrances {
				verdict, evidence := asker.judge(ctx, r, e)
				switch verdict {
				case reached:
					finding.Has, finding.Evidence = true, evidence
					return true, nil
				case undecided:
					unclear = append(unclear, evidence)
				default:
					tried = append(tried, evidence)
				}
			}
		}
		return false, nil
	})
	switch {
	case err == nil:
		return finding, nil
	case ctx.Err() != nil:
		return finding, context.Cause(ctx)
	case len(unclear) > 0:
		return finding, fmt.Errorf("it cannot be decided who answers: %s", strings.Join(unclear, "; "))
	}
	finding.Evidence = fmt.Sprintf("in %s no request for the host of an Ingress was answered by a pod behind it: %s", ingressLimit, strings.Join(tried, "; "))
	return finding, nil
}

// routes lists the rules of all Ingresses that lead to a ready pod.
func (c *running) routes(ctx context.Context) ([]ingressRoute, error) {
	ingresses, err := c.client.NetworkingV1().Ingresses("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var list []ingressRoute
	for i := range ingresses.Items {
		for _, r := range rules(&ingresses.Items[i]) {
			targets, err := c.targets(ctx, r)
			if err != nil {
				return nil, err
			}
			if len(targets) > 0 {
				list = append(list, ingressRoute{route: r, targets: targets})
			}
		}
	}
	return list, nil
}

// ingressRoute is a route with its ready pods.
type ingressRoute struct {
	route
	targets []target
}

// rules lists what the rules of an Ingress lead to by a host of their own.
func rules(ingress *networkingv1.Ingress) []route {
	var list []route
	for _, rule := range ingress.Spec.Rules {
		if rule.HTTP == nil || rule.Host == "" {
			continue // any other host would be answered alike
		}
		for _, path := range rule.HTTP.Paths {
			if path.Backend.Service == nil {
				continue
			}
			list = append(list, route{
				ingress: ingress.Namespace + "/" + ingress.Name, namespace: ingress.Namespace,
				host: strings.Replace(rule.Host, "*", "conformance", 1), path: cmp.Or(path.Path, "/"), backend: *path.Backend.Service,
			})
		}
	}
	return list
}

// targets lists the ready pods behind a route.
func (c *running) targets(ctx context.Context, r route) ([]target, error) {
	service, err := c.client.CoreV1().Services(r.namespace).Get(ctx, r.backend.Name, metav1.GetOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
		return r.backend.Port.Name != "" && p.Name == r.backend.Port.Name || r.backend.Port.Name == "" && p.Port == r.backend.Port.Number
	})
	if i < 0 {
		return nil, nil
	}
	slicesOf, err := c.client.DiscoveryV1().EndpointSlices(r.namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service.Name})
	if err != nil {
		return nil, err
	}
	var list []target
	for _, s := range slicesOf.Items {
		for _, port := range s.Ports {
			if port.Port == nil || port.Name != nil && *port.Name != service.Spec.Ports[i].Name {
				continue
			}
			for _, endpoint := range s.Endpoints {
				if endpoint.TargetRef != nil && endpoint.TargetRef.Kind == "Pod" && endpoint.Conditions.Ready != nil && *endpoint.Conditions.Ready {
					list = append(list, target{namespace: r.namespace, pod: endpoint.TargetRef.Name, port: *port.Port})
				}
			}
		}
	}
	return list, nil
}

// entrance is a port of a Service that a controller may stand behind.
type entrance struct {
	namespace, service string
	port               int32
}

func (e entrance) String() string { return fmt.Sprintf("Service %s/%s", e.namespace, e.service) }

// entrances lists the Services with a port for the web that no Ingress leads to.
func entrances(services []corev1.Service, routes []ingressRoute) []entrance {
	var list []entrance
	for _, s := range services {
		behind := slices.ContainsFunc(routes, func(r ingressRoute) bool { return r.namespace == s.Namespace && r.backend.Name == s.Name })
		if behind || len(s.Spec.Selector) == 0 {
			continue
		}
		for _, port := range s.Spec.Ports {
			if port.Port == 80 || port.Name == "web" || port.Name == "http" {
				list = append(list, entrance{namespace: s.Namespace, service: s.Name, port: port.Port})
				break
			}
		}
	}
	return list
}

// asker sends requests through the API server's proxy.
type asker struct {
	client *http.Client
	server string
}

// reply is what came back.
type reply struct {
	status int
	pod    string
	body   []byte
}

func (r reply) same(other reply) bool {
	return r.status == other.status && bytes.Equal(r.body, other.body)
}

// verdict is what one route and one entrance show.
type verdict int

const (
	unreached verdict = iota
	undecided
	reached
)

// judge asks an entrance for a route's host.
func (a *asker) judge(ctx context.Context, r ingressRoute, e entrance) (verdict, string) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	asked := fmt.Sprintf("http://%s%s by way of %s", r.host, r.path, e)
	through, err := a.get(ctx, []string{"namespaces", e.namespace, "services", e.service + ":" + strconv.Itoa(int(e.port))}, r.host, r.path)
	if err != nil {
		return unreached, fmt.Sprintf("%s: %v", asked, err)
	}
	control, err := a.get(ctx, []string{"namespaces", e.namespace, "services", e.service + ":" + strconv.Itoa(int(e.port))}, noHost, r.path)
	if err != nil {
		return unreached, fmt.Sprintf("%s, with another host: %v", asked, err)
	}
	if through.same(control) {
		return unreached, fmt.Sprintf("%s: status %d, as with any host", asked, through.status)
	}
	var last error
	for _, t := range r.targets {
		if through.pod != "" && through.pod == t.pod && control.pod != t.pod {
			return reached, fmt.Sprintf("%s was answered (status %d) by pod %s/%s behind Ingress %s, another host with status %d", asked, through.status, t.namespace, t.pod, r.ingress, control.status)
		}
		own, err := a.get(ctx, []string{"namespaces", t.namespace, "pods", t.pod + ":" + strconv.Itoa(int(t.port))}, r.host, r.path)
		if err != nil {
			last = err
			continue
		}
		if own.same(through) && len(own.body) > 0 {
			return reached, fmt.Sprintf("%s was answered (status %d) as pod %s/%s behind Ingress %s itself answers, another host with status %d", asked, through.status, t.namespace, t.pod, r.ingress, control.status)
		}
	}
	if last != nil && through.status < 500 {
		return undecided, fmt.Sprintf("%s: status %d, another host %d, and no pod behind it can be asked itself: %v", asked, through.status, control.status, last)
	}
	return unreached, fmt.Sprintf("%s: status %d, which no pod behind it gives", asked, through.status)
}

// errProxy is an answer of the API server's own.
var errProxy = errors.New("the API server could not reach it")

// get sends one request through the proxy of a resource.
func (a *asker) get(ctx context.Context, resource []string, host, path string) (reply, error) {
	base, err := url.Parse(a.server)
	if err != nil {
		return reply{}, err
	}
	base.Path = "/api/v1/" + strings.Join(resource, "/") + "/proxy/" + strings.TrimPrefix(path, "/")
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String(), http.NoBody)
	if err != nil {
		return reply{}, err
	}
	request.Host = host
	response, err := a.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, bodyLimit))
	if err != nil {
		return reply{}, err
	}
	// The API server tells of its own failures as an object of the API.
	if response.StatusCode >= http.StatusInternalServerError && bytes.Contains(body, []byte(`"kind":"Status"`)) {
		return reply{}, fmt.Errorf("%w: %s", errProxy, bytes.TrimSpace(body))
	}
	return reply{status: response.StatusCode, pod: response.Header.Get("X-Pod"), body: body}, nil
}
