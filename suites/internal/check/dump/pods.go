package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// writePods writes what pods themselves tell, a folder for each pod: its events,
// and the end of the log of each container, of the present run and the one before.
func (r *reader) writePods(ctx context.Context, folder, namespace, selector string, redactor *check.Redactor) error {
	pods, err := r.core.Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("listing the pods of %s: %w", namespace, err)
	}
	events, err := r.core.Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("listing the events of %s: %w", namespace, err)
	}
	errs := make([]error, len(pods.Items))
	var group errgroup.Group
	group.SetLimit(workers)
	for i, pod := range pods.Items {
		own := slices.DeleteFunc(slices.Clone(events.Items), func(e corev1.Event) bool { return e.InvolvedObject.UID != pod.UID })
		group.Go(func() error {
			errs[i] = r.writePod(ctx, filepath.Join(folder, pod.Name), pod, own, redactor)
			return nil
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

func (r *reader) writePod(ctx context.Context, folder string, pod corev1.Pod, events []corev1.Event, redactor *check.Redactor) error {
	if err := os.MkdirAll(folder, folderMode); err != nil {
		return err
	}
	var errs []error
	write := func(name, text string) {
		errs = append(errs, os.WriteFile(filepath.Join(folder, name), []byte(redactor.Redact(text)), fileMode))
	}
	if len(events) > 0 {
		write("events.txt", eventText(events))
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		// A container that has not started has no log to ask for.
		if status.State.Running != nil || status.State.Terminated != nil {
			text, err := r.podLog(ctx, pod, status.Name, false)
			errs = append(errs, err)
			write(status.Name+".log", text)
		}
		if status.RestartCount > 0 || status.LastTerminationState.Terminated != nil {
			text, err := r.podLog(ctx, pod, status.Name, true)
			errs = append(errs, err)
			write(status.Name+".previous.log", text)
		}
	}
	return errors.Join(errs...)
}

// podLog is the end of a container's log.
func (r *reader) podLog(ctx context.Context, pod corev1.Pod, container string, previous bool) (string, error) {
	what := fmt.Sprintf("the log of container %s of pod %s/%s", container, pod.Namespace, pod.Name)
	stream, err := r.core.Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, Timestamps: true, TailLines: new(int64(logLines)),
	}).Stream(ctx)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", what, err)
	}
	defer stream.Close()
	content, err := io.ReadAll(io.LimitReader(stream, 4*logTail))
	if err != nil {
		return string(content), fmt.Errorf("reading %s: %w", what, err)
	}
	text := string(content)
	if skipped := len(text) - logTail; skipped > 0 {
		_, text, _ = strings.Cut(text[skipped:], "\n")
		text = "… what was written before this is left out\n" + text
	}
	return text, nil
}

// logLines is how many lines of a container's log are asked for at most.
const logLines = 2000

// eventText is a line for each event, oldest first.
func eventText(events []corev1.Event) string {
	moment := func(e corev1.Event) string {
		const form = "2006-01-02T15:04:05Z"
		switch {
		case e.Series != nil:
			return e.Series.LastObservedTime.UTC().Format(form)
		case !e.LastTimestamp.IsZero():
			return e.LastTimestamp.UTC().Format(form)
		}
		return e.EventTime.UTC().Format(form)
	}
	var lines []string
	for _, e := range events {
		lines = append(lines, fmt.Sprintf("%s %-7s %s x%d: %s\n", moment(e), e.Type, e.Reason, max(1, e.Count), strings.TrimSpace(e.Message)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
