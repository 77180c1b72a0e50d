package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
)

func parse(t *testing.T, list string) (nodes []node) {
	t.Helper()
	if err := json.Unmarshal([]byte(list), &nodes); err != nil {
		t.Fatal(err)
	}
	return nodes
}

func nodeText(name, pods, address string) string {
	return fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"podCIDRs": [%s]}, "status": {"addresses": [
		{"type": "Hostname", "address": %[1]q}, {"type": "InternalIP", "address": %[3]q}]}}`, name, pods, address)
}

var three = "[" + strings.Join([]string{
	nodeText("b", `"10.244.1.0/24"`, "172.18.0.3"),
	nodeText("a", `"fd00:10:244::/64", "10.244.0.0/24"`, "172.18.0.2"),
	nodeText("new", ``, "172.18.0.4"),
}, ",") + "]"

func TestPlan(t *testing.T) {
	g := NewWithT(t)
	p, err := planFor("a", parse(t, three))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(p.String()).To(Equal("pods of this node: 10.244.0.0/24; 10.244.1.0/24 via 172.18.0.3"))
	g.Expect(p.routes).To(Equal(map[netip.Prefix]netip.Addr{netip.MustParsePrefix("10.244.1.0/24"): netip.MustParseAddr("172.18.0.3")}))
	g.Expect(p.rules()).To(Equal(`*nat
:NODE-NETWORK-MASQ - [0:0]
-A NODE-NETWORK-MASQ -d 10.244.0.0/24 -j RETURN
-A NODE-NETWORK-MASQ -d 10.244.1.0/24 -j RETURN
-A NODE-NETWORK-MASQ -d 224.0.0.0/4 -j RETURN
-A NODE-NETWORK-MASQ -j MASQUERADE --random-fully
COMMIT
`), "pods keep their addresses among themselves, and lose them outside")

	alone, err := planFor("a", parse(t, "["+nodeText("a", `"10.244.0.0/24"`, "172.18.0.2")+"]"))
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(alone.String()).To(Equal("pods of this node: 10.244.0.0/24; no other nodes"))
}

func TestPlanOfANodeWithoutPods(t *testing.T) {
	g := NewWithT(t)
	for _, name := range []string{"new", "unknown"} {
		_, err := planFor(name, parse(t, three))
		g.Expect(err).To(MatchError("node " + name + " has no IPv4 range for its pods yet (spec.podCIDRs)"))
	}
}

func TestConfiguration(t *testing.T) {
	g := NewWithT(t)
	p, err := planFor("b", parse(t, three))
	g.Expect(err).NotTo(HaveOccurred())
	text, err := p.configuration(1450)
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(text).To(MatchJSON(`{"cniVersion": "1.0.0", "name": "node-network", "plugins": [
		{"type": "ptp", "ipMasq": false, "mtu": 1450, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam",
			"ranges": [[{"subnet": "10.244.1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		{"type": "portmap", "capabilities": {"portMappings": true}}]}`))
}

func TestWatch(t *testing.T) {
	g := NewWithT(t)
	token := filepath.Join(t.TempDir(), "token")
	g.Expect(os.WriteFile(token, []byte("secret\n"), 0o600)).To(Succeed())
	a, b := nodeText("a", `"10.244.0.0/24"`, "172.18.0.2"), nodeText("b", `"10.244.1.0/24"`, "172.18.0.3")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.Expect(r.Header.Get("Authorization")).To(Equal("Bearer secret"))
		g.Expect(r.URL.Path).To(Equal("/api/v1/nodes"))
		if r.URL.Query().Get("watch") == "" {
			fmt.Fprintf(w, `{"metadata": {"resourceVersion": "7"}, "items": [%s]}`, a)
			return
		}
		g.Expect(r.URL.Query().Get("resourceVersion")).To(Equal("7"))
		for _, event := range []string{
			`{"type": "MODIFIED", "object": ` + strings.Replace(a, `"name"`, `"resourceVersion": "8", "name"`, 1) + `}`,
			`{"type": "BOOKMARK", "object": {}}`,
			`{"type": "ADDED", "object": ` + b + `}`,
			`{"type": "DELETED", "object": ` + b + `}`,
			`{"type": "ERROR", "object": {"code": 410}}`,
		} {
			fmt.Fprintln(w, event)
		}
	}))
	defer server.Close()
	c := &cluster{base: server.URL, token: token, client: server.Client()}
	var seen []int
	err := c.watch(t.Context(), func(nodes []node) { seen = append(seen, len(nodes)) })
	g.Expect(err).To(MatchError(ContainSubstring(`the API server ended the watch: {"code": 410}`)))
	g.Expect(seen).To(Equal([]int{1, 2, 1}), "a change that does not matter is not told")

	c.token += ".not-there"
	g.Expect(c.watch(t.Context(), nil)).To(MatchError(ContainSubstring("read the account's token")))
}

func TestWatchRefused(t *testing.T) {
	g := NewWithT(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "nodes is forbidden", http.StatusForbidden)
	}))
	defer server.Close()
	c := &cluster{base: server.URL, token: os.DevNull, client: server.Client()}
	g.Expect(c.watch(t.Context(), nil)).To(MatchError(And(ContainSubstring("403 Forbidden"), ContainSubstring("nodes is forbidden"))))
}

func TestRunNeedsItsNode(t *testing.T) {
	g := NewWithT(t)
	t.Setenv("NODE_NAME", "")
	g.Expect(run(t.Context())).To(MatchError(ContainSubstring("NODE_NAME is not set")))
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errors.New("over"))
	follow(ctx, nil, nil) // returns at once
}
