package web

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/time/rate"

	"ringfence/pki/ocsp"
)

// Authority is what is published.
type Authority interface {
	CRL(ctx context.Context) ([]byte, error)
	CRLOf(ctx context.Context, keyID string) ([]byte, error)
	AuthorityOf(keyID string) (*x509.Certificate, bool)
	Issuers() []*x509.Certificate
	Roots() []*x509.Certificate
	CRLs(ctx context.Context) ([][]byte, error)
	// OCSP answers a request; the error is an ocsp.Refused whose answer is given all the same.
	OCSP(request []byte) ([]byte, error)
}

// Answers that are signed anew cost about a millisecond each; more than this are put off.
const (
	answersPerSecond = 200
	answersBurst     = 400
)

// Published serves an authority:
//
//	GET  /crl.der            list of the present issuing CA
//	GET  /crl/KEYID.crl      list of any CA (KEYID: hexadecimal digits of its key identifier)
//	GET  /crl.pem            all lists, for RADIUS servers and the like
//	GET  /ca/KEYID.cer       a CA certificate, DER
//	GET  /ca.pem             all CA certificates
//	POST /ocsp               RFC 6960 A.1
//	GET  /ocsp/BASE64        the same, for caches
//
// More maps further paths to their handlers.
type Published struct {
	authority Authority
	log       *slog.Logger
	limit     *rate.Limiter
	more      map[string]http.Handler
}

// NewPublished makes the handler. It looks at the path as it was sent: base64 may hold two slashes in a row.
func NewPublished(a Authority, more map[string]http.Handler, log *slog.Logger) *Published {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Published{authority: a, log: log.With("component", "certs"), limit: rate.NewLimiter(answersPerSecond, answersBurst), more: more}
}

// ServeHTTP implements http.Handler.
func (p *Published) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	if h := p.more[path]; h != nil {
		h.ServeHTTP(w, r)
		return
	}
	if path == "/ocsp" || path == "/ocsp/" || strings.HasPrefix(path, "/ocsp/") {
		p.ocsp(w, r, strings.TrimPrefix(strings.TrimPrefix(path, "/ocsp"), "/"))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	switch dir, name, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); {
	case dir == "crl.der" && name == "":
		der, err := p.authority.CRL(r.Context())
		p.send(w, r, "application/pkix-crl", der, err)
	case dir == "crl.pem" && name == "":
		lists, err := p.authority.CRLs(r.Context())
		var b []byte
		for _, der := range lists {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})...)
		}
		p.send(w, r, "application/x-pem-file", b, err)
	case dir == "crl" && strings.HasSuffix(name, ".crl"):
		der, err := p.authority.CRLOf(r.Context(), strings.TrimSuffix(name, ".crl"))
		p.send(w, r, "application/pkix-crl", der, err)
	case dir == "ca" && strings.HasSuffix(name, ".cer"):
		ca, ok := p.authority.AuthorityOf(strings.TrimSuffix(name, ".cer"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		p.send(w, r, "application/pkix-cert", ca.Raw, nil)
	case dir == "ca.pem" && name == "":
		var b []byte
		for _, c := range append(p.authority.Issuers(), p.authority.Roots()...) {
			b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
		}
		p.send(w, r, "application/pem-certificate-chain", b, nil)
	default:
		http.NotFound(w, r)
	}
}

func (p *Published) send(w http.ResponseWriter, r *http.Request, kind string, body []byte, err error) {
	if err != nil {
		p.log.Info("not published", "path", r.URL.Path, "peer", r.RemoteAddr, "err", err)
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "max-age=0, no-cache") // a revocation is to be seen at once
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client may be gone already
	}
}

// ocsp answers by GET (encoded is what follows the path) or POST.
func (p *Published) ocsp(w http.ResponseWriter, r *http.Request, encoded string) {
	var request []byte
	var err error
	switch {
	case r.Method == http.MethodPost && encoded == "":
		request, err = io.ReadAll(http.MaxBytesReader(w, r.Body, ocsp.MaxRequest))
	case r.Method == http.MethodGet && encoded != "" && len(encoded) <= 2*ocsp.MaxRequest:
		if encoded, err = url.PathUnescape(encoded); err == nil {
			request, err = base64.StdEncoding.DecodeString(encoded)
		}
	default:
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "ask by POST, or by GET /ocsp/BASE64", http.StatusMethodNotAllowed)
		return
	}
	answer := ocsp.Malformed.Marshal()
	switch {
	case err != nil:
	case !p.limit.Allow():
		answer = ocsp.TryLater.Marshal()
	default:
		if answer, err = p.authority.OCSP(request); err != nil {
			p.log.Debug("OCSP refused", "peer", r.RemoteAddr, "err", err)
		}
	}
	p.send(w, r, "application/ocsp-response", answer, nil)
}
