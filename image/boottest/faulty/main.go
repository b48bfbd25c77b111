// Command faulty is a release that goes wrong, for the tests of what happens then. It is PID 1 like the real one; the name of the
// fault is set when it is linked.
package main

import (
	"context"
	"os"
	"time"

	"ringfence/image/boot"
)

// fault is panic, hang, unhealthy, exit or crash.
var fault = "panic"

func main() {
	if !boot.IsInit() { // the daemon, or what stores its configuration
		if len(os.Args) > 1 && os.Args[1] == "run" && fault != "crash" {
			time.Sleep(time.Hour)
		}
		return
	}
	if fault == "exit" {
		return // before anything: the kernel panics
	}
	boot.Run(boot.Options{
		Address: func([]byte) (string, error) { return "192.0.2.1", nil },
		Ask: func(context.Context, string) (boot.DaemonStatus, error) {
			switch fault {
			case "panic":
				panic("a fault that was built in")
			case "hang":
				select {}
			}
			return boot.DaemonStatus{Down: []string{"everything"}}, nil
		},
	})
}
