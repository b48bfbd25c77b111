package boot

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/modules"
	"ringfence/image/boot/release"
)

func (s *system) openModules() error {
	b, err := os.ReadFile(release.ModulesIndex)
	if err != nil {
		return err
	}
	index, err := modules.Parse(b)
	if err != nil {
		return err
	}
	s.loader = modules.NewLoader(index, insert, s.log)
	return nil
}

// moduleCompressed is MODULE_INIT_COMPRESSED_FILE: the kernel unpacks the module itself and verifies its signature after that.
const moduleCompressed = 4

func insert(file string) error {
	f, err := os.Open(filepath.Join(release.Modules, file))
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if !strings.HasSuffix(file, ".ko") {
		flags = moduleCompressed
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && err != unix.EEXIST {
		return fmt.Errorf("insert %s: %w", file, err)
	}
	return nil
}

// coldplug loads what the devices that are there ask for, until nothing new appears: busses show up after their controllers.
func (s *system) coldplug() {
	for range 10 {
		var aliases []string
		_ = filepath.WalkDir("/sys/devices", func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "modalias" {
				if b, err := os.ReadFile(p); err == nil {
					aliases = append(aliases, strings.TrimSpace(string(b)))
				}
			}
			return nil
		})
		if s.loader.Coldplug(aliases) == 0 {
			return
		}
	}
}
