package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/feature"
)

// TestBackupsByThemselves lets an appliance save itself into a folder and out of the house, and makes an appliance of what came there.
func TestBackupsByThemselves(t *testing.T) {
	feature.Proves(t, "ADM-5")
	var mu sync.Mutex
	outside := map[string][]byte{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodPut || user != "north" || password != "dav secret" || len(b) == 0 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		outside[r.URL.Path] = b
		w.WriteHeader(http.StatusCreated)
	}))
	defer srv.Close()
	folder := t.TempDir()
	d := newDaemon(t, strings.Replace(morning, "  tunnel:\n", "  backup: {folder: "+folder+", url: \""+srv.URL+"/saved/\", user: north, password: \"dav secret\", passphrase: \"correct horse battery\", every: 10s, keep: 1}\n  tunnel:\n", 1))
	name := fmt.Sprintf("pbx-%d", d.site.N)
	d.verb("line", "forward", "302", "303")
	at := time.Now()
	var sent []byte
	eventually(t, time.Minute, "a backup of after the change is outside", func() bool {
		mu.Lock()
		defer mu.Unlock()
		sent = outside["/saved/"+name+"-000.backup"]
		kept, _ := filepath.Glob(filepath.Join(folder, "*.backup"))
		if len(sent) == 0 || len(kept) != 1 {
			return false
		}
		began, err := time.Parse("20060102-150405.backup", strings.TrimPrefix(filepath.Base(kept[0]), name+"-"))
		b, _ := os.ReadFile(kept[0])
		return err == nil && began.After(at) && bytes.Equal(b, sent)
	})
	d.kill()
	dir := filepath.Dir(d.config)
	pass, file := filepath.Join(dir, "passphrase"), filepath.Join(dir, "sent.backup")
	for name, b := range map[string][]byte{pass: []byte("correct horse battery\n"), file: sent} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(d.state); err != nil {
		t.Fatal(err)
	}
	d.verb("restore", file, "--passphrase-file", pass)
	d.config = filepath.Join(d.state, "config", d.config)
	d.start()
	if out := d.verb("line", "forward", "302"); !strings.Contains(out, "303") {
		t.Errorf("the forward is gone: %s", out)
	}
}
