//go:build !linux

package kind

// machine is this machine, whose kernel is not the daemon's.
type machine struct{}

func (machine) free(string) (bytes int64, known bool, err error) { return 0, false, nil }

func (machine) setting(string) (value int64, known bool, err error) { return 0, false, nil }
