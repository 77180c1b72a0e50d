package live

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// mountedToken is the volume that the server gives to every pod, under a name of
// its own at each request.
var mountedToken = regexp.MustCompile(`^kube-api-access-[a-z0-9]{5}$`)

// serverSet are the fields of metadata that the server alone sets.
var serverSet = []string{"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"}

// settled is an object without what differs between two equal requests: what the
// server sets, and what it draws at random.
func settled(object *unstructured.Unstructured) *unstructured.Unstructured {
	uid := string(object.GetUID())
	plain := plain(object.Object, func(text string) string {
		switch {
		case uid != "" && text == uid:
			return "UID"
		case mountedToken.MatchString(text):
			return "kube-api-access"
		}
		return text
	})
	out := &unstructured.Unstructured{Object: plain.(map[string]any)}
	for _, field := range serverSet {
		unstructured.RemoveNestedField(out.Object, "metadata", field)
	}
	for _, field := range []string{"annotations", "labels"} {
		if all, found, _ := unstructured.NestedMap(out.Object, "metadata", field); found && len(all) == 0 {
			unstructured.RemoveNestedField(out.Object, "metadata", field)
		}
	}
	if out.GroupVersionKind().GroupKind().String() == "Service" {
		drawn(out)
	}
	return out
}

// drawn removes from a Service the addresses and ports that the server chose.
func drawn(service *unstructured.Unstructured) {
	for _, field := range []string{"clusterIP", "clusterIPs", "healthCheckNodePort"} {
		if value, _, _ := unstructured.NestedString(service.Object, "spec", field); value != "None" {
			unstructured.RemoveNestedField(service.Object, "spec", field)
		}
	}
	ports, _, _ := unstructured.NestedSlice(service.Object, "spec", "ports")
	for _, entry := range ports {
		if port, ok := entry.(map[string]any); ok {
			delete(port, "nodePort")
		}
	}
	if len(ports) > 0 {
		_ = unstructured.SetNestedSlice(service.Object, ports, "spec", "ports")
	}
}

// plain copies a value with each text in it, keys too, as spell has it.
func plain(value any, spell func(string) string) any {
	switch v := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, field := range v {
			out[key] = plain(field, spell)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, entry := range v {
			out[i] = plain(entry, spell)
		}
		return out
	case string:
		return spell(v)
	}
	return value
}

// equal says whether two settled objects are the same.
func equal(a, b *unstructured.Unstructured) bool {
	return equality.Semantic.DeepEqual(a.Object, b.Object)
}

// difference is a unified diff of two settled objects as YAML; empty when they are
// the same.
func difference(want, got *unstructured.Unstructured) string {
	if equal(want, got) {
		return ""
	}
	return "--- expected\n+++ actual\n" + unified(lines(want), lines(got))
}

func lines(object *unstructured.Unstructured) []string {
	text, err := yaml.Marshal(object.Object)
	if err != nil {
		return []string{fmt.Sprintf("cannot be written as YAML: %v", err)}
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// around is how many equal lines a diff shows beside those that differ.
const around = 3

// unified lists the lines that differ, with some of those around them.
func unified(want, got []string) string {
	type line struct {
		sign byte
		text string
	}
	var all []line
	add := func(sign byte, text string) { all = append(all, line{sign, text}) }
	// common[i][j] is the length of the longest common subsequence of what follows.
	common := make([][]int, len(want)+1)
	for i := range common {
		common[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if want[i] == got[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			add(' ', want[i])
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && common[i+1][j] >= common[i][j+1]:
			add('-', want[i])
			i++
		default:
			add('+', got[j])
			j++
		}
	}
	shown := make([]bool, len(all))
	for k, l := range all {
		if l.sign == ' ' {
			continue
		}
		for n := max(0, k-around); n <= min(len(all)-1, k+around); n++ {
			shown[n] = true
		}
		// The lines under which it stands say which field it is.
		depth := indent(l.text)
		for n := k - 1; n >= 0 && depth > 0; n-- {
			if above := indent(all[n].text); above < depth && all[n].sign == ' ' {
				shown[n], depth = true, above
			}
		}
	}
	var out strings.Builder
	for k, l := range all {
		switch {
		case shown[k]:
			out.WriteString(strings.TrimRight(string(l.sign)+l.text, " ") + "\n")
		case k > 0 && shown[k-1] && slices.Contains(shown[k:], true):
			out.WriteString("@@\n")
		}
	}
	return out.String()
}

func indent(text string) int { return len(text) - len(strings.TrimLeft(text, " -")) }
