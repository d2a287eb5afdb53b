# CPU:  docker build -t rebnn_mm .
# CUDA: docker build -t rebnn_mm:cuda --build-arg BASE=nvidia/cuda:13.0.0-devel-ubuntu24.04 --build-arg FORCE_CUDA=1 .
# Then: docker run --rm -it -v "$PWD/data:/opt/rebnn_mm/data" rebnn_mm bash      (CUDA: with --gpus all)
# torch's wheels bring CUDA 13.0; the devel image is needed for nvcc alone, which compiles MMCV's operators.
ARG BASE=debian:12.11-slim

FROM ${BASE} AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ git make python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS full
# 1: compile MMCV's operators for GPUs too, though the machine that builds the image has none
ARG FORCE_CUDA=0
# of the GPUs that the operators are for: A100, H100 and later
ARG TORCH_CUDA_ARCH_LIST="8.0 9.0+PTX"
WORKDIR /opt/rebnn_mm
COPY . .
RUN FORCE_CUDA="${FORCE_CUDA}" TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST}" PIP_NO_CACHE_DIR=1 make install
ENV PATH=/opt/rebnn_mm/.venv/bin:${PATH}
CMD ["rebnn", "--help"]
