package phone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

const maxFile = 1 << 20 // the largest configuration file that the phone has room for

// fetch gets one file from the provisioning server: HTTP 6970 where the model has it, else and when that does not help TFTP
// (provisioning §1: per file). errNotFound means that the server said there is none.
func (p *Phone) fetch(ctx context.Context, name string) ([]byte, error) {
	var viaHTTP error
	if p.man.http {
		b, err := p.httpGet(ctx, "http", name, nil)
		if err == nil {
			return b, nil
		}
		if _, ok := errors.AsType[*Refusal](err); ok {
			return nil, err
		}
		viaHTTP = err
	}
	b, err := tftpGet(ctx, p.net(), netip.AddrPortFrom(p.opt.Server, uint16(p.opt.TFTPPort)), name, p.blockSize(), p.opt.Timers.TFTP)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, errNotFound), errors.Is(viaHTTP, errNotFound):
		return nil, errNotFound
	case viaHTTP != nil:
		return nil, fmt.Errorf("%w; %w", viaHTTP, err)
	}
	return nil, err
}

// blockSize is 0 (plain requests of 512 bytes, as recorded from a 7962) except where the model also has the newer client.
func (p *Phone) blockSize() int {
	if p.man.http {
		return 1024
	}
	return 0
}

// httpGet asks for one file. The answers that provisioning §3.1 forbids are refused: redirects, chunked or compressed
// bodies, bodies without length.
func (p *Phone) httpGet(ctx context.Context, scheme, name string, conf *tls.Config) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opt.Timers.HTTP)
	defer cancel()
	port := p.opt.HTTPPort
	if scheme == "https" {
		port = p.opt.HTTPSPort
	}
	addr := netip.AddrPortFrom(p.opt.Server, uint16(port))
	n := p.net()
	tr := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return n.DialTCP(ctx, addr) },
		TLSClientConfig:    conf,
		DisableKeepAlives:  true,
		DisableCompression: true,
	}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	u := url.URL{Scheme: scheme, Host: net.JoinHostPort(p.opt.Server.String(), strconv.Itoa(port)), Path: "/" + name}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for %s: %w", name, err)
	}
	req.Header.Set("User-Agent", "Cisco/"+p.man.product)
	res, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%s %d: get %s: %w", scheme, port, name, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusNotFound:
		return nil, errNotFound
	case res.StatusCode/100 == 3:
		return nil, p.refused(StepFile, refuse(FileTransport, nil, "%s: redirect %d", name, res.StatusCode))
	case res.StatusCode != http.StatusOK:
		p.remark("%s answered with HTTP status %d where 404 or 200 is due", name, res.StatusCode)
		return nil, fmt.Errorf("%s %d: get %s: %s", scheme, port, name, res.Status)
	case res.ContentLength < 0:
		return nil, p.refused(StepFile, refuse(FileTransport, nil, "%s: body without Content-Length", name))
	case res.Header.Get("Content-Encoding") != "":
		return nil, p.refused(StepFile, refuse(FileTransport, nil, "%s: body is %s", name, res.Header.Get("Content-Encoding")))
	case res.ContentLength > maxFile:
		return nil, p.refused(StepFile, refuse(FileTransport, nil, "%s: %d bytes", name, res.ContentLength))
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxFile))
	if err != nil {
		return nil, fmt.Errorf("%s %d: read %s: %w", scheme, port, name, err)
	}
	if strings.HasSuffix(name, ".tlv") && len(b) > 0 && b[0] == '<' {
		// tlv §6: a page of HTML with status 200 in place of "not found" would be parsed as a list.
		p.remark("%s answered with a page of text", name)
	}
	return b, nil
}
