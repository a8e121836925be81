# Serves a student over HTTP, as a user without rights and on a read-only file system (docs/serve.md):
#   docker build -t segdistill .
#   docker run --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/runs/mine:/model:ro" -e SEGDISTILL_TOKEN=secret segdistill
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv==0.13.9
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
# PyTorch without CUDA: a tenth of the size
ENV UV_TORCH_BACKEND=cpu UV_LINK_MODE=copy
RUN uv venv /opt/segdistill && uv pip install --python /opt/segdistill/bin/python ".[serve,onnx,openvino]"

FROM python:3.12-slim
RUN useradd --system --no-create-home --uid 10001 segdistill
COPY --from=build /opt/segdistill /opt/segdistill
ENV PATH=/opt/segdistill/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
ENTRYPOINT ["segdistill", "serve", "/model", "--host", "0.0.0.0"]
