package call_test

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/media"
	"ringfence/sip/internal/calltest"
)

var engine *media.Engine

func TestMain(m *testing.M) {
	e, stop := calltest.NewEngine()
	engine = e
	code := m.Run()
	stop()
	os.Exit(code)
}

// scene runs a test in a bubble with a world, and checks at the end that nothing of the calls is left.
func scene(t *testing.T, f func(t *testing.T, w *calltest.World)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := calltest.New(t, engine)
		f(t, w)
		time.Sleep(64 * time.Second)
		synctest.Wait()
		if left := w.Left(); left != "" {
			t.Errorf("left over: %s\n%s", left, strings.Join(w.Ladder(), "\n"))
		}
		w.Close()
		synctest.Wait()
	})
}

func settle() { synctest.Wait() }

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func ladder(t *testing.T, w *calltest.World, want ...string) {
	t.Helper()
	if d := cmp.Diff(want, w.Ladder()); d != "" {
		t.Error(d)
	}
}

func TestBasicCall(t *testing.T) {
	scene(t, func(t *testing.T, w *calltest.World) {
		ada, ben := w.Phone("301", "TCP"), w.Phone("302", "TCP")
		c := ada.Call("302")
		after(5 * time.Second)
		c.Bye()
		settle()
		ladder(t, w,
			"301 > INVITE", "302 < INVITE", "302 > 180 INVITE", "301 < 180 INVITE", "302 > 200 INVITE", "302 < ACK", "301 < 200 INVITE",
			"301 > ACK", "301 > BYE", "301 < 200 BYE", "302 < BYE", "302 > 200 BYE")
		_ = ben
	})
}
