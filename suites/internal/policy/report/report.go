// Package report lays what examples expect, what a live server says and what
// Kyverno's CLI says beside each other, and tells where they do not agree, whether
// somebody has explained it, and what of a policy no example exercises. It is pure:
// it reads no file and asks no cluster.
package report

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/coverage"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/live"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/offline"
)

// SchemaVersion is the version of policies.json. It changes when a field changes its
// meaning or goes away; a new field does not change it.
const SchemaVersion = "1"

// Schema is the JSON Schema (2020-12) of policies.json.
//
//go:embed schema.json
var Schema []byte

// The files that a report is written to.
const (
	File      = "policies.json"
	JUnitFile = "policies.junit.xml"
)

// Outcome is what became of one example: the live verdict beside the expected one.
type Outcome string

// The outcomes of an example.
const (
	// OK: the server says what the example expects.
	OK Outcome = "OK"
	// Wrong: it says something else, or refuses in other words.
	Wrong Outcome = "WRONG"
	// Explained: it says something else than expected, so does the CLI, and an entry
	// of the list says why they differ.
	Explained Outcome = "EXPLAINED"
	// Invalid: the server refuses the object itself, whatever policies say.
	Invalid Outcome = "INVALID"
	// Unknown: no answer speaks for the policy. It is an error, never a verdict.
	Unknown Outcome = "UNKNOWN"
	// NotSupported: no live server can be asked this.
	NotSupported Outcome = "NOT_SUPPORTED"
)

// outcomes are all of them, the good one first, in the order in which they are
// counted.
var outcomes = []Outcome{OK, Wrong, Invalid, Unknown, Explained, NotSupported}

// Failing says whether an example with this outcome fails the run.
func (o Outcome) Failing() bool { return o == Wrong || o == Invalid || o == Unknown }

// Agreement is what the live and the offline verdict say together.
type Agreement string

// The agreements of two verdicts.
const (
	// Agree: both say the same.
	Agree Agreement = "AGREE"
	// Differs: they do not, and nobody has said why.
	Differs Agreement = "DIFFERS"
	// DifferenceExplained: they do not, and an entry of the list says why.
	DifferenceExplained Agreement = "EXPLAINED"
	// InvalidLive: offline there is a verdict on an object that no server takes.
	InvalidLive Agreement = "INVALID_LIVE"
	// NotSupportedLive: only offline can be asked.
	NotSupportedLive Agreement = "NOT_SUPPORTED_LIVE"
	// NotSupportedOffline: only live can be asked; Kyverno's CLI crashes.
	NotSupportedOffline Agreement = "NOT_SUPPORTED_OFFLINE"
	// NotCompared: the live verdict is UNKNOWN, or nothing was asked offline.
	NotCompared Agreement = "NOT_COMPARED"
)

// agreements are all of them in the order in which they are counted.
var agreements = []Agreement{Agree, Differs, DifferenceExplained, InvalidLive, NotSupportedLive, NotSupportedOffline, NotCompared}

// Report is what policies.json holds. Times are UTC, durations seconds; lists are
// never null.
type Report struct {
	SchemaVersion string          `json:"schemaVersion"`
	Result        check.RunResult `json:"result"`
	ExitCode      int             `json:"exitCode"`
	// Command is the program's arguments, and Folder the one that was read.
	Command []string  `json:"command"`
	Folder  string    `json:"folder"`
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Strict  bool      `json:"strict"`
	Counts  Counts    `json:"counts"`
	// Problems are reasons, beside examples and policies, why the result is not
	// passed; Notes are remarks that decide nothing.
	Problems []string `json:"problems"`
	Notes    []string `json:"notes"`
	// Findings are what is wrong with the files that were read.
	Findings []Finding `json:"findings"`
	Policies []Policy  `json:"policies"`
	Results  []Result  `json:"results"`
	// Kinds did not exist on the server and were made for the session.
	Kinds []Kind `json:"kinds"`
	Stats Stats  `json:"stats"`
	// Phases say where the time went, and Memory is the largest that each process
	// had.
	Phases []check.Phase   `json:"phases"`
	Memory []check.Process `json:"memory"`
}

// Counts are how many examples and policies there are of each kind.
type Counts struct {
	Policies int `json:"policies"`
	// Unproven policies have no example.
	Unproven int `json:"unproven"`
	Examples int `json:"examples"`
	// Outcomes and Agreements count examples; those of which there is none are left
	// out.
	Outcomes   map[Outcome]int   `json:"outcomes"`
	Agreements map[Agreement]int `json:"agreements"`
	// Covered of Coverage parts of policies have the examples that they need.
	Covered  int `json:"covered"`
	Coverage int `json:"coverage"`
}

// Finding is something wrong with a file.
type Finding struct {
	File string `json:"file"`
	// Line counts from 1; 0 where none is known.
	Line int    `json:"line"`
	Text string `json:"text"`
}

// Policy is what became of one policy.
type Policy struct {
	// Kind, Namespace and Name are the policy's; Namespace is empty for one of the
	// whole cluster.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Examples  int    `json:"examples"`
	// Unproven: no example asks it anything.
	Unproven bool `json:"unproven"`
	// Audits: as it is written it refuses nothing; it was judged as if it did.
	Audits bool `json:"audits"`
	// EffectiveSeconds is how long after its creation it was in force; null when it
	// never was, or was not installed.
	EffectiveSeconds *float64 `json:"effectiveSeconds"`
	// Problem says why it could not be judged; empty: it was.
	Problem string `json:"problem"`
	// Denial is the answer with which the policy as written refused one example
	// alone, and DenialProblem what went wrong with that.
	Denial        string `json:"denial"`
	DenialProblem string `json:"denialProblem"`
	// Coverage lists what the policy says with the examples that exercise it.
	Coverage []Item `json:"coverage"`
}

// Item is one thing that a policy says.
type Item struct {
	Part string `json:"part"`
	Name string `json:"name"`
	// Failing and Passing are the IDs of results that exercise it.
	Failing string `json:"failing"`
	Passing string `json:"passing"`
	// Missing says what example is lacking, and NotSupported why none can exercise
	// it here; both empty: it is covered.
	Missing      string `json:"missing"`
	NotSupported string `json:"notSupported"`
}

// Object names what is judged.
type Object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
}

func (o Object) String() string {
	return o.Kind + " " + strings.TrimPrefix(o.Namespace+"/"+o.Name, "/")
}

// Result is one example with what was said of it.
type Result struct {
	// ID names it within the folder; it is what an entry of the list names.
	ID     string `json:"id"`
	Policy string `json:"policy"`
	// Rule is that of a legacy policy; empty: the policy as a whole.
	Rule        string `json:"rule"`
	Test        string `json:"test"`
	File        string `json:"file"`
	Line        int    `json:"line"`
	Object      Object `json:"object"`
	Operation   string `json:"operation"`
	Subresource string `json:"subresource"`
	// Identity is who asks.
	Identity string          `json:"identity"`
	Expected example.Verdict `json:"expected"`
	// ExpectedMessage is a fragment that the refusal must hold; empty: any words do.
	ExpectedMessage string    `json:"expectedMessage"`
	Live            Said      `json:"live"`
	Offline         Said      `json:"offline"`
	Outcome         Outcome   `json:"outcome"`
	Agreement       Agreement `json:"agreement"`
	// Sent says what was sent to the server, and as whom.
	Sent string `json:"sent"`
	// Notes are what a reader has to know of it.
	Notes []string `json:"notes"`
	// Cause and Entry are the explanation of a difference and its place in the list.
	Cause   string  `json:"cause"`
	Entry   string  `json:"entry"`
	Seconds float64 `json:"seconds"`
}

// Said is what one judge said.
type Said struct {
	// Verdict is empty where nothing was asked.
	Verdict example.Verdict `json:"verdict"`
	// Words are the policy's own, or say why there is no verdict.
	Words string `json:"words"`
}

// Kind is one for which the session made a CustomResourceDefinition.
type Kind struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Stats are what judging cost.
type Stats struct {
	Requests int `json:"requests"`
	Retries  int `json:"retries"`
	// Installed counts the objects that were made beforehand.
	Installed        int     `json:"installed"`
	PreparingSeconds float64 `json:"preparingSeconds"`
	AskingSeconds    float64 `json:"askingSeconds"`
	P50Seconds       float64 `json:"p50Seconds"`
	P99Seconds       float64 `json:"p99Seconds"`
	Workers          int     `json:"workers"`
}

// Input is what a report is made of.
type Input struct {
	Command []string
	Started time.Time
	// Strict makes a policy without examples an error.
	Strict  bool
	Library *example.Library
	// Live is nil where nothing was judged; Offline nil where nothing was asked.
	// Verdicts are in the order of the library's examples.
	Live     *live.Judgement
	Offline  []offline.Verdict
	Coverage []coverage.Item
	// Explained is the list of explanations.
	Explained []Explanation
	// Selected: only some policies were chosen, so that entries about others are not
	// unused.
	Selected bool
	// Invalid says what is wrong with the user's input besides the findings, Broken
	// why the run could not be carried out.
	Invalid, Broken error
	Phases          []check.Phase
	Memory          []check.Process
	// Seconds is how long the run took.
	Seconds float64
}

// Make lays everything beside each other and decides the result.
func Make(in Input) Report {
	r := Report{
		SchemaVersion: SchemaVersion, Command: in.Command, Started: in.Started, Seconds: in.Seconds,
		Strict: in.Strict, Phases: in.Phases, Memory: in.Memory,
	}
	if in.Library != nil {
		r.Folder = in.Library.Dir
		for _, f := range in.Library.Findings {
			r.Findings = append(r.Findings, Finding{File: f.File, Line: f.Line, Text: f.Text})
		}
	}
	if in.Library != nil && in.Live != nil {
		r.results(in)
		r.policies(in)
		r.Stats = stats(in.Live.Stats)
		for _, k := range in.Live.Kinds {
			r.Kinds = append(r.Kinds, Kind{APIVersion: k.APIVersion, Kind: k.Kind})
		}
	}
	for _, err := range []error{in.Invalid, in.Broken} {
		if err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
	}
	r.conclude(in)
	return r
}

func stats(s live.Stats) Stats {
	return Stats{
		Requests: s.Requests, Retries: s.Retries, Installed: s.Installed, Workers: s.Workers,
		PreparingSeconds: s.Preparing.Seconds(), AskingSeconds: s.Asking.Seconds(),
		P50Seconds: s.P50.Seconds(), P99Seconds: s.P99.Seconds(),
	}
}

// results joins what was said of each example.
func (r *Report) results(in Input) {
	used := make([]int, len(in.Explained))
	for i, e := range in.Library.Examples() {
		one := resultOf(e)
		if i < len(in.Live.Verdicts) {
			one.takeLive(e, in.Live.Verdicts[i])
		} else {
			one.Outcome, one.Live = Unknown, Said{Verdict: example.Unknown, Words: "nothing was asked"}
		}
		if i < len(in.Offline) {
			one.Offline = Said{Verdict: in.Offline[i].Verdict, Words: in.Offline[i].Message}
		}
		one.Agreement = agreementOf(one.Live.Verdict, one.Offline.Verdict)
		r.explain(&one, in.Explained, used)
		r.Results = append(r.Results, one)
	}
	for i, entry := range in.Explained {
		if used[i] == 0 {
			r.unused(entry, in)
		}
	}
}

func resultOf(e *example.Example) Result {
	return Result{
		ID: e.ID(), Policy: named(e.Policy), Rule: e.Rule, Test: e.Test.Name, File: e.File, Line: e.Line,
		Object: Object{
			APIVersion: e.Object.GetAPIVersion(), Kind: e.Object.GetKind(), Namespace: e.Object.GetNamespace(), Name: e.Object.GetName(),
		},
		Operation: e.Operation, Subresource: e.Subresource, Identity: identity(e.Test.User),
		Expected: e.Expected, ExpectedMessage: e.Message,
	}
}

// named is how rows and causes call a policy.
func named(p *example.Policy) string {
	return strings.TrimPrefix(p.Object.GetNamespace()+"/"+p.Object.GetName(), "/")
}

// identity names who asks, with the groups and roles that the test gives.
func identity(u *example.User) string {
	if u == nil {
		return "an administrator"
	}
	text := cmp.Or(u.Name, "nobody by name")
	for _, list := range []struct {
		name   string
		values []string
	}{{"groups", u.Groups}, {"roles", u.Roles}, {"cluster roles", u.ClusterRoles}} {
		if len(list.values) > 0 {
			text += fmt.Sprintf("; %s %s", list.name, strings.Join(list.values, ", "))
		}
	}
	return text
}

// takeLive takes over what the server said, and what that makes of the example.
func (one *Result) takeLive(e *example.Example, v live.Verdict) {
	one.Live = Said{Verdict: v.Verdict, Words: strings.Join(slices.DeleteFunc(append(slices.Clone(v.Words), v.Reason), func(s string) bool { return s == "" }), "\n")}
	one.Sent, one.Notes, one.Seconds = v.Sent, v.Notes, v.Seconds
	switch {
	case v.Verdict == example.Invalid:
		one.Outcome = Invalid
	case v.Verdict == example.NotSupported:
		one.Outcome = NotSupported
	case v.Verdict == example.Unknown || v.Verdict == "":
		one.Outcome, one.Live.Verdict = Unknown, example.Unknown
	case !same(v.Verdict, e.Expected):
		one.Outcome = Wrong
	case e.Message != "" && same(v.Verdict, example.Fail) && !strings.Contains(one.Live.Words, e.Message):
		one.Outcome = Wrong
		one.Notes = append(slices.Clone(one.Notes), fmt.Sprintf("the refusal does not say %q", e.Message))
	default:
		one.Outcome = OK
	}
}

// same says whether two verdicts mean the same: a warning is a refusal that the
// policy does not carry out.
func same(a, b example.Verdict) bool {
	refusal := func(v example.Verdict) example.Verdict {
		if v == example.Warn {
			return example.Fail
		}
		return v
	}
	return refusal(a) == refusal(b)
}

func agreementOf(live, offline example.Verdict) Agreement {
	switch {
	case live == example.NotSupported:
		return NotSupportedLive
	case live == example.Unknown || offline == "":
		return NotCompared
	case live == example.Invalid:
		return InvalidLive
	case offline == example.NotSupported:
		return NotSupportedOffline
	case same(live, offline):
		return Agree
	default:
		return Differs
	}
}

// explain looks for the entry that says why live and offline differ.
func (r *Report) explain(one *Result, list []Explanation, used []int) {
	if one.Agreement != Differs && one.Agreement != InvalidLive {
		return
	}
	var entries []string
	for i, entry := range list {
		if entry.Result != one.ID || !entry.expects(*one) {
			continue
		}
		used[i]++
		entries = append(entries, entry.Where)
		one.Agreement, one.Cause, one.Entry = DifferenceExplained, entry.Cause, entries[0]
	}
	if len(entries) > 1 {
		r.Problems = append(r.Problems, fmt.Sprintf("%s all explain %s: leave one", strings.Join(entries, ", "), one.ID))
	}
	if len(entries) > 0 && (one.Outcome == Wrong || one.Outcome == Invalid) {
		one.Outcome = Explained
	}
}

// unused says what is wrong with an entry that explains nothing.
func (r *Report) unused(entry Explanation, in Input) {
	i := slices.IndexFunc(r.Results, func(one Result) bool { return one.ID == entry.Result })
	switch {
	case i >= 0 && r.Results[i].Agreement == NotCompared:
		r.Notes = append(r.Notes, fmt.Sprintf("%s was not looked at: its result was not compared", entry))
	case i >= 0:
		said := r.Results[i]
		r.Problems = append(r.Problems, fmt.Sprintf("%s explains no difference: remove it, or correct its results (live %s, offline %s)",
			entry, said.Live.Verdict, said.Offline.Verdict))
	case in.Selected:
		r.Notes = append(r.Notes, fmt.Sprintf("%s was not looked at: the selection left its result out", entry))
	default:
		r.Problems = append(r.Problems, fmt.Sprintf("%s is about no result of this folder: correct its ID, or remove it", entry))
	}
}

func (r *Report) policies(in Input) {
	examples := map[*example.Policy]int{}
	for _, e := range in.Library.Examples() {
		examples[e.Policy]++
	}
	for _, p := range in.Library.Policies {
		one := Policy{
			Kind: p.Object.GetKind(), Namespace: p.Object.GetNamespace(), Name: p.Object.GetName(),
			File: p.File, Line: p.Line, Examples: examples[p], Unproven: examples[p] == 0,
		}
		i := slices.IndexFunc(in.Live.Policies, func(s live.PolicyState) bool { return s.Policy == p })
		if i >= 0 {
			state := in.Live.Policies[i]
			one.Audits, one.Problem, one.Denial, one.DenialProblem = state.Audits, state.Problem, state.Denial, state.DenialProblem
			if state.Effective >= 0 && state.Problem == "" {
				one.EffectiveSeconds = &state.Effective
			}
		}
		for _, item := range in.Coverage {
			if item.Policy == p {
				one.Coverage = append(one.Coverage, Item{
					Part: item.Part, Name: item.Name, Failing: item.Failing, Passing: item.Passing,
					Missing: item.Missing, NotSupported: item.NotSupported,
				})
			}
		}
		r.Policies = append(r.Policies, one)
	}
	for _, t := range in.Library.Tests {
		r.exercised(in, t)
	}
}

// exercised says which parts a test calls impossible to exercise that are not lacking
// an example, or that none of its policies has. Of a policy that was not looked at
// nothing is known.
func (r *Report) exercised(in Input, t *example.Test) {
	if slices.ContainsFunc(in.Live.Policies, func(s live.PolicyState) bool { return s.Problem != "" && slices.Contains(t.Policies, s.Policy) }) {
		return
	}
	for _, u := range t.Unexercised {
		known, used := false, false
		for _, item := range in.Coverage {
			if slices.Contains(t.Policies, item.Policy) {
				known = true
				used = used || item.NotSupported == u.Cause && u.Names(item.Part+" "+item.Name)
			}
		}
		if known && !used {
			r.Problems = append(r.Problems, fmt.Sprintf("%s: the annotation %s names «%s», which examples exercise, or which none of the test's policies has: remove it",
				t.Place, example.UnexercisedAnnotation, u.Part))
		}
	}
}

// String names the policy for a reader.
func (p Policy) String() string {
	return p.Kind + " " + strings.TrimPrefix(p.Namespace+"/"+p.Name, "/")
}

func (p Policy) named() string { return strings.TrimPrefix(p.Namespace+"/"+p.Name, "/") }

// failing says whether the policy fails the run, examples aside.
func (p Policy) failing(strict bool) bool {
	return p.Problem != "" || p.DenialProblem != "" || p.Unproven && strict
}

// covered says whether the examples that exercise a part are there.
func (i Item) covered() bool { return i.Missing == "" && i.NotSupported == "" }

// Failing says whether a result fails the run: its outcome is not the expected one,
// or live and offline differ and nobody has said why.
func (one Result) Failing() bool {
	return one.Outcome.Failing() || one.Agreement == Differs
}

// Fails says whether a policy of the report fails the run, its examples included.
func (r Report) Fails(p Policy) bool {
	return p.failing(r.Strict) || slices.ContainsFunc(r.Results, func(one Result) bool {
		return one.Policy == p.named() && one.Failing()
	})
}

// conclude counts, and decides the result.
func (r *Report) conclude(in Input) {
	r.Counts.Outcomes, r.Counts.Agreements = map[Outcome]int{}, map[Agreement]int{}
	failed := false
	for _, one := range r.Results {
		r.Counts.Examples++
		r.Counts.Outcomes[one.Outcome]++
		r.Counts.Agreements[one.Agreement]++
		failed = failed || one.Failing()
	}
	judged := r.Counts.Examples - r.Counts.Outcomes[NotSupported] - r.Counts.Outcomes[Unknown]
	for _, p := range r.Policies {
		r.Counts.Policies++
		if p.Unproven {
			r.Counts.Unproven++
		}
		failed = failed || p.failing(in.Strict)
		for _, item := range p.Coverage {
			r.Counts.Coverage++
			if item.covered() {
				r.Counts.Covered++
			}
		}
	}
	switch {
	case in.Broken != nil:
		r.Result = check.RunBroken
	case in.Invalid != nil, len(r.Findings) > 0:
		r.Result = check.RunInvalidInput
	case failed || len(r.Problems) > 0:
		r.Result = check.RunFailed
	case judged == 0:
		r.Problems = append(r.Problems, "no example was judged: that all is well cannot be said of nothing")
		r.Result = check.RunFailed
	default:
		r.Result = check.RunPassed
	}
	r.ExitCode = r.Result.ExitCode()
}

// JSON is the report as policies.json holds it: without secrets and null lists.
func (r Report) JSON() ([]byte, error) {
	clean, err := r.clean()
	if err != nil {
		return nil, err
	}
	content, err := json.MarshalIndent(clean, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the report on policies: %w", err)
	}
	return append(content, '\n'), nil
}

// clean is a copy that is fit for anybody's eyes.
func (r Report) clean() (Report, error) {
	var clean Report
	content, err := json.Marshal(r)
	if err == nil {
		err = json.Unmarshal(content, &clean)
	}
	if err != nil {
		return clean, fmt.Errorf("copy the report on policies: %w", err)
	}
	check.Tidy(&clean)
	return clean, nil
}
