# gatehouse: build, run, test, bench, package, cross, clean.
#
# Each target sets up everything it needs on a fresh Debian 12 that has Node 20, npm, git and make: Debian
# packages through apt, npm packages from the lock file, the native addon, the bundle. What is there is skipped.
# Root is needed, because tests and lab build network namespaces of their own.
#
# `make package ARCH=aarch64_cortex-a53` packs for another processor, by Debian's compiler for it; ARCH is what OpenWrt
# calls it (`opkg print-architecture`). `make cross` compiles the addon for all of them and tries each, under qemu;
# `make test` does that for those whose compiler is here, and says which it left out.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.NOTPARALLEL:

# What the program drives on a router.
ROUTER := iproute2 nftables iptables ipset conntrack mosquitto mosquitto-clients dnsmasq-base
# What builds it and plays the network around it.
WORKSHOP := gcc libc6-dev util-linux mount busybox iputils-ping procps netcat-openbsd socat bind9-dnsutils iperf3 tcpdump openssl chromium shellcheck ethtool

# For another processor: what compiles the addon, and what runs it here.
ARM64 := gcc-aarch64-linux-gnu libc6-dev-arm64-cross
ARMHF := gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
X86_64 := gcc-x86-64-linux-gnu libc6-dev-amd64-cross
compiler_aarch64 := aarch64-linux-gnu-gcc
compiler_armhf := arm-linux-gnueabihf-gcc
compiler_x86_64 := x86_64-linux-gnu-gcc
HOST := $(shell uname -m)
packages_aarch64 := $(if $(filter aarch64,$(HOST)),,$(ARM64))
packages_armhf := $(ARMHF)
packages_x86_64 := $(if $(filter x86_64,$(HOST)),,$(X86_64))
CPUS := aarch64 armhf x86_64

# The processor of what OpenWrt calls ARCH; an ARM without VFP runs no Node.
ARCH ?=
cpu := $(if $(filter aarch64_%,$(ARCH)),aarch64,$(if $(filter arm_cortex-%,$(ARCH)),armhf,$(if $(filter x86_64,$(ARCH)),x86_64)))
netio := $(if $(cpu),dist/cross/$(cpu)/netio.node,dist/netio.node)

SOURCES := $(shell find src -name '*.ts' -o -name '*.c' -o -name 'build.sh')
TESTS := $(shell find test -name '*.ts' -not -path 'test/out/*')

.PHONY: build run test bench package cross clean setup

# install PACKAGES: those that are not there
define install
missing=""; for package in $(1); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q "ok installed" || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then echo "gatehouse: installing$$missing"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get install -y --no-install-recommends $$missing || \
	    { apt-get update && apt-get install -y --no-install-recommends $$missing; }; } || exit 1; fi
endef

build: setup dist/gatehouse dist/netio.node

run: build build/run.cjs
	@exec setpriv --pdeathsig TERM node build/test/lab/lab.cjs up

test: build build/run.cjs
	@for cpu in $(compiler_aarch64):aarch64 $(compiler_armhf):armhf; do \
	  command -v $${cpu%:*} >/dev/null || echo "gatehouse: addon for $${cpu#*:}: not tried, no $${cpu%:*} here (make cross brings it)"; done
	@echo "gatehouse: tests"
	@node build/run.cjs $(ONLY)

bench: build build/run.cjs
	@exec node build/test/bench/bench.cjs $(ONLY)

package: build $(netio)
	@$(if $(ARCH),$(if $(cpu),,$(error Cannot pack for $(ARCH): aarch64_…, arm_cortex-… and x86_64 are known here, for others use the SDK)))
	@echo "gatehouse: package"
	@ARCH=$(ARCH) NETIO=$(netio) sh openwrt/package.sh

cross: build build/run.cjs $(CPUS:%=dist/cross/%/netio.node)
	@$(call install,qemu-user)
	@echo "gatehouse: addon for other processors"
	@node build/test/package/cross.cjs $(CPUS)

dist/cross/%/netio.node: node_modules/.installed $(wildcard src/system/native/*)
	@$(call install,$(packages_$*))
	@echo "gatehouse: native addon for $*"
	@CC=$(compiler_$*) sh src/system/native/build.sh $@

clean:
	@rm -rf build dist test/out node_modules

setup:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "gatehouse: needs root, to build network namespaces for its tests and lab; run it again as root" >&2; exit 1; fi
	@$(call install,$(ROUTER) $(WORKSHOP))

node_modules/.installed: package-lock.json
	@echo "gatehouse: npm packages"
	@npm ci --no-progress --loglevel=error
	@touch $@

dist/netio.node: node_modules/.installed $(wildcard src/system/native/*)
	@echo "gatehouse: native addon"
	@npm run --silent native

dist/gatehouse: node_modules/.installed $(SOURCES) package.json
	@echo "gatehouse: bundle"
	@npm run --silent bundle

build/run.cjs: node_modules/.installed $(SOURCES) $(TESTS) package.json
	@echo "gatehouse: bundle of tests and lab"
	@npm run --silent bundle:test
