package source

import (
	"bytes"
	"compress/gzip"
	"io"
	"slices"
	"strconv"
	"strings"
)

// packets iterates over the packets of git's wire format
// (gitprotocol-common): four hexadecimal digits of length, which count
// themselves, then the content. Lengths below four are marks between packets. It
// ends at the first thing that is no packet.
func packets(data []byte, yield func(packet []byte) bool) {
	for len(data) >= 4 {
		length, err := strconv.ParseUint(string(data[:4]), 16, 32)
		if err != nil || length > uint64(len(data)) {
			return
		}
		if length < 4 {
			data = data[4:]
			continue
		}
		if !yield(data[4:length]) {
			return
		}
		data = data[length:]
	}
}

// wants returns the commits that the body of an upload-pack request asks for,
// in either version of the protocol.
func wants(body []byte) []string {
	var found []string
	packets(body, func(packet []byte) bool {
		rest, ok := bytes.CutPrefix(packet, []byte("want "))
		if !ok {
			return true
		}
		name, _, _ := strings.Cut(strings.TrimSpace(string(rest)), " ")
		if isObjectName(name) && !slices.Contains(found, name) {
			found = append(found, name)
		}
		return true
	})
	return found
}

// advertised returns the first object of a list of references, which is HEAD
// where there is one.
func advertised(body []byte) string {
	var found string
	packets(body, func(packet []byte) bool {
		name, _, _ := strings.Cut(string(packet), " ")
		if isObjectName(name) {
			found = name
		}
		return found == "" && bytes.HasPrefix(packet, []byte("# "))
	})
	return found
}

func isObjectName(name string) bool {
	return (len(name) == 40 || len(name) == 64) && strings.Trim(name, "0123456789abcdef") == ""
}

// plainBody undoes the compression that git applies to long requests; up to
// limit bytes.
func plainBody(body []byte, encoding string, limit int64) []byte {
	if encoding != "gzip" && encoding != "x-gzip" {
		return body
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil
	}
	plain, _ := io.ReadAll(io.LimitReader(r, limit)) // what can be read is enough for the log
	return plain
}
