package pki_test

import (
	"crypto"
	"fmt"
	"syscall"
	"testing"
	"time"

	"ringfence/pki"
	"ringfence/pki/capf"
)

// cpu is the processor time of this process so far: server and phones together.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEnrol is one enrolment with a new TLS connection, the phone's key made beforehand, state in memory.
func BenchmarkEnrol(b *testing.B) {
	for _, kind := range []capf.KeyKind{capf.RSA2048, capf.P256} {
		b.Run(string(kind), func(b *testing.B) {
			key, err := capf.GenerateKey(kind)
			if err != nil {
				b.Fatal(err)
			}
			policy := make(map[string]pki.DevicePolicy)
			for i := range 20000 {
				policy[fmt.Sprintf("SEP%012X", i)] = pki.DevicePolicy{Key: kind}
			}
			s := serve(b, policy)
			start, n := cpu(b), 0
			for b.Loop() {
				c, err := s.connect(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				client := &capf.Client{
					Device: fmt.Sprintf("SEP%012X", n), GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil },
				}
				n++
				if res, err := client.Run(b.Context(), c); err != nil || res.Reason != capf.ReasonDone {
					b.Fatalf("%+v, %v", res, err)
				}
			}
			b.ReportMetric(float64((cpu(b)-start).Microseconds())/1000/float64(n), "cpu-ms/enrolment")
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "enrolments/s")
		})
	}
}

// BenchmarkNothingDue is the session of every phone at every start.
func BenchmarkNothingDue(b *testing.B) {
	s := serve(b, map[string]pki.DevicePolicy{phone: {Key: capf.P256}})
	c, err := s.connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if res, err := (&capf.Client{Device: phone}).Run(b.Context(), c); err != nil || res.Reason != capf.ReasonDone {
		b.Fatalf("%+v, %v", res, err)
	}
	start, n := cpu(b), 0
	for b.Loop() {
		c, err := s.connect(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		n++
		if res, err := (&capf.Client{Device: phone}).Run(b.Context(), c); err != nil || res.Reason != capf.ReasonNothing {
			b.Fatalf("%+v, %v", res, err)
		}
	}
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/1000/float64(n), "cpu-ms/session")
}

// BenchmarkVerifyDevice is what SIP and VPN pay for each client certificate.
func BenchmarkVerifyDevice(b *testing.B) {
	s := serve(b, map[string]pki.DevicePolicy{phone: {Key: capf.P256}})
	c, err := s.connect(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := (&capf.Client{Device: phone}).Run(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	cert, ok := s.CurrentLSC(phone)
	if !ok {
		b.Fatal("no certificate")
	}
	for b.Loop() {
		if _, err := s.VerifyDevice(cert, nil, phone); err != nil {
			b.Fatal(err)
		}
	}
}
