# SPDX-License-Identifier: BSD-3-Clause OR GPL-2.0-only
#
# The one Makefile. Everything is built below $(BUILD), so that several flavours (gcc, clang,
# sanitizers) live side by side:
#
#	make				build/sluice, build/libsluice.a, build/libsluice.so
#	make static			build/static/sluice, for an initramfs
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
UNITDIR ?= $(PREFIX)/lib/systemd/system
SAN     ?=
comma   := ,
VERSION  = 0.1.0
SOVERSION = 0

flavour  := $(if $(filter-out gcc cc,$(notdir $(CC))),-$(notdir $(CC)))$(if $(SAN),-$(subst $(comma),-,$(SAN)))
BUILD   ?= build$(flavour)

WARN     = -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	   -Wundef -Wvla -Wpointer-arith -Werror
# With AddressSanitizer there is so much code that -O2 costs the compiler more than it saves the tests. A sanitizer's
# report needs functions and lines, which is -g1: variables are a tenth (thread) to a third of what its builds cost.
CFLAGS  ?= $(if $(findstring address,$(SAN)),-O1,-O2) $(if $(SAN),-g1,-g)
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE $(WARN) -fPIC -fvisibility=hidden -fno-strict-aliasing -MMD -MP \
	     -Iinclude -Ilib/port $(CFLAGS) $(LTO) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer \
	     -fno-sanitize-recover=all $(if $(findstring thread,$(SAN)),-Wno-tsan))
# (tsan: ThreadSanitizer does not know fences. Those are towards another process, which it does not see.)
# The hot calls are a few dozen instructions each: what the compiler may move between files counts.
# Only gcc's own linker plug-in is sure to be there. The archive keeps ordinary code beside it.
LTO      ?= $(if $(SAN)$(filter-out gcc,$(notdir $(CC))),,-flto=auto -ffat-lto-objects)
ALL_LDFLAGS = $(LDFLAGS) $(LTO) $(if $(SAN),-fsanitize=$(SAN)) -pthread

CORE_SRC  := $(wildcard core/*.c)
LIB_SRC   := $(wildcard lib/*.c)
RELAY_SRC := $(wildcard relay/*.c)
TOOL_SRC  := $(filter-out tools/sluice.c,$(wildcard tools/*.c))
# The relay's first: they take longest, most of it waiting.
UNIT_SRC  := $(wildcard tests/relay/test_*.c tests/model/test_*.c tests/unit/test_*.c)
# A proof of a model is the same in each flavour.
UNIT_SH   := $(filter-out $(if $(SAN),%/proof.sh),$(wildcard tests/unit/*.sh tests/relay/*.sh))
TESTLIB_SRC := $(wildcard tests/lib/*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB_OBJ   := $(call obj,$(CORE_SRC) $(LIB_SRC))
PROG_OBJ  := $(call obj,$(RELAY_SRC) $(TOOL_SRC))
UNIT_BIN  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(UNIT_SRC))
PROG_LIBS  = -lseccomp -lcap-ng -lncursesw -ltinfo -lm


.PHONY: all bench-iommu bench-pool bench-relay bench-share check fuzz man module install clean format format-check bare
.SECONDARY:
all: $(BUILD)/sluice $(BUILD)/libsluice.a $(BUILD)/libsluice.so

# The relay's peers in the tests have a thread each (but for who scribbles in test_hostile_guest.c): ThreadSanitizer could only slow them down.
$(BUILD)/obj/tests/relay/%.o $(patsubst %,$(BUILD)/obj/tests/lib/%.o,device device_ring front pair peer vm): \
	PEER_CFLAGS = $(if $(findstring thread,$(SAN)),-fno-sanitize=thread)
$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(PEER_CFLAGS) $(if $(filter tests/% bench/share/% bench/iommu/%,$<),-I. -Itests/lib) -c -o $@ $<

$(BUILD)/libsluice.a: $(LIB_OBJ)
	@rm -f $@
	$(AR) rcs $@ $^

$(BUILD)/libsluice.so: $(LIB_OBJ)
	$(CC) -shared -Wl,-soname,libsluice.so.$(SOVERSION) -o $@ $^ $(ALL_LDFLAGS)

$(BUILD)/sluice: $(call obj,tools/sluice.c) $(PROG_OBJ) $(BUILD)/libsluice.a
	$(CC) -o $@ $^ $(ALL_LDFLAGS) $(PROG_LIBS)

# For a guest's initramfs, which has no libraries: the same program, linked statically. (The linker would
# warn that the relay cannot look up users then; in a guest it does not run.)
.PHONY: static
static: $(BUILD)/static/sluice
$(BUILD)/static/sluice: $(call obj,tools/sluice.c) $(PROG_OBJ) $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) -static -Wl,--no-warnings -o $@ $^ $(ALL_LDFLAGS) $(PROG_LIBS)

# A test program may call into the library, the relay and the tools alike. Half a hundred times what is
# optimized when it is linked would take longer than the tests: they get the ordinary code.
TEST_LDFLAGS = $(ALL_LDFLAGS) $(if $(LTO),-fno-lto)
$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(call obj,$(TESTLIB_SRC)) $(PROG_OBJ) $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(TEST_LDFLAGS) $(PROG_LIBS) -lcmocka

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
	$(CC) -o $@ $^ $(TEST_LDFLAGS) -lcmocka

# SWIOTLB=DIR, with kernel/dma/swiotlb.c and what it includes below it, adds Linux's own to the peers.
BENCH_POOL_SRC := $(filter-out $(if $(SWIOTLB),,bench/pool/swiotlb.c),$(wildcard bench/pool/*.c))
bench-pool: $(BUILD)/bench/pool
$(BUILD)/obj/bench/pool/swiotlb.o: bench/pool/swiotlb.c bench/pool/linux.h bench/pool/bench.h
	@mkdir -p $(@D)
	$(CC) -std=gnu11 -D_GNU_SOURCE -w $(CFLAGS) -Ilib/port -I$(SWIOTLB) -I$(SWIOTLB)/include -c -o $@ $<

$(BUILD)/bench/pool: $(call obj,$(BENCH_POOL_SRC) tools/survey_stream.c tools/survey_match.c) \
		$(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(ALL_LDFLAGS)

# The relay's benchmark: a load by libblkio, whose folder is BLKIO (suite_get's; empty: the system's).
BLKIO ?=
bench-relay: $(BUILD)/bench/relay-load $(BUILD)/bench/relay-copy $(BUILD)/bench/relay-hops
$(BUILD)/bench/relay-copy: relay/move.c
$(BUILD)/bench/relay-%: bench/relay/%.c Makefile
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE $(WARN) $(CFLAGS) $(if $(BLKIO),-I$(BLKIO)/usr/include) -I. -o $@ $(filter %.c,$^) \
	      $(if $(filter %load,$@),$(if $(BLKIO),$(BLKIO)/usr/lib/x86_64-linux-gnu/libblkio.so \
	      -Wl$(comma)-rpath$(comma)$(BLKIO)/usr/lib/x86_64-linux-gnu,-lblkio))

bench-iommu: $(BUILD)/bench/iommu-disk
$(BUILD)/bench/iommu-disk: $(call obj,bench/iommu/disk.c relay/vu_wire.c relay/log.c)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(ALL_LDFLAGS)

bench-share: $(BUILD)/bench/share
$(BUILD)/bench/share: $(call obj,bench/share/main.c tests/lib/world.c) $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -o $@ $^ $(ALL_LDFLAGS)

check: $(BUILD)/sluice $(UNIT_BIN)
	BUILD=$(BUILD) SLUICE=$(BUILD)/sluice tests/run-programs $(UNIT_SH) $(UNIT_BIN)

# libFuzzer targets (clang). What reads memory that a peer shares is built so that the target decides
# what each load finds: tests/fuzz/racy.c.
FUZZ      := $(BUILD)-fuzz
FUZZ_RACY := device_end driver_end
FUZZ_FLAGS = -std=c11 -D_GNU_SOURCE $(WARN) -O1 -g -fno-omit-frame-pointer -MMD -MP -I. -Iinclude \
	     -Ilib/port -Itests/fuzz
fuzz: $(patsubst tests/fuzz/fuzz_%.c,$(FUZZ)/%,$(wildcard tests/fuzz/fuzz_*.c))
$(FUZZ)/racy/%.o: %.c Makefile
	@mkdir -p $(@D)
	clang $(FUZZ_FLAGS) -fsanitize=thread,fuzzer-no-link -c -o $@ $<
$(FUZZ)/plain/%.o: %.c Makefile
	@mkdir -p $(@D)
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -c -o $@ $<
$(FUZZ)/asan/%.o: %.c Makefile
	@mkdir -p $(@D)
	clang $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -c -o $@ $<
$(FUZZ)/message: $(patsubst %,$(FUZZ)/asan/%.o,tests/fuzz/fuzz_message relay/vu_wire relay/vu_table relay/log)
	clang -fsanitize=fuzzer,address,undefined -o $@ $^
$(FUZZ)/%_ring: $(FUZZ)/plain/tests/fuzz/fuzz_%_ring.o $(FUZZ_RACY:%=$(FUZZ)/racy/relay/%.o) \
		$(patsubst %,$(FUZZ)/plain/%.o,tests/fuzz/racy relay/guest relay/log)
	clang -fsanitize=fuzzer -o $@ $^

# libFuzzer targets over the core: all of it, with a port in which shared memory changes by itself.
FUZZ_CORE = viommu grant iommu
$(FUZZ)/core/%.o: %.c Makefile
	@mkdir -p $(@D)
	clang -std=c11 -D_GNU_SOURCE $(WARN) -O1 -g -fno-omit-frame-pointer -MMD -MP -Iinclude -Itests/fuzz/port -I. \
	      -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -c -o $@ $<
$(FUZZ_CORE:%=$(FUZZ)/%): $(FUZZ)/%: $(FUZZ)/core/tests/fuzz/fuzz_%.o \
		$(patsubst %.c,$(FUZZ)/core/%.o,$(CORE_SRC))
	clang -fsanitize=fuzzer,address,undefined -o $@ $^

# The core alone, freestanding: proves that it needs no libc and no other part of the project.
bare: $(patsubst core/%.c,$(BUILD)/bare/%.o,$(CORE_SRC))
$(BUILD)/bare/%.o: core/%.c $(wildcard core/*.h include/sluice/*.h tests/bare/*.h)
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -ffreestanding -nostdinc -isystem $(shell $(CC) -print-file-name=include) \
	      -O2 -Iinclude -Itests/bare -c -o $@ $<

# The Xen test: its guest, the same freestanding core with nothing else, and its end in domain 0.
.PHONY: xen-test
xen-test: $(BUILD)/tests/xen/domu $(BUILD)/tests/xen/dom0
$(BUILD)/tests/xen/domu: tests/xen/domu.c tests/xen/pvh.c tests/xen/pvh.h tests/xen/control.h \
		$(patsubst core/%.c,$(BUILD)/bare/%.o,$(CORE_SRC))
	@mkdir -p $(@D)
	$(CC) -std=c11 $(WARN) -ffreestanding -fno-pie -fno-stack-protector -O2 -Iinclude -Itests/bare \
	      -no-pie -static -nostdlib -Wl,--build-id=none,-Ttext-segment=0x100000,-e,pvh_start \
	      -Wl,-z,noexecstack,--no-warn-rwx-segments -o $@ $(filter %.c %.o,$^)
$(BUILD)/tests/xen/dom0: $(wildcard tests/xen/dom0*.[ch]) tests/xen/control.h $(BUILD)/libsluice.a
	@mkdir -p $(@D)
	$(CC) -std=c11 -D_GNU_SOURCE $(WARN) -O2 -Iinclude -Ilib/port -static -o $@ $(filter %.c %.a,$^)

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

# The manual page, by scdoc; make install puts it in place if it has been made.
man: $(BUILD)/sluice-relay.1
$(BUILD)/sluice-relay.1: docs/man/sluice-relay.1.scd
	@mkdir -p $(@D)
	scdoc <$< >$@

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
	install -d $(DESTDIR)$(UNITDIR)
	sed -e "s|/usr/local|$(PREFIX)|" dist/sluice-relay@.service >$(DESTDIR)$(UNITDIR)/sluice-relay@.service
	[ ! -e $(BUILD)/sluice-relay.1 ] || install -D -m 644 $(BUILD)/sluice-relay.1 \
		$(DESTDIR)$(PREFIX)/share/man/man1/sluice-relay.1

FORMATTED = $(shell git ls-files --cached --others --exclude-standard '*.c' '*.h' ':!module/trace.h')
format:
	clang-format -i $(FORMATTED)
format-check:
	clang-format --dry-run -Werror $(FORMATTED)

clean:
	rm -rf build build-* module/sluice.ko

-include $(shell find $(BUILD)/obj $(FUZZ) -name '*.d' 2>/dev/null)
