# The commands of this repository. `make` alone lists them.
#
# Everything that takes long and changes rarely (the RocksDB library, the embedding model) is kept in a cache folder
# outside the tree, named after what it was made from, and shared by every clone and every cargo profile.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mira
CARGO ?= cargo

# RocksDB: compiled once per version, compiler and flags (deploy/deps/rocksdb.mk says how and why).
ROCKSDB_MK := deploy/deps/rocksdb.mk
ROCKSDB_VERSION := $(shell sed -n '/^name = "librocksdb-sys"/{n;s/^version = "\(.*\)"/\1/p}' Cargo.lock)
# Outside this make's flags: under `make -n` the name must be the same.
ROCKSDB_KEY := $(shell env -u MAKEFLAGS make -s -f $(ROCKSDB_MK) print-flags | sha256sum | cut -c1-12)
ROCKSDB := $(CACHE)/rocksdb-$(ROCKSDB_VERSION)-$(ROCKSDB_KEY)
export ROCKSDB_LIB_DIR := $(ROCKSDB)
export ROCKSDB_INCLUDE_DIR := $(ROCKSDB)/include
export ROCKSDB_STATIC := 1

export MIRA_MODEL_DIR ?= $(CACHE)/model/all-MiniLM-L6-v2

# Linking is a large part of a rebuild; mold does it in a tenth of the time where it is installed.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
ifneq ($(shell command -v mold),)
export RUSTFLAGS ?= -C link-arg=-fuse-ld=mold
ifneq ($(shell command -v clang),)
export CARGO_TARGET_$(shell echo '$(HOST)' | tr 'a-z-' 'A-Z_')_LINKER ?= clang
endif
endif

##@ Use

.PHONY: demo
demo: build ## Start a three-node cluster, fill it with real texts, kill a node, ask questions (DEMO_TEXTS, DEMO_ONCE)
	@MIRA_BIN="$(call target_dir)/debug/mira" deploy/demo/demo.sh

.PHONY: build
build: deps model ## Build the `mira` program (target/debug/mira)
	$(CARGO) build --locked --package mira-cli

.PHONY: release
release: deps model ## Build the optimised `mira` program (target/release/mira)
	$(CARGO) build --locked --release --package mira-cli

##@ Check

.PHONY: test
test: deps model ## Run all tests (installs and builds what they need first)
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --locked --workspace --no-fail-fast && $(CARGO) test --locked --workspace --doc; \
	else \
	    set -x; $(CARGO) test --locked --workspace --no-fail-fast; \
	fi
	@$(MAKE) test-scripts test-mcp test-aws

.PHONY: test-scripts
test-scripts: ## Test the scripts of this repository, seconds
	python3 -m unittest discover --start-directory deploy/checks
	python3 -m unittest discover --start-directory benches/gate
	python3 -m unittest discover --start-directory eval

.PHONY: test-mcp
test-mcp: build ## Talk to a cluster with the official Python MCP client
	MIRA_BIN="$(call target_dir)/debug/mira" chaos-tests/python/mcp.sh

.PHONY: test-aws
test-aws: build ## Back a cluster up into an S3 store and wrap its keys by KMS, both from PyPI's moto
	MIRA_BIN="$(call target_dir)/debug/mira" chaos-tests/python/aws.sh

.PHONY: chaos
chaos: build ## Break clusters of real processes for MINUTES (30), by SEED, and report in target/chaos
	MIRA_BIN="$(call target_dir)/debug/mira" $(CARGO) run --locked --package mira-chaos-tests --bin chaos -- \
	    --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS))

.PHONY: chaos-containers
chaos-containers: build ## The same on containers of the project's own image, MINUTES (5) long
	$(CARGO) build --locked --package mira-chaos-tests --bin chaos
	deploy/docker/chaos.sh "$(call target_dir)/debug/mira" "$(call target_dir)/debug/chaos" --out target/chaos-containers \
	    --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS))

SEEDS ?= 1000
FROM ?= 0
.PHONY: sim
sim: deps ## Simulate clusters under faults (SEEDS=1000 FROM=0), or replay one with its trace (SEED=123)
	@$(CARGO) run --locked --quiet --package mira-chaos-tests --bin mira-sim -- $(if $(SEED),--seed $(SEED),\
	    --seeds $(SEEDS) --from $(FROM) --report "$(call target_dir)/sim-report.json")

.PHONY: verify
verify: deps ## Check format, lints, docs, words, licences and dependencies; changes nothing
	$(CARGO) fmt --all --check
	deploy/checks/words.py
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps
	@if command -v shellcheck >/dev/null; then \
	    set -x; shellcheck --severity=warning --external-sources --source-path=SCRIPTDIR $$(git ls-files '*.sh' .ci/run); \
	else \
	    $(call skipped,shellcheck,the shell scripts,make tools); \
	fi
	@if command -v cargo-deny >/dev/null; then \
	    set -x; $(CARGO) deny --locked check bans licenses sources; \
	else \
	    $(call skipped,cargo-deny,licences and duplicate dependencies,make tools); \
	fi
	@if command -v cargo-machete >/dev/null; then \
	    set -x; cargo-machete --skip-target-dir; \
	else \
	    $(call skipped,cargo-machete,unused dependencies,make tools); \
	fi

.PHONY: fix
fix: deps ## Format the code and apply what clippy can repair by itself
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
RUNS ?= 1000000

.PHONY: fuzz
fuzz: deps ## Give every decoder of bytes RUNS (1000000) inputs that are made to break it, one after the other
	@command -v cargo-fuzz >/dev/null || { echo "cargo-fuzz is missing: make tools installs it" >&2; exit 1; }
	python3 fuzz/seeds.py
	set -e; for target in $(TARGET) $(if $(TARGET),,$(FUZZ_TARGETS)); do \
	    $(CARGO) fuzz run --sanitizer none $$target -- -runs=$(RUNS) -max_len=8192 -timeout=10 -rss_limit_mb=2048 -verbosity=0; \
	    echo "$$target: $(RUNS) inputs, nothing found"; \
	done

.PHONY: bench
bench: deps model ## Run the micro-benchmarks
	$(CARGO) bench --locked --workspace

.PHONY: scaling
scaling: setup ## What clusters of up to a billion documents would look like, see docs/SCALING.md
	$(CARGO) run --locked --quiet --package mira-proto --example scaling
	$(CARGO) run --locked --quiet --package mira-proto --example placement

BENCH_CLUSTER = MIRA_BIN="$(call target_dir)/release/mira" $(CARGO) bench --locked --package mira-benches --bench cluster --

.PHONY: bench-cluster
bench-cluster: release ## Measure a three-node cluster on this machine, in about 15 minutes (BENCH_ARGS="--only store,search")
	$(BENCH_CLUSTER) $(BENCH_ARGS)

.PHONY: bench-gate
bench-gate: setup ## Fail if this tree is over 5 % slower than BASE=REV: builds both, minutes (FULL=1: also imports and 20 callers)
	@test -n "$(BASE)" || { echo "bench-gate: say what to compare with, such as BASE=main" >&2; exit 2; }
	@benches/gate/gate.py --base "$(BASE)" $(if $(FULL),--full) $(if $(PLANT),--plant "$(PLANT)") \
	    --json "$(call target_dir)/bench/gate.json" $(BENCH_ARGS)

.PHONY: bench-idle
bench-idle: release ## Measure what a cluster costs that nobody uses, in two minutes (BENCH_ARGS="--collections 1000")
	@benches/idle.py "$(call target_dir)/release/mira" $(BENCH_ARGS)

.PHONY: bench-peers
bench-peers: release ## Measure a Chroma server from PyPI beside it, on the same vectors, minutes (BENCH_ARGS="--peer-documents 100000")
	$(BENCH_CLUSTER) --only peers $(BENCH_ARGS)

.PHONY: bench-scale
bench-scale: release ## Measure clusters of up to a million documents, half an hour (BENCH_ARGS="--sizes 10000,100000 --resume")
	$(BENCH_CLUSTER) --only scale $(BENCH_ARGS)

##@ Prepare

.PHONY: setup
setup: ## Install the Debian packages that the build needs (as root), or say which
	@deploy/deps/setup.sh

.PHONY: deps
deps: setup ## Build the RocksDB library into the cache (once per machine, about 4 minutes on two cores)
	@mkdir -p $(ROCKSDB)
	@exec 9>$(ROCKSDB)/.lock; flock 9; \
	if [ -f $(ROCKSDB)/librocksdb.a ]; then echo "rocksdb: ready in $(ROCKSDB)"; exit 0; fi; \
	echo "rocksdb: compiling $(ROCKSDB_VERSION) once for this machine; an interrupted build goes on where it stopped"; \
	metadata=$$($(CARGO) metadata --locked --format-version 1); \
	src=$$(python3 -c '$(folder_of)' librocksdb-sys <<<"$$metadata"); \
	lz4=$$(python3 -c '$(folder_of)' lz4-sys <<<"$$metadata")/liblz4/lib; \
	env -u MAKEFLAGS make --jobs=$$(nproc) -f $(ROCKSDB_MK) SRC="$$src" LZ4="$$lz4" OUT=$(ROCKSDB)

.PHONY: model
model: ## Fetch the embedding model into the cache (once per machine, 91 MB)
	@deploy/deps/model.sh $(MIRA_MODEL_DIR)

.PHONY: tools
tools: ## Install what `make verify` uses where it exists (shellcheck, cargo-deny, cargo-machete), and cargo-fuzz; minutes
	@deploy/deps/setup.sh shellcheck
	$(CARGO) install --locked cargo-deny cargo-fuzz cargo-machete

.PHONY: env
env: ## Print the variables for plain cargo: eval "$(make -s env)"
	@for name in ROCKSDB_LIB_DIR ROCKSDB_INCLUDE_DIR ROCKSDB_STATIC MIRA_MODEL_DIR RUSTFLAGS \
	    $$(compgen -e | grep '^CARGO_TARGET_.*_LINKER$$'); do \
	    if [ -n "$${!name:-}" ]; then printf 'export %s=%q\n' "$$name" "$${!name}"; fi; \
	done

.PHONY: help
help: ## List the commands
	@awk 'BEGIN {FS = ":.*## "} \
	    /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	    /^[a-z-]+:.*## / {split($$1, name, ":"); printf "  make %-17s %s\n", name[1], $$2}' $(MAKEFILE_LIST)

# Where cargo builds, as cargo itself says: a variable, a configuration file or the workspace may have moved it.
target_dir = $$($(CARGO) metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
# The folder of a package's sources, from what `cargo metadata` prints.
folder_of = import json, os, sys; print(next(os.path.dirname(found["manifest_path"]) \
    for found in json.load(sys.stdin)["packages"] if found["name"] == sys.argv[1]))
skipped = echo "verify: NOT CHECKED: $(2), because $(1) is not installed ($(3))" >&2
