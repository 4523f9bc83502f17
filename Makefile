# Berth's development commands. `make` alone lists them.

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X github.com/berth-storage/berth/internal/app.Version=$(VERSION)
FUZZTIME ?= 30s


# Of make image.
IMAGE   ?= berth
TARGET  ?= berth
BASE    ?= debian:bookworm-slim
ARCH    ?= $(shell go env GOARCH)
BUILDER ?= podman

.DEFAULT_GOAL := help
.PHONY: help build image check lint test quickstart bench cluster-up cluster-down setup fuzz clean need-root
.NOTPARALLEL: # the targets below rely on the order of their prerequisites

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

build: ## build bin/berth
	@echo "building bin/berth $(VERSION)"
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/berth ./cmd/berth

image: ## build the container image IMAGE (berth) of TARGET (berth; nfs-subdir, zfs) for ARCH (this machine's) with BUILDER (podman; docker, buildah)
	@echo "building the image $(IMAGE) $(VERSION) for $(ARCH)"
	@CGO_ENABLED=0 GOOS=linux GOARCH=$(ARCH) go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o out/image/linux-$(ARCH)/berth ./cmd/berth
	@$(BUILDER) build $(BUILDFLAGS) --platform linux/$(ARCH) --build-arg BASE=$(BASE) --build-arg TARGETARCH=$(ARCH) \
		--build-arg VERSION=$(VERSION) --target $(TARGET) -t $(IMAGE) -f Containerfile out/image

check: lint ## format, vet, lint and unit tests with the race detector; needs no root
	@echo "unit tests with the race detector"
	@go run ./scripts/gotest -race -vet=off ./...

lint:
	@echo "checking the source files"
	@scripts/check-source.sh
	@echo "go vet"
	@go vet ./...
	@echo "go vet -tags system"
	@go vet -tags system ./...
	@echo "golangci-lint"
	@scripts/golangci-lint.sh run ./...

# Unit tests run with the race detector. Then packages that have tests with the build tag system run with these, two
# in virtual machines beside one on the host; scripts/gotest knows which are which.
test: need-root setup lint build ## everything: setup, check, then the tests against real servers; needs root
	@go run ./test/prepare
	@echo "unit tests with the race detector, then those against real servers"
	@go run ./scripts/gotest -system -race -vet=off ./...

quickstart: need-root setup build ## try Berth on this machine: a cluster, a claim, real NFS; needs root
	@go run ./test/quickstart

bench: need-root setup build ## measure Berth; writes out/bench.json; needs root
	@mkdir -p out
	@go run ./test/bench -out out/bench.json

cluster-up: need-root setup build ## start a cluster to develop against in out/cluster; needs root
	@go run ./test/cluster/devcluster up -dir out/cluster

cluster-down: ## stop that cluster
	@go run ./test/cluster/devcluster down -dir out/cluster

setup: ## install the Debian packages that the tests need, if any is missing
	@scripts/setup.sh

fuzz: ## run every fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh $(FUZZTIME)

clean: ## remove bin and out; stops the cluster first, if there is one
	@[ ! -d out/cluster ] || $(MAKE) cluster-down
	rm -rf bin out

need-root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root: it mounts file systems and runs an NFS server (make check does not)" >&2; exit 1; }
