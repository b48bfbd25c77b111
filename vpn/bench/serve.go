package main

import (
	"crypto/tls"
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
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err == nil {
		err = gateway(&cert)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func gateway(cert *tls.Certificate) error {
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
		Policies:      []vpn.Policy{{ID: "p", Pool: netip.MustParsePrefix(pool), Password: true, MTU: 1500, DPD: 90 * time.Second, Keepalive: 300 * time.Second}},
		Services:      []vpn.Rule{{Proto: policy.TCP, First: trafficPort, Last: trafficPort}, {Proto: policy.UDP, First: trafficPort, Last: trafficPort}},
		Certificate:   func() *tls.Certificate { return cert },
		CheckPassword: func(u, p string) (string, bool) { return "p", u == user && p == password },
	})
	if err != nil {
		return err
	}
	if err := g.Start(); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	g.Stop()
	return nil
}
