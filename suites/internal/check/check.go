package check

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Level says whether the result of a run depends on a check.
type Level string

// The levels of a check.
const (
	// Core checks decide the result: one that fails fails the run.
	Core Level = "core"
	// Extended checks are judged and reported; they do not fail the run.
	Extended Level = "extended"
)

// Scope says how often a check is judged.
type Scope string

// The scopes of a check.
const (
	// ScopePlatform is judged once for the whole platform: the outcome names
	// neither environment nor tenant.
	ScopePlatform Scope = "platform"
	// ScopeEnvironment is judged once per environment.
	ScopeEnvironment Scope = "environment"
	// ScopeTenant is judged once per environment and tenant.
	ScopeTenant Scope = "tenant"
)

// idForm is AREA-NNN or AREA-XNN. It also makes an ID safe as a folder name.
var idForm = regexp.MustCompile(`^[A-Z]{2,8}-([0-9]{3}|[A-Z][0-9]{2})$`)

// areaOrder is the order in which reports list the areas; an area that is not
// named here comes after them.
var areaOrder = []string{"FILE", "BOOT", "TEN", "CFG", "ISO", "POL", "ATK", "GIT", "RES", "SCL", "UPG"}

// Check is one conformance statement. Every field but Needs is required.
type Check struct {
	// ID is the stable name, AREA-NNN or AREA-XNN. It never changes and is never reused.
	ID string `json:"id"`
	// Title is the statement itself, as a sentence that is true when the check
	// passes.
	Title string `json:"title"`
	// Why says what goes wrong for whom when the statement does not hold.
	Why string `json:"why"`
	// Remedy says what to change to mend it.
	Remedy string `json:"remedy"`
	// Reference is the document or URL that the statement rests on.
	Reference string `json:"reference"`
	// Level is Core or Extended.
	Level Level `json:"level"`
	// Scope says what the check is judged for.
	Scope Scope `json:"scope"`
	// Needs lists the capabilities without which the check is NOT_SUPPORTED.
	Needs []string `json:"needs"`
	// Disruptive says that the check changes what the session serves, and takes it
	// back: nothing else is judged meanwhile.
	Disruptive bool `json:"disruptive,omitempty"`
}

// Area is the part of the ID before the dash, for example BOOT.
func (c Check) Area() string {
	return areaOf(c.ID)
}

// Validate names everything that is missing or malformed, in one error.
func (c Check) Validate() error {
	var errs []error
	if !idForm.MatchString(c.ID) {
		errs = append(errs, fmt.Errorf("id %q is not of the form AREA-NNN or AREA-XNN", c.ID))
	}
	for _, field := range []struct{ name, value string }{
		{"title", c.Title},
		{"why", c.Why},
		{"remedy", c.Remedy},
		{"reference", c.Reference},
	} {
		if strings.TrimSpace(field.value) == "" {
			errs = append(errs, fmt.Errorf("%s is empty", field.name))
		}
	}
	if !slices.Contains([]Level{Core, Extended}, c.Level) {
		errs = append(errs, fmt.Errorf("level %q is neither %s nor %s", c.Level, Core, Extended))
	}
	if !slices.Contains([]Scope{ScopePlatform, ScopeEnvironment, ScopeTenant}, c.Scope) {
		errs = append(errs, fmt.Errorf("scope %q is none of %s, %s, %s",
			c.Scope, ScopePlatform, ScopeEnvironment, ScopeTenant))
	}
	if slices.Contains(c.Needs, "") {
		errs = append(errs, errors.New("needs has an empty entry"))
	}
	if len(errs) > 0 {
		return fmt.Errorf("check %q: %w", c.ID, errors.Join(errs...))
	}
	return nil
}

func areaOf(id string) string {
	area, _, _ := strings.Cut(id, "-")
	return area
}

// compareIDs sorts by area in the order of the reports, then by number.
func compareIDs(a, b string) int {
	if byArea := compareAreas(areaOf(a), areaOf(b)); byArea != 0 {
		return byArea
	}
	return strings.Compare(a, b)
}

func compareAreas(a, b string) int {
	if a == b {
		return 0
	}
	i, j := slices.Index(areaOrder, a), slices.Index(areaOrder, b)
	switch {
	case i < 0 && j < 0:
		return strings.Compare(a, b)
	case i < 0:
		return 1
	case j < 0:
		return -1
	default:
		return i - j
	}
}
