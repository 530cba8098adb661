# Aliases, no logic: each line can be typed as it stands. `make up ARGS='--for 60s --json'` passes arguments on.
.PHONY: up test check bench build image fmt lint

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

bench:
	tools/setup.sh test
	cargo bench --locked

build:
	tools/setup.sh build
	cargo build --release --locked

image:
	docker build --file deploy/Dockerfile --tag millrace:0.1.0 .

fmt:
	cargo fmt --all

lint:
	cargo clippy --locked --workspace --all-targets -- -D warnings
