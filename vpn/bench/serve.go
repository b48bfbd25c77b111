package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"ringfence/vpn"
	"ringfence/vpn/policy"
)

// serve is our gateway in a process of its own: bench serve DIR [PROFILE].
func serve() {
	dir := os.Args[2]
	pem, _ := os.ReadFile(filepath.Join(dir, "ca.pem"))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err == nil {
		err = gateway(&cert, roots)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func gateway(cert *tls.Certificate, roots *x509.CertPool) error {
	if len(os.Args) > 3 && os.Args[3] != "" {
		f, err := os.Create(os.Args[3])
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	g, err := vpn.New(vpn.Options{
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Listen: "0.0.0.0:443", TUN: "vpn0",
		Policies:    []vpn.Policy{{ID: "p", Pool: netip.MustParsePrefix(pool), Password: true, Certificate: true, MaxSessions: 1e6, MTU: 1500, DPD: 90 * time.Second, Keepalive: 300 * time.Second}},
		Services:    []vpn.Rule{{Proto: policy.TCP, First: trafficPort, Last: trafficPort}, {Proto: policy.UDP, First: trafficPort, Last: trafficPort}},
		Certificate: func() *tls.Certificate { return cert },
		MaxSessions: 1e6, WireGuard: fmt.Sprintf("0.0.0.0:%d", wireguardPort), WireGuardKey: benchKey(0),
		VerifyUser: func(c *x509.Certificate, _ []*x509.Certificate) (string, string, error) {
			_, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return c.Subject.CommonName, "p", err
		},
		CheckPassword: func(u, p string) (string, bool) { return "p", u == user && p == password },
	})
	if err != nil {
		return err
	}
	if err := g.Start(); err != nil {
		return err
	}
	if err := g.SetWireGuardPeers(context.Background(), []vpn.WireGuardPeer{{Name: "bench", User: user, Policy: "p", Key: benchKey(1).Public()}}); err != nil {
		return err
	}
	for _, p := range g.WireGuardPeers() {
		if err := os.WriteFile(filepath.Join(os.Args[2], "wireguard-address"), []byte(p.Addr.String()), 0o600); err != nil {
			return err
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	g.Stop()
	return nil
}
