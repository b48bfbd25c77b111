package registrar

import (
	"errors"
	"strings"
	"time"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/flow"
	"ringfence/sip/transaction"
)

// Authenticate finds out who sent a request, by digest. It challenges and refuses by itself; ok is false then. The line is
// the one in From if it is a line of the device whose primary's credentials were given (sip-overview.md §4); for a line
// without device it is the line of the credentials, whatever From says.
func (r *Registrar) Authenticate(tx *transaction.Server) (Identity, bool) {
	who, ok := r.digest(tx)
	if !ok {
		return Identity{}, false
	}
	f := tx.Flow()
	id := Identity{Device: who.account.Device, Primary: who.account.Number, Line: who.account.Number, Cisco: who.account.Device != ""}
	if id.Device != "" {
		if why := r.mayUse(f, who.device); why != "" {
			r.refuse(tx, who, why)
			return Identity{}, false
		}
		line, ok := callingLine(who.device, tx.Request())
		if !ok {
			r.refuse(tx, who, "the line in From is not the device's")
			return Identity{}, false
		}
		id.Line = line
	}
	if live, ok := r.ByFlowLine(f, id.Line); ok && live.Device == id.Device && live.Line == id.Line {
		id.Binding = live.Binding
	}
	return id, true
}

// callingLine is the line that a request of a device is made for. A phone that hides its number writes an anonymous From and tells the
// line in Remote-Party-ID ("sip-calls" §24.4); one that does not tell it there either uses its first.
func callingLine(d DeviceInfo, req *sip.Request) (string, bool) {
	from := req.From().Address
	if !strings.EqualFold(from.User, "anonymous") && !strings.EqualFold(from.Host, "anonymous.invalid") {
		return lineOf(d, from.User)
	}
	if _, rest, ok := strings.Cut(transaction.Header(req, "Remote-Party-ID"), "<sip:"); ok {
		user, _, _ := strings.Cut(rest, "@")
		if line, ok := lineOf(d, user); ok {
			return line, true
		}
	}
	primary, ok := d.Primary()
	return primary.Number, ok
}

// lineOf returns the line of d that user names; the MAC address, which device-level requests carry, names the primary.
func lineOf(d DeviceInfo, user string) (string, bool) {
	primary, _ := d.Primary()
	for _, l := range d.Lines {
		if l.Number == user {
			return user, true
		}
	}
	if len(user) == 12 && strings.EqualFold("SEP"+user, d.Name) || strings.EqualFold(user, d.Name) {
		return primary.Number, true
	}
	return "", false
}

// mayUse says why a device may not use a connection, or "" (SEC-8: a phone in encrypted mode proves its name by certificate,
// and no phone may use another's).
func (r *Registrar) mayUse(f flow.Flow, d DeviceInfo) string {
	switch {
	case d.Encrypted && !f.Secure():
		return "encrypted mode, but the connection is not TLS"
	case d.Encrypted && f.Device() == "":
		return "encrypted mode, but the client gave no certificate"
	case f.Device() != "" && f.Device() != d.Name:
		return "the client certificate names " + f.Device()
	}
	return ""
}

func (r *Registrar) refuse(tx *transaction.Server, who caller, why string) {
	r.opt.Log.Info("request refused", "phone", who.account.Device, "line", who.account.Number, "peer", tx.Flow().Remote().String(),
		"method", string(tx.Request().Method), "err", why)
	if tx.Request().Method == sip.REGISTER {
		r.note(who.account.Device, why, true)
	}
	tx.Answer(403)
}

// caller is whose credentials were right.
type caller struct {
	account Account
	device  DeviceInfo // when account.Device is set
}

// digest authenticates a request. When it returns false it has answered.
//
// The user name of a Cisco phone is that of its primary line, for every line. An 8841 without authName sends an empty one;
// then the user of To (REGISTER) or From stands in.
func (r *Registrar) digest(tx *transaction.Server) (caller, bool) {
	req := tx.Request()
	cred, err := r.credentials(req)
	if err != nil {
		if errors.Is(err, errNotDigest) {
			r.challenge(tx, false)
		} else {
			res := tx.Response(400, "")
			res.AppendHeader(sip.NewHeader("Warning", `399 ringfence "`+err.Error()+`"`))
			tx.Dismiss(res)
		}
		return caller{}, false
	}
	user := cred.username
	if user == "" {
		user = req.From().Address.User
		if req.Method == sip.REGISTER {
			user = req.To().Address.User
		}
	}
	now, from := time.Now(), tx.Flow().Remote().Addr()
	if r.throttle.blocked(from, user, now) {
		tx.Dismiss(tx.Response(403, ""))
		return caller{}, false
	}
	if !r.nonces.ours(cred.nonce) {
		r.challenge(tx, true)
		return caller{}, false
	}
	who, password, known := r.account(user, r.device(tx))
	if !cred.correct(r.opt.Realm, string(req.Method), password) || !known {
		r.wrong(tx, user, who, known, now)
		return caller{}, false
	}
	if !r.nonces.use(cred.nonce, cred.nc) {
		r.challenge(tx, true)
		return caller{}, false
	}
	r.throttle.succeeded(from, user)
	return who, true
}

// credentials returns the Digest credentials for our realm.
func (r *Registrar) credentials(req *sip.Request) (credentials, error) {
	err := errNotDigest
	looked := 0
	for h := range transaction.Headers(req, "Authorization") {
		if looked++; looked > 4 {
			break
		}
		var c credentials
		if c, err = parseCredentials(h.Value()); err == nil {
			if c.realm == r.opt.Realm {
				return c, nil
			}
			err = errNotDigest
		}
	}
	return credentials{}, err
}

// accountOn is a line as a device has it: a shared line is on several, with a place of its own on each.
func (r *Registrar) accountOn(line, device string) (Account, bool) {
	a, ok := r.opt.Accounts.Line(line)
	if !ok || !a.Shared || device == "" || device == a.Device {
		return a, ok
	}
	d, _ := r.opt.Accounts.Device(device)
	for _, l := range d.Lines {
		if l.Number == line {
			return l, true
		}
	}
	return a, true
}

// device is the device that a request says it is from. It decides only whose password is asked for where several phones share
// their first line.
func (r *Registrar) device(tx *transaction.Server) string {
	if name := tx.Flow().Device(); name != "" {
		return name
	}
	if list, err := parseContacts(tx.Request()); err == nil && len(list) > 0 {
		for k, v := range list[0].params {
			if strings.HasPrefix(k, "+u.sip!devicename.ccm.") {
				return strings.Trim(v, `"`)
			}
		}
	}
	if id, ok := r.ByFlow(tx.Flow()); ok {
		return id.Device
	}
	return ""
}

// account finds whose credentials user names and their password. For somebody unknown it returns a password that nobody has,
// so that the same work is done.
func (r *Registrar) account(user, device string) (who caller, password string, known bool) {
	a, ok := r.accountOn(user, device)
	if !ok {
		return caller{}, r.dummy, false
	}
	who.account = a
	key := a.Number
	if a.Device != "" {
		d, ok := r.opt.Accounts.Device(a.Device)
		if !ok || a.Index != 1 {
			return who, r.dummy, false
		}
		who.device, key = d, a.Device
	}
	password, ok = r.opt.Password(key)
	if !ok || password == "" {
		return who, r.dummy, false
	}
	return who, password, true
}

// wrong answers a wrong password; an unknown user gets the same.
func (r *Registrar) wrong(tx *transaction.Server, user string, who caller, known bool, now time.Time) {
	from := tx.Flow().Remote()
	full := r.throttle.failed(from.Addr(), user, now)
	text := "wrong password"
	if !known {
		text = "unknown user"
	}
	r.opt.Log.Info("authentication refused", "phone", who.account.Device, "line", user, "peer", from.String(), "err", text)
	if known {
		r.note(who.account.Device, "wrong password from "+from.Addr().String(), true)
	}
	if full {
		r.opt.Log.Info("authentication throttled", "line", user, "peer", from.Addr().String())
		if known {
			r.note(who.account.Device, "too many wrong passwords from "+from.Addr().String()+"; refused for a while", true)
		}
	}
	tx.Dismiss(tx.Response(403, ""))
}

// challenge answers 401. What the request looks like decides the kind of challenge, not who it claims to be from.
func (r *Registrar) challenge(tx *transaction.Server, stale bool) {
	realm := r.realm
	nonce := `, nonce="` + r.nonces.issue() + `"`
	end := ""
	if stale {
		end = ", stale=true"
	}
	res := tx.Response(401, "")
	if looksCisco(tx.Request()) {
		// No qop: the one form that all models are known to take (sip-overview.md §4).
		res.AppendHeader(sip.NewHeader("WWW-Authenticate", "Digest algorithm=MD5, "+realm+nonce+end))
	} else {
		sha := sip.NewHeader("WWW-Authenticate", "Digest "+realm+nonce+`, algorithm=SHA-256, qop="auth"`+end)
		md5 := sip.NewHeader("WWW-Authenticate", "Digest "+realm+nonce+`, algorithm=MD5, qop="auth"`+end)
		ua := transaction.Header(tx.Request(), "User-Agent")
		switch {
		case stumblesOverSHA256(ua):
			res.AppendHeader(md5)
		case knowsSHA256(ua):
			res.AppendHeader(sha)
			res.AppendHeader(md5)
		default:
			res.AppendHeader(md5)
			res.AppendHeader(sha)
		}
	}
	tx.Dismiss(res)
}

// stumblesOverSHA256 tells clients that give up when any challenge names an algorithm that they do not know, instead of taking
// the one they do: baresip before 2.0, seen with Debian 12's 1.0.
func stumblesOverSHA256(ua string) bool {
	return strings.HasPrefix(ua, "baresip v0.") || strings.HasPrefix(ua, "baresip v1.")
}

// knowsSHA256 tells clients that get SHA-256 first, which they then take (RFC 8760 §2.4). For others MD5 comes first: many look
// at the first challenge only (seen with sipp 3.6.1, which ends there), and a phone that cannot register is worse than MD5
// over a password of twenty random characters.
func knowsSHA256(ua string) bool {
	for _, prefix := range []string{"baresip v", "Linphone"} {
		if strings.HasPrefix(ua, prefix) {
			return true
		}
	}
	return false
}

// looksCisco tells a Cisco enterprise phone by User-Agent or by the device name in its Contact.
func looksCisco(req *sip.Request) bool {
	ua := transaction.Header(req, "User-Agent")
	if len(ua) >= 8 && strings.EqualFold(ua[:8], "Cisco-CP") || len(ua) >= 10 && strings.EqualFold(ua[:10], "Cisco-CIPC") {
		return true
	}
	return strings.Contains(strings.ToLower(transaction.Header(req, "Contact", "m")), "+u.sip!devicename.ccm.")
}
