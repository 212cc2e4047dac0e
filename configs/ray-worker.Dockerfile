# An image for all nodes of a cluster on Kubernetes (configs/kuberay.yaml): Ray, this package and the
# opencode that it is tested with. Nothing is fetched when a pod starts, and no key is in it.
#
#   python -m pip wheel --no-deps --wheel-dir dist . && cp constraints.txt dist/
#   docker build --file configs/ray-worker.Dockerfile --tag chutes-opencode-ray dist

# The tested opencode: chutes_opencode/opencode/binary.py. Ray: constraints.txt.
ARG OPENCODE_VERSION=1.18.33
ARG RAY_VERSION=2.60.0

FROM node:22-slim AS opencode
ARG OPENCODE_VERSION
RUN npm install --prefix /opencode --ignore-scripts --no-audit --no-fund "opencode-ai@${OPENCODE_VERSION}" \
 && cp "/opencode/node_modules/opencode-linux-$(node -p process.arch)/bin/opencode" /opencode/opencode \
 && test "$(/opencode/opencode --version)" = "${OPENCODE_VERSION}"

FROM rayproject/ray:${RAY_VERSION}-py311
COPY --from=opencode --chmod=755 /opencode/opencode /usr/local/bin/opencode
COPY . /tmp/dist
RUN python -m pip install --no-cache-dir --constraint /tmp/dist/constraints.txt \
      "$(ls /tmp/dist/chutes_opencode-*.whl)[ray]"
ENV OPENCODE_BIN=/usr/local/bin/opencode
