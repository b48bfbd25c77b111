package phoneclient

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v2"

	"ringfence/vpn/cstp"
)

// What newer phones list for DTLS 1.2 by resumption (§7.2, §10). Old ones list the legacy names only; that kind has no
// independent client and stays on TCP here.
var udpSuites = map[string]dtls.CipherSuiteID{
	"ECDHE-RSA-AES256-GCM-SHA384": dtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES128-GCM-SHA256": dtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
}

const udpNames = "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"

// udpGrant is what the server agreed for UDP.
type udpGrant struct {
	session []byte
	port    int
	cipher  string // DTLS 1.2 name
	dpd     time.Duration
	master  []byte // ours, sent with CONNECT
}

// header takes a header line of the tunnel answer.
func (g *udpGrant) header(name, value string) {
	switch name {
	case "X-DTLS-Session-ID":
		if b, err := hex.DecodeString(value); err == nil && len(b) == 32 {
			g.session = b
		}
	case "X-DTLS-Port":
		g.port, _ = strconv.Atoi(value)
	case "X-DTLS12-CipherSuite":
		g.cipher = value
	case "X-DTLS-DPD":
		g.dpd = seconds(value)
	}
}

// udp is the UDP channel of a tunnel.
type udp struct {
	conn  *dtls.Conn
	heard atomic.Int64
}

// resumption gives pion the session to resume.
type resumption struct{ s dtls.Session }

func (r resumption) Set([]byte, dtls.Session) error   { return nil }
func (r resumption) Get([]byte) (dtls.Session, error) { return r.s, nil }
func (r resumption) Del([]byte) error                 { return nil }

// unused is a certificate that pion wants to have for these suites; a resumption never shows it.
var unused = sync.OnceValues(func() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
})

// errNoUDP says that the server agreed no channel that this client can bring up.
var errNoUDP = errors.New("no UDP channel was agreed")

// bringUpUDP does the handshake and then reads until the channel is dead. Payload goes over it meanwhile.
func (t *Conn) bringUpUDP(ctx context.Context, o *Options, g udpGrant, host string) error {
	id, ok := udpSuites[g.cipher]
	if !ok || g.session == nil {
		return errNoUDP
	}
	if g.port != 443 && !o.AnyUDPPort {
		return fmt.Errorf("%w: phones use port 443 only, not %d", errNoUDP, g.port)
	}
	cert, err := unused()
	if err != nil {
		return err
	}
	raw, err := o.DialUDP(ctx, "udp", net.JoinHostPort(host, strconv.Itoa(g.port)))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	c, err := dtls.ClientWithContext(ctx, raw, &dtls.Config{CipherSuites: []dtls.CipherSuiteID{id}, InsecureSkipVerify: true, ExtendedMasterSecret: dtls.DisableExtendedMasterSecret,
		Certificates: []tls.Certificate{cert}, SessionStore: resumption{dtls.Session{ID: g.session, Secret: g.master}}})
	if err != nil {
		raw.Close()
		return err
	}
	u := &udp{conn: c}
	u.heard.Store(time.Now().UnixNano())
	t.udp.Store(u)
	defer func() {
		t.udp.CompareAndSwap(u, nil)
		_ = c.SetReadDeadline(time.Time{}) // pion keeps a goroutine for a deadline until it passes
		c.Close()
	}()
	stop := context.AfterFunc(t.group.Context(), func() { c.Close() })
	defer stop()
	return t.readUDP(u, g.dpd)
}

// readUDP reads datagrams and probes a silent server.
func (t *Conn) readUDP(u *udp, dpd time.Duration) error {
	buf := make([]byte, 4096)
	wait := dpd
	if wait <= 0 {
		wait = 30 * time.Second
	}
	for {
		u.conn.SetReadDeadline(time.Now().Add(wait))
		n, err := u.conn.Read(buf)
		var ne net.Error
		if errors.As(err, &ne) && ne.Timeout() {
			if dpd > 0 && time.Since(time.Unix(0, u.heard.Load())) >= 2*dpd {
				return ErrDead
			}
			if err := u.write(cstp.DPDRequest, nil); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		now := time.Now().UnixNano()
		u.heard.Store(now)
		t.heard.Store(now)
		if n == 0 {
			continue
		}
		switch p := buf[1:n]; cstp.Type(buf[0]) {
		case cstp.Data:
			t.stats.udpPackets.Add(1)
			if err := t.frame(cstp.Frame{Type: cstp.Data, Payload: p}); err != nil {
				return err
			}
		case cstp.DPDRequest:
			t.stats.probes.Add(1)
			if err := u.write(cstp.DPDResponse, p); err != nil {
				return err
			}
		}
	}
}

func (u *udp) write(typ cstp.Type, payload []byte) error {
	_, err := u.conn.Write(append([]byte{byte(typ)}, payload...))
	return err
}
