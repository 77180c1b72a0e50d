package listing_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"github.com/your-org/flux-platform-conformance/suites/internal/listing"
)

// server answers as an API server does, and may answer a path otherwise.
type server struct {
	mu sync.Mutex
	// groups map a group and version to its kinds.
	groups map[string][]metav1.APIResource
	// instead answers a path in place of the server; false: as it would.
	instead func(w http.ResponseWriter, r *http.Request, asked int) bool
	asked   map[string]int
}

func verbs(verbs ...string) metav1.Verbs { return verbs }

func start(t *testing.T, s *server) *rest.Config {
	t.Helper()
	s.asked = map[string]int{}
	if s.groups == nil {
		s.groups = map[string][]metav1.APIResource{
			"v1": {
				{Name: "configmaps", Namespaced: true, Kind: "ConfigMap", Verbs: verbs("get", "list")},
				{Name: "secrets", Namespaced: true, Kind: "Secret", Verbs: verbs("get", "list")},
				{Name: "bindings", Namespaced: true, Kind: "Binding", Verbs: verbs("create")},
				{Name: "namespaces", Kind: "Namespace", Verbs: verbs("get", "list")},
			},
			"example.org/v1":         {{Name: "beetles", Namespaced: true, Kind: "Beetle", Verbs: verbs("get", "list")}},
			"metrics.k8s.io/v1beta1": {{Name: "pods", Namespaced: true, Kind: "PodMetrics", Verbs: verbs("get", "list")}},
		}
	}
	listens := httptest.NewServer(s)
	t.Cleanup(listens.Close)
	return &rest.Config{Host: listens.URL, QPS: -1, WarningHandler: rest.NoWarnings{}}
}

func (s *server) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked[r.URL.Path]++
	asked := s.asked[r.URL.Path]
	s.mu.Unlock()
	if s.instead != nil && s.instead(w, r, asked) {
		return
	}
	switch r.URL.Path {
	case "/api":
		reply(w, http.StatusOK, metav1.APIVersions{Versions: []string{"v1"}})
	case "/apis":
		list := metav1.APIGroupList{}
		for version := range s.groups {
			group, _, isGroup := strings.Cut(version, "/")
			if isGroup {
				known := metav1.GroupVersionForDiscovery{GroupVersion: version, Version: strings.TrimPrefix(version, group+"/")}
				list.Groups = append(list.Groups, metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{known}, PreferredVersion: known})
			}
		}
		reply(w, http.StatusOK, list)
	default:
		path := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/apis/"), "/api/")
		if kinds, ok := s.groups[path]; ok {
			reply(w, http.StatusOK, metav1.APIResourceList{GroupVersion: path, APIResources: kinds})
			return
		}
		kind := path[strings.LastIndex(path, "/")+1:]
		items(w, "", kind)
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) bool {
	reply(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	})
	return true
}

// items answers a list, each object with a UID of its own.
func items(w http.ResponseWriter, next string, names ...string) bool {
	list := map[string]any{"kind": "List", "apiVersion": "v1", "metadata": map[string]any{"continue": next, "resourceVersion": "7"}}
	var objects []any
	for _, name := range names {
		objects = append(objects, map[string]any{"kind": "Thing", "apiVersion": "v1", "metadata": map[string]any{"name": name, "uid": "uid-" + name}})
	}
	list["items"] = objects
	reply(w, http.StatusOK, list)
	return true
}

func at(path string, answer func(w http.ResponseWriter, r *http.Request, asked int) bool) func(http.ResponseWriter, *http.Request, int) bool {
	return func(w http.ResponseWriter, r *http.Request, asked int) bool {
		return r.URL.Path == path && answer(w, r, asked)
	}
}

const secrets = "/api/v1/namespaces/apps/secrets"

func list(t *testing.T, s *server, patience time.Duration) ([]string, error) {
	t.Helper()
	lister, err := listing.New(start(t, s))
	if err != nil {
		return nil, err
	}
	lister.Patience = patience
	found, err := lister.Namespace(t.Context(), "apps")
	var names []string
	for _, object := range found {
		names = append(names, object.GetName())
	}
	return names, err
}

// patience is long enough for a few more attempts, and short where they fail.
const patience = 700 * time.Millisecond

func TestEveryKindIsListed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := &server{}
	g.Expect(list(t, s, patience)).To(ConsistOf("configmaps", "secrets", "beetles"))
	g.Expect(s.count("/apis/metrics.k8s.io/v1beta1/namespaces/apps/pods")).To(BeZero(), "measurements are no objects")

	lister, err := listing.New(start(t, &server{}))
	g.Expect(err).NotTo(HaveOccurred())
	wide, err := lister.Namespace(t.Context(), "")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(wide).To(HaveLen(1))
	g.Expect(wide[0].GetName()).To(Equal("namespaces"))
}

// An object that two groups serve is one.
func TestOneObjectOfTwoGroups(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	found, err := list(t, &server{instead: func(w http.ResponseWriter, r *http.Request, _ int) bool {
		return strings.HasPrefix(r.URL.Path, "/api") && strings.Contains(r.URL.Path, "/namespaces/apps/") && items(w, "", "same")
	}}, patience)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(Equal([]string{"same"}))
}

func TestAnAggregatedAPIThatIsDown(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, err := list(t, &server{instead: at("/apis/example.org/v1", func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		return refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "the program behind it is down")
	})}, patience)
	g.Expect(err).To(MatchError(And(ContainSubstring("example.org/v1"), ContainSubstring("what it holds of them cannot be seen"))))
}

// It went down once its kinds were known.
func TestAnAggregatedAPIThatGoesDown(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	found, err := list(t, &server{instead: at("/apis/example.org/v1/namespaces/apps/beetles", func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		return refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "the program behind it is down")
	})}, patience)
	g.Expect(err).To(MatchError(And(ContainSubstring(`list beetles.example.org in "apps": the server was busy for `), ContainSubstring("the program behind it is down"))))
	g.Expect(found).To(BeEmpty(), "a part of what there is is no answer")
}

func TestARefusal(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := &server{instead: at(secrets, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		return refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "secrets is forbidden")
	})}
	_, err := list(t, s, patience)
	g.Expect(err).To(MatchError(And(ContainSubstring(`list secrets in "apps"`), ContainSubstring("secrets is forbidden"))))
	g.Expect(s.count(secrets)).To(Equal(1), "who refuses refuses again")
}

// All that could not be listed is named, not only the first.
func TestEveryKindThatFailsIsNamed(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, err := list(t, &server{instead: func(w http.ResponseWriter, r *http.Request, _ int) bool {
		return strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/") && refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "no")
	}}, patience)
	g.Expect(err).To(MatchError(And(ContainSubstring("list secrets"), ContainSubstring("list configmaps"))))
}

func TestAKindThatIsGone(t *testing.T) {
	t.Parallel()
	const path = "/apis/example.org/v1/namespaces/apps/beetles"
	missing := func(w http.ResponseWriter) bool {
		return refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
	}
	for _, row := range []struct {
		name string
		// again answers when the kinds of the group are asked for once more.
		again func(http.ResponseWriter) bool
		wants string
	}{
		{"with its group", missing, ""},
		{"alone", func(w http.ResponseWriter) bool {
			reply(w, http.StatusOK, metav1.APIResourceList{GroupVersion: "example.org/v1", APIResources: []metav1.APIResource{{Name: "others"}}})
			return true
		}, ""},
		{"and still listed", func(http.ResponseWriter) bool { return false }, `list beetles.example.org in "apps"`},
		{"or nobody knows", func(w http.ResponseWriter) bool {
			return refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "not for you")
		}, "ask whether there are beetles.example.org any more"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			found, err := list(t, &server{instead: func(w http.ResponseWriter, r *http.Request, asked int) bool {
				switch {
				case r.URL.Path == path:
					return missing(w)
				case r.URL.Path == "/apis/example.org/v1" && asked > 1:
					return row.again(w)
				}
				return false
			}}, patience)
			if row.wants != "" {
				g.Expect(err).To(MatchError(ContainSubstring(row.wants)))
				return
			}
			g.Expect(err).NotTo(HaveOccurred())
			g.Expect(found).To(ConsistOf("configmaps", "secrets"))
		})
	}
}

// That a list is no method of a kind is no reason to know nothing of it.
func TestAKindWithoutLists(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, err := list(t, &server{instead: at(secrets, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		return refuse(w, http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "no lists here")
	})}, patience)
	g.Expect(err).To(MatchError(ContainSubstring("no lists here")))
}

func TestABusyServer(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		code   int
		reason metav1.StatusReason
	}{
		{"too many requests", http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests},
		{"a time-out of its own", http.StatusGatewayTimeout, metav1.StatusReasonTimeout},
		{"one that it asks to try again", http.StatusInternalServerError, metav1.StatusReasonServerTimeout},
		{"not available", http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			g := NewWithT(t)
			busy := func(until int) *server {
				return &server{instead: at(secrets, func(w http.ResponseWriter, _ *http.Request, asked int) bool {
					return asked <= until && refuse(w, row.code, row.reason, "try again")
				})}
			}
			s := busy(2)
			g.Expect(list(t, s, time.Minute)).To(ConsistOf("configmaps", "secrets", "beetles"))
			g.Expect(s.count(secrets)).To(Equal(3))

			_, err := list(t, busy(1<<30), patience)
			g.Expect(err).To(MatchError(And(ContainSubstring(`list secrets in "apps": the server was busy for `), ContainSubstring("try again"))))
		})
	}
}

// A server that never answers is waited for no longer than is given.
func TestAServerThatHangs(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	_, err := list(t, &server{instead: at(secrets, func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		<-r.Context().Done()
		return true
	})}, patience)
	g.Expect(err).To(MatchError(And(ContainSubstring(`list secrets in "apps"`), ContainSubstring("deadline exceeded"))))
}

func TestPages(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := &server{instead: at(secrets, func(w http.ResponseWriter, r *http.Request, asked int) bool {
		g.Expect(r.URL.Query().Get("limit")).To(Equal("500"))
		switch r.URL.Query().Get("continue") {
		case "":
			return items(w, "one", "a", "b")
		case "one":
			// Between two pages the server may be busy as well.
			return asked == 2 && refuse(w, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "try again") || items(w, "two", "c")
		}
		return items(w, "", "d")
	})}
	g.Expect(list(t, s, time.Minute)).To(ConsistOf("configmaps", "beetles", "a", "b", "c", "d"))
	g.Expect(s.count(secrets)).To(Equal(4))
}

// What was asked for in pages that are too old by now is asked for anew, at once.
func TestPagesThatExpire(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	s := &server{instead: at(secrets, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		query := r.URL.Query()
		switch {
		case query.Get("continue") != "":
			return refuse(w, http.StatusGone, metav1.StatusReasonExpired, "too old")
		case query.Get("limit") != "":
			return items(w, "one", "a")
		}
		return items(w, "", "a", "b")
	})}
	g.Expect(list(t, s, patience)).To(ConsistOf("configmaps", "beetles", "a", "b"))
}

// No more lists are asked for at a time than the server is to bear.
func TestListsAtATime(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	var now, most int
	var mu sync.Mutex
	groups := map[string][]metav1.APIResource{"v1": nil}
	for i := range 40 {
		groups["v1"] = append(groups["v1"], metav1.APIResource{Name: fmt.Sprintf("kind%d", i), Namespaced: true, Kind: "Kind", Verbs: verbs("list")})
	}
	held := make(chan struct{})
	s := &server{groups: groups, instead: func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if !strings.Contains(r.URL.Path, "/namespaces/") {
			return false
		}
		mu.Lock()
		now++
		if most = max(most, now); now == 8 {
			select {
			case <-held:
			default:
				close(held)
			}
		}
		mu.Unlock()
		// The first ones wait for each other, or nobody saw whether more come.
		<-held
		mu.Lock()
		now--
		mu.Unlock()
		return items(w, "", r.URL.Path)
	}}
	found, err := list(t, s, time.Minute)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(HaveLen(40))
	g.Expect(most).To(Equal(8))
}

func TestOneKind(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	lister, err := listing.New(start(t, &server{}))
	g.Expect(err).NotTo(HaveOccurred())
	found, err := lister.List(t.Context(), "apps", schema.GroupVersionResource{Version: "v1", Resource: "secrets"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(found).To(HaveLen(1))
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	g := NewWithT(t)
	forbidden := false
	s := &server{instead: func(w http.ResponseWriter, r *http.Request, _ int) bool {
		return forbidden && r.URL.Path == "/api/v1/secrets" && refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "no")
	}}
	lister, err := listing.New(start(t, s))
	g.Expect(err).NotTo(HaveOccurred())
	kinds, err := lister.Metadata(t.Context())
	g.Expect(err).NotTo(HaveOccurred())
	found := map[string]string{}
	for _, kind := range kinds {
		for _, object := range kind.Objects {
			found[kind.Name] = kind.Resource + " " + object.Name
		}
	}
	g.Expect(found).To(Equal(map[string]string{
		"ConfigMap": "configmaps configmaps", "Secret": "secrets secrets", "Namespace": "namespaces namespaces", "Beetle": "beetles beetles",
	}))
	forbidden = true
	_, err = lister.Metadata(t.Context())
	g.Expect(err).To(MatchError(ContainSubstring("list secrets")))
}
