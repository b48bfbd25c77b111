package phone

import "slices"

// Lamp is what a lamp key shows.
type Lamp string

// The states of a lamp key (state §1). Plain is a key that was never lit: it is a speed dial and no more.
const (
	LampPlain    Lamp = ""
	LampIdle     Lamp = "idle"
	LampAlerting Lamp = "alerting"
	LampBusy     Lamp = "busy"
	LampDND      Lamp = "dnd"
	LampUnknown  Lamp = "unknown"
)

// display is what a user would see. Guarded by Phone.mu.
type display struct {
	lamps   map[string]Lamp
	lines   map[int]*LineState
	dnd     bool
	dndMode string // callreject or ringeroff
	hunt    bool
	huntSet bool
	notices []string
	tones   []string
	screens []string

	screen   *Screen // shown now
	executed []string
	finished []string
	private  bool
	remote   map[int][]RemoteCall // by index of a shared line: what its other phones do
	remotes  map[int]lineNotice   // the last one about it
}

// LineState is what is shown beside a line.
type LineState struct {
	Name        string
	Forward     string // target of forward all, empty when off
	ToVoicemail bool
	Message     bool // lamp
	New, Old    int
}

// reset clears what a registration starts from zero (registration §7.2); DND and hunt login stay as the phone last knew.
func (d *display) reset(c *Config) {
	d.lamps, d.remote, d.remotes = make(map[string]Lamp), make(map[int][]RemoteCall), make(map[int]lineNotice)
	old := d.lines
	d.lines = make(map[int]*LineState)
	for _, l := range c.Lines {
		d.lines[l.Index] = &LineState{Name: l.Name}
		if s := old[l.Index]; s != nil && s.Name == l.Name {
			*d.lines[l.Index] = *s
		}
	}
}

const maxNotices = 64

func keep(list []string, text string) []string {
	list = append(list, text)
	if len(list) > maxNotices {
		list = slices.Delete(list, 0, len(list)-maxNotices)
	}
	return list
}

// BLF is the state of the lamp key for a number.
func (p *Phone) BLF(number string) Lamp {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.display.lamps[number]
}

// DND says whether do-not-disturb is shown, and whether calls are rejected ("callreject") or ring silently ("ringeroff").
func (p *Phone) DND() (on bool, mode string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.display.dnd, p.display.dndMode
}

// HuntLogin says whether the phone shows itself logged in to the hunt group; known is false before the server said so.
func (p *Phone) HuntLogin() (in, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.display.hunt, p.display.huntSet
}

// Line is the state shown for the line with that index.
func (p *Phone) Line(index int) LineState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.display.lines[index]; s != nil {
		return *s
	}
	return LineState{}
}

// Forward is the shown target of forward all of the line with that index, empty when off.
func (p *Phone) Forward(index int) string { return p.Line(index).Forward }

// Notices are the texts of the status line, oldest first; Tones the tones that the server had played.
func (p *Phone) Notices() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.display.notices)
}

// Tones are the tones that the server had the phone play, oldest first.
func (p *Phone) Tones() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.display.tones)
}

// Screens are the XML objects that the server has put on the screen, oldest first.
func (p *Phone) Screens() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.display.screens)
}

// Missed counts the calls that went into the list of missed calls.
func (p *Phone) Missed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missed
}
