package store

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// childDir names the state directory to the writing child that TestKill starts.
const childDir = "RINGFENCE_STORE_TEST_CHILD"

const killWriters = 4

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(writeUntilKilled(dir))
	}
	os.Exit(m.Run())
}

// writeUntilKilled writes atomic groups without end, each writer counting on from what it finds, and prints "writer count"
// after each acknowledgement.
func writeUntilKilled(dir string) int {
	s, err := Open(Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var wg sync.WaitGroup
	for w := range killWriters {
		wg.Go(func() {
			for n := stored(s, w, "a") + 1; ; n++ {
				v := []byte(strconv.Itoa(n))
				set := map[string][]byte{key(w, "a"): v, key(w, "b"): v, key(w, fmt.Sprint("at/", n%64)): v}
				var del []string
				if n%2 == 0 {
					del = append(del, key(w, "odd"))
				} else {
					set[key(w, "odd")] = v
				}
				if err := s.Write(context.Background(), set, del...); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				fmt.Printf("%d %d\n", w, n)
			}
		})
	}
	wg.Wait()
	return 0
}

func key(writer int, field string) string { return fmt.Sprintf("w/%d/%s", writer, field) }

func stored(s *Store, writer int, field string) int {
	v, _ := s.Get(key(writer, field))
	n, _ := strconv.Atoi(string(v))
	return n
}

// TestKill kills a writing process at random moments. After each kill every acknowledged group is there, every group is
// there as a whole or not at all, and the log rebuilds the projection.
func TestKill(t *testing.T) {
	kills := 100
	if testing.Short() {
		kills = 20
	}
	dir := t.TempDir()
	acked := make([]int, killWriters)
	total := 0
	for i := range kills {
		total += writeAndKill(t, dir, acked, time.Duration(rand.IntN(60))*time.Millisecond)
		s, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		for w := range killWriters {
			checkWriter(t, s, w, acked[w])
			acked[w] = stored(s, w, "a") // seen after a restart, so it must stay
		}
		if i%10 == 0 {
			before := dump(t, s)
			if err := s.Rebuild(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, dump(t, s)); d != "" {
				t.Errorf("kill %d: rebuilt projection differs:\n%s", i, d)
			}
		}
		checkGroups(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("after kill %d", i)
		}
	}
	if total < kills {
		t.Errorf("only %d acknowledged groups in %d runs: nothing was put to the test", total, kills)
	}
	t.Logf("%d kills, %d acknowledged groups", kills, total)
}

// writeAndKill runs the child until after its first acknowledgement plus delay, and notes the last acknowledgements.
func writeAndKill(t *testing.T, dir string, acked []int, delay time.Duration) (n int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var timer *time.Timer
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var w, count int
		if got, _ := fmt.Sscanf(lines.Text(), "%d %d", &w, &count); got != 2 || w >= killWriters {
			t.Errorf("child said %q", lines.Text())
			break
		}
		acked[w] = count
		if n++; timer == nil {
			timer = time.AfterFunc(delay, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Error("the child ended by itself")
	}
	return n
}

func checkWriter(t *testing.T, s *Store, w, acked int) {
	t.Helper()
	a, b := stored(s, w, "a"), stored(s, w, "b")
	if a < acked || a > acked+1 {
		t.Errorf("writer %d: %d stored, %d acknowledged", w, a, acked)
	}
	if a == 0 {
		return
	}
	if b != a || stored(s, w, fmt.Sprint("at/", a%64)) != a {
		t.Errorf("writer %d: group torn: a %d, b %d", w, a, b)
	}
	_, odd := s.Get(key(w, "odd"))
	if odd != (a%2 == 1) {
		t.Errorf("writer %d: group torn: a %d but odd %v", w, a, odd)
	}
	for n := max(1, a-63); n <= a; n++ {
		if got := stored(s, w, fmt.Sprint("at/", n%64)); got != n {
			t.Errorf("writer %d: group %d is missing, its field says %d", w, n, got)
		}
	}
}

// checkGroups reads the log: sequences without a gap, groups whole.
func checkGroups(t *testing.T, s *Store) {
	t.Helper()
	seq, more := uint64(0), uint32(0)
	if err := s.Ops(0, func(op Op) bool {
		if op.Seq != seq+1 || more > 0 && op.More != more-1 {
			t.Errorf("operation %d (%d more) after %d (%d more)", op.Seq, op.More, seq, more)
		}
		seq, more = op.Seq, op.More
		return true
	}); err != nil {
		t.Error(err)
	}
	if more != 0 || seq != s.LastSeq() {
		t.Errorf("log ends at %d with %d more to come, last sequence %d", seq, more, s.LastSeq())
	}
}
