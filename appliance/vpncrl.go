package appliance

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// revocations are the lists of vpn.user_crls: certificates of people that are good no more. The files are looked at for each log-in and
// every few seconds, so that whoever exchanges one need tell nobody. A list that becomes unreadable stays in force as it was; while one
// has never been read, no certificate of its kind can be judged, and none is taken.
type revocations struct {
	files  []string
	issued []*x509.Certificate // authorities that may sign a list
	log    *slog.Logger

	mu    sync.Mutex // guards all below
	lists []revocationList
	used  map[certificateName]usedCertificate // that logged in
}

// revocationList is one file.
type revocationList struct {
	stamp   time.Time // of the file as it was read
	size    int64
	tried   bool
	ok      bool
	revoked map[certificateName]struct{}
}

// certificateName is what a list calls a certificate.
type certificateName struct{ issuer, serial string }

func nameOf(c *x509.Certificate) certificateName {
	return certificateName{string(c.RawIssuer), string(c.SerialNumber.Bytes())}
}

type usedCertificate struct {
	user string
	at   time.Time
}

const (
	// revocationsEvery is how often lists are looked at without a log-in.
	revocationsEvery = 5 * time.Second
	// sessionDue is how long after its log-in a certificate may have no session yet.
	sessionDue = 5 * time.Minute
	maxCRL     = 32 << 20
)

func newRevocations(files []string, roots []*x509.Certificate, log *slog.Logger) *revocations {
	return &revocations{files: files, issued: roots, log: log, lists: make([]revocationList, len(files)), used: make(map[certificateName]usedCertificate)}
}

// check refuses a certificate that is revoked, and remembers whose it is.
func (r *revocations) check(cert *x509.Certificate, user string) error {
	if len(r.files) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refreshLocked()
	for i, l := range r.lists {
		if !l.ok {
			return fmt.Errorf("vpn.user_crls: %s has never been readable, so no certificate can be judged", r.files[i])
		}
	}
	if r.revokedLocked(nameOf(cert)) {
		return fmt.Errorf("certificate %x of %s is revoked", cert.SerialNumber, user)
	}
	r.used[nameOf(cert)] = usedCertificate{user, time.Now()}
	return nil
}

// ended are the people whose certificates have been revoked since they logged in. live tells who has a session.
func (r *revocations) ended(live func(user string) bool) []string {
	if len(r.files) == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refreshLocked()
	var users []string
	for name, u := range r.used {
		switch {
		case r.revokedLocked(name):
			users = append(users, u.user)
			delete(r.used, name)
		case time.Since(u.at) > sessionDue && !live(u.user):
			delete(r.used, name)
		}
	}
	return users
}

func (r *revocations) revokedLocked(name certificateName) bool {
	for _, l := range r.lists {
		if _, ok := l.revoked[name]; ok {
			return true
		}
	}
	return false
}

// refreshLocked reads the files that have changed. r.mu is held.
func (r *revocations) refreshLocked() {
	for i, name := range r.files {
		l := &r.lists[i]
		info, err := os.Stat(name)
		if err == nil && l.tried && info.ModTime().Equal(l.stamp) && info.Size() == l.size {
			continue
		}
		var revoked map[certificateName]struct{}
		if err == nil {
			l.stamp, l.size = info.ModTime(), info.Size()
			revoked, err = readCRL(name, r.issued)
		}
		if err != nil {
			if !l.tried || l.size != -1 {
				r.log.Error("list of revoked certificates", "err", err)
			}
			if l.tried = true; info == nil {
				l.size = -1 // said once
			}
			continue
		}
		l.tried, l.ok, l.revoked = true, true, revoked
		r.log.Info("list of revoked certificates is read", "file", name, "certificates", len(revoked))
	}
}

// readCRL reads a list, PEM or DER, that one of the authorities has signed.
func readCRL(name string, issued []*x509.Certificate) (map[certificateName]struct{}, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if len(b) > maxCRL {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxCRL)
	}
	if block, _ := pem.Decode(b); block != nil {
		b = block.Bytes
	}
	list, err := x509.ParseRevocationList(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	err = errors.New("no authority of vpn.user_roots has its name")
	for _, c := range issued {
		if bytes.Equal(c.RawSubject, list.RawIssuer) {
			if err = list.CheckSignatureFrom(c); err == nil {
				break
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: its signature: %w", name, err)
	}
	revoked := make(map[certificateName]struct{}, len(list.RevokedCertificateEntries))
	for _, e := range list.RevokedCertificateEntries {
		if e.ReasonCode != removeFromCRL {
			revoked[certificateName{string(list.RawIssuer), string(e.SerialNumber.Bytes())}] = struct{}{}
		}
	}
	return revoked, nil
}

// removeFromCRL takes a certificate off hold, RFC 5280 §5.3.1.
const removeFromCRL = 8

// watchRevocations ends the sessions of people whose certificates are revoked, until ctx ends.
func (a *appliance) watchRevocations(ctx context.Context, r *revocations) {
	t := time.NewTicker(revocationsEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		g := a.gateway.get()
		if g == nil {
			continue
		}
		for _, user := range r.ended(func(user string) bool { all, _ := g.Find(user); return len(all) > 0 }) {
			a.log.Info("VPN sessions end, a certificate was revoked", "user", user, "sessions", g.Revoke(user))
		}
	}
}
