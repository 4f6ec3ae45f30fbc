# Every target sets up what it needs first; the set-up is idempotent and asks for no root.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
ENV := . .espalier/env.sh
PEER := PYTHONPATH=.espalier/pysite $(PYTHON)
ESPALIER_DATA ?= ../shared/data
MINUTES ?= 10
FUZZ_SECONDS ?= 30

.PHONY: help setup build demo digits test test-device test-python test-kubernetes test-images test-observability test-page lighthouse page-pictures test-data check fix bench bench-balance bench-tasks measure sim parity chaos bench-control fuzz digits-adaptation spoken-digits draw docs clean distclean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## libtorch and a pretrained model, into .espalier/ (1.2 GB; LIBTORCH of yours wins)
	@$(PYTHON) deploy/setup/setup.py

build: setup ## All binaries, into target/debug (the dev profile is an optimised one)
	@$(ENV); cargo build --workspace --bins

demo: setup ## Five tasks on Debian's package index: train on two workers, compare, predict (DEMO_FAST=1: short)
	@$(ENV); $(PYTHON) recipes/debian-packages/demo.py

digits: setup ## Image recipe: train from nothing on one task, transfer to another
	@$(ENV); $(PYTHON) recipes/digits/demo.py

digits-adaptation: setup ## Domain adaptation: labels of MNIST, images of USPS (ESPALIER_DATA), with and without
	@$(ENV); export ESPALIER_DATA="$(ESPALIER_DATA)"; $(PYTHON) recipes/digits-adaptation/demo.py

spoken-digits: setup ## Sound recipe: WAV of spoken digits (ESPALIER_DATA) to a small network from nothing
	@$(ENV); export ESPALIER_DATA="$(ESPALIER_DATA)"; $(PYTHON) recipes/spoken-digits/demo.py

draw: setup ## Image tokens: a decoder of text goes on with MNIST (ESPALIER_DATA) and draws digits
	@$(PYTHON) deploy/setup/setup.py recipes
	@$(ENV); export ESPALIER_DATA="$(ESPALIER_DATA)"; PYTHONPATH=.espalier/pyrecipes $(PYTHON) recipes/draw/run.py

# Binaries and tests are built at once: apart, dependencies that tests ask more of compile twice.
test: setup ## All tests
	@$(PYTHON) deploy/setup/setup.py grpc s3 etcd
	@$(ENV); cargo build --workspace --bins --tests; PYTHONPATH=.espalier/pygrpc $(PYTHON) tests/python/client.py
	@$(ENV); cargo test --workspace --doc
	@$(ENV); if cargo nextest --version >/dev/null 2>&1; \
	then cargo nextest run --workspace --no-fail-fast; \
	else cargo test --workspace --bins --lib --tests --no-fail-fast; fi
	@$(MAKE) --no-print-directory test-device DEVICE_TESTS='$(SOME_DEVICE_TESTS)'

# The stand-in is loaded before all else, since libtorch looks for devices once; so all tests may share a process.
# TorchScript modules compute on the CPU alone. 'make test' takes some of the tests.
DEVICE_TESTS ?=
SOME_DEVICE_TESTS := recovery adaptation_steps zero_shot segmentation tags ranking tuning::parts shared_inputs::shared
STAND_IN := $(CURDIR)/target/stand-in
test-device: setup ## Training on a stand-in for CUDA, as the tests of training have it: what is on the wrong device is found
	@mkdir -p $(STAND_IN); $(ENV); tests/gpu/stand_in/build.sh $(STAND_IN)/libtorch_cuda.so $(STAND_IN)/check; \
	LD_LIBRARY_PATH="$$LIBTORCH/lib" $(STAND_IN)/check $(STAND_IN)/libtorch_cuda.so
	@$(ENV); export ESPALIER_TEST_DEVICE=cuda:0 ESPALIER_CUDA=$(STAND_IN); cargo test --workspace --test training --no-fail-fast \
	--config "target.'cfg(all())'.runner=['env', 'LD_LIBRARY_PATH=$$LIBTORCH/lib', 'LD_PRELOAD=$(STAND_IN)/libtorch_cuda.so']" \
	-- --skip script $(DEVICE_TESTS)

test-python: setup ## A stock gRPC client without generated code runs a job; the Python package, built, installed and used
	@$(PYTHON) deploy/setup/setup.py grpc client
	@$(ENV); cargo build --workspace --bins; PYTHONPATH=.espalier/pygrpc $(PYTHON) tests/python/client.py
	@$(ENV); PYTHONPATH=.espalier/pyclient $(PYTHON) tests/python/package.py
	@target/debug/espalier schema | $(PYTHON) deploy/docs/job_file.py --check
	@for script in api baseline; do PYTHONPATH=.espalier/pybuild $(PYTHON) deploy/docs/$$script.py --check; done

docs: setup ## docs/job-file.md, docs/api.md and proto/baseline.txt, out of the schema and the protos
	@$(PYTHON) deploy/setup/setup.py protoc
	@$(ENV); cargo build -p espalier-cli --bins; target/debug/espalier schema | $(PYTHON) deploy/docs/job_file.py
	@for script in api baseline; do PYTHONPATH=.espalier/pybuild $(PYTHON) deploy/docs/$$script.py; done

test-kubernetes: ## Manifests rendered by kustomize, against the schemas of three versions of Kubernetes and the rules of the house
	@$(PYTHON) deploy/setup/setup.py kubernetes
	@PYTHONPATH=.espalier/pykube $(PYTHON) tests/kubernetes/check.py

# Asks for root, buildah, debootstrap, curl, etcd and what 'make build' brings; sets nothing up.
test-images: ## Images built and started without an engine; docs/first-cluster.md from its first command to its last
	@$(PYTHON) tests/images/trial.py

test-observability: setup ## A cluster watched by Prometheus, TensorBoard and an OTLP collector; alert rules tested
	@$(PYTHON) deploy/setup/setup.py observe
	@$(ENV); cargo build --workspace --bins; PYTHONPATH=.espalier/pyobserve $(PYTHON) tests/observability/check.py

test-page: setup ## The live page in headless Chromium, against real coordinators, workers and a job
	@$(PYTHON) deploy/setup/setup.py chromium
	@$(ENV); cargo build --workspace --bins; $(PYTHON) tests/page/run.py

page-pictures: setup ## The README's pictures of the page, into docs/pictures/
	@$(PYTHON) deploy/setup/setup.py chromium
	@$(ENV); cargo build --workspace --bins; $(PYTHON) tests/page/run.py --screenshots

lighthouse: setup ## Lighthouse's accessibility score of the page's views; needs Node
	@$(PYTHON) deploy/setup/setup.py chromium lighthouse
	@$(ENV); cargo build --workspace --bins; $(PYTHON) tests/page/run.py --lighthouse

test-data: setup ## Tests on the real data sets in ESPALIER_DATA (default ../shared/data)
	@test -d "$(ESPALIER_DATA)" || { echo "no data folder at $(ESPALIER_DATA): set ESPALIER_DATA to it" >&2; exit 1; }
	@$(ENV); export ESPALIER_DATA="$$(realpath "$(ESPALIER_DATA)")"; \
	cargo test --workspace --test data -- --ignored

check: setup ## Format, lints and docs; changes nothing
	@$(ENV); cargo fmt --all --check
	@$(ENV); cargo clippy --workspace --all-targets -- -D warnings
	@$(ENV); RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

fix: setup ## Format and apply what clippy can fix
	@$(ENV); cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	@cargo fmt --all

bench: setup ## Side by side with PyTorch DDP; appends to tests/bench/RESULTS.md
	@$(PYTHON) deploy/setup/setup.py python
	@$(ENV); cargo build --workspace --bins; \
	cargo build -p espalier-comm --example bench_allreduce; $(PEER) tests/bench/run.py

bench-balance: setup ## Step time of every balancer, beside LibMTL, TorchJD, DDP and FSDP2; appends to RESULTS.md
	@$(PYTHON) deploy/setup/setup.py python golden
	@$(ENV); cargo build -p espalier-worker --example bench_step; $(PEER) tests/bench/balance.py

bench-tasks: setup ## Balancers on four real data sets of ESPALIER_DATA, hours; goes on where it was stopped
	@$(PYTHON) deploy/setup/setup.py python
	@$(ENV); cargo build --workspace --bins; export ESPALIER_DATA="$(ESPALIER_DATA)"; \
	$(PEER) tests/bench/real_tasks.py; $(PEER) tests/bench/real_tasks.py --table

measure: setup ## Recipes of ESPALIER_DATA beside the same training in PyTorch, hours; goes on where it was stopped
	@$(PYTHON) deploy/setup/setup.py python
	@$(ENV); cargo build --workspace --bins; export ESPALIER_DATA="$$(realpath "$(ESPALIER_DATA)")"; $(PYTHON) recipes/measure.py

EVENTS ?= 10000000
sim: ## A simulated cluster under faults, seed after seed, until EVENTS events (10000000) have happened
	@cargo run -p espalier-sim -- --total $(EVENTS)

parity: setup ## Forward, export and 20 training steps against PyTorch, transformers and PEFT
	@$(PYTHON) deploy/setup/setup.py python
	@$(ENV); cargo build --workspace --bins; $(PEER) tests/parity/parity.py; $(PEER) tests/parity/language.py; $(PEER) tests/parity/beside.py

# Hosts are network namespaces, which need root; CHAOS="--no-netns" does without. Other modes: tests/chaos/README.md.
chaos: setup ## A fault every ten seconds for MINUTES (default 10), export and throughput compared; appends to RESULTS.md
	@$(PYTHON) recipes/digits/build.py
	@$(ENV); cargo build --workspace --bins; $(PYTHON) tests/chaos/chaos.py --minutes $(MINUTES) $(CHAOS)

bench-control: setup ## 10,000 simulated workers and 1,000 jobs against one coordinator
	@$(ENV); cargo build --release -p espalier-coordinator --bins --examples; target/release/examples/bench_control_plane

fuzz: setup ## The fuzz targets, FUZZ_SECONDS each (default 30); needs cargo-fuzz and a nightly toolchain
	@$(ENV); for target in job_file rpc peer data_file checkpoint; do \
	cargo +nightly fuzz run --features worker $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=4096; done

clean: ## Remove what was built, and the demo's data
	@cargo clean
	@rm -rf .espalier/data .espalier/demo

distclean: clean ## Remove what was set up, too
	@rm -rf .espalier
