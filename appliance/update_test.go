package appliance

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringfence/appliance/admin"
	"ringfence/image/boot"
)

// On an ordinary machine nobody but its operating system turns it off or replaces the program.
func TestMachineVerbsOutsideTheImage(t *testing.T) {
	if _, err := boot.ReadStatus(); err == nil {
		t.Skip("this is the appliance image")
	}
	a := &appliance{}
	for name, h := range a.machineHandlers() {
		_, err := h(context.Background(), admin.Request{Args: []string{"x"}, Flags: map[string]string{"yes": "true"}})
		if err == nil || !strings.Contains(err.Error(), "not the appliance image") {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := a.machineHandlers()["machine reset"](context.Background(), admin.Request{})
	if err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("machine reset without --yes: %v", err)
	}
}

func TestOpenUpdate(t *testing.T) {
	name := filepath.Join(t.TempDir(), "release.rfu")
	if err := os.WriteFile(name, []byte("release"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(name))))
	defer srv.Close()
	for _, c := range []struct {
		from string
		ok   bool
	}{{name, true}, {srv.URL + "/release.rfu", true}, {srv.URL + "/other.rfu", false}, {name + "x", false}} {
		body, err := openUpdate(context.Background(), c.from)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.from, err)
		}
		if err == nil {
			body.Close()
		}
	}
}
