# `make setup` in a container, and nothing else: docker build -t rankadaptor . && docker run -it rankadaptor make test
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /rankadaptor
COPY . .
RUN make setup
CMD ["make", "help"]
