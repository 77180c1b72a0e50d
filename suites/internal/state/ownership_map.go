package state

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// OwnershipMap says whose every object is, and what each names, for one cluster.
// Lists are never null.
type OwnershipMap struct {
	// Namespaces are the shared ones.
	Namespaces []string `json:"namespaces"`
	// Owners are the tenants by name, then the platform, Kubernetes, and nobody.
	Owners []OwnerObjects `json:"owners"`
}

// OwnerObjects is what one owner has.
type OwnerObjects struct {
	// Owner is a tenant, OwnerPlatform, OwnerKubernetes, or empty for what has no
	// certain owner.
	Owner   string        `json:"owner"`
	Objects []OwnedObject `json:"objects"`
}

// OwnedObject is one object with what tells its owner.
type OwnedObject struct {
	Kind string `json:"kind"`
	// Namespace is empty for an object of the cluster.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// By is what tells the owner; Follows says that it is another object.
	By      string `json:"by"`
	Follows bool   `json:"follows"`
	// Written is by whom and when it was last written to; empty: it does not say.
	Written string `json:"written"`
	// Refers are the fields by which an object of the cluster reaches into the
	// shared namespaces.
	Refers []string `json:"refers"`
	// Uses are the objects that it names, with their owners.
	Uses []Use `json:"uses"`
	// Problem says why it has no certain owner.
	Problem string `json:"problem"`
}

// OwnersMap arranges what Owners found by owner.
func OwnersMap(list []Ownership) OwnershipMap {
	owner := map[address]string{}
	for _, o := range list {
		owner[address{o.Namespace, o.Kind, o.Name}] = o.Owner
	}
	out := OwnershipMap{Namespaces: []string{}, Owners: []OwnerObjects{}}
	groups := map[string][]OwnedObject{}
	for _, o := range list {
		if o.Namespace != "" && !slices.Contains(out.Namespaces, o.Namespace) {
			out.Namespaces = append(out.Namespaces, o.Namespace)
		}
		object := OwnedObject{
			Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, By: o.By, Follows: o.Follows, Written: o.Written,
			Refers: append([]string{}, o.Refers...), Uses: append([]Use{}, o.Uses...), Problem: o.Problem,
		}
		for i := range object.Uses {
			use := &object.Uses[i]
			use.Owner = owner[address{use.Namespace, use.Kind, use.Name}]
		}
		groups[o.Owner] = append(groups[o.Owner], object)
	}
	sort.Strings(out.Namespaces)
	names := sortedKeys(groups)
	last := []string{OwnerPlatform, OwnerKubernetes, ""}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(slices.Index(last, a), slices.Index(last, b)) })
	for _, name := range names {
		out.Owners = append(out.Owners, OwnerObjects{Owner: name, Objects: groups[name]})
	}
	return out
}

// String is the map for people: for each owner how many objects of which kinds, by
// what they are known, and what of others they name.
func (m OwnershipMap) String() string {
	width := 0
	for _, group := range m.Owners {
		width = max(width, len(group.Owner))
	}
	width = max(width, len("nobody"))
	var out strings.Builder
	for _, group := range m.Owners {
		by, kinds, uses := map[string]int{}, map[string]map[string]int{}, map[string]bool{}
		for _, object := range group.Objects {
			how := "no certain owner"
			switch {
			case object.Follows:
				how = "follow them"
			case object.By != "":
				how = object.By
			}
			if kinds[how] == nil {
				kinds[how] = map[string]int{}
			}
			by[how]++
			kinds[how][object.Kind]++
			for _, use := range object.Uses {
				if use.Owner != group.Owner {
					uses[called(use.Kind, "", use.Name)+" of "+cmp.Or(use.Owner, "nobody")] = true
				}
			}
		}
		fmt.Fprintf(&out, "%-*s  %d objects\n", width, cmp.Or(group.Owner, "nobody"), len(group.Objects))
		ways := sortedKeys(by)
		slices.SortStableFunc(ways, func(a, b string) int { return cmp.Compare(b2i(a == "follow them"), b2i(b == "follow them")) })
		for _, how := range ways {
			fmt.Fprintf(&out, "%*s  %d %s: %s\n", width, "", by[how], how, kindsCounted(kinds[how]))
		}
		if group.Owner != OwnerPlatform && group.Owner != OwnerKubernetes && len(uses) > 0 {
			fmt.Fprintf(&out, "%*s  they name %s\n", width, "", strings.Join(sortedKeys(uses), ", "))
		}
	}
	return out.String()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// kindsCounted is for example «ConfigMap, Pod 2».
func kindsCounted(kinds map[string]int) string {
	var out []string
	for _, kind := range sortedKeys(kinds) {
		if kinds[kind] == 1 {
			out = append(out, kind)
			continue
		}
		out = append(out, fmt.Sprintf("%s %d", kind, kinds[kind]))
	}
	return strings.Join(out, ", ")
}
