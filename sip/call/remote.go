package call

import (
	"strconv"
	"sync"

	"github.com/emiago/sipgo/sip"

	"ringfence/sip/cisco"
	"ringfence/sip/dialog"
	"ringfence/sip/registrar"
	"ringfence/sip/transaction"
)

// Key is a softkey of a Cisco phone, pressed in a call ("sip-calls" §1.1). The phone has its 202 when a feature gets to see it;
// what became of it is told with Done, or with Notify while it goes on.
type Key struct {
	Event    cisco.SoftkeyEvent
	Identity registrar.Identity
	Choice   string // of a menu, bare text

	m      *Manager
	tx     *transaction.Server
	silent bool // norefersub: nothing is to be told

	mu   sync.Mutex
	d    *dialog.Dialog
	over bool
}

// RemoteControl takes a remotecc request of a phone, from the connection of its registration. It answers 202, or 603 where the
// call is not the phone's or has ended: Call-ID and both tags must be right. False: no key that is served.
func (m *Manager) RemoteControl(tx *transaction.Server, id registrar.Identity, requests []cisco.Request, choice string) bool {
	if len(requests) == 0 {
		return false
	}
	if d := requests[0].Data; d != nil && m.opt.Choices != nil {
		if !m.opt.Choices(id, *d, choice) {
			tx.Answer(603)
			return true
		}
		tx.Answer(202)
		return true
	}
	if requests[0].Softkey == nil {
		return false
	}
	ev := *requests[0].Softkey
	f, leg, idle := m.opt.Keys[ev.Event], m.opt.LegKeys[ev.Event], m.opt.IdleKeys[ev.Event]
	if f == nil && leg == nil && idle == nil {
		return false
	}
	var l *Leg
	if !ev.Dialog.Zero() {
		l = m.FindDialog(id.Device, id.Line, ev.Dialog.CallID, ev.Dialog.LocalTag, ev.Dialog.RemoteTag)
	}
	k := &Key{Event: ev, Identity: id, Choice: choice, m: m, tx: tx, silent: dialog.List(tx.Request(), "Require")["norefersub"]}
	if d, err := dialog.Incoming(tx.Request(), tx.Tag()); err == nil {
		k.d = d
		d.Confirm()
	}
	switch {
	case l == nil && idle != nil && idle(k): // answers with Accept
		return true
	case l == nil || f == nil && leg == nil:
		m.log.Info("key for a call that is not there", "phone", id.Device, "line", id.Line, "key", ev.Event)
		tx.Answer(603)
		return true
	case m.opt.MayPress != nil && !m.opt.MayPress(l, ev.Event):
		m.log.Info("key is not for this call", "phone", id.Device, "line", id.Line, "key", ev.Event)
		tx.Answer(603)
		return true
	}
	k.Accept()
	press := func() {
		if leg != nil {
			leg(l, k)
			return
		}
		l.h.key(l, k)
	}
	if !l.post(press) {
		k.Done(500)
	}
	return true
}

// Accept answers the key of an IdleKeys handler with 202; others have been answered.
func (k *Key) Accept() { k.tx.Answer(202, k.contact()) }

// Manager is where the calls live.
func (k *Key) Manager() *Manager { return k.m }

func (k *Key) contact() sip.Header {
	f := k.tx.Flow()
	return sip.NewHeader("Contact", "<"+uri(k.Identity.Line, f.Local().Addr().Unmap())+":"+itoa(int(f.Local().Port()))+">")
}

// Binding is where the phone is registered; nil if it is no more.
func (k *Key) Binding() *registrar.Binding {
	return k.m.bindingOf(k.Identity.Line, k.Identity.Device)
}

// Consult is the leg of the second call that a key names; nil if there is no such call of the phone.
func (k *Key) Consult() *Leg {
	d := k.Event.Consult
	return k.m.FindDialog(k.Identity.Device, k.Identity.Line, d.CallID, d.LocalTag, d.RemoteTag)
}

// Dialog names the call of the key as the phone does.
func (k *Key) Dialog() cisco.DialogID { return k.Event.Dialog }

// Done tells the phone the result: 200 done, 500 failed, once ("sip-calls" §1.1 rule 6). Keys that asked not to be told are
// not.
func (k *Key) Done(code int) {
	body := (&cisco.Response{Code: code}).Marshal()
	k.Notify("terminated;reason=noresource", cisco.TypeResponse, body)
}

// Notify tells the phone how the matter stands; a state that begins with "terminated" ends it. After that nothing is told any
// more.
func (k *Key) Notify(state, contentType string, body []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.silent || k.over || k.d == nil {
		return
	}
	if len(state) >= 10 && state[:10] == "terminated" {
		k.over = true
	}
	f := k.tx.Flow()
	select {
	case <-f.Done():
		if b := k.Binding(); b != nil {
			f = b.Flow
		} else {
			return
		}
	default:
	}
	req := k.d.Request(sip.NOTIFY)
	req.AppendHeader(k.contact())
	req.AppendHeader(sip.NewHeader("Event", "refer"))
	req.AppendHeader(sip.NewHeader("Subscription-State", state))
	req.AppendHeader(sip.NewHeader("Supported", "replaces,timer,"+cisco.SIS))
	if len(body) > 0 {
		transaction.SetBody(req, contentType, body)
	}
	_, _ = k.m.opt.Transactions.Request(f, req, nil)
}

// Push sends remotecc requests to the phone of a leg; done, if not nil, is called in the goroutine of the leg's owner when the
// phone has answered, or when it is certain that it will not.
func (l *Leg) Push(done func(), requests ...cisco.Request) {
	parts := make([]cisco.Part, len(requests))
	for i := range requests {
		parts[i] = cisco.Part{Type: cisco.TypeRequest, Body: requests[i].Marshal()}
	}
	l.PushParts(done, parts...)
}

// PushParts is Push for parts of any type.
func (l *Leg) PushParts(done func(), parts ...cisco.Part) {
	told := func(int, error) {
		if done != nil {
			l.post(done)
		}
	}
	b := l.m.bindingOf(l.Line.Number, l.Device)
	if b == nil || !l.Cisco {
		told(0, nil)
		return
	}
	l.m.opt.State.PushParts(b, told, parts...)
}

func (m *Manager) bindingOf(line, device string) *registrar.Binding {
	for _, b := range m.opt.Bindings.Lookup(line) {
		if b.Device == device && b.Reachable() {
			return b
		}
	}
	return nil
}

// Do runs f in the goroutine of whoever owns the leg then; false if the leg is over.
func (l *Leg) Do(f func()) bool { return l.post(f) }

// Manager is where the leg lives.
func (l *Leg) Manager() *Manager { return l.m }

// DialogID names the leg as its phone does.
func (l *Leg) DialogID() cisco.DialogID {
	return cisco.DialogID{CallID: l.d.CallID, LocalTag: l.d.Remote.Tag, RemoteTag: l.d.Local.Tag}
}

func (k *Key) String() string {
	return k.Event.Event + " of " + k.Identity.Device + " line " + strconv.Itoa(k.Event.Line)
}
