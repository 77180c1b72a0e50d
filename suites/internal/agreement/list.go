package agreement

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

const (
	listVersion = "conformance.flux-platform/v1alpha1"
	listKind    = "Agreement"
)

// Explanation is one entry of the list: why one check says one thing on one kind
// of clusters and another on the other.
type Explanation struct {
	// Check is the ID; required, and no pattern.
	Check string `yaml:"check"`
	// Environment and Tenant narrow it; empty means all of them.
	Environment string `yaml:"environment"`
	Tenant      string `yaml:"tenant"`
	// Results are what each provider says; required, for both.
	Results map[string]check.Result `yaml:"results"`
	// Cause says why they disagree; required.
	Cause string `yaml:"cause"`

	// Where is the entry's place, as FILE:LINE.
	Where string `yaml:"-"`
}

// ParseList reads the list of explanations, which may be empty. Registry holds the
// checks that entries can name, providers are the two that are compared. The error
// lists all mistakes, each as FILE:LINE: what is wrong.
func ParseList(file string, data []byte, registry *check.Registry, providers []string) ([]Explanation, error) {
	entries, places, err := DecodeList[Explanation](file, data, listKind)
	if err != nil {
		return nil, err
	}
	var problems []error
	for i := range entries {
		entry := &entries[i]
		entry.Where = places[i]
		if err := entry.validate(registry, providers); err != nil {
			problems = append(problems, err)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return entries, nil
}

// DecodeList reads a list of explanations of some kind, which may be empty, and the
// places of its entries as FILE:LINE. Keys that an entry does not have are refused.
func DecodeList[Entry any](file string, data []byte, kind string) (entries []Entry, places []string, err error) {
	var content struct {
		APIVersion string  `yaml:"apiVersion"`
		Kind       string  `yaml:"kind"`
		Explained  []Entry `yaml:"explained"`
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&content); err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read the list of explanations %s: %w", file, err)
	}
	if err := decoder.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("read the list of explanations %s: it is one YAML document, and there is more", file)
	}
	if content.APIVersion != listVersion || content.Kind != kind {
		return nil, nil, fmt.Errorf("read the list of explanations %s: it begins with «apiVersion: %s» and «kind: %s»", file, listVersion, kind)
	}
	// The data has been decoded once: this is for the lines alone.
	var document struct {
		Explained []yaml.Node `yaml:"explained"`
	}
	_ = yaml.Unmarshal(data, &document)
	for _, node := range document.Explained {
		places = append(places, fmt.Sprintf("%s:%d", file, node.Line))
	}
	return content.Explained, places, nil
}

// validate names everything that is wrong with an entry, one mistake a line.
func (e Explanation) validate(registry *check.Registry, providers []string) error {
	var problems []error
	wrong := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", e.Where, fmt.Sprintf(format, args...)))
	}
	if _, known := registry.Get(e.Check); !known {
		var ids []string
		for _, c := range registry.All() {
			ids = append(ids, c.ID)
		}
		wrong("there is no check %q%s", e.Check, check.DidYouMean(e.Check, ids))
	}
	if strings.TrimSpace(e.Cause) == "" {
		wrong("cause is empty; say why the two disagree")
	}
	for _, provider := range slices.Sorted(maps.Keys(e.Results)) {
		if !slices.Contains(providers, provider) {
			wrong("results names %q, which is none of the providers that are compared: %s", provider, strings.Join(providers, ", "))
		}
	}
	possible := []check.Result{check.Passed, check.Failed, check.NotSupported}
	for _, provider := range providers {
		switch result, given := e.Results[provider]; {
		case !given:
			wrong("results does not say what is expected on %s", provider)
		case !slices.Contains(possible, result):
			wrong("results: %s: %q is none of %v", provider, result, possible)
		}
	}
	if len(problems) == 0 && e.Results[providers[0]] == e.Results[providers[1]] {
		wrong("results are the same on both sides: that is no disagreement")
	}
	return errors.Join(problems...)
}

// String names the entry as problems do.
func (e Explanation) String() string {
	text := fmt.Sprintf("%s: the entry for %s", e.Where, e.Check)
	if e.Environment != "" {
		text += " in " + e.Environment
	}
	if e.Tenant != "" {
		text += " for tenant " + e.Tenant
	}
	return text
}

func (e Explanation) covers(o Outcome) bool {
	return e.Check == o.Check &&
		(e.Environment == "" || e.Environment == o.Environment) &&
		(e.Tenant == "" || e.Tenant == o.Tenant)
}

// expects says whether the sides said what the entry expects of them. A waived
// failure is one.
func (e Explanation) expects(sides []Side, o Outcome) bool {
	for i, side := range sides {
		result := o.Said[i].Result
		if result == check.Waived {
			result = check.Failed
		}
		if e.Results[side.Provider] != result {
			return false
		}
	}
	return true
}
