package phoneclient

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// web is the HTTP part: a TLS connection, made anew when the server closed it.
type web struct {
	o    *Options
	t    target
	conn *tls.Conn
	raw  net.Conn
	br   *bufio.Reader
}

func (w *web) close() {
	if w.conn != nil {
		w.raw.Close()
		w.conn = nil
	}
}

func (w *web) connect(ctx context.Context) error {
	if w.conn != nil {
		return nil
	}
	raw, err := w.o.Dial(ctx, "tcp", w.t.address)
	if err != nil {
		return fmt.Errorf("VPN gateway %s: %w", w.t.address, err)
	}
	if until, ok := ctx.Deadline(); ok {
		raw.SetDeadline(until)
	}
	c := tls.Client(raw, w.o.tlsConfig(w.t))
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return fmt.Errorf("VPN gateway %s: %w", w.t.address, err)
	}
	w.raw, w.conn, w.br = raw, c, bufio.NewReaderSize(io.LimitReader(c, 256<<10), 4096)
	return nil
}

// do sends one request and reads the whole answer.
func (w *web) do(ctx context.Context, method, body string, cookies []string) (*http.Response, error) {
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nX-Transcend-Version: 1\r\n", method, w.t.path, w.t.address, w.o.UserAgent)
	if len(cookies) > 0 {
		fmt.Fprintf(&b, "Cookie: %s\r\n", strings.Join(cookies, "; "))
	}
	if method == http.MethodPost {
		fmt.Fprintf(&b, "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n" + body)
	if _, err := io.WriteString(w.conn, b.String()); err != nil {
		w.close()
		return nil, fmt.Errorf("%s %s: %w", method, w.t.path, err)
	}
	res, err := http.ReadResponse(w.br, &http.Request{Method: method})
	if err != nil {
		w.close()
		return nil, fmt.Errorf("%s %s: %w", method, w.t.path, err)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10))
	res.Body.Close()
	if err != nil || res.Close {
		w.close()
	}
	return res, nil
}

// login is §4: GET tells that credentials are wanted, POST brings them.
func (w *web) login(ctx context.Context) (string, error) {
	res, err := w.do(ctx, http.MethodGet, "", nil)
	if err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: GET %s answered %s", ErrLogin, w.t.path, res.Status)
	}
	expiring, wanted := false, ""
	for _, c := range res.Cookies() {
		switch {
		case c.Name == "webvpn" && !c.Expires.IsZero():
			expiring = true
		case c.Name == "webvpnlogin":
			wanted = c.Value
		}
	}
	if !expiring || wanted == "" {
		return "", fmt.Errorf("%w: no expiring webvpn cookie or an empty webvpnlogin", ErrLogin)
	}
	body := ""
	switch w.o.Auth {
	case UserPassword:
		body = url.Values{"username": {w.o.User}, "password": {w.o.Password}, "Login": {"Login"}}.Encode()
	case PasswordOnly:
		body = url.Values{"username": {w.o.Device}, "password": {w.o.Password}, "Login": {"Login"}}.Encode()
	}
	res, err = w.do(ctx, http.MethodPost, body, []string{"webvpnlogin=" + wanted})
	if err != nil {
		return "", err
	}
	switch {
	case res.StatusCode == http.StatusUnauthorized:
		return "", fmt.Errorf("%w: %s", ErrAuth, res.Status)
	case res.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%w: POST %s answered %s", ErrLogin, w.t.path, res.Status)
	}
	for _, c := range res.Cookies() {
		if c.Name == "webvpn" && c.Value != "" {
			return c.Value, nil
		}
	}
	return "", fmt.Errorf("%w: no webvpn cookie after the credentials", ErrLogin)
}

// tunnel sends CONNECT and turns the connection into a Conn.
func (w *web) tunnel(ctx context.Context, cookie string, had netip.Addr) (*Conn, error) {
	if err := w.connect(ctx); err != nil {
		return nil, err
	}
	if w.br.Buffered() > 0 {
		return nil, fmt.Errorf("%w: bytes before CONNECT", ErrLogin)
	}
	var secret [48]byte
	rand.Read(secret[:])
	var b strings.Builder
	fmt.Fprintf(&b, "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: %s\r\nUser-Agent: %s\r\nCookie: webvpn=%s\r\n", w.t.address, w.o.UserAgent, cookie)
	fmt.Fprintf(&b, "X-CSTP-Version: 1\r\nX-CSTP-Hostname: %s\r\nX-CSTP-MTU: %d\r\nX-CSTP-Address-Type: IPv4\r\n", w.o.Hostname, w.o.MTU)
	fmt.Fprintf(&b, "X-DTLS-Master-Secret: %s\r\n", strings.ToUpper(hex.EncodeToString(secret[:])))
	if w.o.UDP && !w.o.Old {
		fmt.Fprintf(&b, "X-DTLS12-CipherSuite: %s\r\n", udpNames)
	}
	b.WriteString("X-DTLS-CipherSuite: AES256-SHA:AES128-SHA\r\n\r\n")
	if _, err := io.WriteString(w.conn, b.String()); err != nil {
		return nil, fmt.Errorf("CONNECT: %w", err)
	}
	head, err := readHead(w.conn)
	if err != nil {
		return nil, fmt.Errorf("CONNECT: %w", err)
	}
	info, err := parseGrant(head)
	if err != nil {
		return nil, err
	}
	if had.IsValid() && info.Address.Addr() != had {
		return nil, fmt.Errorf("%w: %v instead of %v", ErrNoAddress, info.Address.Addr(), had)
	}
	info.TLS = w.conn.ConnectionState()
	info.Leaf = info.TLS.PeerCertificates[0]
	info.udp.master = secret[:]
	w.raw.SetDeadline(time.Time{})
	c := newConn(w.conn, w.raw, info, cookie, w.o, w.t.host)
	w.conn = nil
	return c, nil
}

// readHead reads records until the head of the answer is whole. Nothing may follow it in its last record.
func readHead(c io.Reader) (string, error) {
	var head []byte
	buf := make([]byte, 1<<14+1)
	for {
		n, err := c.Read(buf)
		head = append(head, buf[:n]...)
		if before, after, ok := strings.Cut(string(head), "\r\n\r\n"); ok {
			if after != "" {
				return "", fmt.Errorf("%w: %d bytes behind the head of the tunnel answer", ErrRecord, len(after))
			}
			return before, nil
		}
		if err != nil {
			return "", err
		}
		if len(head) > 32<<10 {
			return "", errors.New("head of the tunnel answer does not end")
		}
	}
}

// parseGrant reads the answer to CONNECT. Header names are compared letter by letter, as clients do (§5.2).
func parseGrant(head string) (*Info, error) {
	lines := strings.Split(head, "\r\n")
	version, status, _ := strings.Cut(lines[0], " ")
	code, _, _ := strings.Cut(status, " ")
	if version != "HTTP/1.1" || code != "200" {
		reason := ""
		for _, l := range lines[1:] {
			if v, ok := strings.CutPrefix(l, "X-Reason: "); ok {
				reason = ": " + v
			}
		}
		if code == "401" {
			return nil, fmt.Errorf("%w: %s%s", ErrAuth, lines[0], reason)
		}
		return nil, fmt.Errorf("%w: %s%s", ErrRefused, lines[0], reason)
	}
	g := &Info{}
	var address, mask string
	for _, l := range lines[1:] {
		name, value, ok := strings.Cut(l, ": ")
		if !ok {
			return nil, fmt.Errorf("%w: header line without a value: %q", ErrRefused, l)
		}
		g.udp.header(name, value)
		switch name {
		case "X-CSTP-Address":
			if address == "" {
				address = value
			}
		case "X-CSTP-Netmask":
			if !strings.Contains(value, ":") {
				mask = value
			}
		case "X-CSTP-Address-IP6":
			g.Address6, _ = netip.ParsePrefix(value)
		case "X-CSTP-MTU":
			g.MTU, _ = strconv.Atoi(value)
		case "X-CSTP-DPD":
			g.DPD = seconds(value)
		case "X-CSTP-Keepalive":
			g.Keep = seconds(value)
		case "X-CSTP-DNS":
			if a, err := netip.ParseAddr(value); err == nil {
				g.DNS = append(g.DNS, a)
			}
		case "X-CSTP-Split-Include":
			if p, ok := dotted(strings.Cut(value, "/")); ok {
				g.Routes = append(g.Routes, p)
			}
		case "X-CSTP-Banner":
			g.Banner = value
		case "X-CSTP-Content-Encoding":
			return nil, fmt.Errorf("%w: compression was chosen but not asked for", ErrRefused)
		}
	}
	p, ok := dotted(address, mask, true)
	if !ok || !p.Addr().Is4() {
		return nil, fmt.Errorf("%w: X-CSTP-Address %q, X-CSTP-Netmask %q", ErrNoAddress, address, mask)
	}
	g.Address = p
	if g.MTU < 256 || g.MTU > 1500 {
		return nil, fmt.Errorf("%w: X-CSTP-MTU %d", ErrNoMTU, g.MTU)
	}
	return g, nil
}

func seconds(s string) time.Duration {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// dotted joins an address and a dotted mask.
func dotted(address, mask string, found bool) (netip.Prefix, bool) {
	a, err := netip.ParseAddr(address)
	m := net.ParseIP(mask).To4()
	if err != nil || m == nil || !found {
		return netip.Prefix{}, false
	}
	ones, bits := net.IPMask(m).Size()
	if bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, ones), true
}
