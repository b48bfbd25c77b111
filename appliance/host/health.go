package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Health is what the machine says of itself.
type Health struct {
	Size         uint64        `json:"data_size,omitempty"` // of the file system with the state, in bytes
	Free         uint64        `json:"data_free,omitempty"`
	Temperatures []Temperature `json:"temperatures,omitempty"` // the hottest first
}

// Temperature of a sensor.
type Temperature struct {
	Sensor   string  `json:"sensor"`
	Celsius  float64 `json:"celsius"`
	Critical float64 `json:"critical,omitempty"` // at which the machine protects itself; 0 unknown
}

// Bounds of warnings.
const (
	hotBelowCritical = 8  // °C
	hotUnknown       = 90 // °C, where no limit is told
	maxSensors       = 64
)

// LookAt reads the sensors below sys ("/sys") and the file system of dir.
func LookAt(sys, dir string) Health {
	var h Health
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) == nil {
		h.Size, h.Free = st.Blocks*uint64(st.Bsize), st.Bavail*uint64(st.Bsize)
	}
	h.Temperatures = append(thermalZones(sys), monitors(sys)...)
	slices.SortStableFunc(h.Temperatures, func(a, b Temperature) int { return int(b.Celsius*10) - int(a.Celsius*10) })
	h.Temperatures = h.Temperatures[:min(len(h.Temperatures), maxSensors)]
	return h
}

// Warnings are for the status.
func (h Health) Warnings() []string {
	var out []string
	for _, t := range h.Temperatures {
		if limit := t.limit(); t.Celsius >= limit {
			out = append(out, fmt.Sprintf("%s is at %.0f °C: fan, dust, or the place where the machine stands", t.Sensor, t.Celsius))
		}
	}
	return out
}

func (t Temperature) limit() float64 {
	if t.Critical > 0 {
		return t.Critical - hotBelowCritical
	}
	return hotUnknown
}

// degrees reads a value in thousandths. Sensors that are not there read as nonsense.
func degrees(name string) (float64, bool) {
	n, err := strconv.Atoi(line(name))
	c := float64(n) / 1000
	return c, err == nil && c > -50 && c < 200 && n != 0
}

func line(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// thermalZones are those of the firmware (Linux, sysfs-api of thermal).
func thermalZones(sys string) (out []Temperature) {
	zones, _ := filepath.Glob(filepath.Join(sys, "class/thermal/thermal_zone*"))
	for _, z := range zones {
		c, ok := degrees(filepath.Join(z, "temp"))
		if !ok {
			continue
		}
		t := Temperature{Sensor: line(filepath.Join(z, "type")), Celsius: c}
		trips, _ := filepath.Glob(filepath.Join(z, "trip_point_*_type"))
		for _, name := range trips {
			if line(name) == "critical" {
				t.Critical, _ = degrees(strings.TrimSuffix(name, "_type") + "_temp")
			}
		}
		out = append(out, t)
	}
	return out
}

// monitors are the sensors of drivers (Linux, sysfs-interface of hwmon).
func monitors(sys string) (out []Temperature) {
	inputs, _ := filepath.Glob(filepath.Join(sys, "class/hwmon/hwmon*/temp*_input"))
	for _, in := range inputs {
		c, ok := degrees(in)
		if !ok {
			continue
		}
		base := strings.TrimSuffix(in, "_input")
		t := Temperature{Sensor: strings.TrimSpace(line(filepath.Join(filepath.Dir(in), "name")) + " " + line(base+"_label")), Celsius: c}
		t.Critical, _ = degrees(base + "_crit")
		out = append(out, t)
	}
	return out
}
