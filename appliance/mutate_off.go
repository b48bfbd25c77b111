//go:build !mutation

package appliance

import "ringfence/sip/call"

// mutate is nothing in the product; see mutate.go.
func mutate(*call.Options) {}
