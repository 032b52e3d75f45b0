SHELL := /bin/bash
ROCKSDB_MK := deploy/deps/rocksdb.mk
CACHE := $(HOME)/.cache/mira
