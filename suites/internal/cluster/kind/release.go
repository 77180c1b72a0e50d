package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/your-org/flux-platform-conformance/suites/internal/session"
)

// Kinds of ledger entries.
const (
	entryNetwork = "docker-network"
	entryCluster = "kind-cluster"
	entryTrial   = "docker-trial"
)

// Whoever reaps a session takes these down, in whatever process that is.
func init() {
	session.Register(entryNetwork, releaseNetwork)
	session.Register(entryCluster, releaseCluster)
	session.Register(entryTrial, releaseTrial)
}

// networkEntry is the detail of an entryNetwork.
type networkEntry struct {
	docker
	Host string `json:"host"`
	Name string `json:"name"`
}

// clusterEntry is the detail of an entryCluster.
type clusterEntry struct {
	docker
	Host string `json:"host"`
	// Name is the value of kind's label, and Network what its containers are
	// attached to.
	Name    string `json:"name"`
	Network string `json:"network"`
}

// trialEntry is the detail of an entryTrial: the container that the preflight tries
// out, its image and its network have one name.
type trialEntry struct {
	docker
	Host string `json:"host"`
	Name string `json:"name"`
}

func releaseNetwork(ctx context.Context, detail json.RawMessage) (string, error) {
	var entry networkEntry
	if err := json.Unmarshal(detail, &entry); err != nil {
		return "", fmt.Errorf("read what the ledger says of a network: %w", err)
	}
	if err := entry.ask(ctx, entry.Host); err != nil {
		return "", err
	}
	removed, err := entry.removeNetwork(ctx, entry.Name)
	if err != nil {
		return "", err
	}
	if removed == 0 {
		return "", nil
	}
	return "the Docker network " + entry.Name, nil
}

func releaseCluster(ctx context.Context, detail json.RawMessage) (string, error) {
	var entry clusterEntry
	if err := json.Unmarshal(detail, &entry); err != nil {
		return "", fmt.Errorf("read what the ledger says of a cluster: %w", err)
	}
	if err := entry.ask(ctx, entry.Host); err != nil {
		return "", err
	}
	removed, err := entry.removeContainers(ctx, entry.Name, entry.Network)
	if err != nil {
		return "", err
	}
	if len(removed) == 0 {
		return "", nil
	}
	return "the containers " + strings.Join(removed, ", ") + " with their volumes", nil
}

func releaseTrial(ctx context.Context, detail json.RawMessage) (string, error) {
	var entry trialEntry
	if err := json.Unmarshal(detail, &entry); err != nil {
		return "", fmt.Errorf("read what the ledger says of a trial: %w", err)
	}
	if err := entry.ask(ctx, entry.Host); err != nil {
		return "", err
	}
	removed, err := entry.removeTrial(ctx, entry.Name)
	if err != nil {
		return "", err
	}
	if !removed {
		return "", nil
	}
	return "the container, image and network " + entry.Name, nil
}

// ask says why a daemon cannot be asked to remove something: nobody waits for one
// that hangs.
func (d docker) ask(ctx context.Context, host string) error {
	limited, cancel := context.WithTimeoutCause(ctx, answerLimit, fmt.Errorf("no answer within %s", answerLimit))
	defer cancel()
	if _, err := d.run(limited, "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("the Docker daemon at %s does not answer; start it again, and the next run removes what is left there: %w", host, err)
	}
	return nil
}

// clusterLabel is the label by which kind finds the containers of a cluster.
const clusterLabel = "io.x-k8s.kind.cluster"

// container is what is known of a container of a cluster.
type container struct {
	ID, Name, Role, Image string
	networks              []string
}

// containers lists the containers that carry kind's label for a cluster, whatever
// their state.
func (d docker) containers(ctx context.Context, name string) ([]container, error) {
	out, err := d.run(ctx, "ps", "--all", "--quiet", "--no-trunc", "--filter", "label="+clusterLabel+"="+name)
	if err != nil {
		return nil, err
	}
	var all []container
	for _, id := range strings.Fields(out) {
		out, err := d.run(ctx, "container", "inspect", id)
		if said(err, "no such container") {
			continue
		}
		if err != nil {
			return nil, err
		}
		var found []struct {
			ID     string `json:"Id"`
			Name   string
			Config struct {
				Image  string
				Labels map[string]string
			}
			HostConfig      struct{ NetworkMode string }
			NetworkSettings struct{ Networks map[string]any }
		}
		if err := json.Unmarshal([]byte(out), &found); err != nil {
			return nil, fmt.Errorf("docker container inspect %s: %w", id, err)
		}
		for _, f := range found {
			c := container{
				ID: f.ID, Name: strings.TrimPrefix(f.Name, "/"), Role: f.Config.Labels["io.x-k8s.kind.role"], Image: f.Config.Image,
				// One that has not started yet is attached to none.
				networks: []string{f.HostConfig.NetworkMode},
			}
			for network := range f.NetworkSettings.Networks {
				c.networks = append(c.networks, network)
			}
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b container) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// own lists the containers of a cluster that are attached to a network. Those of
// the same name on another one are somebody else's.
func (d docker) own(ctx context.Context, name, network string) ([]container, error) {
	all, err := d.containers(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("list the containers of cluster %s: %w", name, err)
	}
	return slices.DeleteFunc(all, func(c container) bool { return !slices.Contains(c.networks, network) }), nil
}

// removeContainers removes what own lists, with the volumes that have no name, and
// returns their names once they are gone.
func (d docker) removeContainers(ctx context.Context, name, network string) ([]string, error) {
	var names []string
	err := wait.PollUntilContextTimeout(ctx, removePoll, removeLimit, true, func(ctx context.Context) (bool, error) {
		left, err := d.own(ctx, name, network)
		if err != nil || len(left) == 0 {
			return true, err
		}
		args := []string{"container", "rm", "--force", "--volumes"}
		for _, c := range left {
			args = append(args, c.ID)
			if !slices.Contains(names, c.Name) {
				names = append(names, c.Name)
			}
		}
		_, err = d.run(ctx, args...)
		if err != nil && !said(err, "no such container", "already in progress") {
			return true, err
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("remove the containers of cluster %s: %w", name, err)
	}
	return names, nil
}

const (
	// removePoll is how often is looked whether containers are gone, and
	// removeLimit how long that may take.
	removePoll  = 200 * time.Millisecond
	removeLimit = time.Minute
)

// removeTrial removes a trial's container, image and network.
func (d docker) removeTrial(ctx context.Context, name string) (removed bool, err error) {
	_, err = d.run(ctx, "container", "rm", "--force", "--volumes", name)
	if said(err, "no such container") {
		err = nil
	}
	_, imageErr := d.run(ctx, "image", "rm", name)
	removed = imageErr == nil
	if said(imageErr, "no such image") {
		imageErr = nil
	}
	networks, networkErr := d.removeNetwork(ctx, name)
	return removed || networks > 0, errors.Join(err, imageErr, networkErr)
}
