# All commands of the project. CI uses the same targets.

.DEFAULT_GOAL := help
.PHONY: help demo test test-docker test-kubernetes trials takeover test-pooler test-failover pooler-memory test-conformance test-alerts test-contract test-page openapi bench bench-pages profile bench-check check prepare

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Show how lost warm starts are recovered; accepts ARGS="--seconds 30 --json"
	@scripts/bootstrap
	@# Built to be watched: without debug information and incremental state the first line comes a tenth earlier.
	CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 cargo run --quiet --package warmproof-lab -- demo $(ARGS)

test: ## Run all tests; installs PostgreSQL's programs if they are missing
	@scripts/bootstrap --test
	cargo test
	@$(MAKE) --no-print-directory test-failover
	@scripts/dockerd --if-possible cargo test --test docker
	@scripts/test-page --if-possible
	@if scripts/kube-apiserver cached; then $(MAKE) --no-print-directory test-kubernetes; else scripts/kube-apiserver skipped; fi
	cargo test --test trials

test-pooler: ## Run the tests through a real PgBouncer, in transaction and in session mode; installs it if necessary
	@scripts/bootstrap --test
	WARMPROOF_TEST_POOLER=transaction cargo test --test it $(ARGS)
	WARMPROOF_TEST_POOLER=session cargo test --test it $(ARGS)

test-failover: ## Kill a primary under load, promote its standby, and check that no promise is lost
	@scripts/bootstrap --test
	cargo test --test failover -- --nocapture --test-threads=1 $(ARGS)

pooler-memory: ## Measure for ten minutes the memory of backends, with WARMPROOF_DATABASE_POOLER on and no pooler
	@scripts/bootstrap
	cargo build --quiet --package warmproof-lab
	@scripts/pooler-memory $(ARGS)

test-docker: ## Run the tests against a real Docker engine; installs and starts it if necessary; needs root and Linux
	@scripts/bootstrap
	scripts/dockerd cargo test --test docker $(ARGS)

trials: ## Run only the trials: storms, a brown-out, a thousand double starts; about four minutes
	@scripts/bootstrap --test
	cargo test --test trials -- --nocapture $(ARGS)

takeover: ## Kill a hundred workers and print how fast other workers took over
	@scripts/bootstrap --test
	TAKEOVER_KILLS=100 cargo test --test it killed_workers_claims -- --nocapture

test-conformance: ## Drive the simulator with the platform's published client; needs Node.js and npm
	@scripts/test-conformance

test-kubernetes: ## Test against a real Kubernetes API server; the first run builds it from Debian's source
	@scripts/kube-apiserver build
	cargo test --test kubernetes --no-run
	scripts/kube-apiserver run cargo test --test kubernetes

test-contract: ## Search for answers that docs/openapi.json does not describe; needs Python and pip
	@scripts/bootstrap
	@scripts/test-contract

test-page: ## Drive the admin page of a running demo with headless Chromium; installs it if necessary
	@scripts/bootstrap
	@scripts/test-page

openapi: ## Generate the API's description, docs/openapi.json
	@scripts/bootstrap --test
	WRITE_OPENAPI=1 cargo test --quiet --test it the_committed_description

test-alerts: ## Test the alerts and rules with Debian's promtool
	@command -v promtool >/dev/null || { echo "test-alerts: \`promtool\` is not installed (apt-get install prometheus)" >&2; exit 1; }
	promtool check rules deploy/prometheus/rules.yml
	cd deploy/prometheus && promtool test rules rules_test.yml

bench: ## Measure a release build; accepts ARGS="--full --json"
	@scripts/bootstrap
	cargo run --quiet --release --package warmproof-lab -- bench $(ARGS)

profile: ## Sample the processor while a release build runs; PHASES="life schedule" selects phases
	@scripts/bootstrap
	cargo build --quiet --release --package warmproof-lab
	scripts/profile $(PHASES)

bench-pages: ## Time reports, API answers, pages and commands over ten million outcomes
	@scripts/bootstrap
	cargo run --quiet --release --package warmproof-lab -- bench --full --phases reading $(ARGS)

bench-check: ## Compare the JSON document of a run, FILE=bench.json, with the targets
	cargo run --quiet --release --package warmproof-lab -- bench --check $(or $(FILE),bench.json)

check: ## Check format, lints, tidiness, docs, query metadata and dependencies
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test contract --test docker --test kubernetes --test page --test failover --test trials -- -D warnings
	@scripts/check-features
	cargo test --test tidy
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items --workspace
	@scripts/bootstrap
	cargo xtask prepare --check
	@scripts/check-dependencies

prepare: ## Generate the metadata of the checked queries, sqlx-data.json
	@scripts/bootstrap
	cargo xtask prepare
