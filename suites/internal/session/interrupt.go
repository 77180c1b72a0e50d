package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// ErrInterrupted is the cause of a context that a signal has ended.
var ErrInterrupted = errors.New("interrupted")

// Interrupts makes the contexts of a client's two ways to end. The first SIGINT or
// SIGTERM ends soft, that of its work; the second ends hard, that of its clean-up,
// [Supervisor.Stop] among it, which then ends the rest by force; a third has the
// system's own effect. The cause of both is ErrInterrupted. The function told is
// called before either ends, with how many signals came; nil is allowed. Call
// release when the clean-up is done.
func Interrupts(parent context.Context, told func(count int)) (soft, hard context.Context, release func()) {
	hard, endHard := context.WithCancelCause(parent)
	soft, endSoft := context.WithCancelCause(hard)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		for count := 1; ; count++ {
			select {
			case <-hard.Done():
				return
			case received := <-signals:
				if told != nil {
					told(count)
				}
				cause := fmt.Errorf("%w by a signal (%s)", ErrInterrupted, received)
				endSoft(cause)
				if count > 1 {
					signal.Stop(signals)
					endHard(cause)
				}
			}
		}
	}()
	return soft, hard, func() {
		signal.Stop(signals)
		endHard(nil)
	}
}
