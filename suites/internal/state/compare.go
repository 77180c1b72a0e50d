// Package state holds what the checks conclude from objects that were read
// before: who owns what, what differs from what was declared, what a selector
// matches. It is pure: no client, no clock, no files.
package state

import (
	"fmt"
	"reflect"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Difference is a declared field that a live object does not have as declared.
type Difference struct {
	// Path of the field, e.g. spec.template.spec.containers[name=app].image.
	Path string
	// Declared and Live are the values as text; Live is «absent» where there is
	// none.
	Declared, Live string
}

// String is the form in which failures show a difference.
func (d Difference) String() string {
	return fmt.Sprintf("%s: declared %s, found %s", d.Path, d.Declared, d.Live)
}

const absent = "absent"

// Compare lists the fields of a declared object that a live one has otherwise or
// not at all. Fields that only the live object has are defaults of the server and
// are left out, and so is what is declared as null. Lists of named items are
// compared by name, others by index, and an item that is not declared is a
// difference; quantities compare by amount.
func Compare(declared, live map[string]any) []Difference {
	var out []Difference
	compareValue("", declared, live, &out)
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out
}

func compareValue(path string, declared, live any, out *[]Difference) {
	add := func(found string) {
		*out = append(*out, Difference{Path: path, Declared: text(declared), Live: found})
	}
	switch want := declared.(type) {
	case nil:
	case map[string]any:
		have, ok := live.(map[string]any)
		if !ok {
			if len(want) > 0 {
				add(text(live))
			}
			return
		}
		for key, value := range want {
			found, present := have[key]
			child := strings.TrimPrefix(path+"."+key, ".")
			if !present && !empty(value) {
				*out = append(*out, Difference{Path: child, Declared: text(value), Live: absent})
			} else if present {
				compareValue(child, value, found, out)
			}
		}
	case []any:
		have, ok := live.([]any)
		if !ok {
			if len(want) > 0 {
				add(text(live))
			}
			return
		}
		compareList(path, want, have, out)
	default:
		if !same(declared, live) {
			add(text(live))
		}
	}
}

func compareList(path string, want, have []any, out *[]Difference) {
	if byName(want) && byName(have) {
		compareNamed(path, want, have, out)
		return
	}
	for i, value := range want {
		child := fmt.Sprintf("%s[%d]", path, i)
		if i >= len(have) {
			*out = append(*out, Difference{Path: child, Declared: text(value), Live: absent})
			continue
		}
		compareValue(child, value, have[i], out)
	}
	if len(have) > len(want) {
		*out = append(*out, Difference{
			Path: path, Declared: fmt.Sprintf("%d items", len(want)), Live: fmt.Sprintf("%d items", len(have)),
		})
	}
}

func compareNamed(path string, want, have []any, out *[]Difference) {
	for _, value := range want {
		name, _ := nameOf(value)
		child := fmt.Sprintf("%s[name=%s]", path, name)
		if found := find(have, name); found != nil {
			compareValue(child, value, found, out)
		} else {
			*out = append(*out, Difference{Path: child, Declared: text(value), Live: absent})
		}
	}
	for _, value := range have {
		if name, _ := nameOf(value); find(want, name) == nil {
			*out = append(*out, Difference{Path: fmt.Sprintf("%s[name=%s]", path, name), Declared: absent, Live: text(value)})
		}
	}
}

// byName says whether the items of a list are told apart by their names: two
// mounts of one volume are not.
func byName(list []any) bool {
	seen := map[string]bool{}
	for _, value := range list {
		name, ok := nameOf(value)
		if !ok || seen[name] {
			return false
		}
		seen[name] = true
	}
	return true
}

func nameOf(value any) (string, bool) {
	fields, ok := value.(map[string]any)
	if !ok {
		return "", false
	}
	name, ok := fields["name"].(string)
	return name, ok
}

func find(list []any, name string) any {
	for _, value := range list {
		if found, ok := nameOf(value); ok && found == name {
			return value
		}
	}
	return nil
}

func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		for _, field := range v {
			if !empty(field) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	}
	return false
}

// same compares scalars as the API does: numbers by value whatever their Go
// type, and texts that are quantities by amount.
func same(declared, live any) bool {
	if equality.Semantic.DeepEqual(declared, live) {
		return true
	}
	if number(declared) && number(live) {
		return fmt.Sprint(declared) == fmt.Sprint(live)
	}
	a, isText := declared.(string)
	b, alsoText := live.(string)
	if !isText || !alsoText {
		return false
	}
	x, err := resource.ParseQuantity(a)
	if err != nil {
		return false
	}
	y, err := resource.ParseQuantity(b)
	return err == nil && x.Cmp(y) == 0
}

func number(value any) bool {
	switch reflect.ValueOf(value).Kind() {
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Float32, reflect.Float64:
		return true
	}
	return false
}

func text(value any) string {
	if value == nil {
		return absent
	}
	if s, ok := value.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(value)
}
