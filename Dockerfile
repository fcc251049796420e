# Leukoscope's service: base installation, no torch. A model comes in as a volume:
#   docker build -t leukoscope .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -p 127.0.0.1:8000:8000 \
#     -v "$PWD/run/bundle:/bundle:ro" -v "$PWD/key:/run/secrets/leukoscope-key:ro" leukoscope
# To the byte: --build-arg PYTHON=python@sha256:… with the digest that your registry shows.
ARG PYTHON=python:3.11.13-slim-bookworm
FROM ${PYTHON} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN python -m venv /opt/leukoscope \
    && /opt/leukoscope/bin/pip install --no-cache-dir --constraint constraints.txt '.[app,openvino]'

FROM ${PYTHON}
LABEL org.opencontainers.image.title="leukoscope" \
      org.opencontainers.image.description="Research software, not a medical device." \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin leukoscope
COPY --from=build /opt/leukoscope /opt/leukoscope
ENV PATH=/opt/leukoscope/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["leukoscope", "serve", "--host", "0.0.0.0", "--bundle", "/bundle"]
CMD ["--api-key-file", "/run/secrets/leukoscope-key"]
