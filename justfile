# The list of habits. Each is one command, so that it can be typed without just.

# What every change must pass: form, lints, then every test there is.
ci:
    bash .ci/run

# Every test, with the real servers; installs what is missing.
test:
    bash tests/all

# Generate the man pages and the completions again.
bless:
    BLESS=1 cargo test --test generated

# Two thousand upgrades under load, beside controls that must lose requests.
torture:
    TORTURE_UPGRADES=2000 cargo test --release --test torture

# Two hundred upgrades of each server that knows nothing of inherited sockets.
torture-adopt:
    ADOPT_UPGRADES=200 cargo test --release --test adopt servers::

# A million random worlds. SIM_SEED=n replays one of them.
sim:
    SIM_WORLDS=1000000 cargo test --release --test sim

# The faults that the simulator must catch.
planted:
    tests/planted/run

# Side by side with peers.
bench:
    cargo bench

fmt:
    cargo fmt

lint:
    cargo clippy --locked --all-targets -- -D warnings
