package check

import (
	"cmp"
	"encoding/base64"
	"regexp"
	"slices"
	"strings"
)

// redacted stands where a secret stood.
const redacted = "REDACTED"

// sensitiveName matches names whose value is a secret, wherever they stand: keys
// of YAML and JSON, flags, environment variables, fields of log lines.
const sensitiveName = `(?:[a-z0-9_.-]*(?:passw(?:or)?d|passphrase|[_.-]pass|[_.-]pwd|token|api[_.-]?key|` +
	`access[_.-]?key|private[_.-]?key|secret[_.-]?key|key[_.-]data|client[_.-]?secret|credentials?|auth)|` +
	`\.dockerconfigjson|\.dockercfg)`

// beforeName and afterName stand around a sensitive name that is followed by its
// value, at any level of escaping.
const (
	beforeName = `(?:^|[^a-z0-9_.-])`
	afterName  = `\\*["']?[ \t]*[:=][ \t]*`
)

var (
	sensitiveNameForm = regexp.MustCompile(`(?i)^` + sensitiveName + `$`)

	// A key without its END (a log that was cut) is hidden to the end of the text;
	// an END without its BEGIN hides the lines of base64 before it.
	privateKey = regexp.MustCompile(
		`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|$)`)
	privateKeyEnd = regexp.MustCompile(
		`(?:[A-Za-z0-9+/=]+(?:\s|\\+[nrt])+)*[A-Za-z0-9+/=]*-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----`)
	// encodedPEM is base64 of "-----BEGIN "; certificates are told apart by what
	// follows.
	encodedPEM = regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]+`)

	userinfo      = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)([^\s/?#"'<>\\]*)@`)
	authorization = regexp.MustCompile(
		`(?i)(\bauthorization` + afterName + `\\*["'\[]?(?:(?:bearer|basic|token|digest|negotiate)[ \t]+)?)([^\s"'\\\]]+)`)
	authScheme = regexp.MustCompile(`(?i)\b(bearer|basic|token)([ \t]+|%20)([A-Za-z0-9._~+/=-]{8,})`)
	jsonToken  = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*)*`)
	knownToken = regexp.MustCompile(
		`\b(?:gh[opusr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16})`)

	// The value beside a sensitive name: quoted, plain, escaped once, escaped more
	// often; else bare. None goes beyond its line.
	namedQuoted = regexp.MustCompile(`(?i)(` + beforeName + sensitiveName + afterName + `)` +
		`("(?:[^"\\]|\\.)*(?:"|\\?$)|\\"(?:\\{3}"|[^"\\]|\\[^"])*(?:\\"|\\?$)|\\{2,}"[^"]*(?:"|$)|'(?:[^']|'')*(?:'|$))`)
	namedBare = regexp.MustCompile(`(?i)(` + beforeName + sensitiveName + afterName + `\\*["']?)([^\s"'{}\[\],;&\\]+)`)
	// The value of an environment variable or header that is a pair of its own.
	namedPair = regexp.MustCompile(`(?i)(\bname` + afterName + `\\*["']?` + sensitiveName + `\\*["']?(?:\s|,|\\+[nrt])+` +
		`\\*["']?value` + afterName + `)(\\*"(?:[^"\\]|\\[^"])*\\*"?|'[^']*'?|[^\\,}]+)`)
	openingQuote = regexp.MustCompile(`^\\*["']`)
	// The same on lines of YAML, where a value may go on below its key.
	keyLine   = regexp.MustCompile(`(?i)^([ \t-]*["']?` + sensitiveName + `["']?:)(?:[ \t]+(.*))?$`)
	nameLine  = regexp.MustCompile(`(?i)^[ \t-]*["']?name["']?:[ \t]+["']?` + sensitiveName + `["']?,?[ \t]*$`)
	valueLine = regexp.MustCompile(`(?i)^([ \t-]*["']?value["']?:)(?:[ \t]+(.*))?$`)

	// A Secret, in YAML, JSON at any level of escaping, or a printed Go map.
	secretKind  = regexp.MustCompile(`\bkind\\*["']?[ \t]*[:=][ \t]*\\*["']?Secret(?:List)?\b`)
	secretLine  = regexp.MustCompile(`^([ \t-]*)(["']?)(data|stringData)["']?:(?:[ \t]*$|[ \t]+[^ \t])`)
	secretField = regexp.MustCompile(`(\\*)"(?:data|stringData)\\*"[ \t\r\n]*:[ \t\r\n]*\{`)
	secretFlow  = regexp.MustCompile(`\b((?:data|stringData):[ \t]*)(?:map\[[^\]]*(?:\]|$)|\{[^}]*(?:\}|$))`)
	secretQuote = regexp.MustCompile(`(\\n[ ]*(?:data|stringData):)(?:[^"\\]|\\(?s:.))*`)
)

// notSecret are values that sensitive names have where they are no secrets:
// automountServiceAccountToken: false is worth reading.
var notSecret = []string{"true", "false", "null", "~", "nil", "<nil>", strings.ToLower(redacted)}

// publicKeys are keys of Secrets whose values are no secrets, and whose words
// would blacken half of a log.
var publicKeys = []string{"ca.crt", "tls.crt", "identity.pub", "known_hosts", "namespace", "username", "type", "url"}

// SensitiveName tells whether a key, flag or variable of this name holds a
// secret.
func SensitiveName(name string) bool {
	return sensitiveNameForm.MatchString(name)
}

// Redactor takes secrets out of text by what they look like and, beside that, by
// the values that it was told. Fill it before use; Redact may then be called from
// any goroutine. The zero value knows no values.
type Redactor struct {
	// values are sorted, the longest first, so that no part of one outlives the
	// removal of another.
	values []string
}

// AddSecret makes known one entry of a Secret's data, decoded. Short values are
// left to their looks: replaced wherever they stand, they would spoil the text.
func (r *Redactor) AddSecret(key, value string) {
	if slices.Contains(publicKeys, key) {
		return
	}
	const shortest = 8
	add := func(text string) {
		at, known := slices.BinarySearchFunc(r.values, text, func(a, b string) int {
			return cmp.Or(len(b)-len(a), strings.Compare(a, b))
		})
		if len(text) >= shortest && !known {
			r.values = slices.Insert(r.values, at, text)
		}
	}
	value = strings.TrimSpace(value)
	add(value)
	if len(value) >= shortest {
		// Padding depends on what follows the value, hence the whole groups only.
		encoded := base64.StdEncoding.EncodeToString([]byte(value))
		add(strings.TrimRight(encoded, "="))
	}
	// A file within a Secret is seldom printed as one piece.
	const shortestLine = 16
	for line := range strings.Lines(value) {
		if line = strings.TrimSpace(line); len(line) >= shortestLine && line != value && !strings.ContainsAny(line, " \t") {
			add(line)
		}
	}
}

// Redact returns the text without secrets: known values, data of Secrets,
// private keys, tokens, authorization, userinfo of URLs, and what stands beside
// names such as password.
func (r *Redactor) Redact(text string) string {
	for _, value := range r.values {
		text = strings.ReplaceAll(text, value, redacted)
	}
	return Redact(text)
}

// Redact returns the text without what looks like a secret. It errs on the side
// of hiding too much.
func Redact(text string) string {
	if strings.Contains(text, "PRIVATE KEY") {
		text = privateKey.ReplaceAllString(text, redacted)
		text = privateKeyEnd.ReplaceAllString(text, redacted)
	}
	text = encodedPEM.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "LS0tLS1CRUdJTiBDRVJU") { // -----BEGIN CERT
			return found
		}
		return redacted
	})
	if secretKind.MatchString(text) {
		text = redactSecretJSON(text)
		text = secretFlow.ReplaceAllString(text, "${1}"+redacted)
		text = secretQuote.ReplaceAllString(text, "${1} "+redacted)
		text = redactSecretYAML(text)
	}
	if !strings.Contains(text, "@") { // the pattern is slow, and most texts have none
		return redactTokens(text)
	}
	text = userinfo.ReplaceAllStringFunc(text, func(found string) string {
		scheme, user, _ := strings.Cut(found, "://")
		if user == "git@" { // the name everybody uses, and no secret
			return found
		}
		return scheme + "://" + redacted + "@"
	})
	return redactTokens(text)
}

// redactTokens hides tokens by their forms, and then what stands beside names.
func redactTokens(text string) string {
	text = authorization.ReplaceAllString(text, "${1}"+redacted)
	text = authScheme.ReplaceAllStringFunc(text, func(found string) string {
		parts := authScheme.FindStringSubmatch(found)
		if !strings.ContainsAny(parts[3], "0123456789") && len(parts[3]) < 24 { // a word of a sentence
			return found
		}
		return parts[1] + parts[2] + redacted
	})
	text = jsonToken.ReplaceAllString(text, redacted)
	text = knownToken.ReplaceAllString(text, redacted)
	return redactNamed(text)
}

// redactNamed hides the values of sensitive names.
func redactNamed(text string) string {
	var out strings.Builder
	hidden := -1   // indentation of the key whose value goes on below it
	empty := -1    // indentation of the key whose value may begin on the next line
	named := false // the line before gave a sensitive name to the value on this one
	for line := range strings.Lines(text) {
		content := strings.TrimRight(line, "\r\n")
		ending := line[len(content):]
		if empty >= 0 && indentation(content) > empty && isScalar(content) {
			hidden = empty
			out.WriteString(content[:indentation(content)] + redacted + ending)
		}
		if strings.TrimSpace(content) != "" {
			empty = -1
		}
		if hidden >= 0 && (strings.TrimSpace(content) == "" || indentation(content) > hidden) {
			continue
		}
		hidden = -1

		var key []string
		switch {
		case mayHaveName(content):
			key = keyLine.FindStringSubmatch(content)
		case !named: // most lines of a log, and the patterns are slow
			out.WriteString(line)
			continue
		}
		if key == nil && named {
			key = valueLine.FindStringSubmatch(content)
		}
		named = nameLine.MatchString(content)
		if key == nil {
			out.WriteString(redactWithin(content) + ending)
			continue
		}
		switch value := strings.TrimSpace(key[2]); {
		case value == "" || value[0] == '#':
			empty = indentation(content)
		case value[0] == '{' || value[0] == '[' || isNotSecret(strings.TrimRight(value, ",")):
			content = redactWithin(content)
		case value[0] == '"' || value[0] == '\'':
			hidden = indentation(content)
			rest := value[1:]
			// What follows a closed quote may be more of a line of JSON.
			rest = rest[closingQuote(rest, value[0]):]
			content = key[1] + " " + value[:1] + redacted + value[:1] + redactWithin(rest)
		default:
			hidden = indentation(content)
			content = key[1] + " " + redacted
		}
		out.WriteString(content + ending)
	}
	return out.String()
}

// nameParts are parts of all sensitive names.
var nameParts = []string{"pass", "pwd", "token", "key", "secret", "credential", "auth", "docker"}

// mayHaveName tells, quickly, whether a line can hold a sensitive name.
func mayHaveName(line string) bool {
	lower := strings.ToLower(line)
	return slices.ContainsFunc(nameParts, func(part string) bool { return strings.Contains(lower, part) })
}

// redactWithin hides the values beside sensitive names within one line.
func redactWithin(line string) string {
	for _, form := range []*regexp.Regexp{namedPair, namedQuoted} {
		line = form.ReplaceAllStringFunc(line, func(found string) string {
			parts := form.FindStringSubmatch(found)
			quote := openingQuote.FindString(parts[2])
			return parts[1] + quote + redacted + quote
		})
	}
	return namedBare.ReplaceAllStringFunc(line, func(found string) string {
		parts := namedBare.FindStringSubmatch(found)
		if isNotSecret(parts[2]) {
			return found
		}
		return parts[1] + redacted
	})
}

// closingQuote returns the offset after the quote that closes a string whose
// opening quote has been read, or the length of text where none does.
func closingQuote(text string, quote byte) int {
	for i := 0; i < len(text); i++ {
		switch {
		case quote == '"' && text[i] == '\\':
			i++
		case text[i] != quote:
		case quote == '\'' && i+1 < len(text) && text[i+1] == quote:
			i++
		default:
			return i + 1
		}
	}
	return len(text)
}

// isScalar tells whether a line of YAML is text, rather than a key or an item.
func isScalar(line string) bool {
	line = strings.TrimSpace(line)
	return line != "" && !strings.HasPrefix(line, "- ") && !strings.HasSuffix(line, ":") && !strings.Contains(line, ": ")
}

func isNotSecret(value string) bool {
	return slices.Contains(notSecret, strings.ToLower(value))
}

// redactSecretYAML hides data and stringData in every YAML document that holds a
// Secret. What stands under the key is left out, whatever its form.
func redactSecretYAML(text string) string {
	var out, document strings.Builder
	flush := func() {
		out.WriteString(redactSecretDocument(document.String()))
		document.Reset()
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "---") {
			flush()
		}
		document.WriteString(line)
	}
	flush()
	return out.String()
}

func redactSecretDocument(text string) string {
	if !secretKind.MatchString(text) {
		return text
	}
	var out strings.Builder
	hidden := -1
	for line := range strings.Lines(text) {
		content := strings.TrimRight(line, "\r\n")
		if hidden >= 0 && (strings.TrimSpace(content) == "" || indentation(content) > hidden) {
			continue
		}
		hidden = -1
		if match := secretLine.FindStringSubmatch(content); match != nil && !strings.Contains(content, `: "`+redacted) {
			hidden = indentation(content)
			out.WriteString(match[1] + match[2] + match[3] + match[2] + ": " + redacted + line[len(content):])
			continue
		}
		out.WriteString(line)
	}
	return out.String()
}

// redactSecretJSON hides data and stringData objects, also where the JSON is
// itself a string within JSON.
func redactSecretJSON(text string) string {
	var out strings.Builder
	for {
		at := secretField.FindStringSubmatchIndex(text)
		if at == nil {
			out.WriteString(text)
			return out.String()
		}
		quote := text[at[2]:at[3]] + `"`
		end := at[1] + closingBrace(text[at[1]:], at[3]-at[2])
		out.WriteString(text[:at[1]-1] + quote + redacted + quote)
		text = text[end:]
	}
}

// closingBrace returns the offset after the brace that closes an object whose
// opening brace has been read, or the length of text where none does. level is
// the number of backslashes before the quotes of this object's strings.
func closingBrace(text string, level int) int {
	depth, inString, backslashes := 1, false, 0
	for i := range len(text) {
		switch text[i] {
		case '\\':
			backslashes++
			continue
		case '\n':
			inString = false // JSON has no line breaks in strings
		case '"':
			if backslashes == level || level == 0 && backslashes%2 == 0 {
				inString = !inString
			}
		case '{':
			if !inString {
				depth++
			}
		case '}':
			if !inString {
				depth--
			}
		}
		if depth == 0 {
			return i + 1
		}
		backslashes = 0
	}
	return len(text)
}

// indentation counts what stands before a key, the dash of a list item included.
func indentation(line string) int {
	return len(line) - len(strings.TrimLeft(line, " \t-"))
}
