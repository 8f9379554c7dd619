# The program in a container: docker build -t throughline .
#
#   docker run --rm -p 3000:3000 -e PORT=3000 throughline                   the reference server
#   docker run --rm -p 8808:8808 -e THROUGHLINE_ALLOWED_HOSTS=localhost \
#     throughline serve http://server:3000/mcp --listen 0.0.0.0:8808        the gateway
#
# Mount a volume at /var/lib/throughline for a gateway that keeps its own sessions.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p throughline && mkdir -p -m 0700 /state/throughline

# glibc as the tests have it, roots for TLS, an unprivileged user; neither a shell nor a package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/throughline /usr/local/bin/throughline
COPY --from=build --chown=65532:65532 /state/ /var/lib/
ENV THROUGHLINE_STATE_DIR=/var/lib/throughline
USER 65532:65532
EXPOSE 3000 8808
# Asks /readyz where THROUGHLINE_LISTEN, PORT or the default says; with --listen elsewhere, or TLS, give it the URL.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["/usr/local/bin/throughline", "health"]
ENTRYPOINT ["/usr/local/bin/throughline"]
CMD ["reference"]
