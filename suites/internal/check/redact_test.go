package check_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
)

const secret = "hunter2-Xq9zLk7"

// Each text holds the word SECRET where a secret stands.
var leaks = []struct{ name, text string }{
	{"YAML key", "password: SECRET"},
	{"YAML key with words", "  db-password: SECRET and more SECRET"},
	{"YAML quoted", `token: "SECRET"`},
	{"YAML single quotes", `token: 'it''s SECRET'`},
	{"YAML escapes", `token: "a\"SECRET"`},
	{"YAML over lines", "token: \"a\n  SECRET\""},
	{"YAML folded plain", "token: a\n  SECRET\nother: b"},
	{"YAML value below", "token:\n  SECRET"},
	{"YAML block", "token: |\n  a\n\n  SECRET\nother: b"},
	{"YAML block with comment", "token: >-2 # why\n  SECRET"},
	{"YAML tagged block", "token: !!str |\n  SECRET"},
	{"YAML item", "- token: SECRET"},
	{"environment variable", "DB_PASSWORD=SECRET"},
	{"short names", "DB_PASS=SECRET db_pwd=SECRET"},
	{"pair", "- name: DB_PASSWORD\n  value: SECRET more SECRET"},
	{"pair in JSON", `{"name":"DB_PASSWORD","value":"SECRET"}`},
	{"flag", "started with --registry-token=SECRET --v=2"},
	{"log field", `level=info msg=x accessKey=SECRET`},
	{"sentence", "logging in with password: SECRET now"},
	{"JSON", `{"clientSecret":"SECRET","other":1}`},
	{"JSON escapes", `{"password":"a\"SECRET\\"}`},
	{"JSON in JSON", `{"message":"{\"apiKey\":\"a\\\"SECRET\"}"}`},
	{"JSON in JSON in JSON", `"\"{\\\"apiKey\\\":\\\"SECRET\\\"}\""`},
	{"unfinished quote", `{"password":"SECRET`},
	{"query", "GET /?access_token=SECRET&x=1"},
	{"bearer", "Authorization: Bearer SECRET"},
	{"bearer of letters", "authorization: bearer SECRETabcdefghijklmnop"},
	{"basic", `"Authorization":["Basic SECRET"]`},
	{"printed header", "map[Authorization:[Bearer SECRET]]"},
	{"bearer alone", "curl -H 'Bearer SECRET'"},
	{"userinfo", "cloning https://bot:SECRET@example.org/repo.git"},
	{"userinfo alone", "cloning https://SECRET@example.org/repo.git"},
	{"userinfo of ssh", "ssh://git:SECRET@example.org"},
	{"private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nSECRET\n-----END OPENSSH PRIVATE KEY-----"},
	{"private key, escaped", `"-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----\n"`},
	{"private key, cut at its end", "-----BEGIN EC PRIVATE KEY-----\nSECRET\nSECRET"},
	{"PGP", "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nSECRET\n-----END PGP PRIVATE KEY BLOCK-----"},
	{"Secret, YAML", "kind: Secret\ndata:\n  a: SECRET\n  b: SECRET\nmetadata: {}"},
	{"Secret, YAML, kind last", "stringData:\n  a: |\n    SECRET\n\n    SECRET\nkind: Secret"},
	{"Secret in a list", "items:\n- apiVersion: v1\n  data:\n    a: SECRET\n  kind: Secret"},
	{"Secret begins with data", "items:\n- data:\n    a: SECRET\n  kind: Secret"},
	{"Secret, flow", "kind: Secret\ndata: {a: SECRET}"},
	{"Secret, all flow", "{kind: Secret, stringData: {a: SECRET}}"},
	{"Secret, JSON", `{"kind":"Secret","data":{"a":"SECRET","b":"}SECRET"},"x":1}`},
	{"Secret, JSON, indented", "{\n  \"data\": {\n    \"a\": \"SECRET\"\n  },\n  \"kind\": \"Secret\"\n}"},
	{"Secret, JSON in JSON", `{"last":"{\"kind\":\"Secret\",\"stringData\":{\"a\":\"x\\\"}SECRET\"}}"}`},
	{"Secret, Go map", "map[data:map[a:SECRET] kind:Secret]"},
	{"Secret, quoted YAML", `applying "kind: Secret\nstringData:\n  a: SECRET\n"`},
	{"Secret, second document", "kind: ConfigMap\n---\nkind: Secret\ndata:\n  a: SECRET\n"},
	{"docker config", `.dockerconfigjson: SECRET`},
}

func TestRedact(t *testing.T) {
	t.Parallel()
	for _, test := range leaks {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := check.Redact(strings.ReplaceAll(test.text, "SECRET", secret))
			// No part of it either.
			if strings.Contains(got, "hunter2") || strings.Contains(got, "Xq9zLk7") {
				t.Errorf("still there: %s", got)
			}
			if !strings.Contains(got, "REDACTED") {
				t.Errorf("not marked: %s", got)
			}
			if json.Valid([]byte(test.text)) && !json.Valid([]byte(got)) {
				t.Errorf("no longer JSON: %s", got)
			}
		})
	}
}

func TestRedactByForm(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString([]byte("-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n"))
	jwt := "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
	for _, text := range []string{
		encoded, jwt, "ghp_0123456789abcdefghijABCDEFGHIJ012345", "glpat-0123456789abcdefghij", "AKIA0123456789ABCDEF",
	} {
		NewWithT(t).Expect(check.Redact("seen " + text + " here")).To(Equal("seen REDACTED here"))
	}
	NewWithT(t).Expect(check.Redact("AAAAB3Nza\nC1yc2E=\n-----END RSA PRIVATE KEY-----\nnext")).To(Equal("REDACTED\nnext"),
		"a key that was cut at its beginning")
}

// What people need to read when something failed stays.
func TestRedactKeeps(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"automountServiceAccountToken: false",
		"secretRef:\n  name: flux-system",
		"secretName: beetle-tls",
		"volumes:\n- name: token\n  secret:\n    secretName: a",
		"tokenSecretRef:\n  name: a\n  key: token",
		"failed to get secret: Secret \"flux-system\" not found",
		"ssh://git@github.com/your-org/flux_platform",
		"https://github.com/your-org/developer.git@main",
		"main@sha1:0123456789abcdef0123456789abcdef01234567",
		"ghcr.io/fluxcd/source-controller:v1.9.5@sha256:0123456789abcdef",
		"kind: ConfigMap\ndata:\n  config.yaml: |\n    a: b\n",
		`{"kind":"ConfigMap","data":{"a":"b"}}`,
		"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
		base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n")),
		"basic authentication is off; bearer authentication is on",
		"User \"system:serviceaccount:beetle:reconciler\" cannot get resource \"secrets\" in API group \"\"",
		"--service-account-issuer=https://kubernetes.default.svc",
		"dev-beetle-config-7f9b2c",
		"",
	} {
		NewWithT(t).Expect(check.Redact(text)).To(Equal(text))
	}
}

func TestRedactor(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var redactor check.Redactor
	redactor.AddSecret("value", "correct horse")
	redactor.AddSecret("longer", "correct horse battery")
	redactor.AddSecret("short", "abc")
	redactor.AddSecret("known_hosts", "example.org ssh-ed25519 AAAA")
	redactor.AddSecret("file", "first: line\n  c29tZXRoaW5nc2VjcmV0\n")
	g.Expect(redactor.Redact("a correct horse battery, a correct horse")).To(Equal("a REDACTED, a REDACTED"))
	g.Expect(redactor.Redact("base64 " + base64.StdEncoding.EncodeToString([]byte("correct horse")))).To(HavePrefix("base64 REDACTED"))
	g.Expect(redactor.Redact("abc, example.org ssh-ed25519 AAAA, first: line")).To(Equal("abc, example.org ssh-ed25519 AAAA, first: line"))
	g.Expect(redactor.Redact("    c29tZXRoaW5nc2VjcmV0")).To(Equal("    REDACTED"))
	g.Expect(redactor.Redact("password: x")).To(Equal("password: REDACTED"))
}

func TestSensitiveName(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	for _, name := range []string{"password", "DB_PASSWORD", "dbPassword", "token", "client-key-data", "GITHUB_TOKEN", "apiKey", ".dockerconfigjson"} {
		g.Expect(check.SensitiveName(name)).To(BeTrue(), name)
	}
	for _, name := range []string{"secretName", "tokens_used", "name", "passwordFile", "compass", "PWD", "identity", ""} {
		g.Expect(check.SensitiveName(name)).To(BeFalse(), name)
	}
}

// Whatever stands around a secret, it does not come through, and what was
// redacted is not changed by redacting it again.
func FuzzRedact(f *testing.F) {
	for i := range leaks {
		f.Add(uint(i), "", "")
	}
	f.Add(uint(0), "kind: Secret\ndata:\n  a: b\n", "\n-----END PRIVATE KEY-----")
	f.Add(uint(3), "token: \"abc", "\" x")
	f.Add(uint(9), "x: |", "\xff\xfe")
	f.Add(uint(33), `{"a":"\`, "https://a@b@c/")
	f.Fuzz(func(t *testing.T, which uint, before, after string) {
		leak := leaks[which%uint(len(leaks))]
		if strings.Contains(before+after, "hunter2") || strings.Contains(before+after, "Xq9zLk7") {
			return
		}
		text := before + "\n" + strings.ReplaceAll(leak.text, "SECRET", secret) + "\n" + after
		if got := check.Redact(text); strings.Contains(got, secret) {
			t.Errorf("%s: still there in\n%s", leak.name, got)
		}
	})
}
