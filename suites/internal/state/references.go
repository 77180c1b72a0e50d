package state

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Reference is a name by which an object uses another one of its namespace.
type Reference struct {
	// Field holds the name, e.g. spec.volumes[name=config].configMap.
	Field string
	// Kind and Name are what it names.
	Kind, Name string
	// Optional says that the object does without.
	Optional bool
}

// podSpecs are where the kinds that make pods keep the pod's spec.
var podSpecs = map[string][]string{
	"Pod":                   {"spec"},
	"Deployment":            {"spec", "template", "spec"},
	"StatefulSet":           {"spec", "template", "spec"},
	"DaemonSet":             {"spec", "template", "spec"},
	"ReplicaSet":            {"spec", "template", "spec"},
	"ReplicationController": {"spec", "template", "spec"},
	"Job":                   {"spec", "template", "spec"},
	"CronJob":               {"spec", "jobTemplate", "spec", "template", "spec"},
	"PodTemplate":           {"template", "spec"},
}

// References lists what an object names of its own namespace: as a pod or as a
// template of pods, as an Ingress, an account, a claim or an autoscaler. Objects
// of other kinds name nothing.
func References(object *unstructured.Unstructured) ([]Reference, error) {
	var list references
	if path, ok := podSpecs[object.GetKind()]; ok {
		var spec corev1.PodSpec
		if err := read(object, &spec, path...); err != nil {
			return nil, err
		}
		list.prefix = strings.Join(path, ".")
		list.pod(spec)
	}
	var err error
	switch object.GetKind() {
	case "StatefulSet":
		list.prefix = "spec"
		name, _, _ := unstructured.NestedString(object.Object, "spec", "serviceName")
		list.add("serviceName", "Service", name, false)
		claims, _, _ := unstructured.NestedSlice(object.Object, "spec", "volumeClaimTemplates")
		for i, claim := range claims {
			fields, _ := claim.(map[string]any)
			if err = list.claim(fmt.Sprintf("volumeClaimTemplates[%d].spec", i), fields); err != nil {
				break
			}
		}
	case "PersistentVolumeClaim":
		err = list.claim("spec", object.Object)
	case "Ingress":
		var spec networkingv1.IngressSpec
		if err = read(object, &spec, "spec"); err == nil {
			list.prefix = "spec"
			list.ingress(spec)
		}
	case "ServiceAccount":
		var account corev1.ServiceAccount
		if err = read(object, &account); err == nil {
			list.account(account)
		}
	case "HorizontalPodAutoscaler":
		list.prefix = "spec"
		target, _, _ := unstructured.NestedStringMap(object.Object, "spec", "scaleTargetRef")
		list.add("scaleTargetRef", target["kind"], target["name"], false)
	}
	return list.found, err
}

func read(object *unstructured.Unstructured, into any, path ...string) error {
	fields := object.Object
	if len(path) > 0 {
		fields, _, _ = unstructured.NestedMap(object.Object, path...)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, into); err != nil {
		return fmt.Errorf("read %s of %s %s: %w", strings.Join(path, "."), object.GetKind(), object.GetName(), err)
	}
	return nil
}

// references collects what the fields below prefix name.
type references struct {
	prefix string
	found  []Reference
}

func (r *references) add(field, kind, name string, optional bool) {
	if name == "" {
		return
	}
	if r.prefix != "" {
		field = r.prefix + "." + field
	}
	r.found = append(r.found, Reference{Field: field, Kind: kind, Name: name, Optional: optional})
}

func (r *references) pod(spec corev1.PodSpec) {
	account := spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	r.add("serviceAccountName", "ServiceAccount", account, false)
	for i, secret := range spec.ImagePullSecrets {
		r.add(fmt.Sprintf("imagePullSecrets[%d]", i), "Secret", secret.Name, false)
	}
	for _, claim := range spec.ResourceClaims {
		field := fmt.Sprintf("resourceClaims[name=%s]", claim.Name)
		r.add(field, "ResourceClaim", deref(claim.ResourceClaimName), false)
		r.add(field, "ResourceClaimTemplate", deref(claim.ResourceClaimTemplateName), false)
	}
	for _, volume := range spec.Volumes {
		r.volume(volume)
	}
	for _, container := range spec.InitContainers {
		r.container("initContainers", container.Name, container.Env, container.EnvFrom)
	}
	for _, container := range spec.Containers {
		r.container("containers", container.Name, container.Env, container.EnvFrom)
	}
	for _, container := range spec.EphemeralContainers {
		r.container("ephemeralContainers", container.Name, container.Env, container.EnvFrom)
	}
}

func (r *references) container(list, name string, env []corev1.EnvVar, from []corev1.EnvFromSource) {
	where := fmt.Sprintf("%s[name=%s]", list, name)
	for _, variable := range env {
		if variable.ValueFrom == nil {
			continue
		}
		field := fmt.Sprintf("%s.env[name=%s]", where, variable.Name)
		if key := variable.ValueFrom.ConfigMapKeyRef; key != nil {
			r.add(field, "ConfigMap", key.Name, deref(key.Optional))
		}
		if key := variable.ValueFrom.SecretKeyRef; key != nil {
			r.add(field, "Secret", key.Name, deref(key.Optional))
		}
	}
	for i, source := range from {
		field := fmt.Sprintf("%s.envFrom[%d]", where, i)
		if source.ConfigMapRef != nil {
			r.add(field, "ConfigMap", source.ConfigMapRef.Name, deref(source.ConfigMapRef.Optional))
		}
		if source.SecretRef != nil {
			r.add(field, "Secret", source.SecretRef.Name, deref(source.SecretRef.Optional))
		}
	}
}

func (r *references) volume(v corev1.Volume) {
	field := fmt.Sprintf("volumes[name=%s]", v.Name)
	local := func(secret *corev1.LocalObjectReference) {
		if secret != nil {
			r.add(field, "Secret", secret.Name, false)
		}
	}
	switch {
	case v.ConfigMap != nil:
		r.add(field, "ConfigMap", v.ConfigMap.Name, deref(v.ConfigMap.Optional))
	case v.Secret != nil:
		r.add(field, "Secret", v.Secret.SecretName, deref(v.Secret.Optional))
	case v.Projected != nil:
		for i, source := range v.Projected.Sources {
			at := fmt.Sprintf("%s.projected.sources[%d]", field, i)
			if source.ConfigMap != nil {
				r.add(at, "ConfigMap", source.ConfigMap.Name, deref(source.ConfigMap.Optional))
			}
			if source.Secret != nil {
				r.add(at, "Secret", source.Secret.Name, deref(source.Secret.Optional))
			}
		}
	case v.PersistentVolumeClaim != nil:
		r.add(field, "PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName, false)
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		r.origin(field+".ephemeral", v.Ephemeral.VolumeClaimTemplate.Spec)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.AzureFile != nil:
		r.add(field, "Secret", v.AzureFile.SecretName, false)
	case v.Glusterfs != nil:
		r.add(field, "Endpoints", v.Glusterfs.EndpointsName, false)
	}
}

// claim reads the claim that these fields are, with its spec.
func (r *references) claim(field string, fields map[string]any) error {
	var claim corev1.PersistentVolumeClaim
	if err := read(&unstructured.Unstructured{Object: fields}, &claim); err != nil {
		return err
	}
	r.origin(field, claim.Spec)
	return nil
}

// origin is what a claim's volume is filled from.
func (r *references) origin(field string, spec corev1.PersistentVolumeClaimSpec) {
	if source := spec.DataSource; source != nil {
		r.add(field+".dataSource", source.Kind, source.Name, false)
	}
	if source := spec.DataSourceRef; source != nil && (source.Namespace == nil || *source.Namespace == "") {
		r.add(field+".dataSourceRef", source.Kind, source.Name, false)
	}
}

func (r *references) ingress(spec networkingv1.IngressSpec) {
	backend := func(field string, b networkingv1.IngressBackend) {
		if b.Service != nil {
			r.add(field, "Service", b.Service.Name, false)
		}
		if b.Resource != nil {
			r.add(field, b.Resource.Kind, b.Resource.Name, false)
		}
	}
	if spec.DefaultBackend != nil {
		backend("defaultBackend", *spec.DefaultBackend)
	}
	for i, rule := range spec.Rules {
		if rule.HTTP == nil {
			continue
		}
		for j, path := range rule.HTTP.Paths {
			backend(fmt.Sprintf("rules[%d].http.paths[%d].backend", i, j), path.Backend)
		}
	}
	for i, tls := range spec.TLS {
		r.add(fmt.Sprintf("tls[%d].secretName", i), "Secret", tls.SecretName, false)
	}
}

func (r *references) account(account corev1.ServiceAccount) {
	for i, secret := range account.Secrets {
		r.add(fmt.Sprintf("secrets[%d]", i), "Secret", secret.Name, false)
	}
	for i, secret := range account.ImagePullSecrets {
		r.add(fmt.Sprintf("imagePullSecrets[%d]", i), "Secret", secret.Name, false)
	}
}

// deref is what a pointer points to, or the zero value.
func deref[T any](pointer *T) T {
	if pointer == nil {
		var zero T
		return zero
	}
	return *pointer
}

// followed is a name that one object uses, and what it names; nil: nothing.
type followed struct {
	from, to *unstructured.Unstructured
	Reference
}

// follow looks up what objects, which are those of whole namespaces, name. Those
// that make no use of it, or no more, are left out.
func follow(objects []*unstructured.Unstructured) ([]followed, error) {
	known := map[address]*unstructured.Unstructured{}
	for _, object := range objects {
		known[addressOf(object)] = object
	}
	var out []followed
	for _, object := range objects {
		if idle(object) {
			continue
		}
		list, err := References(object)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			out = append(out, followed{object, known[address{object.GetNamespace(), r.Kind, r.Name}], r})
		}
	}
	return out, nil
}

// ReferenceCrossings follows the references of all objects, which are those of
// whole namespaces, and lists those that lead to what is another tenant's, or,
// unless they are optional, to what does not exist. What belongs to no tenant may
// be used by all. count is that of the references of tenants' objects.
func ReferenceCrossings(objects []*unstructured.Unstructured, tenantLabel string) (problems []string, count int, err error) {
	list, err := follow(objects)
	if err != nil {
		return nil, 0, err
	}
	for _, r := range list {
		tenant := TenantOf(r.from, tenantLabel)
		from := fmt.Sprintf("%s %s/%s of %q", r.from.GetKind(), r.from.GetNamespace(), r.from.GetName(), tenant)
		if tenant != "" {
			count++
		}
		switch {
		case r.to == nil && !r.Optional:
			problems = append(problems, fmt.Sprintf("%s: %s names the %s %s, which does not exist", from, r.Field, r.Kind, r.Name))
		case r.to != nil && TenantOf(r.to, tenantLabel) != "" && TenantOf(r.to, tenantLabel) != tenant:
			problems = append(problems, fmt.Sprintf("%s: %s names the %s %s of %q", from, r.Field, r.Kind, r.Name, TenantOf(r.to, tenantLabel)))
		}
	}
	sort.Strings(problems)
	return problems, count, nil
}

// TenantOf is the tenant that an object is labelled with, or its template.
func TenantOf(object *unstructured.Unstructured, tenantLabel string) string {
	if tenant := object.GetLabels()[tenantLabel]; tenant != "" {
		return tenant
	}
	tenant, _, _ := unstructured.NestedString(object.Object, "spec", "template", "metadata", "labels", tenantLabel)
	return tenant
}

// idle says whether an object makes no use, or no more, of what it names: it is
// on its way out, has ended, or is kept as a record of an earlier rollout.
func idle(object *unstructured.Unstructured) bool {
	if object.GetDeletionTimestamp() != nil {
		return true
	}
	switch object.GetKind() {
	case "Pod":
		phase, _, _ := unstructured.NestedString(object.Object, "status", "phase")
		return phase == string(corev1.PodSucceeded) || phase == string(corev1.PodFailed)
	case "ReplicaSet":
		replicas, found, _ := unstructured.NestedInt64(object.Object, "spec", "replicas")
		return found && replicas == 0
	case "Job":
		_, ended, _ := unstructured.NestedString(object.Object, "status", "completionTime")
		return ended || holds(object, "Failed")
	}
	return false
}

// holds says whether a condition of an object is true.
func holds(object *unstructured.Unstructured, condition string) bool {
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, entry := range list {
		fields, _ := entry.(map[string]any)
		if fields["type"] == condition && fields["status"] == "True" {
			return true
		}
	}
	return false
}
