package embedded

import (
	"context"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
)

// sources fetches what a pod's variables and volumes are made of.
type sources struct {
	client kubernetes.Interface
	pod    *corev1.Pod
	// allocatable stands in for a limit that a container does not set.
	allocatable corev1.ResourceList
	podIP       string
}

// environment resolves the variables of a container, in the order in which they
// apply: envFrom first, then env, each seeing those before it.
func (s *sources) environment(ctx context.Context, c *corev1.Container) ([]variable, error) {
	var list []variable
	set := func(v variable) {
		list = slices.DeleteFunc(list, func(old variable) bool { return old.name == v.name })
		list = append(list, v)
	}
	lookup := func(name string) (string, bool) {
		for _, v := range list {
			if v.name == name {
				return v.value, true
			}
		}
		return "", false
	}
	for _, from := range c.EnvFrom {
		var data map[string]string
		var err error
		switch {
		case from.ConfigMapRef != nil:
			data, err = s.configMap(ctx, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		case from.SecretRef != nil:
			data, err = s.secret(ctx, from.SecretRef.Name, from.SecretRef.Optional)
		}
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(data)) {
			set(variable{name: from.Prefix + key, value: data[key], secret: from.SecretRef != nil})
		}
	}
	for _, e := range c.Env {
		v := variable{name: e.Name}
		if e.ValueFrom == nil {
			v.value = cluster.Expand(e.Value, lookup)
			set(v)
			continue
		}
		value, ok, err := s.valueFrom(ctx, e.ValueFrom, c)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", e.Name, err)
		}
		if ok {
			v.value, v.secret = value, e.ValueFrom.SecretKeyRef != nil
			set(v)
		}
	}
	return list, nil
}

func (s *sources) valueFrom(ctx context.Context, from *corev1.EnvVarSource, c *corev1.Container) (value string, ok bool, err error) {
	pick := func(data map[string]string, kind, name, key string, optional *bool) (string, bool, error) {
		value, ok := data[key]
		if !ok && !isTrue(optional) {
			return "", false, fmt.Errorf("%s %s has no key %s", kind, name, key)
		}
		return value, ok, nil
	}
	switch {
	case from.FieldRef != nil:
		value, err = s.field(from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = s.resource(from.ResourceFieldRef, c)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		data, err := s.configMap(ctx, ref.Name, ref.Optional)
		if err != nil {
			return "", false, err
		}
		return pick(data, "ConfigMap", ref.Name, ref.Key, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		data, err := s.secret(ctx, ref.Name, ref.Optional)
		if err != nil {
			return "", false, err
		}
		return pick(data, "Secret", ref.Name, ref.Key, ref.Optional)
	}
	return "", false, fmt.Errorf("its source is of a kind that host processes cannot have")
}

// field resolves a fieldRef.
func (s *sources) field(path string) (string, error) {
	switch path {
	case "metadata.name":
		return s.pod.Name, nil
	case "metadata.namespace":
		return s.pod.Namespace, nil
	case "metadata.uid":
		return string(s.pod.UID), nil
	case "metadata.labels":
		return lines(s.pod.Labels), nil
	case "metadata.annotations":
		return lines(s.pod.Annotations), nil
	case "spec.nodeName":
		return s.pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return s.pod.Spec.ServiceAccountName, nil
	case "status.hostIP", "status.hostIPs":
		return nodeAddress, nil
	case "status.podIP", "status.podIPs":
		return s.podIP, nil
	}
	for prefix, values := range map[string]map[string]string{
		"metadata.labels['":      s.pod.Labels,
		"metadata.annotations['": s.pod.Annotations,
	} {
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return values[strings.TrimSuffix(key, "']")], nil
		}
	}
	return "", fmt.Errorf("field %s cannot be referred to", path)
}

func lines(values map[string]string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(values)) {
		out = append(out, key+"="+strconv.Quote(values[key]))
	}
	return strings.Join(out, "\n")
}

// resource resolves a resourceFieldRef: the container's own limit or request,
// else what the node has, divided and rounded up.
func (s *sources) resource(ref *corev1.ResourceFieldSelector, c *corev1.Container) (string, error) {
	if ref.ContainerName != "" {
		i := slices.IndexFunc(s.pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == ref.ContainerName })
		if i < 0 {
			return "", fmt.Errorf("no container %s", ref.ContainerName)
		}
		c = &s.pod.Spec.Containers[i]
	}
	if c == nil {
		return "", fmt.Errorf("resource %s of which container?", ref.Resource)
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var list corev1.ResourceList
	switch kind {
	case "limits":
		list = c.Resources.Limits
	case "requests":
		list = c.Resources.Requests
	default:
		return "", fmt.Errorf("resource %s cannot be referred to", ref.Resource)
	}
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok && kind == "limits" {
		quantity = s.allocatable[corev1.ResourceName(name)]
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == string(corev1.ResourceCPU) {
		return strconv.FormatInt(ceil(quantity.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(quantity.Value(), divisor.Value()), 10), nil
}

func ceil(value, divisor int64) int64 {
	return int64(math.Ceil(float64(value) / float64(divisor)))
}

func (s *sources) configMap(ctx context.Context, name string, optional *bool) (map[string]string, error) {
	object, err := s.client.CoreV1().ConfigMaps(s.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s: %w", name, err)
	}
	data := maps.Clone(object.Data)
	if data == nil {
		data = map[string]string{}
	}
	for key, value := range object.BinaryData {
		data[key] = string(value)
	}
	return data, nil
}

func (s *sources) secret(ctx context.Context, name string, optional *bool) (map[string]string, error) {
	object, err := s.client.CoreV1().Secrets(s.pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", name, err)
	}
	data := map[string]string{}
	for key, value := range object.Data {
		data[key] = string(value)
	}
	return data, nil
}

// write puts a volume into a folder. Volumes are written once: a program that
// watches one for changes sees none.
func (s *sources) write(ctx context.Context, v *corev1.Volume, dir string) error {
	switch {
	case v.EmptyDir != nil:
		return os.MkdirAll(dir, 0o700)
	case v.ConfigMap != nil:
		data, err := s.configMap(ctx, v.ConfigMap.Name, v.ConfigMap.Optional)
		if err != nil {
			return err
		}
		return writeKeys(dir, data, v.ConfigMap.Items, isTrue(v.ConfigMap.Optional))
	case v.Secret != nil:
		data, err := s.secret(ctx, v.Secret.SecretName, v.Secret.Optional)
		if err != nil {
			return err
		}
		return writeKeys(dir, data, v.Secret.Items, isTrue(v.Secret.Optional))
	case v.DownwardAPI != nil:
		return s.writeFields(dir, v.DownwardAPI.Items)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if err := s.project(ctx, source, dir); err != nil {
				return err
			}
		}
		return os.MkdirAll(dir, 0o700)
	}
	return fmt.Errorf("volume %s is of a kind that host processes cannot have", v.Name)
}

func (s *sources) project(ctx context.Context, source corev1.VolumeProjection, dir string) error {
	switch {
	case source.ConfigMap != nil:
		data, err := s.configMap(ctx, source.ConfigMap.Name, source.ConfigMap.Optional)
		if err != nil {
			return err
		}
		return writeKeys(dir, data, source.ConfigMap.Items, isTrue(source.ConfigMap.Optional))
	case source.Secret != nil:
		data, err := s.secret(ctx, source.Secret.Name, source.Secret.Optional)
		if err != nil {
			return err
		}
		return writeKeys(dir, data, source.Secret.Items, isTrue(source.Secret.Optional))
	case source.DownwardAPI != nil:
		return s.writeFields(dir, source.DownwardAPI.Items)
	case source.ServiceAccountToken != nil:
		// Kept fresh by the identity of the pod where it is the standard one; a
		// token for another audience is written once.
		token, _, err := s.token(ctx, source.ServiceAccountToken.Audience, source.ServiceAccountToken.ExpirationSeconds)
		if err != nil {
			return err
		}
		return writeFile(filepath.Join(dir, filepath.FromSlash(source.ServiceAccountToken.Path)), token)
	}
	return fmt.Errorf("a projected source is of a kind that host processes cannot have")
}

func (s *sources) writeFields(dir string, items []corev1.DownwardAPIVolumeFile) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = s.field(item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = s.resource(item.ResourceFieldRef, nil)
		}
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(item.Path)), value); err != nil {
			return err
		}
	}
	return os.MkdirAll(dir, 0o700)
}

// writeKeys writes the named keys to their paths, or all keys when none is named.
func writeKeys(dir string, data map[string]string, items []corev1.KeyToPath, optional bool) error {
	if len(items) == 0 {
		for key := range data {
			items = append(items, corev1.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok && optional {
			continue
		}
		if !ok {
			return fmt.Errorf("references non-existent key %s", item.Key)
		}
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(item.Path)), value); err != nil {
			return err
		}
	}
	return os.MkdirAll(dir, 0o700)
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o600)
}

func isTrue(value *bool) bool { return value != nil && *value }
