package phone

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Screen is an object of the phone's XML interface that is on the screen (calls §6, §18).
type Screen struct {
	Kind                string // CiscoIPPhoneMenu, CiscoIPPhoneText
	Title, Text, Prompt string
	Items               []Item
	Keys                []Item
}

// Item is an entry of a menu, or a soft key of a screen.
type Item struct {
	Name, URL string
	Position  int // of a key
}

// Names are the entries of a menu, from top to bottom.
func (s *Screen) Names() []string {
	var out []string
	for _, i := range s.Items {
		out = append(out, i.Name)
	}
	return out
}

// userData is the target of UserCallData URIs: application, line, call reference (the confid), transaction and data.
type userData struct {
	action           string // of UserCallDataSoftKey
	application, ref int
	data             string
}

// parseUserData reads UserCallData:APP:LINE:REF:TRANSACTION:DATA and UserCallDataSoftKey:ACTION:… (calls §6).
func parseUserData(uri string) (u userData, ok bool) {
	rest, found := strings.CutPrefix(uri, "UserCallDataSoftKey:")
	if found {
		if u.action, rest, found = strings.Cut(rest, ":"); !found {
			return u, false
		}
	} else if rest, found = strings.CutPrefix(uri, "UserCallData:"); !found {
		return u, false
	}
	f := strings.SplitN(rest, ":", 5)
	if len(f) != 5 {
		return u, false
	}
	var err1, err2 error
	u.application, err1 = strconv.Atoi(f[0])
	u.ref, err2 = strconv.Atoi(f[2])
	u.data = f[4]
	return u, err1 == nil && err2 == nil && u.data != ""
}

// parseScreen reads an object that the server has pushed. urls are what a CiscoIPPhoneExecute tells the phone to do.
func parseScreen(b []byte) (s *Screen, urls []string, err error) {
	root, err := parseXML(b)
	if err != nil {
		return nil, nil, err
	}
	s = &Screen{Kind: root.name, Title: root.get("Title"), Text: root.get("Text"), Prompt: root.get("Prompt")}
	switch root.name {
	case "CiscoIPPhoneExecute":
		for _, e := range root.all("ExecuteItem") {
			urls = append(urls, e.attrs["URL"])
		}
		if len(urls) == 0 || len(urls) > 3 {
			return nil, nil, fmt.Errorf("%d things to execute", len(urls))
		}
		return nil, urls, nil
	case "CiscoIPPhoneMenu", "CiscoIPPhoneText", "CiscoIPPhoneDirectory":
	default:
		return nil, nil, fmt.Errorf("unknown object <%s>", root.name)
	}
	for _, e := range root.all("MenuItem") {
		i := Item{Name: e.get("Name"), URL: e.get("URL")}
		if i.Name == "" {
			return nil, nil, errors.New("menu item without a name")
		}
		s.Items = append(s.Items, i)
	}
	taken := map[int]bool{}
	for _, e := range root.all("SoftKeyItem") {
		k := Item{Name: e.get("Name"), URL: e.get("URL")}
		k.Position, err = strconv.Atoi(e.get("Position"))
		if err != nil || k.Position < 1 || k.Position > 8 || taken[k.Position] || k.Name == "" || k.URL == "" {
			return nil, nil, fmt.Errorf("soft key %q at %q", k.Name, e.get("Position"))
		}
		taken[k.Position] = true
		s.Keys = append(s.Keys, k)
	}
	for _, i := range append(append([]Item(nil), s.Items...), s.Keys...) {
		if strings.HasPrefix(i.URL, "UserCallData") {
			if _, ok := parseUserData(i.URL); !ok {
				return nil, nil, fmt.Errorf("%s has the URL %q", i.Name, clip(i.URL))
			}
		}
	}
	return s, urls, nil
}

// show puts what the server has pushed on the screen, or does what it says. p.mu is held.
func (p *Phone) showLocked(s *Screen, urls []string) {
	d := &p.display
	if s != nil {
		d.screen = s
	}
	for _, u := range urls {
		d.executed = keep(d.executed, u)
		switch {
		case u == "Init:Services":
			d.screen = nil
		case strings.HasPrefix(u, "Play:"):
			d.tones = keep(d.tones, u)
		}
	}
	p.changedLocked()
}

// Screen is what is on the screen, nil if nothing of the server's is.
func (p *Phone) Screen() *Screen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.display.screen
}

// WaitScreen waits for a screen.
func (p *Phone) WaitScreen(ctx context.Context, ok func(*Screen) bool) (*Screen, error) {
	var s *Screen
	err := p.Wait(ctx, func() bool {
		s = p.Screen()
		return s != nil && ok(s)
	})
	if err != nil {
		return nil, fmt.Errorf("screen is %+v: %w", s, err)
	}
	return s, nil
}

// Executed are the URLs that the server has told the phone to execute, oldest first.
func (p *Phone) Executed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.display.executed...)
}

// Finished are the features that the server has reported as finished, as "Join Complete" (calls §8).
func (p *Phone) Finished() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.display.finished...)
}

// ScreenKey presses a soft key of the screen while an entry is highlighted (0 is the first). A key of the kind Select sends
// its own word and then the highlighted entry's.
func (p *Phone) ScreenKey(ctx context.Context, name string, item int) error {
	p.mu.Lock()
	s := p.display.screen
	p.mu.Unlock()
	if s == nil {
		return errors.New("screen key: nothing is on the screen")
	}
	for _, k := range s.Keys {
		if k.Name != name {
			continue
		}
		if k.URL == "SoftKey:Exit" {
			p.mu.Lock()
			p.display.screen = nil
			p.changedLocked()
			p.mu.Unlock()
			return nil
		}
		u, ok := parseUserData(k.URL)
		if !ok {
			return fmt.Errorf("screen key: %s has the URL %q", name, k.URL)
		}
		if err := p.answerScreen(ctx, u); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if u.action == "Select" {
			return p.ScreenItem(ctx, item)
		}
		return nil
	}
	return fmt.Errorf("screen key: no key %q on %+v", name, s)
}

// ScreenItem selects an entry.
func (p *Phone) ScreenItem(ctx context.Context, item int) error {
	p.mu.Lock()
	s := p.display.screen
	p.mu.Unlock()
	if s == nil || item < 0 || item >= len(s.Items) {
		return fmt.Errorf("screen: no entry %d", item)
	}
	u, ok := parseUserData(s.Items[item].URL)
	if !ok {
		return fmt.Errorf("screen: entry has the URL %q", s.Items[item].URL)
	}
	return p.answerScreen(ctx, u)
}

// answerScreen sends what the user has chosen.
func (p *Phone) answerScreen(ctx context.Context, u userData) error {
	res, err := p.referOut(ctx, referOut{
		callID: p.newCallID(), tag: p.tag(), line: 0, silent: true, contentType: "multipart/mixed;boundary=uniqueBoundary",
		body: strings.ReplaceAll(fmt.Sprintf(`--uniqueBoundary
Content-Type: %s

<?xml version="1.0" encoding="UTF-8"?>
<x-cisco-remotecc-request>
<datapassthroughreq>
<applicationid>%d</applicationid>
<transactionid>0</transactionid>
<stationsequence>StationSequenceLast</stationsequence>
<displaypriority>2</displaypriority>
<appinstance>0</appinstance>
<routingid>0</routingid>
<confid>%d</confid>
</datapassthroughreq>
</x-cisco-remotecc-request>
--uniqueBoundary
Content-Type: %s

%s
--uniqueBoundary--
`, typeRequest, u.application, u.ref, typeCM, u.data), "\n", "\r\n"),
	})
	if err != nil {
		return err
	}
	if res.status != 202 {
		return fmt.Errorf("%q answered %d %s", u.data, res.status, res.reason)
	}
	return nil
}
