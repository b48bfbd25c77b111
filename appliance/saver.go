package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/config"
)

// saver makes backups from time to time (node.backup): it writes one, reads it to its end with the passphrase and opens what it holds, sends
// it out of the house, and lets the oldest go.
type saver struct {
	b     config.Backup
	name  string // of the appliance
	dir   string // state directory, where backups are made that are not kept here
	write func(file, passphrase string) error
	check func(file, passphrase string) error
	log   *slog.Logger
	began time.Time

	mu   sync.Mutex // guards the rest
	last time.Time  // of the last good one
	err  error      // of the last one
	sent int        // to the URL, since the start
}

// Times of the saver.
const (
	saveFirst = 3 * time.Second // after the start
	saveRetry = 10 * time.Minute
	saveSend  = 30 * time.Minute
	saveNames = "20060102-150405"
	saveEnd   = ".backup"
)

func (a *appliance) newSaver(b config.Backup) *saver {
	return &saver{b: b, name: a.doc().Node.Name, dir: a.StateDir, log: a.log, began: time.Now(),
		write: func(file, passphrase string) error {
			_, err := writeBackup(file, passphrase, a.backupSource())
			return err
		},
		check: func(file, passphrase string) error { _, err := CheckBackup(file, passphrase); return err }}
}

// run makes backups until ctx ends. After a start the next is due when the last one in the folder is old enough.
func (s *saver) run(ctx context.Context) error {
	wait := saveFirst
	if kept, err := s.kept(); err == nil && len(kept) > 0 {
		if t, err := s.timeOf(kept[len(kept)-1]); err == nil {
			s.mu.Lock()
			s.last = t
			s.mu.Unlock()
			wait = max(time.Until(t.Add(s.b.Every.D())), saveFirst)
		}
	}
	for {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		err := s.save(ctx, time.Now())
		s.mu.Lock()
		if s.err = err; err == nil {
			s.last = time.Now()
		}
		s.mu.Unlock()
		wait = s.b.Every.D()
		if err != nil && ctx.Err() == nil {
			s.log.Error("backup", "err", err)
			wait = min(wait, saveRetry)
		}
	}
}

// save makes one backup.
func (s *saver) save(ctx context.Context, now time.Time) error {
	folder := s.b.Folder
	if folder == "" {
		var err error
		if folder, err = os.MkdirTemp("", "ringfence-backup-"); err != nil {
			return err
		}
		defer os.RemoveAll(folder)
	}
	file := filepath.Join(folder, s.name+"-"+now.UTC().Format(saveNames)+saveEnd)
	if err := s.write(file, s.b.Passphrase.Reveal()); err != nil {
		return err
	}
	if err := s.check(file, s.b.Passphrase.Reveal()); err != nil {
		_ = os.Remove(file)
		return fmt.Errorf("the backup cannot be read back: %w", err)
	}
	if s.b.Folder != "" {
		if err := s.prune(); err != nil {
			return err
		}
	}
	if s.b.URL != "" {
		if err := s.send(ctx, file); err != nil {
			return err
		}
	}
	s.log.Info("backup", "file", file)
	return nil
}

// kept are the backups of this appliance in the folder, the oldest first.
func (s *saver) kept() ([]string, error) {
	all, err := os.ReadDir(s.b.Folder)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range all {
		if _, err := s.timeOf(e.Name()); err == nil && e.Type().IsRegular() {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}

// timeOf reads when a backup was made in its name.
func (s *saver) timeOf(name string) (time.Time, error) {
	middle, ok := strings.CutPrefix(name, s.name+"-")
	middle, end := strings.CutSuffix(middle, saveEnd)
	if !ok || !end {
		return time.Time{}, fs.ErrNotExist
	}
	return time.Parse(saveNames, middle)
}

func (s *saver) prune() error {
	kept, err := s.kept()
	if err != nil {
		return err
	}
	for len(kept) > s.b.Keep {
		if err := os.Remove(filepath.Join(s.b.Folder, kept[0])); err != nil {
			return err
		}
		kept = kept[1:]
	}
	return nil
}

// place is the name of a backup at the URL. Nothing can be listed there, so names go round: the next takes the place of the oldest.
func (s *saver) place(now time.Time) string {
	return fmt.Sprintf("%s-%03d%s", s.name, now.Unix()/max(int64(s.b.Every.D()/time.Second), 1)%int64(s.b.Keep), saveEnd)
}

// send puts a file to the URL (RFC 9110, section 9.3.4; RFC 4918, section 9.7).
func (s *saver) send(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, saveSend)
	defer cancel()
	to := s.b.URL + url.PathEscape(s.place(time.Now()))
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, to, io.NopCloser(f))
	if err != nil {
		return err
	}
	r.ContentLength = st.Size()
	r.Header.Set("Content-Type", "application/octet-stream")
	if s.b.User != "" || !s.b.Password.Empty() {
		r.SetBasicAuth(s.b.User, s.b.Password.Reveal())
	}
	client := &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 2 * time.Minute, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(r)
	if err != nil {
		return fmt.Errorf("the backup was made, but not sent: %w", err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode/100 == 2:
		s.mu.Lock()
		s.sent++
		s.mu.Unlock()
		return nil
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the backup was made, but not sent: %s answers %s: check node.backup.user and password", to, res.Status)
	case res.StatusCode == http.StatusNotFound, res.StatusCode == http.StatusConflict:
		return fmt.Errorf("the backup was made, but not sent: %s answers %s: the folder has to be there", to, res.Status)
	}
	return fmt.Errorf("the backup was made, but not sent: %s answers %s", to, res.Status)
}

// warnings are for the status.
func (s *saver) warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.err != nil && !errors.Is(s.err, context.Canceled) {
		out = append(out, "no backup: "+s.err.Error())
	}
	since := s.last
	if since.IsZero() {
		since = s.began
	}
	if age := time.Since(since); age > 3*s.b.Every.D()+time.Hour {
		out = append(out, fmt.Sprintf("the last good backup is %s old", age.Round(time.Hour)))
	}
	return out
}
