package modules

import (
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var index = Index{
	{File: "ext4.ko.xz", Name: "ext4", Deps: []string{"jbd2", "mbcache"}, Soft: []string{"crc32c"}, Aliases: []string{"fs-ext4"}},
	{File: "jbd2.ko.xz", Name: "jbd2"},
	{File: "mbcache.ko.xz", Name: "mbcache"},
	{File: "crc32c-intel.ko.xz", Name: "crc32c_intel", Aliases: []string{"crc32c", "cpu:type:x86,*"}},
	{File: "virtio_net.ko.xz", Name: "virtio_net", Deps: []string{"failover"}, Aliases: []string{"virtio:d00000001v*"}},
	{File: "failover.ko.xz", Name: "failover"},
	{File: "broken.ko.xz", Name: "broken", Aliases: []string{"pci:v00001AF4d00001000sv*sd*bc*sc*i*"}},
}

func TestIndexRoundTrip(t *testing.T) {
	got, err := Parse(index.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(got.Marshal()), string(index.Marshal())); d != "" {
		t.Error(d)
	}
	if _, err := Parse([]byte("a\tb\n")); err == nil {
		t.Error("a line without fields was taken")
	}
}

func loader(t *testing.T) (*Loader, *[]string) {
	t.Helper()
	var in []string
	return NewLoader(index, func(file string) error {
		if file == "broken.ko.xz" {
			return errors.New("no such device")
		}
		in = append(in, file)
		return nil
	}, slog.New(slog.DiscardHandler)), &in
}

// ext4 cannot be mounted without crc32c, which it names as a soft dependency, by an alias.
func TestLoadBringsWhatIsNeeded(t *testing.T) {
	l, in := loader(t)
	for range 2 {
		if err := l.Load("ext4"); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"crc32c-intel.ko.xz", "jbd2.ko.xz", "mbcache.ko.xz", "ext4.ko.xz"}; !slices.Equal(*in, want) {
		t.Errorf("%v, want %v, once", *in, want)
	}
	if err := l.Load("crc32c-intel"); err != nil {
		t.Errorf("by the name with a hyphen: %v", err)
	}
	if err := l.Load("zfs"); err == nil {
		t.Error("a module that is not there was loaded")
	}
}

func TestColdplug(t *testing.T) {
	l, in := loader(t)
	if n := l.Coldplug([]string{"virtio:d00000001v00001AF4", "virtio:d00000002v00001AF4", "", "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00"}); n != 3 {
		t.Errorf("%d new aliases, want 3", n)
	}
	if n := l.Coldplug([]string{"virtio:d00000001v00001AF4"}); n != 0 {
		t.Errorf("%d new aliases, want none", n)
	}
	if want := []string{"failover.ko.xz", "virtio_net.ko.xz"}; !slices.Equal(*in, want) {
		t.Errorf("%v, want %v; a driver that declines stops nothing", *in, want)
	}
}
