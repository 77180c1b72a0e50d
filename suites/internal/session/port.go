package session

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Ports come in blocks, from below the range that systems hand out by themselves.
const (
	lowestPort  = 20000
	highestPort = 31999
	blockSize   = 64
	blockCount  = (highestPort - lowestPort + 1) / blockSize
)

// Port returns the next port of the session that can be bound on 127.0.0.1 now; one
// that a stranger listens on is passed over. Each port is returned once. When a
// block is used up another is leased; that none is free is an error. It may be
// called from any goroutine.
func (s *Session) Port() (int, error) {
	s.portsMutex.Lock()
	defer s.portsMutex.Unlock()
	for {
		for s.nextPort < s.endPort {
			port := s.nextPort
			s.nextPort++
			if isFreePort(port) {
				return port, nil
			}
		}
		block, err := s.leaseBlock()
		if err != nil {
			return 0, fmt.Errorf("allocate a port for session %s: %w", s.id, err)
		}
		s.nextPort, s.endPort = block.First, block.Last+1
	}
}

// leaseBlock makes a block of ports the session's: one that nobody has, or else one
// of a session that has ended.
func (s *Session) leaseBlock() (portBlock, error) {
	unlock, err := lockFolder(filepath.Join(s.root, portsName))
	if err != nil {
		return portBlock{}, err
	}
	defer unlock()

	var dead, holders []string
	// Users who do not see each other's leases start at different blocks.
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(s.root))
	offset := int(hash.Sum32() % blockCount)
	for i := range blockCount {
		first := lowestPort + (offset+i)%blockCount*blockSize
		path := leasePath(s.root, first)
		holder, err := os.ReadFile(path)
		switch id := strings.TrimSpace(string(holder)); {
		case errors.Is(err, fs.ErrNotExist):
			return s.takeBlock(path, first, os.O_EXCL)
		case err != nil:
			return portBlock{}, fmt.Errorf("read the lease of a port block: %w", err)
		case id == s.id:
			// One of our own blocks, used up.
		case isEnded(s.root, id):
			dead = append(dead, path)
		default:
			holders = append(holders, id)
		}
	}
	if len(dead) > 0 {
		first, err := strconv.Atoi(filepath.Base(dead[0]))
		if err != nil {
			return portBlock{}, fmt.Errorf("read the name of a port lease: %w", err)
		}
		return s.takeBlock(dead[0], first, os.O_TRUNC)
	}
	slices.Sort(holders)
	return portBlock{}, fmt.Errorf("all %d blocks of %d ports from %d on are leased, to %d other sessions %v and this one: end sessions with «make down», or all of them with «make clean»",
		blockCount, blockSize, lowestPort, len(slices.Compact(holders)), slices.Compact(holders))
}

// takeBlock writes the lease, after the ledger has it.
func (s *Session) takeBlock(path string, first, flag int) (portBlock, error) {
	block := portBlock{First: first, Last: first + blockSize - 1}
	if err := s.Record(EntryPorts, block); err != nil {
		return portBlock{}, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flag, 0o600)
	if err != nil {
		return portBlock{}, explain(fmt.Errorf("lease a port block: %w", err))
	}
	_, err = file.WriteString(s.id + "\n")
	if err = errors.Join(err, file.Close()); err != nil {
		return portBlock{}, explain(fmt.Errorf("lease a port block: %w", err))
	}
	return block, nil
}

// releaseBlocks gives back all blocks of the session, and returns their first ports.
func releaseBlocks(root, id string) ([]int, error) {
	return removeLeases(root, func(holder string) bool { return holder == id })
}

// removeLeases removes the leases whose holder is meant, and returns their first ports.
func removeLeases(root string, isMeant func(holder string) bool) ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(root, portsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the port leases: %w", err)
	}
	unlock, err := lockFolder(filepath.Join(root, portsName))
	if err != nil {
		return nil, err
	}
	defer unlock()
	var released []int
	var failed []error
	for _, entry := range entries {
		first, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		path := leasePath(root, first)
		holder, err := os.ReadFile(path)
		if err != nil || !isMeant(strings.TrimSpace(string(holder))) {
			continue
		}
		if err := os.Remove(path); err != nil {
			failed = append(failed, explain(fmt.Errorf("release a port block: %w", err)))
			continue
		}
		released = append(released, first)
	}
	return released, errors.Join(failed...)
}

// isEnded tells whether no process holds the session any more. What is no session's
// ID was left by a writer that was killed.
func isEnded(root, id string) bool {
	if !isID(id) {
		return true
	}
	held, err := isHeld(filepath.Join(sessionDir(root, id), lockName))
	return err == nil && !held
}

// isFreePort tells whether the port can be bound on 127.0.0.1 and nobody answers
// there: some systems let us bind beside a listener on all addresses.
func isFreePort(port int) bool {
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	listener, err := net.ListenTCP("tcp4", address)
	if err != nil {
		return false
	}
	if listener.Close() != nil {
		return false
	}
	connection, err := net.DialTCP("tcp4", nil, address)
	if err != nil {
		return true
	}
	_ = connection.Close()
	return false
}

func leasePath(root string, first int) string {
	return filepath.Join(root, portsName, strconv.Itoa(first))
}
