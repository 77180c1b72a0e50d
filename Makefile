# Thin targets over the program; `make help` lists them with their variables.
SHELL := /bin/bash

# What the targets pass on; empty means the program's own default.
PLATFORM ?=
DEVELOPER ?=
CONFIG ?=
PROVIDER ?=
ENVS ?=
TENANTS ?=
CHECKS ?=
FAULTS ?=
REPORTS ?=
EXPLAINED ?=
KEEP ?=
ARTIFACTS ?=
POLICIES ?=
POLICY ?=
STRICT ?=
ATTACK ?=
DEPTH ?=

GO ?= go
PROGRAM := bin/flux-platform-conformance
LINT := bin/golangci-lint

flag = $(if $($(1)),--$(2) '$($(1))')
inputs = $(call flag,PLATFORM,platform) $(call flag,DEVELOPER,developer) $(call flag,CONFIG,config) $(call flag,PROVIDER,provider) \
	$(call flag,ENVS,environments) $(call flag,TENANTS,tenants) $(call flag,ARTIFACTS,artifacts)

.PHONY: help e2e files attacks compare policies watch test lint unit prove live up down clean bench program fuzz

help: ## This list
	@scripts/help.sh $(MAKEFILE_LIST)

e2e: program ## The main job: PLATFORM= DEVELOPER= CONFIG= PROVIDER= ENVS= TENANTS= CHECKS= KEEP=1 ARTIFACTS=
	@$(PROGRAM) e2e $(inputs) $(call flag,CHECKS,checks) $(if $(KEEP),--keep)

files: program ## What the files alone show, in a second and without a cluster: PLATFORM= DEVELOPER= CONFIG= ENVS= TENANTS= CHECKS= ARTIFACTS=
	@$(PROGRAM) files $(inputs) $(call flag,CHECKS,checks)

attacks: program ## Every attack against the layer that must stop it: ATTACK=ATK-F01,policy DEPTH=false PLATFORM= PROVIDER= ENVS= ARTIFACTS=
	@$(PROGRAM) attacks $(inputs) $(call flag,ATTACK,attack) $(if $(DEPTH),--depth=$(DEPTH))

compare: program ## The checks on embedded and on kind, outcome beside outcome: as e2e, and EXPLAINED= REPORTS=A/report.json,B/report.json
	@$(PROGRAM) compare $(inputs) $(call flag,CHECKS,checks) $(call flag,EXPLAINED,explained) $(call flag,REPORTS,reports)

judged = $(if $(POLICIES),'$(POLICIES)') $(call flag,POLICY,policy) $(call flag,EXPLAINED,explained) $(call flag,PROVIDER,provider) \
	$(if $(STRICT),--strict) $(call flag,ARTIFACTS,artifacts)

policies: program ## Kyverno policies by their tests, live and offline: POLICIES=DIR POLICY= STRICT=1 EXPLAINED= ARTIFACTS=
	@$(PROGRAM) policies $(judged)

watch: program ## The same after each save, on a warm session: POLICIES=DIR POLICY=
	@$(PROGRAM) watch $(if $(POLICIES),'$(POLICIES)',policies) $(call flag,POLICY,policy) $(call flag,PROVIDER,provider) $(call flag,ARTIFACTS,artifacts)

test: lint unit prove ## The project's own tests: lint, unit tests, and the suite proved on its own fixtures

lint: $(LINT) ## golangci-lint, pinned, with the direction of dependencies
	@echo "lint: golangci-lint run"
	@$(LINT) run ./...

unit: program ## Unit tests, with the real components where a test needs them
	@scripts/unit.sh

prove: program ## Every fault against the checks that must catch it: FAULTS=FLT-001,…
	@$(PROGRAM) prove $(inputs) $(call flag,FAULTS,faults)

live: program ## The program as users run it: killed, interrupted, twice at once, without a network, from a registry; PROVIDER=kind: on Docker
	@GO=$(GO) PROVIDER='$(PROVIDER)' scripts/live.sh

up: program ## A kept session: PLATFORM= DEVELOPER= CONFIG= ENVS=
	@$(PROGRAM) up $(inputs)

down: program ## The end of a kept session
	@$(PROGRAM) down

clean: program ## The end of everything of ours on this machine
	@$(PROGRAM) clean

bench: program ## Times, idle time and memory of a warm run, and the benchmarks of the packages
	@scripts/bench.sh

fuzz: ## Each fuzz test for a few seconds: FUZZTIME=10s
	@scripts/fuzz.sh

program: ## Build the program into bin/
	@mkdir -p bin
	@echo "building the program (a first build takes some minutes, later ones seconds)"
	@CGO_ENABLED=0 $(GO) build -trimpath -o $(PROGRAM) .

$(LINT): scripts/pins/lint.mod scripts/pins/lint.sum
	@scripts/lint.sh $(LINT)
