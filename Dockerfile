# syntax=docker/dockerfile:1
# A small image without a shell that runs as nobody in particular. For production:
# docker build -t ott-gateway --build-arg FEATURES=otlp .   (leaves the sandbox out)

FROM rust:1.95-bookworm AS build
ARG FEATURES=sandbox,otlp
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --no-default-features --features "$FEATURES" \
    && cp target/release/ott-gateway /ott-gateway

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
