package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// breaking serves a file and breaks the first connections somewhere in it.
func breaking(t *testing.T, content []byte, breaks int, ranges bool, etag func(n int) string) (url string, requests *atomic.Int32) {
	requests = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := int(requests.Add(1))
		from := 0
		w.Header().Set("ETag", etag(n))
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); ranges && err == nil && r.Header.Get("If-Range") == etag(n) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
			w.WriteHeader(http.StatusPartialContent)
		} else {
			from = 0
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		}
		part := content[from:]
		if n <= breaks {
			part = part[:min(len(part), len(content)/4*n-from)]
		}
		_, _ = w.Write(part)
		if n <= breaks {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/release.rfu", requests
}

func TestDownloadGoesOn(t *testing.T) {
	content := make([]byte, 400_000)
	rand.Read(content)
	same := func(int) string { return `"one"` }
	for _, c := range []struct {
		name   string
		breaks int
		ranges bool
		etag   func(int) string
		want   error
	}{
		{"whole", 0, true, same, nil},
		{"broken three times", 3, true, same, nil},
		{"broken, and the server knows no parts", 2, false, same, nil},
		{"another file meanwhile", 1, true, func(n int) string { return fmt.Sprintf(`"%d"`, n) }, errChanged},
	} {
		t.Run(c.name, func(t *testing.T) {
			url, requests := breaking(t, content, c.breaks, c.ranges, c.etag)
			d, err := openDownload(context.Background(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			d.pause = time.Millisecond
			got, err := io.ReadAll(d)
			if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c.want == nil && int(requests.Load()) != c.breaks+1 {
				t.Errorf("%d requests", requests.Load())
			}
		})
	}
}

func TestDownloadGivesUp(t *testing.T) {
	t.Run("too large", func(t *testing.T) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9000000000") }))
		defer srv.Close()
		if _, err := openDownload(context.Background(), srv.URL); err == nil || !strings.Contains(err.Error(), "no update") {
			t.Error(err)
		}
	})
	t.Run("broken for ever", func(t *testing.T) {
		url, requests := breaking(t, make([]byte, 1000), 1, true, func(int) string { return `"one"` })
		d, err := openDownload(context.Background(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		d.pause, d.url = time.Microsecond, "http://127.0.0.1:1/" // nobody is there any more
		if _, err := io.ReadAll(d); err == nil || !strings.Contains(err.Error(), "broke 8 times") {
			t.Errorf("%v after %d requests", err, requests.Load())
		}
	})
	t.Run("stalled", func(t *testing.T) {
		release := make(chan struct{})
		var n atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			if n.Add(1) == 1 {
				w.Write([]byte("ab"))
				w.(http.Flusher).Flush()
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return
			}
			w.Write([]byte("abcd"))
		}))
		defer srv.Close()
		defer close(release)
		d, err := openDownload(context.Background(), srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		d.pause, d.stall = time.Millisecond, 300*time.Millisecond
		if got, err := io.ReadAll(d); err != nil || string(got) != "abcd" {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestUpdateWindow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		x, err := time.ParseInLocation("2006-01-02 15:04", s, berlin)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for _, c := range []struct {
		window, now string
		want        time.Duration
	}{
		{"", "2026-06-01 12:00", 0},
		{"02:00-05:00", "2026-06-01 02:00", 0},
		{"02:00-05:00", "2026-06-01 04:59", 0},
		{"02:00-05:00", "2026-06-01 05:00", 21 * time.Hour},
		{"02:00-05:00", "2026-06-01 01:30", 30 * time.Minute},
		{"23:00-01:00", "2026-06-01 00:30", 0},
		{"23:00-01:00", "2026-06-01 01:00", 22 * time.Hour},
		{"03:00-05:00", "2026-03-28 22:00", 4 * time.Hour}, // one hour is missing that night
	} {
		if got := inWindow(c.window, berlin, at(c.now).UTC()); got != c.want {
			t.Errorf("%s at %s: %s, want %s", c.window, c.now, got, c.want)
		}
	}
}
