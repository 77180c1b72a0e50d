package report

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/your-org/flux-platform-conformance/suites/internal/agreement"
	"github.com/your-org/flux-platform-conformance/suites/internal/policy/example"
)

// listKind is that of the list of explained differences.
const listKind = "PolicyAgreement"

// Explanation is one entry of the list: why a live server and Kyverno's CLI say
// different things of one example.
type Explanation struct {
	// Result is the ID of the result, as the report gives it; required.
	Result string `yaml:"result"`
	// Live and Offline are what each says; required.
	Live    example.Verdict `yaml:"live"`
	Offline example.Verdict `yaml:"offline"`
	// Cause says why they differ; required.
	Cause string `yaml:"cause"`

	// Where is the entry's place, as FILE:LINE.
	Where string `yaml:"-"`
}

// ParseList reads the list of explained differences, which may be empty. The error
// lists all mistakes, each as FILE:LINE: what is wrong.
func ParseList(file string, data []byte) ([]Explanation, error) {
	entries, places, err := agreement.DecodeList[Explanation](file, data, listKind)
	if err != nil {
		return nil, err
	}
	var problems []error
	for i := range entries {
		entries[i].Where = places[i]
		problems = append(problems, entries[i].validate())
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return entries, nil
}

// possible are the verdicts that can differ.
var possible = []example.Verdict{
	example.Pass, example.Fail, example.Skip, example.Warn, example.Error, example.Invalid, example.Unknown,
}

// validate names everything that is wrong with an entry, one mistake a line.
func (e Explanation) validate() error {
	var problems []error
	wrong := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", e.Where, fmt.Sprintf(format, args...)))
	}
	if strings.TrimSpace(e.Result) == "" {
		wrong("result is empty; give the ID of a result, as the report has it")
	}
	if strings.TrimSpace(e.Cause) == "" {
		wrong("cause is empty; say why live and offline differ")
	}
	for _, side := range []struct {
		name    string
		verdict example.Verdict
	}{{"live", e.Live}, {"offline", e.Offline}} {
		if !slices.Contains(possible, side.verdict) {
			wrong("%s: %q is none of %v", side.name, side.verdict, possible)
		}
	}
	if len(problems) == 0 && same(e.Live, e.Offline) {
		wrong("live and offline are the same: that is no difference")
	}
	return errors.Join(problems...)
}

// String names the entry as problems do.
func (e Explanation) String() string { return fmt.Sprintf("%s: the entry for %s", e.Where, e.Result) }

// expects says whether both sides said what the entry expects of them.
func (e Explanation) expects(one Result) bool {
	return same(e.Live, one.Live.Verdict) && same(e.Offline, one.Offline.Verdict)
}
