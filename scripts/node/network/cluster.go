package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// node is what this program reads of a Node.
type node struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		Addresses []struct {
			Type    string `json:"type"`
			Address string `json:"address"`
		} `json:"addresses"`
	} `json:"status"`
}

// cluster is the API server, seen as the pod's own ServiceAccount.
type cluster struct {
	base   string
	token  string // the file that holds it
	client *http.Client
}

// connect takes the endpoint that kind gives, since a Service can be reached
// only after kube-proxy has started; elsewhere it takes the Service.
func connect() (*cluster, error) {
	endpoint := os.Getenv("CONTROL_PLANE_ENDPOINT")
	if endpoint == "" {
		endpoint = net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT"))
	}
	authority, err := os.ReadFile(account + "ca.crt")
	if err != nil {
		return nil, fmt.Errorf("read the cluster's certificate authority: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("%sca.crt holds no certificate", account)
	}
	transport := &http.Transport{
		TLSClientConfig:       &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: 10 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	return &cluster{base: "https://" + endpoint, token: account + "token", client: &http.Client{Transport: transport}}, nil
}

// watch lists the nodes, hands them to changed, and does so again at every
// change, until the API server ends the watch.
func (c *cluster) watch(ctx context.Context, changed func([]node)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []node `json:"items"`
	}
	body, err := c.get(ctx, nil)
	if err != nil {
		return err
	}
	err = json.NewDecoder(body).Decode(&list)
	_ = body.Close()
	if err != nil {
		return fmt.Errorf("read the list: %w", err)
	}
	known := map[string]node{}
	for _, n := range list.Items {
		known[n.Metadata.Name] = n
	}
	changed(values(known))
	body, err = c.get(ctx, url.Values{
		"watch":               {"true"},
		"resourceVersion":     {list.Metadata.ResourceVersion},
		"allowWatchBookmarks": {"true"},
		"timeoutSeconds":      {"600"},
	})
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	// A connection that died without a word would leave the routes as they are
	// for ever: the server ends a watch itself, a little before this.
	timer := time.AfterFunc(11*time.Minute, cancel)
	defer timer.Stop()
	events := json.NewDecoder(body)
	for {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := events.Decode(&event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		var n node
		switch event.Type {
		case "BOOKMARK":
			continue
		case "ERROR":
			return fmt.Errorf("the API server ended the watch: %s", event.Object)
		}
		if err := json.Unmarshal(event.Object, &n); err != nil {
			return fmt.Errorf("read an event of type %s: %w", event.Type, err)
		}
		before, had := known[n.Metadata.Name]
		known[n.Metadata.Name] = n
		if event.Type == "DELETED" {
			delete(known, n.Metadata.Name)
		} else if had && same(before, n) {
			continue
		}
		changed(values(known))
	}
}

func (c *cluster) get(ctx context.Context, query url.Values) (io.ReadCloser, error) {
	// The token is replaced in its file before it expires.
	token, err := os.ReadFile(c.token)
	if err != nil {
		return nil, fmt.Errorf("read the account's token: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/api/v1/nodes?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	request.Header.Set("Accept", "application/json")
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		_ = response.Body.Close()
		return nil, fmt.Errorf("%s: %s: %s", request.URL, response.Status, said)
	}
	return response.Body, nil
}

func values(known map[string]node) []node {
	var nodes []node
	for _, n := range known {
		nodes = append(nodes, n)
	}
	return nodes
}

// same tells whether what is read of the node is as it was: a Node changes
// every few seconds, its addresses hardly ever.
func same(a, b node) bool {
	a.Metadata.ResourceVersion, b.Metadata.ResourceVersion = "", ""
	return fmt.Sprint(a) == fmt.Sprint(b)
}
