# Everything that is done to Palisade, by name; `make help` lists it.
#
# Nothing here needs root. Each target says what it lacks, and as root installs it. CARGO_TARGET_DIR may be given, relative or absolute.

SHELL := /bin/sh
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

# One absolute path, so that every command and script means the same folder, wherever it stands.
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export CARGO_TARGET_DIR := $(TARGET)
CARGO ?= cargo
PLUGINS := echo calculator counter ticker
TOOLS := .ci/tools

PREFIX ?= /usr/local
DESTDIR ?=

.PHONY: all build demo run check test vm-test vm-test-old security-page bench fuzz install uninstall clean help programs release

all: build

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

build: ## build everything (debug), and put the shipped plugins together in target/plugins
	@$(CARGO) build --workspace
	@supervisor/launcher/build.sh debug
	@$(MAKE) plugins KIND=debug

# The shipped plugins as packages: a folder each, of the manifest and the program.
KIND ?= debug
.PHONY: plugins
plugins:
	@set -eu; for plugin in $(PLUGINS); do \
	    folder=$(TARGET)/plugins/$$plugin; \
	    mkdir -p $$folder; \
	    install -m 644 plugins/$$plugin/plugin.json $$folder/plugin.json; \
	    install -m 755 $(TARGET)/$(KIND)/$$plugin $$folder/$$plugin; \
	done

demo: build ## show every shipped plugin at work, in a daemon that leaves nothing behind
	@tests/demo/run $(TARGET)/debug $(TARGET)/plugins

run: build ## run the daemon in the foreground, in user mode, with the shipped plugins
	@echo "In another terminal:"
	@echo "  export PATH=$(TARGET)/debug:\$$PATH"
	@echo "  palisade call calculator evaluate expression='sqrt(16) + sin(pi/2)'"
	@exec $(TARGET)/debug/palisaded --user --plugins $(TARGET)/plugins

check: ## format, lints, licences, documentation, unit and model tests
	@.ci/test check

test: ## check, and the system tests as root, as an ordinary user, and in a guest of their own
	@.ci/test all

vm-test: ## the daemon as a systemd service, and its limits, in an emulated guest with cgroup v2 and every controller
	@$(TOOLS) guest
	@tests/vm/lane

# Not part of `test`: what the release's own, older kernel offers is less.
vm-test-old: ## the same with an older kernel
	@$(TOOLS) guest
	@GUEST_KERNEL=release tests/vm/lane $(TARGET)/lanes/vm-old.xml

security-page: ## write the table of docs/security.md anew, from the rows that the hostile suite runs
	@PALISADE_WRITE_PAGES=1 $(CARGO) test --quiet -p palisade-tests --lib rows::tests::the_page_is_the_table

bench: release bench-plugin ## measure the figures, into target/bench.json; ARGS="--quick", or names of figures
	@mkdir -p $(TARGET)
	@$(TARGET)/release/palisade-bench --out $(TARGET)/bench.json $(ARGS)

# The plugin whose starts are measured, linked statically: against musl where rustup has that target, else against glibc. What is C among its
# dependencies is not in it, and so any compiler will do.
ARCH := $(shell uname -m)
.PHONY: bench-plugin
bench-plugin:
	@set -eu; triple=$(ARCH)-unknown-linux-musl; \
	if [ ! -d "$$(rustc --print target-libdir --target $$triple 2>/dev/null)" ]; then triple=$(ARCH)-unknown-linux-gnu; fi; \
	RUSTFLAGS='-C target-feature=+crt-static' CC_$(ARCH)_unknown_linux_musl=cc $(CARGO) build --quiet --release -p palisade-tests --bin palisade-bench-plugin \
	    --target $$triple --target-dir $(TARGET)/static; \
	install -m 755 $(TARGET)/static/$$triple/release/palisade-bench-plugin $(TARGET)/release/palisade-bench-plugin-static

FUZZ_SECONDS ?= 30
fuzz: ## run every fuzz target for FUZZ_SECONDS (30)
	@$(TOOLS) fuzz
	@CARGO_TARGET_DIR=$(TARGET)/fuzz fuzz/run $(FUZZ_SECONDS)

release:
	@$(CARGO) build --release --workspace
	@supervisor/launcher/build.sh release

# What runs is installed by its own name; the launcher and the plugins go where palisaded looks for them. `systemctl enable --now
# palisaded` starts it then.
install: release ## install into DESTDIR and PREFIX (/usr/local), with the systemd unit in UNITS
	@$(MAKE) place KIND=release

# The same of whatever is built. STRIP=-s leaves the symbols out.
UNITS ?= $(PREFIX)/lib/systemd/system
STRIP ?=
.PHONY: place
place:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/palisade $(DESTDIR)$(UNITS)
	install $(STRIP) -m 755 $(TARGET)/$(KIND)/palisaded $(TARGET)/$(KIND)/palisade $(DESTDIR)$(PREFIX)/bin
	install $(STRIP) -m 755 $(TARGET)/$(KIND)/palisade-launcher $(DESTDIR)$(PREFIX)/lib/palisade
	@set -eu; for plugin in $(PLUGINS); do \
	    folder=$(DESTDIR)$(PREFIX)/lib/palisade/plugins/$$plugin; \
	    install -d $$folder; \
	    install -m 644 plugins/$$plugin/plugin.json $$folder/plugin.json; \
	    install $(STRIP) -m 755 $(TARGET)/$(KIND)/$$plugin $$folder/$$plugin; \
	done
	sed 's|@PREFIX@|$(PREFIX)|g' systemd/palisaded.service >$(DESTDIR)$(UNITS)/palisaded.service
	chmod 644 $(DESTDIR)$(UNITS)/palisaded.service
	sed 's|@PREFIX@|$(PREFIX)|g' config/apparmor/palisaded >$(DESTDIR)$(PREFIX)/lib/palisade/apparmor
	chmod 644 $(DESTDIR)$(PREFIX)/lib/palisade/apparmor
	install -m 644 config/plugin.schema.json $(DESTDIR)$(PREFIX)/lib/palisade/plugin.schema.json

uninstall: ## remove what `install` put there
	rm -f $(DESTDIR)$(UNITS)/palisaded.service
	rm -f $(DESTDIR)$(PREFIX)/bin/palisaded $(DESTDIR)$(PREFIX)/bin/palisade $(DESTDIR)$(PREFIX)/lib/palisade/palisade-launcher
	rm -f $(DESTDIR)$(PREFIX)/lib/palisade/apparmor $(DESTDIR)$(PREFIX)/lib/palisade/plugin.schema.json
	@set -eu; for plugin in $(PLUGINS); do \
	    folder=$(DESTDIR)$(PREFIX)/lib/palisade/plugins/$$plugin; \
	    rm -f $$folder/plugin.json $$folder/$$plugin; \
	    if [ -d $$folder ]; then rmdir $$folder; fi; \
	done
	@if [ -d $(DESTDIR)$(PREFIX)/lib/palisade ]; then \
	    rmdir --ignore-fail-on-non-empty $(DESTDIR)$(PREFIX)/lib/palisade/plugins $(DESTDIR)$(PREFIX)/lib/palisade; fi

clean: ## remove everything that was built
	$(CARGO) clean
