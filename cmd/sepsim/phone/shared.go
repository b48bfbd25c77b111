package phone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// RemoteCall is what another phone does with a line that this one has too: "remote in use" (calls §26).
type RemoteCall struct {
	ID                          string
	CallID, LocalTag, RemoteTag string // as the other phone sees its dialog
	State                       string // early, confirmed
	Placed                      bool   // by the other phone
	Held                        bool
	Name, Number                string // whom it talks with; empty if that is withheld
}

// lineNotice is the last notice about a shared line: versions rise within a series.
type lineNotice struct {
	series  string
	version int
}

// remoteUse reads what the other phones of a shared line do. The calls of a full document replace all that were known; a call
// that has ended is terminated, or is left out.
func (p *Phone) remoteUse(m *message) error {
	root, err := parseXML(m.body)
	if err != nil {
		return err
	}
	if kind, _, _ := strings.Cut(m.get("Content-Type"), ";"); root.name != "dialog-info" || !strings.EqualFold(strings.TrimSpace(kind), typeDialog) {
		return fmt.Errorf("root element <%s> of type %q", root.name, clip(m.get("Content-Type")))
	}
	number := userOf(root.attrs["entity"])
	version, err := strconv.Atoi(root.attrs["version"])
	if err != nil {
		return fmt.Errorf("version %q", clip(root.attrs["version"]))
	}
	var calls []RemoteCall
	for _, d := range root.all("dialog") {
		c := RemoteCall{
			ID: d.attrs["id"], CallID: d.attrs["call-id"], LocalTag: d.attrs["local-tag"], RemoteTag: d.attrs["remote-tag"],
			State: d.get("state"), Placed: d.attrs["direction"] == "initiator", Number: userOf(d.get("remote/identity")),
		}
		if e := d.at("remote/identity"); e != nil {
			c.Name = e.attrs["display"]
		}
		if t := d.at("local/target"); t != nil {
			for _, k := range t.all("param") {
				c.Held = c.Held || k.attrs["pname"] == "+sip.rendering" && k.attrs["pvalue"] == "no"
			}
		}
		switch {
		case c.ID == "" || c.CallID == "" || c.LocalTag == "" || c.RemoteTag == "":
			return errors.New("dialog without id, call-id or tags")
		case c.State == "terminated":
		case c.State == "early" || c.State == "confirmed":
			calls = append(calls, c)
		default:
			return fmt.Errorf("dialog state %q", clip(c.State))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.config.Lines, func(l Line) bool { return l.Name == number })
	switch {
	case i < 0 || !p.config.Lines[i].Shared:
		return fmt.Errorf("%s is no shared line of this phone", clip(number))
	case root.attrs["state"] != "full":
		return fmt.Errorf("state %q", clip(root.attrs["state"]))
	}
	index := p.config.Lines[i].Index
	if last := p.display.remotes[index]; last.series == m.get("Call-ID") && last.version >= version {
		return fmt.Errorf("version %d after %d", version, last.version)
	}
	p.display.remotes[index], p.display.remote[index] = lineNotice{m.get("Call-ID"), version}, calls
	p.changedLocked()
	return nil
}

// RemoteCalls are what the other phones of a shared line do with it.
func (p *Phone) RemoteCalls(index int) []RemoteCall {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.display.remote[index])
}

// WaitRemoteCall waits until exactly one call of another phone is shown for a shared line, and it is as wanted.
func (p *Phone) WaitRemoteCall(ctx context.Context, index int, ok func(RemoteCall) bool) (RemoteCall, error) {
	var got []RemoteCall
	err := p.Wait(ctx, func() bool {
		got = p.RemoteCalls(index)
		return len(got) == 1 && ok(got[0])
	})
	if err != nil {
		return RemoteCall{}, fmt.Errorf("line %d shows %+v: %w", index, got, err)
	}
	return got[0], nil
}

// Privacy tells whether the phone shows that its calls are hidden from other phones.
func (p *Phone) Privacy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.display.private
}

// Barge steps into the call of another phone: how is "barge" or "cbarge".
func (p *Phone) Barge(ctx context.Context, index int, c RemoteCall, how string) (*Call, error) {
	return p.nameCall(ctx, index, c, "Join", how)
}

// Retrieve takes over a call that another phone holds.
func (p *Phone) Retrieve(ctx context.Context, index int, c RemoteCall) (*Call, error) {
	return p.nameCall(ctx, index, c, "Replaces", "resume")
}

func (p *Phone) nameCall(ctx context.Context, index int, c RemoteCall, header, feature string) (*Call, error) {
	p.mu.Lock()
	conf := p.config
	p.mu.Unlock()
	for _, l := range conf.Lines {
		if l.Index == index && l.Shared {
			return p.callWith(ctx, index, l.Name,
				headerField{header, fmt.Sprintf("%s;to-tag=%s;from-tag=%s", c.CallID, c.RemoteTag, c.LocalTag)},
				headerField{"Call-Info", "<urn:x-cisco-remotecc:" + feature + ">"})
		}
	}
	return nil, fmt.Errorf("line %d is not shared", index)
}
