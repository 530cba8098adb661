# Aliases, no logic: each line can be typed as it stands. `make up ARGS='--for 60s --json'` passes arguments on.
.PHONY: up test check bench bench-clickhouse bench-postgres bench-gateway build image fmt lint pages

up:
	tools/setup.sh up
	cargo build --release --locked
	$${CARGO_TARGET_DIR:-target}/release/millrace up $(ARGS)

test:
	tools/setup.sh test
	cargo test --workspace --locked --no-fail-fast

check:
	tools/setup.sh check
	tools/check.sh

# What the pipelines cost next to the raw limits: docs/benchmarks.md.
bench:
	tools/setup.sh bench
	cargo bench --locked --bench pipeline -- $(ARGS)

bench-clickhouse:
	tools/setup.sh bench
	cargo bench --locked --bench pipeline -- clickhouse $(ARGS)

bench-postgres:
	tools/setup.sh test
	cargo bench --locked --bench pipeline -- postgres $(ARGS)

bench-gateway:
	tools/setup.sh test
	cargo bench --locked --bench pipeline -- gateway $(ARGS)

build:
	tools/setup.sh build
	cargo build --release --locked

image:
	docker build --file deploy/Dockerfile --tag millrace:0.1.0 .

fmt:
	cargo fmt --all

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings

# docs/analytics, from the files that define the metrics.
pages:
	MILLRACE_WRITE_PAGES=1 cargo test --locked -p millrace-processors the_pages_in_docs
