package dump

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

// ClusterFolder is the folder, within an environment's artifacts, of what is
// collected once.
const ClusterFolder = "cluster"

const (
	requestTimeout = 15 * time.Second
	folderMode     = 0o755
	fileMode       = 0o644
)

// alwaysDumped are the namespaces of every platform.
var alwaysDumped = []string{"apps", "flux-system", "kyverno"}

// Input says what is collected and where to.
type Input struct {
	// RESTConfig reaches the cluster; it is copied. Nil leaves the cluster out, for
	// a failure that came before there was one.
	RESTConfig *rest.Config
	// Dir is the environment's folder of artifacts; required, created where it is
	// missing.
	Dir string
	// Check and Outcome are the failure; required.
	Check   check.Check
	Outcome check.Outcome
	// Namespaces are collected beside apps, flux-system and kyverno: those of the
	// tenants.
	Namespaces []string
	// Logs are the files that components write to; their ends are kept. A file that
	// is not there is left out.
	Logs []string
	// PodLogs says that containers run, so that the API server can be asked for
	// their logs.
	PodLogs bool
	// PodNamespace and PodSelector are those of the pods that the failure is about,
	// in the form of a label selector: their events and logs are kept with it. Empty
	// where it is about none.
	PodNamespace, PodSelector string
	// Note is added to the failure's text.
	Note string
}

// Collect writes Dir/ID for one failed outcome: failure.txt (with the tenant in
// its name, if any), flux.txt, and below pods/ what the pods tell that it is about.
// The first failure of an environment, over all
// processes, also has the whole cluster written to Dir/cluster; later ones refer
// to that, for many checks can fail at once. It returns the check's folder and
// everything that could not be collected; what could be collected is there
// nevertheless.
func Collect(ctx context.Context, in Input) (string, error) {
	if in.Dir == "" || in.Check.ID == "" || in.Outcome.Check != in.Check.ID {
		return "", fmt.Errorf("collecting a failure: the folder, or a check with its outcome, is missing (folder %q, check %q, outcome of %q)",
			in.Dir, in.Check.ID, in.Outcome.Check)
	}
	folder := filepath.Join(in.Dir, in.Check.ID)
	if err := os.MkdirAll(folder, folderMode); err != nil {
		return folder, fmt.Errorf("collecting the failure of %s: %w", in.Check.ID, err)
	}
	var errs []error
	// The failure comes first: whatever happens to the rest, it is there. It is
	// written again when the values of Secrets are known.
	redactor := &check.Redactor{}
	errs = append(errs, writeFailure(folder, in, redactor))

	// Making the folder is what tells the first from the others.
	whole := filepath.Join(in.Dir, ClusterFolder)
	err := os.Mkdir(whole, folderMode)
	first := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		errs = append(errs, err)
	}

	var reader *reader
	if in.RESTConfig != nil {
		namespaces := slices.Concat(alwaysDumped, in.Namespaces)
		slices.Sort(namespaces)
		reader, err = newReader(ctx, in.RESTConfig, slices.Compact(namespaces))
		errs = append(errs, err)
	}
	if reader != nil {
		// Values of Secrets are known before anything else is written.
		errs = append(errs, reader.learnSecrets(ctx, redactor), writeFailure(folder, in, redactor))
		errs = append(errs, reader.writeFlux(ctx, filepath.Join(folder, "flux.txt"), redactor))
		if in.PodLogs && in.PodSelector != "" {
			errs = append(errs, reader.writePods(ctx, filepath.Join(folder, "pods"), in.PodNamespace, in.PodSelector, redactor))
		}
	}
	if first {
		if reader != nil {
			errs = append(errs, reader.writeObjects(ctx, filepath.Join(whole, "objects"), redactor))
			errs = append(errs, reader.writeEvents(ctx, filepath.Join(whole, "events.txt"), redactor))
			for _, namespace := range reader.namespaces {
				if in.PodLogs {
					errs = append(errs, reader.writePods(ctx, filepath.Join(whole, "pods", namespace), namespace, "", redactor))
				}
			}
		}
		errs = append(errs, writeLogs(filepath.Join(whole, "logs"), in.Logs, redactor))
	}
	if err := errors.Join(errs...); err != nil {
		err = fmt.Errorf("collecting the failure of %s: %w", in.Check.ID, err)
		missing := filepath.Join(folder, "not-collected.txt")
		return folder, errors.Join(err, os.WriteFile(missing, []byte(redactor.Redact(err.Error())+"\n"), fileMode))
	}
	return folder, nil
}

func writeFailure(folder string, in Input, redactor *check.Redactor) error {
	name := "failure.txt"
	place := in.Outcome.Environment
	if tenant := in.Outcome.Tenant; tenant != "" {
		name = "failure-" + strings.ReplaceAll(tenant, string(filepath.Separator), "_") + ".txt"
		place += ", tenant " + tenant
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s %s: %s\n", in.Check.ID, in.Outcome.Result, in.Check.Title)
	if place != "" {
		fmt.Fprintf(&text, "in %s\n", place)
	}
	fmt.Fprintf(&text, "\n%s", check.Describe(in.Check, in.Outcome))
	if in.Note != "" {
		fmt.Fprintf(&text, "\n%s\n", strings.TrimRight(in.Note, "\n"))
	}
	fmt.Fprintf(&text, "\nObjects, events and component logs, as they were at the first failure in this environment: ../%s\n",
		ClusterFolder)
	return os.WriteFile(filepath.Join(folder, name), []byte(redactor.Redact(text.String())), fileMode)
}
