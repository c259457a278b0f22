# Two stages: the second has the program and the certificates it needs, and no compiler.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Checked queries are described by sqlx-data.json: no database is needed here.
RUN cargo build --release --locked --bin warmproof

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/warmproof /usr/local/bin/warmproof
# A bare number, so that an orchestrator can verify that it is not root. The program writes no files:
# run it with a read-only root.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/warmproof"]
# It drains on SIGTERM: stops claiming, finishes what is in hand, releases the rest.
STOPSIGNAL SIGTERM
CMD ["--help"]
