package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ringfence/image/boot/release"
)

// taken is what init remembers of the configuration that it gave the daemon.
type taken struct {
	Source string            `json:"source"`
	Hashes map[string]string `json:"hashes"`            // of every source that was taken over, so that each counts once
	Made   string            `json:"made,omitempty"`    // the address of a document that init made itself
	Said   string            `json:"problem,omitempty"` // what was wrong with the last one
}

// source is a document that somebody put somewhere.
type source struct {
	name string
	data []byte
}

// maxDocument bounds what is read of a source.
const maxDocument = 1 << 20

// configure takes over what is new in the sources, in the order SMBIOS, fw_cfg, NoCloud, seed partition; the first that is new
// wins. What an administrator applied later stays until a source changes. Where nothing was ever declared, a document with
// nothing but the address that the network gave makes the appliance one that phones can be adopted at.
func (s *system) configure() {
	if s.view.get().Data != "" {
		return
	}
	var t taken
	_ = readJSON(configFile, &t)
	if t.Hashes == nil {
		t.Hashes = map[string]string{}
	}
	var fixed *staticAddress
	if text := s.smbios("address="); text != "" {
		if a, err := parseStatic(text); err != nil {
			s.note("SMBIOS: " + err.Error())
		} else {
			fixed = a
		}
	}
	if fixed == nil {
		var a staticAddress
		if readJSON(staticFile, &a) == nil && a.Address.IsValid() {
			fixed = &a
		}
	}
	if fixed != nil {
		s.useStatic(fixed)
	}
	applied := false
	for _, src := range s.sources() {
		sum := sha256.Sum256(src.data)
		hash := hex.EncodeToString(sum[:])
		if t.Hashes[src.name] == hash {
			continue
		}
		if applied {
			t.Hashes[src.name] = hash // of less weight than the one just taken
			continue
		}
		if err := s.apply(src.data, "from "+src.name); err != nil {
			s.log.Error("configuration refused", "source", src.name, "err", err)
			s.note(fmt.Sprintf("the configuration in %s is not used: %v", src.name, err))
			t.Said = err.Error()
			continue
		}
		s.log.Info("configuration taken over", "source", src.name)
		t.Source, t.Hashes[src.name], t.Made, t.Said, applied = src.name, hash, "", "", true
	}
	if t.Source == "" || t.Made != "" {
		if made := s.makeDocument(t.Made); made != "" {
			t.Source, t.Made, applied = "the address that the network gave", made, true
		}
	}
	if applied {
		if err := writeJSON(configFile, t); err != nil {
			s.log.Error("configuration", "err", err)
		}
	}
	s.view.set(func(v *Status) { v.Config = t.Source })
}

func (s *system) note(text string) { s.view.set(func(v *Status) { v.Notes = append(v.Notes, text) }) }

// makeDocument stores the least document, for the address of the moment, unless it is the one of before.
func (s *system) makeDocument(before string) string {
	address, ok := s.waitAddress(addressWait)
	if !ok || address == before {
		if !ok {
			s.log.Error("no address and no configuration")
		}
		return before
	}
	if err := s.apply(fmt.Appendf(nil, "node:\n  address: %s\n", address), "made at the first start"); err != nil {
		s.log.Error("configuration", "err", err)
		return before
	}
	return address
}

// apply stores a document as the next revision, with the daemon's own means and rights, before the daemon runs.
func (s *system) apply(data []byte, comment string) error {
	if _, err := s.Address(data); err != nil {
		return err
	}
	name := filepath.Join(runDir, "declared.yaml")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		return err
	}
	defer os.Remove(name)
	if err := os.Chown(name, release.UID, release.UID); err != nil {
		return err
	}
	_, err := s.runChild(nil, "--state", StateDir, "config", "apply", name)
	return err
}

// sources are the documents that can be found.
func (s *system) sources() []source {
	var out []source
	add := func(name string, data []byte) {
		if len(bytes.TrimSpace(data)) > 0 && len(data) <= maxDocument {
			out = append(out, source{name, data})
		}
	}
	if text := s.smbios("config="); text != "" {
		add("SMBIOS", []byte(strings.ReplaceAll(text, `\n`, "\n")))
	}
	if err := s.loader.Load("qemu_fw_cfg"); err == nil {
		if b, err := os.ReadFile("/sys/firmware/qemu_fw_cfg/by_name/opt/ringfence/config/raw"); err == nil {
			add("fw_cfg", b)
		}
	}
	if b := s.noCloud(); b != nil {
		add("NoCloud", b)
	}
	if s.disk != nil {
		if _, device, err := s.disk.part(release.PartSeed); err == nil {
			if b, err := readFrom(device, "vfat", "ringfence.yaml"); err == nil {
				add("the seed partition", b)
			}
		}
	}
	return out
}

// smbios is the rest of the OEM string "ringfence:KEY…" (SMBIOS specification, type 11), joined where there are several.
func (s *system) smbios(key string) string {
	names, _ := filepath.Glob("/sys/firmware/dmi/entries/11-*/raw")
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			continue
		}
		for _, text := range oemStrings(b) {
			if rest, ok := strings.CutPrefix(text, "ringfence:"+key); ok {
				return rest
			}
		}
	}
	return ""
}

// oemStrings are the strings after the formatted part, whose length is its second byte.
func oemStrings(b []byte) []string {
	if len(b) < 5 || int(b[1]) > len(b) {
		return nil
	}
	var out []string
	for _, t := range bytes.Split(b[b[1]:], []byte{0}) {
		if len(t) > 0 {
			out = append(out, string(t))
		}
	}
	return out
}

// noCloud reads user-data from a file system labelled CIDATA: the document itself, possibly after the line that cloud images want.
func (s *system) noCloud() []byte {
	names, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil
	}
	for _, n := range names {
		device := "/dev/" + n.Name()
		kind := labelled(device, "cidata")
		if kind == "" {
			continue
		}
		if kind == "iso9660" {
			_ = s.loader.Load("isofs")
		}
		b, err := readFrom(device, kind, "user-data")
		if err != nil {
			s.note("NoCloud: " + err.Error())
			continue
		}
		return bytes.TrimPrefix(b, []byte("#cloud-config\n"))
	}
	return nil
}

// labelled is the kind of file system on a device that has this label: ISO 9660 has it at 32808, FAT at 43 or 71.
func labelled(device, label string) string {
	f, err := os.Open(device)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 11)
	for _, place := range []struct {
		at   int64
		kind string
	}{{43, "vfat"}, {71, "vfat"}, {32808, "iso9660"}} {
		if _, err := f.ReadAt(b, place.at); err == nil && strings.EqualFold(strings.TrimSpace(string(b)), label) {
			return place.kind
		}
	}
	return ""
}

// readFrom reads one file of a file system that is mounted for it alone.
func readFrom(device, kind, name string) ([]byte, error) {
	at, err := os.MkdirTemp("/run", "mount-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(at)
	if err := unix.Mount(device, at, kind, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	defer func() { _ = unix.Unmount(at, 0) }()
	root, err := os.OpenRoot(at)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	st, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxDocument {
		return nil, fmt.Errorf("%s has %d bytes", name, st.Size())
	}
	return root.ReadFile(name)
}
