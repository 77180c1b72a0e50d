package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

const (
	// fieldManager owns what we apply, so that the platform's own manifest of the
	// same namespace merges with it.
	fieldManager = "flux-platform-conformance"
	// fluxNamespace is where Flux's controllers run.
	fluxNamespace = "flux-system"
	// authorityFolder and authorityFile are where a container finds the
	// certificates that it is to trust.
	authorityFolder = "/etc/flux-platform-conformance"
	authorityFile   = "authorities.pem"
	certFile        = "SSL_CERT_FILE"
	// injectLimit bounds the wait until the API server heeds a policy; a second is
	// usual.
	injectLimit = time.Minute
)

// injection is what the pods of a component get at their admission.
type injection struct {
	component string
	// image is a regular expression of the images that are meant.
	image string
	// variables go into the containers, in this order.
	variables []variable
	// authority are the certificates; empty: none.
	authority []byte
}

// variable is one environment variable. One whose value holds a credential comes
// from a Secret, so whoever may read pods does not read the credential; who may
// read Secrets in the namespace does.
type variable struct {
	name, value string
	secret      bool
}

func (i injection) objectName() string { return "conformance-" + i.component }

// intercept has the pods of spec.Environ's components get their variables, and
// returns when the API server does so. It has to come before the first such pod.
func (c *running) intercept(ctx context.Context) error {
	if len(c.spec.Environ) == 0 {
		return nil
	}
	if err := c.apply(ctx, &corev1.Namespace{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: fluxNamespace},
	}); err != nil {
		return err
	}
	var all []injection
	for _, component := range slices.Sorted(maps.Keys(c.spec.Environ)) {
		i, err := c.injection(component)
		if err != nil {
			return err
		}
		for _, object := range i.objects() {
			if err := c.apply(ctx, object); err != nil {
				return err
			}
		}
		all = append(all, i)
	}
	for _, i := range all {
		if err := c.awaitInjection(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// injection works out what a component gets.
func (c *running) injection(component string) (injection, error) {
	i := injection{component: component}
	var repositories []string
	if c.provider.Repositories != nil {
		repositories = c.provider.Repositories(component)
	}
	if len(repositories) == 0 {
		return i, fmt.Errorf("component %s: no repositories are known by which its images are recognised: give Repositories", component)
	}
	for _, repository := range repositories {
		if found, known := c.spec.Recognize("registry.example/" + repository); !known || found != component {
			return i, fmt.Errorf("component %s: its repository %s is recognised as %q", component, repository, found)
		}
	}
	i.image = imagePattern(repositories)
	for _, entry := range c.spec.Environ[component] {
		name, value, _ := strings.Cut(entry, "=")
		v := variable{name: name, value: value}
		switch name {
		case "NO_PROXY", "no_proxy":
			v.value = strings.Join(slices.Concat(split(value), split(c.services), split(c.pods),
				[]string{c.provider.Network.Subnet, ".svc", ".cluster.local"}), ",")
		case certFile:
			if len(c.provider.Authority) == 0 {
				return i, fmt.Errorf("component %s: %s is set, but there are no certificates: give Authority", component, certFile)
			}
			i.authority = c.provider.Authority
			v.value = authorityFolder + "/" + authorityFile
		default:
			address, err := url.Parse(value)
			v.secret = err != nil || address.User != nil
		}
		i.variables = append(i.variables, v)
	}
	return i, nil
}

func split(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ","), func(s string) bool { return s == "" })
}

// imagePattern matches the images of repositories, whatever their registry, tag
// and digest. One of several segments also matches below a prefix.
func imagePattern(repositories []string) string {
	var parts []string
	for _, r := range repositories {
		prefix := `([^/]*[.:][^/]*/|localhost/)?` // a registry's host
		if strings.Contains(r, "/") {
			prefix = `(.+/)?`
		}
		parts = append(parts, prefix+regexp.QuoteMeta(r))
	}
	return `^(` + strings.Join(parts, "|") + `)(:[^/@]*)?(@.*)?$`
}

// objects are what the injection is made of; the policy is last, since it needs
// the others.
func (i injection) objects() []metav1.Object {
	meta := func(namespace string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: i.objectName(), Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": fieldManager},
		}
	}
	var list []metav1.Object
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: meta(fluxNamespace),
		Data: map[string][]byte{},
	}
	for _, v := range i.variables {
		if v.secret {
			secret.Data[v.name] = []byte(v.value)
		}
	}
	if len(secret.Data) > 0 {
		list = append(list, secret)
	}
	if len(i.authority) > 0 {
		list = append(list, &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta(fluxNamespace),
			Data: map[string]string{authorityFile: string(i.authority)},
		})
	}
	fail, never, all := admissionv1.Fail, admissionv1.NeverReinvocationPolicy, admissionv1.NamespacedScope
	policy := &admissionv1.MutatingAdmissionPolicy{
		TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingAdmissionPolicy"}, ObjectMeta: meta(""),
		Spec: admissionv1.MutatingAdmissionPolicySpec{
			FailurePolicy: &fail, ReinvocationPolicy: never,
			MatchConstraints: &admissionv1.MatchResources{
				NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: fluxNamespace}},
				ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &all},
				}}},
			},
			MatchConditions: []admissionv1.MatchCondition{{Name: "image", Expression: "object.spec.containers.exists(c, " + i.isMeant() + ")"}},
			Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: i.expression()},
			}},
		},
	}
	binding := &admissionv1.MutatingAdmissionPolicyBinding{
		TypeMeta: metav1.TypeMeta{APIVersion: "admissionregistration.k8s.io/v1", Kind: "MutatingAdmissionPolicyBinding"}, ObjectMeta: meta(""),
		Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: i.objectName()},
	}
	return append(list, policy, binding)
}

// isMeant is CEL for whether c is a container of the component.
func (i injection) isMeant() string { return "c.image.matches(" + literal(i.image) + ")" }

// literal is a string in CEL, whose escapes are those of JSON but for one form that
// JSON need not use.
func literal(text string) string {
	var out strings.Builder
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(text) // a string can be encoded
	return strings.TrimSpace(out.String())
}

// expression is CEL for what is added to a pod: a JSON patch, since the source of a
// variable cannot be applied, of plain maps, since the API server breaks down over
// typed objects in lists. What a container declares under the same names goes.
func (i injection) expression() string {
	var names, env []string
	for _, v := range i.variables {
		names = append(names, literal(v.name))
		source := `"value": dyn(` + literal(v.value) + `)`
		if v.secret {
			source = fmt.Sprintf(`"valueFrom": dyn({"secretKeyRef": {"name": %s, "key": %s}})`, literal(i.objectName()), literal(v.name))
		}
		env = append(env, `dyn({"name": dyn(`+literal(v.name)+`), `+source+`})`)
	}
	each := func(field, kept, added string) string {
		return fmt.Sprintf(`object.spec.containers.transformList(i, c, %s, JSONPatch{op: "add", path: "/spec/containers/" + string(i) + "/%s", value: (has(c.%s) ? %s : []) + [%s]})`,
			i.isMeant(), field, field, kept, added)
	}
	patches := []string{each("env", "c.env.filter(e, !(e.name in ["+strings.Join(names, ", ")+"]))", strings.Join(env, ", "))}
	if len(i.authority) > 0 {
		name := literal(i.objectName())
		patches = append(patches,
			each("volumeMounts", "c.volumeMounts", fmt.Sprintf(`dyn({"name": dyn(%s), "mountPath": dyn(%s), "readOnly": dyn(true)})`, name, literal(authorityFolder))),
			fmt.Sprintf(`[JSONPatch{op: "add", path: "/spec/volumes", value: (has(object.spec.volumes) ? object.spec.volumes : []) + [dyn({"name": dyn(%[1]s), "configMap": dyn({"name": %[1]s})})]}]`, name))
	}
	return strings.Join(patches, " + ")
}

// apply applies an object on the server's side.
func (c *running) apply(ctx context.Context, object metav1.Object) error {
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode %s: %w", object.GetName(), err)
	}
	name, patch, force := object.GetName(), types.ApplyPatchType, true
	options := metav1.PatchOptions{FieldManager: fieldManager, Force: &force}
	core, admission := c.client.CoreV1(), c.client.AdmissionregistrationV1()
	kind := ""
	switch object.(type) {
	case *corev1.Namespace:
		kind = "Namespace"
		_, err = core.Namespaces().Patch(ctx, name, patch, data, options)
	case *corev1.Secret:
		kind = "Secret"
		_, err = core.Secrets(object.GetNamespace()).Patch(ctx, name, patch, data, options)
	case *corev1.ConfigMap:
		kind = "ConfigMap"
		_, err = core.ConfigMaps(object.GetNamespace()).Patch(ctx, name, patch, data, options)
	case *admissionv1.MutatingAdmissionPolicy:
		kind = "MutatingAdmissionPolicy"
		_, err = admission.MutatingAdmissionPolicies().Patch(ctx, name, patch, data, options)
	case *admissionv1.MutatingAdmissionPolicyBinding:
		kind = "MutatingAdmissionPolicyBinding"
		_, err = admission.MutatingAdmissionPolicyBindings().Patch(ctx, name, patch, data, options)
	default:
		err = errors.New("its kind is not known")
	}
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", kind, name, err)
	}
	return nil
}

// awaitInjection creates pods that are not kept until one has what it is to get.
func (c *running) awaitInjection(ctx context.Context, i injection) error {
	trial := confined(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: i.objectName() + "-", Namespace: fluxNamespace},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "trial", Image: "registry.example/" + c.provider.Repositories(i.component)[0] + ":trial",
		}}},
	})
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, injectLimit, true, func(ctx context.Context) (bool, error) {
		pod, err := c.client.CoreV1().Pods(fluxNamespace).Create(ctx, trial, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil {
			err = i.lacking(pod)
		}
		if ctx.Err() == nil {
			last = err
		}
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait until pods of %s get their variables: %w: %w", i.component, err, last)
	}
	return nil
}

// lacking says what a pod has not got.
func (i injection) lacking(pod *corev1.Pod) error {
	container := pod.Spec.Containers[0]
	for _, v := range i.variables {
		if !slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == v.name }) {
			return fmt.Errorf("a pod of it has no variable %s", v.name)
		}
	}
	if len(i.authority) > 0 && !slices.ContainsFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == authorityFolder }) {
		return fmt.Errorf("a pod of it has nothing mounted on %s", authorityFolder)
	}
	return nil
}

// confined makes a pod one that the strictest Pod Security level admits, and that
// nothing of the cluster is told to.
func confined(pod *corev1.Pod) *corev1.Pod {
	yes, no, user := true, false, int64(65532)
	pod.Spec.AutomountServiceAccountToken = &no
	pod.Spec.EnableServiceLinks = &no
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &user, RunAsGroup: &user,
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	}
	return pod
}

// overrides lists the variables that a container of a component of spec.Environ
// got beyond those that its workload declares.
func (c *running) overrides(ctx context.Context, origin cluster.Origin, component string, pod *corev1.Pod, spec *corev1.Container, environ []string) ([]cluster.Override, error) {
	if c.spec.Environ[component] == nil || pod.Namespace != fluxNamespace {
		return nil, nil
	}
	i, err := c.injection(component)
	if err != nil {
		return nil, err
	}
	template, err := c.template(ctx, pod)
	if err != nil {
		return nil, err
	}
	var list []cluster.Override
	add := func(name, reason string) {
		effective, has := value(environ, name)
		if !has {
			return
		}
		o := cluster.Override{Origin: origin, Component: component, Kind: cluster.Variable, Name: name, Effective: effective, Reason: reason}
		for _, container := range template.Containers {
			for _, e := range container.Env {
				if container.Name == spec.Name && e.Name == name {
					declared := e.Value
					if e.ValueFrom != nil {
						declared = "(from elsewhere)"
					}
					o.Declared = &declared
				}
			}
		}
		if o.Declared == nil || *o.Declared != effective {
			list = append(list, o)
		}
	}
	for _, v := range i.variables {
		add(v.name, "leads to the session's own servers, added at the pod's admission")
	}
	return list, nil
}

// template is what the owner of a pod declares; of a pod without one, its own.
func (c *running) template(ctx context.Context, pod *corev1.Pod) (corev1.PodSpec, error) {
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return pod.Spec, nil
	}
	apps, get := c.client.AppsV1(), metav1.GetOptions{}
	var spec corev1.PodSpec
	var err error
	switch owner.Kind {
	case "ReplicaSet":
		found, e := apps.ReplicaSets(pod.Namespace).Get(ctx, owner.Name, get)
		if err = e; err == nil {
			spec = found.Spec.Template.Spec
		}
	case "StatefulSet":
		found, e := apps.StatefulSets(pod.Namespace).Get(ctx, owner.Name, get)
		if err = e; err == nil {
			spec = found.Spec.Template.Spec
		}
	case "DaemonSet":
		found, e := apps.DaemonSets(pod.Namespace).Get(ctx, owner.Name, get)
		if err = e; err == nil {
			spec = found.Spec.Template.Spec
		}
	case "Job":
		found, e := c.client.BatchV1().Jobs(pod.Namespace).Get(ctx, owner.Name, get)
		if err = e; err == nil {
			spec = found.Spec.Template.Spec
		}
	default:
		return pod.Spec, nil
	}
	if err != nil {
		return corev1.PodSpec{}, fmt.Errorf("what its owner declares: %w", err)
	}
	return spec, nil
}
