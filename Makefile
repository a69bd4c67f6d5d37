# gatehouse: build, run, test, bench, package, clean.
#
# Each target sets up everything it needs on a fresh Debian 12 that has Node 20, npm, git and make: Debian
# packages through apt, npm packages from the lock file, the native addon, the bundle. What is there is skipped.
# Root is needed, because tests and lab build network namespaces of their own.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.NOTPARALLEL:

# What the program drives on a router.
ROUTER := iproute2 nftables iptables ipset conntrack mosquitto mosquitto-clients dnsmasq-base
# What builds it and plays the network around it.
WORKSHOP := gcc libc6-dev util-linux mount busybox iputils-ping procps netcat-openbsd socat bind9-dnsutils iperf3 tcpdump openssl chromium shellcheck

SOURCES := $(shell find src -name '*.ts' -o -name '*.c' -o -name 'build.sh')
TESTS := $(shell find test -name '*.ts' -not -path 'test/out/*')

.PHONY: build run test bench package clean setup

build: setup dist/gatehouse dist/netio.node

run: build build/run.cjs
	@exec setpriv --pdeathsig TERM node build/test/lab/lab.cjs up

test: build build/run.cjs
	@echo "gatehouse: tests"
	@node build/run.cjs $(ONLY)

bench: build build/run.cjs
	@exec node build/test/bench/bench.cjs $(ONLY)

package: build
	@echo "gatehouse: package"
	@sh openwrt/package.sh

clean:
	@rm -rf build dist test/out node_modules

setup:
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "gatehouse: needs root, to build network namespaces for its tests and lab; run it again as root" >&2; exit 1; fi
	@missing=""; for package in $(ROUTER) $(WORKSHOP); do \
	  dpkg-query -W -f='$${Status}' $$package 2>/dev/null | grep -q "ok installed" || missing="$$missing $$package"; done; \
	if [ -n "$$missing" ]; then echo "gatehouse: installing$$missing"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  { apt-get install -y --no-install-recommends $$missing || \
	    { apt-get update && apt-get install -y --no-install-recommends $$missing; }; } || exit 1; fi

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
