package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"ringfence/vpn"
)

const (
	wireguardPort = 51821
	wireguardMTU  = 1420
	// firstClient is the address of wireguard-go's client where wireguard-go is the server.
	firstClient = "10.90.0.2"
)

// benchKey is the private key of the server (0) or of the client (1).
func benchKey(of byte) (k vpn.WireGuardKey) {
	k = sha256.Sum256([]byte{'b', of})
	k[0] &= 248
	k[31] = k[31]&127 | 64
	return k
}

// wireguard is wireguard-go in a process of its own: bench wireguard DIR server|client.
func wireguard() {
	if err := wireguardDevice(os.Args[2], os.Args[3] == "server"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func wireguardDevice(dir string, server bool) error {
	mine, peer, name := benchKey(1), benchKey(0).Public(), "tun0"
	address, err := os.ReadFile(filepath.Join(dir, "wireguard-address"))
	if err != nil || server {
		address = []byte(firstClient)
	}
	conf := fmt.Sprintf("endpoint=192.0.2.1:%d\nallowed_ip=%s\n", wireguardPort, pool)
	addr := string(address) + "/32"
	if server {
		mine, peer, name = benchKey(0), benchKey(1).Public(), "wg0"
		conf, addr = "allowed_ip="+firstClient+"/32\n", inner+"/32"
	}
	t, err := tun.CreateTUN(name, wireguardMTU)
	if err != nil {
		return err
	}
	d := device.NewDevice(t, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	defer d.Close()
	port := ""
	if server {
		port = fmt.Sprintf("listen_port=%d\n", wireguardPort)
	}
	if err := d.IpcSet("private_key=" + hex.EncodeToString(mine[:]) + "\n" + port + "public_key=" + hex.EncodeToString(peer[:]) + "\n" + conf); err != nil {
		return err
	}
	if err := d.Up(); err != nil {
		return err
	}
	for _, args := range []string{"addr replace " + addr + " dev " + name, "link set " + name + " up", "route replace " + pool + " dev " + name} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %s", args, out)
		}
	}
	fmt.Println("TUNNEL-READY")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}

// connectWireGuard starts wireguard-go as the client.
func (y *yard) connectWireGuard() (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return func() {}, err
	}
	if running.anchor.Load() {
		_ = os.Remove(y.path("wireguard-address"))
	}
	c := exec.Command("ip", "netns", "exec", y.cl, self, "wireguard", y.dir, "client")
	out := &lines{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		return func() {}, err
	}
	stop = func() {
		_ = c.Process.Signal(unix.SIGTERM)
		_ = c.Wait()
	}
	if !out.wait("TUNNEL-READY", 10*time.Second) {
		return stop, fmt.Errorf("wireguard-go is not connected: %s", out.text())
	}
	return stop, nil
}
