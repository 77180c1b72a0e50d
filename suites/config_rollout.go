package suites

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bootstrap"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/cluster"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/state"
)

// The check that follows a changed value to running pods. As with the other
// changes, one experiment answers for all tenants and environments.
const servedValue = "CFG-006"

var _ = perTenant(check.Check{
	ID: servedValue,
	Title: "a changed value is served by new pods of the tenant, without a lost request on the way there and back, and no pod of anyone else's " +
		"is replaced or restarted",
	Why: "a value has arrived when users get it: pods that are not replaced serve the old one, and a rollout that " +
		"drops requests is an outage that every change of a value brings",
	Remedy: "where requests are lost, see the Deployment's strategy and readiness, and that the service goes on answering " +
		"for some seconds after it is told to end; where the new value is not served, see whether the pods were replaced",
	Reference:  "https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#rolling-update-deployment",
	Level:      check.Core,
	Needs:      []string{"Workloads", "ServiceRouting"},
	Disruptive: true,
}, func(ctx SpecContext, env *environment, tenant *platform.Tenant) {
	found, err := current.rollValues(ctx)
	Expect(err).NotTo(HaveOccurred())
	f := found[place{servedValue, env.Name, tenant.Name}]
	Expect(f).NotTo(BeNil(), "no value of %s was changed in %s", tenant.Name, env.Name)
	if f.unsupported != "" {
		Skip(notSupported + f.unsupported)
	}
	if f.figures != "" {
		note(f.figures)
	}
	for _, line := range f.once {
		note("seen once and not again: " + line)
	}
	expectNone(f.problems, "what is not as it should be while %s was changed and changed back", f.file)
})

// rollValues changes values and follows them to those who ask; all is taken back
// before it returns.
func (r *run) rollValues(ctx context.Context) (map[place]*finding, error) {
	if r.rolled == nil {
		x := &rollouts{experiment: newExperiment(r), asked: map[place]serving{}}
		x.attempt = x.roll
		r.rolled = x.experiment
		edits, err := x.edits()
		if err == nil {
			err = x.make(ctx, edits)
		}
		x.err = err
	}
	return r.rolled.found, r.rolled.err
}

// rollouts is the experiment that changes values under a steady stream of
// requests.
type rollouts struct {
	*experiment
	// asked are the Services that answer with the changed files.
	asked map[place]serving
}

// edits lists what is to be changed, and says where nothing can be followed.
func (x *rollouts) edits() ([]edit, error) {
	var out []edit
	for _, env := range x.run.environments {
		if !env.has(cluster.Workloads) || !env.has(cluster.ServiceRouting) {
			continue // said before it is asked for
		}
		for _, tenant := range env.Tenants {
			if !x.run.selects(tenant.Name) {
				continue
			}
			f := &finding{}
			at := place{servedValue, env.Name, tenant.Name}
			x.found[at] = f
			value, reason := valueOf(env.view.Platform, env.Environment, tenant, false)
			if reason == "" {
				reason = immovable(env.view, value)
			}
			var services []serving
			if reason == "" {
				var err error
				if services, reason, err = servings(env.view.Config, tenant); err != nil {
					return nil, err
				}
			}
			i := slices.IndexFunc(services, func(s serving) bool { return sameFile(s.files[value.Key], value.File) })
			if len(services) > 0 && i < 0 {
				reason = fmt.Sprintf("no Service of %s answers with %s", tenant.Name, value.File.Origin.File)
			}
			if i < 0 {
				f.unsupported = reason
				continue
			}
			f.file, x.asked[at] = value.File.Origin.File, services[i]
			repository, _ := served(env.view, value.File)
			out = append(out, edit{
				check: servedValue, tenant: tenant.Name, file: f.file, repository: repository,
				arrives: map[string]platform.Value{env.Name: value},
			})
		}
	}
	return out, nil
}

// askingInterval is how often a stream asks.
const askingInterval = 20 * time.Millisecond

// lateTime is how long a request of a stream may take: an answer that comes late,
// from a machine that is busy, is not lost. What is sent to a pod that has gone
// comes never.
const lateTime = 10 * time.Second

// steady is how many equal answers in a row show that a change has come to its end.
const steady = 25

// flow is one edit in one environment while it is followed.
type flow struct {
	edit     edit
	at       place
	stream   *stream
	old, new string
	problems []string
}

// roll commits edits under streams of requests, waits until they are served, takes
// them back, waits again, and judges what the streams saw. It returns what became
// of the pods of tenants that had no edit.
func (x *rollouts) roll(ctx context.Context, edits []edit) (strange []odd, err error) {
	flows := map[*site][]*flow{}
	pods := map[*site][]corev1.Pod{}
	var mu sync.Mutex
	defer func() {
		for _, here := range flows {
			for _, f := range here {
				err = errors.Join(err, f.stream.end(context.WithoutCancel(ctx)))
			}
		}
	}()
	err = x.everywhere(ctx, func(ctx context.Context, s *site) error {
		here, err := x.open(ctx, s, edits)
		mu.Lock()
		defer mu.Unlock()
		flows[s] = here
		if err == nil {
			pods[s], err = s.pods(ctx)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	marks, err := x.commit(ctx, edits)
	if err != nil {
		return nil, err
	}
	committed := time.Now()
	err = x.everywhere(ctx, func(ctx context.Context, s *site) error {
		var here []edit
		for _, f := range flows[s] {
			value := f.edit.arrives[s.env.Name]
			f.new = digest(append(slices.Clone(value.File.Content), marks[f.edit.file]...))
			here = append(here, f.edit)
		}
		delays, err := x.pass(ctx, s, here, marks, committed)
		if err != nil {
			return err
		}
		for i, f := range flows[s] {
			if delays[i].template > 0 {
				err = s.arrivedAt(ctx, f, f.new)
			} else {
				f.problems, err = s.hindered(ctx, f.edit.tenant)
				f.problems = append([]string{"no new pod template has come of the change"}, f.problems...)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := x.reset(ctx); err != nil {
		return nil, err
	}
	back := time.Now()
	err = x.everywhere(ctx, func(ctx context.Context, s *site) error {
		if err := bootstrap.Propagate(ctx, s.settle, x.changed); err != nil {
			return err
		}
		for _, f := range flows[s] {
			if err := s.arrivedAt(ctx, f, f.old); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for s, here := range flows {
		after, err := s.pods(ctx)
		if err != nil {
			return nil, err
		}
		edited := func(pod corev1.Pod) bool {
			return slices.ContainsFunc(here, func(f *flow) bool { return f.edit.tenant == pod.Labels[platform.TenantLabel] })
		}
		for _, what := range state.PodsDisturbed(slices.DeleteFunc(pods[s], edited), slices.DeleteFunc(after, edited)) {
			strange = append(strange, odd{s.env.Name, what})
		}
		for _, f := range here {
			if err := f.stream.end(ctx); err != nil {
				return nil, err
			}
			x.conclude(f, committed, back)
		}
	}
	return strange, nil
}

// conclude lays what a stream saw into the finding.
func (x *rollouts) conclude(f *flow, committed, back time.Time) {
	in := state.RollInput{Old: f.old, New: f.new, Back: back.Sub(committed).Seconds()}
	for _, r := range f.stream.all() {
		in.Answers = append(in.Answers, r.answer(committed))
	}
	roll := state.NewRoll(in)
	found := x.found[f.at]
	found.problems = append(f.problems, roll.Problems...)
	way := func(w state.Way) string {
		return fmt.Sprintf("first served after %.1f s, the value before it last after %.1f s", w.First, w.Last)
	}
	found.figures = fmt.Sprintf("%d requests, one each %s; the change %s; taken back, it was %s",
		roll.Requests, askingInterval, way(roll.There), way(roll.Back))
}

// open begins a stream of requests for each edit that arrives in an environment,
// and waits until each is answered steadily.
func (x *rollouts) open(ctx context.Context, s *site, edits []edit) ([]*flow, error) {
	var out []*flow
	var containers []corev1.Container
	for _, e := range edits {
		value, arrives := e.arrives[s.env.Name]
		if !arrives {
			continue
		}
		f := &flow{edit: e, at: place{servedValue, s.env.Name, e.tenant}, old: digest(value.File.Content)}
		service := x.asked[f.at]
		base, err := service.address(ctx, s.env)
		if err != nil {
			return nil, err
		}
		containers = append(containers, asking(fmt.Sprintf("stream-%d", len(containers)), "fetch",
			"--url="+base+service.serves.At(value.Key), "--interval="+askingInterval.String(), "--timeout="+lateTime.String()))
		out = append(out, f)
	}
	if len(out) == 0 {
		return nil, nil
	}
	guest, err := s.env.guest(ctx)
	if err != nil {
		return nil, err
	}
	pod, err := s.env.lodge(ctx, guest.namespace, containers)
	if err != nil {
		return nil, err
	}
	shared := &streamPod{env: s.env, pod: pod}
	for i, f := range out {
		f.stream = &stream{pod: shared, done: make(chan struct{})}
		if err := f.stream.follow(ctx, containers[i].Name); err != nil {
			return out[:i+1], err
		}
	}
	for _, f := range out {
		// Whoever does not answer as it must is told of by what the stream saw.
		_ = wait.PollUntilContextTimeout(ctx, current.timeouts.Poll, current.timeouts.Eventually, true, func(context.Context) (bool, error) {
			return f.stream.steadily(f.old), nil
		})
	}
	return out, ctx.Err()
}

// arrivedAt waits until a tenant's pods are all of the present template and those
// who ask get the wanted content steadily, or until it is settled that they will
// not. What has not come is left to be told by the stream.
func (s *site) arrivedAt(ctx context.Context, f *flow, wanted string) error {
	var problems []string
	err := wait.PollUntilContextTimeout(ctx, current.timeouts.Poll, current.timeouts.Reconcile, true, func(ctx context.Context) (bool, error) {
		var now []string
		passing := true
		for _, o := range s.env.Tenant(f.edit.tenant).Objects {
			if o.GetKind() != "Deployment" {
				continue
			}
			found, err := availability(ctx, s.env, o)
			if err != nil {
				return false, err
			}
			for _, finding := range found {
				now = append(now, fmt.Sprintf("%s: %s", o, finding.Text))
				passing = passing && finding.Passing
			}
		}
		problems = now // what the end of the time cuts off tells nothing
		return len(problems) == 0 && f.stream.steadily(wanted) || !passing, nil
	})
	f.problems = append(f.problems, problems...)
	if ctx.Err() != nil || err != nil && !wait.Interrupted(err) {
		return err
	}
	return nil
}

// pods are all pods of the tenants' namespaces.
func (s *site) pods(ctx context.Context) ([]corev1.Pod, error) {
	var out []corev1.Pod
	for _, namespace := range s.namespaces {
		list := &corev1.PodList{}
		if err := s.env.client.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("list the pods in %s: %w", namespace, err)
		}
		out = append(out, list.Items...)
	}
	return out, nil
}

// streamPod is the pod that streams come from, each from a container of its own.
type streamPod struct {
	env  *environment
	pod  *corev1.Pod
	once sync.Once
	err  error
}

// end takes the pod away, once.
func (s *streamPod) end(ctx context.Context) error {
	s.once.Do(func() { s.err = s.env.gone(ctx, s.pod) })
	return s.err
}

// stream is what a container writes that asks without pause.
type stream struct {
	pod  *streamPod
	done chan struct{}

	mu      sync.Mutex
	replies []reply
	err     error
}

// follow reads along what the container writes, until it ends.
func (s *stream) follow(ctx context.Context, container string) error {
	clientset, err := s.pod.env.clientset()
	if err == nil {
		pod := s.pod.pod
		// The log goes on for a moment when whoever asked for it has ended.
		log := clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container, Follow: true})
		lines, opened := log.Stream(context.WithoutCancel(ctx))
		if opened == nil {
			go func() {
				defer close(s.done)
				defer lines.Close()
				s.read(bufio.NewScanner(lines))
			}()
			return nil
		}
		err = opened
	}
	close(s.done)
	return fmt.Errorf("follow the requests of pod %s/%s: %w", s.pod.pod.Namespace, s.pod.pod.Name, err)
}

func (s *stream) read(lines *bufio.Scanner) {
	for lines.Scan() {
		var r reply
		err := json.Unmarshal(lines.Bytes(), &r)
		s.mu.Lock()
		if err != nil {
			s.err = errors.Join(s.err, fmt.Errorf("read what was answered: %w: %q", err, lines.Text()))
		} else {
			s.replies = append(s.replies, r)
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, lines.Err())
}

// end ends the pod that asks, and returns when all that it wrote is read.
func (s *stream) end(ctx context.Context) error {
	if s == nil {
		return nil
	}
	err := s.pod.end(ctx)
	if err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// all are the answers so far, in the order of their requests.
func (s *stream) all() []reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.replies)
}

// steadily says whether the newest answers all have this content.
func (s *stream) steadily(sum string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.replies) >= steady && !slices.ContainsFunc(s.replies[len(s.replies)-steady:], func(r reply) bool { return r.SHA256 != sum })
}
