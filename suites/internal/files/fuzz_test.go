package files

import (
	"strings"
	"testing"

	"github.com/your-org/flux-platform-conformance/suites/internal/platform"
)

// Whatever bytes lie in a repository, they give findings or none, never a panic,
// and no finding shows the secret that stands among them.
func FuzzReaders(f *testing.F) {
	const secret = "hunter2-Xq9zLk7"
	f.Add("kustomization.yaml", []byte("resources: [http://a]\nhelmCharts: [{}]\ngenerators: ['a\nb: c']\n"))
	f.Add("kustomization.yaml", []byte("secretGenerator:\n- name: a\n  literals: [a]\n- &a [*a]\n"))
	f.Add("a.yaml", []byte("a: &a\n  b: *a\n"))
	f.Add("a.yaml", []byte("apiVersion: v1\nkind: Secret\ndata: [a]\nstringData: {? [a] : b}\n"))
	f.Add("a.yaml", []byte("kind: SecretList\napiVersion: v1\nitems: [a, {kind: Secret, apiVersion: v1, data: {a: x}}]\n"))
	f.Add("a.yaml", []byte("- {name: password, value: &v "+secret+"}\n- {name: token, value: *v}\n"))
	f.Add("a.json", []byte(`{"password": "`+secret+`", "a": {"sops": 1}}`))
	f.Add("a.schema.json", []byte(`{"type": ["object"], "properties": {"a": true}, "items": [1], "anyOf": {}}`))
	f.Add("a.env", []byte("TOKEN='"+secret+"\"\r\n"))
	f.Add("a.txt", []byte("https://a:"+secret+"@b\x00\xff\u2028"))
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		r := &repository{own: true, values: len(content)%2 == 0, byName: map[string]*file{}}
		one := &file{repository: r, name: strings.TrimLeft(name, "/."), content: content, size: int64(len(content)), read: len(content)%3 == 0}
		one.parse()
		r.files, r.byName[one.name] = []*file{one}, one
		read := &reading{platform: &platform.Platform{}, repositories: []*repository{r}}
		var v verdict
		for _, rule := range rules() {
			if rule.whole != nil && rule.ID != "FILE-006" && rule.ID != "FILE-004" { // these ask the loader's tree
				v.findings = append(v.findings, rule.whole(read).findings...)
			}
		}
		for _, root := range one.documents {
			_ = open(root, "", 0)
		}
		if strings.Contains(string(content), secret) && !strings.Contains(name, secret) {
			for _, finding := range v.findings {
				// It may be the name of a key, and names are shown.
				if strings.Contains(finding, secret) && !strings.Contains(finding, `"`) {
					t.Errorf("the secret is shown: %s", finding)
				}
			}
		}
	})
}
