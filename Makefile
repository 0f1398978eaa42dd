# `make up` runs the whole system on this machine, `make test` runs every check and test. Both install missing tools in .tools.
# Arguments for `make up`: make up ARGS="--for 60s --load step:5@0s,40@20s,5@40s"

.DEFAULT_GOAL := help
.PHONY: help up up-kubernetes cluster cluster-install cluster-demo cluster-scale test test-gpu build tools format lint unit check-gpu python test-python test-kube kube-assets fuzz audit sbom schemas bench clean
ARGS ?=
# Seconds for each target of `make fuzz`; 17 targets of 210 s take an hour. TARGETS selects some of them.
SECONDS ?= 210
TARGETS ?=
CARGO ?= cargo
export CARGO_INCREMENTAL ?= 0
NATS = $$(deploy/tools.sh)
# What only programs for clusters need; tests and linter include it.
FEATURES = --features qscale-actuator/kubernetes,qscale-collector/kubernetes,qscale-tests/kubernetes

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

up: build ## Run the whole system in the foreground (ARGS="--for 60s --json ...")
	@NATS_SERVER_BIN="$(NATS)" target/debug/qscale up $(ARGS)

up-kubernetes: tools ## Run the services in the foreground for the workloads of a cluster (ARGS="--context NAME ...")
	$(CARGO) build --locked --workspace --bins --features qscale-actuator/kubernetes,qscale-collector/kubernetes
	@NATS_SERVER_BIN="$(NATS)" target/debug/qscale up --backend kubernetes $(ARGS)

test: tools format unit ## Run every check and test

build: tools ## Build everything that `make up` runs
	$(CARGO) build --locked --workspace --bins

tools: ## Check for required tools and install missing ones
	@deploy/tools.sh >/dev/null

format: ## Check the formatting
	$(CARGO) fmt --all --check

lint: ## Run the linter alone; warnings are errors
	$(CARGO) clippy --locked --workspace $(FEATURES) --all-targets -- --deny warnings

# Lints the project's own crates while it compiles them.
unit test-kube test-python: export RUSTC_WORKSPACE_WRAPPER = $(CURDIR)/tests/rustc.sh

# Each program has tests of its own, so that cargo builds it before the tests of the whole system, which run it. Tests of the whole system mostly
# wait, so more of them run at once than there are cores. `--tests` leaves out documentation tests, of which there are none.
unit: ## Lint, and run the tests
	@deploy/tools.sh --tests >/dev/null
	@test -x "$${KUBEBUILDER_ASSETS:-$$(deploy/cluster/assets.sh where)}/kube-apiserver" || echo "skipping the tests with Kubernetes; \`make kube-assets\` builds what they need"
	$(CARGO) build --locked --workspace $(FEATURES) --all-targets
	NATS_SERVER_BIN="$(NATS)" RUST_TEST_THREADS=$$((2 * $$(nproc))) $(CARGO) test --locked --workspace $(FEATURES) --no-fail-fast --tests

test-kube: tools kube-assets ## Run the tests with a Kubernetes control plane
	$(CARGO) test --locked --workspace $(FEATURES) --test kubernetes
	NATS_SERVER_BIN="$(NATS)" $(CARGO) test --locked --workspace $(FEATURES) --test system -- kubernetes::

kube-assets: ## Build a Kubernetes control plane for the tests, in ~/.cache/qscale
	deploy/cluster/assets.sh

cluster: tools ## Run a Kubernetes cluster with real pods on this machine; needs root, and 15 minutes to build
	@deploy/cluster/assets.sh node
	$(CARGO) build --locked --workspace $(FEATURES) --bins --example cluster
	@target/debug/examples/cluster

cluster-install: tools ## Run such a cluster with the chart installed in its pods, and a function that it scales
	@deploy/cluster/assets.sh node
	$(CARGO) build --locked --workspace $(FEATURES) --bins --example cluster
	@NATS_SERVER_BIN="$(NATS)" target/debug/examples/cluster --install

cluster-scale: tools kube-assets ## Measure the services with 5,000 workloads on simulated nodes (ARGS="WORKLOADS TICK MINUTES")
	$(CARGO) build --locked --workspace $(FEATURES) --bins --example cluster_scale
	@NATS_SERVER_BIN="$(NATS)" target/debug/examples/cluster_scale $(ARGS)

cluster-demo: tools ## Run Qscale beside the HorizontalPodAutoscaler in such a cluster (ARGS="LOAD DURATION")
	@deploy/cluster/assets.sh node
	$(CARGO) build --locked --workspace $(FEATURES) --bins --example cluster_demo
	@NATS_SERVER_BIN="$(NATS)" target/debug/examples/cluster_demo $(ARGS)

python: ## Build the wheel of the Python package in target/wheels
	@agent/python/wheel.sh

# The same build as of `unit`, so that nothing is compiled twice.
test-python: tools ## Build the wheel and test it in a clean virtual environment, with real servers
	$(CARGO) build --locked --workspace $(FEATURES) --all-targets
	@agent/python/wheel.sh --test

check-gpu: ## Check that the code for GPUs compiles
	$(CARGO) check --locked -p qscale-burn -p qscale --features qscale-burn/gpu,qscale/gpu --lib --bins --tests

test-gpu: ## Compare the learner on GPU and CPU; needs a Vulkan driver and 15 minutes to build
	$(CARGO) test --locked -p qscale-burn --features gpu --test gpu -- --nocapture

fuzz: ## Fuzz the parsers and the guard for an hour, or SECONDS each; needs a C++ compiler
	@tests/fuzz/fuzz.sh $(SECONDS) $(TARGETS)

audit: ## Check dependencies with cargo deny; installs it, reads the advisories of RustSec from the network
	@$$(deploy/cargo-tool.sh cargo-deny 0.20.2) check

sbom: ## Write the bill of materials of each program (CycloneDX) in target/sbom
	@deploy/sbom.py

schemas: ## Regenerate the JSON Schemas, the AsyncAPI document, the custom resource and the types of the Python package
	$(CARGO) run --locked -p qscale-common --example schemas
	$(CARGO) run --locked -p qscale-actuator --features kubernetes --example manifests
	agent/python/contract_from_schemas.py

bench: tools ## Run the benchmarks
	$(CARGO) build --locked --workspace --bins --release
	NATS_SERVER_BIN="$(NATS)" $(CARGO) bench --locked --workspace

clean: ## Remove build output, installed tools and state
	rm -rf target .tools .qscale
