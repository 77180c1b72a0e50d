package dump_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	. "github.com/onsi/gomega"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/check"
	"github.com/your-org/flux-platform-conformance/suites/internal/check/dump"
)

type object = map[string]any

const (
	secret = "hunter2-Xq9zLk7"
	known  = "correct horse battery staple"
)

// kinds is what the API server of the tests offers: group version, resource,
// kind, and whether it has namespaces.
var kinds = []struct {
	groupVersion, resource, kind string
	namespaced                   bool
}{
	{"v1", "secrets", "Secret", true},
	{"v1", "configmaps", "ConfigMap", true},
	{"v1", "pods", "Pod", true},
	{"v1", "events", "Event", true},
	{"v1", "namespaces", "Namespace", false},
	{"v1", "persistentvolumes", "PersistentVolume", false},
	{"events.k8s.io/v1", "events", "Event", true},
	{"kustomize.toolkit.fluxcd.io/v1", "kustomizations", "Kustomization", true},
	{"admissionregistration.k8s.io/v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration", false},
	{"policies.kyverno.io/v1", "validatingpolicies", "ValidatingPolicy", false},
}

func objects() map[string][]object {
	encoded := base64.StdEncoding.EncodeToString([]byte(known))
	return map[string][]object{
		"secrets": {
			{
				"metadata": object{
					"name": "credentials", "namespace": "apps", "labels": object{"owner": "beetle"},
					"annotations": object{"copy": "x" + encoded},
				},
				"type": "Opaque", "data": object{"phrase": encoded},
			},
			{"metadata": object{"name": "foreign", "namespace": "elsewhere"}, "data": object{"a": "Zm9yZWlnbg=="}},
		},
		"configmaps": {
			{
				"metadata": object{
					"name": "dev-beetle-config", "namespace": "apps", "managedFields": []any{object{"manager": "kustomize-controller"}},
					"annotations": object{"kubectl.kubernetes.io/last-applied-configuration": "copy", "kept": "yes"},
				},
				"data": object{"config.yaml": "port: 8080\npassword: " + secret + "\nphrase: " + known + "\n"},
			},
			{"metadata": object{"name": "of-a-tenant", "namespace": "beetle"}},
			{"metadata": object{"name": "foreign", "namespace": "elsewhere"}},
		},
		"pods": {{
			"metadata": object{"name": "beetle", "namespace": "apps", "uid": "1"},
			"status": object{
				"initContainerStatuses": []any{object{"name": "wait", "state": object{"waiting": object{"reason": "PodInitializing"}}}},
				"containerStatuses":     []any{object{"name": "app", "restartCount": 1, "state": object{"running": object{}}}},
			},
			"spec": object{
				"automountServiceAccountToken": false,
				"containers": []any{object{
					"name": "app", "args": []any{"--token=" + secret},
					"env": []any{object{"name": "DB_PASSWORD", "value": secret}, object{"name": "PORT", "value": "8080"}},
				}},
			},
		}},
		"events": {
			{
				"metadata": object{"name": "late", "namespace": "apps"}, "type": "Warning", "reason": "Failed", "count": 3,
				"lastTimestamp": "2026-05-04T08:00:09Z", "involvedObject": object{"kind": "Pod", "name": "beetle", "uid": "1"},
				"message": "using " + known,
			},
			{
				"metadata": object{"name": "early", "namespace": "flux-system"}, "type": "Normal", "reason": "Started",
				"eventTime": "2026-05-04T08:00:01.000000Z", "involvedObject": object{"kind": "Pod", "name": "source-controller"},
				"message": "started",
			},
			{"metadata": object{"name": "foreign", "namespace": "elsewhere"}, "message": "foreign"},
		},
		"namespaces":        {{"metadata": object{"name": "apps"}}},
		"persistentvolumes": {{"metadata": object{"name": "bulk"}}},
		"kustomizations": {{
			"metadata": object{"name": "beetle", "namespace": "beetle", "generation": 3},
			"spec":     object{"suspend": true},
			"status": object{
				"observedGeneration": 2, "lastAttemptedRevision": "main@sha1:abc",
				"conditions": []any{object{
					"type": "Ready", "status": "False", "reason": "BuildFailed", "observedGeneration": 2,
					"lastTransitionTime": "2026-05-04T08:00:02Z", "message": "cloning https://bot:" + secret + "@example.org failed",
				}},
			},
		}},
		"validatingwebhookconfigurations": {{
			"metadata": object{"name": "kyverno"},
			"webhooks": []any{object{"name": "validate.kyverno.svc", "clientConfig": object{"caBundle": "QUJD"}}},
		}},
		"validatingpolicies": {{"metadata": object{"name": "own-account"}}},
	}
}

// server answers discovery and lists as an API server does; refused are resources
// that it does not let anybody list.
func server(t *testing.T, refused ...string) (*rest.Config, *requests) {
	t.Helper()
	asked := &requests{}
	all := objects()
	answer := func(w http.ResponseWriter, status int, body object) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if err := json.NewEncoder(w).Encode(body); err != nil {
			t.Error(err)
		}
	}
	standIn := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.add(r.URL.Path)
		path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
		switch { //nolint:staticcheck // not every case compares the whole path
		case r.URL.Path == "/api":
			answer(w, http.StatusOK, object{"kind": "APIVersions", "versions": []any{"v1"}})
			return
		case r.URL.Path == "/apis":
			var groups []any
			for _, k := range kinds {
				if group, version, ok := strings.Cut(k.groupVersion, "/"); ok {
					entry := object{"groupVersion": k.groupVersion, "version": version}
					groups = append(groups, object{"name": group, "versions": []any{entry}, "preferredVersion": entry})
				}
			}
			answer(w, http.StatusOK, object{"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
			return
		}
		groupVersion, rest := path[1], path[2:]
		if path[0] == "apis" {
			groupVersion, rest = path[1]+"/"+path[2], path[3:]
		}
		if len(rest) == 0 {
			var found []any
			for _, k := range kinds {
				if k.groupVersion == groupVersion {
					found = append(found, object{"name": k.resource, "kind": k.kind, "namespaced": k.namespaced, "verbs": []any{"get", "list"}})
				}
			}
			answer(w, http.StatusOK, object{"kind": "APIResourceList", "groupVersion": groupVersion, "resources": found})
			return
		}
		namespace := ""
		if rest[0] == "namespaces" && len(rest) > 1 {
			namespace, rest = rest[1], rest[2:]
		}
		if slices.Contains(refused, strings.Join(rest, "/")) {
			answer(w, http.StatusForbidden, object{
				"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
				"message": strings.Join(rest, "/") + " is forbidden",
			})
			return
		}
		if len(rest) == 3 && rest[2] == "log" {
			which := r.URL.Query()
			_, _ = io.WriteString(w, which.Get("container")+" of "+rest[1]+", previous: "+which.Get("previous")+", with "+known+"\n")
			return
		}
		kind := ""
		for _, k := range kinds {
			if k.groupVersion == groupVersion && k.resource == rest[0] {
				kind = k.kind
			}
		}
		items := []any{}
		for _, item := range all[rest[0]] {
			metadata := item["metadata"].(object)
			if namespace == "" || metadata["namespace"] == namespace {
				copied := object{"apiVersion": groupVersion, "kind": kind}
				for key, value := range item {
					copied[key] = value
				}
				items = append(items, copied)
			}
		}
		answer(w, http.StatusOK, object{"apiVersion": groupVersion, "kind": kind + "List", "metadata": object{}, "items": items})
	}))
	t.Cleanup(standIn.Close)
	return &rest.Config{Host: standIn.URL}, asked
}

type requests struct {
	mu    sync.Mutex
	paths []string
}

func (r *requests) add(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paths = append(r.paths, path)
}

func failure(tenant string) (check.Check, check.Outcome) {
	return check.Check{
		ID: "TEN-001", Title: "Each tenant's Deployment is there", Why: "else nobody is served", Remedy: "apply it",
		Reference: "DESIGN.md", Level: check.Core, Scope: check.ScopeTenant,
	}, check.Outcome{
		Check: "TEN-001", Environment: "dev", Tenant: tenant, Result: check.Failed,
		Expected: "Deployment apps/dev-beetle-app", Found: "none, and the words " + known,
	}
}

// files reads everything below a folder.
func files(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(folder, path)
		found[filepath.ToSlash(name)] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func names(found map[string]string) []string {
	var all []string
	for name := range found {
		all = append(all, name)
	}
	return all
}

func TestCollect(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := filepath.Join(t.TempDir(), "dev")
	logs := t.TempDir()
	log := filepath.Join(logs, "source-controller.log")
	g.Expect(os.WriteFile(log, []byte("fetching with "+known+"\nAuthorization: Bearer "+secret+"\n"), 0o600)).To(Succeed())
	config, asked := server(t)
	c, o := failure("beetle")
	in := dump.Input{
		RESTConfig: config, Dir: folder, Check: c, Outcome: o, Namespaces: []string{"beetle"},
		Logs: []string{log, filepath.Join(logs, "missing.log")}, Note: "the platform was ready",
	}
	where, err := dump.Collect(t.Context(), in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(where).To(Equal(filepath.Join(folder, "TEN-001")))

	found := files(t, folder)
	g.Expect(names(found)).To(ConsistOf(
		"TEN-001/failure-beetle.txt",
		"TEN-001/flux.txt",
		"cluster/events.txt",
		"cluster/logs/source-controller.log",
		"cluster/objects/_cluster/namespaces.yaml",
		"cluster/objects/_cluster/validatingpolicies.policies.kyverno.io.yaml",
		"cluster/objects/_cluster/validatingwebhookconfigurations.admissionregistration.k8s.io.yaml",
		"cluster/objects/apps/configmaps.yaml",
		"cluster/objects/apps/pods.yaml",
		"cluster/objects/apps/secrets.yaml",
		"cluster/objects/beetle/configmaps.yaml",
		"cluster/objects/beetle/kustomizations.kustomize.toolkit.fluxcd.io.yaml",
	))
	for name, content := range found {
		for _, leak := range []string{secret, "Xq9zLk7", known, base64.StdEncoding.EncodeToString([]byte(known)), "Zm9yZWlnbg", "foreign"} {
			g.Expect(content).NotTo(ContainSubstring(leak), name)
		}
	}
	g.Expect(asked.paths).NotTo(ContainElement("/api/v1/secrets"), "Secrets of others are not asked for")
	g.Expect(found["TEN-001/failure-beetle.txt"]).To(Equal(`TEN-001 FAILED: Each tenant's Deployment is there
in dev, tenant beetle

expected: Deployment apps/dev-beetle-app
found: none, and the words REDACTED
why: else nobody is served
mend: apply it
see: DESIGN.md

the platform was ready

Objects, events and component logs, as they were at the first failure in this environment: ../cluster
`))
	g.Expect(found["TEN-001/flux.txt"]).To(Equal(`Kustomization beetle/beetle, generation 3, observed 2, suspended
  lastAttemptedRevision main@sha1:abc
  Ready=False BuildFailed, generation 2, since 2026-05-04T08:00:02Z: cloning https://REDACTED@example.org failed
`))
	g.Expect(found["cluster/events.txt"]).To(Equal(
		"2026-05-04T08:00:01.000000Z Normal  flux-system Pod/source-controller Started x1: started\n" +
			"2026-05-04T08:00:09Z Warning apps Pod/beetle Failed x3: using REDACTED\n"))
	g.Expect(found["cluster/objects/apps/configmaps.yaml"]).To(Equal(`---
apiVersion: v1
data:
  config.yaml: |
    port: 8080
    password: REDACTED
    phrase: REDACTED
kind: ConfigMap
metadata:
  annotations:
    kept: "yes"
  name: dev-beetle-config
  namespace: apps
`))
	g.Expect(found["cluster/objects/apps/secrets.yaml"]).To(Equal(`---
apiVersion: v1
data:
  phrase: REDACTED, 40 bytes as stored
kind: Secret
metadata:
  labels:
    owner: beetle
  name: credentials
  namespace: apps
type: Opaque
`))
	g.Expect(found["cluster/objects/apps/pods.yaml"]).To(And(
		ContainSubstring("- --token=REDACTED"), ContainSubstring("- name: DB_PASSWORD\n      value: REDACTED"),
		ContainSubstring("- name: PORT\n      value: \"8080\""), ContainSubstring("automountServiceAccountToken: false")))
	g.Expect(found["cluster/logs/source-controller.log"]).To(Equal("fetching with REDACTED\nAuthorization: Bearer REDACTED\n"))

	// A second failure adds its own text, and nothing that is collected once.
	events := len(asked.paths)
	_, in.Outcome = failure("sonar")
	_, err = dump.Collect(t.Context(), in)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(files(t, folder)).To(HaveLen(len(found) + 1))
	g.Expect(asked.paths[events:]).NotTo(ContainElement("/api/v1/pods"))
}

// Where containers run, what they wrote is kept: with the failure that is about
// them, and once of all.
func TestCollectFromPods(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	config, asked := server(t)
	c, o := failure("beetle")
	in := dump.Input{RESTConfig: config, Dir: folder, Check: c, Outcome: o, PodLogs: true, PodNamespace: "apps", PodSelector: "owner=beetle"}
	_, err := dump.Collect(t.Context(), in)
	g.Expect(err).NotTo(HaveOccurred())
	found := files(t, folder)
	for _, place := range []string{"TEN-001/pods/beetle/", "cluster/pods/apps/beetle/"} {
		g.Expect(found).To(HaveKeyWithValue(place+"events.txt", "2026-05-04T08:00:09Z Warning Failed x3: using REDACTED\n"))
		g.Expect(found).To(HaveKeyWithValue(place+"app.log", "app of beetle, previous: , with REDACTED\n"))
		g.Expect(found).To(HaveKeyWithValue(place+"app.previous.log", "app of beetle, previous: true, with REDACTED\n"))
	}
	g.Expect(asked.paths).To(ContainElement("/api/v1/namespaces/apps/pods/beetle/log"))
	g.Expect(names(found)).NotTo(ContainElement(ContainSubstring("wait.log")), "it has not started")

	// What one container did not say hides nothing of the others.
	refusing, _ := server(t, "pods/beetle/log")
	in.RESTConfig, in.Dir = refusing, t.TempDir()
	_, err = dump.Collect(t.Context(), in)
	g.Expect(err).To(MatchError(ContainSubstring("reading the log of container app of pod apps/beetle: pods/beetle/log is forbidden")))
	g.Expect(files(t, in.Dir)).To(HaveKey("TEN-001/pods/beetle/events.txt"))
}

func TestCollectWithoutACluster(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	c, o := failure("")
	_, err := dump.Collect(t.Context(), dump.Input{Dir: folder, Check: c, Outcome: o})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(names(files(t, folder))).To(ConsistOf("TEN-001/failure.txt"))
}

// What cannot be had is said, and hides nothing else.
func TestCollectWhatIsThere(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	config, _ := server(t, "secrets", "pods")
	c, o := failure("")
	where, err := dump.Collect(t.Context(), dump.Input{RESTConfig: config, Dir: folder, Check: c, Outcome: o})
	g.Expect(err).To(MatchError(And(
		ContainSubstring("collecting the failure of TEN-001"),
		ContainSubstring("listing secrets: secrets is forbidden"), ContainSubstring("listing pods: pods is forbidden"))))
	g.Expect(where).To(Equal(filepath.Join(folder, "TEN-001")))
	found := files(t, folder)
	g.Expect(found).To(HaveKey("cluster/objects/apps/configmaps.yaml"))
	g.Expect(found).To(HaveKey("TEN-001/failure.txt"))
	g.Expect(found["TEN-001/not-collected.txt"]).To(ContainSubstring("pods is forbidden"))
}

func TestCollectFromADeadCluster(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	folder := t.TempDir()
	dead := httptest.NewServer(nil)
	dead.Close()
	c, o := failure("")
	_, err := dump.Collect(t.Context(), dump.Input{RESTConfig: &rest.Config{Host: dead.URL}, Dir: folder, Check: c, Outcome: o})
	g.Expect(err).To(MatchError(ContainSubstring("connection refused")))
	g.Expect(files(t, folder)).To(HaveKey("TEN-001/failure.txt"))
}

func TestCollectRefusesInput(t *testing.T) {
	t.Parallel()
	_, err := dump.Collect(t.Context(), dump.Input{})
	NewWithT(t).Expect(err).To(MatchError(ContainSubstring("the folder, or a check with its outcome, is missing")))
}

func TestLogs(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	logs := t.TempDir()
	var paths []string
	for _, folder := range []string{"a", "b", filepath.Join("c", "b")} {
		g.Expect(os.MkdirAll(filepath.Join(logs, folder), 0o700)).To(Succeed())
		path := filepath.Join(logs, folder, "log")
		g.Expect(os.WriteFile(path, []byte(folder), 0o600)).To(Succeed())
		paths = append(paths, path)
	}
	long := filepath.Join(logs, "long")
	g.Expect(os.WriteFile(long, []byte(strings.Repeat("token: "+secret+"\n", 20000)+"the end\n"), 0o600)).To(Succeed())
	folder := t.TempDir()
	c, o := failure("")
	_, err := dump.Collect(t.Context(), dump.Input{Dir: folder, Check: c, Outcome: o, Logs: append(paths, long)})
	g.Expect(err).NotTo(HaveOccurred())
	found := files(t, filepath.Join(folder, "cluster", "logs"))
	g.Expect(found).To(HaveKeyWithValue("log", "a"))
	g.Expect(found).To(HaveKeyWithValue("b-log", "b"))
	g.Expect(found).To(HaveKeyWithValue("2-log", "c/b"))
	g.Expect(found["long"]).To(And(HavePrefix("… "), HaveSuffix("the end\n"), ContainSubstring("\ntoken: REDACTED\n")))
	g.Expect(found["long"]).NotTo(ContainSubstring("Xq9zLk7"), "not even of a line that was cut")
}
