package live

import (
	"regexp"
	"strings"
)

// The API server drops a warning that has a line break in it. Errors quote what
// was evaluated, so an expression of several lines would err in silence.

var variable = regexp.MustCompile(`(?s)\{\{.*?\}\}`)

var breaks = strings.NewReplacer("\r\n", " ", "\n", " ", "\r", " ", "\t", " ")

// flatten writes the expressions of a rule in one line each, in place.
func flatten(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key, inner := range value {
			text, isText := inner.(string)
			switch {
			case isText && key == "expression":
				value[key] = flatCEL(text)
			case isText && (key == "jmesPath" || key == "list"):
				value[key] = breaks.Replace(text)
			default:
				value[key] = flatten(inner)
			}
		}
	case []any:
		for i := range value {
			value[i] = flatten(value[i])
		}
	case string:
		return variable.ReplaceAllStringFunc(value, breaks.Replace)
	}
	return value
}

var celToken = regexp.MustCompile(`(?s)[bB]?[rR]?(?:"""(?:\\.|[^\\])*?"""|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*|\s+`)

// flatCEL writes an expression of CEL in one line, without its comments; in a
// literal of several lines a line break is written as CEL escapes it.
func flatCEL(expression string) string {
	return strings.TrimSpace(celToken.ReplaceAllStringFunc(expression, func(token string) string {
		switch {
		case strings.HasPrefix(token, "//"):
			return ""
		case !strings.ContainsAny(token, `"'`):
			return " "
		case strings.ContainsAny(strings.TrimLeft(token, "bB")[:1], "rR"):
			// A raw literal knows no escapes.
			return token
		}
		return strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(token)
	}))
}
