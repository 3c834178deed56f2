# Two images: docker build --target read . reads images; docker build --target serve . also serves a run.
FROM python:3.11-slim-bookworm AS installed
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN python -m venv /opt/simgan-captcha \
    && /opt/simgan-captcha/bin/pip install --no-cache-dir --constraint constraints.txt .

FROM installed AS installed-serve
# The build of torch for CPUs, which is much smaller than the one for GPUs.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/simgan-captcha/bin/pip install --no-cache-dir --constraint constraints.txt \
    --extra-index-url "$TORCH_INDEX" '.[serve]'

FROM python:3.11-slim-bookworm AS base
RUN useradd --create-home --uid 1000 reader
# A user without a home folder, as docker run --user gives one, keeps its caches here.
ENV PATH=/opt/simgan-captcha/bin:$PATH XDG_CACHE_HOME=/tmp MPLCONFIGDIR=/tmp NUMBA_CACHE_DIR=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["simgan-captcha"]

FROM base AS serve
COPY --from=installed-serve /opt/simgan-captcha /opt/simgan-captcha
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/api/run', timeout=4)"]
# The container listens on all its addresses, but answers only requests for this machine.
CMD ["serve", "/work", "--host", "0.0.0.0", "--allow-host", "localhost"]

FROM base AS read
COPY --from=installed /opt/simgan-captcha /opt/simgan-captcha
CMD ["--help"]
