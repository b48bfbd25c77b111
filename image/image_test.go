package image

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/image/disk"
)

// RFC 4880, section 5.2.4: what is hashed is the content, the signature up to its hashed part, and a trailer.
func TestPGPSignature(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	content := []byte("kernel")
	sig, err := pgpSign(key, content)
	if err != nil {
		t.Fatal(err)
	}
	again, err := pgpSign(key, content)
	if err != nil || !bytes.Equal(sig, again) {
		t.Fatalf("two signatures differ (%v)", err)
	}
	if sig[0] != 0x89 || int(binary.BigEndian.Uint16(sig[1:])) != len(sig)-3 {
		t.Fatalf("packet % x", sig[:8])
	}
	body := sig[3:]
	hashed := 6 + int(binary.BigEndian.Uint16(body[4:]))
	unhashed := hashed + 2 + int(binary.BigEndian.Uint16(body[hashed:]))
	if !bytes.Equal(body[hashed+4:unhashed], pgpKeyID(&key.PublicKey)) {
		t.Error("the issuer is not in the unhashed part, where GRUB looks for it")
	}
	h := sha512.New()
	h.Write(content)
	h.Write(body[:hashed])
	h.Write([]byte{4, 0xff, 0, 0, 0, byte(hashed)})
	sum := h.Sum(nil)
	if !bytes.Equal(body[unhashed:unhashed+2], sum[:2]) {
		t.Error("the first bytes of the hash differ")
	}
	number := body[unhashed+4:]
	number = append(make([]byte, 256-len(number)), number...)
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA512, sum, number); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if err := MakeKeys(dir, true); err != nil {
		t.Fatal(err)
	}
	k, err := LoadKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !k.Test() || !strings.HasPrefix(k.Pub[1].Name, "TEST 2") {
		t.Errorf("names %q, %q: not marked as keys for tests", k.Pub[0].Name, k.Pub[1].Name)
	}
	for n := 1; n <= 2; n++ {
		if p, err := k.private(n); err != nil || !p.update.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Pub[n-1].Update) {
			t.Errorf("key %d: %v", n, err)
		}
	}
	if st, err := os.Stat(filepath.Join(dir, keyFile(1))); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", st.Mode(), err)
	}
	if err := MakeKeys(dir, false); err == nil {
		t.Error("keys were overwritten")
	}
	if err := os.Rename(filepath.Join(dir, keyFile(2)), filepath.Join(dir, keyFile(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := k.private(1); err == nil {
		t.Error("a private key that does not fit was taken")
	}
}

// The kernel's buffer-format document: every part begins at a multiple of four, folders come before what is in them.
func TestCPIO(t *testing.T) {
	var b bytes.Buffer
	if err := cpio(&b, []file{{"b/c", 0o644, []byte("12345")}, {"init", 0o755, []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	var names []string
	data := b.Bytes()
	hex := func(at int) (n int) {
		for _, c := range data[at : at+8] {
			n = n<<4 | int(bytes.IndexByte([]byte("0123456789abcdef"), c))
		}
		return n
	}
	for at := 0; at < len(data); {
		if string(data[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		size, length := hex(at+54), hex(at+94)
		name := string(data[at+110 : at+110+length-1])
		names = append(names, name)
		at = (at + 110 + length + 3) &^ 3
		at = (at + size + 3) &^ 3
	}
	if got, want := strings.Join(names, " "), "b b/c init TRAILER!!!"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestModulePatterns(t *testing.T) {
	for _, c := range []struct {
		rel  string
		want bool
	}{
		{"drivers/net/ethernet/intel/e1000e/e1000e.ko.xz", true}, {"drivers/net/virtio_net.ko.xz", true}, {"fs/ext4/ext4.ko.xz", true},
		{"net/netfilter/nft_ct.ko.xz", true}, {"drivers/net/wireless/intel/iwlwifi/iwlwifi.ko.xz", false}, {"fs/btrfs/btrfs.ko.xz", false}, {"sound/soundcore.ko.xz", false},
	} {
		if got := matchAny(chosen, c.rel); got != c.want {
			t.Errorf("%s: %v", c.rel, got)
		}
	}
}

func TestSeed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(16 * MiB); err != nil {
		t.Fatal(err)
	}
	if err := WriteSeed(name, nil, time.Unix(1767225600, 0)); err == nil {
		t.Error("a disk without a table was written to")
	}
	table := &disk.Table{ID: disk.NamedGUID("x"), Sectors: 16 * MiB / disk.Sector, Parts: []disk.Partition{{Name: "rf-seed", Type: disk.TypeBasic, ID: disk.NamedGUID("y"), First: 2048, Last: 2048 + 8*MiB/disk.Sector - 1}}}
	if err := table.Write(f, nil); err != nil {
		t.Fatal(err)
	}
	if err := WriteSeed(name, map[string][]byte{"ringfence.yaml": []byte("node: {}\n")}, time.Unix(1767225600, 0)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil || !bytes.Contains(b[MiB:9*MiB], []byte("node: {}\n")) {
		t.Errorf("the document is not there (%v)", err)
	}
}
