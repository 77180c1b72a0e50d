package kind

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func typeName(value any) string { return fmt.Sprintf("%T", value) }

func TestAnswersAreTheClientsOwn(t *testing.T) {
	g := NewWithT(t)
	const line = `{"time":"2026-01-02T03:04:05Z","status":200,"pod":"server"}` + "\n"
	all, err := parseAnswers(line + `{"time":"2026-01-02T03:04:06Z","status":0,"error":"refused"}` + "\n" + line[:20])
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(all).To(HaveLen(2), "the last one is not written to its end")
	g.Expect(all[0].String()).To(Equal(`status 200 from pod "server"`))
	g.Expect(all[1].String()).To(Equal("refused"))
	g.Expect(parseAnswers("")).To(BeEmpty())
	for _, log := range []string{"panic: no\n", "{}\n"} {
		_, err := parseAnswers(log)
		g.Expect(err).To(MatchError(ContainSubstring("what it does not write")))
	}
}

func TestKeptOutNeedsSeveralRefusals(t *testing.T) {
	g := NewWithT(t)
	refused, let := answer{Error: "timeout"}, answer{Status: 200}
	g.Expect(keptOut([]answer{let, refused, refused, refused, refused, refused})).To(BeTrue())
	g.Expect(keptOut([]answer{let, refused, refused, refused, refused})).To(BeFalse())
	g.Expect(keptOut([]answer{refused, refused, refused, refused, refused, let})).To(BeFalse())
	g.Expect(keptOut(nil)).To(BeFalse())
}

func TestRulesWithAHostOfTheirOwn(t *testing.T) {
	g := NewWithT(t)
	backend := networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "app", Port: networkingv1.ServiceBackendPort{Number: 80}}}
	rule := func(host string, paths ...networkingv1.HTTPIngressPath) networkingv1.IngressRule {
		return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: paths}}}
	}
	ingress := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "app"}, Spec: networkingv1.IngressSpec{Rules: []networkingv1.IngressRule{
		rule("", networkingv1.HTTPIngressPath{Backend: backend}),
		{Host: "no.paths"},
		rule("a.example", networkingv1.HTTPIngressPath{Backend: networkingv1.IngressBackend{}}, networkingv1.HTTPIngressPath{Path: "/x", Backend: backend}),
		rule("*.example", networkingv1.HTTPIngressPath{Backend: backend}),
	}}}
	found := rules(ingress)
	g.Expect(found).To(HaveLen(2))
	g.Expect(found[0]).To(Equal(route{ingress: "apps/app", host: "a.example", path: "/x", namespace: "apps", backend: *backend.Service}))
	g.Expect(found[1].host).To(Equal("conformance.example"))
	g.Expect(found[1].path).To(Equal("/"))
}

func TestEntrancesAreWhatNoIngressLeadsTo(t *testing.T) {
	g := NewWithT(t)
	service := func(namespace, name string, port int32, portName string) corev1.Service {
		return corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"a": "b"}, Ports: []corev1.ServicePort{{Port: 9000}, {Port: port, Name: portName}}},
		}
	}
	selectorless := service("x", "selectorless", 80, "")
	selectorless.Spec.Selector = nil
	routes := []ingressRoute{{route: route{namespace: "apps", backend: networkingv1.IngressServiceBackend{Name: "app"}}}}
	g.Expect(entrances([]corev1.Service{
		service("apps", "app", 80, "http"), service("traefik", "traefik", 8000, "web"), service("flux-system", "webhook", 80, ""),
		service("x", "metrics", 8080, "metrics"), selectorless,
	}, routes)).To(Equal([]entrance{{"traefik", "traefik", 8000}, {"flux-system", "webhook", 80}}))
}

// A controller and a pod as the API server's proxy shows them.
func TestJudgeWantsTheAnswerOfAPod(t *testing.T) {
	const entry, direct = "/api/v1/namespaces/traefik/services/traefik:80/proxy/x", "/api/v1/namespaces/apps/pods/app-1:8080/proxy/x"
	failure, err := json.Marshal(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Message: "no route to it"})
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	type page struct {
		status    int
		body, pod string
	}
	broken := page{http.StatusServiceUnavailable, string(failure), ""}
	for _, row := range []struct {
		name                  string
		through, other, asked page
		want                  verdict
		evidence              string
	}{
		{"by the pod's name", page{200, "hello", "app-1"}, page{404, "no", ""}, broken, reached, "by pod apps/app-1 behind Ingress apps/app, another host with status 404"},
		{"by what the pod says", page{200, "hello", ""}, page{404, "no", ""}, page{200, "hello", ""}, reached, "as pod apps/app-1 behind Ingress apps/app itself answers"},
		{"any host is answered alike", page{200, "hello", "app-1"}, page{200, "hello", "app-1"}, page{200, "hello", "app-1"}, unreached, "as with any host"},
		{"by another pod", page{200, "hello", "app-2"}, page{404, "no", ""}, page{200, "bye", ""}, unreached, "which no pod behind it gives"},
		{"the controller is not there", broken, broken, page{200, "hello", ""}, unreached, "no route to it"},
		{"nobody can tell", page{200, "hello", ""}, page{404, "no", ""}, broken, undecided, "no pod behind it can be asked itself"},
		{"the controller finds no pod", page{502, "bad gateway", ""}, page{404, "no", ""}, broken, unreached, "status 502"},
	} {
		t.Run(row.name, func(t *testing.T) {
			g := NewWithT(t)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := page{http.StatusNotFound, "what is this: " + r.URL.Path, ""}
				switch {
				case r.URL.Path == direct && r.Host == "a.example":
					answer = row.asked
				case r.URL.Path == entry && r.Host == "a.example":
					answer = row.through
				case r.URL.Path == entry:
					answer = row.other
				}
				w.Header().Set("X-Pod", answer.pod)
				w.WriteHeader(answer.status)
				_, _ = w.Write([]byte(answer.body))
			}))
			defer server.Close()
			r := ingressRoute{
				route:   route{ingress: "apps/app", host: "a.example", path: "/x", namespace: "apps"},
				targets: []target{{namespace: "apps", pod: "app-1", port: 8080}},
			}

			verdict, evidence := (&asker{client: server.Client(), server: server.URL}).judge(t.Context(), r, entrance{"traefik", "traefik", 80})

			g.Expect(verdict).To(Equal(row.want), evidence)
			g.Expect(evidence).To(And(ContainSubstring(row.evidence), ContainSubstring("http://a.example/x by way of Service traefik/traefik")))
			g.Expect(strings.Count(evidence, "\n")).To(BeZero())
		})
	}
}
