# docker build -t lemamba . && docker run --rm lemamba            runs `make test`
# docker run --rm lemamba make demo                               any other target
FROM python:3.11-slim
# octave runs the MATLAB package; the cross-compiler and qemu run the C kernels as on 64-bit ARM
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev make git octave \
    && if [ "$(dpkg --print-architecture)" = amd64 ]; then \
         apt-get install -y --no-install-recommends gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user; fi \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /lemamba
# --build-arg PIP_EXTRA_INDEX_URL=…: an index with CPU builds of torch, which are much smaller than those with CUDA
ARG PIP_EXTRA_INDEX_URL=
COPY requirements.lock .
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir -r requirements.lock
# tests ask git which files belong to the project, so .git is copied too
COPY . .
RUN touch .venv/.installed
CMD ["make", "test"]
