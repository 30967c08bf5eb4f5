# The gateway: docker build -t hocket . && docker run -v ./hocket.yaml:/etc/hocket/hocket.yaml:ro hocket serve --config /etc/hocket/hocket.yaml
FROM python:3.11-slim
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir /src && useradd --create-home hocket
USER hocket
WORKDIR /home/hocket
ENTRYPOINT ["hocket"]
