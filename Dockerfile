# The lab in a container, for machines without Linux:
#   docker build -t simple-vpn .
#   docker run --rm -it --privileged simple-vpn            # make demo
#   docker run --rm -it --privileged simple-vpn bash       # a shell, for all the rest
# --privileged: the lab makes network namespaces and TUNs. They stay in the container.
FROM node:22-bookworm-slim
RUN apt-get update && \
    apt-get install -y --no-install-recommends make git tmux procps iproute2 iptables iputils-ping curl ca-certificates && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /simple-vpn
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund
COPY . .
CMD ["make", "demo"]
