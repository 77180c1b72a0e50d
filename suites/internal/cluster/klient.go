package cluster

import (
	"fmt"

	"sigs.k8s.io/e2e-framework/klient"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
)

// Klient returns an e2e-framework client with the cluster's administrator
// rights, for that framework's waits and conditions.
func Klient(c Cluster) (klient.Client, error) {
	client, err := klient.New(c.RESTConfig())
	if err != nil {
		return nil, fmt.Errorf("client for cluster %s: %w", c.Name(), err)
	}
	return client, nil
}

// EnvConfig returns the e2e-framework configuration that leads its steps to the
// cluster. The framework's own providers are left out on purpose: they adopt a
// cluster that is already there and destroy it afterwards.
func EnvConfig(c Cluster, namespace string) (*envconf.Config, error) {
	client, err := Klient(c)
	if err != nil {
		return nil, err
	}
	return envconf.NewWithKubeConfig(c.Kubeconfig()).WithClient(client).WithNamespace(namespace), nil
}
