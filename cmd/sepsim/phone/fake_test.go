package phone

import (
	"context"
	"crypto"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/trust"
	"ringfence/trust/enc"
	"ringfence/trust/sgn"
	"ringfence/trust/tlv"
)

// The servers of this file are what a phone meets, made of the codecs alone so that each can be made wrong.

const device = "SEP001122AA0001"

var loopback = netip.MustParseAddr("127.0.0.1")

func signer(t testing.TB, name string) trust.Signer {
	t.Helper()
	b, err := os.ReadFile("testdata/keys/" + name + ".pem")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		t.Fatal(err)
	}
	return trust.Signer{Cert: pair.Leaf, Key: pair.PrivateKey.(crypto.Signer)}
}

func pairOf(s trust.Signer) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{s.Cert.Raw}, PrivateKey: s.Key, Leaf: s.Cert}
}

// world is an appliance of fakes around one phone.
type world struct {
	t       *testing.T
	sast    trust.Signer
	tftp    trust.Signer
	capfID  trust.Signer
	ccm     trust.Signer
	tvsID   trust.Signer
	entries []trust.Entry
	version tlv.Version

	files *files
	capf  *fakeCAPF
	tvs   *fakeTVS
	pbx   *pbx

	xml map[string]string // replacements in the device file
	phn *Phone
	log *events
	opt Options
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, sast: signer(t, "sast-1"), tftp: signer(t, "tftp"), capfID: signer(t, "capf"),
		ccm: signer(t, "ccm"), tvsID: signer(t, "tvs"), xml: make(map[string]string), log: &events{t: t}}
	w.entries = []trust.Entry{
		{Cert: w.sast.Cert, Role: trust.SAST}, {Cert: w.tftp.Cert, Role: trust.TFTP}, {Cert: w.capfID.Cert, Role: trust.CAPF},
		{Cert: w.ccm.Cert, Role: trust.CCM}, {Cert: w.tvsID.Cert, Role: trust.TVS},
	}
	w.files = newFiles(t)
	w.capf = newFakeCAPF(t, w)
	w.tvs = newFakeTVS(t, w)
	w.opt = Options{
		Device: device, Model: "8851", Server: loopback, Dir: t.TempDir(),
		HTTPPort: w.files.httpPort, HTTPSPort: 1, TFTPPort: w.files.tftpPort, Local: loopback, StayDown: true,
		Timers: Timers{TFTP: 50 * time.Millisecond, Transaction: 5 * time.Second, Connect: 5 * time.Second,
			CAPFRetry: 10 * time.Millisecond, KeepRetry: 20 * time.Millisecond},
		Events: w.log.add,
	}
	return w
}

// phone makes the phone at the first call; later calls give the same one.
func (w *world) phone() *Phone {
	w.t.Helper()
	if w.phn == nil {
		p, err := New(w.opt)
		if err != nil {
			w.t.Fatal(err)
		}
		w.phn = p
		w.t.Cleanup(p.Stop)
	}
	return w.phn
}

// reboot switches the phone off and on again: a new one with the old flash.
func (w *world) reboot() *Phone {
	w.t.Helper()
	if w.phn != nil {
		w.phn.Stop()
		w.phn = nil
	}
	return w.phone()
}

func (w *world) publishITL(s trust.Signer, entries ...trust.Entry) {
	w.t.Helper()
	if len(entries) == 0 {
		entries = w.entries
	}
	b, err := tlv.Build(tlv.List{Version: w.version, Digest: trust.SHA512, Filename: tlv.ITLFile, Time: time.Unix(1700000000, 0), Entries: entries}, s)
	if err != nil {
		w.t.Fatal(err)
	}
	w.files.put("ITL"+device+".tlv", b)
}

func (w *world) sign(name string, content []byte) []byte {
	w.t.Helper()
	b, err := sgn.Sign(name, content, w.tftp, trust.SHA512, time.Unix(1700000000, 0))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// publish offers list, stub or plain file, encrypted file once there is an LSC, dial template and soft keys.
func (w *world) publish() {
	w.t.Helper()
	w.publishITL(w.sast)
	full := []byte(w.deviceFile())
	if strings.Contains(string(full), "<encrConfig>true") {
		w.publishSealed(full)
	} else {
		w.files.put(device+".cnf.xml.sgn", w.sign(device+".cnf.xml.sgn", full))
	}
	dial := []byte(`<dialTemplate><TEMPLATE match="3.." timeout="0"/><TEMPLATE match="112" timeout="0" rewrite="0112"/></dialTemplate>`)
	w.files.put("dial.xml.sgn", w.sign("dial.xml.sgn", dial))
	keys := []byte(`<softKeyCfg><typeSoftKey/><softKeySets><softKeySet id="On Hook"><softKey keyID="NewCall"/></softKeySet></softKeySets></softKeyCfg>`)
	w.files.put("keys.xml.sgn", w.sign("keys.xml.sgn", keys))
}

func (w *world) publishSealed(full []byte) {
	w.t.Helper()
	hash := ""
	w.capf.mu.Lock()
	lsc := w.capf.issued
	w.capf.mu.Unlock()
	if lsc != nil {
		hash = trust.ConfigHash(lsc.Raw)
		b, err := enc.Seal(device+".cnf.xml.enc.sgn", full, lsc, w.tftp, trust.SHA512, time.Unix(1700000000, 0))
		if err != nil {
			w.t.Fatal(err)
		}
		w.files.put(device+".cnf.xml.enc.sgn", b)
	}
	stub, err := enc.Stub(full, hash)
	if err != nil {
		w.t.Fatal(err)
	}
	w.files.put(device+".cnf.xml.sgn", w.sign(device+".cnf.xml.sgn", stub))
}

const deviceTemplate = `<?xml version="1.0" encoding="UTF-8"?>
<device>
  <fullConfig>true</fullConfig>
  <deviceProtocol>SIP</deviceProtocol>
  <devicePool>
    <dateTimeSetting><dateTemplate>D.M.YY</dateTemplate><timeZone>W. Europe Standard/Daylight Time</timeZone></dateTimeSetting>
    <callManagerGroup><members><member priority="0"><callManager>
      <ports><sipPort>@sip@</sipPort><securedSipPort>@sips@</securedSipPort></ports><processNodeName>127.0.0.1</processNodeName>
    </callManager></member></members></callManagerGroup>
  </devicePool>
  <TVS><members><member priority="0"><port>@tvs@</port><address>127.0.0.1</address></member></members></TVS>
  @vpn@
  <sipProfile>
    <sipProxies><registerWithProxy>true</registerWithProxy></sipProxies>
    <sipCallFeatures><remoteCcEnable>true</remoteCcEnable><semiAttendedTransfer>true</semiAttendedTransfer></sipCallFeatures>
    <sipStack><timerRegisterExpires>3600</timerRegisterExpires><remotePartyID>true</remotePartyID></sipStack>
    <kpml>0</kpml><callStats>true</callStats><phoneLabel>Desk</phoneLabel>
    <sipLines>
      <line button="1" lineIndex="1"><featureID>9</featureID><featureLabel>301</featureLabel><proxy>USECALLMANAGER</proxy><port>5060</port>
        <name>301</name><displayName>Ada</displayName>@contact@<authName>301</authName><authPassword>k7Qm2Vx9Rt</authPassword>
        <maxNumCalls>5</maxNumCalls><busyTrigger>2</busyTrigger></line>
      <line button="2" lineIndex="2"><featureID>9</featureID><proxy>USECALLMANAGER</proxy><port>5060</port><name>311</name></line>
      <line button="3"><featureID>21</featureID><featureLabel>Ben</featureLabel><featureOptionMask>1</featureOptionMask><speedDialNumber>302</speedDialNumber></line>
    </sipLines>
    <dialTemplate>dial.xml</dialTemplate>
    <softKeyFile>keys.xml</softKeyFile>
  </sipProfile>
  <vendorConfig><webAccess>0</webAccess><sshAccess>1</sshAccess>@vendor@</vendorConfig>
  <versionStamp>6b0e5d1c-3f52-4f8e-9a0f-2f6f1d7b9c11</versionStamp>
  <deviceSecurityMode>@mode@</deviceSecurityMode>
  <transportLayerProtocol>@transport@</transportLayerProtocol>
  <capfAuthMode>@capfmode@</capfAuthMode>
  <capfList>@capf@</capfList>
  <encrConfig>@encr@</encrConfig>
</device>
`

func (w *world) deviceFile() string {
	values := map[string]string{
		"sip": "1", "sips": "1", "tvs": fmt.Sprint(w.tvs.port), "vpn": "", "contact": "", "vendor": "", "mode": "1", "transport": "1",
		"capfmode": "2", "capf": "", "encr": "false",
	}
	if w.pbx != nil {
		values["sip"], values["sips"] = fmt.Sprint(w.pbx.port), fmt.Sprint(w.pbx.tlsPort)
	}
	for k, v := range w.xml {
		values[k] = v
	}
	s := deviceTemplate
	for k, v := range values {
		s = strings.ReplaceAll(s, "@"+k+"@", v)
	}
	return s
}

// encrypted makes the world one of encrypted files, CAPF and TLS.
func (w *world) encrypted() *world {
	w.xml["encr"], w.xml["mode"], w.xml["transport"] = "true", "3", "3"
	w.xml["capf"] = fmt.Sprintf("<capf><phonePort>%d</phonePort><processNodeName>127.0.0.1</processNodeName></capf>", w.capf.port)
	return w
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	w.t.Cleanup(cancel)
	return ctx
}

func (w *world) boot() *Phone {
	w.t.Helper()
	p := w.phone()
	if err := p.Boot(w.ctx()); err != nil {
		w.t.Fatalf("boot: %v", err)
	}
	return p
}

// up boots and registers at a fake call server, and waits for its burst.
func (w *world) up() *Phone {
	w.t.Helper()
	if w.pbx == nil {
		w.pbx = newPBX(w.t, w)
	}
	w.publish()
	p := w.boot()
	if err := p.Register(w.ctx()); err != nil {
		w.t.Fatalf("register: %v", err)
	}
	if err := p.WaitReady(w.ctx()); err != nil {
		w.t.Fatalf("no burst: %v", err)
	}
	return p
}

// refused fails unless the phone has refused exactly that, at least once; also are refusals that follow from it.
func (w *world) refused(kind Kind, also ...Kind) {
	w.t.Helper()
	got := w.phone().Refusals()
	if got[kind] == 0 {
		w.t.Fatalf("phone refused %v, want %s", got, kind)
	}
	delete(got, kind)
	for _, k := range also {
		delete(got, k)
	}
	if len(got) > 0 {
		w.t.Errorf("phone also refused %v", got)
	}
}

func (w *world) noRefusals() {
	w.t.Helper()
	if got := w.phone().Refusals(); len(got) > 0 {
		w.t.Errorf("phone refused %v", got)
	}
	if got := w.phone().Remarks(); len(got) > 0 {
		w.t.Errorf("phone remarks: %q", got)
	}
}

// events keeps what the phone told, and shows it when the test fails.
type events struct {
	t  *testing.T
	mu sync.Mutex
	l  []Event
}

func (e *events) add(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.l = append(e.l, ev)
	e.t.Log(ev)
}

func (e *events) has(step, text string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.l {
		if ev.Step == step && strings.Contains(ev.String(), text) {
			return true
		}
	}
	return false
}

// files serves a set of files by HTTP and TFTP and notes what was asked for.
type files struct {
	httpPort, tftpPort int

	mu    sync.Mutex
	set   map[string][]byte
	asked []string
	serve func(w http.ResponseWriter, name string) bool // true: answered
}

func newFiles(t *testing.T) *files {
	f := &files{set: make(map[string][]byte)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		b, ok := f.get("http " + name)
		f.mu.Lock()
		serve := f.serve
		f.mu.Unlock()
		switch {
		case serve != nil && serve(w, name):
		case !ok:
			http.NotFound(w, r)
		default:
			w.Header().Set("Content-Length", fmt.Sprint(len(b)))
			_, _ = w.Write(b)
		}
	}))
	t.Cleanup(srv.Close)
	f.httpPort = srv.Listener.Addr().(*net.TCPAddr).Port
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	f.tftpPort = c.LocalAddr().(*net.UDPAddr).Port
	go f.tftp(c)
	return f
}

func (f *files) put(name string, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if b == nil {
		delete(f.set, name)
		return
	}
	f.set[name] = b
}

func (f *files) get(request string) ([]byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, request)
	_, name, _ := strings.Cut(request, " ")
	b, ok := f.set[name]
	return b, ok
}

func (f *files) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.asked, "\n")
}

func (f *files) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = nil
}

// tftp serves one transfer after the other, 512 bytes or the block size asked for.
func (f *files) tftp(c *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		fields := strings.Split(string(buf[2:n]), "\x00")
		b, ok := f.get("tftp " + fields[0])
		s, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)), net.UDPAddrFromAddrPort(from))
		if err != nil {
			return
		}
		if !ok {
			_, _ = s.Write([]byte("\x00\x05\x00\x01File not found\x00"))
			s.Close()
			continue
		}
		size := 512
		_ = s.SetDeadline(time.Now().Add(5 * time.Second))
		if len(fields) > 4 && fields[2] == "blksize" {
			fmt.Sscan(fields[3], &size)
			_, _ = s.Write([]byte("\x00\x06blksize\x00" + fields[3] + "\x00"))
			_, _ = s.Read(buf)
		}
		for block := uint16(1); ; block++ {
			k := min(size, len(b))
			_, _ = s.Write(append(binary.BigEndian.AppendUint16([]byte{0, 3}, block), b[:k]...))
			if _, err := s.Read(buf); err != nil {
				break
			}
			if b = b[k:]; k < size {
				break
			}
		}
		s.Close()
	}
}

// listenTLS accepts connections for a service, one goroutine each.
func listenTLS(t *testing.T, id trust.Signer, client bool, serve func(c *tls.Conn)) int {
	t.Helper()
	conf := &tls.Config{Certificates: []tls.Certificate{pairOf(id)}, MinVersion: tls.VersionTLS10, DynamicRecordSizingDisabled: true,
		CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_RSA_WITH_AES_128_CBC_SHA}}
	if client {
		conf.ClientAuth = tls.RequireAnyClientCert
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { ln.Close(); cancel(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { c.Close() })()
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(30 * time.Second))
				if c.(*tls.Conn).Handshake() == nil {
					serve(c.(*tls.Conn))
				}
			})
		}
	})
	return ln.Addr().(*net.TCPAddr).Port
}
