package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// gateway measures the VPN gateway beside ocserv and wireguard-go: the program vpn/bench in namespaces of its own. Its raw output is
// gateway.txt.
func (b *bench) gateway(ctx context.Context) error {
	if os.Geteuid() != 0 {
		b.report.add(row{Name: "gateway beside ocserv", Beside: "needs root"})
		return nil
	}
	for _, program := range []string{"openconnect", "ocserv"} {
		if _, err := exec.LookPath(program); err != nil {
			b.report.add(row{Name: "gateway beside ocserv", Beside: program + " is not installed"})
			return nil
		}
	}
	program, results := filepath.Join(b.out, "vpnbench"), filepath.Join(b.out, "gateway.json")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "./vpn/bench").CombinedOutput(); err != nil {
		return fmt.Errorf("build vpn/bench: %w: %s", err, out)
	}
	args := []string{"-json", results, "-rounds", "3", "-megabytes", "100", "-seconds", "3"}
	if b.quick {
		args = []string{"-json", results, "-rounds", "1", "-megabytes", "10", "-seconds", "1"}
	}
	_ = os.Remove(results)
	out, ran := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err := os.WriteFile(filepath.Join(b.out, "gateway.txt"), out, 0o644); err != nil {
		return err
	}
	text, err := os.ReadFile(results)
	if err != nil {
		return fmt.Errorf("vpn/bench: %w; see gateway.txt", ran)
	}
	var all []struct {
		Work, Unit, Against string
		Ours, Other, Goal   float64
		Loss                float64
		P99                 float64 `json:"p99_us"`
		P99Other            float64 `json:"p99_other_us"`
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	for _, f := range all {
		x := row{Name: "gateway: " + f.Work, Value: f.Ours, Unit: f.Unit, Reference: f.Other, Than: f.Against, Goal: f.Goal * f.Other}
		if f.P99 > 0 {
			x.Beside = fmt.Sprintf("p99 %.2f ms", f.P99/1e3)
			if f.P99Other > 0 {
				x.Beside += fmt.Sprintf(", %s %.2f ms", f.Against, f.P99Other/1e3)
			}
			x.Beside += fmt.Sprintf(", lost %.2f %%", 100*f.Loss)
		}
		b.report.add(x)
	}
	if ran != nil {
		return fmt.Errorf("vpn/bench: %w; see gateway.txt", ran)
	}
	return nil
}
