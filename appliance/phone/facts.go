package phone

import (
	"regexp"
	"strings"
	"time"
)

// fileName finds a file that the provisioning pages know in the text of a note.
var fileName = regexp.MustCompile(`(?i)[^\s"',;]+\.(?:tlv|xml|sgn|loads|sbn|jar|json|raw|rwb|png|csv)\b[^\s"',;]*`)

// What a file is, by its name (provisioning.md §1.2, §1.4, §1.5).
var (
	deviceFile   = regexp.MustCompile(`(?i)SEP[0-9A-F]{12}\.cnf\.xml`)
	trustFile    = regexp.MustCompile(`(?i)(?:CTL|ITL)(?:SEP[0-9A-F]{12}|File)\.tlv`)
	firmwareFile = regexp.MustCompile(`(?i)(?:\.loads|\.sbn|\.bin\d?\.sgn|\.zz\.sgn)$|^(?:kern|rootfs|sb2|ssb)`)
	signedFile   = regexp.MustCompile(`(?i)\.sgn$`)
	// Files that are named in the configuration: asking for one proves that the configuration was accepted (§1.1, §1.3).
	acceptedFile = regexp.MustCompile(`(?i)^(?:.*/)?(?:dial[^/]*|[^/]*soft-?key[^/]*|keys[^/]*|[^/]*template[^/]*|[^/]*policy[^/]*)\.xml(?:\.sgn)?$`)
	appDialRules = regexp.MustCompile(`(?i)AppDialRules`)

	refusedText    = regexp.MustCompile(`(?i)\b404\b|not found|not declared`)
	stubText       = regexp.MustCompile(`(?i)\bstub\b`)
	registeredText = regexp.MustCompile(`(?i)^(?:re-?)?registered\b`)
	goodbyeText    = regexp.MustCompile(`(?i)^unregistered`)
	toldText       = regexp.MustCompile(`(?i)^told to (?:restart|reset|check-version|apply-config)`)
	comesBackText  = regexp.MustCompile(`(?i)\breset-|restart|stamp|apply-config|config-retry`)
	goneText       = regexp.MustCompile(`(?i)^(?:connection closed|unregistered|registration expired)`)
)

// facts is what a record says about the present boot: everything since the last registration, or all of it.
type facts struct {
	Facts
	now     time.Time
	device  string
	entries []Entry // of this boot
	ever    bool    // registered once

	newest     time.Time
	signed     *Entry // device file with .sgn, the newest
	deviceFile *Entry // the newest of both that was answered
	refused    *Entry // device file that was not
	asked      int    // device file asked, times
	trust      *Entry
	accepted   *Entry
	firmware   *Entry // refused
	plainAny   bool   // any file other than trust lists and firmware asked without .sgn
	registered *Entry // the newest successful registration of the whole record
}

func isRegistered(e *Entry) bool {
	return e.Step == Register && !e.Failed && registeredText.MatchString(e.Text)
}

// isGone tells whether e is the end of a registration, whoever ended it.
func isGone(e *Entry) bool { return e.Step == Register && goneText.MatchString(e.Text) }

// goodbye is the phone's own end of its registration if nothing came from it since. One that only restarts is on its way back.
func (f *facts) goodbye() *Entry {
	var bye *Entry
	for i := range f.entries {
		if e := &f.entries[i]; e.Step == Register && !e.Failed && goodbyeText.MatchString(e.Text) {
			bye = later(bye, e)
		} else if toldText.MatchString(e.Text) {
			return nil
		}
	}
	if bye == nil || comesBackText.MatchString(bye.Text) {
		return nil
	}
	for i := range f.entries {
		if e := &f.entries[i]; !isGone(e) && e.Last.After(bye.Last) {
			return nil
		}
	}
	return bye
}

func gather(device string, known Facts, record []Entry, ever bool, now time.Time) *facts {
	f := &facts{Facts: known, now: now, device: device, ever: ever}
	for i := range record {
		if e := &record[i]; isRegistered(e) {
			f.registered = later(f.registered, e)
		}
	}
	for i := range record {
		e := &record[i]
		if e.Last.After(f.newest) {
			f.newest = e.Last
		}
		if f.registered != nil && !known.Registered && !e.Last.After(f.registered.Last) {
			continue
		}
		f.entries = append(f.entries, *e)
	}
	for i := range f.entries {
		e := &f.entries[i]
		if e.class == 0 {
			e.class = classify(e)
		}
		if e.Step == File || e.Step == Trust {
			f.file(e)
		}
	}
	return f
}

// class is what the text of an entry says about a file. It is found once per entry, for the expressions cost more than all
// the rest of judging.
type class uint16

const (
	classified class = 1 << iota
	aTrustList
	aFirmware
	aDeviceFile
	anAccepted // named in the configuration
	another
	isSigned
	isRefused
	isStub
	isMultiplatform
)

func classify(e *Entry) class {
	c := classified
	name := strings.TrimRight(fileName.FindString(e.Text), ".:)")
	name = strings.TrimLeft(name, `/\`)
	if e.Failed || refusedText.MatchString(e.Text) {
		c |= isRefused
	}
	if signedFile.MatchString(name) {
		c |= isSigned
	}
	if wordsMPP.MatchString(e.Text) {
		c |= isMultiplatform
	}
	switch {
	case name == "":
	case trustFile.MatchString(name):
		c |= aTrustList
	case firmwareFile.MatchString(name):
		c |= aFirmware
	case deviceFile.MatchString(name):
		c |= aDeviceFile
		if stubText.MatchString(e.Text) {
			c |= isStub
		}
	case acceptedFile.MatchString(name) && !appDialRules.MatchString(name):
		c |= anAccepted
	default:
		c |= another
	}
	return c
}

func (f *facts) file(e *Entry) {
	has := func(c class) bool { return e.class&c != 0 }
	switch {
	case has(aTrustList):
		f.trust = e
	case has(aFirmware):
		if has(isRefused) {
			f.firmware = e
		}
	case has(aDeviceFile):
		f.asked += e.Count
		if has(isRefused) {
			f.refused = later(f.refused, e)
		} else {
			f.deviceFile = later(f.deviceFile, e)
		}
		if has(isSigned) {
			f.signed = later(f.signed, e)
		} else {
			f.plainAny = true
		}
	case has(anAccepted):
		f.plainAny = f.plainAny || !has(isSigned)
		f.accepted = later(f.accepted, e)
	case has(another):
		f.plainAny = f.plainAny || !has(isSigned)
	case e.Step == Trust:
		f.trust = e
	case e.Failed: // about the device file as a whole
		f.refused = later(f.refused, e)
	}
}

// later is the one that happened last; nil is never.
func later(a, b *Entry) *Entry {
	if a == nil || b != nil && b.Last.After(a.Last) {
		return b
	}
	return a
}

// failure is the newest failed entry of the steps that has one of the words, nil when none. A later entry of the same step
// that did not fail clears it. No words: any failure.
func (f *facts) failure(words *regexp.Regexp, steps ...Step) *Entry {
	var found *Entry
	for i := range f.entries {
		e := &f.entries[i]
		for _, s := range steps {
			if e.Step != s || !e.Failed || isGone(e) || words != nil && !words.MatchString(e.Text) {
				continue
			}
			found = later(found, e)
		}
	}
	if found != nil {
		for i := range f.entries {
			if e := &f.entries[i]; e.Step == found.Step && !e.Failed && e.Last.After(found.Last) && !isGone(e) {
				return nil
			}
		}
	}
	return found
}

// any is the newest entry of the steps, nil when there is none.
func (f *facts) any(steps ...Step) *Entry {
	var found *Entry
	for i := range f.entries {
		for _, s := range steps {
			if f.entries[i].Step == s {
				found = later(found, &f.entries[i])
			}
		}
	}
	return found
}

// ok is the newest entry of the step that did not fail.
func (f *facts) ok(step Step) *Entry {
	var found *Entry
	for i := range f.entries {
		if e := &f.entries[i]; e.Step == step && !e.Failed {
			found = later(found, e)
		}
	}
	return found
}

// quiet tells whether e is there and longer ago than d.
func (f *facts) quiet(e *Entry, d time.Duration) bool { return e != nil && f.now.Sub(e.Last) > d }

// again tells whether e repeats at a pace between low and high.
func again(e *Entry, times int, low, high time.Duration) bool {
	return e != nil && e.Count >= times && e.Every() >= low && e.Every() <= high
}
