# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# The one Makefile. Everything is built below $(BUILD), so that several flavours (gcc, clang,
# sanitizers) live side by side:
#
#	make				build/sluice, build/libsluice.a, build/libsluice.so
#	make check			build and run the tests that need no guest
#	make SAN=address,undefined check	the same under sanitizers (build-address,undefined/)
#	make CC=clang			the same with clang (build-clang/)
#	make module KDIR=DIR		module/sluice.ko for the kernel whose headers are in DIR
#	make install DESTDIR= PREFIX=
#
# Sources are found by folder: a new file in core/, lib/, relay/, tools/ or tests/unit/ is built
# without a change here.

CC       = gcc
AR       = ar
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
SAN     ?=
comma   := ,
VERSION  = 0.1.0
SOVERSION = 0

flavour  := $(if $(filter-out gcc cc,$(notdir $(CC))),-$(notdir $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
BUILD   ?= build$(flavour)

WARN     = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	   -Wundef -Wvla -Wpointer-arith -Werror
CFLAGS  ?= -O2 -g
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE $(WARN) -fPIC -fvisibility=hidden -fno-strict-aliasing -MMD -MP \
	     -Iinclude -Ilib/port $(CFLAGS) $(LTO) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer \
	     -fno-sanitize-recover=all)
# The hot calls are a few dozen instructions each: what the compiler may move between files counts.
# Only gcc's own linker plug-in is sure to be there. The archive keeps ordinary code beside it.
LTO      ?= $(if $(SAN)$(filter-out gcc,$(notdir $(CC))),,-flto=auto -ffat-lto-objects)
ALL_LDFLAGS = $(LDFLAGS) $(LTO) $(if $(SAN),-fsanitize=$(SAN)) -pthread

CORE_SRC  := $(wildcard core/*.c)
LIB_SRC   := $(wildcard lib/*.c)
RELAY_SRC := $(wildcard relay/*.c)
TOOL_SRC  := $(filter-out tools/sluice.c,$(wildcard tools/*.c))
UNIT_SRC  := $(wildcard tests/unit/test_*.c tests/model/test_*.c tests/relay/test_*.c)
UNIT_SH   := $(wildcard tests/unit/*.sh tests/relay/*.sh)
TESTLIB_SRC := $(wildcard tests/lib/*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB_OBJ   := $(call obj,$(CORE_SRC) $(LIB_SRC))
PROG_OBJ  := $(call obj,$(RELAY_SRC) $(TOOL_SRC))
UNIT_BIN  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(UNIT_SRC))
PROG_LIBS  = -lseccomp -lcap-ng


.PHONY: all bench-pool check module install clean format format-check bare
.SECONDARY:
all: $(BUILD)/sluice $(BUILD)/libsluice.a $(BUILD)/libsluice.so

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(if $(filter tests/%,$<),-I. -Itests/lib) -c -o $@ $<

$(BUILD)/libsluice.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libsluice.so: $(LIB_OBJ)
	$(CC) -shared -Wl,-soname,libsluice.so.$(SOVERSION) -o $@ $^ $(ALL_LDFLAGS)

$(BUILD)/sluice: $(call obj,tools/sluice.c) $(PROG_OBJ) $(BUILD)/libsluice.a
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(PROG_LIBS)

# A test program may call into the library, the relay and the tools alike.
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call obj,$(TESTLIB_SRC)) $(PROG_OBJ) $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(PROG_LIBS) -lcmocka

# Count their steps: the core once more, with a port that counts and a call in every basic block, and
# with little optimization, so that a loop stays a loop.
$(BUILD)/obj/bounds/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -O1 -g -fPIC -fno-builtin -fsanitize-coverage=trace-pc -MMD -MP -Iinclude \
	      -Itests/bounds -c -o $@ $<

BOUNDS_BIN := $(filter $(BUILD)/tests/unit/test_bounds%,$(UNIT_BIN))
$(BOUNDS_BIN): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call obj,tests/lib/rig.c) \
		$(patsubst %.c,$(BUILD)/obj/bounds/%.o,$(CORE_SRC)) $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) -lcmocka

# SWIOTLB=DIR, with kernel/dma/swiotlb.c and what it includes below it, adds Linux's own to the peers.
BENCH_POOL_SRC := $(filter-out $(if $(SWIOTLB),,bench/pool/swiotlb.c),$(wildcard bench/pool/*.c))
bench-pool: $(BUILD)/bench/pool
$(BUILD)/obj/bench/pool/swiotlb.o: bench/pool/swiotlb.c bench/pool/linux.h bench/pool/bench.h
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE -w $(CFLAGS) -Ilib/port -I$(SWIOTLB) -I$(SWIOTLB)/include -c -o $@ $<

$(BUILD)/bench/pool: $(call obj,$(BENCH_POOL_SRC)) $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(ALL_LDFLAGS)

check: $(BUILD)/sluice $(UNIT_BIN)
	BUILD=$(BUILD) SLUICE=$(BUILD)/sluice tests/run-programs $(UNIT_BIN) $(UNIT_SH)

# The core alone, freestanding: proves that it needs no libc and no other part of the project.
bare: $(patsubst core/%.c,$(BUILD)/bare/%.o,$(CORE_SRC))
$(BUILD)/bare/%.o: core/%.c
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -ffreestanding -nostdinc -isystem $(shell $(CC) -print-file-name=include) \
	      -O2 -Iinclude -Itests/bare -c -o $@ $<

# Kbuild writes beside the sources: give it links to them below $(BUILD), one folder a kernel, and
# copy the result out. Links are made afresh, so that a source that is gone is not built.
KDIR ?= /lib/modules/$(shell uname -r)/build
KBUILD_DIR = $(BUILD)/module/$(notdir $(patsubst %/build,%,$(patsubst %/,%,$(KDIR))))
module:
	@mkdir -p $(KBUILD_DIR)
	@rm -f module/sluice.ko
	@find $(KBUILD_DIR) -type l -delete
	@cp -rsf $(CURDIR)/module/. $(CURDIR)/core $(CURDIR)/include $(KBUILD_DIR)
	$(MAKE) -C $(KDIR) M=$(abspath $(KBUILD_DIR)) CONFIG_DEBUG_INFO_BTF_MODULES= modules
	cp $(KBUILD_DIR)/sluice.ko module/sluice.ko

install: all
	install -D -m 755 $(BUILD)/sluice $(DESTDIR)$(PREFIX)/bin/sluice
	install -D -m 644 $(BUILD)/libsluice.a $(DESTDIR)$(LIBDIR)/libsluice.a
	install -D -m 755 $(BUILD)/libsluice.so $(DESTDIR)$(LIBDIR)/libsluice.so.$(VERSION)
	ln -sf libsluice.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libsluice.so.$(SOVERSION)
	ln -sf libsluice.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libsluice.so
	install -d $(DESTDIR)$(PREFIX)/include/sluice $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 644 include/sluice/*.h $(DESTDIR)$(PREFIX)/include/sluice/
	install -m 644 lib/port/sluice_port.h $(DESTDIR)$(PREFIX)/include/sluice_port.h
	sed -e 's|@PREFIX@|$(PREFIX)|;s|@LIBDIR@|$(LIBDIR)|;s|@VERSION@|$(VERSION)|' lib/sluice.pc.in \
	    > $(DESTDIR)$(LIBDIR)/pkgconfig/sluice.pc

FORMATTED = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h' ':!module/trace.h')
format:
	clang-format -i $(FORMATTED)
format-check:
	clang-format --dry-run -Werror $(FORMATTED)

clean:
	rm -rf build build-* module/sluice.ko

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)
