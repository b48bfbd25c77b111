package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Bounds of a download.
const (
	downloadMost  = 512 << 20 // bytes; a slot has a quarter of that
	downloadStall = time.Minute
	downloadTries = 8 // connections in a row that bring nothing
	downloadPause = 30 * time.Second
)

// download reads a file behind a URL over as many connections as it takes: one that breaks or stalls is followed by another that goes on
// where it ended (RFC 9110, sections 13 and 14). What is read is judged by whoever reads it, by signature and hash.
type download struct {
	ctx    context.Context
	url    string
	client *http.Client
	stall  time.Duration
	pause  time.Duration // before the second try; doubled

	body   io.ReadCloser
	cancel context.CancelFunc
	timer  *time.Timer
	at     int64
	size   int64  // -1 unknown
	tag    string // of the file that was begun with
	tries  int
}

// openDownload makes the first connection.
func openDownload(ctx context.Context, url string) (*download, error) {
	d := &download{ctx: ctx, url: url, stall: downloadStall, pause: time.Second, size: -1,
		client: &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: updateHead, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, DisableCompression: true}}}
	if err := d.connect(); err != nil {
		return nil, err
	}
	return d, nil
}

// connect asks for what is still to come.
func (d *download) connect() error {
	ctx, cancel := context.WithCancel(d.ctx)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		cancel()
		return err
	}
	if d.at > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.at))
		if d.tag != "" {
			r.Header.Set("If-Range", d.tag)
		}
	}
	res, err := d.client.Do(r)
	if err == nil {
		if err = d.accept(res); err != nil {
			res.Body.Close()
		}
	}
	if err != nil {
		cancel()
		return err
	}
	d.body, d.cancel = res.Body, cancel
	d.timer = time.AfterFunc(d.stall, cancel)
	return nil
}

// errChanged ends a download whose file is another one meanwhile.
var errChanged = errors.New("the file has changed while it was fetched")

// statusError is an answer that another connection would not change.
type statusError struct{ url, status string }

func (e *statusError) Error() string { return e.url + " answers " + e.status }

// accept judges an answer, and brings it to where the last one ended.
func (d *download) accept(res *http.Response) error {
	tag := res.Header.Get("ETag")
	if strings.HasPrefix(tag, "W/") || tag == "" { // a weak one is not good enough for parts
		tag = res.Header.Get("Last-Modified")
	}
	if d.at > 0 && tag != d.tag {
		return errChanged
	}
	switch {
	case res.StatusCode == http.StatusOK:
		d.size, d.tag = res.ContentLength, tag
		if d.at > 0 { // it knows no parts
			if _, err := io.CopyN(io.Discard, res.Body, d.at); err != nil {
				return err
			}
		}
	case res.StatusCode == http.StatusPartialContent && d.at > 0:
		span, whole, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Content-Range"), "bytes "), "/")
		from, _, _ := strings.Cut(span, "-")
		if n, err := strconv.ParseInt(from, 10, 64); err != nil || n != d.at {
			return fmt.Errorf("%s answers with another part than was asked for", d.url)
		}
		if n, err := strconv.ParseInt(whole, 10, 64); err == nil && d.size >= 0 && n != d.size {
			return errChanged
		}
	case res.StatusCode/100 == 5:
		return fmt.Errorf("%s answers %s", d.url, res.Status)
	default:
		return &statusError{d.url, res.Status}
	}
	if d.size > downloadMost {
		return &statusError{d.url, fmt.Sprintf("with %d bytes, which is no update", d.size)}
	}
	return nil
}

// Read reads on, over another connection where one has ended too early.
func (d *download) Read(p []byte) (int, error) {
	for {
		if d.body == nil {
			if err := d.again(); err != nil {
				return 0, err
			}
		}
		d.timer.Reset(d.stall)
		n, err := d.body.Read(p)
		d.at += int64(n)
		if n > 0 {
			d.tries = 0
		}
		switch {
		case d.at > downloadMost:
			return n, fmt.Errorf("%s has more than %d bytes, which is no update", d.url, int64(downloadMost))
		case err == io.EOF && (d.size < 0 || d.at >= d.size):
			return n, io.EOF
		case err != nil:
			d.drop()
		}
		if n > 0 {
			return n, nil
		}
	}
}

// again waits a little and connects.
func (d *download) again() error {
	for wait := d.pause; ; wait = min(2*wait, downloadPause) {
		if d.tries++; d.tries > downloadTries {
			return fmt.Errorf("%s: the connection broke %d times at byte %d", d.url, downloadTries, d.at)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-d.ctx.Done():
			t.Stop()
			return d.ctx.Err()
		}
		err := d.connect()
		if _, final := errors.AsType[*statusError](err); err == nil || final || errors.Is(err, errChanged) {
			return err
		}
	}
}

func (d *download) drop() {
	if d.body != nil {
		d.timer.Stop()
		d.cancel()
		d.body.Close()
		d.body = nil
	}
}

// Close ends the connection.
func (d *download) Close() error {
	d.drop()
	return nil
}

// inWindow is how long it is until a window of the day like 02:00-05:00 is open in a zone; 0 inside it, and without a window.
func inWindow(window string, zone *time.Location, now time.Time) time.Duration {
	from, to, ok := strings.Cut(window, "-")
	first, err1 := time.Parse("15:04", from)
	last, err2 := time.Parse("15:04", to)
	if !ok || err1 != nil || err2 != nil || from == to {
		return 0
	}
	now = now.In(zone)
	minute := now.Hour()*60 + now.Minute()
	a, b := first.Hour()*60+first.Minute(), last.Hour()*60+last.Minute()
	if a < b && minute >= a && minute < b || a > b && (minute >= a || minute < b) {
		return 0
	}
	next := time.Date(now.Year(), now.Month(), now.Day(), first.Hour(), first.Minute(), 0, 0, zone)
	if !next.After(now) {
		next = time.Date(now.Year(), now.Month(), now.Day()+1, first.Hour(), first.Minute(), 0, 0, zone)
	}
	return max(next.Sub(now), time.Second)
}
