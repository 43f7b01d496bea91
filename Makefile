# make demo and make test do everything. The other targets are the same things one by one, in the order you
# need them. TRANSPORT=udp is for demo, walk, the five terminals, test and soak: make hands it on.
.PHONY: help demo walk slides test unit experiments experiment lessons lesson exercises exercise bench soak fuzz secret
.PHONY: server configure-server client configure-client ping manager class join terminals doctor check on down
.PHONY: ready node
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export PATH := $(or $(PATH),/usr/bin):/usr/local/bin:/usr/bin:/bin
# tsx fails where it cannot write its cache.
export TMPDIR := $(or $(shell test -d "$$TMPDIR" -a -w "$$TMPDIR" && echo "$$TMPDIR"),/tmp)
TSX := node --import tsx
TERMINAL := $(TSX) src/lab/terminals/terminal.ts
# A program that fails has said why, and Ctrl-C is how most end. On a terminal make adds no line to that.
TOLD := || test -t 1
ENDED := trap : INT;

help: ## these lines
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

demo: ready ## one ping through the tunnel, every step shown: about 10 seconds (TRANSPORT=udp)
	@$(TSX) src/lab/walk/demo.ts

walk: ready ## one ping, all 19 steps: walk.html, .svg, .pcapng (OUT=FOLDER FOLLOW="curl -s URL")
	@$(TSX) src/lab/walk/walk.ts $(if $(OUT),--out "$(OUT)") $(if $(FOLLOW),--follow $(FOLLOW))

slides: walk ## slides.html for a class: the same run, with its bytes (OUT=FOLDER)
	@$(TSX) src/lab/walk/slides.ts $(OUT)

NODE := # of the command line only: npm sets one in the environment
# The npm package `node` fetches the binary in its install script, which .npmrc forbids for all others.
ON_NODE = $(if $(NODE),npm_config_ignore_scripts=false npx -y -p node@$(NODE) --)
RUN_TESTS = $(ON_NODE) node --enable-source-maps build/lab/tests/run.js
PRETTIER = npx -y prettier@3.10.1 # --write . mends the layout
COMPILE = node_modules/.bin/tsc --noEmit false --outDir build --inlineSourceMap --rewriteRelativeImportExtensions

# Compiled once for `make test` and `make unit`. "* (udp).test.js" and the like are made by run.ts.
build/.compiled: $(shell find src -name '*.ts') tsconfig.json | ready
	@rm -rf build && $(COMPILE) && touch $@
TESTS = find build -name '*.test.js' -not -name '* (*'

test: build/.compiled ## type check, unit tests, lab tests with real TUNs (NODE=26; TRANSPORT=udp)
	@node_modules/.bin/tsc -p src/lessons/starters # with gaps: unused names
	@if $(PRETTIER) --version > /dev/null 2>&1; then $(PRETTIER) --check --log-level warn .; \
	  else echo "The layout is not checked: prettier cannot be fetched" && test -z "$$CI"; fi
	@$(RUN_TESTS) $$($(TESTS))

unit: build/.compiled ## the unit tests alone (NODE=26: on that version, with two of the lab: bulk, quic)
	@$(if $(NODE),MEGABYTES=128) $(RUN_TESTS) \
	  $(if $(NODE),build/lab/tests/bulk.test.js build/lab/tests/quic.test.js) \
	  $$($(TESTS) -not -path 'build/lab/*')

exercises: ready ## the lab sheet: its exercises, and which of them you have done
	@$(TSX) src/lessons/exercises/exercise.ts

exercise: ready ## one of them: it asks, does it in a lab of its own, and judges: N=4, or NAME=replay
	@$(TSX) src/lessons/exercises/exercise.ts $(or $(N),$(NAME)) $(ARGS) || test $$? = 3 $(TOLD) # 3: not right yet

experiments: ready ## what to try next: nine experiments, a line each
	@$(TSX) src/lab/experiments/run.ts

experiment: ready ## one of them, in a lab of its own: make experiment NAME=break-xor
	@$(TSX) src/lab/experiments/run.ts $(NAME) $(TOLD)

lessons: ready ## build it yourself: seven lessons, and how far you are (ARGS="--report URL")
	@$(TSX) src/lessons/lesson.ts $(ARGS)

lesson: ready ## one of them: make lesson N=1 (ARGS="--report URL" tells the manager of the class)
	@$(TSX) src/lessons/lesson.ts $(N) $(ARGS) || test $$? = 3 $(TOLD) # 3: a check has failed, and has said so

bench: ready ## this VPN, others, and none: over an hour (ARGS="--only ours,raw"; NODE=24: and QUIC)
	@$(ON_NODE) $(TSX) src/lab/bench/bench.ts $(ARGS)

fuzz: ready ## a million hostile inputs for every parser: two minutes (ARGS="--seed N --cases N")
	@$(TSX) src/lab/fuzz/fuzz.ts $(ARGS)

soak: ready ## 64 clients, one fault after another (ARGS="--seconds 240 --seed 7"; TRANSPORT=udp)
	@$(TSX) src/lab/soak/soak.ts $(ARGS)

check: ready ## what the documents say, against the source and a fresh run
	@$(TSX) src/lab/docs/check.ts

secret: secret.key ## the shared secret, 32 random bytes in hex, for both ends
	@echo "secret.key: the secret. Copy it to the other end"
secret.key: | node
	@umask 077 && set -C && node -p "crypto.randomBytes(32).toString('hex')" > $@ && echo "wrote $@"

server: ## terminal 1: the lab and the server (TRANSPORT=udp; ARGS="--cipher xor"; IPV6=1)
configure-server: ## terminal 2: addresses, forwarding, NAT on the server
client: ## terminal 3: the client (TRANSPORT=udp; ARGS="--cipher xor"; N=2 to 30: one more)
configure-client: ## terminal 4: address and route on the client
ping: ## terminal 5: ping 8.8.8.8 on the client (ARGS="-c 3 8.8.8.8")
manager: ## the page of the class: a lab, its packets in a browser, who is there, and how far
doctor: ## no answer? goes along the walk, names the broken hop and the command that mends it
down: ## ends the lab of the five terminals
server client manager: $(if $(shell test -w . && echo yes),secret.key)
server configure-server client configure-client ping doctor down: ready
	@$(ENDED) $(TERMINAL) $@ $(ARGS) $(TOLD)

manager: ready
	@$(ENDED) $(TSX) src/lab/terminals/manager.ts $(TOLD)

class: ready ## a class on this machine, as root (NAT=eth0 HOURS=2): prints what students type
	@$(ENDED) $(TSX) src/class/class.ts $(TOLD)

join: ready ## a student in a class, as root: SERVER=203.0.113.1 CODE=K7QF-MAXW-PD34 NAME=Ana
	@$(ENDED) $(TSX) src/class/join.ts $(TOLD)

terminals: node node_modules/.package-lock.json ## the five of them as tmux panes, commands typed and waiting for Enter
	@$(TSX) src/lab/terminals/terminals.ts

on: ## any command on a host of the lab: make on HOST=client CMD="ip route"
	@$(ENDED) sh src/lab/terminals/on.sh "$(HOST)" $(CMD) $(TOLD)

# What every target needs: the npm packages of the lock file, and the system tools.
ready: node node_modules/.package-lock.json
	@$(TSX) src/lab/tools.ts
node:
	@have=$$(node -v 2> /dev/null); need=$$(sed -n 's/.*"node": ">=\(.*\)".*/\1/p' package.json); \
	  [ "$$(printf '%s\n' $$need "$${have#v}" | sort -V | head -n 1)" = $$need ] || \
	  { echo "error Cannot start: Node.js $$need or later is needed, this is $${have:-none}. Try: nodejs.org"; \
	    exit 1; } >&2
node_modules/.package-lock.json: package-lock.json | node
	@if test -w .; then npm ci --no-audit --no-fund && touch $@; elif ! test -e $@; then \
	  echo "error Cannot install the packages: this folder cannot be written. Try: npm ci, as its owner" >&2; \
	  exit 1; fi
