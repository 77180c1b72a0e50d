package bringup

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	helmv2 "github.com/fluxcd/helm-controller/api/v2"
	"golang.org/x/sync/errgroup"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	appsv1 "k8s.io/api/apps/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/component"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/progress"
	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// BenchName is the name of the bench's one cluster, and its environment in the
// progress.
const BenchName = "bench"

// CLIEvent is the kind of the event whose message is the program that judges policies
// offline. It comes long before all is ready.
const CLIEvent = "cli"

// policyCLI is the component that judges policies offline.
const policyCLI = "kyverno-cli"

// phaseKyverno is the installation of Kyverno on the bench.
const phaseKyverno = "kyverno"

// Kyverno's module, and what of it the bench takes.
const (
	kyvernoModule    = "github.com/kyverno/kyverno"
	kyvernoChart     = "charts/kyverno"
	kyvernoCRDs      = "config/crds"
	kyvernoNamespace = "kyverno"
)

// policyEngine are the components of Kyverno that run on the bench: what reports and
// cleans up says nothing of a policy.
var policyEngine = []string{"kyvernopre", "kyverno", "background-controller"}

// benchEnviron has the components that answer collect their garbage less often: each
// request, and each policy that is compiled, leaves much of it, and little that stays.
var benchEnviron = map[string][]string{"kube-apiserver": {"GOGC=400"}, "kyverno": {"GOGC=400"}}

//go:embed bench.yaml
var benchValues []byte

// BenchState is what is known of a bench; it is the payload of its session file.
type BenchState struct {
	Environment EnvironmentState      `json:"environment"`
	Components  []component.Component `json:"components"`
	// StartedAt is when the supervisor began.
	StartedAt time.Time `json:"startedAt"`
}

// Bench brings one embedded cluster up with Kyverno and nothing else, tells that it
// is ready, keeps it until ctx ends, and takes it down: the session on which
// policies are judged. It is what the supervisor does; assets holds what the program
// ships.
func Bench(assets fs.FS) session.RunFunc {
	return func(ctx context.Context, s *session.Session, emit func(session.Event)) error {
		b := &bench{bringUp: &bringUp{assets: assets, config: platform.DefaultConfig(), session: s, emit: emit}}
		b.state.StartedAt = time.Now()
		ground := &embeddedGround{bringUp: b.bringUp}
		b.ground = ground
		err := b.up(ctx, ground)
		if err == nil {
			emit(session.Event{Kind: session.KindReady})
			<-ctx.Done()
		}
		// The clean-up has a context of its own: that of the session has ended.
		return errors.Join(err, b.down(context.WithoutCancel(ctx)))
	}
}

// bench is a bring-up without a platform.
type bench struct {
	*bringUp
}

func (b *bench) up(ctx context.Context, ground *embeddedGround) error {
	if err := b.openStore(); err != nil {
		return err
	}
	if err := b.phase("", phaseComponents, func() error { return b.components(ctx, ground) }); err != nil {
		return err
	}
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.stop = stop
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	b.fail = fail
	group, both := errgroup.WithContext(running)
	var c cluster.Cluster
	var brought kyvernoObjects
	group.Go(func() (err error) {
		brought, err = b.kyverno(both)
		return err
	})
	group.Go(func() error {
		return b.phase(BenchName, phaseCluster, func() (err error) {
			c, err = b.cluster(both, BenchName, nil, benchEnviron)
			return err
		})
	})
	if err := group.Wait(); err != nil {
		return err
	}
	state := BenchState{
		Environment: EnvironmentState{
			Name: BenchName, Kubeconfig: c.Kubeconfig(),
			Report: filepath.Join(b.session.Dir(), "clusters", BenchName, "report.json"),
		},
		Components: b.state.Components, StartedAt: b.state.StartedAt,
	}
	b.writers.Add(1)
	go func() {
		defer b.writers.Done()
		b.keepReport(writing, c, state.Environment.Report)
	}()
	err := b.phase(BenchName, phaseKyverno, func() error { return b.install(running, c, brought) })
	if err != nil {
		if cause := context.Cause(running); errors.Is(cause, component.ErrNotPinned) {
			return cause
		}
		return err
	}
	if err := b.writeReport(ctx, c, state.Environment.Report); err != nil {
		return err
	}
	return b.session.WriteState(state)
}

// components has ready what the cluster and Kyverno are made of, and the CLI.
func (b *bench) components(ctx context.Context, ground *embeddedGround) error {
	var requests []component.Request
	for _, name := range slices.Concat(controlPlane, policyEngine, []string{policyCLI}) {
		requests = append(requests, component.Request{Name: name})
	}
	found, err := b.store.Resolve(ctx, requests)
	if err != nil {
		return err
	}
	ground.binaries = map[string]string{}
	for _, c := range found {
		ground.binaries[c.Name] = c.Path
	}
	b.state.Components = found
	b.emit(session.Event{Kind: CLIEvent, Message: ground.binaries[policyCLI]})
	return nil
}

// kyvernoObjects are what installs Kyverno.
type kyvernoObjects struct {
	definitions, release []*unstructured.Unstructured
}

// kyverno renders Kyverno's pinned chart with the bench's values.
func (b *bench) kyverno(ctx context.Context) (kyvernoObjects, error) {
	var out kyvernoObjects
	module, err := b.store.Module(ctx, kyvernoModule, "")
	if err != nil {
		return out, err
	}
	if out.definitions, err = readFolder(filepath.Join(module, filepath.FromSlash(kyvernoCRDs))); err != nil {
		return out, err
	}
	for _, o := range out.definitions {
		undescribe(o.Object)
	}
	loaded, err := loader.LoadDir(filepath.Join(module, filepath.FromSlash(kyvernoChart)))
	if err != nil {
		return out, fmt.Errorf("load Kyverno's chart: %w", err)
	}
	values, err := yaml.YAMLToJSONStrict(benchValues)
	if err != nil {
		return out, fmt.Errorf("read the bench's values for Kyverno's chart: %w", err)
	}
	release := &platform.HelmRelease{
		Object: platform.Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"metadata": map[string]any{"name": kyvernoNamespace, "namespace": kyvernoNamespace},
		}}},
		Spec: helmv2.HelmReleaseSpec{Values: &apiextensionsv1.JSON{Raw: values}},
	}
	renderer, err := newRenderer(b.kubernetesVersion(), out.definitions)
	if err != nil {
		return out, fmt.Errorf("render Kyverno's chart: %w", err)
	}
	objects, err := renderer.render(ctx, loaded, release)
	if err != nil {
		return out, fmt.Errorf("render Kyverno's chart: %w", err)
	}
	out.release = []*unstructured.Unstructured{{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": kyvernoNamespace},
	}}}
	for _, o := range objects {
		if o.hook == "" {
			out.release = append(out.release, o.object)
		}
	}
	return out, nil
}

// readFolder reads the objects of all manifests below a folder.
func readFolder(dir string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(name) != ".yaml" {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		objects, err := bootstrap.Decode(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, objects...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the manifests of %s: %w", dir, err)
	}
	return out, nil
}

// undescribe takes what is for readers only out of a schema: it is most of what
// Kyverno's definitions hold, and costs the API server seconds.
func undescribe(node any) {
	switch node := node.(type) {
	case map[string]any:
		if _, text := node["description"].(string); text {
			delete(node, "description")
		}
		for _, value := range node {
			undescribe(value)
		}
	case []any:
		for _, value := range node {
			undescribe(value)
		}
	}
}

// install applies Kyverno and waits until it judges policies.
func (b *bench) install(ctx context.Context, c cluster.Cluster, brought kyvernoObjects) error {
	api, err := client.New(c.RESTConfig(), client.Options{})
	if err != nil {
		return fmt.Errorf("connect to the cluster: %w", err)
	}
	if err := bootstrap.Apply(ctx, api, slices.Concat(brought.definitions, brought.release)); err != nil {
		return err
	}
	err = b.awaitKyverno(ctx, api)
	if err == nil {
		err = b.awaitControllers(ctx, api, brought.release)
	}
	if err != nil {
		return fmt.Errorf("%w%s", err, restless(context.WithoutCancel(ctx), c))
	}
	return nil
}

const (
	// answerInterval is how often Kyverno is asked while it comes up.
	answerInterval = 100 * time.Millisecond
	// answerTimeout bounds that, on a machine that does much else.
	answerTimeout = 3 * time.Minute
)

// restless tells of Kyverno's containers that do not run as they should, each with
// the end of its log; empty where all do.
func restless(ctx context.Context, c cluster.Cluster) string {
	report, err := c.Report(ctx)
	if err != nil {
		return fmt.Sprintf("; nor can the cluster tell why: %s", err)
	}
	var out strings.Builder
	for _, backed := range report.Backed {
		if backed.Init || strings.HasPrefix(backed.State, "running") && backed.Restarts == 0 {
			continue
		}
		const most = 2 << 10
		log, _ := os.ReadFile(backed.Log) // without one its state has to do
		fmt.Fprintf(&out, "\n%s is %s, started again %d times; the end of its log:\n%s", backed.Component, backed.State, backed.Restarts, log[max(0, len(log)-most):])
	}
	return out.String()
}

// uncompilable is a policy that Kyverno refuses: that it is refused by Kyverno's own
// webhook shows that the webhook is there and answers. It is never stored.
var uncompilable = map[string]any{
	"apiVersion": "policies.kyverno.io/v1", "kind": "ValidatingPolicy",
	"metadata": map[string]any{"name": "conformance-bench-refused"},
	"spec": map[string]any{
		"matchConstraints": map[string]any{"resourceRules": []any{map[string]any{
			"apiGroups": []any{""}, "apiVersions": []any{"v1"}, "operations": []any{"CREATE"}, "resources": []any{"configmaps"},
		}}},
		"validations": []any{map[string]any{"expression": "object."}},
	},
}

// awaitKyverno waits until Kyverno's webhooks answer.
func (b *bench) awaitKyverno(ctx context.Context, api client.Client) error {
	last := "nothing was answered yet"
	err := wait.PollUntilContextTimeout(ctx, answerInterval, answerTimeout, true, func(ctx context.Context) (bool, error) {
		probe := (&unstructured.Unstructured{Object: uncompilable}).DeepCopy()
		err := api.Create(ctx, probe, client.DryRunAll)
		if err == nil {
			last = "a policy that does not compile was admitted: no webhook of Kyverno's is in force"
		} else {
			last = err.Error()
		}
		b.tell(progress.Event{Environment: BenchName, Phase: phaseKyverno, Waiting: "Kyverno's webhooks", Message: last})
		return strings.Contains(last, "denied the request"), nil
	})
	if err != nil {
		return fmt.Errorf("wait until Kyverno answers: %w; the last answer: %s", err, last)
	}
	return nil
}

// awaitControllers waits until all of Kyverno's programs run: the one that makes and
// changes objects after a request answers no webhook.
func (b *bench) awaitControllers(ctx context.Context, api client.Client, release []*unstructured.Unstructured) error {
	for _, declared := range release {
		if declared.GetKind() != "Deployment" {
			continue
		}
		name := client.ObjectKey{Namespace: declared.GetNamespace(), Name: declared.GetName()}
		missing := ""
		err := wait.PollUntilContextTimeout(ctx, answerInterval, answerTimeout, true, func(ctx context.Context) (bool, error) {
			live := &appsv1.Deployment{}
			if err := api.Get(ctx, name, live); err != nil {
				missing = err.Error()
			} else {
				missing = unavailable(live)
			}
			b.tell(progress.Event{Environment: BenchName, Phase: phaseKyverno, Waiting: "Deployment " + name.Name, Message: missing})
			return missing == "", nil
		})
		if err != nil {
			return fmt.Errorf("wait until the Deployment %s is available: %w; the last state: %s", name, err, missing)
		}
	}
	return nil
}

// unavailable says what a Deployment lacks; empty: nothing.
func unavailable(d *appsv1.Deployment) string {
	wanted := int32(1)
	if d.Spec.Replicas != nil {
		wanted = *d.Spec.Replicas
	}
	switch status := d.Status; {
	case status.ObservedGeneration < d.Generation:
		return fmt.Sprintf("generation %d was not observed yet", d.Generation)
	case status.UpdatedReplicas < wanted || status.AvailableReplicas < wanted:
		return fmt.Sprintf("%d of %d replicas are available", status.AvailableReplicas, wanted)
	}
	return ""
}
