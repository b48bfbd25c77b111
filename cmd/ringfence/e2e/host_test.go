package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// machineNetwork declares the cable to a host beside.
func machineNetwork(interfaces, firewall string) string {
	return strings.Replace(morning, "  tunnel:\n", "  host:\n    confirm: 300s\n    interfaces:\n      - "+interfaces+"\n    firewall: "+firewall+"\n  tunnel:\n", 1)
}

// TestMachineNetwork has an administrator change the machine's own network: confirmed it stays, over restarts; what locks him out returns by
// itself, after the time and after a crash; what is wrong is told with its place. Zones open what each needs.
func TestMachineNetwork(t *testing.T) {
	h := newHost(t)
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "inet", "ringfence").Run() })
	d := newDaemon(t, machineNetwork("{name: cable, addresses: [198.51.100.1/24], zones: [phones]}", "{enabled: true}"))
	answers := func(port string) bool {
		_, err := h.try("curl", "-s", "-o", "/dev/null", "-m", "1", "http://"+d.site.Address+":"+port+"/")
		return err == nil
	}
	open := func(why string, port string) {
		t.Helper()
		eventually(t, 30*time.Second, why+": port "+port+" is open", func() bool { return answers(port) })
	}
	returned := func(why string) {
		t.Helper()
		eventually(t, 30*time.Second, "the change has returned: "+why, func() bool { return strings.Contains(d.verb("host", "show"), why) })
	}

	open("nothing is in force before it is applied", "9090")
	if out := d.verb("status"); !strings.Contains(out, "ringfence host apply") {
		t.Errorf("status does not say that the network is not as declared:\n%s", out)
	}
	d.verb("host", "apply")
	open("phones", "6970")
	if answers("9090") {
		t.Error("phones reach what is for administration")
	}
	d.verb("host", "confirm")
	if out, code := d.try("host", "confirm"); code == 0 {
		t.Errorf("confirmed twice: %s", out)
	}
	d.stop()
	d.start()
	open("started again", "6970")
	if answers("9090") {
		t.Error("the firewall is not in force after a start")
	}

	d.write(machineNetwork("{name: cable, addresses: [198.51.100.1/24], zones: [phones, administration]}", "{enabled: true}"))
	if out := d.verb("config", "reload"); !strings.Contains(out, "host apply") {
		t.Errorf("the reload does not say what is left to do:\n%s", out)
	}
	d.verb("host", "apply")
	d.verb("host", "confirm")
	open("administration", "9090")

	// The way of the administrator is cut, three times.
	d.write(machineNetwork("{name: cable, addresses: [203.0.113.1/24], zones: [phones, administration]}", "{enabled: true}"))
	d.verb("config", "reload")
	d.verb("host", "apply", "--within", "3s")
	returned("nobody confirmed it")
	open("returned by time", "9090")
	if out, code := d.try("host", "confirm"); code == 0 || !strings.Contains(out, "returned") {
		t.Errorf("confirmed too late: %d %s", code, out)
	}
	d.verb("host", "apply")
	if answers("9090") {
		t.Fatal("the change cuts nothing: the test proves nothing")
	}
	d.kill()
	d.start()
	returned("the daemon ended before")
	open("returned after a crash", "9090")
	d.verb("host", "apply")
	d.stop()
	if out := h.run("ping", "-n", "-c", "1", "-W", "10", "198.51.100.1"); !strings.Contains(out, " 0% packet loss") {
		t.Errorf("the stop of the daemon left the change:\n%s", out)
	}
}

// TestMachineNetworkFaults shows that what cannot be is refused with its place.
func TestMachineNetworkFaults(t *testing.T) {
	d := newDaemon(t, machineNetwork("{name: nothing0, addresses: [198.51.100.1/24]}", "{}"))
	out, code := d.try("host", "apply")
	if code == 0 || !strings.Contains(out, "ringfence.yaml:") || !strings.Contains(out, "there is no interface nothing0") {
		t.Errorf("status %d:\n%s", code, out)
	}
	for text, want := range map[string]string{
		"{name: cable, addresses: [198.51.100.1], zones: [phones]}":                            "add the length of the network",
		"{name: cable, addresses: [198.51.100.1/24], gateway: 192.0.2.1, zones: [phones]}":     "no address of cable reaches 192.0.2.1",
		"{name: cable, vlan: 7, zones: [phones]}":                                              "nothing carries VLAN 7",
		"{name: cable, addresses: [198.51.100.1/24], zones: [phone]}":                          "phones",
		"{name: cable, addresses: [198.51.100.255/24]}":                                        "broadcast",
		"{name: cable, addresses: [198.51.100.1/24, \"2001:db8::1/64\"], ipv6: off, mtu: 200}": "",
	} {
		d.write(machineNetwork(text, "{enabled: true}"))
		out, code := d.try("config", "reload")
		if code == 0 || !strings.Contains(out, want) || !strings.Contains(out, "ringfence.yaml:") || !strings.Contains(out, "nothing was changed") {
			t.Errorf("%s: status %d:\n%s", text, code, out)
		}
	}
	var v struct{ State string }
	if err := json.Unmarshal([]byte(d.verb("host", "show", "--json")), &v); err != nil || v.State != "differs" {
		t.Errorf("%v %+v", err, v)
	}
}
