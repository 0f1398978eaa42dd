# The two commands: `make up` runs the whole system on this machine, `make test` runs every check and test.
# Both bring what is missing. Arguments for the former: make up ARGS="--for 60s --load step:5@0s,40@20s,5@40s"

.DEFAULT_GOAL := help
.PHONY: help up test test-gpu build tools format lint unit schemas bench clean
ARGS ?=
CARGO ?= cargo
export CARGO_INCREMENTAL ?= 0
NATS = $$(deploy/tools.sh)

help: ## Say what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

up: build ## Run the whole system in the foreground (ARGS="--for 60s --json ...")
	@NATS_SERVER_BIN="$(NATS)" target/debug/qscale up $(ARGS)

test: tools format lint unit ## Run every check and test

build: tools ## Build everything that `make up` runs
	$(CARGO) build --locked --workspace --bins

tools: ## Check for what is needed and bring what is missing
	@deploy/tools.sh >/dev/null

format: ## Check the formatting
	$(CARGO) fmt --all --check

lint: ## Run the linter, warnings being errors
	$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	$(CARGO) check --locked -p qscale-burn -p qscale --features qscale-burn/gpu,qscale/gpu --lib --bins --tests

unit: ## Run the tests
	@deploy/tools.sh --tests >/dev/null
	$(CARGO) build --locked --workspace --bins
	NATS_SERVER_BIN="$(NATS)" $(CARGO) test --locked --workspace --no-fail-fast

test-gpu: ## Hold a GPU against the CPU; needs a driver for Vulkan, and takes a quarter of an hour to build
	$(CARGO) test --locked -p qscale-burn --features gpu --test gpu -- --nocapture

schemas: ## Write the JSON Schemas and the AsyncAPI document anew
	$(CARGO) run --locked -p qscale-common --example schemas

bench: tools ## Run the benchmarks
	$(CARGO) build --locked --workspace --bins --release
	NATS_SERVER_BIN="$(NATS)" $(CARGO) bench --locked --workspace

clean: ## Remove what was built, brought and kept
	rm -rf target .tools .qscale
