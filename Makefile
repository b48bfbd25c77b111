# Everything a developer types: build, run, test, lint, bench, features.
GO       ?= go
TAGS     := nobadger,nomysql,nopgx
export GOFLAGS := -buildvcs=false -tags=$(TAGS)
export PATH := $(PATH):/usr/sbin:/sbin
VERSION  := $(shell sed -n 's/^## \([0-9][^ ]*\).*/\1/p' CHANGELOG.md | head -n 1)
LDFLAGS  := -s -w -X ringfence/appliance.Version=$(VERSION)
RECORD   := $(CURDIR)/build/features.tsv

.PHONY: build deb run run-tunnel test test-unit test-e2e test-faults test-mutation test-gate test-image image boot deps lint generate bench features clean

build:
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ringfence ./cmd/ringfence
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/sepsim ./cmd/sepsim

# The Debian package, for an ordinary Linux machine; ARCH=arm64 for the other processor.
ARCH     ?= amd64
deb:
	@mkdir -p build/$(ARCH)
	CGO_ENABLED=0 GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o build/$(ARCH)/ringfence ./cmd/ringfence
	@image/deb/build build/$(ARCH)/ringfence $(VERSION) $(ARCH) build

# The main job on embedded defaults: the daemon on high ports of the loopback, two simulated phones through their first
# morning, then it keeps serving until Ctrl-C. RUNFLAGS=--once ends after the morning.
run: build
	bin/sepsim morning --ringfence bin/ringfence $(RUNFLAGS)

# The same in a user and network namespace of its own, where even without root a TUN device can be made; nothing outside the
# namespace reaches it.
run-tunnel: build
	unshare --user --map-root-user --net sh -c 'ip link set lo up && exec bin/sepsim morning --ringfence bin/ringfence $(RUNFLAGS)'

# What .ci/run calls. deps ends with status 2 and the line to type when packages are missing and it may not install them.
test: deps
	@mkdir -p build && rm -f $(RECORD)
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory test-unit
	$(MAKE) --no-print-directory test-e2e
	$(MAKE) --no-print-directory test-gate
	$(MAKE) --no-print-directory features

deps:
	@.ci/deps

test-unit:
	$(GO) test -race -short -timeout 12m $$($(GO) list ./... | grep -v /e2e)

# Every message of every scenario of calls with every fault, and a thousand random interleavings of each feature.
ROUNDS   ?= 1000
test-faults:
	$(GO) test -race -count=1 -timeout 14m -run 'Torture|BothHangUp' ./sip/call ./sip/feature/...
	RINGFENCE_ROUNDS=$(ROUNDS) $(GO) test -race -count=1 -timeout 60m -run 'Random' ./sip/feature

# Breaks one feature after the other, in a binary of its own, and shows that its rows fail and no others. FEATURES="park join" takes some
# of them, NEIGHBOURS=1 runs, besides the feature's own tests, a few of the others instead of all.
test-mutation:
	@mkdir -p build/mutation
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS),mutation -o build/mutation/ ./cmd/ringfence ./cmd/sepsim
	$(GO) test -c -o build/mutation/e2e.test ./cmd/ringfence/e2e
	$(GO) run ./internal/feature/mutation -dir build/mutation -tests cmd/ringfence/e2e $(if $(NEIGHBOURS),-neighbours) $(FEATURES)

test-e2e: build
	@mkdir -p build
	$(GO) test -timeout 10m ./appliance/trustadmin
	RINGFENCE_BIN=$(CURDIR)/bin RINGFENCE_FEATURES=$(RECORD) $(GO) test -count=1 -timeout 20m ./cmd/ringfence/e2e/...

# The bootable image. Its Debian packages are fetched once, into the cache of the user. Without KEYS it is signed with keys for tests.
KEYS     ?= build/image-keys
FORMATS  ?=
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
export SOURCE_DATE_EPOCH
IMAGE     = build/image/ringfence-$(VERSION)-$(ARCH).img
image: build
	@bin/ringfence image keys --test $(KEYS)
	@mkdir -p build/$(ARCH)
	CGO_ENABLED=0 GOARCH=$(ARCH) $(GO) build -trimpath -ldflags '$(LDFLAGS) -buildid=' -o build/$(ARCH)/ringfence ./cmd/ringfence
	bin/ringfence image build --keys $(KEYS) --arch $(ARCH) --binary build/$(ARCH)/ringfence --version $(VERSION) --formats '$(FORMATS)' --out build/image

# The image in QEMU, under the firmware of a PC and under UEFI; ends with what the appliance says of itself.
# ARCH=arm64 makes and boots that one, which knows UEFI alone.
FIRMWARE  = $(if $(filter arm64,$(ARCH)),uefi,bios uefi)
boot: image
	@.ci/deps image $(ARCH)
	set -e; for f in $(FIRMWARE); do bin/ringfence image boot --arch $(ARCH) --firmware $$f $(IMAGE); done

# What every change has to pass, as the last part of make test: some three minutes on two quiet processors, and patient with busy ones. Without
# Debian's packages, from the cache or from a mirror, it says that the image was not tested, and passes. test-image is every fault.
test-gate: build
	@.ci/deps image
	RINGFENCE_BIN=$(CURDIR)/bin RINGFENCE_IMAGE=gate $(GO) test -count=1 -v -timeout 40m -run TestGate ./image/boottest

test-image: build
	@.ci/deps image
	@.ci/deps image arm64
	RINGFENCE_BIN=$(CURDIR)/bin RINGFENCE_IMAGE=full $(GO) test -count=1 -v -timeout 240m ./image/boottest

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck -checks 'inherit,-ST1000,-ST1003' ./...

generate:
	$(GO) generate ./...

bench: build
	.ci/bench

features:
	@$(GO) run ./internal/feature/list -results $(RECORD)

clean:
	rm -rf bin build
