// Package release is what the builder and the init role agree on: places in the initramfs, names of partitions, and what an
// image knows of itself.
package release

import (
	"encoding/json"
	"fmt"
	"os"

	"ringfence/image/update"
)

// Names of the partitions. Names, not numbers, are what is looked for; GRUB's script goes by the numbers of this order.
const (
	PartBIOS  = "rf-bios"
	PartESP   = "rf-esp"
	PartState = "rf-state"
	PartSlotA = "rf-slot-a"
	PartSlotB = "rf-slot-b"
	PartSeed  = "rf-seed"
	PartData  = "rf-data"
)

// SeedLabel is the label of the seed file system, as other operating systems show it.
const SeedLabel = "RF-SEED"

// Places in the initramfs.
const (
	File         = "/etc/ringfence/release.json"
	Template     = "/etc/ringfence/data.template"
	ModulesIndex = "/lib/modules/index"
	Modules      = "/lib/modules"
)

// UID of the daemon in the image.
const UID = 900

// Info is what an image knows of itself.
type Info struct {
	Version string       `json:"version"`
	Arch    string       `json:"arch"`
	Serial  int64        `json:"serial"`
	Floor   int64        `json:"floor"`
	Keys    []update.Key `json:"keys"`
}

// TestKeys tells whether anybody could have signed an update of this image.
func (i Info) TestKeys() bool {
	for _, k := range i.Keys {
		if k.Test() {
			return true
		}
	}
	return false
}

// Read reads the image's own description.
func Read() (Info, error) {
	var i Info
	b, err := os.ReadFile(File)
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return i, fmt.Errorf("%s: %w", File, err)
	}
	return i, nil
}
