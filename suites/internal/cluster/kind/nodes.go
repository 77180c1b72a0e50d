package kind

// Nodes is how many nodes a kind configuration declares; nil is one.
func Nodes(config []byte) (int, error) {
	read, err := readConfig(config)
	if err != nil {
		return 0, err
	}
	return len(read.Nodes), nil
}
