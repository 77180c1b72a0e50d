package policy

import (
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestDifferences(t *testing.T) {
	const good = `
metadata: {name: app, labels: {a: x, b: y}}
spec: {replicas: 1, volumes: [{name: v, emptyDir: {}}], containers: [{name: c, env: [{name: A}]}]}
`
	for _, row := range []struct {
		name, manifest string
		change         func(*Case)
		want           []string
	}{
		{"nothing", good, nil, nil},
		{"a value", `
metadata: {name: app, labels: {a: x, b: y}}
spec: {replicas: 2, volumes: [{name: v, emptyDir: {}}], containers: [{name: c, env: [{name: A}]}]}
`, nil, []string{"spec.replicas"}},
		{"the name alone", `
metadata: {name: other, labels: {a: x, b: y}}
spec: {replicas: 1, volumes: [{name: v, emptyDir: {}}], containers: [{name: c, env: [{name: A}]}]}
`, nil, []string{"metadata.name"}},
		{"the name beside another", `
metadata: {name: other, labels: {a: x}}
spec: {replicas: 1, volumes: [{name: v, emptyDir: {}}], containers: [{name: c, env: [{name: A}]}]}
`, nil, []string{"metadata.labels.b"}},
		{"one thing in the place of another", `
metadata: {name: app, labels: {a: x, b: y}}
spec: {replicas: 1, volumes: [{name: v, hostPath: {path: /}}], containers: [{name: c, env: [{name: A}]}]}
`, nil, []string{"spec.volumes[0].hostPath"}},
		{"a longer list", `
metadata: {name: app, labels: {a: x, b: y}}
spec: {replicas: 1, volumes: [{name: v, emptyDir: {}}], containers: [{name: c, env: [{name: A}, {name: B}]}]}
`, nil, []string{"spec.containers[0].env"}},
		{"another form", `
metadata: {name: app, labels: none}
spec: {replicas: 1, volumes: {}, containers: [{name: c, env: [{name: A}]}]}
`, nil, []string{"metadata.labels", "spec.volumes"}},
		{"another kind", "apiVersion: a/v1\nkind: A" + good, func(c *Case) { c.Object.SetAPIVersion("b/v1"); c.Object.SetKind("B") }, []string{"the kind"}},
		{"who asks", good, func(c *Case) { c.User = "another" }, []string{"who asks"}},
		{"the groups of who asks, and for what", good, func(c *Case) { c.Groups, c.Operation = []string{"g"}, Delete }, []string{"who asks", "the operation"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			read := func(text string) Case {
				c := Case{Operation: Create, User: "someone", Object: &unstructured.Unstructured{}}
				g.Expect(yaml.Unmarshal([]byte(text), &c.Object.Object)).To(Succeed())
				return c
			}
			changed := read(row.manifest)
			if row.change != nil {
				row.change(&changed)
			}
			g.Expect(changed.Differences(read(good))).To(Equal(row.want))
		})
	}
}
