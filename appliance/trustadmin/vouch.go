package trustadmin

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"ringfence/pki"
	"ringfence/trust"
)

// maxAge is how long an index may be used: what the other appliance of a pair changes arrives without a sign.
const maxAge = time.Second

// index is what the appliance vouches for at a moment. It never changes; another takes its place.
type index struct {
	generation uint64
	foreign    uint64 // of the foreign certificates
	until      time.Time
	by         map[[sha256.Size]byte]voucher
}

// voucher is what TVS says of one certificate.
type voucher struct {
	roles             []trust.Role
	ttl               time.Duration // 0: the default
	notBefore, notAft time.Time
}

// Lookup is TVS's answer: every certificate that an appliance of the installation uses, will use or has used until phones know
// the newer one, and those of other systems that the configuration names. One past its end is refused, since phones are not
// known to check dates of what was vouched for (tvs.md §3).
func (k *Keeper) Lookup(der []byte) (as []trust.Role, ttl time.Duration, ok bool) {
	v, ok := k.vouchers()[sha256.Sum256(der)]
	if !ok {
		return nil, 0, false
	}
	if now := k.o.Authority.Moment(); now.Before(v.notBefore) || now.After(v.notAft) {
		return nil, 0, false
	}
	return v.roles, v.ttl, true
}

func (k *Keeper) vouchers() map[[sha256.Size]byte]voucher {
	have, generation, f := k.index.Load(), k.o.Authority.Generation(), k.foreign.Load()
	now := time.Now()
	if have != nil && have.generation == generation && have.foreign == f.number && now.Before(have.until) {
		return have.by
	}
	next := &index{generation: generation, foreign: f.number, until: now.Add(maxAge), by: make(map[[sha256.Size]byte]voucher)}
	published := k.o.Authority.Published()
	var rollover time.Duration
	for _, c := range published {
		if c.Stage == pki.StagePublish || c.Stage == pki.StageSettle {
			rollover = rolloverTTL
		}
	}
	add := func(e trust.Entry, ttl time.Duration) {
		sum := sha256.Sum256(e.Cert.Raw)
		v, known := next.by[sum]
		if slices.Contains(v.roles, e.Role) {
			return
		}
		if known && (v.ttl == 0 || ttl != 0 && ttl > v.ttl) {
			ttl = v.ttl
		}
		next.by[sum] = voucher{roles: append(v.roles, e.Role), ttl: ttl, notBefore: e.Cert.NotBefore, notAft: e.Cert.NotAfter}
	}
	for _, c := range published {
		if as, ok := useOf(c.Role); ok {
			add(trust.Entry{Cert: c.Cert, Role: as.as}, rollover)
		}
	}
	for _, e := range f.entries {
		add(e.Entry, e.ttl)
	}
	k.index.Store(next)
	return next.by
}

func useOf(r pki.Role) (use, bool) {
	i := slices.IndexFunc(uses, func(u use) bool { return u.role == r })
	if i < 0 {
		return use{}, false
	}
	return uses[i], true
}

// listed tells whether a certificate of a role stands in trust lists. Of the SAST roles only those in use do, and only this
// appliance's: a list has two slots, and the two appliances of a pair hold the same keys.
func listed(c pki.RoleCertificate) bool {
	u, ok := useOf(c.Role)
	if !ok || !u.listed {
		return false
	}
	if u.as == trust.SAST {
		return c.Own && c.State == pki.Current
	}
	return c.State != pki.Previous || c.Stage == pki.StageSettle
}

// Entries are the records of trust lists, EC ones too: those of this and the other appliance, then those of other systems.
func (k *Keeper) Entries() ([]trust.Entry, error) {
	var out []trust.Entry
	have := map[string]bool{}
	add := func(e trust.Entry) {
		if id := string(e.Role) + string(e.Cert.Raw); !have[id] {
			have[id] = true
			out = append(out, e)
		}
	}
	found := map[pki.Role]bool{}
	for _, c := range k.o.Authority.Published() {
		if u, _ := useOf(c.Role); listed(c) {
			found[c.Role] = found[c.Role] || c.Own && c.State == pki.Current
			add(trust.Entry{Cert: c.Cert, Role: u.as})
		}
	}
	var missing []string
	for _, u := range uses {
		if u.listed && !found[u.role] {
			missing = append(missing, string(u.role))
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("trust list: no certificate of %s", strings.Join(missing, ", "))
	}
	for _, e := range k.foreign.Load().entries {
		if e.listed && e.Role != trust.SAST {
			add(e.Entry)
		}
	}
	return out, nil
}
