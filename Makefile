# hanzod. `make` alone is the whole check before a push; `make help` lists the parts.

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
LDFLAGS := -s -w
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
# The race detector needs a C compiler; where there is none, the tests run without it and say so.
CC_FOUND := $(shell command -v $${CC:-cc} 2>/dev/null || command -v gcc 2>/dev/null || command -v clang 2>/dev/null)
# Vet looks at what the tests compile, so that nothing is compiled twice.
VET     := $(if $(CC_FOUND),CGO_ENABLED=1 $(GO) vet -race,CGO_ENABLED=0 $(GO) vet)
# Symbols for a debugger make linking the tests longer by a third; vet is a target of its own.
TESTFLAGS := -ldflags='$(LDFLAGS)' -vet=off
SYSTEMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
T       ?= 30s
MUTATIONS ?= 1000000

.PHONY: all help build run test check-format vet gen check-gen lint contract parity bench bench-tunnel novnc fuzz fuzz-tunnel robust acceptance tailnet interop examples cross dist dist-check clean

all: check-format vet check-gen test cross

help:
	@echo 'make run       build and start the daemon with a node for this machine'
	@echo 'make test      all tests, with the race detector where a C compiler is'
	@echo 'make build     bin/hanzod and bin/hanzoctl'
	@echo 'make contract  replay the recorded traffic of the original (FIXTURES=dir1:dir2 for other folders)'
	@echo 'make parity    the parity checklist: what is served, and what the recordings say'
	@echo 'make bench     measure against the bars (BENCH="-json", "-quick", "-only REGEXP")'
	@echo 'make bench-tunnel  tunnels beside chisel and frp, which Go builds once, and a direct connection'
	@echo 'make robust    the long suites: kill -9, silent peers, full disks'
	@echo 'make acceptance  the checks of links, tunnels, terminals and checkpoints, as a table; it says what is missing here'
	@echo 'make tailnet   what needs the build tag tailnet: daemons and clients on a tailnet of loopback'
	@echo 'make interop   drive the daemon with a published client of the original, which npm installs once'
	@echo 'make examples  try the clients in JavaScript and Python; npm and pip install their packages once'
	@echo 'make fuzz-tunnel  ten million executions of each fuzz target of tunnels; half an hour'
	@echo 'make fuzz      every fuzz target for T=30s each, and MUTATIONS=1000000 changed command lines'
	@echo 'make gen       generate code from proto/; needs no network once modules are there'
	@echo 'make lint      golangci-lint and buf lint'
	@echo 'make cross     build for linux, darwin and windows on amd64 and arm64 (SYSTEMS="linux/arm64" for less)'
	@echo 'make dist      what is handed out: archives, deb and rpm, checksums (DIST="-only linux/amd64" for less)'
	@echo 'make dist-check  install, upgrade and remove the packages; build twice and compare'
	@echo 'make           format, vet, generated code, tests and cross builds: what a push must pass'

build:
	$(BUILD) -o bin/ ./cmd/hanzod ./cmd/hanzoctl

run: build
	@exec bin/hanzod run --node $(RUN)

test:
ifneq ($(CC_FOUND),)
	@echo 'testing with the race detector ($(CC_FOUND))'
	@# A program with the race detector waits for a second when it ends, and tests start hundreds.
	GORACE=atexit_sleep_ms=10 CGO_ENABLED=1 $(GO) test -race $(TESTFLAGS) ./...
else
	@echo 'testing without the race detector: it needs a C compiler, and there is none'
	CGO_ENABLED=0 $(GO) test $(TESTFLAGS) ./...
endif

check-format:
	@out=$$(gofmt -l $$(git ls-files '*.go' | grep -v '^gen/')); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }

vet:
	$(VET) ./...
	@# In the form of the cross builds, which share what is compiled, and compile faster.
	CGO_ENABLED=0 $(GO) vet -trimpath -tags docs ./cmd/hanzod ./cmd/hanzoctl
	CGO_ENABLED=0 $(GO) vet -trimpath -tags tailnet ./client/tailnet ./cmd/hanzod ./cmd/hanzoctl ./runtime ./tests/tailnet

gen:
	$(TOOL) buf format -w proto
	$(TOOL) buf lint
	$(TOOL) buf generate
	mkdir -p gen/openapi
	$(TOOL) openapiv3-merge gen/hanzo/*/v1/*.openapi.json | $(GO) run ./runtime/rest/openapigen gen/openapi

# Generated code is committed; this fails when it is not what the protos say.
check-gen: gen
	@test -z "$$(git status --porcelain gen proto)" || { git status --short gen proto; echo 'run make gen and commit the result'; exit 1; }

lint:
	$(TOOL) buf lint
	$(GO) tool -modfile=tools/lint/go.mod golangci-lint run ./...

contract:
	@# In the folder of the package, so that the table is shown when all is well.
	cd tests/contract && CONTRACT_TABLE=1 $(GO) test -run 'TestContract$$' -count=1

parity:
	cd tests/contract && PARITY=1 $(GO) test -run 'TestParity$$' -count=1 -v

bench:
	$(GO) run ./tests/bench $(BENCH)

bench-tunnel:
	$(GO) run ./tests/bench/tunnel $(BENCH)

# The release of noVNC that novnc.pin names takes the place of the one that is there.
novnc:
	sh runtime/rest/viewer/update.sh

robust:
	ROBUST=1 ROBUST_ROUNDS=$${ROBUST_ROUNDS:-1000} $(GO) test ./tests/robustness/... -count=1 -timeout 60m -v
	ROBUST=1 $(GO) test ./tests/promises -run TestR1NothingIsLeft -count=1 -v
	ROBUST=1 $(GO) test ./tests/service -count=1 -timeout 30m -v
	ROBUST=1 $(GO) test ./approvals -run TestMutatedRuns -count=1 -v
	ROBUST=1 $(GO) test ./config -run TestLargeEdit -count=1 -v
	ROBUST=1 ROBUST_ROUNDS=$${ROBUST_ROUNDS:-1000} $(GO) test ./nodes/host -run TestSwappedFiles -count=1 -timeout 30m -v

# The S3 server of the checks is built once, in a module of its own.
acceptance:
	@mkdir -p .cache/acceptance
	@test -x .cache/acceptance/versitygw || GOBIN=$(CURDIR)/.cache/acceptance GOFLAGS= $(GO) install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	@# In the folder of the package, so that the table is shown when all is well.
	cd tests/acceptance && ACCEPTANCE=1 VERSITYGW=$(CURDIR)/.cache/acceptance/versitygw $(GO) test -count=1 -timeout 40m

tailnet:
	CGO_ENABLED=0 $(GO) vet -tags tailnet ./client/tailnet ./runtime ./cmd/... ./tests/tailnet
	CGO_ENABLED=0 $(GO) test -tags tailnet ./client/tailnet ./tests/tailnet -count=1 -timeout 10m -v

interop:
	INTEROP=1 INTEROP_SHOTS=$(CURDIR)/.cache/interop $(GO) test ./tests/interop -count=1 -parallel 2 -timeout 90m -v

# Their packages go into a directory of their own, which git ignores. Nothing is compiled or run on the way.
EXAMPLES := $(CURDIR)/.cache/examples
examples:
	mkdir -p $(EXAMPLES)/nodejs
	cp examples/nodejs/package.json examples/nodejs/package-lock.json $(EXAMPLES)/nodejs/
	cd $(EXAMPLES)/nodejs && npm ci --ignore-scripts --no-audit --no-fund --fetch-timeout=60000 --fetch-retries=2
	python3 -m venv $(EXAMPLES)/python
	$(EXAMPLES)/python/bin/pip install --quiet --disable-pip-version-check --only-binary=:all: --timeout 60 --retries 2 -r examples/python/requirements.txt
	HANZOD_EXAMPLES=$(EXAMPLES) $(GO) test ./tests/local -run Examples -count=1 -timeout 5m -v

fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test $$pkg -list '^Fuzz' 2>/dev/null | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; $(GO) test $$pkg -run '^$$' -fuzz "^$$f\$$" -fuzztime $(T); done; done
	@# Command lines without the guidance of coverage: 10 million of them take eight minutes.
	SHELL_MUTATIONS=$(MUTATIONS) $(GO) test ./approvals/shell -run Mutations -count=1 -timeout 60m -v

# Ten million programs of frames, reads, writes and sockets for each end of a tunnel, and as many frames and bodies: half an hour.
fuzz-tunnel:
	@set -e; for f in FuzzServer FuzzClient; do $(GO) test ./tunnel/mux -run '^$$' -fuzz "^$$f\$$" -fuzztime 10000000x; done
	@set -e; for f in $$($(GO) test ./tunnel/wire -list '^Fuzz' | grep '^Fuzz'); do $(GO) test ./tunnel/wire -run '^$$' -fuzz "^$$f\$$" -fuzztime 10000000x; done

cross:
	@set -e; for s in $(SYSTEMS); do echo "$$s"; for p in hanzod hanzoctl; do \
	  GOOS=$${s%/*} GOARCH=$${s#*/} $(BUILD) -o /dev/null ./cmd/$$p; done; done

# A module of its own, so that the daemon's tree holds nothing of it.
dist:
	cd tools/dist && $(GO) run . $(DIST)

dist-check:
	cd tools/dist && DIST_SAME=1 $(GO) test . -count=1 -timeout 60m -v

clean:
	rm -rf bin dist
