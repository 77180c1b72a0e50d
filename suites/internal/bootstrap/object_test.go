package bootstrap

import (
	"testing"
	"time"

	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// decoded is an object from YAML.
func decoded(t testing.TB, text string) *unstructured.Unstructured {
	t.Helper()
	out := &unstructured.Unstructured{}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	// As the API server's answers are decoded: whole numbers are integers.
	if err := json.Unmarshal(data, &out.Object); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWaitsFor(t *testing.T) {
	for _, test := range []struct {
		name, kind, spec string
		want             []Ref
	}{
		{"a repository alone", "GitRepository", "spec: {url: https://github.com/a/b}", nil},
		{
			"included repositories", "GitRepository", "spec: {include: [{repository: {name: developer}, fromPath: a}, {repository: {name: shared}}, {fromPath: b}]}",
			[]Ref{{"GitRepository", "beetle", "developer"}, {"GitRepository", "beetle", "shared"}},
		},
		{
			"two folders of one repository", "GitRepository", "spec: {include: [{repository: {name: developer}, fromPath: a}, {repository: {name: developer}, fromPath: b}]}",
			[]Ref{{"GitRepository", "beetle", "developer"}},
		},
		{"a chart of a repository", "HelmChart", "spec: {sourceRef: {kind: HelmRepository, name: charts}}", []Ref{{"HelmRepository", "beetle", "charts"}}},
		{"a chart in Git", "HelmChart", "spec: {sourceRef: {kind: GitRepository, name: charts}}", []Ref{{"GitRepository", "beetle", "charts"}}},
		{
			"dependencies, then the source", "Kustomization",
			"spec: {dependsOn: [{name: tenants, namespace: flux-system}, {name: first}], sourceRef: {kind: OCIRepository, name: app, namespace: shared}}",
			[]Ref{{"Kustomization", "flux-system", "tenants"}, {"Kustomization", "beetle", "first"}, {"OCIRepository", "shared", "app"}},
		},
		{"a bucket", "Kustomization", "spec: {sourceRef: {kind: Bucket, name: app}}", []Ref{{"Bucket", "beetle", "app"}}},
		{
			"a release of a chart that is not made yet", "HelmRelease",
			"spec: {dependsOn: [{name: first}], chart: {spec: {chart: app, sourceRef: {kind: HelmRepository, name: charts, namespace: shared}}}}",
			[]Ref{{"HelmRelease", "beetle", "first"}, {"HelmRepository", "shared", "charts"}},
		},
		{
			"a release of a chart", "HelmRelease",
			"spec: {chart: {spec: {chart: app, sourceRef: {name: charts}}}}\nstatus: {helmChart: shared/beetle-app}",
			[]Ref{{"HelmRepository", "beetle", "charts"}, {"HelmChart", "shared", "beetle-app"}},
		},
		{"a release of an artifact", "HelmRelease", "spec: {chartRef: {kind: OCIRepository, name: app}}", []Ref{{"OCIRepository", "beetle", "app"}}},
		{"a release of a chart object", "HelmRelease", "spec: {chartRef: {kind: HelmChart, name: app, namespace: shared}}", []Ref{{"HelmChart", "shared", "app"}}},
		{"what has no dependency", "Bucket", "spec: {bucketName: a}", nil},
		{"what is malformed", "Kustomization", "spec: {dependsOn: first, sourceRef: [a]}", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			live := decoded(t, "metadata: {name: app, namespace: beetle}\n"+test.spec)
			NewWithT(t).Expect(waitsFor(test.kind, live)).To(Equal(test.want))
		})
	}
}

func TestRead(t *testing.T) {
	g := NewWithT(t)
	o := read("Kustomization", decoded(t, `metadata: {name: app, namespace: beetle, generation: 3}
spec: {suspend: true}
status:
  observedGeneration: 2
  lastAttemptedRevision: main@sha1:1
  lastHandledReconcileAt: token
  conditions:
  - {type: Ready, status: "False", reason: BuildFailed, message: no such file, lastTransitionTime: "2026-01-02T03:04:05Z"}
  - {type: Stalled, status: "True"}
  - {type: Reconciling, status: "False"}
`))
	g.Expect(o.String()).To(Equal("Kustomization beetle/app"))
	g.Expect(o.Generation).To(BeEquivalentTo(3))
	g.Expect(o.Observed).To(BeEquivalentTo(2))
	g.Expect([]string{o.Ready, o.Reason, o.Message, o.Revision, o.Handled}).To(Equal([]string{"False", "BuildFailed", "no such file", "main@sha1:1", "token"}))
	g.Expect(o.Since).To(Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)))
	g.Expect([]bool{o.Suspended, o.Stalled, o.Reconciling, o.Current()}).To(Equal([]bool{true, true, false, false}))

	source := read("GitRepository", decoded(t, `metadata: {name: app, namespace: beetle, generation: 1}
spec: {url: https://github.com/a/b}
status: {observedGeneration: 1, artifact: {revision: main@sha1:2, digest: sha256:3}, conditions: [{type: Ready, status: "True"}]}
`))
	g.Expect([]string{source.URL, source.Revision, source.Digest}).To(Equal([]string{"https://github.com/a/b", "main@sha1:2", "sha256:3"}))
	g.Expect(source.Current()).To(BeTrue())
	source.Generation = 2
	g.Expect(source.Current()).To(BeFalse(), "the status speaks of the generation before")

	chart := read("HelmChart", decoded(t, "metadata: {name: a, namespace: b}\nspec: {chart: reporter, version: 3.9.1}"))
	g.Expect(chart.Chart).To(Equal("reporter 3.9.1"))

	address := read("HelmRepository", decoded(t, "metadata: {name: a, namespace: b, generation: 1}\nspec: {type: oci, url: oci://ghcr.io/a}"))
	g.Expect(address.Current()).To(BeTrue(), "a Helm repository of type oci has no status")
	plain := read("HelmRepository", decoded(t, "metadata: {name: a, namespace: b, generation: 1}\nspec: {url: https://charts.example}"))
	g.Expect(plain.Current()).To(BeFalse())
}

func TestChain(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ready := Object{Ref: Ref{"GitRepository", "flux-system", "flux-system"}, Ready: "True"}
	failed := Object{
		Ref: Ref{"Kustomization", "flux-system", "crds"}, Ready: "False", Reason: "BuildFailed", Message: "no such file",
		Since: now.Add(-90 * time.Second), WaitsFor: []Ref{ready.Ref},
	}
	waiting := Object{Ref: Ref{"Kustomization", "flux-system", "tenants"}, Ready: "False", Reason: "DependencyNotReady", Message: "dependency", WaitsFor: []Ref{failed.Ref, ready.Ref}}
	lost := Object{Ref: Ref{"Kustomization", "beetle", "app"}, WaitsFor: []Ref{{"GitRepository", "beetle", "platform"}}}
	suspended := Object{Ref: Ref{"HelmRelease", "kyverno", "kyverno"}, Suspended: true}
	chart := Object{Ref: Ref{"HelmChart", "kyverno", "a"}, Ready: "False", Reason: "InvalidChartReference", Message: "no chart name found", Chart: "reporter 3.9.1"}
	for _, test := range []struct {
		name    string
		objects []Object
		want    []string
	}{
		{"a chart says what it asks for", []Object{chart}, []string{
			"HelmChart kyverno/a is not ready (InvalidChartReference): no chart name found; the chart that it asks for is reporter 3.9.1",
		}},
		{"all is ready", []Object{ready}, []string{}},
		{"what fails by itself comes first", []Object{waiting, ready, failed, lost, suspended}, []string{
			"Kustomization flux-system/crds is not ready (BuildFailed, since 1m30s): no such file",
			"Kustomization beetle/app has no status yet; waits for GitRepository beetle/platform, which does not exist",
			"HelmRelease kyverno/kyverno is suspended",
			"Kustomization flux-system/tenants is not ready (DependencyNotReady): dependency; waits for Kustomization flux-system/crds",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			NewWithT(t).Expect(Chain(test.objects, now)).To(Equal(test.want))
		})
	}
}
