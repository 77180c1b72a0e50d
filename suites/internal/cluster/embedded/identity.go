package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// tokenSeconds is how long a pod's token holds; it is renewed long before.
const tokenSeconds = 3600

// token asks for a token of the pod's ServiceAccount that is bound to the pod,
// as a kubelet does, and returns it with the time that it holds.
func (s *sources) token(ctx context.Context, audience string, seconds *int64) (token string, lifetime time.Duration, err error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: s.pod.Name, UID: s.pod.UID,
		},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	account := s.pod.Spec.ServiceAccountName
	answer, err := s.client.CoreV1().ServiceAccounts(s.pod.Namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", 0, fmt.Errorf("token of ServiceAccount %s: %w", account, err)
	}
	return answer.Status.Token, time.Until(answer.Status.ExpirationTimestamp.Time), nil
}

// identity is a kubeconfig with the rights of a pod's own ServiceAccount.
type identity struct {
	sources *sources
	dir     string
}

func (i *identity) kubeconfig() string { return filepath.Join(i.dir, "kubeconfig") }
func (i *identity) tokenFile() string  { return filepath.Join(i.dir, "token") }

// write asks for a token and writes both files. A pod that mounts no token gets
// a kubeconfig without one, so it is nobody, as it would be in a container.
func (i *identity) write(ctx context.Context, admin *rest.Config, mountsToken bool) (lifetime time.Duration, err error) {
	config := clientcmdapi.NewConfig()
	config.Clusters["cluster"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["pod"] = &clientcmdapi.AuthInfo{}
	config.Contexts["pod"] = &clientcmdapi.Context{Cluster: "cluster", AuthInfo: "pod", Namespace: i.sources.pod.Namespace}
	config.CurrentContext = "pod"
	if mountsToken {
		if lifetime, err = i.renew(ctx); err != nil {
			return 0, err
		}
		config.AuthInfos["pod"].TokenFile = i.tokenFile()
	}
	data, err := clientcmd.Write(*config)
	if err != nil {
		return 0, fmt.Errorf("kubeconfig of pod %s: %w", i.sources.pod.Name, err)
	}
	if err := os.WriteFile(i.kubeconfig(), data, 0o600); err != nil {
		return 0, fmt.Errorf("kubeconfig of pod %s: %w", i.sources.pod.Name, err)
	}
	return lifetime, nil
}

// renew writes a new token in place of the old one. Clients read the file again
// within a minute.
func (i *identity) renew(ctx context.Context) (time.Duration, error) {
	seconds := int64(tokenSeconds)
	token, lifetime, err := i.sources.token(ctx, "", &seconds)
	if err != nil {
		return 0, err
	}
	next := i.tokenFile() + ".next"
	if err := os.WriteFile(next, []byte(token), 0o600); err != nil {
		return 0, fmt.Errorf("token of pod %s: %w", i.sources.pod.Name, err)
	}
	if err := os.Rename(next, i.tokenFile()); err != nil {
		return 0, fmt.Errorf("token of pod %s: %w", i.sources.pod.Name, err)
	}
	return lifetime, nil
}

// keep renews the token at four fifths of its lifetime until ctx ends.
func (i *identity) keep(ctx context.Context, lifetime time.Duration, warn func(error)) {
	for lifetime > 0 {
		timer := time.NewTimer(lifetime * 4 / 5)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		next, err := i.renew(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			warn(err)
			// A fifth of the lifetime is left: try often.
			next = 10 * time.Second
		}
		lifetime = next
	}
}
