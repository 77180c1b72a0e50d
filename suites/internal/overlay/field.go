package overlay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// parseField splits a dotted path into keys and indexes: spec.rules[0].host, with
// \. for a dot inside a key.
func parseField(field string) ([]any, error) {
	var out []any
	var key strings.Builder
	end := func(must bool) error {
		if key.Len() == 0 {
			if must {
				return fmt.Errorf("%q has an empty key", field)
			}
			return nil
		}
		out = append(out, key.String())
		key.Reset()
		return nil
	}
	afterIndex := false
	for i := 0; i < len(field); i++ {
		switch field[i] {
		case '\\':
			i++
			if i == len(field) {
				return nil, fmt.Errorf("%q ends with a backslash", field)
			}
			key.WriteByte(field[i])
		case '.':
			if err := end(!afterIndex); err != nil {
				return nil, err
			}
			afterIndex = false
		case '[':
			if err := end(len(out) == 0); err != nil {
				return nil, err
			}
			closing := strings.IndexByte(field[i:], ']')
			index, err := strconv.Atoi(field[i+1 : i+max(closing, 1)])
			if closing < 0 || err != nil || index < 0 {
				return nil, fmt.Errorf("%q: an item of a list is named [0]", field)
			}
			out = append(out, index)
			i += closing
			afterIndex = true
		default:
			key.WriteByte(field[i])
			afterIndex = false
		}
	}
	if err := end(!afterIndex); err != nil {
		return nil, err
	}
	return out, nil
}

// Field returns what stands at a dotted path of an object.
func Field(object map[string]any, field string) (any, bool) {
	path, err := parseField(field)
	if err != nil {
		return nil, false
	}
	var at any = object
	for _, step := range path {
		switch v := at.(type) {
		case map[string]any:
			key, _ := step.(string)
			child, there := v[key]
			if !there {
				return nil, false
			}
			at = child
		case []any:
			index, ok := step.(int)
			if !ok || index >= len(v) {
				return nil, false
			}
			at = v[index]
		default:
			return nil, false
		}
	}
	return at, true
}

// change is a copy of an object with the field of a control changed.
func change(object map[string]any, c Control) (map[string]any, error) {
	path, err := parseField(c.Field)
	if err != nil {
		return nil, err
	}
	out := runtime.DeepCopyJSON(object)
	changed, err := put(out, path, c)
	if err != nil {
		return nil, fmt.Errorf("field %s: %w", c.Field, err)
	}
	return changed.(map[string]any), nil
}

// put returns a value with what stands at a path below it set or removed.
func put(at any, path []any, c Control) (any, error) {
	if len(path) == 0 {
		return whole(c.Value), nil
	}
	last := len(path) == 1
	switch step := path[0].(type) {
	case string:
		fields, ok := at.(map[string]any)
		if at == nil && !c.Remove {
			fields, ok = map[string]any{}, true
		}
		if !ok {
			return nil, fmt.Errorf("there is no map that holds %s", step)
		}
		if _, there := fields[step]; c.Remove && !there {
			return nil, fmt.Errorf("there is no %s to remove", step)
		}
		if last && c.Remove {
			delete(fields, step)
			return fields, nil
		}
		child, err := put(fields[step], path[1:], c)
		if err != nil {
			return nil, err
		}
		fields[step] = child
		return fields, nil
	default:
		index := step.(int)
		items, ok := at.([]any)
		if !ok || index >= len(items) {
			return nil, fmt.Errorf("there is no item [%d]", index)
		}
		if last && c.Remove {
			return slices.Delete(items, index, index+1), nil
		}
		child, err := put(items[index], path[1:], c)
		if err != nil {
			return nil, err
		}
		items[index] = child
		return items, nil
	}
}

// whole is a value as objects hold it: numbers without a fraction are integers.
func whole(value any) any {
	if number, ok := value.(float64); ok && number == float64(int64(number)) {
		return int64(number)
	}
	return runtime.DeepCopyJSONValue(value)
}

// oneLeaf refuses two contents that are equal, or differ in more than one value.
func oneLeaf(a, b any) error {
	was, is := map[string]any{}, map[string]any{}
	leaves("", a, was)
	leaves("", b, is)
	var differ []string
	for path, value := range was {
		if other, there := is[path]; !there || !reflect.DeepEqual(value, other) {
			differ = append(differ, path)
		}
	}
	for path := range is {
		if _, there := was[path]; !there {
			differ = append(differ, path)
		}
	}
	slices.Sort(differ)
	switch len(differ) {
	case 0:
		return errors.New("it equals the attack")
	case 1:
		return nil
	}
	return fmt.Errorf("it differs from the attack in %d fields, not in one: %s", len(differ), strings.Join(differ, ", "))
}

// oneRemoved refuses a removal that takes several fields or several items at once; an
// item of a list goes as a whole.
func oneRemoved(field string, removed any) error {
	n := 1
	switch v := removed.(type) {
	case map[string]any:
		if !strings.HasSuffix(field, "]") {
			n = len(v)
		}
	case []any:
		n = len(v)
	}
	if n > 1 {
		return fmt.Errorf("it removes %s with %d fields or items in it, not one: name the one that the refusal is about", field, n)
	}
	return nil
}

// leaves lists the values of a content by path; what is empty is none.
func leaves(path string, value any, out map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			leaves(strings.TrimPrefix(path+"."+key, "."), child, out)
		}
	case []any:
		for i, child := range v {
			leaves(fmt.Sprintf("%s[%d]", path, i), child, out)
		}
	default:
		out[path] = v
	}
}

// OneField refuses two contents of a file that are equal or differ in more than
// one field; of what is no YAML, in more than one line.
func OneField(a, b []byte) error {
	if bytes.Equal(a, b) {
		return errors.New("it equals the attack")
	}
	was, isYAML := documents(a)
	is, also := documents(b)
	if isYAML && also && len(was) == len(is) {
		return oneLeaf(was, is)
	}
	old, replacement := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for len(old) > 0 && len(replacement) > 0 && old[0] == replacement[0] {
		old, replacement = old[1:], replacement[1:]
	}
	for len(old) > 0 && len(replacement) > 0 && old[len(old)-1] == replacement[len(replacement)-1] {
		old, replacement = old[:len(old)-1], replacement[:len(replacement)-1]
	}
	if len(old) > 1 || len(replacement) > 1 {
		return fmt.Errorf("it differs from the attack in %d lines, not in one", max(len(old), len(replacement)))
	}
	return nil
}

// documents reads a stream of YAML objects.
func documents(content []byte) ([]any, bool) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	var out []any
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return out, len(out) > 0
		}
		var object map[string]any
		if err != nil || yaml.Unmarshal(document, &object) != nil {
			return nil, false
		}
		if object != nil {
			out = append(out, object)
		}
	}
}
