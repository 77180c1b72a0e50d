package state

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// EgressTo says, of the policies of a pod's namespace, whether any holds the pod's
// outgoing traffic at all, and which one lets it reach an address outside of the
// cluster on a TCP port; empty when none does.
func EgressTo(policies []networkingv1.NetworkPolicy, pod map[string]string, address netip.Addr, port int32) (held bool, allowed string) {
	for _, policy := range policies {
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil || !selector.Matches(labels.Set(pod)) || !slices.Contains(policy.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			continue
		}
		held = true
		for _, rule := range policy.Spec.Egress {
			to := len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(peer networkingv1.NetworkPolicyPeer) bool { return covers(peer.IPBlock, address) })
			if to && opens(rule.Ports, port) {
				allowed = policy.Name
			}
		}
	}
	return held, allowed
}

func covers(block *networkingv1.IPBlock, address netip.Addr) bool {
	within := func(text string) bool {
		prefix, err := netip.ParsePrefix(text)
		return err == nil && prefix.Contains(address)
	}
	return block != nil && within(block.CIDR) && !slices.ContainsFunc(block.Except, within)
}

func opens(ports []networkingv1.NetworkPolicyPort, port int32) bool {
	return len(ports) == 0 || slices.ContainsFunc(ports, func(p networkingv1.NetworkPolicyPort) bool {
		switch {
		case p.Protocol != nil && *p.Protocol != corev1.ProtocolTCP:
			return false
		case p.Port == nil:
			return true
		case p.EndPort != nil:
			return p.Port.IntVal <= port && port <= *p.EndPort
		}
		return p.Port.IntVal == port // a name is one of a pod's
	})
}

// Reach is one attempt to reach something over the network.
type Reach struct {
	// From and To are said in failures.
	From, To string
	// Allowed says whether it must be possible.
	Allowed bool
	// Answered says whether anybody answered, whatever the answer; What is what
	// came, or the error.
	Answered bool
	What     string
	// Control is an attempt that differs in one thing and must succeed, so that a
	// refusal is one: without it nobody could tell it from a service that is down.
	Control *Reach
}

// ReachProblems says which attempts have not ended as they must, and which of them
// show nothing, their control having failed.
func ReachProblems(attempts []Reach) (problems, undecided []string) {
	for _, a := range attempts {
		switch {
		case a.Allowed && !a.Answered:
			problems = append(problems, a.From+" does not reach "+a.To+": "+a.What)
		case !a.Allowed && a.Answered:
			problems = append(problems, a.From+" reaches "+a.To+": "+a.What)
		case !a.Allowed && a.Control != nil && !a.Control.Answered:
			undecided = append(undecided, a.From+" does not reach "+a.To+", and neither does "+a.Control.From+", which must: "+a.Control.What)
		}
	}
	return problems, undecided
}

// ControllerServices finds the Services that stand before the controller of an
// IngressClass: those that were installed with the class (by the same Helm
// release, else under the same instance, else by the same Flux object) and listen
// where browsers ask, each with that port.
func ControllerServices(class networkingv1.IngressClass, services []corev1.Service) []ControllerService {
	for _, same := range []func(a, b metav1.ObjectMeta) bool{sameRelease, sameInstance, sameApplier} {
		var out []ControllerService
		for _, service := range services {
			if !same(class.ObjectMeta, service.ObjectMeta) || len(service.Spec.Selector) == 0 {
				continue
			}
			if port, ok := webPort(service); ok {
				out = append(out, ControllerService{service, port})
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// ControllerService is the Service of an ingress controller.
type ControllerService struct {
	Service corev1.Service
	Port    int32
}

// String is NAMESPACE/NAME:PORT, the form of CONFIG.
func (c ControllerService) String() string {
	return fmt.Sprintf("%s/%s:%d", c.Service.Namespace, c.Service.Name, c.Port)
}

func sameRelease(a, b metav1.ObjectMeta) bool {
	const name, namespace = "meta.helm.sh/release-name", "meta.helm.sh/release-namespace"
	return a.Annotations[name] != "" && a.Annotations[name] == b.Annotations[name] && a.Annotations[namespace] == b.Annotations[namespace]
}

func sameInstance(a, b metav1.ObjectMeta) bool {
	const instance, name = "app.kubernetes.io/instance", "app.kubernetes.io/name"
	return a.Labels[instance] != "" && a.Labels[instance] == b.Labels[instance] && a.Labels[name] == b.Labels[name]
}

func sameApplier(a, b metav1.ObjectMeta) bool {
	by := applierOf(a.Labels)
	return by != "" && by == applierOf(b.Labels)
}

// WebPort is the port of a Service at which it speaks HTTP: by its name, else 80,
// else the only one of TCP.
func WebPort(service corev1.Service) (int32, bool) {
	if port, ok := webPort(service); ok {
		return port, true
	}
	ports := tcp(service)
	if len(ports) != 1 {
		return 0, false
	}
	return ports[0].Port, true
}

func webPort(service corev1.Service) (int32, bool) {
	ports := tcp(service)
	for _, is := range []func(corev1.ServicePort) bool{
		func(p corev1.ServicePort) bool { return p.AppProtocol != nil && *p.AppProtocol == "http" },
		func(p corev1.ServicePort) bool { return p.Name == "http" || p.Name == "web" },
		func(p corev1.ServicePort) bool { return p.Port == 80 },
	} {
		if i := slices.IndexFunc(ports, is); i >= 0 {
			return ports[i].Port, true
		}
	}
	return 0, false
}

func tcp(service corev1.Service) []corev1.ServicePort {
	return keep(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Protocol == "" || p.Protocol == corev1.ProtocolTCP })
}
