# Builds the RocksDB static library that every cargo profile links, once per machine.
#
# `librocksdb-sys` would compile its 343 C++ files again for each profile and target folder, at about 45 minutes each on
# two slow cores. This file compiles the same pinned sources into a cache folder outside the tree, one object at a
# time, so that an interrupted build goes on where it stopped. The root Makefile passes SRC (the crate's folder in the
# cargo registry), LZ4 (the liblz4 headers of `lz4-sys`) and OUT (a folder named after version, compiler and flags).
#
# Defines and warnings follow `build_rocksdb` in the crate's build.rs, feature `lz4` only.

CXX ?= g++
ARCH := $(shell uname -m)
CPU_FLAGS_x86_64 := -msse4.2 -mpclmul
CPU_FLAGS_aarch64 := -march=armv8-a+crc+crypto
CXXFLAGS_ROCKSDB := -O2 -std=c++20 -fPIC -w -include cstdint $(CPU_FLAGS_$(ARCH)) \
  -DNDEBUG -DLZ4=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION \
  -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX \
  -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT \
  -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT

ifeq ($(MAKECMDGOALS),print-flags)
print-flags:
	@echo '$(CXX) $(CXXFLAGS_ROCKSDB)'; $(CXX) --version | head -n 1
else

SOURCES := $(addprefix rocksdb/,$(filter-out util/build_version.cc,$(file < $(SRC)/rocksdb_lib_sources.txt))) build_version.cc
OBJECTS := $(SOURCES:%.cc=$(OUT)/obj/%.o)
INCLUDES := -I$(SRC)/rocksdb/include -I$(SRC)/rocksdb -I$(SRC) -I$(LZ4)

$(OUT)/librocksdb.a: $(OBJECTS)
	@rm -f $@.part
	@ar crs $@.part $(OBJECTS)
	@rm -rf $(OUT)/include && cp -r $(SRC)/rocksdb/include $(OUT)/include
	@mv $@.part $@
	@rm -rf $(OUT)/obj
	@echo "rocksdb: ready in $(OUT)"

$(OUT)/obj/%.o: $(SRC)/%.cc
	@mkdir -p $(@D)
	@$(CXX) $(CXXFLAGS_ROCKSDB) $(INCLUDES) -c $< -o $@.part && mv $@.part $@
	@echo "rocksdb: $$(find $(OUT)/obj -name '*.o' | wc -l)/$(words $(SOURCES)) $(notdir $<)"
endif
