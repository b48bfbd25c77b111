package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/vpn/anyconnect/phoneclient"
)

const (
	user, password = "alice", "correct horse"
	pool           = "10.90.0.0/16"
	inner          = "10.90.0.1"
	trafficPort    = 7000
)

// yard is the two namespaces and the files of both servers.
type yard struct {
	dir, gw, cl string
	pin         string // of the server's key, as openconnect takes it
	hash        string // of its certificate, as phones take it
	profile     string
}

func newYard(profile string) (*yard, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root")
	}
	dir, err := os.MkdirTemp("", "vpnbench")
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("rb%x", os.Getpid())
	y := &yard{dir: dir, gw: id + "g", cl: id + "c", profile: profile}
	if err := y.files(); err != nil {
		return nil, err
	}
	for _, args := range []string{
		"netns add " + y.gw, "netns add " + y.cl,
		"-n " + y.gw + " link add eth0 type veth peer name eth0 netns " + y.cl,
		"-n " + y.gw + " addr add 192.0.2.1/24 dev eth0", "-n " + y.gw + " link set eth0 up", "-n " + y.gw + " link set lo up",
		"-n " + y.cl + " addr add 192.0.2.2/24 dev eth0", "-n " + y.cl + " link set eth0 up", "-n " + y.cl + " link set lo up",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			y.close()
			return nil, fmt.Errorf("ip %s: %s", args, out)
		}
	}
	return y, nil
}

func (y *yard) close() {
	_ = exec.Command("ip", "netns", "del", y.gw).Run()
	_ = exec.Command("ip", "netns", "del", y.cl).Run()
	_ = os.RemoveAll(y.dir)
}

func (y *yard) path(name string) string { return filepath.Join(y.dir, name) }

const script = `#!/bin/sh
case "$reason" in connect|reconnect)
	ip link set "$TUNDEV" up mtu "$INTERNAL_IP4_MTU"
	ip addr replace "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
	ip route replace ` + pool + ` dev "$TUNDEV"
	echo TUNNEL-READY ;;
esac
`

const ocservConf = `auth = %[2]s
ca-cert = %[1]s/ca.pem
cert-user-oid = 2.5.4.3
max-ban-score = 0
rate-limit-ms = 0
tcp-port = 443
udp-port = 443
run-as-user = root
run-as-group = root
socket-file = %[1]s/sock
server-cert = %[1]s/cert.pem
server-key = %[1]s/key.pem
isolate-workers = false
max-clients = 0
max-same-clients = 0
keepalive = 300
dpd = 90
try-mtu-discovery = false
tls-priorities = "NORMAL:%%SERVER_PRECEDENCE"
auth-timeout = 240
cookie-timeout = 300
rekey-time = 172800
rekey-method = ssl
use-occtl = false
pid-file = %[1]s/pid
device = vpns
predictable-ips = true
ipv4-network = 10.90.0.0
ipv4-netmask = 255.255.0.0
cisco-client-compat = false
dtls-legacy = true
log-level = 0
`

func (y *yard) files() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "192.0.2.1"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	y.hash = phoneclient.Hash(der)
	ca, client, err := clientFiles()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	y.pin = "pin-sha256:" + base64.StdEncoding.EncodeToString(sum[:])
	cmd := exec.Command("ocpasswd", "-c", y.path("passwd"), user)
	cmd.Stdin = strings.NewReader(password + "\n" + password + "\n")
	_ = cmd.Run() // without ocserv only our server is measured
	return errors.Join(
		os.WriteFile(y.path("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(y.path("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600),
		os.WriteFile(y.path("ca.pem"), ca, 0o600),
		os.WriteFile(y.path("client.pem"), client, 0o600),
		os.WriteFile(y.path("ocserv.conf"), fmt.Appendf(nil, ocservConf, y.dir, `"plain[passwd=`+y.dir+`/passwd]"`), 0o600),
		os.WriteFile(y.path("ocserv-cert.conf"), fmt.Appendf(nil, ocservConf, y.dir, `"certificate"`), 0o600),
		os.WriteFile(y.path("script"), []byte(script), 0o755))
}

// clientFiles are an authority and a client certificate of it with its key.
func clientFiles() (ca, client []byte, err error) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	from, till := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench CA"}, NotBefore: from, NotAfter: till, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: user}, NotBefore: from, NotAfter: till, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), caKey)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	block := func(kind string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}) }
	return block("CERTIFICATE", rootDER), append(block("CERTIFICATE", leafDER), block("PRIVATE KEY", keyDER)...), err
}

// round starts a server and a client, runs the work and returns the server's CPU time for it.
func (y *yard) round(server string, j job, n sizes) (result, time.Duration, error) {

	self, err := os.Executable()
	if err != nil {
		return result{}, 0, err
	}
	args := []string{"netns", "exec", y.gw, self, "serve", y.dir, y.profile}
	switch server {
	case anchor:
		args = []string{"netns", "exec", y.gw, self, "wireguard", y.dir, "server"}
	case ocserv:
		conf := "ocserv.conf"
		if j.client == "" {
			conf = "ocserv-cert.conf"
		}
		args = []string{"netns", "exec", y.gw, "ocserv", "-f", "-c", y.path(conf)}
	}
	srv := exec.Command("ip", args...)
	log := &lines{}
	srv.Stdout, srv.Stderr = log, log
	if err := srv.Start(); err != nil {
		return result{}, 0, err
	}
	defer func() {
		_ = srv.Process.Signal(unix.SIGTERM)
		_ = srv.Wait()
	}()
	if err := y.listening(server); err != nil {
		return result{}, 0, fmt.Errorf("%w: %s", err, log.text())
	}
	running.pid.Store(int64(srv.Process.Pid))
	running.anchor.Store(server == anchor)
	running.ocserv.Store(server == ocserv)
	if j.client != "" {
		stop, err := y.connect(j.client)
		defer stop()
		if err != nil {
			return result{}, 0, err
		}
	}
	time.Sleep(500 * time.Millisecond)
	before := cpu(srv.Process.Pid)
	r, err := j.measure(y, n)
	after := cpu(srv.Process.Pid)
	if err == nil && after == before && r.cost == 0 {
		err = errors.New("no CPU time was counted")
	}
	return r, after - before, err
}

// connect starts the client and waits until its tunnel is up.
func (y *yard) connect(kind string) (stop func(), err error) {
	if kind == "wireguard" {
		return y.connectWireGuard()
	}
	args := []string{"netns", "exec", y.cl, "openconnect", "--servercert", y.pin, "--user", user, "--passwd-on-stdin", "--non-inter", "--script", y.path("script"), "-i", "tun0", "--queue-len", "64"}
	want := "TUNNEL-READY"
	if kind == "dtls" {
		want = "Established DTLS"
	} else {
		args = append(args, "--no-dtls")
	}
	oc := exec.Command("ip", append(args, "https://192.0.2.1/")...)
	oc.Stdin = strings.NewReader(password + "\n")
	out := &lines{}
	oc.Stdout, oc.Stderr = out, out
	if err := oc.Start(); err != nil {
		return func() {}, err
	}
	stop = func() {
		_ = oc.Process.Signal(unix.SIGINT)
		_ = oc.Wait()
	}
	if !out.wait(want, 10*time.Second) || !out.wait("TUNNEL-READY", 10*time.Second) {
		return stop, fmt.Errorf("openconnect is not connected: %s", out.text())
	}
	return stop, nil
}

// listening waits until the server's port is there in its namespace.
func (y *yard) listening(server string) error {
	what := []string{"-Hltn", "sport = :443"}
	if server == anchor {
		what = []string{"-Hlun", fmt.Sprintf("sport = :%d", wireguardPort)}
	}
	for range 100 {
		out, _ := exec.Command("ip", append([]string{"netns", "exec", y.gw, "ss"}, what...)...).Output()
		if len(out) > 0 {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the server does not listen")
}

// family is a process and all its descendants.
func family(pid int) []int {
	kids := map[int][]int{}
	ents, _ := os.ReadDir("/proc")
	for _, e := range ents {
		if p, err := strconv.Atoi(e.Name()); err == nil {
			if f := stat(p); len(f) > 1 {
				parent, _ := strconv.Atoi(f[1])
				kids[parent] = append(kids[parent], p)
			}
		}
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, kids[all[i]]...)
	}
	return all
}

// stat is /proc/PID/stat behind the name.
func stat(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+2:]))
}

// cpu is the time used by a process and all its descendants, and by those that have ended.
func cpu(pid int) time.Duration {
	var ticks int64
	for _, p := range family(pid) {
		if f := stat(p); len(f) > 14 {
			for _, i := range []int{11, 12, 13, 14} {
				v, _ := strconv.ParseInt(f[i], 10, 64)
				ticks += v
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// in runs f with its thread in a namespace.
func in(ns string, f func()) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		h, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(h.Fd()), unix.CLONE_NEWNET)
			h.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	return <-done
}
