package image

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"ringfence/image/boot/modules"
)

// chosen are the kernel modules that the image has, as patterns of path.Match on their place below kernel/, without
// ".ko.xz"; a trailing /... takes a whole folder. What they depend on comes along. arch/ is added per architecture.
var chosen = []string{
	// Network cards
	"drivers/net/ethernet/intel/...", "drivers/net/ethernet/realtek/...", "drivers/net/ethernet/broadcom/...", "drivers/net/ethernet/aquantia/...",
	"drivers/net/ethernet/marvell/...", "drivers/net/ethernet/atheros/...", "drivers/net/ethernet/amd/...", "drivers/net/ethernet/nvidia/...",
	"drivers/net/ethernet/via/...", "drivers/net/ethernet/amazon/...", "drivers/net/ethernet/google/...", "drivers/net/ethernet/microsoft/...",
	"drivers/net/vmxnet3/...", "drivers/net/hyperv/...", "drivers/net/virtio_net", "drivers/net/usb/[acrs]*", "drivers/net/usb/usbnet",
	"drivers/net/phy/[abrms]*", "drivers/net/phy/fixed_phy", "drivers/net/mii",
	// Disks
	"drivers/block/virtio_blk", "drivers/scsi/virtio_scsi", "drivers/ata/ahci", "drivers/ata/ata_piix", "drivers/ata/ata_generic", "drivers/ata/pata_acpi",
	"drivers/nvme/host/nvme", "drivers/scsi/vmw_pvscsi", "drivers/message/fusion/mptspi", "drivers/message/fusion/mptsas", "drivers/scsi/mpt3sas/...",
	"drivers/scsi/megaraid/megaraid_sas", "drivers/scsi/hv_storvsc", "drivers/usb/storage/usb-storage", "drivers/usb/storage/uas", "drivers/mmc/core/...",
	"drivers/mmc/host/sdhci*", "drivers/scsi/sd_mod", "drivers/scsi/sr_mod", "drivers/cdrom/cdrom",
	// Busses
	"drivers/virtio/...", "drivers/hv/...", "drivers/usb/host/[exou]hci*", "drivers/pci/controller/pci-hyperv*", "drivers/pci/controller/vmd",
	"drivers/usb/core/...", "drivers/usb/common/...",
	// Keyboards and screens
	"drivers/hid/hid", "drivers/hid/hid-generic", "drivers/hid/usbhid/usbhid", "drivers/hid/hid-hyperv", "drivers/input/serio/hyperv-keyboard",
	"drivers/input/evdev", "drivers/input/keyboard/atkbd", "drivers/input/serio/i8042", "drivers/gpu/drm/tiny/bochs", "drivers/gpu/drm/hyperv/hyperv_drm",
	// Watchdogs
	"drivers/watchdog/iTCO*", "drivers/watchdog/sp5100_tco", "drivers/watchdog/i6300esb", "drivers/watchdog/wdat_wdt", "drivers/watchdog/softdog",
	"drivers/watchdog/hpwdt", "drivers/i2c/busses/i2c-i801", "drivers/mfd/lpc_ich",
	// File systems
	"fs/ext4/...", "fs/fat/...", "fs/nls/nls_cp437", "fs/nls/nls_ascii", "fs/nls/nls_utf8", "fs/nls/nls_iso8859-1", "fs/isofs/...", "fs/efivarfs/...",
	// Network
	"drivers/net/tun", "net/netfilter/nf_tables", "net/netfilter/nft_*", "net/netfilter/nf_conntrack", "net/netfilter/nf_nat", "net/netfilter/nf_log_syslog",
	"net/ipv4/netfilter/nf_*", "net/ipv4/netfilter/nft_*", "net/ipv6/netfilter/nf_*", "net/ipv6/netfilter/nft_*", "net/8021q/8021q",
	"drivers/net/bonding/bonding", "net/bridge/bridge", "drivers/net/macvlan", "net/tls/tls", "net/sched/cls_bpf", "net/sched/sch_ingress",
	"net/packet/af_packet_diag",
	// Cryptography
	"crypto/crc32c_generic", "crypto/crc32_generic", "crypto/cryptd", "crypto/crypto_simd", "crypto/ghash-generic", "crypto/gcm", "crypto/xts", "crypto/cbc", "crypto/ctr", "crypto/essiv",
	"lib/libcrc32c",
	// The rest
	"drivers/firmware/qemu_fw_cfg", "drivers/md/dm-mod", "drivers/md/dm-crypt", "drivers/char/hw_random/...", "drivers/char/tpm/...", "drivers/hwmon/coretemp",
	"drivers/hwmon/k10temp", "drivers/hwmon/drivetemp", "drivers/acpi/button", "drivers/acpi/thermal", "drivers/rtc/rtc-efi", "drivers/char/ipmi/ipmi_watchdog",
}

// chosenFor are those that one architecture alone has.
var chosenFor = map[string][]string{
	"amd64": {"arch/x86/crypto/crc32c-intel", "arch/x86/crypto/crc32-pclmul", "arch/x86/crypto/aesni-intel", "arch/x86/crypto/ghash-clmulni-intel", "arch/x86/crypto/sha*"},
	"arm64": {"arch/arm64/crypto/aes-*", "arch/arm64/crypto/ghash-ce", "arch/arm64/crypto/sha*", "drivers/rtc/rtc-pl031", "drivers/watchdog/sbsa_gwdt", "drivers/net/ethernet/freescale/...",
		"drivers/net/ethernet/stmicro/...", "drivers/pci/controller/pcie-brcmstb", "drivers/tty/serial/...", "drivers/gpio/gpio-pl061", "drivers/input/keyboard/gpio_keys",
		"drivers/mmc/host/*"},
}

// left are modules that the patterns take and nobody needs, for their size or because they would only do harm.
var left = []string{"drivers/mmc/core/mmc_test", "drivers/net/ethernet/intel/ice/...", "drivers/net/ethernet/broadcom/bnx2x/...", "drivers/net/phy/qt2025"}

// kernelModules reads the chosen modules of an unpacked kernel package and makes their index.
func kernelModules(ctx context.Context, root, arch string) ([]file, modules.Index, error) {
	matches, err := filepath.Glob(filepath.Join(root, "lib/modules/*/kernel"))
	if err != nil || len(matches) != 1 {
		return nil, nil, fmt.Errorf("%s holds %d kernels, want one", root, len(matches))
	}
	base := matches[0]
	places := map[string]string{} // by the module's name
	if err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(p, ".ko.xz") {
			rel, _ := filepath.Rel(base, p)
			places[modules.Name(rel)] = rel
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	patterns := append(slices.Clone(chosen), chosenFor[arch]...)
	var wanted []string
	for name, rel := range places {
		if matchAny(patterns, rel) && !matchAny(left, rel) {
			wanted = append(wanted, name)
		}
	}
	sort.Strings(wanted)
	builtin, err := os.ReadFile(filepath.Join(filepath.Dir(base), "modules.builtin"))
	if err != nil {
		return nil, nil, err
	}
	builtIn := map[string]bool{}
	for _, line := range strings.Fields(string(builtin)) {
		builtIn[modules.Name(line)] = true
	}

	var mu sync.Mutex // guards the rest
	var files []file
	var index modules.Index
	seen := map[string]bool{}
	for len(wanted) > 0 {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(4)
		var next []string
		for _, name := range wanted {
			seen[name] = true
			g.Go(func() error {
				rel := places[name]
				data, err := os.ReadFile(filepath.Join(base, rel))
				if err != nil {
					return err
				}
				m, err := moduleInfo(gctx, name, data)
				if err != nil {
					return fmt.Errorf("%s: %w", rel, err)
				}
				m.File = path.Base(rel)
				mu.Lock()
				defer mu.Unlock()
				index = append(index, m)
				files = append(files, file{name: "lib/modules/" + m.File, mode: 0o644, data: data})
				next = append(next, m.Deps...)
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return nil, nil, err
		}
		wanted = nil
		for _, name := range next {
			if !seen[name] && !builtIn[name] {
				if places[name] == "" {
					return nil, nil, fmt.Errorf("the kernel package has no module %s that another needs", name)
				}
				seen[name] = true
				wanted = append(wanted, name)
			}
		}
		sort.Strings(wanted)
	}
	sort.Slice(files, func(i, j int) bool { return files[i].name < files[j].name })
	index.Sort()
	return files, index, nil
}

// matchAny tells whether a module's place fits a pattern.
func matchAny(patterns []string, rel string) bool {
	rel = strings.TrimSuffix(rel, ".ko.xz")
	for _, p := range patterns {
		if dir, ok := strings.CutSuffix(p, "/..."); ok {
			if strings.HasPrefix(rel, dir+"/") {
				return true
			}
		} else if ok, _ := path.Match(p, rel); ok {
			return true
		}
	}
	return false
}

// moduleInfo reads what a module says about itself in its section .modinfo.
func moduleInfo(ctx context.Context, name string, packed []byte) (modules.Module, error) {
	m := modules.Module{Name: name}
	cmd := exec.CommandContext(ctx, "xz", "-dc")
	cmd.Stdin = bytes.NewReader(packed)
	data, err := cmd.Output()
	if err != nil {
		return m, fmt.Errorf("xz: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return m, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return m, fmt.Errorf("no .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return m, err
	}
	for _, item := range strings.Split(string(info), "\x00") {
		key, value, _ := strings.Cut(item, "=")
		switch key {
		case "depends":
			for _, d := range strings.Split(value, ",") {
				if d != "" {
					m.Deps = append(m.Deps, modules.Name(d))
				}
			}
		case "softdep":
			if pre, ok := strings.CutPrefix(value, "pre:"); ok {
				pre, _, _ = strings.Cut(pre, "post:")
				m.Soft = append(m.Soft, strings.Fields(pre)...)
			}
		case "alias":
			m.Aliases = append(m.Aliases, value)
		}
	}
	return m, nil
}
