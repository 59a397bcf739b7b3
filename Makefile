# Every command a person types. `make help` lists them. What a target needs, it sets up first; stamps make the second run cheap.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Tools and scripts run under the project's own Node 24 (node_modules/.bin/node), whatever the system has. cargo may be the one that
# scripts/debian-rust brings where the system's is too old, or where rustup puts it.
RUST_CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ublk-rust/usr/bin
export PATH := $(CURDIR)/node_modules/.bin:$(RUST_CACHE):$(PATH):$(HOME)/.cargo/bin

ARCH := $(subst aarch64,arm64,$(subst x86_64,x64,$(shell uname -m)))
LIBC := $(if $(wildcard /lib/ld-musl-*),musl,gnu)
ADDON := native/ublk.linux-$(ARCH)-$(LIBC).node
SETUP := node_modules/.setup-done
DIST := dist/index.js
CLI_DIST := cli/dist/index.js
CSI_DIST := csi/dist/main.js

RUST_FILES := $(shell find crates -name '*.rs' -o -name Cargo.toml 2>/dev/null) Cargo.toml Cargo.lock
SRC_FILES := $(shell find src -name '*.ts' 2>/dev/null)
CLI_FILES := $(shell find cli/src -name '*.ts' 2>/dev/null)
CSI_FILES := $(shell find csi/src -name '*.ts' 2>/dev/null)
# Arguments for a command: make test ARGS='--only lint'
ARGS ?=

ifneq ($(shell uname -s),Linux)
ifneq ($(filter-out help,$(or $(MAKECMDGOALS),help)),)
$(error ublk is a Linux driver. On macOS work in a Linux machine: `brew install lima`, `limactl start template://debian`, then `limactl shell debian` and the same command there)
endif
endif

##@ Start here
.PHONY: help
help: ## list the commands
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: build ## show the main job end to end: devices from TypeScript, Rust memory and a file
	@scripts/demo $(ARGS)

.PHONY: setup
setup: $(SETUP) ## bring what this machine lacks (every command below does it by itself)
	@:

$(SETUP): scripts/setup scripts/packages vm/packages package.json cli/package.json csi/package.json tools/nodes/package.json package-lock.json
	@scripts/setup
	@touch $@

##@ Build
.PHONY: build
build: $(ADDON) $(DIST) $(CLI_DIST) $(CSI_DIST) ## the addon (optimised), the library, the CLI and the CSI driver, for this machine

$(ADDON): $(RUST_FILES) | $(SETUP)
	@cargo build --release -p ublk-node
	@mkdir -p $(@D)
	@# By rename: a process may have the old file mapped.
	@cp target/release/libublk_node.so $@.new && mv $@.new $@

$(DIST): $(SRC_FILES) tsconfig.base.json tsconfig.build.json | $(SETUP)
	@rm -rf dist && tsc -p tsconfig.build.json && touch $@

$(CLI_DIST): $(CLI_FILES) $(DIST) tsconfig.base.json cli/tsconfig.build.json | $(SETUP)
	@rm -rf cli/dist && tsc -p cli/tsconfig.build.json && touch $@

$(CSI_DIST): $(CSI_FILES) $(DIST) tsconfig.base.json csi/tsconfig.build.json | $(SETUP)
	@rm -rf csi/dist && tsc -p csi/tsconfig.build.json && touch $@

.PHONY: all
all: build lint test ## build, lint and test

.PHONY: clean
clean: ## remove what the build made (not node_modules, not the VM images)
	rm -rf target native dist cli/dist csi/dist coverage npm

##@ Check
.PHONY: fmt
fmt: $(SETUP) ## format Rust and TypeScript
	@cargo fmt --all
	@biome check --write

.PHONY: lint
lint: $(SETUP) ## formats, clippy, biome, types, shell scripts, direction of dependencies
	@scripts/lint

.PHONY: check
check: $(SETUP) ## types only, Rust and TypeScript: the quick answer while writing
	@cargo check --workspace --all-targets
	@tsc -p tsconfig.json

.PHONY: test-unit
test-unit: build ## tests that need no kernel driver
	@scripts/test --tag unit $(ARGS)

.PHONY: test-vm
test-vm: build ## tests on real kernels in the VM
	@scripts/test --tag vm $(ARGS)

.PHONY: test
test: build ## every test; the last line is "N passed, N failed"
	@scripts/test $(ARGS)

.PHONY: miri
miri: ## the executor's unsafe steps under Miri, where rustup's nightly Rust has it
	@scripts/miri $(ARGS)

.PHONY: tsan
tsan: ## what the executor's threads share under ThreadSanitizer, where rustup's nightly Rust has its sources
	@scripts/tsan $(ARGS)

.PHONY: caged
caged: build ## tests on a Node.js that refuses external buffers, as Electron does
	@scripts/test --tag caged $(ARGS)

.PHONY: verify
verify: build ## every test at full length, stress included
	@scripts/test --full $(ARGS)

.PHONY: sanity
sanity: build ## csi-sanity against the CSI driver on a real kernel: each provider, file systems and raw block
	@csi/test/sanity/run $(ARGS)

##@ Virtual machine
.PHONY: vm-shell
vm-shell: build ## a root shell on a real kernel with this checkout: make vm-shell ARGS='--kernel 6.12'
	@vm/run $(ARGS) --shell

.PHONY: vm-simple-e2e
vm-simple-e2e: build ## the shortest end-to-end test on a real kernel
	@scripts/test --tag simple-e2e $(ARGS)

.PHONY: vm-e2e
vm-e2e: build ## all end-to-end tests on real kernels
	@scripts/test --tag e2e $(ARGS)

.PHONY: vm-stress
vm-stress: build ## kill, stop and delete under load, many times
	@scripts/test --full --tag stress $(ARGS)

.PHONY: kernel-support
kernel-support: build ## write docs/kernel-support.md, from what the driver of each kernel says
	@node scripts/kernel-support.ts

.PHONY: vm-matrix
vm-matrix: build ## every kernel, buffer mode, thread layout, target, block size and operation: ARGS=--write-docs for docs/matrix.md
	@scripts/node test/matrix/run.ts $(ARGS)

.PHONY: vm-crash
vm-crash: build ## servers that are killed, panic or are stopped, with every recovery, buffer mode and load
	@scripts/node test/crash/run.ts $(ARGS)

.PHONY: removals
removals: build ## remove the code for each flag, command and operation, and see its test fail: ARGS=--write-docs for docs/removals.md
	@scripts/node scripts/removals.ts $(ARGS)

##@ Speed
.PHONY: bench
bench: build ## our own figures, in the VM, as docs/performance.md lists them
	@bench/run $(ARGS)

.PHONY: vm-benchmark
vm-benchmark: bench ## the same as bench

.PHONY: vm-compare
vm-compare: build ## side by side with kublk, rublk, go-ublk, loop and null_blk in one boot
	@bench/run --compare $(ARGS)

.PHONY: bench-executor
bench-executor: $(SETUP) ## ublk-executor beside glommio, monoio, compio and rtrb, on this machine
	@bench/executor/run $(ARGS)

##@ Release
.PHONY: build-release
build-release: build ## npm packages for this machine, in target/packages; after make prebuilds for all: ARGS=--prebuilds
	@node scripts/pack.ts $(ARGS)

.PHONY: prebuilds
prebuilds: $(SETUP) ## addons for x64 and arm64, glibc and musl, in target/prebuilds
	@scripts/prebuilds $(ARGS)

##@ Kubernetes (csi/)
NAMESPACE ?= kube-system
RELEASE ?= ublk-csi
KUBECTL_LOGS = kubectl -n $(NAMESPACE) logs --tail=200 --prefix -c driver -l app.kubernetes.io/instance=$(RELEASE),app.kubernetes.io/component

.PHONY: docker
docker: ## the image of ublk-csi, where this machine has a builder: make docker IMAGE=… TAG=… ARGS='--platform linux/amd64,linux/arm64'
	@csi/scripts/image $(ARGS)

.PHONY: deploy
deploy: ## plain manifests of a provider into the cluster of kubectl: make deploy PROVIDER=rds
	@kubectl apply -f csi/deploy/kubernetes/$(or $(PROVIDER),rds).yaml

.PHONY: deploy-helm
deploy-helm: $(SETUP) ## the chart into the cluster of kubectl: make deploy-helm ARGS='-f my-values.yaml'
	@csi/scripts/helm upgrade --install $(RELEASE) csi/deploy/helm/ublk-csi --namespace $(NAMESPACE) $(ARGS)

.PHONY: undeploy
undeploy: ## what deploy or deploy-helm brought out of the cluster; volumes stay
	@if csi/scripts/helm status $(RELEASE) --namespace $(NAMESPACE) >/dev/null 2>&1; \
	then csi/scripts/helm uninstall $(RELEASE) --namespace $(NAMESPACE); \
	else kubectl delete --ignore-not-found -f csi/deploy/kubernetes/$(or $(PROVIDER),rds).yaml; fi

.PHONY: logs-controller
logs-controller: ## the controller's last lines
	@$(KUBECTL_LOGS)=controller

.PHONY: logs-node
logs-node: ## the nodes' last lines
	@$(KUBECTL_LOGS)=node

.PHONY: verify-deployment
verify-deployment: ## is the driver well in the cluster of kubectl?
	@csi/scripts/verify-deployment $(NAMESPACE) $(RELEASE)
