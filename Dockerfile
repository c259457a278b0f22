# The image has the program and its certificates, but no compiler. `--target lab` makes the image of the
# simulated platform and the small supervisor, which docker-compose.yml needs; it is not for production.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# sqlx-data.json describes the checked queries, so the build needs no database.
RUN cargo build --release --locked --package warmproof

FROM build AS build-lab
RUN cargo build --release --locked --package warmproof-lab

FROM debian:bookworm-slim AS base
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
# A number, so that an orchestrator can verify that it is not root. The programs write no files: run them
# with a read-only root.
USER 65532:65532
# On SIGTERM a worker drains: it stops claiming, finishes verifications in flight and releases the rest.
STOPSIGNAL SIGTERM
CMD ["--help"]

FROM base AS lab
COPY --from=build-lab /src/target/release/warmproof-lab /usr/local/bin/warmproof-lab
ENTRYPOINT ["/usr/local/bin/warmproof-lab"]

FROM base
COPY --from=build /src/target/release/warmproof /usr/local/bin/warmproof
ENTRYPOINT ["/usr/local/bin/warmproof"]
