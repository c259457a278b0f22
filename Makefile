# Every command there is. If it is not a target here, it is not a step.

.DEFAULT_GOAL := help
.PHONY: help demo test test-docker test-kubernetes trials takeover test-pooler test-failover pooler-memory test-conformance test-alerts test-contract test-page openapi bench bench-pages profile bench-check check prepare

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Show warm starts getting lost and found; pass ARGS="--seconds 30 --json" on
	@scripts/bootstrap
	cargo run --quiet --bin warmproof -- demo $(ARGS)

test: ## Run every test; installs PostgreSQL's programs if there are none
	@scripts/bootstrap --test
	cargo test
	@$(MAKE) --no-print-directory test-failover
	@scripts/dockerd --if-possible cargo test --test docker
	@scripts/test-page --if-possible
	@if scripts/kube-apiserver cached; then $(MAKE) --no-print-directory test-kubernetes; else scripts/kube-apiserver skipped; fi

test-pooler: ## Run the tests through a real PgBouncer, which is installed if need be: by transaction, then by session
	@scripts/bootstrap --test
	WARMPROOF_TEST_POOLER=transaction cargo test --test it $(ARGS)
	WARMPROOF_TEST_POOLER=session cargo test --test it $(ARGS)

test-failover: ## Kill a primary under load, promote its standby, and look for what was promised
	@scripts/bootstrap --test
	cargo test --test failover -- --nocapture --test-threads=1 $(ARGS)

pooler-memory: ## Watch for ten minutes how backends grow with WARMPROOF_DATABASE_POOLER on and no pooler
	@scripts/bootstrap
	cargo build --quiet --bin warmproof
	@scripts/pooler-memory $(ARGS)

test-docker: ## Run the tests against a real Docker engine, which is installed and started if need be; needs root and Linux
	@scripts/bootstrap
	scripts/dockerd cargo test --test docker $(ARGS)

trials: ## Run the trials alone: storms, a brown-out, a thousand double starts; about four minutes
	@scripts/bootstrap --test
	cargo test --test trials -- --nocapture $(ARGS)

takeover: ## Kill a hundred workers and print how fast others took over
	@scripts/bootstrap --test
	TAKEOVER_KILLS=100 cargo test --test it killed_workers_claims -- --nocapture

test-conformance: ## Drive the simulator with the platform's published client; needs Node.js and npm
	@scripts/test-conformance

test-kubernetes: ## Test against a real Kubernetes API server; the first time builds it from Debian's source
	@scripts/kube-apiserver build
	cargo test --test kubernetes --no-run
	scripts/kube-apiserver run cargo test --test kubernetes

test-contract: ## Look for answers that docs/openapi.json does not describe; needs Python and pip
	@scripts/bootstrap
	@scripts/test-contract

test-page: ## Drive the admin page of a running demo with headless Chromium, which is installed if need be
	@scripts/bootstrap
	@scripts/test-page

openapi: ## Write the API's description anew, into docs/openapi.json
	@scripts/bootstrap --test
	WRITE_OPENAPI=1 cargo test --quiet --test it the_committed_description

test-alerts: ## Test alerts and rules with Debian's promtool
	@command -v promtool >/dev/null || { echo "test-alerts: \`promtool\` is not installed (apt-get install prometheus)" >&2; exit 1; }
	promtool check rules deploy/prometheus/rules.yml
	cd deploy/prometheus && promtool test rules rules_test.yml

bench: ## Measure a release build; pass ARGS="--full --json" on
	@scripts/bootstrap
	cargo run --quiet --release --bin warmproof -- bench $(ARGS)

profile: ## Sample a release build at work; PHASES="life schedule" names what
	@scripts/bootstrap
	cargo build --quiet --release --bin warmproof
	scripts/profile $(PHASES)

bench-pages: ## Time reports, answers, pages and commands over ten million outcomes
	@scripts/bootstrap
	cargo run --quiet --release --bin warmproof -- bench --full --phases reading $(ARGS)

bench-check: ## Hold the JSON document of a run, FILE=bench.json, against the bars
	cargo run --quiet --release --bin warmproof -- bench --check $(or $(FILE),bench.json)

check: ## Format, lints, tidiness, docs, query metadata, dependencies
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test docker -- -D warnings
	cargo clippy --test kubernetes -- -D warnings
	cargo clippy --test page -- -D warnings
	cargo clippy --test failover -- -D warnings
	cargo test --test tidy
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	@scripts/bootstrap
	scripts/sqlx-prepare --check
	@scripts/check-dependencies

prepare: ## Describe the checked queries anew, into sqlx-data.json
	@scripts/bootstrap
	scripts/sqlx-prepare
