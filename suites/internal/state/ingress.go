package state

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// IngressInput is what IngressProblems concludes from.
type IngressInput struct {
	Ingress networkingv1.Ingress
	// Services are the tenant's, by name.
	Services map[string]corev1.Service
	// Others are all Ingresses of the cluster that are not the tenant's.
	Others []networkingv1.Ingress
	// Classes are all of the cluster.
	Classes []networkingv1.IngressClass
	// TenantLabel is the label that names the tenant of an Ingress.
	TenantLabel string
}

// defaultClass marks the class of Ingresses that name none.
const defaultClass = "ingressclass.kubernetes.io/is-default-class"

// IngressProblems says where an Ingress does not lead from a host that is the
// tenant's alone to a port of the tenant's Service.
func IngressProblems(in IngressInput) []string {
	out := in.class()
	spec := in.Ingress.Spec
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		out = append(out, "it has no rule")
	}
	if spec.DefaultBackend != nil {
		out = append(out, "its default backend takes the requests for every host that nobody claims")
		out = append(out, in.backend("spec.defaultBackend", *spec.DefaultBackend)...)
	}
	for i, rule := range spec.Rules {
		field := fmt.Sprintf("spec.rules[%d]", i)
		if rule.Host == "" {
			out = append(out, field+" names no host: it takes the requests for every host")
		} else {
			out = append(out, in.claimed(field, rule.Host)...)
		}
		if rule.HTTP == nil || len(rule.HTTP.Paths) == 0 {
			out = append(out, fmt.Sprintf("%s leads %s nowhere", field, rule.Host))
			continue
		}
		for j, path := range rule.HTTP.Paths {
			out = append(out, in.backend(fmt.Sprintf("%s.http.paths[%d]", field, j), path.Backend)...)
		}
	}
	sort.Strings(out)
	return out
}

// class says whether somebody serves the Ingress.
func (in IngressInput) class() []string {
	name := deref(in.Ingress.Spec.IngressClassName)
	if _, old := in.Ingress.Annotations["kubernetes.io/ingress.class"]; name == "" && old {
		return nil // the older form, which needs no class to exist
	}
	served := slices.ContainsFunc(in.Classes, func(c networkingv1.IngressClass) bool {
		return c.Name == name || name == "" && c.Annotations[defaultClass] == "true"
	})
	switch {
	case served:
		return nil
	case name == "":
		return []string{"it names no class, and the cluster has no default one: nothing serves it"}
	}
	return []string{fmt.Sprintf("its class %s does not exist: nothing serves it", name)}
}

func (in IngressInput) backend(field string, backend networkingv1.IngressBackend) []string {
	if backend.Service == nil {
		return []string{field + " leads to no Service"}
	}
	service, ok := in.Services[backend.Service.Name]
	if !ok {
		return []string{fmt.Sprintf("%s leads to Service %s, which is none of the tenant's", field, backend.Service.Name)}
	}
	port := backend.Service.Port
	if !slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool {
		return port.Name != "" && p.Name == port.Name || port.Name == "" && p.Port == port.Number
	}) {
		text := port.Name
		if text == "" {
			text = fmt.Sprint(port.Number)
		}
		return []string{fmt.Sprintf("%s leads to the port %s, which Service %s does not have", field, text, service.Name)}
	}
	return nil
}

// claimed says who else takes the requests for a host: by its name, or, if that
// is another tenant, by a pattern that it falls under.
func (in IngressInput) claimed(field, host string) []string {
	var out []string
	for _, other := range in.Others {
		for _, rule := range other.Spec.Rules {
			tenant := other.Labels[in.TenantLabel]
			if sameHost(rule.Host, host) || tenant != "" && under(host, rule.Host) {
				out = append(out, fmt.Sprintf("%s has the host %s, which Ingress %s/%s of %q claims as %s", field, host, other.Namespace, other.Name, tenant, rule.Host))
			}
		}
	}
	return out
}

func sameHost(a, b string) bool { return strings.EqualFold(a, b) }

// under says whether a host falls under a pattern of the form *.DOMAIN, which
// stands for one more name in front of the domain.
func under(host, pattern string) bool {
	domain, wildcard := strings.CutPrefix(strings.ToLower(pattern), "*.")
	_, rest, dotted := strings.Cut(strings.ToLower(host), ".")
	return wildcard && dotted && rest == domain
}
