package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// answer is what is written of one request, as a line of JSON.
type answer struct {
	Time    time.Time `json:"time"` // when it was sent
	Status  int       `json:"status"`
	Pod     string    `json:"pod"`     // X-Pod
	Version string    `json:"version"` // X-Version
	SHA256  string    `json:"sha256"`  // of the body, in hexadecimal
	Bytes   int64     `json:"bytes"`   // of the body
	Error   string    `json:"error,omitempty"`
	Body    []byte    `json:"body,omitempty"` // with --body
}

// fetcher asks one URL.
type fetcher struct {
	url, host string
	body      bool
	client    *http.Client
}

func fetchCommand(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("app fetch", flag.ContinueOnError)
	flags.SetOutput(log)
	address := flags.String("url", "", "`URL` to get (required)")
	host := flags.String("host", "", "`host` to ask for (default: that of the URL)")
	count := flags.Int("count", 1, "`number` of requests")
	interval := flags.Duration("interval", 0, "`time` from one request to the next; until told to end")
	timeout := flags.Duration("timeout", 2*time.Second, "`time` that one request may take")
	body := flags.Bool("body", false, "write the bodies too, in base64")
	if err := parse(flags, args); err != nil {
		return err
	}
	counted, every := false, false
	flags.Visit(func(f *flag.Flag) {
		counted = counted || f.Name == "count"
		every = every || f.Name == "interval"
	})
	target, err := url.Parse(*address)
	switch {
	case err != nil:
		return &usageError{fmt.Errorf("--url: %w", err)}
	case target.Scheme != "http" && target.Scheme != "https" || target.Host == "":
		return &usageError{fmt.Errorf("--url=%s: not the address of a web page", *address)}
	case counted && every:
		return &usageError{errors.New("--count and --interval exclude each other")}
	case *count < 1 || every && *interval <= 0 || *timeout <= 0:
		return &usageError{errors.New("--count, --interval and --timeout are greater than zero")}
	}
	f := newFetcher(*address, *host, *timeout, *body)
	lines := json.NewEncoder(out)
	if !every {
		for range *count {
			if ctx.Err() != nil {
				return nil
			}
			if err := lines.Encode(f.fetch(ctx)); err != nil {
				return fmt.Errorf("write an answer: %w", err)
			}
		}
		return nil
	}
	ticker := time.NewTicker(*interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if err := lines.Encode(f.fetch(ctx)); err != nil {
			return fmt.Errorf("write an answer: %w", err)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// newFetcher opens a connection for each request, so that each is routed anew,
// and takes the answer that it gets: redirects are not followed.
func newFetcher(address, host string, timeout time.Duration, body bool) *fetcher {
	return &fetcher{url: address, host: host, body: body, client: &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// fetch asks once. A request that was begun is brought to its end when ctx
// ends: its failure would tell of us and not of who was asked.
func (f *fetcher) fetch(ctx context.Context) (a answer) {
	a.Time = time.Now().UTC()
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, f.url, nil)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	request.Host = f.host
	response, err := f.client.Do(request)
	if err != nil {
		a.Error = err.Error()
		return a
	}
	defer response.Body.Close()
	a.Status, a.Pod, a.Version = response.StatusCode, response.Header.Get("X-Pod"), response.Header.Get("X-Version")
	sum, kept := sha256.New(), &bytes.Buffer{}
	to := io.Writer(sum)
	if f.body {
		to = io.MultiWriter(sum, kept)
	}
	if a.Bytes, err = io.Copy(to, response.Body); err != nil {
		a.Error = fmt.Sprintf("read the answer: %v", err)
	}
	a.SHA256, a.Body = hex.EncodeToString(sum.Sum(nil)), kept.Bytes()
	return a
}
