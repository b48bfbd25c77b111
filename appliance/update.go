package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ringfence/appliance/admin"
	"ringfence/appliance/supervise"
	"ringfence/image/boot"
	"ringfence/image/boot/release"
	"ringfence/image/update"
	"ringfence/internal/task"
)

// machineVerbs are orders about the machine. They work in the appliance image only, where init takes them.
func machineVerbs() []admin.Verb {
	yes := admin.Flag{Name: "yes", Usage: "really", Bool: true}
	return []admin.Verb{
		{Name: "update", Args: "FILE|URL", Min: 1, Max: 1, Short: "install a release: it is tried, and the one before comes back by itself if it fails", Change: true, Print: printText,
			Help: "FILE is one that the daemon can read. The signature is checked before anything is written.", Prepare: absoluteFile},
		{Name: "machine reboot", Short: "start the machine again", Change: true, Print: printText},
		{Name: "machine poweroff", Short: "turn the machine off", Change: true, Print: printText},
		{Name: "machine reset", Short: "erase keys, configuration and all that users set, and start as if new", Change: true, Print: printText, Flags: []admin.Flag{yes}},
	}
}

func (a *appliance) machineHandlers() map[string]admin.Handler {
	order := func(path, said string) admin.Handler {
		return func(ctx context.Context, r admin.Request) (any, error) {
			if path == "/reset" && r.Flags["yes"] == "" {
				return nil, admin.Usage("machine reset erases everything: keys that phones trust, configuration, voicemail; --yes does it")
			}
			if _, err := askInit(ctx, path, nil); err != nil {
				return nil, err
			}
			return say("%s", said)
		}
	}
	return map[string]admin.Handler{
		"update":           a.updateVerb,
		"machine reboot":   order("/reboot", "the machine starts again"),
		"machine poweroff": order("/poweroff", "the machine turns itself off"),
		"machine reset":    order("/reset", "everything is erased; the machine starts again"),
	}
}

func absoluteFile(r *admin.Request) error {
	if isURL(r.Args[0]) {
		return nil
	}
	abs, err := filepath.Abs(r.Args[0])
	if err == nil {
		r.Args[0] = abs
	}
	return err
}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// askInit sends an order, and a body if there is one, to PID 1.
func askInit(ctx context.Context, path string, body io.Reader) ([]byte, error) {
	if _, err := boot.ReadStatus(); err != nil {
		return nil, admin.Refuse("this is not the appliance image: the machine belongs to its operating system")
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://init"+path, body)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", boot.Socket)
	}
	res, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask init: %w", err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("ask init: %w", err)
	}
	if res.StatusCode/100 != 2 {
		var no struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(answer, &no) != nil || no.Error == "" {
			no.Error = res.Status
		}
		return nil, admin.Refuse("%s", no.Error)
	}
	return answer, nil
}

// updater installs releases, one at a time.
type updater struct {
	tasks   *task.Group
	mu      sync.Mutex // guards the rest
	running bool
}

func (u *updater) take() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.running {
		return false
	}
	u.running = true
	return true
}

func (u *updater) release() {
	u.mu.Lock()
	u.running = false
	u.mu.Unlock()
}

// Bounds of an update.
const (
	updateTime   = 30 * time.Minute
	updateAnswer = 25 * time.Second // how long the verb waits; the rest is seen in the status
	updateHead   = 30 * time.Second
)

func (a *appliance) updateVerb(ctx context.Context, r admin.Request) (any, error) {
	if _, err := boot.ReadStatus(); err != nil {
		return nil, admin.Refuse("this is not the appliance image: install the release as you installed this one")
	}
	if !a.updates.take() {
		return nil, admin.Refuse("an update is being installed already; ringfence status shows it")
	}
	result := make(chan error, 1)
	a.updates.tasks.Go("update", func(ctx context.Context) {
		defer a.updates.release()
		ctx, cancel := context.WithTimeout(ctx, updateTime)
		defer cancel()
		body, err := openUpdate(ctx, r.Args[0])
		if err == nil {
			defer body.Close()
			_, err = askInit(ctx, "/update", body)
		}
		if err != nil {
			a.log.Error("update", "err", err)
		}
		result <- err
	})
	select {
	case err := <-result:
		if err != nil {
			if _, ok := errors.AsType[*admin.Error](err); !ok {
				err = admin.Refuse("%v", err)
			}
			return nil, err
		}
		return say("the release is written and verified; the machine starts again and tries it")
	case <-time.After(updateAnswer):
		return say("the release is being written; the machine starts again when it is verified, ringfence status tells")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// openUpdate opens a file, or begins to fetch a URL.
func openUpdate(ctx context.Context, from string) (io.ReadCloser, error) {
	if !isURL(from) {
		return os.Open(from)
	}
	return openDownload(ctx, from)
}

// updateService looks at node.update.url from time to time, within node.update.window, and installs what is newer than this release.
func (a *appliance) updateService(url, window string, every time.Duration) supervise.Service {
	return supervise.Service{Name: "update", Run: func(ctx context.Context) error {
		// The pause comes first: a release that was just started proves itself before it looks for the next.
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(every):
			}
			zone, err := time.LoadLocation(a.doc().Site.TimeZone)
			if err != nil {
				zone = time.UTC
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(inWindow(window, zone, time.Now())):
			}
			if !a.updates.take() {
				continue
			}
			err = a.updateFrom(ctx, url)
			a.updates.release()
			if err != nil && ctx.Err() == nil {
				a.log.Info("update", "peer", url, "err", err)
			}
		}
	}}
}

// updateFrom reads the head at the URL, and the rest only when it describes a newer release that did not fail here before.
func (a *appliance) updateFrom(ctx context.Context, url string) error {
	st, err := boot.ReadStatus()
	if err != nil {
		return err
	}
	if !st.Committed {
		return nil
	}
	about, err := release.Read()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, updateTime)
	defer cancel()
	body, err := openUpdate(ctx, url)
	if err != nil {
		return err
	}
	defer body.Close()
	head := make([]byte, update.HeadSize)
	if _, err := io.ReadFull(body, head); err != nil {
		return errors.New("there is no update of this product")
	}
	info, _, err := update.Open(head, about.Keys)
	if err != nil {
		return err
	}
	if info.Serial <= about.Serial || st.Update != nil && st.Update.Version == info.Version && st.Update.State == boot.Returned {
		return nil
	}
	a.log.Info("a newer release", "version", info.Version, "peer", url)
	_, err = askInit(ctx, "/update", io.MultiReader(bytes.NewReader(head), body))
	return err
}
