# Builds the RocksDB static library that every cargo profile links, once per machine.
#
# `librocksdb-sys` would compile its 343 C++ files one by one, and again for each profile and target folder, at about
# 45 minutes each on two cores: nearly all of that is reading the same headers. This file compiles the same pinned
# sources in batches (unity units of 25 `#include`s, which RocksDB's own Makefile supports for all files at once) into
# a cache folder outside the tree: two to four minutes on two cores. An interrupted build goes on with the next unit.
# The root Makefile passes SRC (the crate's folder in the cargo registry), LZ4 (the liblz4 headers of `lz4-sys`) and
# OUT (a folder named after version, compiler and flags).
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
UNIT_FILES := 25

ifeq ($(MAKECMDGOALS),print-flags)
print-flags:
	@echo 'units of $(UNIT_FILES): $(CXX) $(CXXFLAGS_ROCKSDB)'; $(CXX) --version | head -n 1
else

SOURCES := $(addprefix rocksdb/,$(filter-out util/build_version.cc,$(file < $(SRC)/rocksdb_lib_sources.txt))) build_version.cc
UNITS := $(shell seq -f %02g 1 $$((($(words $(SOURCES)) + $(UNIT_FILES) - 1) / $(UNIT_FILES))))
OBJECTS := $(UNITS:%=$(OUT)/obj/unit%.o)
INCLUDES := -I$(SRC)/rocksdb/include -I$(SRC)/rocksdb -I$(SRC) -I$(LZ4)

$(OUT)/librocksdb.a: $(OBJECTS)
	@rm -f $@.part
	@ar crs $@.part $(OBJECTS)
	@rm -rf $(OUT)/include && cp -r $(SRC)/rocksdb/include $(OUT)/include
	@mv $@.part $@
	@rm -rf $(OUT)/obj
	@echo "rocksdb: ready in $(OUT)"

# Unit N holds the Nth UNIT_FILES sources, in the order of the crate's list.
$(OUT)/obj/unit%.o:
	@mkdir -p $(@D)
	@printf '#include "%s"\n' $(SOURCES) | awk -v unit=$* -v size=$(UNIT_FILES) \
	    'NR > (unit - 1) * size && NR <= unit * size' > $(@:.o=.cc)
	@$(CXX) $(CXXFLAGS_ROCKSDB) $(INCLUDES) -c $(@:.o=.cc) -o $@.part && mv $@.part $@
	@echo "rocksdb: $$(find $(OUT)/obj -name '*.o' | wc -l)/$(words $(UNITS)) units"
endif
