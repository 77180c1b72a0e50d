package source

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// newAuthority makes the certificate authority of a session. Its key exists in
// memory only; the certificate is written to file.
func newAuthority(file string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Flux Platform Conformance, one session"},
		NotBefore:             now.Add(-31 * 24 * time.Hour), // leaves are dated back a month
		NotAfter:              now.Add(366 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(file, encoded, 0o644); err != nil { // a certificate is public
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// certificates keeps the certificate of each intercepted host.
type certificates struct {
	mu    sync.Mutex
	known map[string]*tls.Certificate
}

// Fetch implements goproxy.CertStorage.
func (c *certificates) Fetch(host string, generate func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert, ok := c.known[host]; ok {
		return cert, nil
	}
	cert, err := generate()
	if err != nil {
		return nil, fmt.Errorf("sign a certificate for %s: %w", host, err)
	}
	c.known[host] = cert
	return cert, nil
}

// keyPair is an SSH key of a session.
type keyPair struct {
	signer          ssh.Signer
	private, public []byte // OpenSSH's file formats
}

func newKeyPair(comment string) (keyPair, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return keyPair{}, err
	}
	block, err := ssh.MarshalPrivateKey(key, comment)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{signer: signer, private: pem.EncodeToMemory(block), public: ssh.MarshalAuthorizedKey(signer.PublicKey())}, nil
}

// knownHostsLine is the known_hosts entry of a key for a host, or for host:port.
func knownHostsLine(host string, key ssh.PublicKey) []byte {
	if name, port, err := net.SplitHostPort(host); err == nil {
		if host = name; port != "22" {
			host = "[" + name + "]:" + port
		}
	}
	return []byte(host + " " + string(ssh.MarshalAuthorizedKey(key)))
}
