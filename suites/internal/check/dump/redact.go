package dump

import (
	"fmt"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

const redacted = "REDACTED"

// presentable is a copy of an object without secrets and without what nobody
// reads: field managers and the copy of the object that kubectl keeps in it. Of
// a Secret its metadata, type, and keys with their sizes remain.
func presentable(object map[string]any, redactor *check.Redactor) map[string]any {
	clean := map[string]any{}
	for key, value := range object {
		clean[key] = value
	}
	if metadata, ok := object["metadata"].(map[string]any); ok {
		kept := map[string]any{}
		for key, value := range metadata {
			kept[key] = value
		}
		delete(kept, "managedFields")
		if annotations, ok := kept["annotations"].(map[string]any); ok {
			shown := map[string]any{}
			for key, value := range annotations {
				if key != "kubectl.kubernetes.io/last-applied-configuration" {
					shown[key] = value
				}
			}
			kept["annotations"] = shown
		}
		if object["kind"] == "Secret" {
			// Tools keep copies of what they made in annotations of their own.
			delete(kept, "annotations")
		}
		clean["metadata"] = kept
	}
	shown, _ := hide(clean, redactor).(map[string]any)
	return shown
}

// hide copies a value without secrets.
func hide(value any, redactor *check.Redactor) any {
	switch value := value.(type) {
	case map[string]any:
		clean := map[string]any{}
		secret := value["kind"] == "Secret"
		name, _ := value["name"].(string)
		for key, item := range value {
			text, isText := item.(string)
			switch {
			case secret && (key == "data" || key == "stringData"):
				clean[key] = sizes(item)
			case isText && key == "caBundle":
				clean[key] = fmt.Sprintf("%d bytes of base64", len(text))
			case isText && check.SensitiveName(key), isText && key == "value" && check.SensitiveName(name):
				clean[key] = redacted
			default:
				clean[key] = hide(item, redactor)
			}
		}
		return clean
	case []any:
		clean := make([]any, len(value))
		for i, item := range value {
			clean[i] = hide(item, redactor)
		}
		return clean
	case string:
		return redactor.Redact(value)
	default:
		return value
	}
}

// sizes keeps the keys of a Secret.
func sizes(data any) any {
	entries, ok := data.(map[string]any)
	if !ok {
		return redacted
	}
	clean := map[string]any{}
	for key, value := range entries {
		clean[key] = redacted
		if text, ok := value.(string); ok {
			clean[key] = fmt.Sprintf("%s, %d bytes as stored", redacted, len(text))
		}
	}
	return clean
}
