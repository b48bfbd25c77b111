package host

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTemperatures(t *testing.T) {
	sys := t.TempDir()
	for name, text := range map[string]string{
		"thermal/thermal_zone0/type": "x86_pkg_temp", "thermal/thermal_zone0/temp": "93000", "thermal/thermal_zone0/trip_point_0_type": "passive", "thermal/thermal_zone0/trip_point_0_temp": "80000",
		"thermal/thermal_zone0/trip_point_1_type": "critical", "thermal/thermal_zone0/trip_point_1_temp": "100000",
		"thermal/thermal_zone1/type": "acpitz", "thermal/thermal_zone1/temp": "-274000",
		"hwmon/hwmon3/name": "nvme", "hwmon/hwmon3/temp1_input": "41850", "hwmon/hwmon3/temp1_label": "Composite", "hwmon/hwmon3/temp1_crit": "84850",
		"hwmon/hwmon4/name": "coretemp", "hwmon/hwmon4/temp2_input": "91000",
	} {
		name = filepath.Join(sys, "class", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := LookAt(sys, sys)
	want := []Temperature{{"x86_pkg_temp", 93, 100}, {"coretemp", 91, 0}, {"nvme Composite", 41.85, 84.85}}
	if d := cmp.Diff(h.Temperatures, want); d != "" {
		t.Errorf("got, want:\n%s", d)
	}
	if w := h.Warnings(); len(w) != 2 {
		t.Errorf("warnings %v", w)
	}
	if h.Size == 0 || h.Free == 0 || h.Free > h.Size {
		t.Errorf("%+v", h)
	}
}
