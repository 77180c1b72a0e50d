package suites

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perTenant(check.Check{
	ID:    "TEN-008",
	Title: "the tenant's hosts answer with the tenant's files, by its own pods, and no other host does",
	Why: "users come by the host: an Ingress that leads elsewhere hands them another tenant's answers, and a host that " +
		"answers for others shows what is not its own",
	Remedy: "compare hosts, paths and backends of the Ingresses, and look into the ingress controller's log: what it " +
		"cannot read it leaves out",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/ingress/#name-based-virtual-hosting",
	Level:     check.Core,
	Needs:     []string{"Workloads", "Ingress"},
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	declaredOf(tenant, "Ingress")
	servingOf(env, tenant)
	rolledOut(ctx, env, tenant)
	guest, err := env.guest(ctx)
	Expect(err).NotTo(HaveOccurred())
	controllers, reason, err := env.ingressServices(ctx)
	Expect(err).NotTo(HaveOccurred())
	doors, missing, err := doorsOf(ctx, env, tenant, controllers)
	Expect(err).NotTo(HaveOccurred())
	if len(doors) == 0 {
		if missing == "" {
			missing = reason
		}
		Skip(notSupported + missing)
	}
	others, err := env.sweep(ctx, guest, controllers)
	Expect(err).NotTo(HaveOccurred())
	problems, err := patiently(ctx, func(ctx context.Context) ([]string, error) {
		in := state.HostsInput{Tenant: tenant.Name, Names: true}
		var err error
		if in.Pods, err = tenantsPods(ctx, env); err != nil {
			return nil, err
		}
		for name, found := range others {
			if name != tenant.Name {
				in.Others = append(in.Others, found...)
			}
		}
		for _, d := range doors {
			in.Names = in.Names && d.names
			for _, key := range sortedKeys(d.files) {
				found, err := d.knock(ctx, guest, d.host, key)
				if err != nil {
					return nil, err
				}
				in.Own = append(in.Own, found)
			}
			// The same request to a host that nobody has tells a host from a catch-all.
			nobodys, err := d.knock(ctx, guest, nobodysHost, sortedKeys(d.files)[0])
			if err != nil {
				return nil, err
			}
			in.Nobodys = append(in.Nobodys, nobodys)
		}
		return state.HostProblems(in), nil
	})
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "where the hosts of %s are not the tenant's", tenant.Name)
})

// nobodysHost is a host that no Ingress can have: the name is reserved.
const nobodysHost = "nobody.invalid"

// door is a host of a tenant and what is to be had there.
type door struct {
	host string
	// controller is where the ingress controller listens, as http://ADDRESS:PORT.
	controller string
	// files maps keys to their paths, sums to the SHA-256 of what is there.
	files, sums map[string]string
	names       bool
}

// knock asks for a file of the door at a host.
func (d door) knock(ctx context.Context, guest *visitor, host, key string) (state.Asked, error) {
	replies, err := guest.ask(ctx, request{url: d.controller + d.files[key], host: host})
	if err != nil {
		return state.Asked{}, err
	}
	return state.Asked{Host: host, File: key, SHA256: d.sums[key], Answer: replies[0].answer(replies[0].Time)}, nil
}

// doorsOf are the hosts of a tenant's declared Ingresses at which its files are to
// be had. reason says why there are none.
func doorsOf(ctx context.Context, env *environment, tenant *platform.Tenant, controllers map[string]state.ControllerService) (out []door, reason string, err error) {
	found, reason, err := servings(env.view.Config, tenant)
	if err != nil || len(found) == 0 {
		return nil, reason, err
	}
	isOwn := func(service string) bool {
		return slices.ContainsFunc(tenant.Objects, func(o platform.Object) bool { return o.GetKind() == "Service" && o.GetName() == service })
	}
	for _, object := range tenant.Objects {
		if object.GetKind() != "Ingress" {
			continue
		}
		ingress := &networkingv1.Ingress{}
		if err := convert(object, ingress); err != nil {
			return nil, "", err
		}
		class := ""
		if ingress.Spec.IngressClassName != nil {
			class = *ingress.Spec.IngressClassName
		}
		controller, known := controllers[class]
		if !known {
			reason = fmt.Sprintf("no Service is known that leads to the controller of the IngressClass %q; name it in CONFIG: "+
				"ingress: {%s: NAMESPACE/NAME:PORT}", class, class)
			continue
		}
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil || rule.Host == "" || strings.HasPrefix(rule.Host, "*") {
				continue
			}
			d := door{
				host: rule.Host, controller: serviceURL(controller.Service, controller.Port), names: true,
				files: map[string]string{}, sums: map[string]string{},
			}
			for _, s := range found {
				for key, file := range s.files {
					// Where the host leads to somebody else's Service, the tenant's files
					// are what must be there nevertheless.
					path := s.serves.At(key)
					if to := leadsTo(*rule.HTTP, path); to == s.service.GetName() || to != "" && !isOwn(to) {
						d.files[key], d.sums[key] = path, digest(file.Content)
						d.names = d.names && s.serves.Names
					}
				}
			}
			if len(d.files) > 0 {
				out = append(out, d)
			}
		}
		if len(out) == 0 {
			reason = fmt.Sprintf("no host of %s leads to the files of the service", object)
		}
	}
	return out, reason, nil
}

// leadsTo is the Service to which a rule sends a path: its longest prefix counts.
func leadsTo(rule networkingv1.HTTPIngressRuleValue, path string) (service string) {
	longest := ""
	for _, p := range rule.Paths {
		exact := p.PathType != nil && *p.PathType == networkingv1.PathTypeExact
		prefix := strings.TrimSuffix(p.Path, "/")
		matches := path == p.Path || !exact && (path == prefix || strings.HasPrefix(path, prefix+"/"))
		if matches && len(p.Path) >= len(longest) && p.Backend.Service != nil {
			longest, service = p.Path, p.Backend.Service.Name
		}
	}
	return service
}

// hosts are the answers of all tenants' hosts, asked for once.
type hosts struct {
	mu     sync.Mutex
	asked  bool
	answer map[string][]state.Asked
}

// sweep asks at each host of every tenant for the first of its files.
func (e *environment) sweep(ctx context.Context, guest *visitor, controllers map[string]state.ControllerService) (map[string][]state.Asked, error) {
	e.hosts.mu.Lock()
	defer e.hosts.mu.Unlock()
	if e.hosts.asked {
		return e.hosts.answer, nil
	}
	found := map[string][]state.Asked{}
	var mu sync.Mutex
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, tenant := range e.Tenants {
		doors, _, err := doorsOf(ctx, e, tenant, controllers)
		if err != nil {
			return nil, err
		}
		for _, d := range doors {
			group.Go(func() error {
				asked, err := d.knock(running, guest, d.host, sortedKeys(d.files)[0])
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				found[tenant.Name] = append(found[tenant.Name], asked)
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	e.hosts.asked, e.hosts.answer = true, found
	return found, nil
}

// tenantsPods maps the pods of all tenants to their tenants, by the labels that
// policies hold them to.
func tenantsPods(ctx context.Context, env *environment) (map[string]string, error) {
	out := map[string]string{}
	listed := map[string]bool{}
	for _, tenant := range env.Tenants {
		if listed[tenant.TargetNamespace] {
			continue
		}
		listed[tenant.TargetNamespace] = true
		pods := &corev1.PodList{}
		if err := env.client.List(ctx, pods, client.InNamespace(tenant.TargetNamespace)); err != nil {
			return nil, fmt.Errorf("list the pods in %s: %w", tenant.TargetNamespace, err)
		}
		for _, pod := range pods.Items {
			out[pod.Name] = pod.Labels[platform.TenantLabel]
		}
	}
	return out, nil
}

// ingressServices are the Services before the controllers of the IngressClasses:
// as CONFIG says, else what was installed with the class. reason says of those that
// are not known why.
func (e *environment) ingressServices(ctx context.Context) (found map[string]state.ControllerService, reason string, err error) {
	classes, services := &networkingv1.IngressClassList{}, &corev1.ServiceList{}
	for _, list := range []client.ObjectList{classes, services} {
		if err := e.client.List(ctx, list); err != nil {
			return nil, "", fmt.Errorf("find the ingress controllers: %w", err)
		}
	}
	found = map[string]state.ControllerService{}
	reason = "the cluster has no IngressClass"
	for _, class := range classes.Items {
		if named := e.view.Config.Ingress[class.Name]; named != "" {
			controller, err := namedService(named, services.Items)
			if err != nil {
				return nil, "", fmt.Errorf("ingress.%s in CONFIG: %w", class.Name, err)
			}
			found[class.Name] = controller
			continue
		}
		candidates := state.ControllerServices(class, services.Items)
		if len(candidates) == 1 {
			found[class.Name] = candidates[0]
			continue
		}
		var names []string
		for _, c := range candidates {
			names = append(names, c.String())
		}
		reason = fmt.Sprintf("%d Services were installed with the IngressClass %s (%s), and one leads to its controller; name it in CONFIG: ingress: {%s: NAMESPACE/NAME:PORT}",
			len(candidates), class.Name, strings.Join(names, ", "), class.Name)
	}
	return found, reason, nil
}

// namedService finds the Service that CONFIG names as NAMESPACE/NAME:PORT.
func namedService(text string, services []corev1.Service) (state.ControllerService, error) {
	name, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return state.ControllerService{}, fmt.Errorf("%s: %w", text, err)
	}
	for _, service := range services {
		if service.Namespace+"/"+service.Name == name {
			return state.ControllerService{Service: service, Port: int32(number)}, nil
		}
	}
	return state.ControllerService{}, fmt.Errorf("the cluster has no Service %s", name)
}
