package state

import (
	"cmp"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// party is what the pods of one workload are to NetworkPolicies.
type party struct {
	tenant, namespace string
	labels            labels.Set
}

// netPolicy is a NetworkPolicy with what it selects.
type netPolicy struct {
	object   *unstructured.Unstructured
	spec     networkingv1.NetworkPolicySpec
	selector labels.Selector
}

func (p netPolicy) holds(who party, direction networkingv1.PolicyType) bool {
	return p.object.GetNamespace() == who.namespace && p.selector.Matches(who.labels) && slices.Contains(p.spec.PolicyTypes, direction)
}

// network are the parties and the policies of the shared namespaces.
type network struct {
	parties    []party
	policies   []netPolicy
	namespaces map[string]labels.Set
}

func networkOf(in FlowInput) (*network, error) {
	n := &network{namespaces: map[string]labels.Set{}}
	for _, object := range in.Namespaces {
		n.namespaces[object.GetName()] = object.GetLabels()
	}
	seen := map[string]bool{}
	for _, object := range in.Objects {
		if _, pods := podSpecs[object.GetKind()]; pods && !idle(object) {
			set, _ := podLabels(object, "")
			p := party{in.TenantOf(object), object.GetNamespace(), set}
			if id := p.tenant + "\n" + p.namespace + "\n" + p.labels.String(); !seen[id] {
				seen[id] = true
				n.parties = append(n.parties, p)
			}
		}
		if object.GetKind() != "NetworkPolicy" {
			continue
		}
		p := netPolicy{object: object}
		if err := read(object, &p.spec, "spec"); err != nil {
			return nil, err
		}
		var err error
		if p.selector, err = metav1.LabelSelectorAsSelector(&p.spec.PodSelector); err != nil {
			return nil, fmt.Errorf("read the selector of %s: %w", fullName(object), err)
		}
		if len(p.spec.PolicyTypes) == 0 {
			p.spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
			if len(p.spec.Egress) > 0 {
				p.spec.PolicyTypes = append(p.spec.PolicyTypes, networkingv1.PolicyTypeEgress)
			}
		}
		n.policies = append(n.policies, p)
	}
	return n, nil
}

// means says whether one of the peers of a policy's rule is a party; without peers
// it is anybody. Blocks of addresses are of what is outside of the cluster.
func (n *network) means(p netPolicy, peers []networkingv1.NetworkPolicyPeer, who party) bool {
	return len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if peer.IPBlock != nil {
			return false
		}
		if peer.NamespaceSelector == nil {
			if who.namespace != p.object.GetNamespace() {
				return false
			}
		} else if !matches(peer.NamespaceSelector, n.labelsOf(who.namespace)) {
			return false
		}
		return peer.PodSelector == nil || matches(peer.PodSelector, who.labels)
	})
}

func (n *network) labelsOf(namespace string) labels.Set {
	return labels.Merge(n.namespaces[namespace], labels.Set{"kubernetes.io/metadata.name": namespace})
}

func matches(selector *metav1.LabelSelector, set labels.Set) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(set)
}

// beyond are the namespaces, of those without a party, that peers mean.
func (n *network) beyond(p netPolicy, peers []networkingv1.NetworkPolicyPeer) []string {
	var out []string
	for _, name := range sortedKeys(n.namespaces) {
		if slices.ContainsFunc(n.parties, func(who party) bool { return who.namespace == name }) {
			continue
		}
		if slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
			return peer.NamespaceSelector != nil && matches(peer.NamespaceSelector, n.labelsOf(name))
		}) {
			out = append(out, name)
		}
	}
	return out
}

// held says whether any policy holds what a party gets, or sends, and which rule
// lets it have to do with another one.
func (n *network) held(who party, direction networkingv1.PolicyType, other party) (held, allowed bool) {
	for _, p := range n.policies {
		if !p.holds(who, direction) {
			continue
		}
		held = true
		for _, peers := range p.rules(direction) {
			allowed = allowed || n.means(p, peers, other)
		}
	}
	return held, allowed || !held
}

// rules are the peers of each rule.
func (p netPolicy) rules(direction networkingv1.PolicyType) [][]networkingv1.NetworkPolicyPeer {
	var out [][]networkingv1.NetworkPolicyPeer
	if direction == networkingv1.PolicyTypeIngress {
		for _, rule := range p.spec.Ingress {
			out = append(out, rule.From)
		}
		return out
	}
	for _, rule := range p.spec.Egress {
		out = append(out, rule.To)
	}
	return out
}

// policies are the paths that the rules of NetworkPolicies open: both who sends and
// who gets must be let. One path is noted for a rule and a tenant that it is about,
// with the first tenant at its other end.
func (c *flows) policies() error {
	n, err := networkOf(c.FlowInput)
	if err != nil {
		return err
	}
	for _, p := range n.policies {
		for _, direction := range p.spec.PolicyTypes {
			for i, peers := range p.rules(direction) {
				c.rule(n, p, direction, i, peers)
			}
		}
	}
	return nil
}

func (c *flows) rule(n *network, p netPolicy, direction networkingv1.PolicyType, at int, peers []networkingv1.NetworkPolicyPeer) {
	ingress := direction == networkingv1.PolicyTypeIngress
	field, back := fmt.Sprintf("spec.egress[%d].to", at), networkingv1.PolicyTypeIngress
	if ingress {
		field, back = fmt.Sprintf("spec.ingress[%d].from", at), networkingv1.PolicyTypeEgress
	}
	note := func(mine, other, format string, args ...any) {
		from, to := mine, other
		if ingress {
			from, to = other, mine
		}
		c.add(AreaNetwork, from, to, p.object, field, format, args...)
	}
	others := map[string]map[string]bool{}
	for _, mine := range n.parties {
		if !p.holds(mine, direction) {
			continue
		}
		if others[mine.tenant] == nil {
			others[mine.tenant] = map[string]bool{}
		}
		for _, other := range n.parties {
			if others[mine.tenant][other.tenant] || !n.means(p, peers, other) {
				continue
			}
			if _, allowed := n.held(other, back, mine); allowed {
				others[mine.tenant][other.tenant] = true
			}
		}
	}
	outside := n.beyond(p, peers)
	for _, mine := range sortedKeys(others) {
		var foreign []string
		for _, other := range sortedKeys(others[mine]) {
			switch other {
			case mine:
				note(mine, mine, "its own pods, declared")
			case "":
				note(mine, "", "pods that are nobody's, declared")
			default:
				foreign = append(foreign, other)
			}
		}
		if len(foreign) > 0 && mine != "" {
			more := ""
			if len(foreign) > 1 {
				more = fmt.Sprintf(" and those of %d more tenants", len(foreign)-1)
			}
			note(mine, foreign[0], "pods of %s%s, declared", foreign[0], more)
		}
		if len(outside) > 0 {
			note(mine, "", "pods in %s, declared", some(outside, 4))
		}
	}
}

// Network sums up what the NetworkPolicies of the shared namespaces declare.
// Whether anything enforces them is for the caller to say.
func Network(in FlowInput) (NetworkMap, error) {
	n, err := networkOf(in)
	if err != nil {
		return NetworkMap{}, err
	}
	out := NetworkMap{Policies: len(n.policies), Open: []string{}}
	free := func(who party, direction networkingv1.PolicyType) bool {
		return who.tenant != "" && !slices.ContainsFunc(n.policies, func(p netPolicy) bool { return p.holds(who, direction) })
	}
	senders := map[string]bool{}
	for _, who := range n.parties {
		if free(who, networkingv1.PolicyTypeEgress) {
			senders[who.tenant] = true
		}
	}
	for _, who := range n.parties {
		others := len(senders)
		if senders[who.tenant] {
			others--
		}
		if free(who, networkingv1.PolicyTypeIngress) && others > 0 && !slices.Contains(out.Open, who.tenant) {
			out.Open = append(out.Open, who.tenant)
		}
	}
	slices.SortFunc(out.Open, cmp.Compare[string])
	return out, nil
}
