// Package suites holds the conformance specs, one file per area, and the frame
// that makes a spec tree of them: one spec per check, environment and tenant of
// the platform under test. The program runs them, and «ginkgo -p ./suites» runs
// the same ones against the same session.
package suites

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/your-org/flux-platform-conformance/suites/internal/bringup"
	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
	"github.com/your-org/flux-platform-conformance/suites/internal/program"
)

// registry holds every check of the specs; they add themselves when the package
// is initialised.
var registry check.Registry

// current is what the spec tree is built from; set before Ginkgo builds it.
var current *run

// run is one judgement of a session.
type run struct {
	view         *bringup.View
	environments []*environment
	// all are the environments of the session, also those that are not judged.
	all      []*environment
	checks   []check.Check
	tenants  []string
	recorder *check.Recorder
	timeouts platform.Timeouts
	// inForce is when every policy that was there before the run is in force.
	inForce time.Time
	// changed is the experiment that changes values, rolled the one that follows
	// them to running pods; nil until a spec asks.
	changed, rolled *experiment
}

// environment is one cluster with what was declared for it.
type environment struct {
	*platform.Environment
	// state is what the session says of the cluster.
	state bringup.EnvironmentState
	// config and client act as the cluster's administrator.
	config *rest.Config
	client client.Client
	view   *bringup.View
	// examples are the verdicts on the examples of the policies.
	examples examples
	// visitors are the pods of ours that ask the tenants' services.
	visitors visitors
	// hosts are the answers that the tenants' hosts gave.
	hosts hosts
	// moments is the look at all objects that checks share.
	moments moments
}

// as returns a client that acts as somebody else: through a copy of the
// configuration, never the shared one.
func (e *environment) as(user string, groups ...string) (client.Client, error) {
	config := rest.CopyConfig(e.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	c, err := client.New(config, client.Options{Mapper: e.client.RESTMapper()})
	if err != nil {
		return nil, fmt.Errorf("connect to %s as %s: %w", e.Name, user, err)
	}
	return c, nil
}

// unanswered names the webhook that a failure speaks of when only simulated pods
// could have answered it: then the platform is not to blame, and what depends on
// it cannot be judged here.
func (e *environment) unanswered(ctx context.Context, failure string) string {
	if !strings.Contains(failure, "failed calling webhook") {
		return ""
	}
	report, err := e.state.ClusterReport(ctx)
	if err != nil {
		return ""
	}
	for _, backend := range report.SimulatedBackends {
		for _, webhook := range backend.Webhooks {
			if strings.Contains(failure, fmt.Sprintf("failed calling webhook %q", webhook)) {
				return fmt.Sprintf("the webhook %s of %s %s is answered by simulated pods only (%s)", webhook, backend.Kind, backend.Name, strings.Join(backend.Pods, ", "))
			}
		}
	}
	return ""
}

// attach prepares a run on the session that view shows.
func attach(view *bringup.View, selection program.Selection, runFolder string) (*run, error) {
	checks, err := registry.Select(selection.Checks)
	if err != nil {
		return nil, err
	}
	recorder, err := check.OpenRecorder(runFolder)
	if err != nil {
		return nil, err
	}
	r := &run{view: view, checks: checks, tenants: selection.Tenants, recorder: recorder, timeouts: view.Timeouts()}
	r.inForce = time.Now().Add(r.timeouts.Effective)
	for _, declared := range view.Platform.Environments {
		state, up := view.State.Environment(declared.Name)
		if !up {
			continue
		}
		config, err := state.Config()
		if err != nil {
			return nil, err
		}
		c, err := client.New(config, client.Options{})
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", declared.Name, err)
		}
		e := &environment{Environment: declared, state: state, config: config, client: c, view: view}
		r.all = append(r.all, e)
		if len(selection.Environments) == 0 || slices.Contains(selection.Environments, declared.Name) {
			r.environments = append(r.environments, e)
		}
	}
	if len(r.environments) == 0 {
		return nil, errors.New("the session has no environment that is selected")
	}
	return r, nil
}

// selects says whether the run judges a tenant.
func (r *run) selects(tenant string) bool {
	return len(r.tenants) == 0 || slices.Contains(r.tenants, tenant)
}

// plan lists what a run of the whole platform owes; what the selection leaves
// out is planned as skipped.
func plan(view *bringup.View, selection program.Selection) []check.Planned {
	chosen, _ := registry.Select(selection.Checks)
	var environments []string
	for _, e := range view.Platform.Environments {
		environments = append(environments, e.Name)
	}
	tenants := func(environment string) []string {
		var out []string
		for _, e := range view.Platform.Environments {
			if e.Name == environment {
				for _, t := range e.Tenants {
					out = append(out, t.Name)
				}
			}
		}
		return out
	}
	return check.Plan(registry.All(), environments, tenants, func(c check.Check, environment, tenant string) string {
		switch {
		case !slices.ContainsFunc(chosen, func(other check.Check) bool { return other.ID == c.ID }):
			return "CHECKS leaves it out"
		case environment != "" && len(selection.Environments) > 0 && !slices.Contains(selection.Environments, environment):
			return "ENVS leaves it out"
		case tenant != "" && len(selection.Tenants) > 0 && !slices.Contains(selection.Tenants, tenant):
			return "TENANTS leaves it out"
		}
		return ""
	})
}

// The prefixes of a spec's labels by which its outcome is found.
const (
	checkLabel       = "check:"
	environmentLabel = "environment:"
	tenantLabel      = "tenant:"
)

// notSupported marks a skip that is an outcome of its own.
const notSupported = "NOT_SUPPORTED: "

// perEnvironment declares a check that is judged once in every environment.
func perEnvironment(c check.Check, body func(SpecContext, *environment), decorators ...any) bool {
	c.Scope = check.ScopeEnvironment
	return declare(c, func() {
		for _, e := range current.environments {
			It("in "+e.Name, Label(environmentLabel+e.Name), decorators, func(ctx SpecContext) {
				requireCapabilities(c, e)
				body(ctx, e)
			}, limits(c))
		}
	})
}

// perTenant declares a check that is judged for every tenant of every
// environment.
func perTenant(c check.Check, body func(SpecContext, *environment, *platform.Tenant)) bool {
	c.Scope = check.ScopeTenant
	return declare(c, func() {
		for _, e := range current.environments {
			for _, tenant := range e.Tenants {
				if !current.selects(tenant.Name) {
					continue
				}
				It(fmt.Sprintf("for %s in %s", tenant.Name, e.Name), Label(environmentLabel+e.Name, tenantLabel+tenant.Name), func(ctx SpecContext) {
					requireCapabilities(c, e)
					requireDeclared(ctx, e, tenant)
					body(ctx, e, tenant)
				}, limits(c))
			}
		}
	})
}

// limits are how long a spec of a check may take, and what may run beside it: a
// check that changes what is served comes last, alone.
func limits(c check.Check) []any {
	if c.Disruptive {
		return []any{SpecTimeout(current.timeouts.BringUp), SpecPriority(-1), Serial}
	}
	return []any{SpecTimeout(current.timeouts.Check)}
}

func declare(c check.Check, specs func()) bool {
	if err := registry.Add(c); err != nil {
		panic(err) // a mistake in this package, seen by every run
	}
	return Describe(c.ID+" "+c.Title, Label(checkLabel+c.ID, c.Area(), string(c.Level)), func() {
		if current == nil || !slices.ContainsFunc(current.checks, func(chosen check.Check) bool { return chosen.ID == c.ID }) {
			return
		}
		specs()
	})
}

// requireCapabilities ends a spec whose check needs what the cluster, by the
// session's probes, cannot do.
func requireCapabilities(c check.Check, e *environment) {
	GinkgoHelper()
	for _, need := range c.Needs {
		found := false
		for _, finding := range e.state.Findings {
			if string(finding.Capability) != need {
				continue
			}
			found = true
			if !finding.Has {
				Skip(notSupported + need + ": " + finding.Evidence)
			}
		}
		Expect(found).To(BeTrue(), "no probe answered for the capability %s", need)
	}
}

// measured names the report entries of a spec that say what it measured.
const measured = "measured"

// note puts into the spec's outcome what was measured, whatever its result.
func note(lines ...string) {
	if len(lines) > 0 {
		AddReportEntry(measured, strings.Join(lines, "\n"))
	}
}

func noted(report SpecReport) string {
	var lines []string
	for _, entry := range report.ReportEntries {
		if entry.Name == measured {
			lines = append(lines, entry.StringRepresentation())
		}
	}
	return strings.Join(lines, "\n")
}

// Every spec's end becomes an outcome, whatever way it ended.
var _ = ReportAfterEach(func(ctx SpecContext, report SpecReport) {
	o := check.Outcome{Seconds: report.RunTime.Seconds(), Note: noted(report)}
	for _, label := range report.Labels() {
		if id, ok := strings.CutPrefix(label, checkLabel); ok {
			o.Check = id
		}
		if name, ok := strings.CutPrefix(label, environmentLabel); ok {
			o.Environment = name
		}
		if name, ok := strings.CutPrefix(label, tenantLabel); ok {
			o.Tenant = name
		}
	}
	c, known := registry.Get(o.Check)
	if !known {
		return
	}
	message := strings.TrimSpace(report.Failure.Message)
	switch {
	case report.State == types.SpecStatePassed:
		o.Result = check.Passed
	case report.State == types.SpecStateSkipped && strings.HasPrefix(message, notSupported):
		o.Result, o.Reason = check.NotSupported, strings.TrimPrefix(message, notSupported)
	default:
		// A skip that is no NOT_SUPPORTED, a panic, a time-out: none is a pass.
		o.Result, o.Expected, o.Found = check.Failed, c.Title, message
		if o.Found == "" {
			o.Found = "the spec ended as " + report.State.String()
		}
		if panicked := report.Failure.ForwardedPanic; panicked != "" {
			o.Found += ": " + panicked
		}
	}
	if o.Result == check.Failed {
		o = explain(ctx, o)
	}
	if err := current.recorder.Record(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		recordErrors.Add(1)
	}
})

// explain adds to a tenant's failure what Flux says of that tenant, and tells a
// failure of the platform from a webhook that nothing could answer here.
func explain(ctx context.Context, o check.Outcome) check.Outcome {
	for _, e := range current.environments {
		if e.Name != o.Environment {
			continue
		}
		if tenant := e.Tenant(o.Tenant); tenant != nil {
			// What cannot be asked now does not hide the failure.
			words, _ := e.fluxWords(ctx, tenant)
			for _, line := range words {
				o.Found += "\n" + line
			}
		}
		if reason := e.unanswered(ctx, o.Found); reason != "" {
			return check.Outcome{
				Check: o.Check, Environment: o.Environment, Tenant: o.Tenant, Seconds: o.Seconds,
				Result: check.NotSupported, Reason: reason, Note: o.Note,
			}
		}
	}
	return o
}

// recordErrors counts outcomes that could not be written down: the run is then
// broken, since the report would be silent about them.
var recordErrors atomic.Int32

// verdictSink is what Ginkgo reports a failed suite to, outside of «go test».
type verdictSink struct{ failed bool }

// Fail is called by Ginkgo when any spec failed; the outcomes say which.
func (s *verdictSink) Fail() { s.failed = true }

// judge runs the specs on a session in this process, once, and returns the
// outcomes. A platform for which no spec is built is an error.
func judge(_ context.Context, view *bringup.View, selection program.Selection, runFolder string) ([]check.Outcome, error) {
	r, err := attach(view, selection, runFolder)
	if err != nil {
		return nil, err
	}
	current = r
	suite, reporter := configure(r)
	reporter.NoColor, reporter.Succinct = true, true
	sink := &verdictSink{}
	passed := RunSpecs(sink, "Flux platform conformance", suite, reporter)
	closed := r.recorder.Close()
	outcomes, err := check.ReadOutcomes(runFolder)
	if n := recordErrors.Load(); n > 0 {
		err = errors.Join(err, fmt.Errorf("%d outcomes could not be written down", n))
	}
	failed := slices.ContainsFunc(outcomes, func(o check.Outcome) bool { return o.Result == check.Failed })
	// What failed because a simulated pod could not answer is no failure of the
	// platform, so that Ginkgo may have seen one where the outcomes hold none.
	if passed && failed || len(outcomes) == 0 {
		err = errors.Join(err, errors.New("the specs and their outcomes disagree on whether one failed, or none was judged"))
	}
	return outcomes, errors.Join(err, closed)
}

// expectNone fails a spec when there are findings, and lists them one a line
// below what they are.
func expectNone(findings []string, what string, args ...any) {
	GinkgoHelper()
	for i, finding := range findings {
		findings[i] = strings.TrimSpace(finding) // some of Flux's own words end in empty lines
	}
	if len(findings) > 0 {
		Fail(listed(findings, what, args...))
	}
}

// listed are findings one a line, below what they are.
func listed(findings []string, what string, args ...any) string {
	return fmt.Sprintf(what, args...) + ":\n- " + strings.Join(findings, "\n- ")
}

// expectSome fails a spec that has nothing to look at: it would prove nothing.
func expectSome[T any](list []T, without string, args ...any) {
	GinkgoHelper()
	if len(list) == 0 {
		Fail(fmt.Sprintf(without, args...))
	}
}

// configure sets what all specs of a run have in common, and returns how Ginkgo is
// to run them.
func configure(r *run) (types.SuiteConfig, types.ReporterConfig) {
	RegisterFailHandler(Fail)
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyTimeout(r.timeouts.Eventually)
	SetDefaultEventuallyPollingInterval(r.timeouts.Poll)
	suite, reporter := GinkgoConfiguration()
	suite.FailOnEmpty, suite.FailOnPending, suite.RandomizeAllSpecs = true, true, true
	return suite, reporter
}
