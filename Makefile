# Short names for what people do here. The work is in scripts/ (machine, cluster, images),
# xtask (generated files, house rules) and e2e (tests on a cluster).
SHELL := /bin/bash
CACHE := $(or $(KUBEVIRT_RS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/kubevirt-rs)
# Outside the repo, so that a fresh clone builds on what was built before.
export CARGO_TARGET_DIR ?= $(CACHE)/target

.DEFAULT_GOAL := help
.PHONY: help claim cluster cluster-down images manifests build check unit bench mutants e2e test demo clean

help: ## this list
	@awk -F ': .*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

claim: # of the shared target directory, so that another checkout's build doesn't pass for this one's
	@source scripts/lib.sh && claim_target

cluster: ## a cluster to test on: yours (KUBECONFIG), or a kind cluster made from nothing
	@scripts/cluster.sh up

cluster-down: ## remove that kind cluster, and the Docker engine started for it
	@scripts/cluster.sh down

images: ## every component's image for both releases, into the cluster (yours: IMAGE_REGISTRY=)
	@scripts/images.sh

manifests: claim ## generate manifests/ and everything else that is generated (cargo xtask gen)
	@cargo xtask gen

build: claim ## the static release binaries that images and e2e use
	@cargo build --release --workspace --bins

check: claim ## format, lints, house rules
	@cargo fmt --all --check
	@cargo clippy --quiet --workspace --all-targets -- -D warnings
	@cargo xtask check

unit: claim ## all tests that need no cluster
	@cargo test --quiet --workspace

bench: claim ## what one plan costs: 5,000 nodes, 50,000 VMIs, every stage of an update
	@cargo bench --quiet -p kubevirt-rollout --bench plan

mutants: ## what the planner's tests don't notice, for hours; a part: make mutants SHARD=3/40 (docs/mutants.md)
	@ulimit -v 6000000; CARGO_TARGET_DIR=$(CACHE)/mutants-target CARGO_PROFILE_DEV_DEBUG=false CARGO_PROFILE_DEV_OPT_LEVEL=1 \
	  INSTA_UPDATE=no nice -n 19 cargo mutants --output $(CACHE) -j 1 $(if $(SHARD),--shard $(SHARD)) $(ARGS)

e2e: ## one end-to-end suite: make e2e SUITE=name
	@scripts/e2e.sh suite $(or $(SUITE),$(error name a suite: make e2e SUITE=name))

test: ## everything, on a machine that may have nothing
	@scripts/test.sh

demo: cluster images ## install v0.17.0, start VMs, update to v0.18.0 under load, report
	@scripts/e2e.sh demo

clean: ## what cargo built (the cluster: make cluster-down; all caches: rm -r $(CACHE))
	@cargo clean --quiet
