# syntax=docker/dockerfile:1
# A small image without a shell that runs as nobody in particular. For production:
# docker build -t ott-gateway --build-arg FEATURES=otlp .   (leaves the sandbox out)
# With --build-arg PGO=1 the binary is also optimised by a profile of its own calls, which
# `release/build` records in the build: it takes more than twice as long.

FROM rust:1.95-bookworm AS build
ARG FEATURES=sandbox,otlp
ARG PGO=0
RUN if [ "$PGO" = 1 ]; then \
      rustup component add llvm-tools \
      && apt-get update && apt-get install -y --no-install-recommends nghttp2-client openssl python3 \
      && rm -rf /var/lib/apt/lists/*; \
    fi
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY .cargo .cargo
COPY proto proto
COPY src src
COPY release release
COPY benches benches
COPY tests/data tests/data
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    if [ "$PGO" = 1 ]; then \
      FEATURES="$FEATURES" release/build /ott-gateway; \
    else \
      cargo build --release --locked --no-default-features --features "$FEATURES" \
      && cp target/release/ott-gateway /ott-gateway; \
    fi

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /ott-gateway /usr/bin/ott-gateway
USER 65532:65532
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Works for a gateway without TLS on its default port; with TLS, name the files:
# healthcheck --endpoint https://localhost:50051 --ca-file … (see --help).
HEALTHCHECK --interval=10s --timeout=3s CMD ["/usr/bin/ott-gateway", "healthcheck"]
ENTRYPOINT ["/usr/bin/ott-gateway"]
CMD ["serve", "--config", "/etc/ott-gateway/config.toml"]
