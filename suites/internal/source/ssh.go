package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshVersion is how the server introduces itself.
const sshVersion = "SSH-2.0-flux-platform-conformance"

// foreignKey marks a client that has a key other than the stand-in's. It is let
// in all the same, and told why it gets nothing where it can read it.
const foreignKey = "foreign-key"

// serveSSH speaks with a client that dialled a host.
func (s *Server) serveSSH(conn net.Conn, target dialled, started time.Time) {
	addr, err := sshAddress(target.host, target.port, "")
	if err != nil {
		s.record(Request{Time: started, Method: "SOCKS", Status: 1, Error: fmt.Sprintf("dial %q: %v", target.host, err)})
		return
	}
	current := s.current()
	switch {
	case current.sshHost(addr.host, kindGit):
		s.serveSession(conn, target, addr, started)
	case current.sshHost(addr.host, kindUpstream):
		s.passSSH(conn, target, addr, started)
	default:
		s.refuseSSH(conn, addr, started)
	}
}

// refuseSSH ends a connection to a host that nothing is mapped to. It does so
// before keys are exchanged: a client that knows other host keys than ours would
// otherwise complain of those, and not say what is missing.
func (s *Server) refuseSSH(conn net.Conn, addr address, started time.Time) {
	addr, names := s.asking(addr)
	reason := refusal(addr.String(), names)
	s.record(Request{
		Time: started, Method: "SOCKS", URL: addr.String(), Source: addr.String(),
		Object: strings.Join(names, ", "), Status: 1, Error: reason,
	})
	_ = conn.SetDeadline(time.Now().Add(handshakeTime))
	if _, err := conn.Write(append([]byte(sshVersion+"\r\n"), disconnectPacket(reason)...)); err != nil {
		return
	}
	// The client still sends its half of the handshake; closed before that, the
	// connection would be reset, and the reason lost.
	_, _ = io.CopyN(io.Discard, conn, 1<<16)
}

// disconnectPacket is SSH_MSG_DISCONNECT as it is sent before encryption
// (RFC 4253, sections 6 and 11.1).
func disconnectPacket(reason string) []byte {
	payload := ssh.Marshal(struct {
		Code        uint32 `sshtype:"1"`
		Description string
		Language    string
	}{Code: 7, Description: reason}) // 7: service not available
	const block, head = 8, 5 // head: length and padding length
	padding := block - (head+len(payload))%block
	if padding < 4 {
		padding += block
	}
	packet := ssh.Marshal(struct{ Length uint32 }{uint32(1 + len(payload) + padding)}) // some hundred bytes
	packet = append(packet, byte(padding))
	packet = append(packet, payload...)
	return append(packet, make([]byte, padding)...)
}

// passSSH joins the client to the real host. What passes is encrypted, so the
// log has its sizes only.
func (s *Server) passSSH(conn net.Conn, target dialled, addr address, started time.Time) {
	addr, names := s.asking(addr)
	entry := Request{
		Time: started, Method: "SSH", URL: addr.String(), Source: addr.String(),
		Object: strings.Join(names, ", "), Upstream: true,
	}
	defer func() { s.record(entry) }()
	dialer := net.Dialer{Timeout: handshakeTime}
	remote, err := dialer.DialContext(s.ctx, "tcp", net.JoinHostPort(target.host, target.port))
	if err != nil {
		entry.Status, entry.Error = 1, err.Error()
		reason := fmt.Sprintf("URL %s is marked upstream: true, and could not be reached: %v", addr, err)
		_, _ = conn.Write(append([]byte(sshVersion+"\r\n"), disconnectPacket(oneLine(reason))...))
		_, _ = io.CopyN(io.Discard, conn, 1<<16)
		return
	}
	stop := context.AfterFunc(s.ctx, func() { remote.Close() })
	defer stop()
	entry.Answered = true
	var toRemote sync.WaitGroup
	toRemote.Go(func() {
		_, _ = io.Copy(remote, conn)
		remote.Close()
	})
	entry.Bytes, _ = io.Copy(conn, remote)
	conn.Close()
	toRemote.Wait()
}

// serveSession is the SSH server of every mapped host.
func (s *Server) serveSession(conn net.Conn, target dialled, addr address, started time.Time) {
	config := &ssh.ServerConfig{
		ServerVersion: sshVersion,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			permissions := &ssh.Permissions{Extensions: map[string]string{}}
			if !bytes.Equal(key.Marshal(), s.identity.signer.PublicKey().Marshal()) {
				permissions.Extensions[foreignKey] = ssh.FingerprintSHA256(key)
			}
			return permissions, nil
		},
	}
	config.AddHostKey(s.hostKey.signer)
	_ = conn.SetDeadline(time.Now().Add(handshakeTime))
	session, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		addr, names := s.asking(addr)
		s.record(Request{
			Time: started, Method: "SSH", URL: addr.String(), Source: addr.String(), Status: 1,
			Object: strings.Join(names, ", "),
			Error:  fmt.Sprintf("the client ended the handshake (its Secret must know this session's host key, as the stand-in does): %v", err),
		})
		return
	}
	defer session.Close()
	_ = conn.SetDeadline(time.Time{})
	var open sync.WaitGroup
	open.Go(func() { ssh.DiscardRequests(requests) })
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.Prohibited, "this server serves git fetches only")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			continue
		}
		open.Go(func() {
			s.serveChannel(&sshChannel{
				Channel: channel, target: target, foreign: session.Permissions.Extensions[foreignKey],
			}, requests)
		})
	}
	open.Wait()
}

// sshChannel is one command of a client.
type sshChannel struct {
	ssh.Channel

	target   dialled
	foreign  string // the fingerprint of a key that is not the stand-in's
	protocol string // what the client set as GIT_PROTOCOL
}

// serveChannel runs the one command that the channel asks for.
func (s *Server) serveChannel(channel *sshChannel, requests <-chan *ssh.Request) {
	defer channel.Close()
	for request := range requests {
		switch request.Type {
		case "env":
			var variable struct{ Name, Value string }
			ok := ssh.Unmarshal(request.Payload, &variable) == nil && variable.Name == "GIT_PROTOCOL" && isProtocol(variable.Value)
			if ok {
				channel.protocol = variable.Value
			}
			_ = request.Reply(ok, nil)
		case "exec", "shell":
			var command struct{ Line string }
			if request.Type == "exec" && ssh.Unmarshal(request.Payload, &command) != nil {
				_ = request.Reply(false, nil)
				return
			}
			_ = request.Reply(true, nil)
			var rest sync.WaitGroup
			rest.Go(func() { ssh.DiscardRequests(requests) })
			status := s.runCommand(channel, command.Line)
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			channel.Close()
			rest.Wait()
			return
		default:
			_ = request.Reply(false, nil)
		}
	}
}

// runCommand serves git upload-pack on the mapped repository, and says on
// standard error why it does not serve anything else.
func (s *Server) runCommand(channel *sshChannel, line string) uint32 {
	entry := Request{Time: time.Now(), Method: "SSH"}
	defer func() { s.record(entry) }()
	refuse := func(reason string) uint32 {
		entry.Status, entry.Error = 128, reason
		_, _ = io.WriteString(channel.Stderr(), oneLine(reason)+"\n")
		return 128
	}
	service, path, err := parseCommand(line)
	if err != nil {
		return refuse("this server serves git fetches only: " + err.Error())
	}
	addr, err := sshAddress(channel.target.host, channel.target.port, path)
	if err != nil {
		return refuse(err.Error())
	}
	_, names := s.asking(addr)
	entry.URL, entry.Source, entry.Object = addr.String(), addr.String(), strings.Join(names, ", ")
	served := s.current().exact[addr]
	switch {
	case served == nil:
		return refuse(refusal(addr.String(), names))
	case service == "git-receive-pack":
		return refuse("URL " + addr.String() + " is served read only: change the folder that it is a snapshot of")
	case channel.foreign != "":
		return refuse(fmt.Sprintf("URL %s was asked for with the key %s, which is not the session's stand-in: let the Secret be made by the session", addr, channel.foreign))
	}
	return s.uploadPack(channel, served, &entry)
}

func (s *Server) uploadPack(channel *sshChannel, served *served, entry *Request) uint32 {
	cmd := exec.CommandContext(s.ctx, s.git, append(gitSettings(), "upload-pack", "--strict", served.repository)...)
	cmd.Dir, cmd.Env = served.repository, gitEnviron()
	if channel.protocol != "" {
		cmd.Env = append(cmd.Env, "GIT_PROTOCOL="+channel.protocol)
	}
	output := &countedWriter{to: channel, digest: sha256.New()}
	cmd.Stdout, cmd.Stderr = output, channel.Stderr()
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		entry.Status, entry.Error = 128, err.Error()
		_, _ = fmt.Fprintf(channel.Stderr(), "start git upload-pack: %v\n", err)
		return 128
	}
	input := &firstBytes{to: stdin, limit: maxRequestBody}
	s.running.Go(func() { // ends with the channel, which the caller closes
		_, _ = io.Copy(input, channel)
		stdin.Close()
	})
	err = cmd.Wait()
	_ = channel.CloseWrite()
	entry.Bytes, entry.Digest = output.bytes, "sha256:"+hex.EncodeToString(output.digest.Sum(nil))
	entry.Revision = strings.Join(input.wants(), ",")
	if entry.Revision == "" {
		entry.Revision = advertised(output.first)
	}
	var exit *exec.ExitError
	switch {
	case err == nil:
		entry.Answered = true
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		entry.Status = exit.ExitCode()
	default:
		entry.Status = 128
	}
	// A client that has what it wants hangs up without a farewell.
	entry.Answered, entry.Error = output.bytes > 0, "git upload-pack: "+err.Error()
	return uint32(entry.Status) // 1 to 255
}

// countedWriter counts and digests what passes.
type countedWriter struct {
	to     io.Writer
	digest hash.Hash
	bytes  int64
	first  []byte
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.digest.Write(p[:n])
	w.bytes += int64(n)
	if room := 4096 - len(w.first); room > 0 {
		w.first = append(w.first, p[:min(n, room)]...)
	}
	return n, err
}

// firstBytes keeps the beginning of what passes.
type firstBytes struct {
	to    io.Writer
	limit int

	mu   sync.Mutex
	kept []byte
}

func (w *firstBytes) Write(p []byte) (int, error) {
	w.mu.Lock()
	if room := w.limit - len(w.kept); room > 0 {
		w.kept = append(w.kept, p[:min(len(p), room)]...)
	}
	w.mu.Unlock()
	return w.to.Write(p)
}

func (w *firstBytes) wants() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return wants(w.kept)
}

// parseCommand reads the command line that a git client sends:
// «git-upload-pack 'PATH'», quoted as git quotes for a shell.
func parseCommand(line string) (service, path string, err error) {
	line = strings.TrimSpace(line)
	if line == "" {
		return "", "", errors.New("a shell was asked for")
	}
	rest, isGit := strings.CutPrefix(line, "git ")
	service, quoted, ok := strings.Cut(rest, " ")
	if isGit {
		service = "git-" + service
	}
	if !ok || service != "git-upload-pack" && service != "git-receive-pack" {
		return "", "", fmt.Errorf("the command %q is not one of them", oneLine(line))
	}
	path, err = unquote(strings.TrimSpace(quoted))
	if err != nil {
		return "", "", fmt.Errorf("the command %q: %w", oneLine(line), err)
	}
	return service, path, nil
}

// unquote undoes git's quoting: '…' where \' and \! stand between two quoted
// parts. A plain word is taken as it is.
func unquote(quoted string) (string, error) {
	if quoted == "" {
		return "", errors.New("it names no path")
	}
	if !strings.HasPrefix(quoted, "'") {
		if strings.ContainsAny(quoted, "'\"\\ \t$`;&|<>()*?[]!") {
			return "", errors.New("its path is not quoted as git does it")
		}
		return quoted, nil
	}
	var plain strings.Builder
	for rest := quoted; ; {
		part, after, ok := strings.Cut(rest[1:], "'")
		if !ok {
			return "", errors.New("its path has no closing quote")
		}
		plain.WriteString(part)
		switch {
		case after == "":
			return plain.String(), nil
		case strings.HasPrefix(after, `\''`), strings.HasPrefix(after, `\!'`):
			plain.WriteByte(after[1])
			rest = after[2:]
		default:
			return "", errors.New("its path is not quoted as git does it")
		}
	}
}
