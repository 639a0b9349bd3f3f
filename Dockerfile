# syntax=docker/dockerfile:1
# A small image without a shell, run as an unprivileged user. For production:
# docker build -t ott-gateway --build-arg FEATURES=otlp .   (leaves the sandbox out)
# --build-arg PGO=1 also optimises the binary with a profile of its own calls, which
# `release/build` records during the build. That takes more than twice as long.

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
EXPOSE 50051 50052 9464
STOPSIGNAL SIGTERM
# Asks health_listen, or listen if there is none. Kubernetes ignores this and uses its own probes.
HEALTHCHECK --start-period=10s --interval=10s --timeout=3s \
    CMD ["/usr/bin/ott-gateway", "healthcheck", "--config", "/etc/ott-gateway/gateway.toml"]
ENTRYPOINT ["/usr/bin/ott-gateway"]
CMD ["serve", "--config", "/etc/ott-gateway/gateway.toml"]
