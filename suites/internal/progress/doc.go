// Package progress shows a run while it goes on: per environment the phase, what
// it waits for, how long it has taken and how long it is expected to take. On a
// terminal it redraws a few lines, elsewhere it prints plain ones. From the same
// events it computes where the time went.
package progress
