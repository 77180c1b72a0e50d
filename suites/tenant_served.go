package suites

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

var _ = perTenant(check.Check{
	ID:    "TEN-007",
	Title: "every ready pod of the tenant answers through the tenant's Service, at the declared version and with the developers' files byte for byte",
	Why: "what counts is what a service answers with: a ConfigMap that is right and not the one that is mounted, or a Service " +
		"that leads to another port or pod, is an outage or somebody else's values",
	Remedy: "compare the Service's targetPort with the container's port, and the volumes and arguments of the pods with the " +
		"generated ConfigMap; a pod that does not answer at all says why in its log",
	Reference: "https://kubernetes.io/docs/concepts/services-networking/service/",
	Level:     check.Core,
	Needs:     []string{"Workloads", "ServiceRouting"},
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	services := servingOf(env, tenant)
	rolledOut(ctx, env, tenant)
	guest, err := env.guest(ctx)
	Expect(err).NotTo(HaveOccurred())
	problems, err := patiently(ctx, func(ctx context.Context) ([]string, error) {
		var problems []string
		for _, s := range services {
			in, err := s.served(ctx, guest)
			if err != nil {
				return nil, err
			}
			for _, problem := range state.ServedProblems(in) {
				problems = append(problems, fmt.Sprintf("%s: %s", s.service, problem))
			}
		}
		return problems, nil
	})
	Expect(err).NotTo(HaveOccurred())
	expectNone(problems, "where the services of %s do not answer with what it was given", tenant.Name)
})

// patiently looks until nothing is wrong, or as long as a change may take to be in
// force everywhere: who routes traffic follows the pods at a moment's distance.
func patiently(ctx context.Context, look func(context.Context) ([]string, error)) (problems []string, err error) {
	patience := time.Now().Add(current.timeouts.Effective)
	err = wait.PollUntilContextCancel(ctx, current.timeouts.Poll, true, func(ctx context.Context) (bool, error) {
		problems, err = look(ctx)
		return len(problems) == 0 || time.Now().After(patience), err
	})
	return problems, err
}

// serving is one Service of a tenant and what it has to answer with.
type serving struct {
	service platform.Object
	// pods selects the pods of the Deployment behind it.
	pods labels.Selector
	// serves says where its files are.
	serves platform.Serves
	// version that its answers name; empty where a digest alone says which.
	version string
	files   map[string]platform.File
	// known says whose content a SHA-256 is.
	known map[string]string
}

// servingOf are the Services of a tenant whose answers can be told right from
// wrong. The spec ends where there are none.
func servingOf(env *environment, tenant *platform.Tenant) []serving {
	GinkgoHelper()
	found, reason, err := servings(env.view.Config, tenant)
	Expect(err).NotTo(HaveOccurred())
	if len(found) == 0 {
		Skip(notSupported + reason)
	}
	known := map[string]string{}
	for _, e := range env.view.Platform.Environments {
		for _, t := range e.Tenants {
			for _, v := range t.Values {
				known[digest(v.File.Content)] = v.File.Origin.File
			}
		}
	}
	for i := range found {
		found[i].known = known
	}
	return found
}

// servings pairs a tenant's Services with the Deployments that they select and the
// developers' files that these mount; reason says why there are none.
func servings(config platform.Config, tenant *platform.Tenant) (out []serving, reason string, err error) {
	reason = fmt.Sprintf("no Service of %s leads to a Deployment that mounts a file of the developers", tenant.Name)
	for _, service := range tenant.Objects {
		if service.GetKind() != "Service" {
			continue
		}
		selected := &corev1.Service{}
		if err := convert(service, selected); err != nil {
			return nil, "", err
		}
		for _, object := range tenant.Objects {
			if object.GetKind() != "Deployment" {
				continue
			}
			deployment := &appsv1.Deployment{}
			if err := convert(object, deployment); err != nil {
				return nil, "", err
			}
			selector := labels.SelectorFromSet(selected.Spec.Selector)
			if len(selected.Spec.Selector) == 0 || !selector.Matches(labels.Set(deployment.Spec.Template.Labels)) {
				continue
			}
			files, image := mounted(tenant, deployment.Spec.Template.Spec)
			if len(files) == 0 {
				continue
			}
			serves, ok := config.ServesOf(image)
			if !ok {
				reason = fmt.Sprintf("it is not known where services of the image %s answer with their files; say it in CONFIG: "+
					"serves: [{image: %s, path: \"/config/{file}\"}]", image, imageRepository(image))
				continue
			}
			pods, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
			if err != nil {
				return nil, "", fmt.Errorf("read the selector of %s: %w", object, err)
			}
			s := serving{service: service, pods: pods, serves: serves, files: files}
			if serves.Names {
				s.version = imageTag(image)
			}
			out = append(out, s)
		}
	}
	return out, reason, nil
}

// mounted are the developers' files that the first container mounts that mounts
// any, by their keys, and that container's image.
func mounted(tenant *platform.Tenant, pod corev1.PodSpec) (files map[string]platform.File, image string) {
	volumes := map[string][]string{}
	for _, volume := range pod.Volumes {
		if volume.ConfigMap != nil {
			volumes[volume.Name] = append(volumes[volume.Name], volume.ConfigMap.Name)
		}
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.ConfigMap != nil {
					volumes[volume.Name] = append(volumes[volume.Name], source.ConfigMap.Name)
				}
			}
		}
	}
	for _, container := range pod.Containers {
		files = map[string]platform.File{}
		for _, mount := range container.VolumeMounts {
			for _, value := range tenant.Values {
				if slices.Contains(volumes[mount.Name], value.ConfigMap) {
					files[value.Key] = value.File
				}
			}
		}
		if len(files) > 0 {
			return files, container.Image
		}
	}
	return nil, ""
}

// imageRepository is an image without its registry, tag and digest.
func imageRepository(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if tag := imageTag(image); tag != "" {
		image = strings.TrimSuffix(image, ":"+tag)
	}
	if host, rest, ok := strings.Cut(image, "/"); ok && strings.ContainsAny(host, ".:") {
		return rest
	}
	return image
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Requests are spread over the pods at random: with so many for each pod, one that
// is not reached in any of the rounds is not there to be reached.
const (
	requestsPerPod = 10
	askingRounds   = 4
)

// served asks for each file until every ready pod has answered.
func (s serving) served(ctx context.Context, guest *visitor) (state.ServedInput, error) {
	in := state.ServedInput{
		Names: s.serves.Names, Version: s.version, Files: map[string]string{}, Answers: map[string][]state.Answer{}, Known: s.known,
	}
	for key, file := range s.files {
		in.Files[key] = digest(file.Content)
	}
	pods, err := s.readyPods(ctx, guest.env)
	if err != nil || len(pods) == 0 {
		return in, err
	}
	for _, pod := range pods {
		in.Pods = append(in.Pods, pod.Name)
	}
	live, err := s.live(ctx, guest.env)
	if err != nil {
		return in, err
	}
	in.Sticky = live.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
	base, err := s.address(ctx, guest.env)
	if err != nil {
		return in, err
	}
	for range askingRounds {
		for _, key := range sortedKeys(s.files) {
			replies, err := guest.ask(ctx, request{url: base + s.serves.At(key), count: requestsPerPod * len(pods)})
			if err != nil {
				return in, err
			}
			for _, r := range replies {
				in.Answers[key] = append(in.Answers[key], r.answer(r.Time))
			}
			if replies[0].Error != "" {
				return in, nil // asking on would only take time
			}
		}
		if in.Seen() {
			break
		}
	}
	return in, nil
}

// readyPods are the pods behind the Service that are to answer, by name.
func (s serving) readyPods(ctx context.Context, env *environment) ([]corev1.Pod, error) {
	list := &corev1.PodList{}
	if err := env.client.List(ctx, list, client.InNamespace(s.service.GetNamespace()), client.MatchingLabelsSelector{Selector: s.pods}); err != nil {
		return nil, fmt.Errorf("list the pods behind %s: %w", s.service, err)
	}
	pods := slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || !slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
	})
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return pods, nil
}

// live is the Service as it stands in the cluster.
func (s serving) live(ctx context.Context, env *environment) (out corev1.Service, err error) {
	if err := env.client.Get(ctx, client.ObjectKeyFromObject(s.service.Unstructured), &out); err != nil {
		return out, fmt.Errorf("read %s: %w", s.service, err)
	}
	return out, nil
}

// address is where the Service listens for HTTP, as http://ADDRESS:PORT.
func (s serving) address(ctx context.Context, env *environment) (string, error) {
	live, err := s.live(ctx, env)
	if err != nil {
		return "", err
	}
	port, ok := state.WebPort(live)
	if !ok {
		return "", fmt.Errorf("find the port of %s at which it speaks HTTP: none is called http, is 80 or is the only one of TCP", s.service)
	}
	return serviceURL(live, port), nil
}

// serviceURL is a Service as pods reach it: at its address, else by its name.
func serviceURL(service corev1.Service, port int32) string {
	host := service.Spec.ClusterIP
	if host == "" || host == corev1.ClusterIPNone {
		host = service.Name + "." + service.Namespace + ".svc"
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(int(port)))
}
