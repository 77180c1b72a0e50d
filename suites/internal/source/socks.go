package source

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// Values of SOCKS version 5 (RFC 1928) and of its user name and password method
// (RFC 1929).
const (
	socksVersion       = 5
	socksPassword      = 2
	socksNoMethod      = 0xff
	socksConnect       = 1
	socksIPv4          = 1
	socksDomain        = 3
	socksIPv6          = 4
	socksOK            = 0
	socksNotAllowed    = 2
	socksNoSuchCommand = 7
	socksNoSuchAddress = 8
)

// handshakeTime bounds how long a client may take until it is let in.
const handshakeTime = 30 * time.Second

// serveSOCKS takes connections until the listener is closed.
func (s *Server) serveSOCKS() {
	for {
		conn, err := s.socks.Accept()
		if err != nil {
			return
		}
		s.running.Go(func() {
			defer conn.Close()
			s.serveDialled(conn)
		})
	}
}

// serveDialled speaks with one client: first SOCKS, then what it dialled.
func (s *Server) serveDialled(conn net.Conn) {
	started := time.Now()
	_ = conn.SetDeadline(started.Add(handshakeTime))
	client := bufio.NewReader(conn)
	target, err := negotiate(client, conn, s.admitsPair)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.record(Request{Time: started, Method: "SOCKS", Status: 1, Error: err.Error()})
		}
		return
	}
	_ = conn.SetDeadline(time.Time{})
	s.serveSSH(&bufferedConn{Conn: conn, reader: client}, target, started)
}

// dialled is the host and the port that a client asked for.
type dialled struct{ host, port string }

// negotiate speaks the server's side of SOCKS up to the point where the client
// may use the connection.
func negotiate(r io.Reader, w io.Writer, admits func(user, secret string) bool) (dialled, error) {
	if err := authenticate(r, w, admits); err != nil {
		return dialled{}, err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(r, head); err != nil {
		return dialled{}, fmt.Errorf("read the SOCKS request: %w", err)
	}
	reply := func(code byte) error {
		_, err := w.Write([]byte{socksVersion, code, 0, socksIPv4, 0, 0, 0, 0, 0, 0})
		return err
	}
	if head[0] != socksVersion {
		return dialled{}, fmt.Errorf("read the SOCKS request: it has version %d, not 5", head[0])
	}
	target, err := readTarget(r, head[3])
	if errors.Is(err, errAddressKind) {
		return dialled{}, errors.Join(err, reply(socksNoSuchAddress))
	}
	if err != nil {
		return dialled{}, fmt.Errorf("read the SOCKS request: %w", err)
	}
	if head[1] != socksConnect {
		return dialled{}, errors.Join(fmt.Errorf("the SOCKS command %d is not served: only CONNECT is", head[1]), reply(socksNoSuchCommand))
	}
	if err := reply(socksOK); err != nil {
		return dialled{}, fmt.Errorf("answer the SOCKS request: %w", err)
	}
	return target, nil
}

// authenticate asks for user name and password; no other method is taken.
func authenticate(r io.Reader, w io.Writer, admits func(user, secret string) bool) error {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return fmt.Errorf("read the SOCKS greeting: %w", err)
	}
	if head[0] != socksVersion {
		return fmt.Errorf("read the SOCKS greeting: it has version %d, not 5", head[0])
	}
	methods := make([]byte, head[1])
	if _, err := io.ReadFull(r, methods); err != nil {
		return fmt.Errorf("read the SOCKS greeting: %w", err)
	}
	offered := false
	for _, method := range methods {
		offered = offered || method == socksPassword
	}
	if !offered {
		_, err := w.Write([]byte{socksVersion, socksNoMethod})
		return errors.Join(errors.New("the SOCKS client brought no credential"), err)
	}
	if _, err := w.Write([]byte{socksVersion, socksPassword}); err != nil {
		return fmt.Errorf("answer the SOCKS greeting: %w", err)
	}
	version := make([]byte, 1)
	if _, err := io.ReadFull(r, version); err != nil {
		return fmt.Errorf("read the SOCKS credential: %w", err)
	}
	if version[0] != 1 {
		return fmt.Errorf("read the SOCKS credential: it has version %d, not 1", version[0])
	}
	user, err := readShort(r)
	if err != nil {
		return fmt.Errorf("read the SOCKS credential: %w", err)
	}
	secret, err := readShort(r)
	if err != nil {
		return fmt.Errorf("read the SOCKS credential: %w", err)
	}
	if !admits(string(user), string(secret)) {
		_, err := w.Write([]byte{1, 1})
		return errors.Join(errors.New("the SOCKS client brought a wrong credential"), err)
	}
	if _, err := w.Write([]byte{1, 0}); err != nil {
		return fmt.Errorf("answer the SOCKS credential: %w", err)
	}
	return nil
}

var errAddressKind = errors.New("the SOCKS request has an address of an unknown kind")

func readTarget(r io.Reader, addressKind byte) (dialled, error) {
	var target dialled
	switch addressKind {
	case socksIPv4, socksIPv6:
		address := make([]byte, map[byte]int{socksIPv4: net.IPv4len, socksIPv6: net.IPv6len}[addressKind])
		if _, err := io.ReadFull(r, address); err != nil {
			return dialled{}, err
		}
		target.host = net.IP(address).String()
	case socksDomain:
		name, err := readShort(r)
		if err != nil {
			return dialled{}, err
		}
		target.host = string(name)
	default:
		return dialled{}, errAddressKind
	}
	port := make([]byte, 2)
	if _, err := io.ReadFull(r, port); err != nil {
		return dialled{}, err
	}
	target.port = strconv.Itoa(int(port[0])<<8 | int(port[1]))
	return target, nil
}

// readShort reads a text that begins with its length in one byte.
func readShort(r io.Reader) ([]byte, error) {
	length := make([]byte, 1)
	if _, err := io.ReadFull(r, length); err != nil {
		return nil, err
	}
	text := make([]byte, length[0])
	_, err := io.ReadFull(r, text)
	return text, err
}

// bufferedConn is a connection of which some was read already.
type bufferedConn struct {
	net.Conn

	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) {
	return c.reader.Read(p)
}
