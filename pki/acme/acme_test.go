package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a State.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func (s *memory) Get(k string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.m[k]
	return v, ok
}

func (s *memory) Scan(prefix string, fn func(string, []byte) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range s.m {
		if strings.HasPrefix(k, prefix) && !fn(k, v) {
			return
		}
	}
}

func (s *memory) Write(_ context.Context, set map[string][]byte, del ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range set {
		s.m[k] = v
	}
	for _, k := range del {
		delete(s.m, k)
	}
	return nil
}

// world is a server with an authority that signs by itself, and a web server that holds proofs.
type world struct {
	t      *testing.T
	s      *Server
	state  *memory
	now    time.Time
	owners map[string]string
	gone   []string
	proofs sync.Map // path to content
	url    string
	http   *http.Client
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, state: &memory{m: map[string][]byte{}}, now: time.Now(), owners: map[string]string{}}
	site := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		v, ok := w.proofs.Load(r.URL.Path)
		if !ok {
			http.NotFound(rw, r)
			return
		}
		if to, ok := strings.CutPrefix(v.(string), "to "); ok {
			http.Redirect(rw, r, to, http.StatusFound)
			return
		}
		_, _ = io.WriteString(rw, v.(string))
	}))
	t.Cleanup(site.Close)
	_, port, _ := net.SplitHostPort(site.Listener.Addr().String())
	o := Options{State: w.state, Domains: []string{"web.example.net", "*.example.com"}, Resolver: serveDNS(t), httpPort: port, tlsPort: "9",
		Now: func() time.Time { return w.now },
		Issue: func(_ context.Context, pub crypto.PublicKey, names []string, account string) ([]byte, error) {
			key := newKey(t)
			serial := big.NewInt(int64(len(w.owners) + 1))
			c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
			der, err := x509.CreateCertificate(rand.Reader, c, c, pub, key)
			w.owners[serial.String()] = account
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), err
		},
		Owner: func(c *x509.Certificate) string { return w.owners[c.SerialNumber.String()] },
		Revoke: func(_ context.Context, c *x509.Certificate, reason int) error {
			w.gone = append(w.gone, fmt.Sprint(c.SerialNumber, " ", reason))
			return nil
		},
	}
	for _, f := range change {
		f(&o)
	}
	var err error
	if w.s, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.s.Stop)
	front := httptest.NewTLSServer(w.s)
	t.Cleanup(front.Close)
	w.url, w.http = front.URL, front.Client()
	return w
}

// serveDNS leads every name to this machine.
func serveDNS(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		for buf := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			if b, err := m.Pack(); err == nil {
				_, _ = c.WriteTo(b, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// client is an account, or a key that may become one.
type client struct {
	w     *world
	key   *ecdsa.PrivateKey
	kid   string
	nonce string // the next one; fetched when empty
	url   string // to sign instead of the right one
}

func (w *world) client() *client { return &client{w: w, key: newKey(w.t)} }

// post sends a signed request; nil is POST-as-GET. It returns status, header and body.
func (c *client) post(path string, payload any) (int, http.Header, map[string]any) {
	c.w.t.Helper()
	if c.nonce == "" {
		res, err := c.w.http.Head(c.w.url + "/new-nonce")
		if err != nil {
			c.w.t.Fatal(err)
		}
		res.Body.Close()
		c.nonce = res.Header.Get("Replay-Nonce")
	}
	b := []byte{} // POST-as-GET: an empty payload, not none
	if payload != nil {
		b, _ = json.Marshal(payload)
	}
	target := c.w.url + path
	o := (&jose.SignerOptions{EmbedJWK: c.kid == ""}).WithHeader("nonce", c.nonce).WithHeader("url", target)
	if c.url != "" {
		o.WithHeader("url", c.url)
	}
	if c.kid != "" {
		o.WithHeader("kid", c.kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.key}, o)
	if err != nil {
		c.w.t.Fatal(err)
	}
	j, err := signer.Sign(b)
	if err != nil {
		c.w.t.Fatal(err)
	}
	status, header, body := c.w.send(target, j.FullSerialize())
	c.nonce = header.Get("Replay-Nonce")
	var out map[string]any
	if json.Unmarshal(body, &out) != nil {
		out = map[string]any{"body": string(body)}
	}
	return status, header, out
}

func (w *world) send(target, text string) (int, http.Header, []byte) {
	w.t.Helper()
	res, err := w.http.Post(target, "application/jose+json", strings.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, res.Header, b
}

// account makes the client an account.
func (c *client) account(extra map[string]any) (int, map[string]any) {
	c.w.t.Helper()
	p := map[string]any{"termsOfServiceAgreed": true}
	for k, v := range extra {
		p[k] = v
	}
	status, h, body := c.post("/new-account", p)
	if status/100 == 2 {
		c.kid = h.Get("Location")
	}
	return status, body
}

// order orders names and returns the path of the order and of its first authorization.
func (c *client) order(names ...string) (status int, order, authz string, body map[string]any) {
	c.w.t.Helper()
	var ids []map[string]string
	for _, n := range names {
		ids = append(ids, map[string]string{"type": "dns", "value": n})
	}
	status, h, body := c.post("/new-order", map[string]any{"identifiers": ids})
	if status == http.StatusCreated {
		authz = strings.TrimPrefix(body["authorizations"].([]any)[0].(string), c.w.url)
	}
	return status, strings.TrimPrefix(h.Get("Location"), c.w.url), authz, body
}

// prove asks to look at the proof of an authorization, and waits for what comes of it. With leave the proof lies there.
func (c *client) prove(authz string, leave func(token, auth string) (path, content string)) string {
	c.w.t.Helper()
	_, _, a := c.post(authz, nil)
	list, _ := a["challenges"].([]any)
	if len(list) == 0 {
		c.w.t.Fatalf("%s shows %v", authz, a)
	}
	challenge := list[0].(map[string]any)
	token := challenge["token"].(string)
	print, err := thumbprint(&jose.JSONWebKey{Key: c.key.Public()})
	if err != nil {
		c.w.t.Fatal(err)
	}
	if path, content := leave(token, token+"."+print); path != "" {
		c.w.proofs.Store(path, content)
	}
	c.post(strings.TrimPrefix(challenge["url"].(string), c.w.url), map[string]any{})
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, _, a := c.post(authz, nil)
		if s := a["status"].(string); s != "pending" || time.Now().After(deadline) {
			return s
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func rightly(token, auth string) (string, string) {
	return "/.well-known/acme-challenge/" + token, auth + "\n"
}

func csr(t *testing.T, key crypto.Signer, names ...string) map[string]any {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"csr": base64.RawURLEncoding.EncodeToString(der)}
}

func kind(body map[string]any) string {
	s, _ := body["type"].(string)
	return strings.TrimPrefix(s, "urn:ietf:params:acme:error:")
}

func TestFromAccountToCertificate(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	if status, body := c.account(nil); status != http.StatusCreated {
		t.Fatalf("%d %v", status, body)
	}
	if len(w.state.m) != 0 {
		t.Error("a stranger's account was stored")
	}
	status, order, authz, body := c.order("web.example.net")
	if status != http.StatusCreated || body["status"] != "pending" {
		t.Fatalf("%d %v", status, body)
	}
	key := newKey(t)
	if status, _, body := c.post(order+"/finalize", csr(t, key, "web.example.net")); status != 403 || kind(body) != "orderNotReady" {
		t.Errorf("issued without proof: %d %v", status, body)
	}
	if got := c.prove(authz, rightly); got != "valid" {
		_, _, a := c.post(authz, nil)
		t.Fatalf("proof is %s: %v", got, a)
	}
	for name, names := range map[string][]string{"another name": {"other.example.com"}, "one more": {"web.example.net", "x.example.com"}, "none": nil} {
		if status, _, body := c.post(order+"/finalize", csr(t, key, names...)); status != 400 || kind(body) != "badCSR" {
			t.Errorf("%s: %d %v", name, status, body)
		}
	}
	stranger := w.client()
	stranger.account(nil)
	for _, path := range []string{order, order + "/finalize", authz, strings.Replace(order, "order", "cert", 1)} {
		if status, _, body := stranger.post(path, csr(t, key, "web.example.net")); status != 404 {
			t.Errorf("a stranger at %s: %d %v", path, status, body)
		}
	}
	status, _, body = c.post(order+"/finalize", csr(t, key, "web.example.net"))
	if status != 200 || body["status"] != "valid" {
		t.Fatalf("%d %v", status, body)
	}
	if len(w.state.m) != 1 {
		t.Error("the account was not kept")
	}
	_, h, got := c.post(strings.TrimPrefix(body["certificate"].(string), w.url), nil)
	block, _ := pem.Decode([]byte(fmt.Sprint(got["body"])))
	if h.Get("Content-Type") != "application/pem-certificate-chain" || block == nil {
		t.Fatalf("%v %v", h, got)
	}
	revoke := map[string]any{"certificate": base64.RawURLEncoding.EncodeToString(block.Bytes), "reason": 4}
	if status, _, _ := stranger.post("/revoke-cert", revoke); status != 403 {
		t.Errorf("a stranger revokes: %d", status)
	}
	for _, by := range []*client{c, {w: w, key: key}} {
		if status, _, body := by.post("/revoke-cert", revoke); status != 200 {
			t.Errorf("revoke: %d %v", status, body)
		}
	}
	if !slices.Equal(w.gone, []string{"1 4", "1 4"}) {
		t.Errorf("revoked %v", w.gone)
	}
	// Given up, it is nobody's.
	if status, _, body := c.post(strings.TrimPrefix(c.kid, w.url), map[string]any{"status": "deactivated"}); status != 200 || body["status"] != "deactivated" {
		t.Errorf("%d %v", status, body)
	}
	if status, _, _, body := c.order("web.example.net"); status != 401 {
		t.Errorf("a given-up account orders: %d %v", status, body)
	}
}

func TestProofsThatFail(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.account(nil)
	away := httptest.NewServer(http.NotFoundHandler())
	defer away.Close()
	for name, leave := range map[string]func(token, auth string) (string, string){
		"nothing there":    func(string, string) (string, string) { return "", "" },
		"another's":        func(token, _ string) (string, string) { return rightly(token, token+".x") },
		"too long":         func(token, auth string) (string, string) { return rightly(token, auth+strings.Repeat("x", maxAnswer)) },
		"sent elsewhere":   func(token, _ string) (string, string) { return rightly(token, "to "+away.URL) },
		"sent in a circle": func(token, _ string) (string, string) { p, _ := rightly(token, ""); return p, "to " + p },
	} {
		_, order, authz, _ := c.order("web.example.net")
		if got := c.prove(authz, leave); got != "invalid" {
			t.Errorf("%s: %s", name, got)
		}
		if _, _, body := c.post(order, nil); body["status"] != "invalid" {
			t.Errorf("%s: order is %v", name, body["status"])
		}
	}
	_, _, authz, _ := c.order("a.example.com")
	if got := c.prove(authz, func(token, auth string) (string, string) {
		w.proofs.Store("/moved", auth)
		p, _ := rightly(token, "")
		return p, "to /moved"
	}); got != "valid" {
		t.Errorf("sent on within the name: %s", got)
	}
}

func TestNamesAndKeys(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.account(nil)
	for name, want := range map[string]string{
		"web.example.net": "", "x.example.com": "", "a.b.example.com": "", "WEB.example.net": "",
		"example.com": "rejectedIdentifier", "xexample.com": "rejectedIdentifier", "*.example.com": "rejectedIdentifier", "other.example.net": "rejectedIdentifier",
		"x..example.com": "rejectedIdentifier", "-x.example.com": "rejectedIdentifier", "a b.example.com": "rejectedIdentifier", "": "rejectedIdentifier", "192.0.2.1": "rejectedIdentifier",
	} {
		status, _, _, body := c.order(name)
		if (status == 201) != (want == "") || kind(body) != want {
			t.Errorf("%q: %d %v, want %q", name, status, body, want)
		}
	}
	if status, _, body := c.post("/new-order", map[string]any{"identifiers": []any{}}); status != 400 {
		t.Errorf("no names: %d %v", status, body)
	}
}

func TestRequestsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.account(nil)
	used := c.nonce
	if status, _, _ := c.post(strings.TrimPrefix(c.kid, w.url), nil); status != 200 {
		t.Fatal(status)
	}
	c.nonce = used
	if status, _, body := c.post(strings.TrimPrefix(c.kid, w.url), nil); status != 400 || kind(body) != "badNonce" {
		t.Errorf("replayed: %d %v", status, body)
	}
	c.url = w.url + "/new-order"
	if status, _, body := c.post(strings.TrimPrefix(c.kid, w.url), nil); status != 401 || kind(body) != "unauthorized" {
		t.Errorf("signed for another address: %d %v", status, body)
	}
	forged := &client{w: w, key: newKey(t), kid: c.kid}
	if status, _, body := forged.post(strings.TrimPrefix(c.kid, w.url), nil); status != 401 {
		t.Errorf("another's account: %d %v", status, body)
	}
	ghost := &client{w: w, key: newKey(t), kid: w.url + "/account/" + strings.Repeat("x", 43)}
	if status, _, body := ghost.post("/new-order", nil); status != 400 || kind(body) != "accountDoesNotExist" {
		t.Errorf("no account: %d %v", status, body)
	}
	if status, _, body := w.client().post("/new-order", map[string]any{}); status != 400 {
		t.Errorf("without account: %d %v", status, body)
	}
	if status, body := w.client().account(map[string]any{"onlyReturnExisting": true}); status != 400 || kind(body) != "accountDoesNotExist" {
		t.Errorf("only if it exists: %d %v", status, body)
	}
	for name, text := range map[string]string{
		"empty": "", "no JSON": "x", "compact": "a.b.c", "no signature": `{"protected":"e30","payload":"","signature":""}`,
		"not protected": `{"protected":"e30","header":{"kid":"x"},"payload":"","signature":""}`, "long": strings.Repeat("x", maxBody+1),
		"unsigned": `{"protected":"` + base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + `","payload":"","signature":""}`,
	} {
		if status, _, b := w.send(w.url+"/new-account", text); status/100 != 4 {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
}

func TestBoundAccounts(t *testing.T) {
	secret := bytes.Repeat([]byte{7}, 32)
	w := newWorld(t, func(o *Options) { o.Keys = map[string][]byte{"web": secret} })
	bind := func(c *client, kid string, key []byte, of crypto.PublicKey, target string) json.RawMessage {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid).WithHeader("url", target))
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(jose.JSONWebKey{Key: of})
		if err != nil {
			t.Fatal(err)
		}
		j, err := signer.Sign(b)
		if err != nil {
			t.Fatal(err)
		}
		return json.RawMessage(j.FullSerialize())
	}
	if status, body := w.client().account(nil); status != 401 || kind(body) != "externalAccountRequired" {
		t.Errorf("without: %d %v", status, body)
	}
	here := w.url + "/new-account"
	for name, tc := range map[string]struct {
		kid, target string
		key         []byte
		other       bool
		want        int
	}{
		"right": {"web", here, secret, false, 201}, "unknown id": {"x", here, secret, false, 401}, "wrong key": {"web", here, make([]byte, 32), false, 401},
		"another address": {"web", w.url + "/x", secret, false, 401}, "another's account": {"web", here, secret, true, 401},
	} {
		c := w.client()
		of := c.key.Public()
		if tc.other {
			of = newKey(t).Public()
		}
		if status, body := c.account(map[string]any{"externalAccountBinding": bind(c, tc.kid, tc.key, of, tc.target)}); status != tc.want {
			t.Errorf("%s: %d %v, want %d", name, status, body, tc.want)
		}
	}
}

// A stranger fills tables of fixed size and nothing else.
func TestTablesAreBounded(t *testing.T) {
	w := newWorld(t)
	for range maxNonces + 10 {
		w.s.newNonce()
	}
	if n := len(w.s.nonces.live); n != maxNonces {
		t.Errorf("%d nonces", n)
	}
	for n := range maxAccounts + 10 {
		if err := w.s.put(t.Context(), &account{ID: fmt.Sprint(n)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.s.accounts); n != maxAccounts {
		t.Errorf("%d accounts", n)
	}
	refused := 0
	for n := range maxOrders + 10 {
		if w.s.admit(&order{id: fmt.Sprint(n), account: fmt.Sprint(n), expires: w.now.Add(time.Hour)}) != nil {
			refused++
		}
	}
	if refused != 10 {
		t.Errorf("%d orders refused, want 10", refused)
	}
	w.now = w.now.Add(2 * time.Hour)
	for n := range maxPerAccount + 1 {
		if err := w.s.admit(&order{id: fmt.Sprint("x", n), account: "one", expires: w.now.Add(time.Hour)}); (err != nil) != (n == maxPerAccount) {
			t.Errorf("order %d of one account: %v", n, err)
		}
	}
	if len(w.state.m) != 0 {
		t.Error("something was stored")
	}
}

// FuzzParse: what comes is refused or is one signature over protected headers.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"protected":"eyJhbGciOiJFUzI1NiJ9","payload":"e30","signature":"AAAA"}`))
	f.Add([]byte(`{"protected":"e30","header":{"kid":"x"},"payload":"","signature":""}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if j, err := parse(b); err == nil && len(j.Signatures) != 1 {
			t.Fatalf("%d signatures", len(j.Signatures))
		}
	})
}
