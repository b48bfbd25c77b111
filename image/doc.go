// Package image builds the appliance: a raw disk with two slots that starts under BIOS and UEFI alike, the file that updates
// it, and what virtual machines want to have instead of a raw disk.
//
// It takes Debian's kernel and GRUB from their packages (apt-get download, dpkg -x; nothing is installed, no root, no loop
// device), adds one static binary, and writes partition table, FAT file systems, initramfs and OpenPGP signatures itself.
// Tools that it runs come from the same packages: grub-mkimage, mksquashfs; mke2fs, xz, dpkg and, for other formats than the raw
// one, qemu-img are the machine's. Two builds from the same input are the same bit for bit, signatures included.
//
// What it leaves out: Debian's shim and signed GRUB. Under Secure Boot the firmware has to hold the owner's own key
// (docs/appliance.md).
//
// Start reading at Build. disk, slot and update are the formats that the builder shares with the init role, boot is that role,
// and vm starts images in QEMU for tests.
package image
