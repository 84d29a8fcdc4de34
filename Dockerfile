# Image of vmae_det (docs/get_started/install.md#docker).
#   docker build -t vmae_det .                             CPU
#   docker build -t vmae_det:cuda --build-arg TORCH=cu128 .   GPUs of NVIDIA
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

# Builds of torch: cpu, or a CUDA version of https://download.pytorch.org/whl. The wheels contain CUDA's
# libraries, so the base image needs none. The driver comes from the host.
ARG TORCH=cpu
ARG EXTRAS=onnx,plots

# torch.compile (MODEL.COMPILE) calls a C++ compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

# In its own layer, because it is large and seldom changes.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/${TORCH}

COPY setup.py README.md LICENSE /src/
COPY configs /src/configs
COPY vmae_det /src/vmae_det
RUN pip install --no-cache-dir "/src[${EXTRAS}]" && rm -rf /src

# Caches that can be mounted, and writable with `docker run --user`.
ENV VMAE_DET_CACHE=/cache/vmae_det \
    TORCH_HOME=/cache/torch \
    TORCHINDUCTOR_CACHE_DIR=/cache/inductor \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib \
    USER=vmae \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
RUN useradd --create-home --uid 1000 vmae && mkdir /cache /work && chmod 1777 /cache /work
USER vmae
WORKDIR /work

ENTRYPOINT ["vmae-det"]
CMD ["--help"]
