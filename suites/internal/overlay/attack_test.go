package overlay_test

import (
	"strings"
	"testing"
	"testing/fstest"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/overlay"
)

const goodAttack = `apiVersion: conformance.flux-platform/v1alpha1
kind: Overlay
id: ATK-N05
title: A Service selects the pods of all.
objects:
- as: system:serviceaccount:beetle:reconciler
  manifest:
    apiVersion: v1
    kind: Service
    metadata: {name: a, namespace: apps}
    spec: {selector: {app: x, 'a.b/tenant': ''}, ports: [{name: http, port: 80}]}
attack:
  tenant: beetle
  layer: policy
  by: selector-tenancy
  says: of your own tenant
  control: {object: 0, field: 'spec.selector.a\.b/tenant', value: beetle}
`

const goodCommit = `apiVersion: conformance.flux-platform/v1alpha1
kind: Overlay
id: ATK-F06
title: A build fetches a base.
patches:
- repository: platform
  path: clusters/dev/kustomization.yaml
  insert: {after: "resources:\n", text: "- atk-f06.yaml\n"}
attack:
  layer: build
  says: remote
  where: {kind: Kustomization, namespace: beetle, name: atk-f06}
  control: {repository: platform, path: apps/atk-f06/kustomization.yaml, replace: {old: a, new: b}}
`

const goodState = `apiVersion: conformance.flux-platform/v1alpha1
kind: Overlay
id: ATK-P04
title: A tenant writes while nobody can ask Kyverno.
alone: true
given:
- operation: patch
  manifest: {apiVersion: apps/v1, kind: Deployment, metadata: {name: k, namespace: kyverno}, spec: {replicas: 0}}
objects:
- as: system:serviceaccount:beetle:reconciler
  manifest: {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: apps}}
attack:
  layer: closed
  says: failed calling webhook
  control: {without: given}
`

const goodLink = `apiVersion: conformance.flux-platform/v1alpha1
kind: Overlay
id: ATK-F51
title: Values are a link.
links:
- {repository: developer, path: dev/beetle/config.yaml, target: ../../etc/passwd}
attack:
  layer: build
  says: no such file
  where: {kind: Kustomization, namespace: beetle, name: beetle}
  control: {without: links}
`

// folderOf is a folder of attacks that holds one.
func folderOf(t *testing.T, data string) fstest.MapFS {
	t.Helper()
	name := "attacks/ATK-N05-x"
	for _, id := range []string{"ATK-F06", "FLT-005", "ATK-P04", "ATK-F51"} {
		if strings.Contains(data, "id: "+id) {
			name = "attacks/" + id + "-x"
		}
	}
	return fstest.MapFS{name + "/" + overlay.FileName: {Data: []byte(data)}}
}

func swapped(t *testing.T, whole, old, replacement string) string {
	t.Helper()
	if strings.Count(whole, old) != 1 {
		t.Fatalf("%q stands %d times, not once", old, strings.Count(whole, old))
	}
	return strings.Replace(whole, old, replacement, 1)
}

func TestAttackRefuses(t *testing.T) {
	const control = "  control: {object: 0, field: 'spec.selector.a\\.b/tenant', value: beetle}\n"
	for _, test := range []struct{ name, whole, old, replacement, want string }{
		{"an unknown layer", goodAttack, "layer: policy", "layer: polizei", `attack.layer "polizei" is not one of rbac, policy, acl`},
		{"no reason", goodAttack, "  says: of your own tenant\n", "", "attack.says is missing: a refusal for any reason would do"},
		{"no policy", goodAttack, "  by: selector-tenancy\n", "", "attack.by is missing"},
		{"no control", goodAttack, control, "", "attack.control is missing"},
		{"a control that equals the attack", goodAttack, "value: beetle", "value: ''", "attack.control: it equals the attack"},
		{"a control of two fields", goodAttack, "field: 'spec.selector.a\\.b/tenant', value: beetle", "field: spec.selector, value: {app: y, 'a.b/tenant': beetle}", "differs from the attack in 2 fields, not in one: spec.selector.a.b/tenant, spec.selector.app"},
		{"a control by nothing", goodAttack, ", value: beetle", "", "needs one of value, remove"},
		{"a control of no object", goodAttack, "object: 0", "object: 1", "attack.control.object: there are 1 objects"},
		{"a control of a field that is not there", goodAttack, "field: 'spec.selector.a\\.b/tenant', value: beetle", "field: spec.none, remove: true", "there is no none to remove"},
		{"a control of an item that is not there", goodAttack, "spec.selector.a\\.b/tenant", "spec.ports[1].name", "there is no item [1]"},
		{"a path that is none", goodAttack, "spec.selector.a\\.b/tenant", "spec..a", "has an empty key"},
		{"the same identity", goodAttack, "field: 'spec.selector.a\\.b/tenant', value: beetle", "as: system:serviceaccount:beetle:reconciler", "it equals the attack"},
		{"a control of a commit", goodAttack, "object: 0, field: 'spec.selector.a\\.b/tenant', value: beetle", "repository: platform, path: a, replace: {old: a, new: b}", "must change what the attack is made of"},
		{"both a fault and an attack", goodAttack, "attack:\n", "expect: {fails: {BOOT-001: x}}\nattack:\n", "it needs one of expect, attack, change, layer, and there are 2"},
		{"another area", goodAttack, "ATK-N05", "FLT-005", "does not begin with ATK-"},
		{"a bring-up", goodAttack, "title:", "when: bringup\ntitle:", "is of a platform that runs"},
		{"where of objects", goodAttack, "  says:", "  where: {kind: A, namespace: b, name: c}\n  says:", "attack.where is of commits"},
		{"a victim that attacks", goodCommit, "  layer: build", "  tenant: sonar\n  victim: sonar\n  layer: build", "attack.victim sonar is who attacks"},
		{"reviews by a policy", goodAttack, "objects:\n", "reviews: [{as: a, verb: get, resource: pods}]\nobjects:\n", "reviews are judged by rbac, not by policy"},
		{"layout that nothing shows", goodCommit, "layer: build", "layer: layout", "attack.holds is missing"},
		{
			"layout of what was perhaps not built",
			strings.NewReplacer("  where: {kind: Kustomization, namespace: beetle, name: atk-f06}\n", "  holds: [{kind: ConfigMap, name: a, absent: true}]\n").Replace(goodCommit),
			"layer: build", "layer: layout", "attack.where is missing: it names the object that must have applied the commit",
		},
		{"a commit that nothing tells of", goodCommit, "  where: {kind: Kustomization, namespace: beetle, name: atk-f06}\n", "", "attack.where is missing"},
		{"half a where", goodCommit, ", namespace: beetle", "", "attack.where needs kind, namespace and name"},
		{"a control of no repository", goodCommit, "{repository: platform, path: apps", "{repository: platfrom, path: apps", "attack.control needs the repository"},
		{"an insert of nothing", goodCommit, `text: "- atk-f06.yaml\n"`, `text: ""`, "patches[0].insert needs after and text"},
		{"a state that others meet, too", goodState, "alone: true\n", "", "given: it needs alone: true"},
		{"a state of somebody's", goodState, "- operation: patch", "- as: tiger\n  operation: patch", "given[0].as: what is given is of the administrator"},
		{"a state by an unknown operation", goodState, "operation: patch", "operation: stop", `given[0].operation "stop" is not one of`},
		{"a state without its control", goodState, "{without: given}", "{object: 0, field: metadata.name, value: b}", "given: the control is the same without it"},
		{"a control without what is not there", goodState, "without: given", "without: links", "attack.control.without: the attack has no links"},
		{"a control without anything", goodState, "without: given", "without: all", `attack.control.without "all" is neither given nor links`},
		{"a control of two things", goodState, "without: given", "without: given, object: 0", "attack.control needs one of object, review, without"},
		{"a link to nothing", goodLink, ", target: ../../etc/passwd", "", "links[0].target is missing"},
		{"a link outside", goodLink, "path: dev/", "path: ../dev/", `links[0].path "../dev/beetle/config.yaml" is not a path inside the repository`},
		{"a link in no repository", goodLink, "repository: developer", "repository: values", `links[0].repository "values" is not one of`},
		{"holds without a way", goodCommit, "  says:", "  holds: [{kind: ConfigMap, name: a, field: b}]\n  says:", "attack.holds[0] needs one of contains, equals, absent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := NewWithT(t)
			_, err := overlay.Load(folderOf(t, swapped(t, test.whole, test.old, test.replacement)), "attacks", overlay.AttackRole)
			g.Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

func TestControlled(t *testing.T) {
	g := NewWithT(t)
	overlays, err := overlay.Load(folderOf(t, goodAttack), "attacks", overlay.AttackRole)
	g.Expect(err).NotTo(HaveOccurred())
	control, err := overlays[0].Controlled()
	g.Expect(err).NotTo(HaveOccurred())
	value, there := overlay.Field(control.Objects[0].Manifest.Object, `spec.selector.a\.b/tenant`)
	g.Expect(value).To(Equal("beetle"))
	g.Expect(there).To(BeTrue())
	value, _ = overlay.Field(overlays[0].Objects[0].Manifest.Object, `spec.selector.a\.b/tenant`)
	g.Expect(value).To(Equal(""), "the attack itself is as before")
	_, there = overlay.Field(control.Objects[0].Manifest.Object, "spec.ports[3].name")
	g.Expect(there).To(BeFalse())

	overlays, err = overlay.Load(folderOf(t, goodCommit), "attacks", overlay.AttackRole)
	g.Expect(err).NotTo(HaveOccurred())
	control, err = overlays[0].Controlled()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(control.Patches).To(HaveLen(2))
	other := overlays[0]
	g.Expect(other.Meets(overlays[0])).To(BeFalse(), "both only add to one file")
	other.Patches = []overlay.Patch{{Repository: "platform", Path: "clusters/dev/kustomization.yaml", Delete: true}}
	g.Expect(other.Meets(overlays[0])).To(BeTrue())
	g.Expect(overlays[0].Meets(other)).To(BeTrue())
}

func TestOneField(t *testing.T) {
	for _, test := range []struct{ name, a, b, want string }{
		{"one value", "a: 1\nb: 2\n", "a: 1\nb: 3\n", ""},
		{"the same", "a: 1\n", "a: 1\n", "it equals the attack"},
		{"the same, written otherwise", "a: 1\n", "{a: 1}\n", "it equals the attack"},
		{"two values", "a: 1\nb: 2\n", "a: 2\nb: 3\n", "in 2 fields, not in one: [0].a, [0].b"},
		{"a value more", "a: 1\n", "a: 1\nb: 2\n", ""},
		{"in the second document", "a: 1\n---\nb: 1\n", "a: 1\n---\nb: 2\n", ""},
		{"one line of what is no YAML", "/*\n!/a\n", "/*\n!/b\n", ""},
		{"two lines of what is no YAML", "x\ny\nz\n", "a\nb\nz\n", "in 2 lines, not in one"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := overlay.OneField([]byte(test.a), []byte(test.b))
			if test.want == "" {
				NewWithT(t).Expect(err).NotTo(HaveOccurred())
				return
			}
			NewWithT(t).Expect(err).To(MatchError(ContainSubstring(test.want)))
		})
	}
}

func TestControlledWithout(t *testing.T) {
	g := NewWithT(t)
	overlays, err := overlay.Load(folderOf(t, goodState), "attacks", overlay.AttackRole)
	g.Expect(err).NotTo(HaveOccurred())
	control, err := overlays[0].Controlled()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(control.Given).To(BeEmpty())
	g.Expect(control.Objects).To(Equal(overlays[0].Objects))

	overlays, err = overlay.Load(folderOf(t, goodLink), "attacks", overlay.AttackRole)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(overlays[0].Touches()).To(Equal([]string{"developer"}))
	g.Expect(overlays[0].Linked("developer")).To(Equal(map[string]string{"dev/beetle/config.yaml": "../../etc/passwd"}))
	g.Expect(overlays[0].Linked("platform")).To(BeEmpty())
	control, err = overlays[0].Controlled()
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(control.Touches()).To(BeEmpty())
	other := overlay.Overlay{Patches: []overlay.Patch{{Repository: "developer", Path: "dev/beetle/config.yaml", Delete: true}}}
	g.Expect(overlays[0].Meets(other)).To(BeTrue())
}
