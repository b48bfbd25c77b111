package pki_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"ringfence/pki"
	"ringfence/pki/capf"
)

// cutter breaks a connection when so many bytes have gone one way.
type cutter struct {
	net.Conn
	left  int // bytes that may still pass
	reads bool
}

var errCut = errors.New("cut")

func (c *cutter) Read(p []byte) (int, error) {
	if !c.reads {
		return c.Conn.Read(p)
	}
	if c.left == 0 {
		c.Conn.Close()
		return 0, errCut
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.reads {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(p[:min(len(p), c.left)])
	c.left -= n
	if err == nil && n < len(p) {
		c.Conn.Close()
		return n, errCut
	}
	return n, err
}

// A phone is cut off at every byte of either direction of an enrolment. Afterwards the certificate that the phone holds is
// one that is accepted, the authority's current certificate is too, and unless the phone's confirmation has arrived the
// enrolment is still due.
func TestCutAtEveryByte(t *testing.T) {
	policy := make(map[string]pki.DevicePolicy)
	for i := range 100 {
		policy[cutDevice(i)] = pki.DevicePolicy{Key: capf.P256}
	}
	b := serve(t, policy)
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		t.Fatal(err)
	}
	devices := 0
	for _, direction := range []struct {
		name  string
		reads bool
	}{{"from the phone", false}, {"to the phone", true}} {
		t.Run(direction.name, func(t *testing.T) {
			var phone string
			var holds *x509.Certificate // the phone's store
			for n := 0; ; n++ {
				if n > 4096 {
					t.Fatal("the session never ends")
				}
				if n%50 == 0 { // another phone now and then: every cut leaves a certificate on record
					phone = cutDevice(devices)
					devices++
					holds = enrol(t, b, phone, key, nil)
				}
				b.advance(time.Hour + time.Minute) // unfinished enrolments are limited by the hour
				if err := b.Schedule(t.Context(), phone, capf.Install, "test"); err != nil {
					t.Fatal(err)
				}
				before := serialOf(b, phone)
				c := &cutter{left: n, reads: direction.reads}
				stored := enrol(t, b, phone, key, c)
				if stored != nil {
					holds = stored
				}
				_, due := b.Scheduled(phone)
				current, ok := b.CurrentLSC(phone)
				if !ok {
					t.Fatalf("cut after %d bytes: no current certificate", n)
				}
				for who, cert := range map[string]*x509.Certificate{"phone": holds, "authority": current} {
					if _, err := b.VerifyDevice(cert, nil, phone); err != nil {
						t.Fatalf("cut after %d bytes: the certificate of the %s: %v", n, who, err)
					}
				}
				confirmed := serialOf(b, phone) != before
				if due == confirmed {
					t.Fatalf("cut after %d bytes: due %v, new certificate current %v", n, due, confirmed)
				}
				if confirmed && !bytes.Equal(current.Raw, holds.Raw) {
					t.Fatalf("cut after %d bytes: the phone holds another certificate than the confirmed one", n)
				}
				if c.left > 0 {
					if !confirmed {
						t.Fatal("the whole session passed and nothing is confirmed")
					}
					t.Logf("%d bytes", n-c.left)
					return
				}
			}
		})
	}
}

func cutDevice(i int) string { return fmt.Sprintf("SEP0011223300%02d", i) }

// enrol runs one enrolment without TLS, through c when it is not nil, and returns what the phone has stored.
func enrol(t *testing.T, b *bench, device string, key crypto.Signer, c *cutter) (stored *x509.Certificate) {
	t.Helper()
	near, far := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { b.ServeConn(context.Background(), far, netip.MustParseAddr("192.0.2.20")) })
	var conn net.Conn = near
	if c != nil {
		c.Conn = near
		conn = c
	}
	client := &capf.Client{
		Device: device, Progress: 1, Timeout: 10 * time.Second,
		GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil },
		Store: func(der []byte, _ crypto.Signer) (err error) {
			stored, err = x509.ParseCertificate(der)
			return err
		},
	}
	_, err := client.Run(t.Context(), conn)
	near.Close()
	wg.Wait()
	if c == nil && err != nil {
		t.Fatal(err)
	}
	return stored
}

// The same through TCP and TLS, cut below TLS, at some places of the ciphertext.
func TestCutBelowTLS(t *testing.T) {
	b := serve(t, map[string]pki.DevicePolicy{phone: {Key: capf.P256}})
	key, err := capf.GenerateKey(capf.P256)
	if err != nil {
		t.Fatal(err)
	}
	holds := enrol(t, b, phone, key, nil)
	for _, reads := range []bool{false, true} {
		for n := 0; n < 6000; n += 61 {
			b.advance(time.Hour + time.Minute)
			if err := b.Schedule(t.Context(), phone, capf.Install, "test"); err != nil {
				t.Fatal(err)
			}
			raw, err := net.Dial("tcp", b.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c := &cutter{Conn: raw, left: n, reads: reads}
			client := &capf.Client{
				Device: phone, Timeout: 10 * time.Second,
				GenerateKey: func(capf.KeyKind) (crypto.Signer, error) { return key, nil },
				Store: func(der []byte, _ crypto.Signer) (err error) {
					holds, err = x509.ParseCertificate(der)
					return err
				},
			}
			_, err = client.Run(t.Context(), tls.Client(c, &tls.Config{InsecureSkipVerify: true}))
			raw.Close()
			b.settled(t)
			if _, err := b.VerifyDevice(holds, nil, phone); err != nil {
				t.Fatalf("cut after %d bytes (reading %v): the phone's certificate: %v", n, reads, err)
			}
			if _, due := b.Scheduled(phone); !due && err != nil && c.left > 0 {
				t.Fatalf("cut after %d bytes (reading %v): %v, and not due", n, reads, err)
			}
			if c.left > 0 {
				if err != nil {
					t.Fatalf("nothing was cut: %v", err)
				}
				break
			}
		}
	}
}
