package files

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"gopkg.in/yaml.v3"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// credentialRules find what may not be read by everyone who may read the
// repository. What they find they never show.
var credentialRules = []rule{
	{Check: check.Check{
		ID:        "FILE-009",
		Title:     "no credential stands in clear text",
		Why:       "everyone who may read the repository, and whoever reads ConfigMaps in the cluster, has it, and Git keeps it after it is removed",
		Remedy:    "revoke the credential, then have the service read it from a Secret that an external store or SOPS fills",
		Reference: "https://fluxcd.io/flux/security/secrets-management/",
	}, whole: credentials},
	{Check: check.Check{
		ID:        "FILE-010",
		Title:     "no Secret lies in Git unencrypted, and none is generated from what does",
		Why:       "base64 is no encryption: the Secret is known to everyone who may read the repository",
		Remedy:    "encrypt it with SOPS and set spec.decryption, or leave it to an external store; revoke what was committed",
		Reference: "https://fluxcd.io/flux/guides/mozilla-sops/",
	}, whole: secrets},
}

// shape is a credential that is known by its looks.
type shape struct {
	what string
	form *regexp.Regexp
	// hint is a text without which the form cannot match: most files have none,
	// and patterns are slow.
	hint string
}

var shapes = []shape{
	{"a private key", regexp.MustCompile(`-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----`), "PRIVATE KEY"},
	{"a private key in base64", regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/]{20,}`), "LS0tLS1CRUdJTi"},
	{"an age key", regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]{20,}`), "AGE-SECRET-KEY-"},
	{"a key of AWS", regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`), "IA"},
	{"a token of GitHub", regexp.MustCompile(`\b(?:gh[opusr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,})`), "gh"},
	{"a token of GitHub", regexp.MustCompile(`\bgithub_pat_[A-Za-z0-9_]{30,}`), "github_pat_"},
	{"a token of GitLab", regexp.MustCompile(`\bgl(?:pat|dt|rt|ptt|ft|agent)-[A-Za-z0-9_-]{20,}`), "gl"},
	{"a token of Slack", regexp.MustCompile(`\bxox[abeoprs]-[A-Za-z0-9-]{10,}`), "xox"},
	{"an address of Slack that lets post", regexp.MustCompile(`hooks\.slack\.com/services/T[A-Za-z0-9]+/B[A-Za-z0-9]+/[A-Za-z0-9]{16,}`), "hooks.slack.com"},
	{"a key of Stripe", regexp.MustCompile(`\b[rs]k_live_[A-Za-z0-9]{16,}`), "k_live_"},
	{"a key of Google", regexp.MustCompile(`\bAIza[0-9A-Za-z_-]{35}`), "AIza"},
	{"a token of npm", regexp.MustCompile(`\bnpm_[A-Za-z0-9]{36}`), "npm_"},
	{"a token of PyPI", regexp.MustCompile(`\bpypi-AgEI[A-Za-z0-9_-]{20,}`), "pypi-AgEI"},
	{"a key of SendGrid", regexp.MustCompile(`\bSG\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{30,}`), "SG."},
	{"a token of Docker", regexp.MustCompile(`\bdckr_pat_[A-Za-z0-9_-]{20,}`), "dckr_pat_"},
	{"a token of Vault", regexp.MustCompile(`\bhv[bs]\.[A-Za-z0-9_-]{24,}`), "hv"},
	{"a token of DigitalOcean", regexp.MustCompile(`\bdo[opr]_v1_[a-f0-9]{64}`), "_v1_"},
	{"a key of Azure", regexp.MustCompile(`AccountKey=[A-Za-z0-9+/]{80,}={0,2}`), "AccountKey="},
	{"a JSON Web Token", regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`), "eyJ"},
	{"the login of a registry", regexp.MustCompile(`"auth"\s*:\s*"[A-Za-z0-9+/]{12,}={0,2}"`), `"auth"`},
}

// address is a URL with a user and a password.
var address = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#"'<>@:]*:([^\s/?#"'<>@]+)@`)

func credentials(r *reading) verdict {
	var v verdict
	for _, f := range r.files() {
		if f.text {
			byShape(&v, f)
		}
		switch {
		case f.template():
		case f.structured():
			for _, root := range f.documents {
				if !sealed(root) {
					byName(&v, f, root)
				}
			}
		case f.text && slices.Contains([]string{".env", ".properties", ".ini", ".conf", ".toml", ".cfg", ".sh"}, path.Ext(f.name)):
			assignments(&v, f, string(f.content), 1)
		}
	}
	return v
}

func byShape(v *verdict, f *file) {
	found := func(offset int, what string) { v.add(f.at(lineOf(f.content, offset)), "%s", what) }
	for _, s := range shapes {
		if !bytes.Contains(f.content, []byte(s.hint)) {
			continue
		}
		for _, at := range s.form.FindAllIndex(f.content, -1) {
			match := string(f.content[at[0]:at[1]])
			if strings.Contains(strings.ToUpper(match), "EXAMPLE") || strings.HasPrefix(match, "LS0t") && !encodesPrivateKey(match) {
				continue
			}
			found(at[0], s.what)
		}
	}
	if bytes.Contains(f.content, []byte("://")) && bytes.Contains(f.content, []byte("@")) {
		for _, at := range address.FindAllSubmatchIndex(f.content, -1) {
			if !placeholder(string(f.content[at[2]:at[3]])) {
				found(at[0], "a URL with a password in it")
			}
		}
	}
}

// encodesPrivateKey tells private keys from certificates.
func encodesPrivateKey(encoded string) bool {
	const enough = 64
	encoded = encoded[:min(len(encoded), enough)/4*4]
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	return err == nil && bytes.Contains(decoded, []byte("PRIVATE KEY"))
}

// sealed says that a document is encrypted, whatever its keys are called.
func sealed(root *yaml.Node) bool {
	return field(root, "sops", "mac") != nil || text(field(root, "kind")) == "SealedSecret"
}

var (
	passwordName = regexp.MustCompile(`(?i)(?:passw(?:or)?d|passphrase|[_.-]pwd|[_.-]pass|^pwd|^pass)$`)
	secretName   = regexp.MustCompile(`(?i)(?:token|secret|api[_.-]?key|access[_.-]?key|private[_.-]?key|secret[_.-]?key|signing[_.-]?key|encryption[_.-]?key|credentials?|auth)$`)
	assignment   = regexp.MustCompile(`^\s*(?:export\s+)?["']?([A-Za-z][A-Za-z0-9_.-]*)["']?\s*[=:]\s*(?:"([^"]*)"|'([^']*)'|(\S+))\s*(?:#.*)?$`)
)

// byName finds values that stand beside a name of secrets.
func byName(v *verdict, f *file, root *yaml.Node) {
	judge := func(name string, value *yaml.Node) {
		if value.Kind != yaml.ScalarNode {
			return
		}
		if strings.Contains(value.Value, "\n") {
			return // a block is looked into by itself
		}
		if value.ShortTag() != "!!bool" && value.ShortTag() != "!!null" && credential(name, value.Value) {
			v.add(f.at(value.Line), "%s has a value in clear text", quoted(name))
		}
	}
	block := func(value *yaml.Node) {
		if value.Kind == yaml.ScalarNode && strings.Contains(value.Value, "\n") {
			assignments(v, f, value.Value, value.Line+1)
		}
	}
	if root.Kind == yaml.ScalarNode {
		block(root)
	}
	walk(root, func(key, value *yaml.Node) {
		if key != nil {
			judge(key.Value, value)
		}
		if name, of := field(value, "name"), field(value, "value"); name != nil && of != nil {
			judge(text(name), of)
		}
		block(value)
	})
}

// assignments finds the same in text, line by line; first is the number of its
// first line.
func assignments(v *verdict, f *file, content string, first int) {
	number := first - 1
	for line := range strings.Lines(content) {
		number++
		if m := assignment.FindStringSubmatch(strings.TrimRight(line, "\r\n")); m != nil && credential(m[1], m[2]+m[3]+m[4]) {
			v.add(f.at(number), "%s has a value in clear text", quoted(m[1]))
		}
	}
}

// credential says whether a value beside this name is a secret. Beside a name of
// passwords whatever is no reference is one; beside other names only what reads
// like chance, since a name there often is that of a Secret or a key.
func credential(name, value string) bool {
	value = strings.TrimSpace(value)
	if placeholder(value) {
		return false
	}
	switch {
	case passwordName.MatchString(name):
		const shortest = 4
		return len(value) >= shortest && !strings.ContainsAny(value, " \t/") && !strings.HasSuffix(strings.ToLower(value), "password")
	case secretName.MatchString(name):
		return random(value)
	}
	return false
}

// placeholder says that a value stands for one that is filled in elsewhere, or is
// encrypted.
func placeholder(value string) bool {
	lower := strings.ToLower(value)
	for _, begin := range []string{"ENC[", "$", "{{", "<", "[", "%("} {
		if strings.HasPrefix(value, begin) {
			return true
		}
	}
	for _, part := range []string{"${", "$(", "{{", "example", "placeholder"} {
		if strings.Contains(lower, part) {
			return true
		}
	}
	words := []string{"redacted", "none", "null", "nil", "true", "false", "todo", "secret", "password", "token", "string", "x-oauth-basic", "git"}
	return slices.Contains(words, lower) || strings.Trim(lower, "x*.…-_#?") == ""
}

// random says whether a value is made by chance, or by a person who was asked for
// a strong password: long, of several kinds of characters, and no path, name or
// sentence.
func random(value string) bool {
	const (
		shortest = 12
		bits     = 3.3 // of a character; words have fewer
	)
	if len(value) < shortest || strings.ContainsAny(value, " \t:@") || strings.HasPrefix(value, "/") || strings.HasPrefix(value, ".") {
		return false
	}
	var upper, lower, digit bool
	counts := map[rune]int{}
	total := 0
	for _, r := range value {
		upper, lower, digit = upper || unicode.IsUpper(r), lower || unicode.IsLower(r), digit || unicode.IsDigit(r)
		counts[r]++
		total++
	}
	// Names in Kubernetes are of lower case and dashes, with a digit perhaps.
	if !digit || !upper && (strings.Contains(value, "-") || strings.Contains(value, ".")) {
		return false
	}
	entropy := 0.0
	for _, n := range counts {
		p := float64(n) / float64(total)
		entropy -= p * math.Log2(p)
	}
	return lower && entropy >= bits
}

func secrets(r *reading) verdict {
	var v verdict
	for _, f := range r.files() {
		if f.template() {
			continue
		}
		for _, root := range f.documents {
			for _, object := range manifests(root) {
				secret(&v, f, object)
			}
			if isKustomize(f, root) {
				for _, generator := range sequence(field(root, "secretGenerator")) {
					secretFrom(&v, f, generator, text(field(generator, "name")))
				}
			}
			if text(field(root, "kind")) == "SecretGenerator" {
				secretFrom(&v, f, root, text(field(root, "metadata", "name")))
			}
		}
	}
	return v
}

func secret(v *verdict, f *file, object *yaml.Node) {
	if text(field(object, "kind")) != "Secret" || text(field(object, "apiVersion")) != "v1" || sealed(object) {
		return
	}
	for _, key := range []string{"data", "stringData"} {
		data := field(object, key)
		if data == nil || data.Kind != yaml.MappingNode {
			continue
		}
		for i := 0; i+1 < len(data.Content); i += 2 {
			if value := data.Content[i+1]; !filledIn(text(value)) {
				v.add(f.at(data.Content[i].Line), "Secret %s: %s %s is not encrypted", quoted(text(field(object, "metadata", "name"))), key, quoted(data.Content[i].Value))
			}
		}
	}
}

// filledIn says that a value of a Secret is empty, encrypted, or all a variable.
func filledIn(value string) bool {
	value = strings.TrimSpace(value)
	return value == "" || strings.HasPrefix(value, "ENC[") || strings.HasPrefix(value, "${") && strings.IndexByte(value, '}') == len(value)-1
}

// secretFrom judges a generator of Secrets: what it names lies in Git.
func secretFrom(v *verdict, f *file, generator *yaml.Node, name string) {
	for _, item := range sequence(field(generator, "literals")) {
		key, value, _ := strings.Cut(text(item), "=")
		if !filledIn(value) {
			v.add(f.at(item.Line), "Secret %s: %s is generated from a literal", quoted(name), quoted(key))
		}
	}
	for _, reference := range platform.References("generator.yaml", withVersion(generator)) {
		behind := f.repository.byName[path.Join(path.Dir(f.name), reference.Path)]
		if behind != nil && !encrypted(behind) {
			v.add(f.at(reference.Line), "Secret %s: %s is generated from %s, which is not encrypted", quoted(name), reference.Field, fmt.Sprint(behind.name))
		}
	}
}

// withVersion makes the entry of a kustomization read like a generator in a file
// of its own.
func withVersion(generator *yaml.Node) *yaml.Node {
	if field(generator, "apiVersion") != nil || generator.Kind != yaml.MappingNode {
		return generator
	}
	out := *generator
	out.Content = append(slices.Clone(generator.Content),
		&yaml.Node{Kind: yaml.ScalarNode, Value: "apiVersion"}, &yaml.Node{Kind: yaml.ScalarNode, Value: "builtin"})
	return &out
}

// encrypted says that SOPS has been at a file, in whatever form.
func encrypted(f *file) bool {
	return bytes.Contains(f.content, []byte("ENC[AES256_GCM,")) && bytes.Contains(f.content, []byte("sops"))
}
