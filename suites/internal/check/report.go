package check

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"time"
)

// SchemaVersion is the version of report.json. It changes when a field changes
// its meaning or goes away; a new field does not change it.
const SchemaVersion = "1"

// The names of the files that Write makes in the report's folder.
const (
	ReportFile = "report.json"
	JUnitFile  = "junit.xml"
)

// Schema is the JSON Schema (2020-12) of report.json.
//
//go:embed schema.json
var Schema []byte

// Report is what report.json holds. All times are UTC, all durations seconds,
// all sizes bytes. Lists are never null.
type Report struct {
	// SchemaVersion is set by Write.
	SchemaVersion string `json:"schemaVersion"`
	// Result and ExitCode are what became of the run; ExitCode is set by Write.
	Result   RunResult `json:"result"`
	ExitCode int       `json:"exitCode"`
	// Problems are reasons, beside failed checks, why the result is not passed.
	Problems []string `json:"problems"`
	// Started is when the program began.
	Started time.Time `json:"started"`
	// Seconds is how long the run took, from the program's start to its report.
	Seconds float64 `json:"seconds"`
	// IdleSeconds is for how long, summed over the phases, nothing but a timer was
	// waited for.
	IdleSeconds float64 `json:"idleSeconds"`
	// Command is the program's arguments, the program's name left out.
	Command []string `json:"command"`
	// Provider is the kind of cluster: embedded, kind or existing.
	Provider string `json:"provider"`
	// Platform is the repository that was judged.
	Platform Platform `json:"platform"`
	// Environments are the clusters that were brought up, in the order of the model.
	Environments []Environment `json:"environments"`
	// Tenants are the names of all tenants that were judged.
	Tenants []string `json:"tenants"`
	// Checks are all checks that are known, chosen or not.
	Checks []Check `json:"checks"`
	// Outcomes are sorted by check, environment and tenant.
	Outcomes []Outcome `json:"outcomes"`
	// WaiversUsed are the waivers that turned a failure into WAIVED.
	WaiversUsed []Waiver `json:"waiversUsed"`
	// Phases say where the time went.
	Phases []Phase `json:"phases"`
	// Processes are the programs that ran, with their peak memory.
	Processes []Process `json:"processes"`
	// Components are the programs that the clusters were made of.
	Components []Component `json:"components"`
	// Overrides are all differences between what the platform declares and what
	// ran.
	Overrides []Override `json:"overrides"`
	// NotHonoured says what pods declare and the programs behind them do not get,
	// and why.
	NotHonoured []string `json:"notHonoured"`
	// SimulatedPods are the pods behind which no program ran.
	SimulatedPods []SimulatedPod `json:"simulatedPods"`
	// SimulatedBackends are the webhooks and API services that a simulated pod
	// would have to answer.
	SimulatedBackends []SimulatedBackend `json:"simulatedBackends"`
	// Capabilities are what the probes found.
	Capabilities []Capability `json:"capabilities"`
	// Sources are what Flux fetched.
	Sources []Source `json:"sources"`
	// RefusedRequests are those for a URL without an answer.
	RefusedRequests []RefusedRequest `json:"refusedRequests"`
	// Notes are remarks for the reader that decide nothing.
	Notes []string `json:"notes"`
	// Attachments are the files that lie beside the report; Attach adds to them.
	Attachments []AttachmentFile `json:"attachments"`

	// attached are the attachments themselves, in the order of the files.
	attached []Attachment
}

// Platform is the repository under test.
type Platform struct {
	// Folder is the path that the user gave.
	Folder string `json:"folder"`
	// Revision is the commit that the folder is based on; empty without Git.
	Revision string `json:"revision"`
	// Dirty tells whether the folder differs from that commit.
	Dirty bool `json:"dirty"`
}

// Environment is one cluster of the platform.
type Environment struct {
	Name string `json:"name"`
	// Kubernetes and Flux are the versions that ran; empty when the cluster did
	// not come that far.
	Kubernetes string `json:"kubernetes"`
	Flux       string `json:"flux"`
}

// Phase is one step of a run in one environment.
type Phase struct {
	// Environment is empty for a step that is taken once for all.
	Environment string `json:"environment"`
	Name        string `json:"name"`
	// Started is when the phase began.
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	// ExpectedSeconds is what it took last time; 0 when nothing is known.
	ExpectedSeconds float64 `json:"expectedSeconds"`
	// WaitedFor is what held the phase up, longest first.
	WaitedFor []Wait `json:"waitedFor"`
}

// Wait is how long a phase waited for one object, all times together.
type Wait struct {
	Object  string  `json:"object"`
	Seconds float64 `json:"seconds"`
}

// Process is one program that the session ran.
type Process struct {
	Name        string `json:"name"`
	Environment string `json:"environment"`
	// PeakBytes is the largest resident set that was seen.
	PeakBytes int64 `json:"peakBytes"`
}

// Component is one program of the clusters.
type Component struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	// Origin is "registry" or "build".
	Origin string `json:"origin"`
	// FromCache tells whether the bytes were there already.
	FromCache bool `json:"fromCache"`
	// Reference is the image reference or module@version.
	Reference string `json:"reference"`
	// Digest is sha256:… of the program.
	Digest string `json:"digest"`
	// InPlaceOf are images that the platform declares, that could not be had, and
	// in whose place this component ran.
	InPlaceOf []string `json:"inPlaceOf"`
}

// Override is one difference between what the platform declares and what ran.
type Override struct {
	Environment string `json:"environment"`
	// Workload is the object that declares the program, as Kind/namespace/name.
	Workload string `json:"workload"`
	// Kind is what is overridden: arg, env, volume …
	Kind string `json:"kind"`
	// Name is the flag, variable or path.
	Name string `json:"name"`
	// Declared and Effective are empty where there is no such value.
	Declared  string `json:"declared"`
	Effective string `json:"effective"`
	Reason    string `json:"reason"`
}

// SimulatedPod is a pod behind which no program ran.
type SimulatedPod struct {
	Environment string   `json:"environment"`
	Namespace   string   `json:"namespace"`
	Name        string   `json:"name"`
	Images      []string `json:"images"`
}

// SimulatedBackend is a webhook or API service that nothing answers, because the
// pods behind its Service are simulated.
type SimulatedBackend struct {
	Environment string `json:"environment"`
	// Kind is the kind of the object that names the Service.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Service is namespace/name.
	Service string `json:"service"`
}

// Capability is what a probe found out about a cluster.
type Capability struct {
	Environment string `json:"environment"`
	Name        string `json:"name"`
	Has         bool   `json:"has"`
	// Evidence is what the probe saw.
	Evidence string `json:"evidence"`
}

// Source is one URL that Flux fetched.
type Source struct {
	URL string `json:"url"`
	// Revision is the commit or chart version that was answered with.
	Revision string `json:"revision"`
	// Digest is that of the answer, where it has one.
	Digest string `json:"digest"`
	// Upstream tells whether the answer came from the network.
	Upstream bool `json:"upstream"`
}

// RefusedRequest is a request for a URL that nothing answers for.
type RefusedRequest struct {
	Environment string `json:"environment"`
	// URL is that of the source, where it is known which one asked.
	URL string `json:"url"`
	// Object is the Flux object that asked; empty when that is not known.
	Object string    `json:"object"`
	Time   time.Time `json:"time"`
}

// Apply takes over what the summary decided: result, outcomes, problems and the
// waivers used.
func (r *Report) Apply(s Summary) {
	r.Result, r.Outcomes, r.Problems = s.Result, s.Outcomes, s.Problems
	r.WaiversUsed = nil
	for _, o := range s.Outcomes {
		if o.Waiver != nil && !slices.Contains(r.WaiversUsed, *o.Waiver) {
			r.WaiversUsed = append(r.WaiversUsed, *o.Waiver)
		}
	}
}

// Write makes report.json, junit.xml and a file for each attachment in the folder,
// which is created where it is missing. Each is replaced as a whole: a reader never
// sees half a report. Secrets are taken out of every text.
func (r Report) Write(dir string) error {
	clean, err := r.normalised()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating the folder of the report: %w", err)
	}
	content, err := json.MarshalIndent(clean, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the report: %w", err)
	}
	junit, err := clean.junit()
	if err != nil {
		return err
	}
	// What the report lists is there before the report is.
	if err := r.writeAttachments(dir); err != nil {
		return err
	}
	return errors.Join(
		WriteFile(filepath.Join(dir, ReportFile), append(content, '\n')),
		WriteFile(filepath.Join(dir, JUnitFile), junit),
	)
}

// normalised is a copy without secrets and without null lists, with times in UTC.
func (r Report) normalised() (Report, error) {
	content, err := json.Marshal(r)
	if err != nil {
		return Report{}, fmt.Errorf("encoding the report: %w", err)
	}
	var clean Report
	if err := json.Unmarshal(content, &clean); err != nil {
		return Report{}, fmt.Errorf("copying the report: %w", err)
	}
	clean.SchemaVersion, clean.ExitCode = SchemaVersion, clean.Result.ExitCode()
	tidy(reflect.ValueOf(&clean).Elem())
	return clean, nil
}

// ansi is a sequence that colours a terminal or moves its cursor.
var ansi = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]`)

// Tidy makes a report fit for anybody's eyes, in place, as Report.Write does: it
// takes secrets and colours out of every text, gives every list a value and turns
// times into UTC. The report is a pointer to a struct.
func Tidy(report any) { tidy(reflect.ValueOf(report).Elem()) }

// tidy takes secrets and colours out of every text, gives every list a value and turns times
// into UTC, in place.
func tidy(value reflect.Value) {
	switch value.Kind() {
	case reflect.Pointer:
		if !value.IsNil() {
			tidy(value.Elem())
		}
	case reflect.Struct:
		if moment, ok := value.Addr().Interface().(*time.Time); ok {
			*moment = moment.UTC()
			return
		}
		for i := range value.NumField() {
			if field := value.Field(i); field.CanSet() {
				tidy(field)
			}
		}
	case reflect.Slice:
		if value.IsNil() {
			value.Set(reflect.MakeSlice(value.Type(), 0, 0))
		}
		for i := range value.Len() {
			tidy(value.Index(i))
		}
	case reflect.String:
		value.SetString(Redact(ansi.ReplaceAllString(value.String(), "")))
	default:
		// Numbers and flags hold no secrets; the report has no maps.
	}
}

// WriteFile writes a file beside its place and moves it there, so that readers
// see the old content or the new. The folder must exist.
func WriteFile(name string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("writing %s: %w", name, err), os.Remove(file.Name()))
		}
	}()
	if _, err := file.Write(content); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := errors.Join(file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), name)
}
