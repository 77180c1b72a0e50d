package cluster

import (
	"io"
	"sync"
)

// LockedWriter lets several goroutines write lines to w.
func LockedWriter(w io.Writer) io.Writer { return &lockedWriter{writer: w} }

type lockedWriter struct {
	mu     sync.Mutex
	writer io.Writer
}

func (w *lockedWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writer.Write(line)
}
