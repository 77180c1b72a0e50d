package dump

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// fluxGroups ends the API groups of all Flux objects.
const fluxGroups = ".toolkit.fluxcd.io"

// logTail is how much of a log's end is kept, in bytes.
const logTail = 256 << 10

// writeFlux writes what every Flux object says of itself, as text.
func (r *reader) writeFlux(ctx context.Context, name string, redactor *check.Redactor) error {
	var errs []error
	var texts []string
	for _, kind := range r.resources {
		if !strings.HasSuffix(kind.Group, fluxGroups) {
			continue
		}
		errs = append(errs, r.each(ctx, kind, func(object *unstructured.Unstructured) error {
			texts = append(texts, statusText(object))
			return nil
		}))
	}
	slices.Sort(texts)
	text := strings.Join(texts, "\n")
	if text == "" {
		text = "no Flux object was found\n"
	}
	errs = append(errs, os.WriteFile(name, []byte(redactor.Redact(text)), fileMode))
	return errors.Join(errs...)
}

// statusText is an object's conditions, each with the generation that it speaks
// of, and where it stands.
func statusText(object *unstructured.Unstructured) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s/%s, generation %d", object.GetKind(), object.GetNamespace(), object.GetName(), object.GetGeneration())
	if observed, ok, err := unstructured.NestedInt64(object.Object, "status", "observedGeneration"); ok && err == nil {
		fmt.Fprintf(&text, ", observed %d", observed)
	} else {
		text.WriteString(", not observed yet")
	}
	if suspended, _, err := unstructured.NestedBool(object.Object, "spec", "suspend"); suspended && err == nil {
		text.WriteString(", suspended")
	}
	if deleted := object.GetDeletionTimestamp(); deleted != nil {
		fmt.Fprintf(&text, ", being deleted since %s, finalizers %s",
			deleted.UTC().Format("15:04:05"), strings.Join(object.GetFinalizers(), ", "))
	}
	text.WriteString("\n")
	for _, path := range [][]string{
		{"spec", "url"},
		{"status", "lastAttemptedRevision"},
		{"status", "lastAppliedRevision"},
		{"status", "artifact", "revision"},
		{"status", "artifact", "digest"},
	} {
		if value, ok, err := unstructured.NestedString(object.Object, path...); ok && err == nil {
			fmt.Fprintf(&text, "  %s %s\n", strings.Join(path[1:], "."), value)
		}
	}
	conditions, _, err := unstructured.NestedSlice(object.Object, "status", "conditions")
	if err != nil {
		fmt.Fprintf(&text, "  conditions cannot be read: %v\n", err)
	}
	for _, condition := range conditions {
		fields, ok := condition.(map[string]any)
		if !ok {
			continue
		}
		fmt.Fprintf(&text, "  %v=%v %v, generation %v, since %v: %v\n", fields["type"], fields["status"], fields["reason"],
			cmp.Or(fields["observedGeneration"], any("unknown")), fields["lastTransitionTime"], fields["message"])
	}
	return text.String()
}

// writeEvents writes the events of the reader's namespaces, oldest first.
func (r *reader) writeEvents(ctx context.Context, name string, redactor *check.Redactor) error {
	type event struct{ time, text string }
	var all []event
	err := r.each(ctx, resource{events, true}, func(object *unstructured.Unstructured) error {
		get := func(path ...string) string {
			value, _, err := unstructured.NestedString(object.Object, path...)
			if err != nil {
				return ""
			}
			return value
		}
		count, _, err := unstructured.NestedInt64(object.Object, "count")
		if err != nil || count == 0 {
			count = 1
		}
		moment := cmp.Or(get("series", "lastObservedTime"), get("lastTimestamp"), get("eventTime"), get("firstTimestamp"))
		all = append(all, event{moment, fmt.Sprintf("%s %-7s %s %s/%s %s x%d: %s\n", moment, get("type"), object.GetNamespace(),
			get("involvedObject", "kind"), get("involvedObject", "name"), get("reason"), count, get("message"))})
		return nil
	})
	slices.SortStableFunc(all, func(a, b event) int { return strings.Compare(a.time, b.time) })
	var text strings.Builder
	for _, e := range all {
		text.WriteString(e.text)
	}
	return errors.Join(err, os.WriteFile(name, []byte(redactor.Redact(text.String())), fileMode))
}

// writeLogs keeps the ends of log files under their own names; where two have
// one name, the folder they came from is put before it.
func writeLogs(folder string, logs []string, redactor *check.Redactor) error {
	var errs []error
	taken := map[string]bool{}
	for _, log := range logs {
		content, err := tail(log, logTail)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("reading a component's log: %w", err))
			continue
		}
		name := filepath.Base(log)
		if taken[name] {
			name = filepath.Base(filepath.Dir(log)) + "-" + name
		}
		for number := 2; taken[name]; number++ {
			name = fmt.Sprintf("%d-%s", number, filepath.Base(log))
		}
		taken[name] = true
		if err := os.MkdirAll(folder, folderMode); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, os.WriteFile(filepath.Join(folder, name), []byte(redactor.Redact(content)), fileMode))
	}
	return errors.Join(errs...)
}

// tail is at most the last bytes of a file, from the beginning of a line: half a
// token would not be recognised as one.
func tail(name string, most int64) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	skipped := max(0, info.Size()-most)
	content, err := io.ReadAll(io.NewSectionReader(file, skipped, most))
	if err != nil {
		return "", err
	}
	text := string(content)
	if skipped > 0 {
		_, text, _ = strings.Cut(text, "\n")
		text = fmt.Sprintf("… %d bytes before this are left out\n", info.Size()-int64(len(text))) + text
	}
	return text, nil
}
