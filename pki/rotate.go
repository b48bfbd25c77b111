package pki

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A role gets a new certificate in stages, so that no phone ever meets one that it does not know (tlv.md §8, certhash.md).
// Phones take note of new certificates only when they fetch their lists and files, which may be weeks apart.
//
//	      make, or for SAST take the recovery key        every phone holds it,
//	      (nothing else changes)                         deadline, or force
//	(none) ─────────────────────────────────► publish ─────────────────────┐
//	   ▲                                      next is listed, the          │ switch
//	   │                                      current one serves           ▼
//	   │ forget: key deleted                                            settle
//	   │                                                                next serves, the one
//	   │      every phone has a list                                    before is still listed
//	   │      without it, deadline, force                                  │ every phone holds the new one,
//	   └─────────────────────────────────────────── retire ◄───────────────┘ deadline, or force
//	                                                the one before is in no new list; TVS still knows it, and its
//	                                                key signs for phones that hold nothing newer
//
// Lists have two slots for SAST, and one of them is always the recovery signer. So the next signer is the recovery key, which
// phones hold already, and the switch makes a new recovery key in its place: {old, recovery} signed by old, then {recovery,
// new} signed by recovery. A rotation of SAST-RECOVERY replaces that key alone. Neither has the stage settle.
//
// Each arrow is one group of writes, and what is done next follows from the fields alone:
//
//	pki/rotate/NODE/ROLE/plan       who wanted it, the stage and since when, JSON; present while a rotation is under way
//	pki/rotate/NODE/ROLE/next       serial; in stage publish
//	pki/rotate/NODE/ROLE/previous   serial; in stages settle and retire

// Stage is how far a rotation has come.
type Stage string

// The stages; see above.
const (
	StagePublish Stage = "publish"
	StageSettle  Stage = "settle"
	StageRetire  Stage = "retire"
)

// Errors of rotations that callers decide on.
var (
	// ErrRotating is wrapped when a rotation of the role is under way already.
	ErrRotating = errors.New("is being rotated already")
	// ErrRootKey is wrapped when a new issuing CA is wanted and the root's key is not on this appliance: RestoreRootKey first.
	ErrRootKey = errors.New("the root's private key is not on this appliance")
)

// How long a stage waits for phones that do not come. A phone that misses a switch asks TVS about what its list does not
// name, and gets a list that it takes whenever it comes back: so most roles may go on. Not so the VPN, which a phone outside
// knows by hash alone, and SAST: these wait until somebody forces them.
const (
	publishWait    = 14 * 24 * time.Hour
	settleWait     = 14 * 24 * time.Hour
	retireWait     = 90 * 24 * time.Hour
	retireWaitSAST = 365 * 24 * time.Hour
	vpnBeforeEnd   = 14 * 24 * time.Hour // a VPN certificate is not used to its last day, whoever is missing
)

// Plan is a rotation: what is done, and what of it is done already.
type Plan struct {
	Role    Role      `json:"role"`
	By      string    `json:"by,omitempty"`
	Began   time.Time `json:"began,omitzero"`
	Stage   Stage     `json:"stage,omitempty"` // empty: not begun
	Since   time.Time `json:"since,omitzero"`  // of the stage
	Forced  string    `json:"forced,omitempty"`
	Ended   bool      `json:"ended,omitempty"`
	Steps   []Step    `json:"steps"`
	Devices []string  `json:"devices"` // phones that it concerns
	Missing []string  `json:"missing"` // those that the present stage waits for
}

// Step is one arrow of a rotation and what has to be before the next one.
type Step struct {
	Name  string    `json:"name"`
	Text  string    `json:"text"`
	Done  bool      `json:"done"`
	Until time.Time `json:"until,omitzero"` // it goes on then even without some phones; zero: only by force
}

// Fetched tells whether a phone has fetched what is published for a role at present: in stage publish a list (for the VPN: a
// device file) that names the next certificate, in stage settle one that names the current one, in stage retire one without
// the previous one.
type Fetched func(r Role, device string) bool

// saved is the plan as stored.
type saved struct {
	By     string    `json:"by"`
	Began  time.Time `json:"began"`
	Stage  Stage     `json:"stage"`
	Since  time.Time `json:"since"`
	Forced string    `json:"forced,omitempty"` // who forced the present stage and why
}

func (a *Authority) rotateKey(r Role, field string) string {
	return "pki/rotate/" + a.seal.node() + "/" + string(r) + "/" + field
}

func (a *Authority) rotation(r Role) (saved, bool) {
	var s saved
	v, ok := a.opts.State.Get(a.rotateKey(r, "plan"))
	if !ok || json.Unmarshal(v, &s) != nil {
		return s, false
	}
	return s, true
}

// stageOf is Stage for any appliance.
func (a *Authority) stageOf(node string, r Role) Stage {
	var s saved
	if v, ok := a.opts.State.Get("pki/rotate/" + node + "/" + string(r) + "/plan"); !ok || json.Unmarshal(v, &s) != nil {
		return ""
	}
	return s.Stage
}

// Identities returns the certificates of a role: the one in use, the one that follows it while a rotation publishes it, and
// the one before while phones may still hold nothing newer. next and previous may be nil.
func (a *Authority) Identities(r Role) (current, next, previous *tls.Certificate, err error) {
	if current, err = a.Identity(r); err != nil {
		return nil, nil, nil, err
	}
	for _, x := range []struct {
		field string
		to    **tls.Certificate
	}{{"next", &next}, {"previous", &previous}} {
		v, ok := a.opts.State.Get(a.rotateKey(r, x.field))
		if !ok || a.IsRevoked(string(v)) {
			continue
		}
		if *x.to, err = a.identity(string(v), r); err != nil {
			return nil, nil, nil, err
		}
	}
	return current, next, previous, nil
}

// Stage returns the stage of a role's rotation, "" when there is none.
func (a *Authority) Stage(r Role) Stage {
	s, _ := a.rotation(r)
	return s.Stage
}

// RollingOver reports whether phones may meet new certificates these days: TVS answers are to be short-lived then (tvs.md §3).
func (a *Authority) RollingOver() bool {
	for _, r := range Roles() {
		if s := a.Stage(r); s == StagePublish || s == StageSettle {
			return true
		}
	}
	return false
}

// PlanRotation tells what Rotate would do now and which phones it concerns. Nothing changes. For a role that is being rotated
// it tells how far that has come; fetched, which may be nil, says who is missing.
func (a *Authority) PlanRotation(r Role, fetched Fetched) (Plan, []string, error) {
	if _, ok := a.current(r); !ok || r == RoleRoot {
		return Plan{}, nil, fmt.Errorf("pki: rotate %s: %w", r, ErrUnknown)
	}
	s, running := a.rotation(r)
	if err := a.rotatable(r); err != nil && !running && !errors.Is(err, ErrRootLocked) {
		return Plan{}, nil, fmt.Errorf("pki: rotate %s: %w", r, err)
	}
	p := a.plan(r, s, fetched)
	return p, p.Devices, nil
}

// Rotations returns the rotations that are under way.
func (a *Authority) Rotations(fetched Fetched) []Plan {
	var out []Plan
	for _, r := range Roles() {
		if s, ok := a.rotation(r); ok {
			out = append(out, a.plan(r, s, fetched))
		}
	}
	return out
}

// rotatable reports why a role cannot be rotated, or nil.
func (a *Authority) rotatable(r Role) error {
	if r == RoleCAPF {
		root, ok := a.current(RoleRoot)
		switch {
		case !ok || a.rootPlace(root) == RootAway:
			return ErrRootKey
		case a.rootPlace(root) == RootLocked:
			return ErrRootLocked
		}
		return nil
	}
	if _, ok := profiles[r]; !ok {
		return ErrUnknown
	}
	return nil
}

func (a *Authority) hasKey(serial string) bool {
	_, ok := a.opts.State.Get(a.keyKey(serial))
	return ok
}

// route is the order of stages of a role.
func route(r Role) []Stage {
	switch r {
	case RoleSAST:
		return []Stage{StagePublish, StageRetire}
	case RoleSASTRecovery:
		return []Stage{StageRetire}
	}
	return []Stage{StagePublish, StageSettle, StageRetire}
}

// after is the stage that follows one, "" after the last; the first for "".
func after(r Role, s Stage) Stage {
	all := route(r)
	i := slices.Index(all, s) + 1
	if i == len(all) {
		return ""
	}
	return all[i]
}

// until is when a stage goes on without the phones that are missing; zero is never.
func (a *Authority) until(r Role, s Stage, since time.Time) time.Time {
	sast := r == RoleSAST || r == RoleSASTRecovery
	switch {
	case s == StageRetire && sast:
		return since.Add(retireWaitSAST)
	case s == StageRetire:
		return since.Add(retireWait)
	case s == StageSettle:
		return since.Add(settleWait)
	case sast:
		return time.Time{}
	case r == RoleVPN:
		if id, err := a.Identity(r); err == nil {
			return id.Leaf.NotAfter.Add(-vpnBeforeEnd)
		}
		return time.Time{}
	}
	return since.Add(publishWait)
}

// plan draws a rotation from where it stands.
func (a *Authority) plan(r Role, s saved, fetched Fetched) Plan {
	p := Plan{Role: r, By: s.By, Began: s.Began, Stage: s.Stage, Since: s.Since, Forced: s.Forced, Devices: []string{}, Missing: []string{}}
	if a.opts.Phones != nil {
		p.Devices = append(p.Devices, a.opts.Phones(r)...)
	}
	if s.Stage != "" && fetched != nil {
		for _, d := range p.Devices {
			if !fetched(r, d) {
				p.Missing = append(p.Missing, d)
			}
		}
	}
	now, reached := s.Since, s.Stage == ""
	if reached {
		now = a.now()
	}
	// What comes before the present stage is done; dates of what comes after count from the next one's latest beginning.
	step := func(name, text string, st Stage) {
		x := Step{Name: name, Text: text}
		if st == s.Stage {
			reached = true
		}
		x.Done = !reached || st == s.Stage && name != string(st)
		if name == string(st) && !x.Done {
			x.Until = a.until(r, st, now)
			if !x.Until.IsZero() {
				now = x.Until
			}
		}
		p.Steps = append(p.Steps, x)
	}
	where := "trust lists"
	switch r {
	case RoleVPN:
		where = "device files"
	case RoleAdmin:
		where = "TVS"
	case RolePeering:
		where = "what the other appliance knows"
	}
	switch r {
	case RoleSAST:
		step("choose", "the recovery key, which phones hold already, becomes the next signer", StagePublish)
		step(string(StagePublish), "wait until every phone has fetched a list with it", StagePublish)
		step("switch", "a new recovery key is made, and lists are signed by the key that was the recovery key: export the new one", StageRetire)
		step(string(StageRetire), "wait until every phone has fetched a list without the old signer, which signs until then for those that hold nothing newer", StageRetire)
	case RoleSASTRecovery:
		step("make", "a new recovery key takes the old one's place in every list: export it", StageRetire)
		step(string(StageRetire), "wait until every phone has fetched a list without the old one", StageRetire)
	default:
		step("make", "a new key and certificate, published in "+where+" and known to TVS; the old one stays in use", StagePublish)
		step(string(StagePublish), "wait until every phone has fetched it", StagePublish)
		step("switch", "the new certificate is in use; the old one stays published", StageSettle)
		step(string(StageSettle), "wait until every phone knows the new one", StageSettle)
		step("withdraw", "the old one is taken out of "+where+"; TVS still knows it", StageRetire)
		step(string(StageRetire), "wait until every phone has fetched them without the old one", StageRetire)
	}
	p.Steps = append(p.Steps, Step{Name: "forget", Text: "the old private key is deleted"})
	return p
}

// Rotate begins a rotation: by says who wants it. Advance leads it to its end.
func (a *Authority) Rotate(ctx context.Context, r Role, by string) (Plan, error) {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	return a.rotateLocked(ctx, r, by, order{})
}

// RotateIssuer is Rotate for the issuing CA while the root's key is locked with a passphrase.
func (a *Authority) RotateIssuer(ctx context.Context, by, passphrase string) (Plan, error) {
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	return a.rotateLocked(ctx, RoleCAPF, by, order{passphrase: passphrase})
}

func (a *Authority) rotateLocked(ctx context.Context, r Role, by string, o order) (Plan, error) {
	fail := func(err error) (Plan, error) { return Plan{}, fmt.Errorf("pki: rotate %s: %w", r, err) }
	if a.opts.Phones == nil {
		return fail(errors.New("nobody told which phones there are"))
	}
	if _, ok := a.current(r); !ok || r == RoleRoot {
		return fail(ErrUnknown)
	}
	if s, running := a.rotation(r); running {
		return fail(fmt.Errorf("role %w (stage %s since %s)", ErrRotating, s.Stage, day(s.Since)))
	}
	// The two SAST roles share their slots.
	for _, pair := range [][2]Role{{RoleSAST, RoleSASTRecovery}, {RoleSASTRecovery, RoleSAST}} {
		if _, running := a.rotation(pair[1]); r == pair[0] && running {
			return fail(fmt.Errorf("role %s %w", pair[1], ErrRotating))
		}
	}
	if err := a.rotatable(r); err != nil && o.given == nil && (o.passphrase == "" || !errors.Is(err, ErrRootLocked)) {
		return fail(err)
	}
	if err := a.CheckClock(ctx); err != nil {
		return fail(err)
	}
	s := saved{By: by, Began: a.now()}
	if err := a.enter(ctx, r, s, after(r, ""), o); err != nil {
		return fail(err)
	}
	a.log.Info("rotation began", "role", string(r), "by", by)
	s, _ = a.rotation(r)
	return a.plan(r, s, nil), nil
}

// Force lets a rotation go on although phones are missing. Text is why, for the audit; it may not be empty.
func (a *Authority) Force(ctx context.Context, r Role, by, text string) error {
	if strings.TrimSpace(text) == "" {
		return fmt.Errorf("pki: rotate %s: forcing needs a reason", r)
	}
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	s, ok := a.rotation(r)
	if !ok {
		return fmt.Errorf("pki: rotate %s: no rotation is under way: %w", r, ErrUnknown)
	}
	s.Forced = by + ": " + text
	v, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("pki: rotate %s: %w", r, err)
	}
	if err := a.opts.State.Write(ctx, map[string][]byte{a.rotateKey(r, "plan"): v}); err != nil {
		return fmt.Errorf("pki: rotate %s: %w", r, err)
	}
	a.log.Info("rotation forced", "role", string(r), "stage", string(s.Stage), "by", by, "reason", text)
	return nil
}

// Change is one arrow that Advance went along.
type Change struct {
	Role  Role   `json:"role"`
	Stage Stage  `json:"stage"` // the one that was entered; "" at the end
	Text  string `json:"text"`
}

// ByRenewal is who wants a rotation that begins by itself.
const ByRenewal = "renewal"

// Advance leads every rotation as far as it can go, and begins those that are due. It is to be called now and then, and after
// a list or a device file was fetched. While the clock cannot be right it does nothing, since deadlines could not either.
func (a *Authority) Advance(ctx context.Context, now time.Time, fetched Fetched) ([]Change, error) {
	if a.opts.Phones == nil {
		return nil, errors.New("pki: advance rotations: nobody told which phones there are")
	}
	a.rotateMu.Lock()
	defer a.rotateMu.Unlock()
	if err := a.CheckClock(ctx); err != nil {
		return nil, fmt.Errorf("pki: advance rotations: %w", err)
	}
	var changes []Change
	var errs []error
	for _, r := range a.DueRotations(now) {
		if _, err := a.rotateLocked(ctx, r, ByRenewal, order{}); err != nil {
			errs = append(errs, err)
			continue
		}
		changes = append(changes, Change{r, a.Stage(r), "renewal began"})
	}
	for _, r := range Roles() {
		for range route(r) { // at most so many stages at a time
			s, running := a.rotation(r)
			if !running {
				break
			}
			why := a.ready(r, s, now, fetched)
			if why == "" {
				break
			}
			next := after(r, s.Stage)
			if err := a.enter(ctx, r, s, next, order{}); err != nil {
				errs = append(errs, fmt.Errorf("pki: rotate %s: %w", r, err))
				break
			}
			a.log.Info("rotation advanced", "role", string(r), "stage", string(next), "reason", why)
			changes = append(changes, Change{r, next, why})
		}
	}
	return changes, errors.Join(errs...)
}

// ready tells why a rotation may go on, or "".
func (a *Authority) ready(r Role, s saved, now time.Time, fetched Fetched) string {
	if s.Forced != "" {
		return "forced by " + s.Forced
	}
	missing := 0
	for _, d := range a.opts.Phones(r) {
		if fetched == nil || !fetched(r, d) {
			missing++
		}
	}
	if missing == 0 {
		return "every phone has fetched it"
	}
	if until := a.until(r, s.Stage, s.Since); !until.IsZero() && now.After(until) {
		return fmt.Sprintf("%d phones did not come in time", missing)
	}
	return ""
}

// enter leads a rotation into a stage, in one group of writes. What the stage needs is made here, so that a crash before the
// group leaves nothing behind.
func (a *Authority) enter(ctx context.Context, r Role, s saved, to Stage, o order) error {
	b := newBatch(a.opts.State)
	current, _ := a.current(r)
	plan, next, previous := a.rotateKey(r, "plan"), a.rotateKey(r, "next"), a.rotateKey(r, "previous")
	switch {
	case to == "":
		v, _ := a.opts.State.Get(previous)
		if serial := string(v); serial != "" && r != RoleCAPF && !a.inUse(serial) {
			// A CA's key stays: it signs the revocation list of what it has issued.
			b.del = append(b.del, a.keyKey(serial))
		}
		b.del = append(b.del, plan, next, previous)
		return b.commit(ctx)
	case to == StagePublish && r == RoleSAST:
		recovery, ok := a.current(RoleSASTRecovery)
		if !ok || !a.hasKey(recovery) {
			return errors.New("the recovery key is not on this appliance")
		}
		b.set[next] = []byte(recovery)
	case to == StagePublish:
		serial, err := a.make(b, r, o)
		if err != nil {
			return err
		}
		b.set[next] = []byte(serial)
	case to == StageRetire && r == RoleSAST:
		v, _ := a.opts.State.Get(next)
		made, err := a.make(b, RoleSASTRecovery, order{})
		if err != nil {
			return err
		}
		b.set[a.roleKey(RoleSAST)] = v
		b.set[a.roleKey(RoleSASTRecovery)] = []byte(made)
		b.set[previous] = []byte(current)
		b.del = append(b.del, next)
	case to == StageRetire && r == RoleSASTRecovery:
		made, err := a.make(b, r, o)
		if err != nil {
			return err
		}
		b.set[a.roleKey(r)] = []byte(made)
		b.set[previous] = []byte(current)
	case to == StageSettle:
		v, _ := a.opts.State.Get(next)
		b.set[a.roleKey(r)] = v
		b.set[previous] = []byte(current)
		b.del = append(b.del, next)
	}
	s.Stage, s.Since, s.Forced = to, a.now(), ""
	v, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b.set[plan] = v
	a.stampClock(b)
	return b.commit(ctx)
}

// inUse reports whether some role's current certificate has a serial.
func (a *Authority) inUse(serial string) bool {
	return slices.ContainsFunc(Roles(), func(r Role) bool { s, _ := a.current(r); return s == serial })
}

// DueRotations lists the roles that are to be renewed: less than a third of their life is left, and no rotation is under way.
// The issuing CA comes first and alone, since what it signs now would not outlive it.
func (a *Authority) DueRotations(now time.Time) []Role {
	var due []Role
	for _, r := range Roles() {
		if _, running := a.rotation(r); running {
			if r == RoleCAPF {
				return nil
			}
			continue
		}
		id, err := a.Identity(r)
		if err != nil || a.rotatable(r) != nil {
			continue
		}
		part := lifeOf(id.Leaf) / 3
		if serial, _ := a.current(r); a.imported(serial) {
			part /= 2 // see Import
		}
		if id.Leaf.NotAfter.Sub(now) < part {
			due = append(due, r)
		}
	}
	switch {
	case slices.Contains(due, RoleCAPF):
		return []Role{RoleCAPF}
	case slices.Contains(due, RoleSAST):
		// It takes the recovery key with it.
		due = slices.DeleteFunc(due, func(r Role) bool { return r == RoleSASTRecovery })
	}
	for _, pair := range [][2]Role{{RoleSAST, RoleSASTRecovery}, {RoleSASTRecovery, RoleSAST}} {
		if a.Stage(pair[1]) != "" {
			due = slices.DeleteFunc(due, func(r Role) bool { return r == pair[0] })
		}
	}
	return due
}
