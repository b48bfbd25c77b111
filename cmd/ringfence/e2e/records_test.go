package e2e

import (
	"encoding/csv"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/cmd/sepsim/phone"
	"ringfence/internal/feature"
)

// callRecord is what the test reads of a record.
type callRecord struct {
	ID      string   `json:"id"`
	From    string   `json:"from"`
	Dialled string   `json:"dialled"`
	To      string   `json:"to"`
	Result  string   `json:"result"`
	Cause   string   `json:"cause"`
	EndedBy string   `json:"ended_by"`
	Talked  float64  `json:"talked_seconds"`
	Common  string   `json:"common"`
	Related []string `json:"related"`
	Open    bool     `json:"open"`
	Legs    []struct {
		Line      string `json:"line"`
		Cause     string `json:"cause"`
		Codec     string `json:"codec"`
		Encrypted bool   `json:"encrypted"`
		Heard     *struct {
			Packets int `json:"packets"`
		} `json:"phone_received"`
		Here struct {
			In uint64 `json:"packets_in"`
		} `json:"appliance"`
	} `json:"legs"`
}

func (d *daemon) history(n int) (list []callRecord) {
	d.t.Helper()
	eventually(d.t, 10*time.Second, "the calls are recorded", func() bool {
		d.json(&list, "call", "history")
		return len(list) >= n
	})
	return list
}

func TestCallRecords(t *testing.T) {
	feature.Proves(t, "CDR-2", "CDR-3", "CDR-5")
	d, ada, ben, cleo := trio(t)
	ctx := within(t, 60*time.Second)
	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)
	if err := cb.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, ca, cb)
	refused, err := ada.Call(ctx, "399")
	if err != nil {
		t.Fatal(err)
	}
	over(t, refused)

	// A transfer makes two calls, which name each other.
	ca, cb = connect(t, ada, ben, "302")
	consult, err := ca.Consult(ctx, "303")
	if err != nil {
		t.Fatal(err)
	}
	cc, err := cleo.WaitIncoming(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := cc.Answer(ctx); err != nil {
		t.Fatal(err)
	}
	if err := consult.WaitState(ctx, phone.Connected); err != nil {
		t.Fatal(err)
	}
	if err := ca.Transfer(ctx, consult); err != nil {
		t.Fatal(err)
	}
	over(t, ca, consult)
	hear(t, cb, cc)
	if err := cc.Hangup(ctx); err != nil {
		t.Fatal(err)
	}
	over(t, cb, cc)
	d.quiet()

	list := d.history(4)
	if r := list[0]; r.From != "301" || r.To != "302" || r.Result != "answered" || r.EndedBy != "302" || len(r.Legs) != 2 || r.Talked <= 0 {
		t.Errorf("%+v", r)
	}
	for _, l := range list[0].Legs {
		if l.Heard == nil || l.Heard.Packets == 0 || l.Here.In == 0 || l.Codec != "G722" || !l.Encrypted {
			t.Errorf("leg of %s: %+v", l.Line, l)
		}
	}
	if r := list[1]; r.Result != "failed" || r.Cause != "404" || r.Dialled != "399" || r.Talked != 0 {
		t.Errorf("%+v", r)
	}
	if a, b := list[2], list[3]; len(b.Related) != 1 || b.Related[0] != a.ID || b.Common != a.ID {
		t.Errorf("transferred: %+v\n%+v", a, b)
	}
	if text := d.verb("call", "show", list[0].ID); !strings.Contains(text, "phone received") || !strings.Contains(text, "hung up by") {
		t.Error(text)
	}
	rows, err := csv.NewReader(strings.NewReader(d.verb("call", "export", "--line", "303"))).ReadAll()
	if err != nil || len(rows) < 3 || rows[0][0] != "record" {
		t.Errorf("%q, %v", rows, err)
	}
	if text := d.verb("call", "export", "--format", "json"); strings.Count(text, "\n") != 4 {
		t.Error(text)
	}

	// What talks when the power fails is not lost.
	ca, cb = connect(t, ada, ben, "302")
	hear(t, ca, cb)
	for _, p := range []*phone.Phone{ada, ben, cleo} {
		p.Stop()
	}
	d.kill()
	d.start()
	list = d.history(5)
	if r := list[4]; r.Cause != "appliance stopped" || r.Open || r.From != "301" {
		t.Errorf("cut call: %+v", r)
	}
}

func TestCallTrace(t *testing.T) {
	collector, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	defer collector.Close()
	d := newDaemon(t, three+"records:\n  homer: "+collector.LocalAddr().String()+"\n")
	ada, ben := d.newPhone("SEP001122AA0001", "8851", 1), d.newPhone("SEP001122AA0002", "8841", 2)
	for _, p := range []*phone.Phone{ada, ben} {
		d.ready(p)
	}
	ca, cb := connect(t, ada, ben, "302")
	hear(t, ca, cb)
	var calls []struct{ ID string }
	d.json(&calls, "call", "list")
	name := filepath.Join(t.TempDir(), "call.pcapng")
	for _, when := range []string{"while it goes on", "when it is over"} {
		text := d.verb("call", "trace", calls[0].ID, "--messages", "--pcapng", name)
		for _, want := range []string{"INVITE SDP ---", "180 Ringing", "200 OK SDP", "ACK", "301 TLS", "302 TLS", "inline:[redacted]", "a=rtpmap:9 G722/8000", "[redacted]\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in\n%s", when, want, text)
			}
		}
		if strings.Contains(text, "response=") {
			t.Errorf("%s: a digest is shown\n%s", when, text)
		}
		if when == "while it goes on" {
			if err := ca.Hangup(within(t, 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			over(t, ca, cb)
			d.quiet()
			d.history(1)
		} else if !strings.Contains(text, "200 OK (BYE)") {
			t.Error(text)
		}
	}
	if tshark, err := exec.LookPath("tshark"); err == nil {
		out, err := exec.Command(tshark, "-n", "-r", name, "-Y", "sip.Method", "-T", "fields", "-e", "sip.Method").Output()
		if err != nil || !strings.Contains(string(out), "INVITE") || !strings.Contains(string(out), "BYE") {
			t.Errorf("tshark reads %q, %v", out, err)
		}
	}
	if b, err := os.ReadFile(name); err != nil || strings.Contains(string(b), "response=") {
		t.Errorf("the capture holds a digest, or %v", err)
	}
	buf := make([]byte, 65536)
	_ = collector.SetReadDeadline(time.Now().Add(10 * time.Second))
	n, _, err := collector.ReadFromUDP(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), "HEP3") || !strings.Contains(string(buf[:n]), "INVITE sip:302@") {
		t.Errorf("the collector got %q, %v", buf[:n], err)
	}
	unharmed(t, ada, ben)
}
