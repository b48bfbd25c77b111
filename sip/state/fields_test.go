package state

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/config"
)

// TestFields reads and writes the fields of sip-options.md §4 under both generations of names.
func TestFields(t *testing.T) {
	declared := func(line, field string) (string, bool) { return line + " " + field, true }
	run(t, func(o *Options) { o.Declared = declared }, func(t *testing.T, b *bench) {
		c := b.client("2001")
		c.register("")
		synctest.Wait()
		c.got()
		ctx := context.Background()
		for name, want := range map[string]string{
			"vmexten": "8500", "mwiexten": "8500", "regcallid": "reg-f1", "register_callid": "reg-f1", "ciscodevicename": phone, "devicename": phone,
			"ciscolineindex": "1", "lineindex": "1", "callforward": "", "donotdisturb": "no", "huntgroup": "yes", "status": "OK", "ip": "10.20.4.31",
			"port": "51234", "useragent": "Cisco-CP8861/14.1.1", "callgroup": "2001 callgroup", "presence": "idle", "curcalls": "0", "transport": "tcp",
		} {
			if got, ok := b.s.Field("2001", name); got != want || !ok {
				t.Errorf("%s is %q (%v), want %q", name, got, ok, want)
			}
		}
		if got, _ := b.s.Field("2011", "lineindex"); got != "2" {
			t.Errorf("lineindex of the second line is %q", got)
		}
		if got, _ := b.s.Field("2011", "register_callid"); got != "reg-f1" {
			t.Errorf("register_callid of the second line is %q, want the primary's", got)
		}
		if got, ok := b.s.Field("9999", "callforward"); got != "" || ok {
			t.Errorf("an unknown line has %q (%v)", got, ok)
		}
		if got, ok := b.s.Field("2001", "shoesize"); got != "" || ok {
			t.Errorf("an unknown field is %q (%v)", got, ok)
		}
		if got, ok := b.s.Field("2002", "status"); got != "UNREGISTERED" || !ok {
			t.Errorf("status of a line that is not there is %q (%v)", got, ok)
		}

		for _, step := range []struct {
			field, value, want string
		}{
			{"callforward", "2002", "REFER 2001 forward{Line:1 Target:2002 ToVoicemail:false}"},
			{"callforward", "", "REFER 2001 forward{Line:1 Target: ToVoicemail:false}"},
			{"donotdisturb", "yes", "REFER 2001 dnd{On:true Reject:true}"},
			{"donotdisturb", "no", "REFER 2001 dnd{On:false Reject:true}"},
			{"huntgroup", "off", "REFER 2001 hunt{On:false}"},
		} {
			if err := b.s.SetField(ctx, "2001", step.field, step.value, ByPlan); err != nil {
				t.Fatal(err)
			}
			c.expect(step.field+" "+step.value, step.want)
		}
		if on := b.store.m["hunt/"+phone]; on != "no" {
			t.Errorf("hunt login is kept as %q", on)
		}
		for _, wrong := range []struct {
			line, field, value string
			want               error
		}{
			{"9999", "callforward", "2002", ErrUnknownLine}, {"2001", "vmexten", "1", ErrReadOnly}, {"2001", "codecs", "1", ErrReadOnly},
			{"2001", "shoesize", "1", ErrUnknownField}, {"2001", "callforward", "2001", ErrForwardLoop},
		} {
			if err := b.s.SetField(ctx, wrong.line, wrong.field, wrong.value, ByPlan); !errors.Is(err, wrong.want) {
				t.Errorf("set %s of %s: %v, want %v", wrong.field, wrong.line, err, wrong.want)
			}
		}
		if err := b.s.SetField(ctx, "2001", "donotdisturb", "perhaps", ByPlan); err == nil {
			t.Error("do-not-disturb can be set to perhaps")
		}
		c.expect("nothing else was told")
	})
}

// TestSwitch sets a manual switch, sees it on a key and after a restart.
func TestSwitch(t *testing.T) {
	store := &memory{m: make(map[string]string)}
	synctest.Test(t, func(t *testing.T) {
		change := func(o *Options) { o.Accounts = accounts{watch: []string{"*28"}} }
		b := newBench(t, change, store)
		b.s.DeclareSwitches("*28", "holiday")
		b.s.Start()
		c := b.client("2001")
		c.register("")
		time.Sleep(time.Minute)
		c.got()
		if err := b.s.SetSwitch(context.Background(), "*28", true, ByAdmin); err != nil {
			t.Fatal(err)
		}
		c.expect("on", "NOTIFY 2001 *28 on-the-phone open")
		if err := b.s.SetSwitch(context.Background(), "*29", true, ByAdmin); !errors.Is(err, ErrUnknownSwitch) {
			t.Errorf("a switch that is not declared: %v", err)
		}
		b.s.Stop()
		b.r.Stop()

		again := newBench(t, change, store)
		again.s.DeclareSwitches("*28", "holiday")
		if !again.s.Switch("*28") || again.s.Switch("holiday") || len(again.s.Switches()) != 2 {
			t.Errorf("after a restart %v, *28 %v", again.s.Switches(), again.s.Switch("*28"))
		}
		again.s.Stop()
		again.r.Stop()
		time.Sleep(2 * time.Minute)
	})
}

// TestFieldsOfRules: the document's checks know the same names.
func TestFieldsOfRules(t *testing.T) {
	if d := cmp.Diff(config.LineFields, FieldNames()); d != "" {
		t.Errorf("config.LineFields (-) and FieldNames (+):\n%s", d)
	}
}
