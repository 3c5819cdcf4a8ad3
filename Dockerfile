# syntax=docker/dockerfile:1

# Both stages can be replaced by images of your own, pinned as you pin yours (tag or digest). BUILDER
# needs Go and a CA bundle; RUNTIME needs nothing at all, for the binary is static.
ARG BUILDER=golang:1.26.8-bookworm
ARG RUNTIME=scratch

FROM ${BUILDER} AS build
ARG GOPROXY=https://proxy.golang.org,direct
# Use the image's own Go: a toolchain fetched on the way would not be the one that was pinned.
ENV CGO_ENABLED=0 GOTOOLCHAIN=local GOPROXY=${GOPROXY}
WORKDIR /src
# The modules come first: this layer changes only with go.mod and go.sum.
COPY go.mod go.sum ./
RUN go mod download && go mod verify
COPY . .
ARG VERSION=dev
ARG REVISION=unknown
# As .ci/run builds: the same Go, version and revision make the same bytes.
#   --build-arg VERSION=$(git describe --tags --always) --build-arg REVISION=$(git rev-parse HEAD)
RUN go build -trimpath -buildvcs=false \
      -ldflags "-s -w -X main.version=${VERSION} -X main.commit=${REVISION}" \
      -o /out/worker ./cmd/worker
# An empty /tmp for `worker demo`; `worker run` writes no file, so a read-only root suits it.
RUN mkdir -p /out/tmp && chmod 1777 /out/tmp

FROM ${RUNTIME}
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="flow-worker" \
      org.opencontainers.image.description="Creates Databricks base connections in Adobe Experience Platform, at most one per request" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/flow-worker/flow-worker" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/tmp /tmp
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /out/worker /usr/local/bin/worker
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# Metrics and health. The status page stays on the loopback interface.
EXPOSE 8080
# The binary asks itself: the image has no shell and no other HTTP client.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
  CMD ["/usr/local/bin/worker", "healthcheck"]
# SIGTERM drains: give it longer than WORKER_SHUTDOWN_TIMEOUT (docker stop --time 120).
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/worker"]
CMD ["run"]
