# Two stages: the second has the program and its certificates, but no compiler.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# sqlx-data.json describes the checked queries, so the build needs no database.
RUN cargo build --release --locked --bin warmproof

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/warmproof /usr/local/bin/warmproof
# A number, so that an orchestrator can verify that it is not root. The program writes no files: run it
# with a read-only root.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/warmproof"]
# On SIGTERM it drains: it stops claiming, finishes verifications in flight and releases the rest.
STOPSIGNAL SIGTERM
CMD ["--help"]
